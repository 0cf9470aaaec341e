//! Sockets. hickory-server (0.26) owns what comes in over UDP: its `Server` reads packets, decodes them, runs a task
//! for each and sends what [`Answers`] replies. A server whose socket it gave up is replaced, on a new socket.
//!
//! Bounds: a task that answers from the index never waits, so the tasks alive are those of one read of the socket and
//! the questions under way upstream, which `forward` bounds. hickory queues 32 replies a socket and refuses more; such
//! a reply waits for its turn here.
//!
//! Connections over TCP it would accept without a bound, and try again at once when none can be had: one pod could
//! take all file descriptors of the process, the API server's too, and a core. Its API has no setting for that. So the
//! connections are accepted here, a fixed number at once, and the rest is hickory's again: framing and time
//! (`TcpStream`, `TimeoutStream`), `Request`, the same [`Answers`], `ResponseHandle`.

use crate::handler::{Handler, Reply, no_question};
use async_trait::async_trait;
use futures::StreamExt;
use hickory_proto::op::{Header, HeaderCounts, SerialMessage};
use hickory_server::{
    net::{
        DnsStreamHandle,
        runtime::{Time, TokioTime, iocompat::AsyncIoTokioAsStd},
        tcp::TcpStream as Framed,
        xfer::Protocol,
    },
    server::{Request, RequestHandler, ResponseHandle, ResponseHandler, ResponseInfo, Server, TimeoutStream},
};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// TCP connections at once; more wait in the kernel's backlog. Clients use TCP only for what UDP could not hold. Each can
/// make hickory set aside the 64 KiB that a question may announce: 16 MiB together.
const MAX_CONNECTIONS: usize = 256;
const BACKLOG: i32 = 256;
/// From one question on a connection to the next whole one, the answer's way included (RFC 7766: some seconds). Longer
/// than `forward` takes at most.
const IDLE: Duration = Duration::from_secs(5);
/// Replies queued on a connection: the next question is read when the last reply has left.
const REPLIES: usize = 1;
/// Pause after an accept that failed for want of file descriptors, and before a socket is opened again.
const PAUSE: Duration = Duration::from_millis(100);
/// Times that a reply lets others go first before it is dropped, and the client asks again. The socket's queue is
/// emptied in each turn of its task, so that some suffice.
const TURNS: usize = 64;
/// For hickory's tasks to see that they are to end.
const STOP: Duration = Duration::from_secs(1);
/// A packet's header; what is shorter gets no reply.
const HEADER: usize = 12;

pub(crate) fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, SocketProtocol::UDP)?;
    // Several sockets on one address, one for each core; the TCP socket, taken first, is exclusive and so keeps
    // another server away.
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

pub(crate) fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, SocketProtocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn socket(address: SocketAddr, kind: Type, protocol: SocketProtocol) -> io::Result<Socket> {
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

/// Our answers as hickory's server asks for them.
#[derive(Clone)]
pub(crate) struct Answers(pub(crate) Arc<Handler>);

#[async_trait]
impl RequestHandler for Answers {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut to: R,
    ) -> ResponseInfo {
        let silence = || Header { metadata: request.metadata, counts: HeaderCounts::default() }.into();
        let response = match self.0.reply(request) {
            Reply::Silence => return silence(),
            Reply::Now(response) => response,
            Reply::Later(pending) => self.0.finish(*pending, &request.queries).await,
        };
        let Some(none) = no_question() else { return silence() };
        for _ in 0..TURNS {
            match to.send_response(response.message(&request.queries, &none)).await {
                Ok(info) => return info,
                Err(error) => tracing::trace!(%error, "the socket's queue is full"),
            }
            tokio::task::yield_now().await;
        }
        tracing::debug!(client = %request.src(), "a reply was dropped: the socket takes no more");
        silence()
    }
}

/// Answers on the socket until the token is cancelled.
pub(crate) async fn serve_udp(
    mut socket: UdpSocket,
    address: SocketAddr,
    answers: Answers,
    token: CancellationToken,
) {
    loop {
        let mut server = Server::new(answers.clone());
        server.register_socket(socket);
        let Some(ended) = token.run_until_cancelled(server.block_until_done()).await else {
            // What does not end in time is dropped with the server.
            if timeout(STOP, server.shutdown_gracefully()).await.is_err() {
                tracing::warn!(%address, "the UDP server did not end in time");
            }
            return;
        };
        if let Err(error) = ended {
            tracing::warn!(%error, %address, "the UDP socket is given up; opening another");
        }
        socket = loop {
            if token.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                return;
            }
            match udp(address) {
                Ok(socket) => break socket,
                Err(error) => tracing::debug!(%error, %address, "opening a UDP socket"),
            }
        };
    }
}

/// Never returns; drop it to stop. `token` ends the connections.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    answers: Answers,
    tracker: TaskTracker,
    token: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (answers, token) = (answers.clone(), token.clone());
        tracker.spawn(async move {
            token.run_until_cancelled(connection(stream, client, &answers)).await;
            drop(permit);
        });
    }
}

/// Answers one question after the other until the client is silent or done.
async fn connection(stream: TcpStream, client: SocketAddr, answers: &Answers) {
    // An answer is one write; waiting for more to send would only delay it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %client, "connection");
    }
    let (stream, mut replies) =
        Framed::from_stream_with_buffer_size(AsyncIoTokioAsStd(stream), client, REPLIES);
    let mut questions = TimeoutStream::new(stream, IDLE);
    while let Some(Ok(packet)) = questions.next().await {
        let (packet, _) = packet.into_parts();
        let malformed = form_error(&packet);
        if let Ok(request) = Request::from_bytes(packet, client, Protocol::Tcp) {
            let to = ResponseHandle::new(client, replies.clone(), Protocol::Tcp);
            answers.handle_request::<_, TokioTime>(&request, to).await;
        } else {
            let Some(reply) = malformed else { return };
            if replies.send(SerialMessage::new(reply, client)).is_err() {
                return;
            }
        }
    }
}

/// The reply to a question that cannot be decoded, as hickory makes it over UDP: response, the opcode and "recursion
/// desired" of the question, FORMERR; all counts are zero. `None` for what is no question at all.
fn form_error(packet: &[u8]) -> Option<Vec<u8>> {
    let [id0, id1, flags, ..] = *packet else { return None };
    let question = packet.len() >= HEADER && flags & 0x80 == 0;
    question.then(|| [&[id0, id1, 0x80 | flags & 0x79, 1][..], &[0; 8]].concat())
}

#[cfg(test)]
mod tests;
