//! `exec`, and the plumbing that `run -i` shares with it: local streams to a container's and back.

use super::{
    session::Session,
    terminal::{self, Raw},
};
use anyhow::{Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{AttachParams, AttachedProcess, TerminalSize},
};
use std::io::{Read, Write};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Bytes read at once, and pieces of standard input that wait for a slow remote side.
const PIECE: usize = 16 << 10;
const QUEUED_PIECES: usize = 8;

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// POD or pod/POD
    pod: String,
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The command, after --
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    pub(super) async fn run(self, session: &Session) -> Result<u8> {
        let pod = self.pod.strip_prefix("pod/").or(self.pod.strip_prefix("pods/")).unwrap_or(&self.pod);
        let pods: Api<Pod> = Api::namespaced(session.client.clone(), &session.namespace);
        let params = params(self.container, self.stdin, self.tty);
        let process = pods.exec(pod, &self.command, &params).await?;
        join(process, self.tty).await
    }
}

pub(super) fn params(container: Option<String>, stdin: bool, tty: bool) -> AttachParams {
    let params = AttachParams::default().stdin(stdin).tty(tty).stdout(true).stderr(!tty);
    match container {
        Some(container) => params.container(container),
        None => params,
    }
}

/// Joins local and remote streams until the remote side ends; returns its exit code.
pub(super) async fn join(mut process: AttachedProcess, tty: bool) -> Result<u8> {
    let status = process.take_status();
    let raw = tty.then(Raw::enter).flatten();
    let resize = process.terminal_size();
    let mut input = process.stdin();
    let (output, errors) = (process.stdout(), process.stderr());

    let sizes = async {
        let Some(mut sizes) = resize else { return std::future::pending().await };
        let mut changed = signal(SignalKind::window_change())?;
        loop {
            if let Some((width, height)) = terminal::size() {
                use futures::SinkExt;
                if sizes.send(TerminalSize { width, height }).await.is_err() {
                    return std::future::pending().await;
                }
            }
            changed.recv().await;
        }
    };
    let feed = async {
        if let Some(input) = &mut input {
            let mut pieces = standard_input();
            while let Some(piece) = pieces.recv().await {
                // Their side may close first; what they printed is what counts then.
                if input.write_all(&piece).await.is_err() {
                    break;
                }
                let _ = input.flush().await;
            }
            let _ = input.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let drain = async { tokio::try_join!(copy(output, std::io::stdout()), copy(errors, std::io::stderr())) };
    let printed = tokio::select! {
        printed = drain => printed.map(|_| ()),
        () = feed => Ok(()),
        failed = sizes => failed,
    };
    drop(raw);
    // A local reader that has gone ends the command like any other.
    printed?;
    let Some(status) = status else { return Ok(0) };
    match status.await {
        Some(status) if status.status.as_deref() == Some("Failure") => {
            let causes = status.details.iter().flat_map(|d| d.causes.iter().flatten());
            let code = causes.into_iter().find(|c| c.reason.as_deref() == Some("ExitCode"));
            match code.and_then(|c| c.message.as_deref()?.parse::<u8>().ok()) {
                Some(code) => {
                    eprintln!("command terminated with exit code {code}");
                    Ok(code)
                }
                None => bail!("{}", status.message.unwrap_or_else(|| "the command failed".to_owned())),
            }
        }
        _ => Ok(0),
    }
}

/// Standard input in pieces. A read of it cannot be cancelled, so a thread of its own does it, and ends with the process.
fn standard_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(QUEUED_PIECES);
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        while let Ok(n @ 1..) = std::io::stdin().read(&mut buffer) {
            if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Writes to the user's terminal or pipe wait there; nothing else needs this thread meanwhile.
async fn copy(from: Option<impl AsyncRead + Unpin>, mut to: impl Write) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; PIECE];
    loop {
        let n = AsyncReadExt::read(&mut from, &mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n])?;
        to.flush()?;
    }
}
