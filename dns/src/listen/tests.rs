//! Through real sockets: what hickory's server makes of packets, and what is around it.

use super::*;
use crate::tests::Bed;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use std::collections::HashSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Running {
    fn start() -> Self {
        let listener = tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (token, tracker) = (CancellationToken::new(), TaskTracker::new());
        let answers = Answers(Arc::new(Bed::usual().handler));
        tracker.spawn(serve_udp(udp(address).unwrap(), address, answers.clone(), token.clone()));
        let (connections, stop) = (tracker.clone(), token.clone());
        tracker.spawn(async move {
            stop.run_until_cancelled(serve_tcp(listener, answers, connections, stop.clone())).await;
        });
        Self { address, token, tracker }
    }

    async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        timeout(DEADLINE, self.tracker.wait()).await.expect("a task is still there");
    }

    async fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }
}

fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = crate::tests::query(&format!("{name}.cluster.local."), kind);
    message.metadata.id = id;
    message.to_vec().unwrap()
}

async fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 2048];
    let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.expect("no reply").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask(stream: &mut TcpStream, packet: &[u8]) -> Option<Message> {
    let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, packet].concat()).await.unwrap();
    let mut length = [0; 2];
    timeout(DEADLINE, stream.read_exact(&mut length)).await.expect("neither reply nor end").ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    timeout(DEADLINE, stream.read_exact(&mut bytes)).await.expect("no whole reply").unwrap();
    Some(Message::from_vec(&bytes).unwrap())
}

/// One label, and then the packet ends.
const CUT: &[u8] = &[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'w', b'e', b'b'];

#[tokio::test]
async fn questions_garbage_and_silence_over_udp() {
    let server = Running::start();
    let client = server.client().await;
    let mut response = question(2, "web.default.svc", RecordType::A);
    response[2] |= 0x80;
    // The first two get nothing: what comes first is the reply to the third.
    for packet in [&CUT[..11], &response, CUT] {
        client.send(packet).await.unwrap();
    }
    let reply = receive(&client).await;
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::FormErr));
    client.send(&question(3, "web.default.svc", RecordType::A)).await.unwrap();
    let reply = receive(&client).await;
    assert_eq!((reply.metadata.id, reply.answers.len(), reply.metadata.authoritative), (3, 1, true));
    server.stop().await;
}

#[tokio::test]
async fn each_question_of_a_burst_is_answered() {
    const BURST: u16 = 150;
    let server = Running::start();
    let client = server.client().await;
    for id in 0..BURST {
        client.send(&question(id, "kubia.default.svc", RecordType::SRV)).await.unwrap();
    }
    let mut answered = HashSet::new();
    while answered.len() < usize::from(BURST) {
        answered.insert(receive(&client).await.metadata.id);
    }
    server.stop().await;
}

#[tokio::test]
async fn questions_and_garbage_over_tcp() {
    let server = Running::start();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for id in 0..3 {
        let reply = ask(&mut stream, &question(id, "kubia.default.svc", RecordType::A)).await.unwrap();
        assert_eq!((reply.metadata.id, reply.answers.len()), (id, 2));
    }
    let reply = ask(&mut stream, CUT).await.unwrap();
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::FormErr));
    assert!(ask(&mut stream, &question(4, "web.default.svc", RecordType::A)).await.is_some());
    assert!(ask(&mut stream, &CUT[..11]).await.is_none(), "what is no question ends the connection");
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait() {
    let server = Running::start();
    let mut held = Vec::new();
    for id in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let packet = question(u16::try_from(id).unwrap(), "web.default.svc", RecordType::A);
        ask(&mut stream, &packet).await.unwrap();
        held.push(stream);
    }
    let mut one_more = TcpStream::connect(server.address).await.unwrap();
    let packet = question(4711, "web.default.svc", RecordType::A);
    let reply = tokio::join!(ask(&mut one_more, &packet), async { drop(held.pop()) }).0.unwrap();
    assert_eq!(reply.metadata.id, 4711, "as soon as another has gone");
    server.stop().await;
}

#[tokio::test]
async fn after_the_end_the_address_is_free() {
    let server = Running::start();
    let (address, client) = (server.address, server.client().await);
    client.send(&question(1, "web.default.svc", RecordType::A)).await.unwrap();
    receive(&client).await;
    server.stop().await;
    assert!(UdpSocket::bind(address).await.is_ok() && TcpListener::bind(address).await.is_ok());
}
