//! The server over an in-memory connection, with a runtime that does as the test says.

use super::*;
use crate::{
    pods::PodView,
    runtime::{self as rt, Output, PodRef, Session},
    stream::spdy::testing::{Got, TestClient},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt, future::BoxFuture, stream::BoxStream};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use std::{collections::VecDeque, sync::Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as WsError, Message, protocol::frame::coding::CloseCode},
};

/// Gives what the test has laid ready; keeps what it was asked.
#[derive(Default)]
struct Script {
    sessions: Mutex<VecDeque<rt::Result<Session>>>,
    logs: Mutex<Option<BoxStream<'static, rt::Result<Output>>>>,
    dials: Mutex<VecDeque<rt::Result<BoxStreamIo>>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn ask(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn no<T>() -> rt::Result<T> {
    Err(rt::Error::Unsupported("not part of this test".into()))
}

#[async_trait]
impl Runtime for Script {
    async fn info(&self) -> rt::Result<rt::Info> {
        no()
    }
    async fn prepare(&self) -> rt::Result<()> {
        no()
    }
    async fn list(&self) -> rt::Result<Vec<rt::Container>> {
        no()
    }
    async fn list_pod(&self, _: &str) -> rt::Result<Vec<rt::Container>> {
        no()
    }
    fn events(&self) -> BoxStream<'static, rt::Event> {
        futures::stream::pending().boxed()
    }
    async fn run_sandbox(&self, _: &rt::SandboxSpec) -> rt::Result<rt::Container> {
        no()
    }
    async fn create_container(&self, _: &rt::ContainerSpec) -> rt::Result<String> {
        no()
    }
    async fn start_container(&self, _: &str) -> rt::Result<()> {
        no()
    }
    async fn inspect(&self, _: &str) -> rt::Result<rt::Container> {
        no()
    }
    async fn stop_container(&self, _: &str, _: Duration) -> rt::Result<()> {
        no()
    }
    async fn remove_container(&self, _: &str) -> rt::Result<()> {
        no()
    }
    async fn image(&self, _: &str) -> rt::Result<Option<rt::Image>> {
        no()
    }
    async fn pull(&self, _: &str, _: Option<rt::RegistryAuth>) -> rt::Result<rt::Image> {
        no()
    }
    async fn images(&self) -> rt::Result<Vec<rt::Image>> {
        no()
    }
    async fn stats(&self, _: &str) -> rt::Result<rt::Stats> {
        no()
    }
    async fn exec(&self, id: &str, spec: rt::ExecSpec) -> rt::Result<Session> {
        self.ask(format!("exec {id} {:?} tty={} stderr={}", spec.command, spec.tty, spec.stderr));
        self.sessions.lock().unwrap().pop_front().unwrap_or_else(no)
    }
    async fn attach(&self, id: &str, spec: rt::AttachSpec) -> rt::Result<Session> {
        self.ask(format!("attach {id} stdin={} replay={}", spec.stdin, spec.replay));
        self.sessions.lock().unwrap().pop_front().unwrap_or_else(no)
    }
    async fn logs(
        &self,
        id: &str,
        options: rt::LogOptions,
    ) -> rt::Result<BoxStream<'static, rt::Result<Output>>> {
        self.ask(format!("logs {id} follow={} tail={:?}", options.follow, options.tail));
        self.logs.lock().unwrap().take().ok_or(rt::Error::NotFound("the log".into()))
    }
    async fn dial(&self, sandbox: &str, port: u16) -> rt::Result<BoxStreamIo> {
        self.ask(format!("dial {sandbox} {port}"));
        self.dials.lock().unwrap().pop_front().unwrap_or_else(no)
    }
}

/// The container's end of a session.
struct Process {
    stdin: DuplexStream,
    output: mpsc::Sender<rt::Result<Output>>,
    sizes: mpsc::Receiver<(u16, u16)>,
    exit: oneshot::Sender<rt::Result<i32>>,
}

