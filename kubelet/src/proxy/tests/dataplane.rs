//! Packets: a machine with two pods on its bridge, a third on that of a virtual node, and a client outside, each a
//! network namespace; a proxy that follows a small API server; connections from everywhere to everything. No Docker.

use super::{host_port, node_port, pod, service, slice, two_nodes};
use crate::{
    proxy::{Proxy, Status},
    testing::namespace,
};
use client::{Informers, testing::Fake};
use k8s_openapi::api::{
    core::v1::{Pod, Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

const TEST: &str = "proxy::tests::dataplane::packets_reach_where_they_should";
const HELPER: &str = "proxy::tests::dataplane::helper";
/// What the helper process is to do: `serve` or `ask ADDRESS PROTOCOL`.
const TASK: &str = "MINIK8S_TEST_TASK";
const PORT: u16 = 8080;
const WAIT: Duration = Duration::from_millis(700);
const DEADLINE: Duration = Duration::from_secs(10);

/// Another process in another namespace: serves, or asks once. Does nothing as an ordinary test.
#[test]
fn helper() {
    let Ok(task) = std::env::var(TASK) else { return };
    let task: Vec<&str> = task.split(' ').collect();
    match task[..] {
        ["serve", name] => serve(name),
        ["ask", address, protocol] => println!("answer={}", ask(address.parse().unwrap(), protocol)),
        _ => panic!("{task:?}"),
    }
}

/// Answers `NAME from CLIENT` over TCP and UDP until killed.
fn serve(name: &str) {
    let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    let answer = |client: SocketAddr| format!("{name} from {}", client.ip()).into_bytes();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while let Ok((_, client)) = udp.recv_from(&mut buffer) {
                udp.send_to(&answer(client), client).unwrap_or_default();
            }
        });
        println!("ready");
        for stream in tcp.incoming().flatten() {
            let client = stream.peer_addr().unwrap();
            (&stream).write_all(&answer(client)).unwrap_or_default();
        }
    });
}

/// The answer, or what went wrong: `refused`, `silence`, or the error.
fn ask(server: SocketAddr, protocol: &str) -> String {
    let describe = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::PermissionDenied => "refused".to_owned(),
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => "silence".to_owned(),
        _ => error.to_string(),
    };
    let tcp = || {
        let mut stream = TcpStream::connect_timeout(&server, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    let udp = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        ask_udp(&socket)
    };
    if protocol == "tcp" { tcp() } else { udp() }.unwrap_or_else(describe)
}

