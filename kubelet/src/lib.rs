//! A node: it turns pods bound to it into containers and reports what became of them.
//!
//! The kubelet is level-driven. Truth about the wish is the API's pods (through shared informers); truth about the
//! present is the labels and states of the containers. It keeps no state of its own that matters: a restarted
//! kubelet adopts what runs. It writes only through `kube::Client` and touches only containers with its labels.

mod addresses;
mod admission;
mod agent;
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
mod backoff;
pub mod config;
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
mod container_plan;
mod container_spec;
mod downward;
mod env;
mod gc;
mod hooks;
pub mod netlink;
mod node;
mod node_context;
mod objects;
mod pod_files;
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
mod pod_machine;
mod pod_worker;
mod pod_workers;
pub mod pods;
mod probe;
pub mod proxy;
mod resize;
pub mod returning;
pub mod runtime;
pub mod server;
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
mod status;
pub mod stream;
#[cfg(test)]
mod testing;
mod volume;

/// The pure parts, for simulations.
#[cfg(feature = "testing")]
pub mod pure {
    pub mod machine {
        pub use crate::pod_machine::*;
    }
    pub mod plan {
        pub use crate::container_plan::*;
    }
    pub mod returning {
        pub use crate::returning::*;
    }
    pub mod status {
        pub use crate::status::*;
    }
    pub use crate::{
        pod_worker::effects::last_word,
        pod_workers::{Turn, turn},
        volume::{Claims, bound_volume, claim_names},
    };
}

pub use config::Config;

pub use runtime::docker::{Docker, kill_node, reset, running, running_by_node};

use agent::Agent;
use api::guard::contained;
use client::{Informers, Recorder};
use node_context::Context;
use runtime::{BoxStreamIo, Runtime};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Streams and workers get so long to end when the kubelet stops; containers are not concerned.
const STOP: Duration = Duration::from_secs(5);

/// One node's kubelet. Cheap to clone: `run` one, give the others to whoever brings connections.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    context: Arc<Context>,
    informers: Informers,
    ready: watch::Sender<bool>,
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Server {
    /// Takes its parts; nothing happens before `run`. Must be called within a tokio runtime.
    pub fn bind(
        config: Config,
        client: kube::Client,
        informers: Informers,
        runtime: Arc<dyn Runtime>,
    ) -> Self {
        let token = CancellationToken::new();
        let tracker = TaskTracker::new();
        let recorder = Recorder::new(client.clone(), "kubelet", &config.node_name, &tracker, token.clone());
        let context = Context {
            machine: node::machine(&config),
            addresses: addresses::Addresses::new(config.pod_cidr),
            services: informers.store(),
            lookup: pods::Lookup::default(),
            config,
            client,
            runtime,
            recorder,
        };
        let ready = watch::Sender::new(false);
        Self { inner: Arc::new(Inner { context: Arc::new(context), informers, ready, token, tracker }) }
    }

    /// Registers the node and keeps its pods until `token` is cancelled. Containers live on.
    pub async fn run(&self, token: CancellationToken) {
        let inner = &self.inner;
        let state = watch::Sender::new(Some(agent::NotReady::Engine("not asked yet".to_owned())));
        let node = node::NodeAgent::new(Arc::clone(&inner.context), state.subscribe());
        let agent = Agent::new(
            Arc::clone(&inner.context),
            &inner.informers,
            state,
            inner.token.clone(),
            inner.tracker.clone(),
        );
        inner.tracker.spawn(node.run(inner.ready.clone(), inner.token.clone()));
        inner.tracker.spawn(agent.run(inner.token.clone()));
        token.cancelled().await;
        inner.token.cancel();
        inner.tracker.close();
        if tokio::time::timeout(STOP, inner.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = inner.tracker.len(), "tasks of the kubelet did not end in time");
        }
    }

    /// Waits until the node has been reported Ready for the first time.
    pub async fn ready(&self) {
        // The sender is ours and lives as long as we do.
        let _ = self.inner.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Serves the kubelet's API (HTTP/1.1 with upgrades) on a connection, on a task of its own.
    pub fn serve_connection(&self, stream: BoxStreamIo) {
        let inner = &self.inner;
        let state = server::State {
            lookup: inner.context.lookup.clone(),
            runtime: Arc::clone(&inner.context.runtime),
            token: inner.token.clone(),
            tracker: inner.tracker.clone(),
        };
        inner.tracker.spawn(contained(server::serve(stream, state)));
    }

    /// Which containers this node's pods have.
    pub fn lookup(&self) -> &pods::Lookup {
        &self.inner.context.lookup
    }
}
