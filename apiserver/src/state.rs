//! What every request can reach: put together once by `Server::bind`, shared by all handlers.

use crate::{
    admission::Chain,
    audit::Audit,
    auth::{Authenticator, Authorizer},
    config::Config,
    dial::NodeDialer,
    handlers::forward::Forwarder,
    kinds::AnyKind,
    lanes::{self, Lanes},
    latch::Latches,
    metrics::Metrics,
    registry::{Registry, allocate::Allocator},
};
use std::{ops::Deref, sync::Arc, time::Duration};
use storage::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bounds that tests make small.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub lanes: lanes::Bounds,
    /// Largest request body: Kubernetes' own limit, twice etcd's.
    pub body_bytes: usize,
    /// How long a request that is no stream may take.
    pub request: Duration,
    /// About how often a watch that asked for bookmarks gets one.
    pub bookmark: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lanes: lanes::Bounds::default(),
            body_bytes: 3 * 1024 * 1024,
            request: Duration::from_secs(60),
            bookmark: Duration::from_secs(60),
        }
    }
}

/// What an [`App`] is made of.
pub struct Parts {
    pub config: Config,
    pub store: Arc<dyn Store>,
    pub kinds: &'static [&'static dyn AnyKind],
    pub dialer: Arc<dyn NodeDialer>,
    pub authenticator: Authenticator,
    pub authorizer: Arc<Authorizer>,
    pub chain: Chain,
    pub allocator: Allocator,
    pub latches: Latches,
    pub limits: Limits,
    pub audit: Audit,
    /// Cancelled when the server stops: watches end, streams are cut.
    pub stop: CancellationToken,
    /// Every task a request leaves behind.
    pub tasks: TaskTracker,
}

/// The shared state. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<State>);

pub struct State {
    pub config: Config,
    pub registry: Registry,
    /// How requests reach kubelets and pods.
    pub forwarder: Forwarder,
    pub authenticator: Authenticator,
    pub authorizer: Arc<Authorizer>,
    pub latches: Latches,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    pub audit: Audit,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    pub(crate) lanes: Lanes,
}

impl App {
    pub fn new(parts: Parts) -> Self {
        let registry = Registry::new(parts.store, parts.kinds, parts.chain, parts.allocator);
        Self(Arc::new(State {
            registry,
            config: parts.config,
            forwarder: Forwarder::new(parts.dialer, parts.tasks.clone(), parts.stop.clone()),
            authenticator: parts.authenticator,
            authorizer: parts.authorizer,
            latches: parts.latches,
            metrics: Arc::default(),
            audit: parts.audit,
            lanes: Lanes::new(parts.limits.lanes),
            limits: parts.limits,
            stop: parts.stop,
            tasks: parts.tasks,
        }))
    }
}

impl Deref for App {
    type Target = State;
    fn deref(&self) -> &State {
        &self.0
    }
}
