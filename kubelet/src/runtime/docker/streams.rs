//! exec, attach, logs and port-forward's connection.

use super::{CHANGE, Error, READ, Result, namespace, within};
use crate::runtime::{AttachSpec, BoxStreamIo, Container, ExecSpec, LogOptions, Output, Session};
use bollard::{
    container::LogOutput,
    exec::{StartExecOptions, StartExecResults},
    models::ExecConfig,
    query_parameters as query,
};
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{io::AsyncWrite, sync::mpsc};

/// Window sizes waiting to be told to the Engine: only the newest matters.
const RESIZE_QUEUE: usize = 4;
/// How long an exec may be reported as running after its output has ended.
const EXIT_CODE: Duration = Duration::from_secs(10);
const EXIT_CODE_POLL: Duration = Duration::from_millis(20);
const CONNECT: Duration = Duration::from_secs(10);

type EngineOutput = std::pin::Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
/// Columns and rows.
type Sizes = mpsc::Sender<(u16, u16)>;
type Resize = Box<dyn Fn(u16, u16) -> BoxFuture<'static, ()> + Send>;

pub(super) async fn exec(docker: &bollard::Docker, container: &str, spec: ExecSpec) -> Result<Session> {
    let config = ExecConfig {
        attach_stdin: Some(spec.stdin),
        attach_stdout: Some(spec.stdout),
        // With a terminal there is one output only.
        attach_stderr: Some(spec.stderr && !spec.tty),
        tty: Some(spec.tty),
        cmd: Some(spec.command),
        ..ExecConfig::default()
    };
    let id = within("create exec", READ, docker.create_exec(container, config)).await?.id;
    let options = StartExecOptions { tty: spec.tty, ..StartExecOptions::default() };
    let started = within("start exec", CHANGE, docker.start_exec(&id, Some(options))).await?;
    let StartExecResults::Attached { output, input } = started else {
        return Err(Error::Other("the Engine started the command without its streams".to_owned()));
    };
    let resize = spec.tty.then(|| resize_exec(docker.clone(), id.clone()));
    let (output, resize) = joined(output, resize);
    let exit = exec_exit(docker.clone(), id).boxed();
    Ok(Session { stdin: spec.stdin.then(|| Box::new(input) as _), output, resize, exit })
}

fn resize_exec(docker: bollard::Docker, id: String) -> Resize {
    Box::new(move |width, height| {
        let (docker, id) = (docker.clone(), id.clone());
        async move {
            let options = query::ResizeExecOptionsBuilder::new().w(width.into()).h(height.into()).build();
            if let Err(error) = within("resize", READ, docker.resize_exec(&id, options)).await {
                tracing::debug!(%error, "resizing a terminal failed");
            }
        }
        .boxed()
    })
}

async fn exec_exit(docker: bollard::Docker, id: String) -> Result<i32> {
    let wait = async {
        loop {
            let state = within("inspect exec", READ, docker.inspect_exec(&id)).await?;
            if let (Some(false), Some(code)) = (state.running, state.exit_code) {
                return Ok(i32::try_from(code).unwrap_or(i32::MAX));
            }
            tokio::time::sleep(EXIT_CODE_POLL).await;
        }
    };
    tokio::time::timeout(EXIT_CODE, wait).await.unwrap_or_else(|_| {
        Err(Error::Timeout { what: "the command's end".to_owned(), seconds: EXIT_CODE.as_secs() })
    })
}

pub(super) async fn attach(
    docker: &bollard::Docker,
    container: &str,
    spec: AttachSpec,
    tty: bool,
) -> Result<Session> {
    let options = query::AttachContainerOptionsBuilder::new()
        .logs(spec.replay)
        .stream(true)
        .stdin(spec.stdin)
        .stdout(spec.stdout)
        .stderr(spec.stderr && !tty)
        .build();
    let attached = within("attach", READ, docker.attach_container(container, Some(options))).await?;
    let resize = tty.then(|| resize_container(docker.clone(), container.to_owned()));
    let (output, resize) = joined(attached.output, resize);
    let exit = container_exit(docker.clone(), container.to_owned()).boxed();
    let input: Box<dyn AsyncWrite + Send + Unpin> =
        if spec.once { Box::new(attached.input) } else { Box::new(KeptOpen(attached.input)) };
    Ok(Session { stdin: spec.stdin.then_some(input), output, resize, exit })
}

/// The input of a container that outlives its client. To the Engine the end of such an input would be the end of the
/// whole session: what the container still writes would be lost.
struct KeptOpen<W>(W);

impl<W: AsyncWrite + Unpin> AsyncWrite for KeptOpen<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