impl Process {
    async fn out(&self, text: &'static str) {
        self.output.send(Ok(Output::Stdout(Bytes::from_static(text.as_bytes())))).await.unwrap();
    }
    async fn err(&self, text: &'static str) {
        self.output.send(Ok(Output::Stderr(Bytes::from_static(text.as_bytes())))).await.unwrap();
    }
    async fn read_to_end(&mut self) -> String {
        let mut text = String::new();
        self.stdin.read_to_string(&mut text).await.unwrap();
        text
    }
    fn ends(self, code: i32) {
        self.exit.send(Ok(code)).unwrap();
    }
}

fn session() -> (Session, Process) {
    let (ours, stdin) = tokio::io::duplex(1 << 10);
    let (output, out) = mpsc::channel(4);
    let (resize, sizes) = mpsc::channel(4);
    let (exit, code) = oneshot::channel();
    let exit_code: BoxFuture<'static, rt::Result<i32>> =
        async move { code.await.unwrap_or_else(|_| no()) }.boxed();
    let output_stream = ReceiverStream::new(out).boxed();
    let session =
        Session { stdin: Some(Box::new(ours)), output: output_stream, resize: Some(resize), exit: exit_code };
    (session, Process { stdin, output, sizes, exit })
}

struct Kubelet {
    script: Arc<Script>,
    state: State,
}

impl Kubelet {
    /// With one pod `default/web`: container `app` runs, `init` has ended, `late` is waiting.
    fn new() -> Self {
        let lookup = Lookup::default();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "u1" },
            "spec": {
                "initContainers": [{ "name": "init" }],
                "containers": [{ "name": "app", "stdinOnce": true }, { "name": "late" }],
            },
        }))
        .unwrap();
        let time = "2026-11-22T15:00:00Z".parse().unwrap();
        let container = |name: &str, state| rt::Container {
            id: format!("id-{name}"),
            pod: PodRef { namespace: "default".into(), name: "web".into(), uid: "u1".into() },
            name: name.into(),
            sandbox_id: String::new(),
            state,
            created: time,
            attempt: 0,
            hash: String::new(),
            image: String::new(),
            image_id: String::new(),
            pid: None,
            ip: None,
            tty: false,
            stdin: true,
            grace: Duration::ZERO,
        };
        let running = || rt::State::Running { started: time };
        let exited = rt::State::Exited {
            code: 0,
            oom_killed: false,
            started: Some(time),
            finished: time,
            error: None,
        };
        let containers = vec![
            container("app", running()),
            container("init", exited),
            container(rt::SANDBOX_NAME, running()),
        ];
        lookup.publish(PodView { pod: Arc::new(pod), containers, waiting: Default::default() });
        let script = Arc::new(Script::default());
        let (token, tracker) = (CancellationToken::new(), TaskTracker::new());
        let state = State { lookup, runtime: script.clone(), token, tracker };
        Self { script, state }
    }

    fn session(&self) -> Process {
        let (session, process) = session();
        self.script.sessions.lock().unwrap().push_back(Ok(session));
        process
    }

    fn dial(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        self.script.dials.lock().unwrap().push_back(Ok(Box::new(theirs)));
        ours
    }

    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(1 << 12);
        self.state.tracker.spawn(serve(Box::new(theirs), self.state.clone()));
        ours
    }

    /// Nothing is left running.
    async fn ends(self) {
        self.state.tracker.close();
        self.state.tracker.wait().await;
    }

    /// Status, headers and the connection after them.
    async fn request(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String, DuplexStream) {
        let mut connection = self.connect();
        let mut text = format!("GET {path} HTTP/1.1\r\nHost: kubelet\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        connection.write_all((text + "\r\n").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head.to_lowercase(), connection)
    }

    async fn status(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let headers = [headers, &[("Connection", "close")]].concat();
        let headers = if headers[..headers.len() - 1].iter().any(|(name, _)| *name == "Connection") {
            &headers[..headers.len() - 1]
        } else {
            &headers[..]
        };
        let (code, head, mut connection) = self.request(path, headers).await;
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        connection.read_exact(&mut body).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((body["kind"].as_str(), body["code"].as_u64()), (Some("Status"), Some(code.into())));
        (code, body["message"].as_str().unwrap().to_owned())
    }

    async fn socket(&self, path: &str, protocol: &str) -> WebSocketStream<DuplexStream> {
        let mut request = http::Request::get(format!("ws://kubelet{path}"))
            .header("Host", "kubelet")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        if !protocol.is_empty() {
            request = request.header("Sec-WebSocket-Protocol", protocol);
        }
        let (socket, response) =
            tokio_tungstenite::client_async(request.body(()).unwrap(), self.connect()).await.unwrap();
        let answer = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
        assert_eq!(answer.unwrap_or_default(), protocol.split(", ").last().unwrap());
        socket
    }

    async fn spdy(&self, path: &str, protocols: &str, chosen: &str) -> TestClient<DuplexStream> {
        let headers =
            [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", protocols)];
        let (code, head, connection) = self.request(path, &headers).await;
        assert_eq!(code, 101, "{head}");
        assert!(head.contains(&format!("x-stream-protocol-version: {chosen}\r\n")), "{head}");
        assert!(head.contains("upgrade: spdy/3.1\r\n"), "{head}");
        TestClient::new(connection)
    }
}

const EXEC: &str = "/exec/default/web/app?command=sh&command=-c&command=ls%20%2F&input=1&output=1&error=1";

/// The next message, as channel and text.
async fn message(socket: &mut WebSocketStream<DuplexStream>) -> (u8, String) {
    let bytes = socket.next().await.unwrap().unwrap().into_data();
    (bytes[0], String::from_utf8(bytes[1..].to_vec()).unwrap())
}

async fn send(socket: &mut WebSocketStream<DuplexStream>, bytes: &'static [u8]) {
    socket.send(Message::Binary(Bytes::from_static(bytes))).await.unwrap();
}

async fn closed(mut socket: WebSocketStream<DuplexStream>) {
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(close)) => assert_eq!(close.code, CloseCode::Normal),
        other => panic!("{other:?}"),
    }
    assert!(matches!(socket.next().await, None | Some(Err(WsError::ConnectionClosed))));
}

