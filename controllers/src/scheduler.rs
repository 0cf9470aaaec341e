//! The scheduler: gives every pod without a node the best node that can take it.
//!
//! ```text
//!  watch ─► queue (who is next) ─► filter ─► score ─► assume ─► bind
//!    └────► cache (room, pods)        └─ none ─► park until something helps; say why
//! ```
//!
//! One task decides, one pod at a time, from the cache; bindings are written beside it, a bounded number at once.
//! Nothing polls: a pod that does not fit waits for the events that could help it.

pub mod affinity;
pub mod cache;
pub mod filter;
pub mod queue;
pub mod score;
pub mod volumes;

mod bind;
#[cfg(test)]
mod tests;

use crate::{
    context::{Ctx, name, uid},
    error::Error,
    run::ObjectKey,
};
use affinity::PodAffinity;
use api::pod as pods;
use bind::Bound;
use cache::{Cache, NodeInfo, PodInfo};
use client::{Change, Recorder, Store};
use filter::{Refusal, Wanted};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use queue::{Events, Pending};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore};

/// The name pods call this scheduler by.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Bindings under way at once. Enough to fill the store's group commits; what is decided beyond waits.
const MAX_BINDINGS: usize = 64;
/// One write to the API server.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// With more nodes than this, only as many feasible ones are looked for before one is chosen (Kubernetes' figure).
const ENOUGH_FEASIBLE: usize = 100;

pub struct Scheduler {
    ctx: Arc<Ctx>,
    pods: Store<Pod>,
    namespaces: Store<Namespace>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    recorder: Recorder,
    state: Arc<State>,
    bindings: Arc<Semaphore>,
}

/// What the watch callbacks and the deciding task share. Locks are held for one event or one decision.
#[derive(Default)]
struct State {
    pending: Mutex<Pending>,
    cache: Mutex<Cache>,
    /// There may be something to pop.
    work: Notify,
}

impl State {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, event: Events) {
        self.pending().wake(event, Instant::now());
        self.work.notify_one();
    }
}

/// What was decided about a pod.
enum Decision {
    Place {
        pod: Arc<PodInfo>,
        node: String,
    },
    /// Its claims are bound only once it has a node: they are told of this one.
    TellClaims {
        claims: Vec<Arc<PersistentVolumeClaim>>,
        node: String,
    },
    Unschedulable {
        message: String,
        helped_by: Events,
    },
}

/// A decision to be written.
struct Binding {
    key: ObjectKey,
    pod: Arc<PodInfo>,
    node: String,
}

impl volumes::Lookup for Scheduler {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(namespace, name)
    }
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get("", name)
    }
}

