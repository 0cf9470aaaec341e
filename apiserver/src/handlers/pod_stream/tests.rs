use super::*;
use crate::{
    admission::testing::{Objects, object},
    handlers::testing::{Kubelet, client, echoing_kubelet, forwarder, message, text},
};
use axum::{Router, response::IntoResponse};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

fn pod(name: &str, spec: Value) -> Value {
    object("v1", "Pod", "default", name, json!({"spec": spec}))
}

fn cluster() -> Objects {
    let one = json!([{"name": "a"}]);
    let two = json!([{"name": "a"}, {"name": "b"}]);
    Objects::new([
        pod("web", json!({"nodeName": "n1", "containers": one})),
        pod("pair", json!({"nodeName": "n1", "containers": two, "initContainers": [{"name": "i"}]})),
        pod("homeless", json!({"containers": one})),
        pod("lost", json!({"nodeName": "n9", "containers": one})),
    ])
}

/// Sends one request for a stream of a pod.
async fn ask(
    kubelet: Router,
    subresource: Subresource,
    name: &'static str,
    query: &str,
    headers: &[(&str, &str)],
) -> http::Response<hyper::body::Incoming> {
    let (forwarder, cluster) = (forwarder(kubelet), Arc::new(cluster()));
    let mut sender = client(move |request| {
        let (forwarder, cluster) = (forwarder.clone(), cluster.clone());
        async move { stream(&forwarder, &*cluster, subresource, "default", name, request).await }
    })
    .await;
    let mut request = Request::builder().uri(format!("/{query}")).header("host", "api");
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
}

const WEBSOCKET: [(&str, &str); 5] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-version", "13"),
    ("sec-websocket-protocol", "v5.channel.k8s.io"),
];
const SPDY: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "SPDY/3.1"),
    ("x-stream-protocol-version", "v4.channel.k8s.io"),
    ("authorization", "Bearer secret"),
];

/// What the kubelet saw, and proof that both directions are joined to their end.
async fn joined(response: http::Response<hyper::body::Incoming>) -> String {
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut stream = BufReader::new(stream);
    let mut seen = String::new();
    while !seen.ends_with("\n--\n") {
        stream.read_line(&mut seen).await.unwrap();
    }
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    // Our end is passed on, and the kubelet's comes back.
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    seen
}

#[tokio::test]
async fn exec_over_a_websocket() {
    let query =
        "?command=sh&command=-c&command=echo+%22a%26b%22&command=&stdin=true&stdout=true&stderr=false&tty=1";
    let response = ask(echoing_kubelet(), Subresource::Exec, "web", query, &WEBSOCKET).await;
    assert_eq!(response.headers()["upgrade"], "websocket");
    let seen = joined(response).await;
    let line = seen.lines().next().unwrap();
    assert_eq!(
        line,
        "GET /exec/default/web/a?input=1&output=1&tty=1&command=sh&command=-c&command=echo+%22a%26b%22&command="
    );
    for (key, value) in WEBSOCKET {
        assert!(seen.contains(&format!("{key}: {value}")), "{key} in {seen}");
    }
}

#[tokio::test]
async fn attach_over_spdy() {
    let response = ask(echoing_kubelet(), Subresource::Attach, "pair", "?container=b&stdout=1", &SPDY).await;
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    let seen = joined(response).await;
    assert!(seen.starts_with("GET /attach/default/pair/b?output=1\n"), "{seen}");
    assert!(seen.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{seen}");
    assert!(!seen.contains("secret"), "the client's credential reached the kubelet: {seen}");
}

#[tokio::test]
async fn port_forward_needs_no_container() {
    let response = ask(echoing_kubelet(), Subresource::PortForward, "pair", "", &SPDY).await;
    assert!(joined(response).await.starts_with("GET /portForward/default/pair\n"));
}

#[tokio::test]
async fn an_upgrade_the_kubelet_refuses_comes_back_as_it_is() {
    let kubelet = Router::new().fallback(|| async { (StatusCode::FORBIDDEN, "no such container") });
    let response = ask(kubelet, Subresource::Exec, "web", "?command=sh", &WEBSOCKET).await;
    assert_eq!(
        (response.status(), text(response).await.as_str()),
        (StatusCode::FORBIDDEN, "no such container")
    );
}

#[tokio::test]
async fn logs_are_streamed_as_they_come() {
    let query = "?follow=true&tailLines=5&timestamps=true&pretty=true&sinceTime=2026-01-01T00:00:00%2B01:00";
    let response = ask(echoing_kubelet(), Subresource::Log, "web", query, &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let seen = text(response).await;
    assert_eq!(
        seen.lines().next().unwrap(),
        "GET /containerLogs/default/web/a?follow=true&tailLines=5&timestamps=true&sinceTime=2026-01-01T00%3A00%3A00%2B01%3A00"
    );
    // And over a WebSocket.
    let response = ask(echoing_kubelet(), Subresource::Log, "web", "?tailLines=5", &WEBSOCKET).await;
    let seen = joined(response).await;
    assert!(seen.starts_with("GET /containerLogs/default/web/a?tailLines=5"), "{seen}");
    // As Kubernetes: no node yet, no log yet.
    let response = ask(echoing_kubelet(), Subresource::Log, "homeless", "", &[]).await;
    assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, ""));
}

#[tokio::test]
async fn the_kubelets_words_become_a_status() {
    let words = "container \"a\" in pod \"web\" is waiting to start: ContainerCreating";
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "message": words}).to_string();
    for text in [words.to_owned(), status] {
        let kubelet =
            Router::new().fallback(move || async move { (StatusCode::BAD_REQUEST, text).into_response() });
        let response = ask(kubelet, Subresource::Log, "web", "", &[]).await;
        assert_eq!((response.status(), message(response).await.as_str()), (StatusCode::BAD_REQUEST, words));
    }
}