#[tokio::test]
async fn exec_by_websocket() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "v9.channel.k8s.io, v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await, (1, String::new()));
    send(&mut socket, b"\x00in").await;
    send(&mut socket, b"\x00put").await;
    // Closes stdin alone.
    send(&mut socket, b"\xff\x00").await;
    assert_eq!(process.read_to_end().await, "input");
    process.out("out").await;
    assert_eq!(message(&mut socket).await, (1, "out".into()));
    process.err("err").await;
    assert_eq!(message(&mut socket).await, (2, "err".into()));
    process.ends(7);
    let (channel, status) = message(&mut socket).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((channel, &status["reason"]), (3, &json!("NonZeroExitCode")));
    assert_eq!(status["details"]["causes"][0]["message"], "7");
    closed(socket).await;
    assert_eq!(kubelet.script.asked(), [r#"exec id-app ["sh", "-c", "ls /"] tty=false stderr=true"#]);
    kubelet.ends().await;
}

#[tokio::test]
async fn a_terminal_is_resized_and_has_one_output() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let mut socket = kubelet.socket(&format!("{EXEC}&tty=1"), "v4.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await, (1, String::new()));
    send(&mut socket, b"\x04{\"Width\":80,\"Height\":24}\n").await;
    assert_eq!(process.sizes.recv().await, Some((80, 24)));
    // Were there error output after all, the client would not know the channel.
    process.err("lost").await;
    process.out("$ ").await;
    assert_eq!(message(&mut socket).await, (1, "$ ".into()));
    process.ends(0);
    assert_eq!(message(&mut socket).await, (3, r#"{"metadata":{},"status":"Success"}"#.into()));
    closed(socket).await;
    assert!(kubelet.script.asked()[0].ends_with("tty=true stderr=false"));
}

#[tokio::test]
async fn the_first_protocols_get_text_or_base64() {
    let kubelet = Kubelet::new();
    let process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "").await;
    assert_eq!(message(&mut socket).await, (1, String::new()));
    process.ends(0);
    // Success says nothing.
    closed(socket).await;

    let mut process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "base64.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await, (b'1', String::new()));
    socket.send(Message::text("0aW5wdXQ=")).await.unwrap();
    let mut input = [0; 5];
    process.stdin.read_exact(&mut input).await.unwrap();
    assert_eq!(&input, b"input");
    process.ends(2);
    let (channel, text) = message(&mut socket).await;
    assert_eq!((channel, text.starts_with("Y29tbWFuZCB0ZXJtaW5hdGVk")), (b'3', true));
    closed(socket).await;
}

#[tokio::test]
async fn a_command_that_cannot_start_is_an_internal_error() {
    let kubelet = Kubelet::new();
    kubelet.script.sessions.lock().unwrap().push_back(Err(rt::Error::Other("no such file".into())));
    let mut socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    let (_, status) = message(&mut socket).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let message = "Internal error occurred: error executing command in container: no such file";
    assert_eq!((&status["reason"], &status["message"]), (&json!("InternalError"), &json!(message)));
    closed(socket).await;
}

#[tokio::test]
async fn a_client_that_goes_ends_the_session() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    drop(socket);
    assert_eq!(process.read_to_end().await, "");
    process.output.closed().await;
    kubelet.ends().await;
}

#[tokio::test]
async fn a_message_that_is_wrong_ends_the_connection() {
    let kubelet = Kubelet::new();
    let process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    send(&mut socket, b"\xff").await;
    process.output.closed().await;
    kubelet.ends().await;
}

#[tokio::test]
async fn a_ping_is_answered() {
    let kubelet = Kubelet::new();
    let _process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    socket.send(Message::Ping(Bytes::from_static(b"?"))).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"?")));
}

