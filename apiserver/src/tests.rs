//! The real router with a real store in memory, without a socket: every rule of the generic path as a client sees it.

mod addresses;
mod admission;
mod apply;
mod custom;
mod delete;
mod every_kind;
mod fuzz;
mod list;
mod server;
mod subresources;
mod watch;
mod write;

use crate::{
    admission::Chain,
    auth::{Authenticator, Authorizer, Peer, User},
    config::Config,
    dial::{NodeDialer, Power, PowerError, Stream},
    kinds,
    latch::Latches,
    listen::WithPeer,
    registry::allocate::Allocator,
    state::{App, Limits, Parts},
};
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{io, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

struct NoNodes;

#[async_trait::async_trait]
impl NodeDialer for NoNodes {
    async fn dial(&self, node: &str) -> io::Result<Box<dyn Stream>> {
        assert_ne!(node, "panic", "asked to");
        Err(io::Error::other(format!("no node {node}")))
    }

    /// `mine` runs and can be stopped.
    async fn power(&self, node: &str, what: Power, dry_run: bool) -> Result<String, PowerError> {
        match (node, what) {
            ("mine", Power::Start) => Err(PowerError::Already("it runs".to_owned())),
            ("mine", _) => Ok(format!("{what:?} dry={dry_run}")),
            _ => Err(PowerError::NotOurs(vec!["mine".to_owned()])),
        }
    }
}

fn config() -> Config {
    Config {
        bind: Vec::new(),
        advertise: [127, 0, 0, 1].into(),
        serving_cert: String::new(),
        serving_key: String::new(),
        client_ca: String::new(),
        service_account_key: String::new(),
        service_cidr: "10.96.0.0/16".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        node_ports: (30000, 32767),
        toleration_seconds: 300,
        audit_log: None,
    }
}

fn authenticator() -> Authenticator {
    Authenticator::new(crate::auth::token::tests::signer())
}

/// A server in memory. Requests come from a component of the process unless they carry another [`Peer`].
struct Server {
    app: App,
    router: WithPeer<crate::router::Router>,
}

/// An answer, read whole.
struct Answer {
    code: StatusCode,
    headers: HeaderMap,
    bytes: bytes::Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
    #[track_caller]
    fn expect(self, code: u16) -> Value {
        assert_eq!(self.code.as_u16(), code, "{}", self.text());
        self.json()
    }
    /// A failure: its code, reason and message.
    #[track_caller]
    fn refused(self, code: u16, reason: &str, message: &str) -> Value {
        let status = self.expect(code);
        assert_eq!(status["kind"], "Status", "{status}");
        assert_eq!(status["status"], "Failure", "{status}");
        assert_eq!(status["reason"], reason, "{status}");
        let text = status["message"].as_str().unwrap();
        assert!(text.contains(message), "{text:?} does not contain {message:?}");
        status
    }
    fn warnings(&self) -> Vec<String> {
        self.headers.get_all(header::WARNING).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }
}

impl Server {
    fn new() -> Self {
        Self::with(Limits::default(), storage::Limits::default())
    }

    fn with(limits: Limits, storage: storage::Limits) -> Self {
        Self::made(limits, storage, Chain::new(Vec::new()))
    }

    /// With the admission of a real server, and a namespace `default` to make things in.
    async fn admitting() -> Self {
        let chain = Chain::standard(&config(), &Arc::new(Authorizer::with_defaults()));
        let server = Self::made(Limits::default(), storage::Limits::default(), chain);
        server.create("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await;
        let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
        server.create("/api/v1/namespaces/default/serviceaccounts", &account).await;
        server
    }

    fn made(limits: Limits, storage: storage::Limits, chain: Chain) -> Self {
        let app = App::new(Parts {
            config: config(),
            store: Arc::new(storage::MemoryStore::new(storage).unwrap()),
            kinds: kinds::all(),
            dialer: Arc::new(NoNodes),
            authenticator: authenticator(),
            authorizer: Arc::new(Authorizer::with_defaults()),
            chain,
            allocator: Allocator::new("10.96.0.0/16", (30000, 32767)).unwrap(),
            latches: Latches::default(),
            limits,
            audit: crate::audit::Audit::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let user = Peer::internal(User::component("test"));
        let router = WithPeer::new(crate::router::router(app.clone()), user);
        Self { app, router }
    }

    fn client(&self) -> kube::Client {
        kube::Client::new(self.router.clone(), "default")
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { code: parts.status, headers: parts.headers, bytes: body.collect().await.unwrap().to_bytes() }
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Body>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }
    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Body::empty(), &[]).await
    }
    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, body.to_string(), &[("content-type", "application/json")]).await
    }
    async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path, body.to_string(), &[("content-type", "application/json")]).await
    }
    async fn delete(&self, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.call("DELETE", path, body, &[]).await
    }
    /// `how`: `json`, `merge`, `strategic-merge`.
    async fn patch(&self, path: &str, how: &str, body: &Value) -> Answer {
        let content_type = format!("application/{how}-patch+json");
        self.call("PATCH", path, body.to_string(), &[("content-type", &content_type)]).await
    }
    async fn create(&self, path: &str, body: &Value) -> Value {
        self.post(path, body).await.expect(201)
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";

fn map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 30, "containers": [{"name": "a", "image": "x"}]},
    })
}

fn stateful_set(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "serviceName": "s", "replicas": 2, "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "a", "image": "x"}]},
            },
        },
    })
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}
