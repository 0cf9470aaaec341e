//! A node: it turns pods bound to it into containers and reports what became of them.
//!
//! The kubelet is level-driven. Truth about the wish is the API's pods (through shared informers); truth about the
//! present is the labels and states of the containers. It keeps no state of its own that matters: a restarted
//! kubelet adopts what runs. It writes only through `kube::Client` and touches only containers with its labels.

mod backoff;
pub mod config;
mod container_plan;
mod downward;
mod env;
pub mod netlink;
mod objects;
mod pod_machine;
pub mod pods;
pub mod proxy;
pub mod runtime;
pub mod server;
mod status;
pub mod stream;
mod volume;

pub use config::{Cidr, Config};

use client::Informers;
use runtime::{BoxStreamIo, Runtime};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// One node's kubelet. Cheap to clone: `run` one, give the others to whoever brings connections.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    client: kube::Client,
    informers: Informers,
    runtime: Arc<dyn Runtime>,
    lookup: pods::Lookup,
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Server {
    /// Takes its parts; nothing happens before `run`.
    pub fn bind(
        config: Config,
        client: kube::Client,
        informers: Informers,
        runtime: Arc<dyn Runtime>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                client,
                informers,
                runtime,
                lookup: pods::Lookup::default(),
                token: CancellationToken::new(),
                tracker: TaskTracker::new(),
            }),
        }
    }

    /// Registers the node and keeps its pods until `token` is cancelled. Containers live on.
    pub async fn run(&self, token: CancellationToken) {
        let inner = &self.inner;
        let _ = (&inner.config, &inner.client, &inner.informers);
        token.cancelled().await;
        inner.token.cancel();
        inner.tracker.close();
        inner.tracker.wait().await;
    }

    /// Serves the kubelet's API (HTTP/1.1 with upgrades) on a connection, on a task of its own.
    pub fn serve_connection(&self, stream: BoxStreamIo) {
        let inner = &self.inner;
        let state = server::State {
            lookup: inner.lookup.clone(),
            runtime: Arc::clone(&inner.runtime),
            token: inner.token.clone(),
            tracker: inner.tracker.clone(),
        };
        inner.tracker.spawn(server::serve(stream, state));
    }

    /// Which containers this node's pods have.
    pub fn lookup(&self) -> &pods::Lookup {
        &self.inner.lookup
    }
}