#[tokio::test]
async fn refusals() {
    use Subresource::{Attach, Exec, Log, PortForward};
    let choose = "a container name must be specified for pod pair, choose one of: [a b] or one of the init containers: [i]";
    let table: [(_, _, _, &[_], _, _); 13] = [
        (Exec, "ghost", "", &WEBSOCKET, 404, "pods \"ghost\" not found"),
        (Exec, "homeless", "", &WEBSOCKET, 400, "pod homeless does not have a host assigned"),
        (PortForward, "homeless", "", &SPDY, 400, "pod homeless does not have a host assigned"),
        (Exec, "pair", "", &WEBSOCKET, 400, choose),
        (Log, "pair", "", &[], 400, choose),
        (Attach, "web", "?container=zz", &WEBSOCKET, 400, "container zz is not valid for pod web"),
        (Exec, "web", "?command=sh", &[], 400, "Upgrade request required"),
        (
            Exec,
            "web",
            "?command=sh",
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            400,
            "unable to upgrade: expected one of spdy/3.1, websocket in Upgrade",
        ),
        (Exec, "lost", "", &WEBSOCKET, 503, "error dialing backend: node \"n9\": not connected"),
        (
            Log,
            "web",
            "?tailLines=-1",
            &[],
            422,
            "PodLogOptions \"web\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
        ),
        (Log, "web", "?tailLines=x", &[], 400, "tailLines: \"x\" is not an integer"),
        (
            Log,
            "web",
            "?sinceSeconds=0",
            &[],
            422,
            "PodLogOptions \"web\" is invalid: sinceSeconds: Invalid value: 0: must be greater than 0",
        ),
        (Log, "web", "?sinceTime=yesterday", &[], 400, "sinceTime: \"yesterday\" is not an RFC 3339 time"),
    ];
    for (subresource, name, query, headers, code, expected) in table {
        let response = ask(echoing_kubelet(), subresource, name, query, headers).await;
        assert_eq!(response.status().as_u16(), code, "{subresource:?} {name}{query}");
        assert_eq!(message(response).await, expected, "{subresource:?} {name}{query}");
    }
}

/// Answers whatever it is asked with the same bytes.
struct Garbled(Vec<u8>);

#[async_trait::async_trait]
impl crate::dial::NodeDialer for Garbled {
    async fn dial(&self, _node: &str) -> std::io::Result<Box<dyn crate::dial::Stream>> {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        let answer = self.0.clone();
        tokio::spawn(async move {
            let mut asked = [0; 1024];
            let _ = theirs.read(&mut asked).await;
            let _ = theirs.write_all(&answer).await;
        });
        Ok(Box::new(ours))
    }
}

/// What a client that sends these bytes, and no more, is answered. Nothing of it goes on when both have ended.
async fn exchanged(dialer: Arc<dyn crate::dial::NodeDialer>, tasks: TaskTracker, sent: &[u8]) -> Vec<u8> {
    let forwarder = Arc::new(Forwarder::new(dialer, tasks.clone(), CancellationToken::new()));
    let cluster = Arc::new(cluster());
    let router = Router::new().fallback(move |request: Request<Body>| {
        let (forwarder, cluster) = (forwarder.clone(), cluster.clone());
        async move {
            let answer = stream(&forwarder, &*cluster, Subresource::Exec, "default", "web", request).await;
            answer.unwrap_or_else(|error| {
                assert!(!matches!(error, ApiError::Internal(_)), "{error}");
                error.into_response()
            })
        }
    });
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    let peer = crate::auth::Peer::tls(None, ([192, 0, 2, 7], 4321).into());
    let serve = crate::listen::serve_stream(
        theirs,
        crate::listen::WithPeer::new(router, peer),
        CancellationToken::new(),
    );
    let client = async {
        let _ = ours.write_all(sent).await;
        let _ = ours.shutdown().await;
        let mut answer = Vec::new();
        let _ = ours.read_to_end(&mut answer).await;
        answer
    };
    let ended = async {
        let ((), answer) = tokio::join!(serve, client);
        tasks.close();
        tasks.wait().await;
        answer
    };
    let late = "a stream goes on though both its ends are gone";
    tokio::time::timeout(std::time::Duration::from_secs(60), ended).await.expect(late)
}

const HANDSHAKES: [&[u8]; 3] = [
    b"GET /?command=sh&stdin=1&tty=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
      Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
      Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n\x82\x86\0\0\0\0\0hello",
    b"POST /?command=a&stdout=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
      X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n\x80\x03\0\x06\0\0\0\x04\0\0\0\x01",
    b"POST /?command=a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
      Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
];

#[test]
fn fuzz_upgrade_handshakes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let switched = |answer: &[u8]| answer.starts_with(b"HTTP/1.1 101");
    api::fuzz::fuzz(300, &HANDSHAKES, |input| {
        let tasks = TaskTracker::new();
        let kubelet = Kubelet { node: "n1", router: echoing_kubelet(), tasks: tasks.clone() };
        switched(&runtime.block_on(exchanged(Arc::new(kubelet), tasks, input)))
    });
    // And kubelets that answer anything.
    let answers: [&[u8]; 4] = [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n\x80\x03\0\x06\0\0\0\x04\0\0\0\x01",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 \r\n\r\n",
    ];
    api::fuzz::fuzz(300, &answers, |input| {
        let kubelet = Arc::new(Garbled(input.to_vec()));
        switched(&runtime.block_on(exchanged(kubelet, TaskTracker::new(), HANDSHAKES[1])))
    });
}
