//! `/exec`: a command in a running container. Attach shares the way to the client's streams.

use super::{
    Failure, State,
    query::{Pairs, Streams},
    upgrade::{self, Agreed, Wanted},
};
use crate::{
    runtime::{self, ExecSpec, Session},
    stream::{
        channel::{self, Framing},
        remote_command::{self, Client, Kind},
        spdy,
        websocket::Channels,
    },
};
use api::guard::contained;
use axum::{
    extract::{Path, Query, Request, State as Extract},
    response::Response,
};
use bytes::Bytes;
use std::{collections::HashMap, time::Duration};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a SPDY client may take to open its streams; the real kubelet's default.
const STREAM_CREATION: Duration = Duration::from_secs(30);

pub(super) async fn exec(
    Extract(state): Extract<State>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Failure> {
    let query = Pairs(query);
    let streams = Streams::parse(&query)?;
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Failure::bad_request("you must specify a command"));
    }
    let found = state.lookup.running(&namespace, &pod, &container)?;
    let Streams { stdin, stdout, stderr, tty } = streams;
    let spec = ExecSpec { command, tty, stdin, stdout, stderr };
    let runtime = state.runtime.clone();
    let start = async move { runtime.exec(&found.id, spec).await };
    stream(state, request, streams, Kind::Exec, start)
}

/// The stream protocols over SPDY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SpdyProtocol {
    json_status: bool,
    resizes: bool,
}

const SPDY_PROTOCOLS: &[(&str, SpdyProtocol)] = &[
    ("v4.channel.k8s.io", SpdyProtocol { json_status: true, resizes: true }),
    ("v3.channel.k8s.io", SpdyProtocol { json_status: false, resizes: true }),
    ("v2.channel.k8s.io", SpdyProtocol { json_status: false, resizes: false }),
    ("channel.k8s.io", SpdyProtocol { json_status: false, resizes: false }),
];

/// Answers 101 and joins the client's streams to the session that `start` gives, on a task of its own.
pub(super) fn stream(
    state: State,
    mut request: Request,
    streams: Streams,
    kind: Kind,
    start: impl Future<Output = runtime::Result<Session>> + Send + 'static,
) -> Result<Response, Failure> {
    match upgrade::wanted(request.headers()) {
        Some(Wanted::WebSocket) => {
            let Agreed { response, choice, upgrade } =
                upgrade::websocket(&mut request, Framing::REMOTE_COMMAND)?;
            state.tracker.spawn(contained(async move {
                if let Some(socket) = upgrade::socket(upgrade).await {
                    over_websocket(socket, choice, streams, kind, start, &state.token).await;
                }
            }));
            Ok(response)
        }
        Some(Wanted::Spdy) => {
            let Agreed { response, choice, upgrade } = upgrade::spdy(&mut request, SPDY_PROTOCOLS)?;
            state.tracker.spawn(contained(async move {
                if let Some(bytes) = upgrade::bytes(upgrade).await {
                    let (connection, driver) = spdy::serve(bytes);
                    tokio::join!(driver, over_spdy(connection, choice, streams, kind, start, &state.token));
                }
            }));
            Ok(response)
        }
        None => Err(upgrade::required()),
    }
}

async fn over_websocket(
    socket: upgrade::Socket,
    framing: Framing,
    streams: Streams,
    kind: Kind,
    start: impl Future<Output = runtime::Result<Session>>,
    stop: &CancellationToken,
) {
    let mut channels = Channels::new();
    let gone = CancellationToken::new();
    let mut client = Client {
        stdin: streams.stdin.then(|| channels.incoming(channel::STDIN)),
        resize: streams.tty.then(|| channels.incoming(channel::RESIZE)),
        stdout: streams.stdout.then(|| channels.outgoing(channel::STDOUT)),
        stderr: streams.stderr.then(|| channels.outgoing(channel::STDERR)),
        error: channels.outgoing(channel::ERROR),
        json_status: framing.json_status,
        gone: gone.clone(),
    };
    let run = async {
        // An empty message tells clients of the first protocols that the connection stands.
        let first = client.stdout.as_mut().or(client.stderr.as_mut()).unwrap_or(&mut client.error);
        let _ = first.send(Bytes::new()).await;
        remote_command::run(client, kind, start, stop).await;
    };
    tokio::join!(channels.drive(socket, framing, gone), run);
}

async fn over_spdy(
    mut connection: spdy::Connection,
    protocol: SpdyProtocol,
    streams: Streams,
    kind: Kind,
    start: impl Future<Output = runtime::Result<Session>>,
    stop: &CancellationToken,
) {
    match timeout(STREAM_CREATION, collect(&mut connection, protocol, streams)).await {
        Ok(Some(client)) => remote_command::run(client, kind, start, stop).await,
        Ok(None) => {}
        Err(_) => tracing::debug!("a client did not open its streams in time"),
    }
    connection.close().await;
}

/// Waits for the streams that were asked for, and the error stream.
async fn collect(
    connection: &mut spdy::Connection,
    protocol: SpdyProtocol,
    streams: Streams,
) -> Option<Client> {
    let expected = [
        ("error", true),
        ("stdin", streams.stdin),
        ("stdout", streams.stdout),
        ("stderr", streams.stderr),
        ("resize", streams.tty && protocol.resizes),
    ];
    let mut missing: Vec<&str> =
        expected.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect();
    let mut found = HashMap::new();
    while !missing.is_empty() {
        let stream = connection.accept().await?;
        let name = stream.headers.get("streamtype").unwrap_or_default();
        match missing.iter().position(|missing| *missing == name) {
            Some(at) => drop(found.insert(missing.remove(at), stream)),
            None => {
                tracing::debug!(name, "a client opened a stream that was not expected");
                stream.writer.reset().await;
            }
        }
    }
    let mut incoming = |name| found.remove(name).map(|stream: spdy::Stream| stream.reader.into_incoming());
    let (stdin, resize) = (incoming("stdin"), incoming("resize"));
    let mut outgoing = |name| found.remove(name).map(spdy::Stream::into_outgoing);
    Some(Client {
        stdin,
        resize,
        stdout: outgoing("stdout"),
        stderr: outgoing("stderr"),
        error: outgoing("error")?,
        json_status: protocol.json_status,
        gone: connection.token().clone(),
    })
}
