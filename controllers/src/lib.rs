//! The control loops: each reads the shared informers, asks a pure `plan` what must change, and writes it through
//! the API.
//!
//! A controller is one file (with a folder where it is large) and one line in [`TABLE`]. It implements
//! [`run::Controller`]; queues, workers, back-off, deadlines and metrics are [`run`]'s.

pub mod certificates;
pub mod cluster_role_aggregation;
pub mod context;
pub mod deployment;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoints;
mod endpoints_of;
pub mod error;
pub mod garbage;
pub mod load_balancer;
pub mod namespace;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod replica_set;
pub mod resource_quota;
pub mod run;
pub mod scheduler;
pub mod service_account;
pub mod service_cidr;
pub mod stateful_set;
pub mod volumes;

use api::clock::{Clock, RealClock};
use client::Informers;
use context::Ctx;
use futures::future::BoxFuture;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use run::Metrics;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the controllers are told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where dynamically provisioned volumes get their directories.
    pub volumes_dir: PathBuf,
    /// PEM of the cluster's CA: the content of every namespace's `kube-root-ca.crt`.
    pub root_ca: String,
    /// Signs what is asked for and approved; without it nothing is signed.
    pub authority: Option<Arc<certificates::Authority>>,
    pub cluster_cidr: String,
    /// Where the addresses of services come from.
    pub service_cidr: String,
    /// Named as the source of events.
    pub host: String,
    /// Whether the scheduler runs.
    pub scheduler: bool,
    /// Whether everything else runs.
    pub controllers: bool,
    /// How long a node may be silent before it counts as lost.
    pub node_monitor_grace_period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            volumes_dir: PathBuf::new(),
            root_ca: String::new(),
            authority: None,
            cluster_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            host: "minik8s".to_owned(),
            scheduler: true,
            controllers: true,
            node_monitor_grace_period: Duration::from_secs(40),
        }
    }
}

/// As whom a loop asks. Each has only what its own work needs, as in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The user `system:kube-scheduler`.
    Scheduler,
    /// A ServiceAccount of `kube-system`, with the cluster role `system:controller:NAME`.
    Controller(&'static str),
}

type Start = fn(Arc<Ctx>) -> BoxFuture<'static, ()>;

/// Every loop there is, and as whom it works.
const TABLE: &[(Identity, Start)] = &[
    (Identity::Scheduler, |ctx| Box::pin(scheduler::Scheduler::new(ctx).run())),
    (Identity::Controller("statefulset-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), stateful_set::StatefulSets::new(ctx)))
    }),
    (Identity::Controller("deployment-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), deployment::Deployments::new(ctx)))
    }),
    (Identity::Controller("replicaset-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), replica_set::Sets::<ReplicaSet>::new(ctx)))
    }),
    (Identity::Controller("replication-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), replica_set::Sets::<ReplicationController>::new(ctx)))
    }),
    (Identity::Controller("service-account-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), service_account::ServiceAccounts::new(ctx)))
    }),
    (Identity::Controller("root-ca-cert-publisher"), |ctx| {
        Box::pin(run::run(ctx.clone(), service_account::RootCas::new(ctx)))
    }),
    (Identity::Controller("namespace-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), namespace::Namespaces::new(ctx)))
    }),
    (Identity::Controller("node-controller"), |ctx| Box::pin(node_lifecycle::run(ctx))),
    (Identity::Controller("pod-garbage-collector"), |ctx| {
        Box::pin(run::run(ctx.clone(), pod_gc::PodGc::new(ctx)))
    }),
    (Identity::Controller("endpointslice-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), endpoint_slice::EndpointSlices::new(ctx)))
    }),
    (Identity::Controller("endpoint-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), endpoints::EndpointsController::new(ctx)))
    }),
    (Identity::Controller("persistent-volume-binder"), |ctx| {
        Box::pin(run::run(ctx.clone(), volumes::Claims::new(ctx)))
    }),
    (Identity::Controller("persistent-volume-binder"), |ctx| {
        Box::pin(run::run(ctx.clone(), volumes::Volumes::new(ctx)))
    }),
    (Identity::Controller("clusterrole-aggregation-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), cluster_role_aggregation::ClusterRoleAggregation::new(ctx)))
    }),
    (Identity::Controller("service-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), load_balancer::LoadBalancers::new(ctx)))
    }),
    (Identity::Controller("resourcequota-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), resource_quota::ResourceQuotas::new(ctx)))
    }),
    (Identity::Controller("disruption-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), disruption::Disruptions::new(ctx)))
    }),
    (Identity::Controller("certificate-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), certificates::Certificates::new(ctx)))
    }),
    (Identity::Controller("service-cidrs-controller"), |ctx| {
        Box::pin(run::run(ctx.clone(), service_cidr::ServiceCidrs::new(ctx)))
    }),
    (Identity::Controller("generic-garbage-collector"), |ctx| Box::pin(garbage::run(ctx))),
];

/// All control loops of one cluster.
pub struct Server {
    config: Config,
    /// As long as [`TABLE`], and in its order.
    clients: Vec<kube::Client>,
    informers: Informers,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Server {
    /// Takes what it needs; nothing runs yet. `client` makes a client that acts as the identity.
    pub fn bind(config: Config, client: impl Fn(Identity) -> kube::Client, informers: Informers) -> Self {
        let clients = TABLE.iter().map(|(identity, _)| client(*identity)).collect();
        Self { config, clients, informers, clock: Arc::new(RealClock), metrics: Arc::default() }
    }

    /// With another clock, for tests.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Counters of every loop; they live on after the server.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Runs all loops until `token` is cancelled, then waits for them to end.
    pub async fn run(self, token: CancellationToken) {
        let tracker = TaskTracker::new();
        let token = token.child_token();
        for ((identity, start), client) in TABLE.iter().zip(self.clients) {
            let enabled = match identity {
                Identity::Controller(_) => self.config.controllers,
                Identity::Scheduler => self.config.scheduler,
            };
            if enabled {
                tracker.spawn(start(Arc::new(Ctx {
                    client,
                    informers: self.informers.clone(),
                    clock: self.clock.clone(),
                    metrics: self.metrics.clone(),
                    tracker: tracker.clone(),
                    token: token.clone(),
                    config: self.config.clone(),
                })));
            }
        }
        tracker.close();
        tracker.wait().await;
    }
}
