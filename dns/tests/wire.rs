//! The server with real sockets, fed by informers.
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

use client::{Informers, testing::Fake};
use dns::{Config, Server};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const DEADLINE: Duration = Duration::from_secs(10);

struct Bed {
    fake: Fake,
    address: SocketAddr,
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Bed {
    async fn start(domain: &str, upstream: Vec<SocketAddr>) -> Self {
        let (fake, token, tracker) = (Fake::default(), CancellationToken::new(), TaskTracker::new());
        fake.put(&Namespace { metadata: meta("", "default"), ..Default::default() });
        let informers = Informers::new(fake.client(), token.clone());
        let config = Config {
            bind: vec!["127.0.0.1:0".parse().unwrap()],
            cluster_domain: domain.into(),
            upstream: Some(upstream),
            ..Default::default()
        };
        let server = Server::bind(config, informers).await.unwrap();
        let address = server.addresses()[0];
        tracker.spawn(server.run(token.clone()));
        Self { fake, address, token, tracker }
    }

    fn service(&self, name: &str, ip: &str) {
        let ports = vec![ServicePort { name: Some("http".into()), port: 80, ..Default::default() }];
        let spec = ServiceSpec { cluster_ip: Some(ip.into()), ports: Some(ports), ..Default::default() };
        self.fake.put(&Service { metadata: meta("default", name), spec: Some(spec), ..Default::default() });
    }

    fn slice(&self, service: &str, name: &str, addresses: impl Iterator<Item = String>) {
        let mut metadata = meta("default", name);
        metadata.labels = Some([("kubernetes.io/service-name".to_owned(), service.to_owned())].into());
        let endpoints = addresses.map(|a| Endpoint { addresses: vec![a], ..Default::default() }).collect();
        let ports = vec![EndpointPort { name: Some("http".into()), port: Some(8080), ..Default::default() }];
        self.fake.put(&EndpointSlice {
            metadata,
            address_type: "IPv4".into(),
            endpoints: Some(endpoints),
            ports: Some(ports),
        });
    }

    /// Asks until the answer satisfies; the last answer if it never does.
    async fn wait(&self, name: &str, kind: RecordType, good: impl Fn(&Message) -> bool) -> Message {
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            let reply = udp(self.address, name, kind).await;
            if good(&reply) || tokio::time::Instant::now() > end {
                return reply;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(DEADLINE, self.tracker.wait()).await.unwrap();
    }
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name: Some(name.to_owned()),
        ..Default::default()
    }
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 77;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn udp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&query(name, kind)).await.unwrap();
    let mut buffer = vec![0; 65536];
    let length = tokio::time::timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn read_tcp(stream: &mut TcpStream) -> Message {
    let length = tokio::time::timeout(DEADLINE, stream.read_u16()).await.unwrap().unwrap();
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap();
    [&length.to_be_bytes()[..], packet].concat()
}

const ZONE: &str = "cluster.local";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_follow_the_cluster_over_udp_and_tcp() {
    let bed = Bed::start(ZONE, vec![]).await;
    let name = "kubia.default.svc.cluster.local.";
    bed.service("kubia", "None");
    bed.slice("kubia", "kubia-1", (0..100).map(|i| format!("10.244.1.{i}")));
    let reply = bed.wait(name, RecordType::SRV, |r| r.metadata.truncation).await;
    assert!(reply.metadata.truncation && reply.answers.is_empty(), "{reply:?}");

    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    // Two questions in one segment, one in two: framing does not depend on packets.
    let both = [framed(&query(name, RecordType::SRV)), framed(&query(name, RecordType::A))].concat();
    stream.write_all(&both).await.unwrap();
    assert_eq!(read_tcp(&mut stream).await.answers.len(), 100);
    assert_eq!(read_tcp(&mut stream).await.answers.len(), 100);
    let packet = framed(&query(name, RecordType::TXT));
    stream.write_all(&packet[..7]).await.unwrap();
    stream.flush().await.unwrap();
    stream.write_all(&packet[7..]).await.unwrap();
    assert_eq!(read_tcp(&mut stream).await.answers.len(), 0);

    bed.slice("kubia", "kubia-1", ["10.244.9.9".to_owned()].into_iter());
    let reply = bed.wait(name, RecordType::A, |r| r.answers.len() == 1).await;
    assert_eq!(reply.answers[0].data.to_string(), "10.244.9.9");
    bed.fake.delete::<EndpointSlice>("default", "kubia-1");
    bed.service("kubia", "10.96.0.7");
    let reply =
        bed.wait(name, RecordType::A, |r| r.answers.iter().any(|a| a.data.to_string() == "10.96.0.7")).await;
    assert_eq!(reply.answers.len(), 1);
    bed.fake.delete::<Service>("default", "kubia");
    let gone = |r: &Message| r.metadata.response_code == ResponseCode::NXDomain;
    assert!(gone(&bed.wait(name, RecordType::A, gone).await));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_names_are_asked_upstream() {
    let upstream = Bed::start("example.com", vec![]).await;
    upstream.service("www", "192.0.2.1");
    let found = |r: &Message| r.answers.len() == 1;
    assert!(found(&upstream.wait("www.default.svc.example.com.", RecordType::A, found).await));

    let bed = Bed::start(ZONE, vec![upstream.address]).await;
    let reply = bed.wait("www.default.svc.example.com.", RecordType::A, found).await;
    assert_eq!(reply.answers[0].data.to_string(), "192.0.2.1");
    assert!(!reply.metadata.authoritative && reply.metadata.recursion_available);
    let reply = udp(bed.address, "nothing.example.com.", RecordType::A).await;
    assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NXDomain, 1));
    let reply = udp(bed.address, "www.default.svc.example.com.", RecordType::AAAA).await;
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0));

    let spec = ServiceSpec {
        type_: Some("ExternalName".into()),
        external_name: Some("www.default.svc.example.com".into()),
        ..Default::default()
    };
    bed.fake.put(&Service { metadata: meta("default", "alias"), spec: Some(spec), ..Default::default() });
    let two = |r: &Message| r.answers.len() == 2;
    let reply = bed.wait("alias.default.svc.cluster.local.", RecordType::A, two).await;
    assert_eq!(reply.answers[1].data.to_string(), "192.0.2.1", "{reply:?}");
    bed.stop().await;
    upstream.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_upstream_other_names_fail_and_ours_are_still_answered() {
    // Nobody answers here.
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bed = Bed::start(ZONE, vec![dead.local_addr().unwrap()]).await;
    bed.service("web", "10.96.0.7");
    let found = |r: &Message| r.answers.len() == 1;
    assert!(found(&bed.wait("web.default.svc.cluster.local.", RecordType::A, found).await));
    let ask = || udp(bed.address, "example.com.", RecordType::A);
    let (a, b, c, d) = tokio::join!(ask(), ask(), ask(), ask());
    for reply in [a, b, c, d, ask().await] {
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }
    assert!(found(&udp(bed.address, "web.default.svc.cluster.local.", RecordType::A).await));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_does_no_harm() {
    let bed = Bed::start(ZONE, vec![]).await;
    bed.service("web", "10.96.0.7");
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in [&b""[..], b"x", &[0xff; 12], &[0; 11], &[0; 5000], b"GET / HTTP/1.1\r\n\r\n"] {
        socket.send_to(packet, bed.address).await.unwrap();
    }
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    // A question that is announced and does not come: the connection ends, by FIN or by RST.
    let _ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    let found = |r: &Message| r.answers.len() == 1;
    assert!(found(&bed.wait("web.default.svc.cluster.local.", RecordType::A, found).await));
    bed.stop().await;
}

#[tokio::test]
async fn sockets_may_be_taken_before_the_address_exists_and_only_once() {
    let token = CancellationToken::new();
    let bind = |address: &str| {
        let config =
            Config { bind: vec![address.parse().unwrap()], upstream: Some(vec![]), ..Default::default() };
        Server::bind(config, Informers::new(Fake::default().client(), token.clone()))
    };
    let first = bind("192.0.2.77:0").await.unwrap();
    let error = bind(&first.addresses()[0].to_string()).await.map(drop).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on 192.0.2.77:"), "{error}");
    token.cancel();
}