fn ask_udp(socket: &UdpSocket) -> std::io::Result<String> {
    socket.set_read_timeout(Some(WAIT))?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn shell(script: &str) {
    namespace::output("sh", &["-ec", script]);
}

fn in_namespace(name: &str, task: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", HELPER, "--nocapture"]).env(TASK, task);
    command
}

/// As a process in another namespace.
fn ask_from(name: &str, server: &str, protocol: &str) -> String {
    let output = in_namespace(name, &format!("ask {server} {protocol}")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.lines().find_map(|l| l.split_once("answer=")).map(|(_, answer)| answer.to_owned());
    answer.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

struct Servers(Vec<Child>);

impl Servers {
    fn start(&mut self, namespace: &str) {
        let mut child =
            in_namespace(namespace, &format!("serve {namespace}")).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = String::new();
        let mut buffer = [0; 256];
        while !output.contains("ready") {
            let length = child.stdout.as_mut().unwrap().read(&mut buffer).unwrap();
            assert!(length > 0, "the server in {namespace} ended: {output}");
            output.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        self.0.push(child);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap_or_default();
            child.wait().map(drop).unwrap_or_default();
        }
    }
}

/// `p1` and `p2` on the first bridge, `p3` on the second; `out` on a link of its own, with no route to pods.
fn make_machine() {
    shell(
        "mount -t tmpfs tmpfs /run && mkdir -p /run/netns && ip link set lo up
         ip link add mk-test0 type bridge && ip addr add 10.244.1.1/24 dev mk-test0 && ip link set mk-test0 up
         ip link add mk-test1 type bridge && ip addr add 10.244.2.1/24 dev mk-test1 && ip link set mk-test1 up
         for n in 1 2 3; do
           if [ $n = 3 ]; then bridge=mk-test1 net=10.244.2; else bridge=mk-test0 net=10.244.1; fi
           ip netns add p$n
           ip link add v$n type veth peer name eth0 netns p$n
           ip link set v$n master $bridge up
           ip -n p$n link set lo up; ip -n p$n addr add $net.1$n/24 dev eth0
           ip -n p$n link set eth0 up; ip -n p$n route add default via $net.1
         done
         ip netns add out
         ip link add uplink type veth peer name eth0 netns out
         ip addr add 192.0.2.1/24 dev uplink && ip link set uplink up
         ip -n out link set lo up; ip -n out addr add 192.0.2.99/24 dev eth0; ip -n out link set eth0 up",
    );
}

fn udp(spec: &mut ServiceSpec) {
    spec.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
}

/// Asks until the answer is as expected.
async fn until(what: &str, mut ask: impl FnMut() -> String, expected: impl Fn(&str) -> bool) {
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = ask();
        if expected(&answer) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {answer}");
        tokio::task::yield_now().await;
    }
}

#[test]
fn packets_reach_where_they_should() {
    if !namespace::inside(TEST) {
        return;
    }
    make_machine();
    let mut servers = Servers(Vec::new());
    for name in ["p1", "p2", "p3"] {
        servers.start(name);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let (fake, token) = (Fake::default(), CancellationToken::new());
    let proxy = Proxy::new(two_nodes(), &Informers::new(fake.client(), token.clone()));
    let mut status = proxy.status();
    let running = tokio::spawn({
        let token = token.clone();
        async move { proxy.run(token).await }
    });
    let ready = status.wait_for(|s| matches!(s, Status::Ready { .. }));
    let ready = tokio::time::timeout(DEADLINE, ready).await.unwrap().unwrap().clone();
    assert_eq!(ready, Status::Ready { problems: vec![] });
    let both = ["10.244.1.11", "10.244.1.12"];

    cluster_addresses(&fake, &both).await;
    policies(&fake, &both).await;
    policies_of_each_node(&fake).await;
    host_ports(&fake).await;
    udp_moves(&fake, &both).await;
    someone_flushes(&fake).await;

    token.cancel();
    tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap().unwrap();
    // Services outlive the process.
    assert!(ask("10.96.0.1:80".parse().unwrap(), "tcp").starts_with('p'));
    Proxy::cleanup("test").await.unwrap();
    assert!(!namespace::output("nft", &["list", "ruleset"]).contains("minik8s"));
}

fn tcp(server: &str) -> impl FnMut() -> String {
    let server: SocketAddr = server.parse().unwrap();
    move || ask(server, "tcp")
}

async fn cluster_addresses(fake: &Fake, both: &[&str]) {
    fake.put(&service("web", "10.96.0.1", |_| {}));
    fake.put(&slice("web", "web-1", "TCP", 8080, both));
    until("host to service", tcp("10.96.0.1:80"), |a| a.starts_with('p')).await;
    let answers: std::collections::BTreeSet<String> = (0..40).map(|_| tcp("10.96.0.1:80")()).collect();
    // The gateway is the source that the route chose.
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["p1 from 10.244.1.1", "p2 from 10.244.1.1"]);
    let from_pod: std::collections::BTreeSet<String> =
        (0..16).map(|_| ask_from("p1", "10.96.0.1:80", "tcp")).collect();
    let expected = ["p1 from 10.244.1.1", "p2 from 10.244.1.11"];
    assert_eq!(
        from_pod.into_iter().collect::<Vec<_>>(),
        expected,
        "itself by hairpin, the other with its own address"
    );

    fake.put(&service("none", "10.96.0.2", |_| {}));
    for protocol in ["tcp", "udp"] {
        assert_eq!(ask("10.96.0.2:80".parse().unwrap(), protocol), "refused", "no endpoints, {protocol}");
        assert_eq!(ask("10.96.77.77:80".parse().unwrap(), protocol), "refused", "no service, {protocol}");
        assert_eq!(
            ask_from("p1", "10.96.77.77:80", protocol),
            "refused",
            "no service, from a pod, {protocol}"
        );
    }
    fake.put(&service("sticky", "10.96.0.3", |s| s.session_affinity = Some("ClientIP".into())));
    fake.put(&slice("sticky", "sticky-1", "TCP", 8080, both));
    until("sticky", tcp("10.96.0.3:80"), |a| a.starts_with('p')).await;
    let answers: std::collections::BTreeSet<String> = (0..20).map(|_| tcp("10.96.0.3:80")()).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");

    // As the node's DNS server is reached: an endpoint of the machine's own.
    let socket = UdpSocket::bind("10.244.1.1:1053").unwrap();
    fake.put(&service("dns", "10.96.0.10", udp));
    fake.put(&slice("dns", "dns-1", "UDP", 1053, &["10.244.1.1"]));
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            socket.send_to(format!("dns for {}", client.ip()).as_bytes(), client).unwrap_or_default();
            if &buffer[..length] == b"end" {
                return;
            }
        }
    });
    until("pod to DNS", || ask_from("p1", "10.96.0.10:80", "udp"), |a| a == "dns for 10.244.1.11").await;
    until("host to DNS", || ask("10.96.0.10:80".parse().unwrap(), "udp"), |a| a.starts_with("dns for")).await;
    UdpSocket::bind("10.244.1.1:0").unwrap().send_to(b"end", "10.244.1.1:1053").unwrap();
    echo.join().unwrap();
}

