//! The kubelet's one loop: everything that happens arrives here as an [`Event`] and is handed to the pod it concerns.
//!
//! It begins by ending what was deleted or replaced while no kubelet was here (`returning`). Until that is dead the node is
//! not Ready and no other pod has a worker.

use crate::{
    gc,
    node_context::Context,
    pod_workers::{CLAIMS, End, Finished, Key, PodWorkers, Reference},
    returning,
    runtime::{self, Container, PodRef},
};
use client::{Cached, Change, Informers, Queue, Store};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::{Api, api::ListParams};
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The slow relist: what no event told of is found within this time.
const RELIST: Duration = Duration::from_secs(30);
/// Every so many relists the pod directories are looked through for what nobody owns.
const SWEEP_EVERY: u32 = 20;
/// Workers that end at the same moment wait here for the loop.
const FINISHED: usize = 256;
/// How often it is looked whether what has to end first has ended. The Engine tells of a death before its lists show it.
const ENDING_POLL: Duration = Duration::from_millis(100);
/// Waits for the cache of pods to catch up, and after a list that failed: doubling.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Everything that can happen.
enum Event {
    /// The pod of this name appeared, changed or went.
    Pod(Key),
    /// Something that pods refer to did.
    Object(Reference),
    Runtime(runtime::Event),
    /// A worker ended.
    Finished(Finished),
    Tick,
}

/// What a queue carries: pods and objects share one, so that a burst of either collapses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    Pod(Key),
    Object(Reference),
}

/// Why a node is not Ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("container runtime is down: {0}")]
    Engine(String),
    #[error("waiting for the end of pods that were deleted or replaced while the kubelet was away: {0}")]
    Ending(String),
}

/// What the node is told to report; `None` is Ready.
pub(crate) type NodeState = watch::Sender<Option<NotReady>>;

pub(crate) struct Agent {
    context: Arc<Context>,
    pods: Store<Pod>,
    queue: Queue<Item>,
    workers: PodWorkers,
    finished: mpsc::Receiver<Finished>,
    state: NodeState,
    /// Why the engine cannot be reached, if it cannot.
    engine: Option<String>,
    /// What the API server said when this began.
    looked: returning::Looked,
    /// Uids of pods that have to end before anything else; `None` when they have.
    ending: Option<BTreeSet<String>>,
    ticks: u32,
    /// Uids of pods whose workers have ended: the informer may show them for a moment longer.
    gone: VecDeque<String>,
}

/// How many of those are remembered.
const GONE: usize = 1024;

impl Agent {
    pub(crate) fn new(
        context: Arc<Context>,
        informers: &Informers,
        state: NodeState,
        token: CancellationToken,
        tracker: TaskTracker,
    ) -> Self {
        let queue = Queue::new();
        let pods = informers.store::<Pod>();
        let (node, items) = (context.config.node_name.clone(), queue.clone());
        pods.on_change_until(token.clone(), move |change: &Change<Pod>| {
            let pod = change.object();
            if api::pod::node_name(pod) == Some(node.as_str()) {
                items.add(Item::Pod(key(pod)));
            }
        });
        follow::<ConfigMap>(informers, &queue, &token, crate::objects::Kind::ConfigMap.plural());
        follow::<Secret>(informers, &queue, &token, crate::objects::Kind::Secret.plural());
        follow::<PersistentVolumeClaim>(informers, &queue, &token, CLAIMS);
        let (sender, finished) = mpsc::channel(FINISHED);
        let workers = PodWorkers::new(Arc::clone(&context), sender, token, tracker);
        Self {
            context,
            pods,
            queue,
            workers,
            finished,
            state,
            engine: None,
            looked: returning::Looked::default(),
            ending: None,
            ticks: 0,
            gone: VecDeque::new(),
        }
    }

