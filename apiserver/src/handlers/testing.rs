//! A client, the forwarding handlers and a fake kubelet, joined by pipes in memory.

use super::forward::Forwarder;
use crate::{
    auth::Peer,
    dial::{NodeDialer, Stream},
    error::ApiError,
    listen::{self, WithPeer},
};
use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{future::Future, io, sync::Arc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const PIPE: usize = 4096;

/// Serves `router` on every connection; knows one node.
pub(crate) struct Kubelet {
    pub(crate) node: &'static str,
    pub(crate) router: Router,
    pub(crate) tasks: TaskTracker,
}

#[async_trait]
impl NodeDialer for Kubelet {
    async fn dial(&self, node: &str) -> io::Result<Box<dyn Stream>> {
        if node != self.node {
            return Err(io::Error::other("not connected"));
        }
        let (ours, theirs) = duplex(PIPE);
        let peer = Peer::tls(None, ([192, 0, 2, 1], 1).into());
        let serve =
            listen::serve_stream(theirs, WithPeer::new(self.router.clone(), peer), CancellationToken::new());
        self.tasks.spawn(serve);
        Ok(Box::new(ours))
    }
}

/// A kubelet that switches protocols where asked to and sends everything back, else says what it was asked.
pub(crate) fn echoing_kubelet() -> Router {
    Router::new().fallback(|mut request: Request| async move {
        let seen = format!("{} {}\n{}", request.method(), request.uri(), listing(request.headers()));
        let Some(upgrade) = request.headers().get(http::header::UPGRADE).cloned() else {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            return format!("{seen}\n{}", String::from_utf8_lossy(&body)).into_response();
        };
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            stream.write_all(seen.as_bytes()).await.unwrap();
            stream.write_all(b"\n--\n").await.unwrap();
            let mut buffer = [0; 256];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..read]).await.unwrap();
            }
        });
        Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", upgrade)
            .header("x-stream-protocol-version", "v4.channel.k8s.io")
            .body(Body::empty())
            .unwrap()
    })
}

fn listing(headers: &http::HeaderMap) -> String {
    let mut lines: Vec<String> =
        headers.iter().map(|(k, v)| format!("{k}: {}", String::from_utf8_lossy(v.as_bytes()))).collect();
    lines.sort();
    lines.join("\n")
}

/// A forwarder whose only node is the kubelet's.
pub(crate) fn forwarder(kubelet: Router) -> Arc<Forwarder> {
    let tasks = TaskTracker::new();
    let kubelet = Kubelet { node: "n1", router: kubelet, tasks: tasks.clone() };
    Arc::new(Forwarder::new(Arc::new(kubelet), tasks, CancellationToken::new()))
}

/// A connection of a client to a server that answers with `handler`.
pub(crate) async fn client<F, R>(handler: F) -> http1::SendRequest<Full<Bytes>>
where
    F: Fn(Request) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Response, ApiError>> + Send + 'static,
{
    let router = Router::new().fallback(move |request: Request| {
        let answer = handler(request);
        async move { answer.await.unwrap_or_else(IntoResponse::into_response) }
    });
    let (ours, theirs) = duplex(PIPE);
    let peer = Peer::tls(None, ([192, 0, 2, 7], 4321).into());
    tokio::spawn(listen::serve_stream(theirs, WithPeer::new(router, peer), CancellationToken::new()));
    let (sender, driver) = http1::handshake(TokioIo::new(ours)).await.unwrap();
    tokio::spawn(driver.with_upgrades());
    sender
}

pub(crate) async fn text(response: http::Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The message of a `Status`.
pub(crate) async fn message(response: http::Response<Incoming>) -> String {
    let status: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(status["kind"], "Status");
    status["message"].as_str().unwrap().to_owned()
}