impl Scheduler {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self {
            pods: ctx.informers.store(),
            namespaces: ctx.informers.store(),
            claims: ctx.informers.store(),
            volumes: ctx.informers.store(),
            classes: ctx.informers.store(),
            recorder: ctx.recorder(DEFAULT_SCHEDULER),
            state: Arc::default(),
            bindings: Arc::new(Semaphore::new(MAX_BINDINGS)),
            ctx,
        }
    }

    /// Decides until the server's token is cancelled.
    pub async fn run(self) {
        self.watch();
        tokio::select! {
            () = self.ctx.informers.synced() => {}
            () = self.ctx.token.cancelled() => return,
        }
        let this = Arc::new(self);
        loop {
            let key = tokio::select! {
                biased;
                () = this.ctx.token.cancelled() => return,
                key = this.next() => key,
            };
            if let Some(binding) = this.attempt(key).await {
                this.bind_beside(binding).await;
            }
        }
    }

    /// One decision and what follows from it, about whichever pod is due at `now`; `false` if none is. For simulations,
    /// which drive the scheduler step by step: [`Self::run`] does the same with bindings beside one another.
    pub async fn turn(&self, now: Instant) -> bool {
        let key = self.state.pending().pop(now);
        let Some(key) = key else { return false };
        if let Some(Binding { key, pod, node }) = self.attempt(key).await {
            self.bind(&key, &pod, &node).await;
        }
        true
    }

    /// Subscribes to what may concern waiting pods.
    pub fn watch(&self) {
        let state = self.state.clone();
        self.pods.on_change(move |change| pod_changed(&state, change));
        let state = self.state.clone();
        self.ctx.informers.store::<Node>().on_change(move |change| match change {
            Change::Applied { old, new } => {
                state.cache().set_node(new.clone());
                if old.as_ref().is_none_or(|old| cache::matters(old, new)) {
                    state.wake(Events::NODE);
                }
            }
            Change::Deleted(node) => state.cache().remove_node(name(&node.metadata)),
        });
        let state = self.state.clone();
        self.claims.on_change(move |_| state.wake(Events::VOLUME));
        let state = self.state.clone();
        self.volumes.on_change(move |_| state.wake(Events::VOLUME));
        let state = self.state.clone();
        self.classes.on_change(move |_| state.wake(Events::VOLUME));
    }

    async fn next(&self) -> ObjectKey {
        loop {
            let (key, deadline) = {
                let mut pending = self.state.pending();
                (pending.pop(Instant::now()), pending.deadline())
            };
            match (key, deadline) {
                (Some(key), _) => return key,
                // `notify_one` keeps a permit, so that an event since `pop` is not missed.
                (None, None) => self.state.work.notified().await,
                (None, Some(at)) => tokio::select! {
                    () = self.state.work.notified() => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                },
            }
        }
    }

    /// Writes a binding on a task of its own, once fewer than [`MAX_BINDINGS`] are under way.
    async fn bind_beside(self: &Arc<Self>, Binding { key, pod, node }: Binding) {
        // Closed never: nobody calls `close`.
        let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
        let this = self.clone();
        self.ctx.tracker.spawn(async move {
            this.bind(&key, &pod, &node).await;
            drop(permit);
        });
        // The next pop may be due at once, or its deadline be nearer than before.
        self.state.work.notify_one();
    }

    async fn attempt(&self, key: ObjectKey) -> Option<Binding> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name).filter(|p| is_waiting(p)) else {
            self.state.pending().remove(&key);
            return None;
        };
        if self.state.cache().is_assumed(uid(&pod.metadata)) {
            self.state.pending().remove(&key);
            return None;
        }
        match self.decide(&pod) {
            Decision::Place { pod, node } => return Some(Binding { key, pod, node }),
            Decision::TellClaims { claims, node } => {
                for claim in claims.iter().filter(|c| volumes::selected_node(c) != Some(&node)) {
                    let told = within_deadline(bind::select_node(&self.ctx, claim, &node)).await;
                    if let Err(error) = told {
                        tracing::debug!(object.ref = %key, error = error.chain(), "claim not told of its node");
                        self.state.pending().retry(&key, Instant::now());
                        return None;
                    }
                }
                self.state.pending().park(&key, Events::VOLUME, Instant::now());
            }
            Decision::Unschedulable { message, helped_by } => {
                tracing::debug!(object.ref = %key, message, "does not fit");
                let said =
                    within_deadline(bind::report_unschedulable(&self.ctx, &self.recorder, &pod, &message))
                        .await;
                let mut pending = self.state.pending();
                match said {
                    Ok(()) => pending.park(&key, helped_by, Instant::now()),
                    Err(error) => {
                        tracing::debug!(object.ref = %key, error = error.chain(), "condition not written");
                        pending.retry(&key, Instant::now());
                    }
                }
            }
        }
        self.state.work.notify_one();
        None
    }

    /// Looks at the cluster as it is known and takes the room it decides for.
    fn decide(&self, pod: &Arc<Pod>) -> Decision {
        let info = Arc::new(PodInfo::new(pod.clone()));
        let mut cache = self.state.cache();
        let nodes = cache.nodes.len();
        let volumes = match volumes::examine(pod, self) {
            Ok(volumes) => volumes,
            Err(reason) => {
                let message = filter::message_for_pod(nodes, &reason);
                return Decision::Unschedulable { message, helped_by: Events::VOLUME.and(Events::NODE) };
            }
        };
        let labels =
            |ns: &str| self.namespaces.get("", ns).map(|n| n.metadata.labels.clone().unwrap_or_default());
        let affinity = PodAffinity::new(&info, &cache, &labels);
        let wanted = Wanted { pod: &info, volumes: volumes.reachable_from, affinity };
        let (feasible, refusals) = feasible(&wanted, &cache, uid(&pod.metadata));
        let Some(best) = score::best(&info, &wanted.affinity, &feasible) else {
            let helped_by = refusals.iter().fold(Events::NODE, |events, r| events.and(r.helped_by));
            return Decision::Unschedulable { message: filter::message(nodes, &refusals), helped_by };
        };
        let node = best.name().to_owned();
        if volumes.waiting_for_node.is_empty() {
            cache.assume(info.clone(), &node);
            Decision::Place { pod: info, node }
        } else {
            Decision::TellClaims { claims: volumes.waiting_for_node, node }
        }
    }

    async fn bind(&self, key: &ObjectKey, pod: &PodInfo, node: &str) {
        let bound = within_deadline(bind::bind(&self.ctx, &self.recorder, &pod.pod, node)).await;
        match bound {
            Ok(Bound::Yes) => self.state.pending().remove(key),
            Ok(Bound::NotOurs) => {
                self.state.cache().forget(uid(&pod.pod.metadata));
                let mut pending = self.state.pending();
                // Usually the watch has told, or is about to tell, that there is nothing left to do.
                pending.retry(key, Instant::now());
            }
            Err(error) => {
                tracing::warn!(object.ref = %key, node, error = error.chain(), "binding failed; trying again");
                self.state.cache().forget(uid(&pod.pod.metadata));
                self.state.pending().retry(key, Instant::now());
            }
        }
        self.state.work.notify_one();
    }
}