    /// Runs until `token` is cancelled. Nothing is started before the pods are known and the containers listed.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let queue = self.queue.clone();
        token.run_until_cancelled(self.run_for_ever()).await;
        queue.shut_down();
    }

    async fn run_for_ever(&mut self) {
        let mut runtime = self.context.runtime.events();
        // The first network takes the Engine longer than everything else here: side by side.
        let prepared = prepare(&mut runtime, self.context.as_ref(), &self.state);
        tokio::join!(prepared, self.pods.synced(), self.context.services.synced());
        // First the pods, then the containers: what is started later is no business of ours, and what is found dead is.
        let pods = self.pods_of_now().await;
        let listed = list(self.context.as_ref(), &self.state).await;
        self.begin(listed, pods);
        let mut ticks = tokio::time::interval_at(Instant::now() + RELIST, RELIST);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut polls = tokio::time::interval_at(Instant::now() + ENDING_POLL, ENDING_POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let queue = self.queue.clone();
        loop {
            let event = tokio::select! {
                Some(item) = queue.next() => {
                    queue.done(&item);
                    match item {
                        Item::Pod(key) => Event::Pod(key),
                        Item::Object(reference) => Event::Object(reference),
                    }
                }
                Some(event) = runtime.next() => Event::Runtime(event),
                Some(finished) = self.finished.recv() => Event::Finished(finished),
                _ = ticks.tick() => Event::Tick,
                _ = polls.tick(), if self.ending.is_some() => {
                    self.look_at_ending().await;
                    continue;
                }
            };
            self.handle(event).await;
        }
    }

    /// This node's pods, from the cache, once that is as new as what the API server itself says now.
    async fn pods_of_now(&mut self) -> Vec<Arc<Pod>> {
        let mut wait = FIRST_WAIT;
        loop {
            match self.list_pods().await {
                Ok((listed, revision)) => {
                    let cached = self.own_pods();
                    if returning::caught_up(&cached, &listed, revision) {
                        self.looked = returning::Looked::new(&listed, revision);
                        return cached;
                    }
                }
                Err(error) if wait >= LAST_WAIT => {
                    tracing::warn!(%error, "the node's pods cannot be listed; trying again");
                }
                Err(_) => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    /// This node's pods as the API server has them, and at which revision.
    async fn list_pods(&self) -> kube::Result<(Vec<Pod>, u64)> {
        let api: Api<Pod> = Api::all(self.context.client.clone());
        let mut params =
            ListParams::default().fields(&format!("spec.nodeName={}", self.context.config.node_name));
        let mut listed = Vec::new();
        loop {
            let page = api.list(&params).await?;
            listed.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => {
                    let revision = page.metadata.resource_version.and_then(|v| v.parse().ok());
                    return Ok((listed, revision.unwrap_or(0)));
                }
            }
        }
    }

    fn own_pods(&self) -> Vec<Arc<Pod>> {
        let node = self.context.config.node_name.as_str();
        let here = |pod: &Arc<Pod>| api::pod::node_name(pod) == Some(node) && !self.looked.was_gone(pod);
        self.pods.list().into_iter().filter(here).collect()
    }

    /// Takes over what is there: addresses first, so that none is given twice; then what has to end, and when there is no
    /// such thing (any more) all the rest.
    fn begin(&mut self, listed: Vec<Container>, pods: Vec<Arc<Pod>>) {
        for sandbox in listed.iter().filter(|c| c.is_sandbox()) {
            if let Some(std::net::IpAddr::V4(ip)) = sandbox.ip {
                self.context.addresses.adopt(&sandbox.pod.uid, ip);
            }
        }
        let mut ending = returning::to_end(&listed, &pods);
        let before = self.ending.take().unwrap_or_default();
        if ending.is_empty() {
            return self.take_over(listed, pods);
        }
        let alive = returning::still_alive(&ending, &listed);
        tracing::info!(pods = %names(&alive), "ending first what was deleted or replaced while no kubelet was here");
        let (mut by_uid, known) = (by_uid(listed), uids(&pods));
        for uid in &ending {
            let Some(containers) = by_uid.remove(uid) else { continue };
            match pods.iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid)) {
                Some(pod) => self.workers.reconcile(&key(pod), Some(pod.clone()), Some(&containers)),
                None if !known.contains(uid) => self.orphaned(containers),
                None => {}
            }
        }
        // Those that ended earlier have their workers and their turn still: their objects are to go.
        ending.extend(before);
        self.ending = Some(ending);
        self.report_ending(&alive);
    }

    /// Those that had to end first have: everybody else's turn, unless others were deleted or replaced meanwhile. The node
    /// was not Ready yet, so they have to end as well before it is.
    async fn look_at_ending(&mut self) {
        let Some(ending) = &self.ending else { return };
        let Ok(listed) = self.context.runtime.list().await else { return };
        let alive = returning::still_alive(ending, &listed);
        if !alive.is_empty() {
            return self.report_ending(&alive);
        }
        let pods = self.pods_of_now().await;
        let Ok(listed) = self.context.runtime.list().await else { return };
        self.begin(listed, pods);
    }

    fn report_ending(&self, alive: &BTreeSet<PodRef>) {
        if self.engine.is_none() {
            self.set_state(Some(NotReady::Ending(names(alive))));
        }
    }

    fn set_state(&self, state: Option<NotReady>) {
        self.state.send_if_modified(|known| {
            let changed = *known != state;
            *known = state;
            changed
        });
    }

    /// Gives every pod and every container without one its worker, and lets the node be Ready.
    fn take_over(&mut self, listed: Vec<Container>, pods: Vec<Arc<Pod>>) {
        let mut by_uid = by_uid(listed);
        // Those without a pod come first: a pod of the same name has to wait for their end.
        let known = uids(&pods);
        let orphans: Vec<String> = by_uid.keys().filter(|uid| !known.contains(*uid)).cloned().collect();
        for uid in orphans {
            if let Some(containers) = by_uid.remove(&uid) {
                self.orphaned(containers);
            }
        }
        // Running pods keep what they have before new ones are admitted.
        let (adopted, new): (Vec<_>, Vec<_>) = pods
            .into_iter()
            .partition(|pod| pod.metadata.uid.as_ref().is_some_and(|uid| by_uid.contains_key(uid)));
        for pod in adopted.into_iter().chain(new) {
            let containers = pod.metadata.uid.as_ref().and_then(|uid| by_uid.remove(uid)).unwrap_or_default();
            self.workers.reconcile(&key(&pod), Some(pod), Some(&containers));
        }
        self.workers.settle();
        self.sweep();
        if self.engine.is_none() {
            self.set_state(None);
        }
    }

    fn orphaned(&mut self, containers: Vec<Container>) {
        if let Some(pod) = containers.first().map(|c| c.pod.clone()) {
            self.workers.adopt_orphan(&pod, containers);
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Pod(key) => {
                let node = self.context.config.node_name.as_str();
                let wanted = self
                    .pods
                    .get(&key.0, &key.1)
                    .filter(|pod| api::pod::node_name(pod) == Some(node) && self.has_its_turn(pod));
                // A pod that was not here at start has no containers here.
                let fresh = wanted.as_ref().is_some_and(|pod| self.is_fresh(pod));
                self.workers.reconcile(&key, wanted, fresh.then_some(&[]));
            }
            Event::Object(reference) => self.workers.refresh(&reference),
            Event::Runtime(runtime::Event::Pod { uid, container_id, action }) => {
                self.workers.container_event(&uid, container_id, action);
            }
            Event::Runtime(runtime::Event::Connected) => {
                self.engine = None;
                if self.ending.is_none() {
                    self.set_state(None);
                }
                self.workers.retry();
                self.relist().await;
            }
            Event::Runtime(runtime::Event::Disconnected(why)) => self.disconnected(why),
            Event::Finished(Finished { uid, key, why }) => {
                self.workers.remove(&uid);
                if why == End::Gone {
                    self.gone.truncate(GONE - 1);
                    self.gone.push_front(uid);
                }
                self.queue.add(Item::Pod(key));
            }
            Event::Tick => {
                self.relist().await;
                self.ticks += 1;
                if self.ticks.is_multiple_of(SWEEP_EVERY) {
                    self.sweep();
                }
            }
        }
    }

    /// Whether the pod may have a worker: not while others have to end first, not when it was gone before this began, and
    /// not when its own is through.
    fn has_its_turn(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.ending.as_ref().is_none_or(|ending| ending.contains(uid))
            && !self.looked.was_gone(pod)
            && !self.gone.iter().any(|gone| gone == uid)
    }

    /// Whether nothing of this pod can be in the engine: no worker, and no status that tells of containers.
    fn is_fresh(&self, pod: &Pod) -> bool {
        let started = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        !started && !pod.metadata.uid.as_deref().is_some_and(|uid| self.workers.knows(uid))
    }

    fn disconnected(&mut self, why: String) {
        if self.engine.is_none() {
            tracing::warn!(error = %why, "the container engine cannot be reached; trying again until it can");
        }
        self.set_state(Some(NotReady::Engine(why.clone())));
        self.engine = Some(why);
    }

    async fn relist(&mut self) {
        match self.context.runtime.list().await {
            Ok(listed) => {
                for (pod, containers) in self.workers.compare(&self.context.lookup, listed) {
                    let known = self.pods.get(&pod.namespace, &pod.name);
                    let theirs =
                        known.is_some_and(|known| known.metadata.uid.as_deref() == Some(pod.uid.as_str()));
                    if !theirs {
                        self.workers.adopt_orphan(&pod, containers);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "listing the containers failed"),
        }
    }

    /// Removes directories of pods that are no more.
    fn sweep(&self) {
        let pods = self.pods.list();
        let known = uids(&pods);
        gc::sweep(&self.context, |uid| known.contains(uid) || self.workers.knows(uid));
    }
}

/// Waits for the engine and prepares it for pods.
async fn prepare(
    events: &mut futures::stream::BoxStream<'static, runtime::Event>,
    context: &Context,
    state: &NodeState,
) {
    loop {
        match events.next().await {
            Some(runtime::Event::Connected) => break,
            Some(runtime::Event::Disconnected(why)) => {
                tracing::warn!(error = %why, "the container engine cannot be reached");
                state.send_replace(Some(NotReady::Engine(why)));
            }
            Some(runtime::Event::Pod { .. }) => {}
            None => std::future::pending().await,
        }
    }
    until_it_works(state, || context.runtime.prepare()).await;
}

async fn list(context: &Context, state: &NodeState) -> Vec<Container> {
    until_it_works(state, || context.runtime.list()).await
}

const RETRY: Duration = Duration::from_secs(2);

async fn until_it_works<T, F>(state: &NodeState, action: impl Fn() -> F) -> T
where
    F: Future<Output = runtime::Result<T>>,
{
    loop {
        match action().await {
            Ok(done) => return done,
            Err(error) => {
                tracing::warn!(%error, "preparing the container engine failed; trying again");
                state.send_replace(Some(NotReady::Engine(error.to_string())));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn by_uid(listed: Vec<Container>) -> HashMap<String, Vec<Container>> {
    let mut by_uid: HashMap<String, Vec<Container>> = HashMap::new();
    for container in listed {
        by_uid.entry(container.pod.uid.clone()).or_default().push(container);
    }
    by_uid
}

fn uids(pods: &[Arc<Pod>]) -> HashSet<String> {
    pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect()
}

fn names(pods: &BTreeSet<PodRef>) -> String {
    pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect::<Vec<_>>().join(", ")
}

fn follow<K: Cached>(
    informers: &Informers,
    queue: &Queue<Item>,
    token: &CancellationToken,
    plural: &'static str,
) {
    let queue = queue.clone();
    informers.store::<K>().on_change_until(token.clone(), move |change: &Change<K>| {
        let meta = change.object().metadata();
        let name = meta.name.clone().unwrap_or_default();
        queue.add(Item::Object((plural, meta.namespace.clone().unwrap_or_default(), name)));
    });
}

fn key(pod: &Pod) -> Key {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests;
