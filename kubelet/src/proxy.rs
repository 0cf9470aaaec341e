//! The service proxy: Services, EndpointSlices and pods' host ports become elements of nftables maps, and the
//! kernel does the rest. One for each machine; its table carries the cluster's id.
//!
//! ```text
//!  informers ─► services (pure: what each wants) ─► state (what is where; what changed) ─► kernel (one transaction)
//!  link events, time ─► host (routes, bridge ports, sysctls)
//! ```
//! The table is replaced whole at start, after an error, and when somebody else has changed the kernel's tables;
//! otherwise only elements change. Transactions are atomic: no packet sees half of one. When the process ends the
//! table stays, and services with it.

mod elements;
mod host;
mod kernel;
mod ruleset;
mod services;
mod state;
#[cfg(test)]
mod tests;

pub use crate::netlink::Error;

use api::Cidr;
use client::{Change, Informers, Marks, Store, indexes};
use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kernel::Kernel;
use state::State;
use std::{collections::HashSet, net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often it is checked that nobody has changed what we made (`nft flush ruleset` by a firewall service).
const RESYNC: Duration = Duration::from_secs(30);
/// Pause after a failure of the kernel, doubling.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A container's start is a handful of link events: one look for all.
const SETTLE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub struct Config {
    pub cluster_id: String,
    /// The nodes whose pods are on this machine (several if virtual): the machine itself, then those that have only their
    /// bridge. Service addresses are routed over the first one's.
    pub nodes: Vec<LocalNode>,
    /// All pods' addresses, of all nodes.
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
}

impl Config {
    fn local_nodes(&self) -> services::LocalNodes {
        self.nodes.iter().map(|node| (node.name.clone(), node.network())).collect()
    }
}

impl LocalNode {
    /// By which it is known in the kernel: the address of its pod range.
    fn network(&self) -> Ipv4Addr {
        self.pod_cidr.address_and_mask().0
    }
}

#[derive(Clone, Debug)]
pub struct LocalNode {
    pub name: String,
    /// The Linux bridge its pods are on; it may come later.
    pub bridge: String,
    pub pod_cidr: Cidr,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
}

/// For the node's conditions.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    Starting,
    /// Services work; `problems` says what does not, each with what to do.
    Ready {
        problems: Vec<String>,
    },
    /// The kernel refused; it is tried again, unless the privilege is missing.
    Failed {
        not_permitted: bool,
        message: String,
    },
}

/// Whose wishes have to be looked at again: `namespace/name`.
#[derive(PartialEq, Eq, Hash)]
enum Mark {
    Service(String),
    Pod(String),
}

pub struct Proxy {
    config: Arc<Config>,
    local_nodes: services::LocalNodes,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    pods: Store<Pod>,
    marks: Marks<Mark>,
    status: watch::Sender<Status>,
}

