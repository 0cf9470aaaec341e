//! `/portForward`: TCP connections into a pod, over SPDY, SPDY in a WebSocket, or WebSocket channels.

use super::{
    Failure, State,
    query::{self, Pairs},
    upgrade::{self, Agreed, Wanted},
};
use crate::stream::{
    channel::Framing,
    forward::{self, Leg, Target},
    spdy,
    tunnel::Tunnel,
    websocket::Channels,
};
use api::guard::contained;
use axum::{
    extract::{Path, Query, Request, State as Extract},
    response::Response,
};
use bytes::Bytes;
use std::{collections::HashMap, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// How long a client may take to open the second stream of a pair; the real kubelet's default.
const STREAM_CREATION: Duration = Duration::from_secs(30);
/// Channels are numbered by one byte, two a port.
const MAX_PORTS: usize = 127;

/// What a WebSocket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    Spdy,
    Channels(Framing),
}

const SPDY_PROTOCOLS: &[(&str, ())] = &[("portforward.k8s.io", ())];

fn websocket_protocols() -> Vec<(&'static str, Carried)> {
    let channels = Framing::PORT_FORWARD.iter().map(|(name, framing)| (*name, Carried::Channels(*framing)));
    std::iter::once(("SPDY/3.1+portforward.k8s.io", Carried::Spdy)).chain(channels).collect()
}

/// The pod, as every connection of a request dials it.
#[derive(Clone)]
struct Pod {
    state: State,
    sandbox: String,
    name: String,
    uid: String,
}

impl Pod {
    async fn forward(self, leg: Leg, port: u16) {
        let Pod { state, sandbox, name, uid } = self;
        let dial = state.runtime.dial(&sandbox, port);
        forward::run(leg, Target { pod: name, uid, port }, dial, &state.token).await;
    }
}

pub(super) async fn port_forward(
    Extract(state): Extract<State>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    mut request: Request,
) -> Result<Response, Failure> {
    let sandbox = state.lookup.sandbox(&namespace, &name)?;
    let pod = Pod { state: state.clone(), sandbox: sandbox.id, name, uid: sandbox.pod.uid };
    match upgrade::wanted(request.headers()) {
        Some(Wanted::Spdy) => {
            let Agreed { response, upgrade, .. } = upgrade::spdy(&mut request, SPDY_PROTOCOLS)?;
            state.tracker.spawn(contained(async move {
                if let Some(bytes) = upgrade::bytes(upgrade).await {
                    over_spdy(bytes, pod).await;
                }
            }));
            Ok(response)
        }
        Some(Wanted::WebSocket) => {
            let Agreed { response, choice, upgrade } =
                upgrade::websocket(&mut request, &websocket_protocols())?;
            let ports = match choice {
                Carried::Spdy => Vec::new(),
                Carried::Channels(_) => ports(&Pairs(query))?,
            };
            state.tracker.spawn(contained(async move {
                let Some(socket) = upgrade::socket(upgrade).await else { return };
                match choice {
                    Carried::Spdy => over_spdy(Tunnel::new(socket), pod).await,
                    Carried::Channels(framing) => over_channels(socket, framing, ports, pod).await,
                }
            }));
            Ok(response)
        }
        None => Err(upgrade::required()),
    }
}

fn ports(query: &Pairs) -> Result<Vec<u16>, Failure> {
    let ports = query::ports(query)?;
    match ports.len() {
        0 => Err(Failure::bad_request("query parameter \"ports\" is required")),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(Failure::bad_request(format!("at most {MAX_PORTS} ports can be forwarded at once"))),
    }
}

