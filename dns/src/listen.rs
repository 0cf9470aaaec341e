//! Sockets: one loop per UDP socket, one task per TCP connection, all bounded.
//!
//! Names, records and messages are hickory's; its server (`hickory-server` 0.26) is not used. It spawns a task for every
//! UDP query (measured: 53,000 queries/s on a core against the budget of 60,000), accepts TCP connections without a
//! bound, so that one pod could take all file descriptors of the process, gives up a UDP socket for good after some
//! errors, and logs two lines a query. What it would take off us is the two loops below.

use crate::handler::{Handler, Reply, Transport};
use socket2::{Domain, Protocol, Socket, Type};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// TCP connections at once; more wait in the kernel's backlog. Clients use TCP only for what UDP could not hold.
const MAX_CONNECTIONS: usize = 256;
const BACKLOG: i32 = 256;
/// Silence between two questions on a connection (RFC 7766: some seconds).
const IDLE: Duration = Duration::from_secs(10);
/// For a question, once begun, to arrive whole, and for an answer to leave.
const TRANSFER: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A query is a header, one name and an OPT; more than this is none.
const MAX_QUERY: usize = 4096;

pub(crate) fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    // Several sockets on one address, one for each core; the TCP socket, taken first, is exclusive and so keeps
    // another server away.
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

pub(crate) fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // The bridge that will have the address may not be there yet.
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
    }
    Ok(socket)
}

/// Never returns; drop it to stop. `token` ends the replies under way.
pub(crate) async fn serve_udp(
    socket: Arc<UdpSocket>,
    handler: Arc<Handler>,
    tracker: TaskTracker,
    token: CancellationToken,
) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An ICMP error of an earlier reply, or a passing shortage.
                tracing::debug!(%error, "receiving");
                continue;
            }
        };
        match handler.reply(&buffer[..length], Transport::Udp) {
            Reply::Silence => {}
            Reply::Now(bytes) => send(&socket, &bytes, client).await,
            Reply::Later(pending) => {
                let (socket, handler, token) = (socket.clone(), handler.clone(), token.clone());
                // Bounded: `Forward` admits so many and answers the others at once.
                tracker.spawn(async move {
                    if let Some(bytes) = token.run_until_cancelled(handler.finish(*pending)).await {
                        send(&socket, &bytes, client).await;
                    }
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%error, %client, "sending");
    }
}

/// Never returns; drop it to stop. `token` ends the connections.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    handler: Arc<Handler>,
    tracker: TaskTracker,
    token: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accepting");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (handler, token) = (handler.clone(), token.clone());
        tracker.spawn(async move {
            if let Some(Err(error)) = token.run_until_cancelled(connection(stream, &handler)).await {
                tracing::debug!(%error, "connection");
            }
            drop(permit);
        });
    }
}

/// Answers one question after the other until the client is silent or done.
async fn connection(mut stream: TcpStream, handler: &Handler) -> io::Result<()> {
    // An answer is one write; waiting for more to send would only delay it.
    stream.set_nodelay(true)?;
    loop {
        let mut length = [0; 2];
        match timeout(IDLE, stream.read_exact(&mut length)).await {
            Ok(Ok(_)) => {}
            // Silent, or gone: both are how a connection ends.
            Ok(Err(_)) | Err(_) => return Ok(()),
        }
        let length = usize::from(u16::from_be_bytes(length));
        if length > MAX_QUERY {
            return Ok(());
        }
        let mut query = vec![0; length];
        timeout(TRANSFER, stream.read_exact(&mut query)).await??;
        let bytes = match handler.reply(&query, Transport::Tcp) {
            Reply::Silence => return Ok(()),
            Reply::Now(bytes) => bytes,
            Reply::Later(pending) => handler.finish(*pending).await,
        };
        let Ok(length) = u16::try_from(bytes.len()) else { return Ok(()) };
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        timeout(TRANSFER, stream.write_all(&framed)).await??;
    }
}