fn key(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

fn has_host_port(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.flat_map(|c| c.ports.iter().flatten()).any(|p| p.host_port.is_some_and(|h| h > 0))
}

impl Proxy {
    /// Begins to follow the cluster; the kernel is not touched before `run`.
    pub fn new(config: Config, informers: &Informers) -> Self {
        let (services, slices, pods) = (informers.store(), informers.store(), informers.store());
        indexes::index_slices(&slices);
        let marks = Marks::default();
        let m = marks.clone();
        services
            .on_change(move |change: &Change<Service>| m.mark(Mark::Service(key(&change.object().metadata))));
        let m = marks.clone();
        slices.on_change(move |change: &Change<EndpointSlice>| {
            // The label may have moved the slice from one service to another.
            if let Change::Applied { old: Some(old), .. } = change {
                indexes::service_of(old).into_iter().for_each(|key| m.mark(Mark::Service(key)));
            }
            indexes::service_of(change.object()).into_iter().for_each(|key| m.mark(Mark::Service(key)));
        });
        let m = marks.clone();
        pods.on_change(move |change: &Change<Pod>| {
            if has_host_port(change.object()) {
                m.mark(Mark::Pod(key(&change.object().metadata)));
            }
        });
        Self {
            local_nodes: config.local_nodes(),
            config: Arc::new(config),
            services,
            slices,
            pods,
            marks,
            status: watch::Sender::new(Status::Starting),
        }
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Keeps the kernel in step until `token` is cancelled; what it made stays. Ends early only if the process
    /// may not change the kernel's tables.
    pub async fn run(self, token: CancellationToken) -> Result<(), Error> {
        let tracker = TaskTracker::new();
        let child = token.child_token();
        let result = token.run_until_cancelled(self.keep(&tracker, child.clone())).await.unwrap_or(Ok(()));
        if let Err(error) = &result {
            self.fail(error);
        }
        child.cancel();
        tracker.close();
        tracker.wait().await;
        result
    }

    /// Removes all that the proxy of a cluster has put into the kernel's tables. The service route goes with the
    /// bridge.
    pub async fn cleanup(cluster_id: &str) -> Result<(), Error> {
        let cluster_id = cluster_id.to_owned();
        blocking(&TaskTracker::new(), move || kernel::cleanup(&cluster_id)).await
    }

    fn fail(&self, error: &Error) {
        let not_permitted = matches!(error, Error::NotPermitted);
        self.status.send_replace(Status::Failed { not_permitted, message: error.to_string() });
    }

    async fn keep(&self, tracker: &TaskTracker, token: CancellationToken) -> Result<(), Error> {
        let config = self.config.clone();
        let (mut host, mut events) = host::Host::open(config.clone(), tracker, token)?;
        let mut kernel = blocking(tracker, move || Kernel::open(config)).await?;
        let mut problems = host.ensure().await;
        let mut firewall = None;
        tokio::join!(self.services.synced(), self.slices.synced(), self.pods.synced());

        let mut state = State::default();
        self.update(&mut state, self.marks.take_now());
        let mut whole = true;
        let mut retry = FIRST_RETRY;
        let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
        resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let changes = if whole { state.everything() } else { state.take_changes() };
            let (back, result, docker) = blocking(tracker, move || {
                let result = if whole { kernel.replace(&changes) } else { kernel.change(&changes) };
                let docker = (whole && result.is_ok()).then(|| kernel.allow_in_docker());
                Ok((kernel, result, docker))
            })
            .await?;
            kernel = back;
            if let Some(docker) = docker {
                firewall = self.firewall(docker);
            }
            match result {
                Ok(()) => {
                    whole = false;
                    retry = FIRST_RETRY;
                    self.ready(&problems, &firewall);
                }
                Err(Error::NotPermitted) => return Err(Error::NotPermitted),
                Err(error) => {
                    tracing::warn!(%error, whole, "the kernel refused the service table");
                    if whole {
                        self.fail(&error);
                        tokio::time::sleep(retry).await;
                        retry = (retry * 2).min(LAST_RETRY);
                        self.update(&mut state, self.marks.take_now());
                    }
                    // Our account may be wrong: make all anew.
                    whole = true;
                    continue;
                }
            }
            // Until there is something to write.
            loop {
                tokio::select! {
                    marks = self.marks.take() => {
                        self.update(&mut state, marks);
                        break;
                    }
                    Some(()) = events.next() => {
                        tokio::time::sleep(SETTLE).await;
                        // Those that came meanwhile are covered by the same look.
                        while futures::FutureExt::now_or_never(events.next()).flatten().is_some() {}
                        problems = host.ensure().await;
                        self.ready(&problems, &firewall);
                    }
                    _ = resync.tick() => {
                        problems = host.ensure().await;
                        self.ready(&problems, &firewall);
                        let (back, untouched) = blocking(tracker, move || {
                            let untouched = kernel.is_untouched();
                            Ok((kernel, untouched))
                        })
                        .await?;
                        kernel = back;
                        if !untouched.unwrap_or(false) {
                            whole = true;
                            break;
                        }
                    }
                }
            }
        }
    }

    /// What is wrong with Docker's firewall, if anything.
    fn firewall(&self, result: Result<bool, Error>) -> Option<String> {
        match result {
            Ok(true) => None,
            Ok(false) => {
                // Another backend of Docker's, or none. Nothing may be wrong, so it is no problem to show.
                tracing::info!("Docker has no chain DOCKER-USER in nftables; its firewall is left as it is");
                None
            }
            Err(error) => Some(format!("Docker's firewall may drop what pods send: {error}")),
        }
    }

    fn ready(&self, problems: &[String], firewall: &Option<String>) {
        let problems: Vec<String> = problems.iter().chain(firewall).cloned().collect();
        let status = Status::Ready { problems: problems.clone() };
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            if changed {
                for problem in &problems {
                    tracing::warn!(problem, "services work only in part");
                }
                *known = status;
            }
            changed
        });
    }

    fn update(&self, state: &mut State, marks: HashSet<Mark>) {
        for mark in marks {
            match mark {
                Mark::Service(key) => {
                    let service = key.split_once('/').and_then(|(ns, name)| self.services.get(ns, name));
                    let elements = service.map(|service| {
                        let slices = indexes::slices_of_service(&self.slices, &key);
                        services::of_service(&service, &slices, &self.local_nodes)
                    });
                    state.set(format!("service:{key}"), elements.unwrap_or_default());
                }
                Mark::Pod(key) => {
                    let pod = key.split_once('/').and_then(|(ns, name)| self.pods.get(ns, name));
                    let elements = pod.map(|pod| services::of_pod(&pod, &self.local_nodes));
                    state.set(format!("pod:{key}"), elements.unwrap_or_default());
                }
            }
        }
    }
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(
    tracker: &TaskTracker,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tracker.spawn_blocking(work).await {
        Ok(result) => result,
        Err(_panicked) => Err(Error::Answer("the kernel's worker ended")),
    }
}
