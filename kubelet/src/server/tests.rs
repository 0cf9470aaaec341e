//! The server over an in-memory connection, with a runtime that does as the test says.

mod logs;
mod port_forward;
mod streams;

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
    async fn update_container(&self, _: &str, _: &rt::Resources) -> rt::Result<()> {
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
            resources: None,
            made_with: String::new(),
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
async fn the_kubelet_is_healthy() {
    let kubelet = Kubelet::new();
    let (code, _, _) = kubelet.request("/healthz", &[]).await;
    assert_eq!(code, 200);
}