#[tokio::test]
async fn a_stopping_kubelet_says_so() {
    let kubelet = Kubelet::new();
    let _process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    kubelet.state.token.cancel();
    assert!(message(&mut socket).await.1.contains("shutting down"));
    closed(socket).await;
    kubelet.ends().await;
}

#[tokio::test]
async fn exec_by_spdy() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let mut client = kubelet.spdy(EXEC, "v4.channel.k8s.io, v3.channel.k8s.io", "v4.channel.k8s.io").await;
    for (stream, name) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        client.opened(stream, &[("streamtype", name)]).await;
    }
    client.data(3, b"input").await;
    client.fin(3).await;
    assert_eq!(process.read_to_end().await, "input");
    process.out("out").await;
    process.err("err").await;
    process.ends(3);
    let mut all = client.until(Got::GoAway).await;
    let Got::Data(1, status) = all.remove(0) else { panic!("{all:?}") };
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    let expected =
        [Got::Fin(1), Got::Data(5, b"out".into()), Got::Fin(5), Got::Data(7, b"err".into()), Got::Fin(7)];
    assert_eq!(all, expected);
    drop(client);
    kubelet.ends().await;
}

#[tokio::test]
async fn a_terminal_by_spdy() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let path = format!("{EXEC}&tty=1");
    let mut client = kubelet.spdy(&path, "v4.channel.k8s.io", "v4.channel.k8s.io").await;
    for (stream, name) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
        client.opened(stream, &[("streamtype", name)]).await;
    }
    client.data(7, b"{\"Width\":100,\"Height\":30}").await;
    assert_eq!(process.sizes.recv().await, Some((100, 30)));
    // A gone client ends it.
    drop(client);
    process.output.closed().await;
    kubelet.ends().await;
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let kubelet = Kubelet::new();
    let process = kubelet.session();
    let mut client = kubelet.spdy(EXEC, "v4.channel.k8s.io", "v4.channel.k8s.io").await;
    for (stream, name) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        client.opened(stream, &[("streamtype", name)]).await;
    }
    let writing = tokio::spawn(async move {
        for number in 0..200u8 {
            process.output.send(Ok(Output::Stdout(vec![number; 30_000].into()))).await.unwrap();
        }
        process.ends(0);
    });
    let all = client.until(Got::GoAway).await;
    writing.await.unwrap();
    let Some(Got::Data(_, data)) = all.iter().find(|got| matches!(got, Got::Data(5, _))) else { panic!() };
    assert_eq!(data.len(), 6_000_000);
    assert!(data.chunks(30_000).enumerate().all(|(number, chunk)| chunk.iter().all(|b| *b == number as u8)));
}