async fn within_deadline<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(WRITE_DEADLINE, work).await.unwrap_or(Err(Error::Deadline))
}

/// The nodes that can take the pod, and why the others cannot. In a large cluster it stops when there are enough, and
/// starts at another node for each pod (by its UID), so that all nodes get their turn.
fn feasible<'a>(wanted: &Wanted<'_>, cache: &'a Cache, uid: &str) -> (Vec<&'a NodeInfo>, Vec<Refusal>) {
    let nodes: Vec<&NodeInfo> = cache.nodes.values().collect();
    let enough = if nodes.len() <= ENOUGH_FEASIBLE { usize::MAX } else { ENOUGH_FEASIBLE };
    let start =
        uid.bytes().fold(0usize, |n, b| n.wrapping_mul(31).wrapping_add(b.into())) % nodes.len().max(1);
    let (mut feasible, mut refusals) = (Vec::new(), Vec::new());
    for node in nodes.iter().cycle().skip(start).take(nodes.len()) {
        match filter::filter(wanted, node) {
            Ok(()) => feasible.push(*node),
            Err(refusal) => refusals.push(refusal),
        }
        if feasible.len() >= enough {
            break;
        }
    }
    (feasible, refusals)
}

/// Whether it is for this scheduler to find a node for the pod, now.
fn is_waiting(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let scheduler = spec.and_then(|s| s.scheduler_name.as_deref()).unwrap_or(DEFAULT_SCHEDULER);
    let gated = spec.and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty());
    pods::node_name(pod).is_none() && pods::is_active(pod) && scheduler == DEFAULT_SCHEDULER && !gated
}

fn pod_changed(state: &State, change: &Change<Pod>) {
    let key = ObjectKey::of(&change.object().metadata);
    match change {
        Change::Applied { old, new } => {
            if let Some(old) = old
                && old.metadata.uid != new.metadata.uid
            {
                state.cache().remove_pod(uid(&old.metadata));
            }
            state.cache().set_pod(new);
            let placed = |p: &Arc<Pod>| pods::node_name(p).is_some();
            if placed(new) {
                state.pending().remove(&key);
                if pods::is_terminal(new) && old.as_ref().is_none_or(|o| !pods::is_terminal(o)) {
                    state.wake(Events::POD_GONE);
                } else if old.as_ref().is_none_or(|o| !placed(o) || o.metadata.labels != new.metadata.labels)
                {
                    state.wake(Events::POD_PLACED);
                }
            } else if !is_waiting(new) {
                state.pending().remove(&key);
            } else if old.as_ref().is_none_or(|old| changed_itself(old, new)) {
                let priority = new.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
                state.pending().add(key, priority);
                state.work.notify_one();
            }
        }
        Change::Deleted(pod) => {
            state.cache().remove_pod(uid(&pod.metadata));
            state.pending().remove(&key);
            if pods::node_name(pod).is_some() {
                state.wake(Events::POD_GONE);
            }
        }
    }
}

/// Whether more than the status differs: our own word about a pod is no reason to try it again.
fn changed_itself(old: &Pod, new: &Pod) -> bool {
    old.metadata.uid != new.metadata.uid
        || old.metadata.labels != new.metadata.labels
        || old.metadata.annotations != new.metadata.annotations
        || old.spec != new.spec
}
