//! The door itself: TCP, TLS, one task and one span per connection, and a bounded farewell.
//!
//! Plain bytes come in, requests with a [`Peer`] go to the router. Nothing here knows Kubernetes.

mod tls;

pub use tls::{Tls, TlsError};

use crate::auth::Peer;
use api::guard::contained;
use axum::body::Body;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, warn};

/// Connections at once. Each idle one costs some 30 KiB of TLS and HTTP/2 state, so this is about 60 MiB; a thousand
/// fake nodes and their clients share far fewer, as HTTP/2 carries many requests. More wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 2048;
/// What the kernel keeps for us while all connections are taken.
const BACKLOG: i32 = 1024;
/// From accept to the end of the TLS handshake: a client on the other side of the world needs a second.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// For one request's head, and how long an idle HTTP/1.1 connection is kept (Kubernetes closes after 90 s).
const HEADER_DEADLINE: Duration = Duration::from_secs(90);
/// Pings on HTTP/2 connections find clients that vanished without a word, whose watches would stay for ever.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_DEADLINE: Duration = Duration::from_secs(15);
/// Go's server allows 250 as well; an informer-heavy client holds one stream for each watch.
const MAX_STREAMS: u32 = 250;
/// Flow-control window of one uploaded body; larger than most objects, so that uploads take one round trip.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// How long requests in flight may go on after shutdown began; then they are cut. Watches end by themselves.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// The accept loop's pause after an error such as "too many open files", which would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// First byte of a TLS record that starts a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why the server cannot listen. Display is the one sentence a person needs.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("address {address} is already in use: stop what listens there, or choose another --port")]
    InUse { address: SocketAddr },
    #[error("not allowed to listen on {address}: ports below 1024 need privileges, choose a higher --port")]
    Denied { address: SocketAddr },
    #[error("cannot listen on {address}: {source}")]
    Other { address: SocketAddr, source: io::Error },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::PermissionDenied => Self::Denied { address },
            _ => Self::Other { address, source },
        }
    }
}

/// Bound sockets that do not accept yet.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Listener {
    /// Binds every address, or none. An address may be one that the machine does not have yet. Port 0 picks a free
    /// port, and every further address with port 0 gets the same one.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, BindError> {
        let mut sockets = Vec::with_capacity(addresses.len());
        let mut bound: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
        for &address in addresses {
            let mut wanted = address;
            if let (0, Some(first)) = (address.port(), bound.first()) {
                wanted.set_port(first.port());
            }
            let (socket, at) = bind_one(wanted)
                .and_then(|s| s.local_addr().map(|at| (s, at)))
                .map_err(|e| BindError::new(wanted, e))?;
            sockets.push(socket);
            bound.push(at);
        }
        Ok(Self { sockets, addresses: bound })
    }

    /// The real addresses, in the order asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `token` is cancelled, then lets requests in flight finish for at most [`DRAIN_DEADLINE`].
    pub async fn run<S: Service>(self, service: S, tls: Tls, token: CancellationToken) {
        let connections = TaskTracker::new();
        let acceptors = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // Cut at the end of the drain; a child of nothing, so that cancelling `token` alone only starts the drain.
        let cut = CancellationToken::new();
        for socket in self.sockets {
            let connections = connections.clone();
            let door = Door {
                service: service.clone(),
                tls: tls.clone(),
                permits: permits.clone(),
                drain: token.clone(),
                cut: cut.clone(),
            };
            acceptors.spawn(async move { door.accept(socket, &connections).await });
        }
        acceptors.close();
        acceptors.wait().await;
        connections.close();
        if timeout(DRAIN_DEADLINE, connections.wait()).await.is_err() {
            debug!(connections = connections.len(), "cutting connections that did not finish in time");
            cut.cancel();
            connections.wait().await;
        }
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What every connection needs.
struct Door<S> {
    service: S,
    tls: Tls,
    permits: Arc<Semaphore>,
    drain: CancellationToken,
    cut: CancellationToken,
}

impl<S: Service> Door<S> {
    async fn accept(&self, socket: TcpListener, connections: &TaskTracker) {
        loop {
            let next = async {
                // Never closed, so the error cannot happen; treat it as the end.
                let permit = self.permits.clone().acquire_owned().await.ok()?;
                Some((permit, socket.accept().await))
            };
            let (permit, accepted) = tokio::select! {
                biased;
                () = self.drain.cancelled() => return,
                next = next => match next {
                    Some(next) => next,
                    None => return,
                },
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (service, acceptor) = (self.service.clone(), TlsAcceptor::from(self.tls.current()));
            let (drain, cut) = (self.drain.clone(), self.cut.clone());
            let task = async move {
                let _permit = permit;
                tokio::select! {
                    () = cut.cancelled() => {}
                    () = serve(stream, remote, service, acceptor, drain) => {}
                }
            };
            connections.spawn(contained(task).instrument(debug_span!("connection", peer = %remote)));
        }
    }
}

async fn serve<S: Service>(
    stream: TcpStream,
    remote: SocketAddr,
    service: S,
    acceptor: TlsAcceptor,
    drain: CancellationToken,
) {
    if let Err(error) = tune(&stream) {
        debug!(%error, "socket options");
    }
    let tls = match timeout(HANDSHAKE_DEADLINE, handshake(stream, acceptor)).await {
        Ok(Ok(Some(tls))) => tls,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            debug!("TLS handshake took too long");
            return;
        }
    };
    let peer = Peer::tls(tls::subject(tls.get_ref().1), remote);
    serve_stream(tls, WithPeer::new(service, peer), drain).await;
}

/// Runs what hyper makes for each HTTP/2 stream: the body of an answer, a watch's for example, is made there.
#[derive(Clone, Default)]
struct StreamTasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for StreamTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(contained(stream).in_current_span());
    }
}