async fn policies(fake: &Fake, both: &[&str]) {
    fake.put(&service("port", "10.96.0.4", |s| node_port(s, 30080)));
    fake.put(&slice("port", "port-1", "TCP", 8080, both));
    let outside = || ask_from("out", "192.0.2.1:30080", "tcp");
    until("node port", outside, |a| a == "p1 from 10.244.1.1" || a == "p2 from 10.244.1.1").await;
    assert!(ask_from("p1", "192.0.2.1:30080", "tcp").starts_with('p'), "from a pod");
    assert!(tcp("192.0.2.1:30080")().starts_with('p'), "from the machine");
    assert!(tcp("127.0.0.1:30080")().starts_with('p'), "by the loopback: {}", tcp("127.0.0.1:30080")());

    let local = |s: &mut ServiceSpec| {
        node_port(s, 30080);
        s.external_traffic_policy = Some("Local".into());
    };
    fake.put(&service("port", "10.96.0.4", local));
    until("local policy", outside, |a| a == "p1 from 192.0.2.99" || a == "p2 from 192.0.2.99").await;
    fake.put(&slice("port", "port-1", "TCP", 8080, &["10.244.1.11*"]));
    until("no local endpoint", outside, |a| a == "silence").await;
    assert!(tcp("192.0.2.1:30080")().starts_with("p1"), "the machine itself is not outside");
    fake.delete::<EndpointSlice>("default", "port-1");
    until("no endpoint", outside, |a| a == "refused").await;
    fake.delete::<Service>("default", "port");
    until("no service", tcp("10.96.0.4:80"), |a| a == "refused").await;
}

/// The second node shares the machine with the first, and nothing of what is local to it.
async fn policies_of_each_node(fake: &Fake) {
    let local = |s: &mut ServiceSpec| {
        s.internal_traffic_policy = Some("Local".into());
        node_port(s, 30090);
        s.external_traffic_policy = Some("Local".into());
    };
    fake.put(&service("each", "10.96.0.7", local));
    fake.put(&slice("each", "each-1", "TCP", 8080, &["10.244.1.12", "10.244.2.13@"]));
    // Inside: each client is served on its own node. The machine is the first.
    until("own node", || ask_from("p1", "10.96.0.7:80", "tcp"), |a| a == "p2 from 10.244.1.11").await;
    for _ in 0..8 {
        assert_eq!(ask_from("p1", "10.96.0.7:80", "tcp"), "p2 from 10.244.1.11");
        assert_eq!(ask_from("p3", "10.96.0.7:80", "tcp"), "p3 from 10.244.2.1", "itself, by hairpin");
        assert_eq!(tcp("10.96.0.7:80")(), "p2 from 10.244.1.1");
    }
    // From outside: each node's address leads to its own endpoints, which see the client.
    let ask_second = |from: &str| ask_from(from, "10.244.2.1:30090", "tcp");
    for _ in 0..8 {
        assert_eq!(ask_from("out", "192.0.2.1:30090", "tcp"), "p2 from 192.0.2.99");
        assert_eq!(ask_second("p1"), "p3 from 10.244.1.11", "a pod of another node is outside");
        assert_eq!(tcp("10.244.2.1:30090")(), "p3 from 10.244.2.1", "and so is the machine");
    }
    let from_inside: std::collections::BTreeSet<String> = (0..24).map(|_| ask_second("p3")).collect();
    assert_eq!(from_inside.len(), 2, "a node's own pods reach all: {from_inside:?}");

    // A node without endpoints drops what the other would answer.
    fake.put(&slice("each", "each-1", "TCP", 8080, &["10.244.1.12"]));
    until("nobody on the second node", || ask_second("p1"), |a| a == "silence").await;
    assert_eq!(tcp("10.244.2.1:30090")(), "silence");
    assert_eq!(ask_from("p3", "10.96.0.7:80", "tcp"), "silence");
    assert!(ask_second("p3").starts_with("p2"), "its own pods are not outside");
    assert_eq!(ask_from("p1", "10.96.0.7:80", "tcp"), "p2 from 10.244.1.11");
    assert_eq!(ask_from("out", "192.0.2.1:30090", "tcp"), "p2 from 192.0.2.99");
    fake.put(&slice("each", "each-1", "TCP", 8080, &["10.244.2.13@"]));
    until("nobody on the first", || ask_from("out", "192.0.2.1:30090", "tcp"), |a| a == "silence").await;
    assert_eq!(tcp("10.96.0.7:80")(), "silence");
    assert!(tcp("192.0.2.1:30090")().starts_with("p3"), "the machine is not outside of itself");
    assert_eq!(ask_second("p1"), "p3 from 10.244.1.11");
    fake.delete::<EndpointSlice>("default", "each-1");
    until("nobody at all", || ask_second("p1"), |a| a == "refused").await;
    assert_eq!(ask_from("p1", "10.96.0.7:80", "tcp"), "refused");

    // As each node's DNS is found: every node has an endpoint of its own.
    fake.put(&service("local-dns", "10.96.0.11", |s| {
        udp(s);
        s.internal_traffic_policy = Some("Local".into());
    }));
    fake.put(&slice("local-dns", "local-dns-1", "UDP", 8080, &["10.244.1.12"]));
    fake.put(&slice("local-dns", "local-dns-2", "UDP", 8080, &["10.244.2.13@"]));
    until("the first's DNS", || ask_from("p1", "10.96.0.11:80", "udp"), |a| a == "p2 from 10.244.1.11").await;
    until("the second's DNS", || ask_from("p3", "10.96.0.11:80", "udp"), |a| a == "p3 from 10.244.2.1").await;
    fake.delete::<Service>("default", "each");
    fake.delete::<Service>("default", "local-dns");
}

