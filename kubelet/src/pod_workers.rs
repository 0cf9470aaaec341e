//! The pods of this node and their workers: which pod gets one, and what each is told.
//!
//! A worker lives as long as anything of its pod is on this node, whether or not the pod's object still exists. A new pod
//! of a name waits until the last one of that name is gone from here: two with one identity never run at once.

use crate::{
    admission,
    container_spec::pod_ref,
    node_context::Context,
    objects,
    pod_worker::{POKES, Poke, Wish, Worker},
    pods::Lookup,
    resize,
    runtime::{Action, Container, PodRef},
    volume,
};
use api::guard;
use client::Guard;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Namespace and name.
pub(crate) type Key = (String, String);

/// Something a pod may refer to: (plural of its kind, namespace, name).
pub(crate) type Reference = (&'static str, String, String);

/// A worker has ended.
pub(crate) struct Finished {
    pub(crate) uid: String,
    pub(crate) key: Key,
    pub(crate) why: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing of the pod is left here.
    Gone,
    /// The worker panicked: the pod needs another.
    Panicked,
}

/// Between a worker's panic and its successor: what made it panic is likely still there.
const PANIC_PAUSE: Duration = Duration::from_secs(10);

pub(crate) struct PodWorkers {
    context: Arc<Context>,
    workers: HashMap<String, Handle>,
    by_name: HashMap<Key, HashSet<String>>,
    by_reference: HashMap<Reference, HashSet<String>>,
    /// Every pod that was here at the start is known: there is room, or not.
    settled: bool,
    finished: mpsc::Sender<Finished>,
    token: CancellationToken,
    tracker: TaskTracker,
}

/// What becomes of a pod that the API wants here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
pub enum Turn {
    /// It has a worker.
    GoesOn,
    Begins,
    /// Another pod of its name has not left yet.
    Waits,
}

/// Whose turn it is: `here` are the pods of the name that have a worker. Those that are not wanted have to end.
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
pub fn turn(here: &[String], wanted: &str) -> Turn {
    if here.iter().any(|uid| uid == wanted) {
        Turn::GoesOn
    } else if here.is_empty() || !Guard::NameWaits.holds() {
        Turn::Begins
    } else {
        Turn::Waits
    }
}

struct Handle {
    key: Key,
    /// As the API has it; the worker may know it with less than it asks for.
    desired: Arc<Pod>,
    wishes: watch::Sender<Wish>,
    pokes: mpsc::Sender<Poke>,
    references: HashSet<Reference>,
}

impl PodWorkers {
    /// `finished` is told of every worker that ends before the kubelet does.
    pub(crate) fn new(
        context: Arc<Context>,
        finished: mpsc::Sender<Finished>,
        token: CancellationToken,
        tracker: TaskTracker,
    ) -> Self {
        Self {
            context,
            workers: HashMap::new(),
            by_name: HashMap::new(),
            by_reference: HashMap::new(),
            settled: false,
            finished,
            token,
            tracker,
        }
    }

    /// Makes the workers of a name be as the API has it: `wanted` is the pod of that name bound to this node, if any.
    /// `containers` are those found at start; afterwards a worker looks itself.
    pub(crate) fn reconcile(
        &mut self,
        key: &Key,
        wanted: Option<Arc<Pod>>,
        containers: Option<&[Container]>,
    ) {
        let uid = wanted.as_ref().and_then(|pod| pod.metadata.uid.clone()).unwrap_or_default();
        let others: Vec<String> = self.by_name.get(key).into_iter().flatten().cloned().collect();
        for other in others.iter().filter(|other| **other != uid) {
            self.vanished(other);
        }
        let Some(pod) = wanted else { return };
        let turn = turn(&others, &uid);
        if turn == Turn::GoesOn {
            self.update(&uid, pod);
        } else if turn == Turn::Begins {
            let rejected = match containers {
                None | Some([]) => self.admit(&pod),
                Some(_) => None,
            };
            let recorded = resize::recorded(&pod).map(Arc::new);
            let (desired, pod) = (pod.clone(), recorded.unwrap_or(pod));
            let wish = Wish { pod, vanished: false, rejected, resize: None };
            self.spawn(desired.clone(), wish, containers.map(<[Container]>::to_vec));
            self.update(&uid, desired);
        }
        // Else it waits: the end of the other worker brings its name up again.
        self.retry_resizes();
    }

    /// A worker for containers whose pod the API does not know: it ends them.
    pub(crate) fn adopt_orphan(&mut self, pod: &PodRef, containers: Vec<Container>) {
        if self.workers.contains_key(&pod.uid) {
            return;
        }
        let grace = containers.iter().map(|container| container.grace.as_secs()).max();
        let orphan = Pod {
            metadata: ObjectMeta {
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                node_name: Some(self.context.config.node_name.clone()),
                termination_grace_period_seconds: grace.and_then(|grace| grace.try_into().ok()),
                ..PodSpec::default()
            }),
            status: None,
        };
        tracing::info!(pod.uid = %pod.uid, pod.name = %pod.name, "stopping containers of a pod that no longer exists");
        let pod = Arc::new(orphan);
        let wish = Wish { pod: pod.clone(), vanished: true, rejected: None, resize: None };
        self.spawn(pod, wish, Some(containers));
    }

    /// All pods that were here at the kubelet's start have their workers: from now on there is room, or not.
    pub(crate) fn settle(&mut self) {
        self.settled = true;
        self.retry_resizes();
    }

    /// Tells a worker of its pod's newest state: with what it asks for, if there is room, else with what it has.
    fn update(&mut self, uid: &str, desired: Arc<Pod>) {
        let Some(handle) = self.workers.get(uid) else { return };
        let now = handle.wishes.borrow().clone();
        let (pod, pending) = match resize::given(&desired, &now.pod) {
            None => (desired.clone(), None),
            Some(given) if !self.settled || now.rejected.is_some() => (Arc::new(given), now.resize),
            Some(given) => match self.decide(uid, &desired) {
                Ok(()) => (desired.clone(), None),
                Err(pending) => (Arc::new(given), Some(pending)),
            },
        };
        if let Some(handle) = self.workers.get_mut(uid) {
            handle.desired = desired;
            handle.wishes.send_modify(|wish| (wish.pod, wish.resize) = (pod, pending));
        }
    }

    fn decide(&self, uid: &str, desired: &Pod) -> Result<(), resize::Pending> {
        resize::decide(desired, &self.running_beside(uid), &self.context.machine.allocatable)
    }

    /// Something may have made room: whoever waits for some is looked at again, the most important first.
    fn retry_resizes(&mut self) {
        if !self.settled {
            return;
        }
        let waits = |handle: &Handle| {
            let wish = handle.wishes.borrow();
            !Arc::ptr_eq(&wish.pod, &handle.desired) && wish.rejected.is_none() && !wish.vanished
        };
        let mut waiting: Vec<(i32, String, Arc<Pod>)> = self
            .workers
            .iter()
            .filter(|(_, handle)| waits(handle))
            .map(|(uid, handle)| {
                let priority = handle.desired.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
                (-priority, uid.clone(), handle.desired.clone())
            })
            .collect();
        waiting.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, uid, desired) in waiting {
            if self.decide(&uid, &desired).is_ok() {
                self.update(&uid, desired);
            }
        }
    }

    /// The other pods that take room here, as they were allocated.
    fn running_beside(&self, uid: &str) -> Vec<Arc<Pod>> {
        let others = self.workers.iter().filter(|(other, _)| *other != uid);
        others
            .filter_map(|(_, handle)| {
                let wish = handle.wishes.borrow();
                // One whose object is gone is no longer counted by the scheduler either.
                let counts = wish.rejected.is_none() && !wish.vanished && !api::pod::is_terminal(&wish.pod);
                counts.then(|| Arc::clone(&wish.pod))
            })
            .collect()
    }

    pub(crate) fn knows(&self, uid: &str) -> bool {
        self.workers.contains_key(uid)
    }

    /// The worker has ended.
    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(handle) = self.workers.remove(uid) else { return };
        if let Some(uids) = self.by_name.get_mut(&handle.key) {
            uids.remove(uid);
            if uids.is_empty() {
                self.by_name.remove(&handle.key);
            }
        }
        for reference in &handle.references {
            if let Some(uids) = self.by_reference.get_mut(reference) {
                uids.remove(uid);
                if uids.is_empty() {
                    self.by_reference.remove(reference);
                }
            }
        }
        self.retry_resizes();
    }

    pub(crate) fn container_event(&self, uid: &str, id: String, action: Action) {
        self.poke(uid, Poke::Container { id, action });
    }

    /// The engine is back.
    pub(crate) fn retry(&self) {
        for uid in self.workers.keys() {
            self.poke(uid, Poke::Retry);
        }
    }

    /// An object that pods refer to has changed.
    pub(crate) fn refresh(&self, reference: &Reference) {
        for uid in self.by_reference.get(reference).into_iter().flatten() {
            self.poke(uid, Poke::Refresh);
        }
    }

    /// Compares a full list with what the workers have shown, and makes those look again that differ. Gives the containers
    /// whose pod has no worker.
    pub(crate) fn compare(&self, lookup: &Lookup, listed: Vec<Container>) -> HashMap<PodRef, Vec<Container>> {
        let mut by_pod: HashMap<PodRef, Vec<Container>> = HashMap::new();
        for container in listed {
            by_pod.entry(container.pod.clone()).or_default().push(container);
        }
        let digest = |containers: &[Container]| -> HashSet<(String, bool)> {
            containers.iter().map(|c| (c.id.clone(), c.is_running())).collect()
        };
        let shown: HashMap<String, HashSet<(String, bool)>> = lookup
            .all()
            .iter()
            .map(|view| (view.pod.metadata.uid.clone().unwrap_or_default(), digest(&view.containers)))
            .collect();
        let found: HashMap<&str, HashSet<(String, bool)>> =
            by_pod.iter().map(|(pod, containers)| (pod.uid.as_str(), digest(containers))).collect();
        let none = HashSet::new();
        for uid in self.workers.keys() {
            if shown.get(uid).unwrap_or(&none) != found.get(uid.as_str()).unwrap_or(&none) {
                self.poke(uid, Poke::Look);
            }
        }
        by_pod.retain(|pod, _| !self.workers.contains_key(&pod.uid));
        by_pod
    }

    fn poke(&self, uid: &str, poke: Poke) {
        if let Some(handle) = self.workers.get(uid) {
            // A full queue means that it has not yet come to look: it will.
            let _ = handle.pokes.try_send(poke);
        }
    }

    fn vanished(&self, uid: &str) {
        if let Some(handle) = self.workers.get(uid) {
            handle.wishes.send_if_modified(|wish| !std::mem::replace(&mut wish.vanished, true));
        }
    }

    fn admit(&self, pod: &Pod) -> Option<(String, String)> {
        if api::pod::is_terminal(pod) || api::pod::is_terminating(pod) {
            return None;
        }
        let running = self.running_beside("");
        let machine = &self.context.machine;
        admission::check(pod, &running, &machine.allocatable, &self.context.config.node_name).err()
    }

    fn spawn(&mut self, desired: Arc<Pod>, wish: Wish, containers: Option<Vec<Container>>) {
        let pod = pod_ref(&wish.pod);
        let key = (pod.namespace.clone(), pod.name.clone());
        let references = references(&wish.pod, &pod.namespace);
        for reference in &references {
            self.by_reference.entry(reference.clone()).or_default().insert(pod.uid.clone());
        }
        self.by_name.entry(key.clone()).or_default().insert(pod.uid.clone());
        let (wishes, seen) = watch::channel(wish);
        let (pokes, poked) = mpsc::channel(POKES);
        let worker = Worker::new(Arc::clone(&self.context), seen, poked, containers);
        let (token, finished) = (self.token.clone(), self.finished.clone());
        let (uid, name) = (pod.uid.clone(), key.clone());
        self.tracker.spawn(async move {
            let why = match guard::caught(worker.run(token.clone())).await {
                Ok(false) => return,
                Ok(true) => End::Gone,
                Err(panic) => {
                    tracing::error!(pod.uid = uid, pod.name = name.1, %panic, "the pod's worker failed; it gets another");
                    let pause = tokio::time::sleep(PANIC_PAUSE);
                    if token.run_until_cancelled(pause).await.is_none() {
                        return;
                    }
                    End::Panicked
                }
            };
            // The receiver goes only when the kubelet stops.
            let _ = finished.send(Finished { uid, key: name, why }).await;
        });
        self.workers.insert(pod.uid, Handle { key, desired, wishes, pokes, references });
    }
}

/// Everything whose change may concern the pod.
fn references(pod: &Pod, namespace: &str) -> HashSet<Reference> {
    let mut all = objects::of_volumes(pod);
    let spec = pod.spec.as_ref();
    for container in spec.into_iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers)) {
        all.extend(objects::of_env(container));
    }
    let objects = all.into_iter().map(|(kind, name)| (kind.plural(), namespace.to_owned(), name));
    let claims = volume::claim_names(pod).into_iter();
    objects.chain(claims.map(|name| (CLAIMS, namespace.to_owned(), name))).collect()
}

pub(crate) const CLAIMS: &str = "persistentvolumeclaims";