/// HTTP/1.1 and HTTP/2 on a connection that is set up; also what tests drive over a duplex pipe.
pub(crate) async fn serve_stream<C, S>(stream: C, service: WithPeer<S>, drain: CancellationToken)
where
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    let mut builder = auto::Builder::new(StreamTasks::default());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let service = TowerToHyperService::new(service);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Clients go away in the middle of things all day long.
        debug!(%error, "connection ended");
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // As Go's listener: finds peers that are gone while nothing is being sent on HTTP/1.1.
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(15));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// `None` when the client spoke plain HTTP and has been told so.
async fn handshake(mut stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<Option<TlsStream<TcpStream>>> {
    let mut first = [0_u8; 1];
    let seen = stream.peek(&mut first).await?;
    if seen == 1 && first[0] != TLS_HANDSHAKE && first[0].is_ascii_uppercase() {
        refuse_plain_http(&mut stream).await?;
        return Ok(None);
    }
    acceptor.accept(stream).await.map(Some)
}

/// What Go's TLS server answers; clients show the sentence.
async fn refuse_plain_http(stream: &mut TcpStream) -> io::Result<()> {
    // Read first: closing a socket with unread bytes would reset the connection before the client sees the answer.
    let mut head = [0_u8; 4096];
    let _ = stream.read(&mut head).await?;
    stream
        .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
        .await?;
    stream.shutdown().await
}

/// What answers requests: the router, or what a test puts in its place.
pub trait Service:
    tower::Service<
        http::Request<Body>,
        Response = axum::response::Response,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Service for S where
    S: tower::Service<
            http::Request<Body>,
            Response = axum::response::Response,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// A service, with the connection's peer on every request.
#[derive(Clone)]
pub(crate) struct WithPeer<S> {
    service: S,
    peer: Peer,
}

impl<S> WithPeer<S> {
    pub(crate) fn new(service: S, peer: Peer) -> Self {
        Self { service, peer }
    }
}

impl<S, B> tower::Service<http::Request<B>> for WithPeer<S>
where
    S: Service,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.service.call(request.map(Body::new))
    }
}

#[cfg(test)]
mod tests;