/// Two channels a port: data, and errors. The first message on each is the port, 16 bits, little endian.
async fn over_channels(socket: upgrade::Socket, framing: Framing, ports: Vec<u16>, pod: Pod) {
    let mut channels = Channels::new();
    let gone = CancellationToken::new();
    let mut legs = Vec::new();
    for (number, port) in (0u8..).step_by(2).zip(ports) {
        let incoming = channels.incoming(number);
        let (mut data, mut error) = (channels.outgoing(number), channels.outgoing(number + 1));
        let (pod, gone) = (pod.clone(), gone.clone());
        legs.push(async move {
            let greeting = Bytes::copy_from_slice(&port.to_le_bytes());
            if data.send(greeting.clone()).await.is_ok() && error.send(greeting).await.is_ok() {
                pod.forward(Leg { incoming, data, error, gone }, port).await;
            }
        });
    }
    tokio::join!(channels.drive(socket, framing, gone), futures::future::join_all(legs));
}

/// Each connection is a pair of streams with the same request id: `error` and `data`.
async fn over_spdy(io: impl AsyncRead + AsyncWrite + Send + 'static, pod: Pod) {
    let (connection, driver) = spdy::serve(io);
    tokio::join!(driver, accept(connection, pod));
}

/// A stream that waits for its other half.
struct Half {
    stream: spdy::Stream,
    is_data: bool,
    port: u16,
    deadline: Instant,
}

async fn accept(mut connection: spdy::Connection, pod: Pod) {
    let stop = pod.state.token.clone();
    let mut halves: HashMap<String, Half> = HashMap::new();
    loop {
        let next = halves.values().map(|half| half.deadline).min();
        // Without a half there is nothing to wait for but the client: it may forward nothing for hours.
        let accepted = async {
            match next {
                Some(deadline) => timeout_at(deadline, connection.accept()).await,
                None => Ok(connection.accept().await),
            }
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => match accepted {
                Ok(Some(stream)) => stream,
                Ok(None) => break,
                Err(_) => {
                    expire(&mut halves).await;
                    continue;
                }
            },
        };
        match half(stream) {
            Ok((request, half)) => match halves.remove(&request) {
                Some(other) if other.is_data == half.is_data => {
                    half.stream.writer.reset().await;
                    halves.insert(request, other);
                }
                Some(other) => {
                    let (data, error) = if half.is_data { (half, other) } else { (other, half) };
                    let leg = Leg {
                        incoming: data.stream.reader.into_incoming(),
                        data: crate::stream::Outgoing::Spdy(data.stream.writer),
                        error: error.stream.into_outgoing(),
                        gone: connection.token().clone(),
                    };
                    // Bounded by the connection's streams; ends with the connection.
                    pod.state.tracker.spawn(contained(pod.clone().forward(leg, data.port)));
                }
                None => drop(halves.insert(request, half)),
            },
            Err((stream, why)) => {
                tracing::debug!(why, "a port-forward stream was refused");
                stream.writer.reset().await;
            }
        }
    }
    connection.close().await;
}

async fn expire(halves: &mut HashMap<String, Half>) {
    let now = Instant::now();
    let late: Vec<String> =
        halves.iter().filter(|(_, half)| half.deadline <= now).map(|(request, _)| request.clone()).collect();
    for request in late {
        if let Some(half) = halves.remove(&request) {
            tracing::debug!(request, "the other stream of a pair did not come in time");
            half.stream.writer.reset().await;
        }
    }
}

/// Reads a stream's headers; gives it back with a reason if they are wrong.
fn half(stream: spdy::Stream) -> Result<(String, Half), (spdy::Stream, &'static str)> {
    let is_data = match stream.headers.get("streamtype") {
        Some("data") => true,
        Some("error") => false,
        _ => return Err((stream, "the streamType is neither data nor error")),
    };
    let port = match stream.headers.get("port").and_then(|port| port.parse().ok()) {
        Some(port) if port > 0 => port,
        _ => return Err((stream, "the port is missing or wrong")),
    };
    let request = match stream.headers.get("requestid") {
        Some(id) => id.to_owned(),
        // Clients before Kubernetes 1.3 sent none: the error stream came first, and data two ids later.
        None if is_data => stream.id.saturating_sub(2).to_string(),
        None => stream.id.to_string(),
    };
    let deadline = Instant::now() + STREAM_CREATION;
    Ok((request, Half { stream, is_data, port, deadline }))
}
