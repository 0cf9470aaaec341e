//! Queries per second: the answer path alone, and over real UDP sockets with the clients on the same machine.
//! `cargo bench` prints both; nothing is asserted.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use client::{Informers, testing::Fake};
use dns::{Config, Server};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

const SERVICES: usize = 2000;
const CLIENTS: usize = 8;
/// Queries a client has under way.
const WINDOW: usize = 16;
const TIME: Duration = Duration::from_secs(3);

fn meta(namespace: Option<&str>, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: namespace.map(Into::into), name: Some(name.into()), ..Default::default() }
}

fn fill(fake: &Fake) {
    fake.put(&Namespace { metadata: meta(None, "default"), ..Default::default() });
    for i in 0..SERVICES {
        let (name, headless) = (format!("svc-{i}"), i % 4 == 3);
        let ip = if headless { "None".to_owned() } else { format!("10.96.{}.{}", i / 250, i % 250 + 1) };
        let ports = vec![ServicePort { name: Some("http".into()), port: 80, ..Default::default() }];
        let spec = ServiceSpec { cluster_ip: Some(ip), ports: Some(ports), ..Default::default() };
        fake.put(&Service { metadata: meta(Some("default"), &name), spec: Some(spec), ..Default::default() });
        let mut metadata = meta(Some("default"), &name);
        metadata.labels = Some([("kubernetes.io/service-name".to_owned(), name)].into());
        let endpoint = |n| Endpoint {
            addresses: vec![format!("10.244.{}.{}", i % 250, n + 1)],
            hostname: headless.then(|| format!("pod-{n}")),
            ..Default::default()
        };
        let ports = vec![EndpointPort { name: Some("http".into()), port: Some(8080), ..Default::default() }];
        let endpoints = Some((0..3).map(endpoint).collect());
        fake.put(&EndpointSlice { metadata, address_type: "IPv4".into(), endpoints, ports: Some(ports) });
    }
}

/// A, AAAA, SRV with additionals, names that are not.
fn queries(mixed: bool) -> Vec<Vec<u8>> {
    let packet = |name: String, kind| {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap_or_default(), kind));
        message.to_vec().unwrap_or_default()
    };
    (0..SERVICES)
        .map(|i| match i % 5 {
            0 if mixed => packet(format!("svc-{i}.default.svc.cluster.local."), RecordType::AAAA),
            1 if mixed => {
                packet(format!("svc-{}.default.svc.cluster.local.", i / 4 * 4 + 3), RecordType::SRV)
            }
            2 if mixed => packet(format!("none-{i}.default.svc.cluster.local."), RecordType::A),
            _ => packet(format!("svc-{i}.default.svc.cluster.local."), RecordType::A),
        })
        .collect()
}

fn client(server: SocketAddr, queries: &[Vec<u8>], start: usize, end: &AtomicBool, answered: &AtomicU64) {
    let run = || -> std::io::Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let (mut next, mut buffer) = (start, [0; 2048]);
        for _ in 0..WINDOW {
            socket.send(&queries[next % queries.len()])?;
            next += 1;
        }
        while !end.load(Ordering::Relaxed) {
            // A lost reply is made up for by the next query.
            if socket.recv(&mut buffer).is_ok() {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            socket.send(&queries[next % queries.len()])?;
            next += 1;
        }
        Ok(())
    };
    if let Err(error) = run() {
        eprintln!("client: {error}");
    }
}

fn main() {
    // Under `cargo test` a benchmark only has to build.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let (Ok(runtime), Ok(bind)) = (
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build(),
        "127.0.0.1:0".parse(),
    ) else {
        return;
    };
    runtime.block_on(async {
        let (fake, token) = (Fake::default(), CancellationToken::new());
        fill(&fake);
        let config = Config { bind: vec![bind], upstream: Some(vec![]), ..Default::default() };
        let server = match Server::bind(config, Informers::new(fake.client(), token.clone())).await {
            Ok(server) => server,
            Err(error) => return eprintln!("{error}"),
        };
        let (address, respond) = (server.addresses()[0], server.responder());
        let running = tokio::spawn(server.run(token.clone()));
        let answered = |packet: &[u8]| respond(packet).is_some_and(|r| r[3] & 0xf == 0);
        while !answered(&queries(false)[0]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for (what, mixed) in [("A only", false), ("mixed", true)] {
            let queries = Arc::new(queries(mixed));
            let (start, mut count) = (Instant::now(), 0u32);
            while start.elapsed() < TIME / 3 {
                for query in queries.iter() {
                    std::hint::black_box(respond(query));
                }
                count += u32::try_from(queries.len()).unwrap_or(0);
            }
            let each = start.elapsed() / count;
            let (end, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let clients: Vec<_> = (0..CLIENTS)
                .map(|i| {
                    let (queries, end, answered) = (queries.clone(), end.clone(), answered.clone());
                    std::thread::spawn(move || client(address, &queries, i * 251, &end, &answered))
                })
                .collect();
            tokio::time::sleep(TIME).await;
            end.store(true, Ordering::Relaxed);
            let total = answered.load(Ordering::Relaxed);
            for client in clients {
                let _ended = client.join();
            }
            println!("{what}: answer path {each:?} a query, UDP {} queries/s", total / TIME.as_secs());
        }
        token.cancel();
        let _ended = running.await;
    });
}