#[tokio::test]
async fn attach_ends_in_success_whatever_the_exit_code() {
    let kubelet = Kubelet::new();
    let process = kubelet.session();
    let mut socket = kubelet.socket("/attach/default/web/app?input=1&output=1", "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    process.out("hello").await;
    assert_eq!(message(&mut socket).await, (1, "hello".into()));
    process.ends(9);
    assert!(message(&mut socket).await.1.contains("Success"));
    closed(socket).await;
    assert_eq!(kubelet.script.asked(), ["attach id-app stdin=true replay=true"]);
}

#[tokio::test]
async fn attach_ends_with_its_container_even_if_the_engine_waits_on() {
    let kubelet = Kubelet::new();
    let Process { stdin, output, sizes, exit } = kubelet.session();
    let mut socket = kubelet.socket("/attach/default/web/app?input=1&output=1", "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    exit.send(Ok(0)).unwrap();
    output.send(Ok(Output::Stdout(Bytes::from_static(b"last words")))).await.unwrap();
    assert_eq!(message(&mut socket).await, (1, "last words".into()));
    assert!(message(&mut socket).await.1.contains("Success"));
    closed(socket).await;
    drop((stdin, output, sizes));
    kubelet.ends().await;
}

#[tokio::test]
#[allow(clippy::type_complexity, reason = "a table")]
async fn what_cannot_be_streamed_is_refused_in_words() {
    let kubelet = Kubelet::new();
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    let old = [&upgrade[..], &[("X-Stream-Protocol-Version", "v9.channel.k8s.io")]].concat();
    let cases: [(&str, &[(&str, &str)], u16, &str); 12] = [
        ("/exec/default/none/app?command=x&output=1", &upgrade, 404, "pod \"none\" not found"),
        (
            "/exec/default/web/none?command=x&output=1",
            &upgrade,
            400,
            "container none is not valid for pod web",
        ),
        ("/exec/default/web/late?command=x&output=1", &upgrade, 400, "waiting to start: ContainerCreating"),
        ("/exec/default/web/init?command=x&output=1", &upgrade, 400, "is terminated"),
        ("/exec/default/web/app?output=1", &upgrade, 400, "you must specify a command"),
        ("/exec/default/web/app?command=x", &upgrade, 400, "at least 1 of stdin, stdout, stderr"),
        ("/exec/default/web/app?command=x&output=1", &[], 400, "Upgrade request required"),
        ("/exec/default/web/app?command=x&output=1", &upgrade, 400, "X-Stream-Protocol-Version is missing"),
        ("/exec/default/web/app?command=x&output=1", &old, 403, "client supports [v9.channel.k8s.io]"),
        ("/portForward/default/none", &upgrade, 404, "pod \"none\" not found"),
        ("/containerLogs/default/web/app?previous=true", &[], 400, "previous terminated container \"app\""),
        ("/nothing", &[], 404, "no such path"),
    ];
    for (path, headers, code, message) in cases {
        let (got, text) = kubelet.status(path, headers).await;
        assert_eq!(got, code, "{path}: {text}");
        assert!(text.contains(message), "{path}: {text}");
    }
}

const FORWARD: &str = "/portForward/default/web";

/// Opens the two streams of a connection: error `id`, data `id + 2`.
async fn pair(client: &mut TestClient<DuplexStream>, id: u32, request: &str) {
    client.opened(id, &[("streamtype", "error"), ("port", "80"), ("requestid", request)]).await;
    client.opened(id + 2, &[("streamtype", "data"), ("port", "80"), ("requestid", request)]).await;
}

#[tokio::test]
async fn forward_by_spdy() {
    let kubelet = Kubelet::new();
    let (mut first, mut second) = (kubelet.dial(), kubelet.dial());
    let mut client = kubelet.spdy(FORWARD, "portforward.k8s.io", "portforward.k8s.io").await;
    pair(&mut client, 1, "0").await;
    client.fin(1).await;
    client.data(3, b"ping").await;
    // The first pair has its connection before the second dials.
    let mut buffer = [0; 4];
    first.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"ping");
    pair(&mut client, 5, "1").await;
    client.fin(7).await;
    // The client's half is closed, the pod answers, then closes.
    let mut rest = String::new();
    second.read_to_string(&mut rest).await.unwrap();
    second.write_all(b"late answer").await.unwrap();
    drop(second);
    assert_eq!(client.until(Got::Fin(5)).await, [Got::Data(7, b"late answer".into()), Got::Fin(7)]);
    // The first goes on; the client gives it up by a reset.
    first.write_all(b"pong").await.unwrap();
    assert_eq!(client.next().await, Got::Data(3, b"pong".into()));
    client.reset(3).await;
    assert_eq!(client.next().await, Got::Fin(1));
    let mut end = Vec::new();
    first.read_to_end(&mut end).await.unwrap();
    assert_eq!(kubelet.script.asked(), ["dial id-POD 80", "dial id-POD 80"]);
    drop(client);
    kubelet.ends().await;
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_an_error_on_its_own_streams() {
    let kubelet = Kubelet::new();
    kubelet.script.dials.lock().unwrap().push_back(Err(rt::Error::Other("connection refused".into())));
    let mut client = kubelet.spdy(FORWARD, "portforward.k8s.io", "portforward.k8s.io").await;
    pair(&mut client, 1, "0").await;
    let text = b"error forwarding port 80 to pod web, uid u1: connection refused".to_vec();
    assert_eq!(client.until(Got::Fin(1)).await, [Got::Data(1, text), Got::Reset(3)]);
    // The connection serves the next one.
    let mut pod = kubelet.dial();
    pair(&mut client, 5, "1").await;
    client.data(7, b"x").await;
    assert_eq!(pod.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn wrong_forward_streams_are_reset() {
    let kubelet = Kubelet::new();
    let mut client = kubelet.spdy(FORWARD, "portforward.k8s.io", "portforward.k8s.io").await;
    let wrong: [&[(&str, &str)]; 4] = [
        &[("streamtype", "data"), ("requestid", "1")],
        &[("streamtype", "data"), ("port", "0"), ("requestid", "1")],
        &[("streamtype", "data"), ("port", "http"), ("requestid", "1")],
        &[("streamtype", "stdin"), ("port", "80"), ("requestid", "1")],
    ];
    for (number, headers) in (0..).zip(wrong) {
        client.opened(2 * number + 1, headers).await;
        assert_eq!(client.next().await, Got::Reset(2 * number + 1));
    }
    // The same half twice.
    client.opened(21, &[("streamtype", "data"), ("port", "80"), ("requestid", "1")]).await;
    client.opened(23, &[("streamtype", "data"), ("port", "80"), ("requestid", "1")]).await;
    assert_eq!(client.next().await, Got::Reset(23));
}

#[tokio::test]
async fn forward_by_spdy_inside_a_websocket() {
    let kubelet = Kubelet::new();
    let mut pod = kubelet.dial();
    let socket = kubelet.socket(FORWARD, "SPDY/3.1+portforward.k8s.io").await;
    let mut client = TestClient::new(crate::stream::tunnel::Tunnel::new(socket));
    client.opened(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "0")]).await;
    client.opened(3, &[("streamtype", "data"), ("port", "80"), ("requestid", "0")]).await;
    client.data(3, &[7; 100_000]).await;
    client.fin(3).await;
    let mut seen = Vec::new();
    pod.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen.len(), 100_000);
    pod.write_all(b"answer").await.unwrap();
    drop(pod);
    let all = client.until(Got::Fin(1)).await;
    assert!(all.contains(&Got::Data(3, b"answer".into())) && all.contains(&Got::Fin(3)), "{all:?}");
    drop(client);
    kubelet.ends().await;
}

#[tokio::test]
async fn forward_by_channels() {
    let kubelet = Kubelet::new();
    let (mut http, _other) = (kubelet.dial(), kubelet.dial());
    let mut socket = kubelet.socket(&format!("{FORWARD}?ports=80,8080"), "v4.channel.k8s.io").await;
    let mut greetings = Vec::new();
    for _ in 0..4 {
        greetings.push(socket.next().await.unwrap().unwrap().into_data().to_vec());
    }
    greetings.sort();
    assert_eq!(greetings, [[0, 80, 0], [1, 80, 0], [2, 0x90, 0x1f], [3, 0x90, 0x1f]]);
    send(&mut socket, b"\x00ping").await;
    let mut buffer = [0; 4];
    http.read_exact(&mut buffer).await.unwrap();
    http.write_all(b"pong").await.unwrap();
    assert_eq!(message(&mut socket).await, (0, "pong".into()));
    drop(socket);
    let mut end = Vec::new();
    http.read_to_end(&mut end).await.unwrap();
    kubelet.ends().await;
}

#[tokio::test]
async fn a_channel_forward_that_fails_says_why_and_closes() {
    let kubelet = Kubelet::new();
    kubelet.script.dials.lock().unwrap().push_back(Err(rt::Error::Other("refused".into())));
    let mut socket = kubelet.socket(&format!("{FORWARD}?ports=80"), "portforward.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 0);
    assert_eq!(message(&mut socket).await.0, 1);
    assert_eq!(
        message(&mut socket).await,
        (1, "error forwarding port 80 to pod web, uid u1: refused".into())
    );
    closed(socket).await;
}

async fn body(mut connection: DuplexStream) -> String {
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn logs_are_a_body() {
    let kubelet = Kubelet::new();
    let line = |text: &'static str| Ok(Output::Stdout(Bytes::from_static(text.as_bytes())));
    let lines = [line("2026-11-22T15:00:00.000000000Z one\n"), line("2026-11-22T15:00:01.000000000Z two\n")];
    *kubelet.script.logs.lock().unwrap() = Some(futures::stream::iter(lines).boxed());
    let path = "/containerLogs/default/web/init?tailLines=2";
    let (code, head, connection) = kubelet.request(path, &[("Connection", "close")]).await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain"), "{head}");
    assert_eq!(body(connection).await, "8\r\none\ntwo\n\r\n0\r\n\r\n");
    assert_eq!(kubelet.script.asked(), ["logs id-init follow=false tail=Some(2)"]);
    let (code, message) = kubelet.status(path, &[]).await;
    assert_eq!((code, message.as_str()), (404, "the log not found"));
}

#[tokio::test]
async fn a_followed_log_comes_as_it_is_written_and_ends_with_the_kubelet() {
    let kubelet = Kubelet::new();
    let (lines, log) = mpsc::channel(1);
    *kubelet.script.logs.lock().unwrap() = Some(ReceiverStream::new(log).boxed());
    let path = "/containerLogs/default/web/app?follow=true";
    let (_, _, mut connection) = kubelet.request(path, &[("Connection", "close")]).await;
    for _ in 0..3 {
        lines.send(Ok(Output::Stdout(Bytes::from_static(b"2026-11-22T15:00:00Z x\n")))).await.unwrap();
        let mut chunk = [0; 7];
        connection.read_exact(&mut chunk).await.unwrap();
        assert_eq!(&chunk, b"2\r\nx\n\r\n");
    }
    kubelet.state.token.cancel();
    assert_eq!(body(connection).await, "0\r\n\r\n");
    lines.closed().await;
    kubelet.ends().await;
}

#[tokio::test]
async fn logs_come_over_a_websocket_too() {
    let kubelet = Kubelet::new();
    for (protocol, text) in [("binary.k8s.io", "x\n"), ("base64.binary.k8s.io", "eAo=")] {
        let line = Ok(Output::Stderr(Bytes::from_static(b"2026-11-22T15:00:00Z x\n")));
        *kubelet.script.logs.lock().unwrap() = Some(futures::stream::iter([line]).boxed());
        let mut socket = kubelet.socket("/containerLogs/default/web/app", protocol).await;
        assert_eq!(socket.next().await.unwrap().unwrap().into_data(), text);
        closed(socket).await;
    }
    kubelet.ends().await;
}

#[tokio::test]
async fn the_kubelet_is_healthy() {
    let kubelet = Kubelet::new();
    let (code, _, _) = kubelet.request("/healthz", &[]).await;
    assert_eq!(code, 200);
}