async fn host_ports(fake: &Fake) {
    fake.put(&pod("p1", "10.244.1.11", vec![host_port(8000, i32::from(PORT), None)]));
    let outside = || ask_from("out", "192.0.2.1:8000", "tcp");
    until("host port", outside, |a| a == "p1 from 192.0.2.99").await;
    assert_eq!(tcp("127.0.0.1:8000")(), "p1 from 10.244.1.1");
    assert_eq!(ask_from("p1", "192.0.2.1:8000", "tcp"), "p1 from 10.244.1.1", "itself");
    assert_eq!(ask_from("p2", "192.0.2.1:8000", "tcp"), "p1 from 10.244.1.12");
    // The same port of another node on this machine is another port.
    let second = || ask_from("p2", "10.244.2.1:8000", "tcp");
    assert_eq!(second(), "refused");
    let mut p3 = pod("p3", "10.244.2.13", vec![host_port(8000, i32::from(PORT), None)]);
    p3.spec.as_mut().unwrap().node_name = Some("second".into());
    fake.put(&p3);
    until("the other node's host port", second, |a| a == "p3 from 10.244.1.12").await;
    assert_eq!(tcp("10.244.2.1:8000")(), "p3 from 10.244.2.1");
    assert_eq!(ask_from("p3", "10.244.2.1:8000", "tcp"), "p3 from 10.244.2.1", "itself");
    assert_eq!(ask_from("p3", "192.0.2.1:8000", "tcp"), "p1 from 10.244.2.13");
    fake.delete::<Pod>("default", "p1");
    until("no host port", outside, |a| a == "refused").await;
    assert_eq!(second(), "p3 from 10.244.1.12");
    fake.delete::<Pod>("default", "p3");
    until("no host port there either", second, |a| a == "refused").await;
}

async fn udp_moves(fake: &Fake, both: &[&str]) {
    fake.put(&service("talk", "10.96.0.5", udp));
    fake.put(&slice("talk", "talk-1", "UDP", 8080, &both[..1]));
    // One socket all the time: without forgetting its flow it would stay with the first endpoint.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("10.96.0.5:80").unwrap();
    let ask = || ask_udp(&socket).unwrap_or_else(|e| e.to_string());
    until("UDP", ask, |a| a.starts_with("p1")).await;
    fake.put(&slice("talk", "talk-1", "UDP", 8080, &both[1..]));
    until("UDP elsewhere", ask, |a| a.starts_with("p2")).await;
    fake.delete::<EndpointSlice>("default", "talk-1");
    until("UDP to nobody", ask, |a| !a.starts_with('p')).await;
    fake.put(&slice("talk", "talk-1", "UDP", 8080, &both[..1]));
    until("UDP again", ask, |a| a.starts_with("p1")).await;
}

async fn someone_flushes(fake: &Fake) {
    namespace::output("nft", &["flush", "ruleset"]);
    // The next change fails on the table that is not there, and makes it anew.
    fake.put(&service("other", "10.96.0.6", |_| {}));
    until("after a flush", tcp("10.96.0.1:80"), |a| a.starts_with('p')).await;
    shell("ip route del 10.96.0.0/16 dev mk-test0; ip link set v1 down; ip link set v1 up");
    until("after the route went", tcp("10.96.0.1:80"), |a| a.starts_with('p')).await;
}
