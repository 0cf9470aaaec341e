//! Exec and attach: joins a client's streams to a session in a container and says how it ended.

use super::{Incoming, Outgoing, resize, status::Ending};
use crate::runtime::{Error, Output, Session};
use bytes::Bytes;
use futures::StreamExt;
use std::time::Duration;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// For output that is still on its way when the container has ended; begins anew with each piece.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The client's end. A stream the client did not ask for is `None`.
pub(crate) struct Client {
    pub(crate) stdin: Option<Incoming>,
    pub(crate) resize: Option<Incoming>,
    pub(crate) stdout: Option<Outgoing>,
    pub(crate) stderr: Option<Outgoing>,
    pub(crate) error: Outgoing,
    /// Whether the error stream takes a `Status` or bare text.
    pub(crate) json_status: bool,
    /// Cancelled when the client is gone.
    pub(crate) gone: CancellationToken,
}

/// What the end of the output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command's exit code is the answer.
    Exec,
    /// Success: whoever wants the container's exit code reads the pod's status.
    Attach,
}

/// Starts the session and runs until the command has ended, the client is gone or `stop` is cancelled.
pub(crate) async fn run(
    mut client: Client,
    kind: Kind,
    start: impl Future<Output = Result<Session, Error>>,
    stop: &CancellationToken,
) {
    let gone = client.gone.clone();
    let ending = tokio::select! {
        // Nobody is left to be told. The command itself runs on, as in Kubernetes.
        () = gone.cancelled() => return,
        () = stop.cancelled() => Ending::Failed("the node is shutting down".into()),
        ending = join(&mut client, kind, start) => ending,
    };
    for stream in [client.stdout.take(), client.stderr.take()].into_iter().flatten() {
        stream.finish().await;
    }
    let status = ending.encode(client.json_status);
    if !status.is_empty() {
        let _ = client.error.send(status).await;
    }
    client.error.finish().await;
}

async fn join(
    client: &mut Client,
    kind: Kind,
    start: impl Future<Output = Result<Session, Error>>,
) -> Ending {
    let session = match start.await {
        Ok(session) => session,
        Err(error) => return failed(kind, &error),
    };
    let Session { stdin, mut output, resize, mut exit } = session;
    let (client_stdin, client_resize) = (client.stdin.take(), client.resize.take());
    let input = async {
        tokio::join!(stdin_loop(client_stdin, stdin), resize_loop(client_resize, resize));
        // The session goes on without them.
        std::future::pending::<()>().await;
    };
    let outcome = async {
        // An engine may attach to a container that has ended meanwhile, and wait there for its next start: so
        // the container's end counts too. An exec's exit code can be asked for only after its output.
        let mut watched = kind == Kind::Attach;
        let mut ended = false;
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = output.next() => chunk,
                code = &mut exit, if watched => {
                    (watched, ended) = (false, code.is_ok());
                    continue;
                }
                () = sleep(LAST_WORDS), if ended => None,
            };
            match chunk {
                Some(Ok(Output::Stdout(bytes))) => give(&mut client.stdout, bytes).await,
                Some(Ok(Output::Stderr(bytes))) => give(&mut client.stderr, bytes).await,
                Some(Err(error)) => return failed(kind, &error),
                None => break,
            }
        }
        match kind {
            Kind::Attach => Ending::Success,
            Kind::Exec => exit.await.map_or_else(|error| failed(kind, &error), Ending::of_exit_code),
        }
    };
    tokio::select! {
        ending = outcome => ending,
        () = input => Ending::Success,
    }
}

fn failed(kind: Kind, error: &Error) -> Ending {
    Ending::Failed(match kind {
        Kind::Exec => format!("error executing command in container: {error}"),
        Kind::Attach => format!("error attaching to container: {error}"),
    })
}

/// Output for a stream that was not asked for, or is closed, is dropped: the command must not block on it.
async fn give(stream: &mut Option<Outgoing>, bytes: Bytes) {
    if let Some(open) = stream
        && open.send(bytes).await.is_err()
    {
        *stream = None;
    }
}

/// Until the client closes its input: then so is the command's. Or until the command takes no more.
async fn stdin_loop(from: Option<Incoming>, to: Option<Box<dyn AsyncWrite + Send + Unpin>>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(bytes) = from.next().await {
        let written = async {
            to.write_all(&bytes).await?;
            to.flush().await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "a command takes no more input");
            return;
        }
    }
    if let Err(error) = to.shutdown().await {
        tracing::debug!(%error, "closing a command's input failed");
    }
}

/// Until the client closes the stream or sends what is no size.
async fn resize_loop(from: Option<Incoming>, to: Option<mpsc::Sender<(u16, u16)>>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    let mut decoder = resize::Decoder::default();
    while let Some(bytes) = from.next().await {
        match decoder.push(&bytes) {
            Ok(sizes) => {
                for size in sizes {
                    if to.send(size).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a client sent a terminal size that is none");
                return;
            }
        }
    }
}