fn resize_container(docker: bollard::Docker, id: String) -> Resize {
    Box::new(move |width, height| {
        let (docker, id) = (docker.clone(), id.clone());
        async move {
            let options =
                query::ResizeContainerTTYOptionsBuilder::new().w(width.into()).h(height.into()).build();
            if let Err(error) = within("resize", READ, docker.resize_container_tty(&id, options)).await {
                tracing::debug!(%error, "resizing a terminal failed");
            }
        }
        .boxed()
    })
}

/// Waits for the container's end. A non-zero code arrives as an error of bollard's.
async fn container_exit(docker: bollard::Docker, id: String) -> Result<i32> {
    let mut wait = docker.wait_container(&id, None::<query::WaitContainerOptions>).boxed();
    let code = match wait.next().await {
        Some(Ok(end)) => end.status_code,
        Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => code,
        Some(Err(error)) => return Err(super::from_bollard(error, "wait for the container", READ)),
        None => return Err(Error::NotFound(id)),
    };
    Ok(i32::try_from(code).unwrap_or(i32::MAX))
}

/// The Engine's output as ours; window sizes are passed on while it is being read, so no task of its own is needed.
fn joined(
    output: EngineOutput,
    resize: Option<Resize>,
) -> (BoxStream<'static, Result<Output>>, Option<Sizes>) {
    let Some(resize) = resize else { return (output.filter_map(translate).boxed(), None) };
    let (sender, sizes) = mpsc::channel(RESIZE_QUEUE);
    let both = stream::unfold((output, resize, sizes), |(mut output, resize, mut sizes)| async move {
        loop {
            tokio::select! {
                Some((width, height)) = sizes.recv() => resize(width, height).await,
                chunk = output.next() => return Some((chunk?, (output, resize, sizes))),
            }
        }
    });
    (both.filter_map(translate).boxed(), Some(sender))
}

async fn translate(chunk: Result<LogOutput, bollard::errors::Error>) -> Option<Result<Output>> {
    match chunk {
        Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
            Some(Ok(Output::Stdout(message)))
        }
        Ok(LogOutput::StdErr { message }) => Some(Ok(Output::Stderr(message))),
        Ok(LogOutput::StdIn { .. }) => None,
        Err(error) => Some(Err(super::from_bollard(error, "read the stream", READ))),
    }
}

pub(super) fn logs(
    docker: &bollard::Docker,
    container: &str,
    options: &LogOptions,
) -> BoxStream<'static, Result<Output>> {
    let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    // The Engine knows whole seconds only: ask for a second more and look at the times ourselves.
    let since = options.since.map(|since| since.checked_sub(SignedDuration::from_secs(1)).unwrap_or(since));
    let seconds = since.and_then(|since| i32::try_from(since.as_second()).ok()).unwrap_or(0).max(0);
    let query = query::LogsOptionsBuilder::new()
        .follow(options.follow)
        .stdout(true)
        .stderr(true)
        .since(seconds)
        .timestamps(true)
        .tail(&tail)
        .build();
    let since = options.since;
    let lines = docker.logs(container, Some(query)).boxed();
    lines.filter_map(translate).filter(move |line| futures::future::ready(is_wanted(line, since))).boxed()
}

fn is_wanted(line: &Result<Output>, since: Option<Timestamp>) -> bool {
    let (Some(since), Ok(line)) = (since, line) else { return true };
    let text = line.bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
    let time = std::str::from_utf8(text).ok().and_then(|text| text.parse::<Timestamp>().ok());
    time.is_none_or(|time| time >= since)
}

/// Connects inside the pod's network namespace, where that is allowed, so that servers on its loopback are reached too;
/// else to its address.
pub(super) async fn dial(sandbox: &Container, port: u16) -> Result<BoxStreamIo> {
    let mut tried = String::new();
    if let Some(pid) = sandbox.pid {
        match tokio::time::timeout(CONNECT, connect_inside(pid, port)).await {
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => tried = error.to_string(),
            Err(_) => tried = "no answer".to_owned(),
        }
    }
    let refused =
        |why: String| Error::Other(format!("failed to connect to localhost:{port} inside the pod: {why}"));
    let Some(ip) = sandbox.ip else { return Err(refused(tried)) };
    let connect = tokio::net::TcpStream::connect((ip, port));
    match tokio::time::timeout(CONNECT, connect).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(refused(if tried.is_empty() { error.to_string() } else { tried })),
        Err(_) => Err(refused("no answer".to_owned())),
    }
}

/// A connection made in the pod's network namespace.
async fn connect_inside(pid: u32, port: u16) -> std::io::Result<tokio::net::TcpStream> {
    let connect = move || {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
        let stream = std::net::TcpStream::connect_timeout(&v4, CONNECT)
            .or_else(|error| std::net::TcpStream::connect_timeout(&v6, CONNECT).map_err(|_| error))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    tokio::net::TcpStream::from_std(namespace::inside(pid, connect).await?)
}
