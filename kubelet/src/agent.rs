//! The kubelet's one loop: everything that happens arrives here as an [`Event`] and is handed to the pod it concerns.

use crate::{
    gc,
    node_context::Context,
    pod_workers::{CLAIMS, End, Finished, Key, PodWorkers, Reference},
    runtime::{self, Container},
};
use client::{Cached, Change, Informers, Queue, Store};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use std::{
    collections::{HashMap, VecDeque},
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

/// Whether the engine can be reached; `None` while it can.
pub(crate) type EngineState = watch::Sender<Option<String>>;

pub(crate) struct Agent {
    context: Arc<Context>,
    pods: Store<Pod>,
    queue: Queue<Item>,
    workers: PodWorkers,
    finished: mpsc::Receiver<Finished>,
    engine: EngineState,
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
        engine: EngineState,
        token: CancellationToken,
        tracker: TaskTracker,
    ) -> Self {
        let queue = Queue::new();
        let pods = informers.store::<Pod>();
        let (node, items) = (context.config.node_name.clone(), queue.clone());
        pods.on_change(move |change: &Change<Pod>| {
            let pod = change.object();
            if api::pod::node_name(pod) == Some(node.as_str()) {
                items.add(Item::Pod(key(pod)));
            }
        });
        follow::<ConfigMap>(informers, &queue, crate::objects::Kind::ConfigMap.plural());
        follow::<Secret>(informers, &queue, crate::objects::Kind::Secret.plural());
        follow::<PersistentVolumeClaim>(informers, &queue, CLAIMS);
        let (sender, finished) = mpsc::channel(FINISHED);
        let workers = PodWorkers::new(Arc::clone(&context), sender, token, tracker);
        Self { context, pods, queue, workers, finished, engine, ticks: 0, gone: VecDeque::new() }
    }

    /// Runs until `token` is cancelled. Nothing is started before the pods are known and the containers listed.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut runtime = self.context.runtime.events();
        let ready = async {
            // The first network takes the Engine longer than everything else here: side by side.
            let list = first_list(&mut runtime, self.context.as_ref(), &self.engine);
            tokio::join!(list, self.pods.synced(), self.context.services.synced())
        };
        let listed = tokio::select! {
            () = token.cancelled() => return,
            (listed, ..) = ready => listed,
        };
        self.begin(listed);
        let mut ticks = tokio::time::interval_at(Instant::now() + RELIST, RELIST);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let queue = self.queue.clone();
        loop {
            let event = tokio::select! {
                () = token.cancelled() => break,
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
            };
            self.handle(event).await;
        }
        self.queue.shut_down();
    }

    /// Takes over what is there: addresses first, so that none is given twice; then pods, and containers without one.
    fn begin(&mut self, listed: Vec<Container>) {
        for sandbox in listed.iter().filter(|c| c.is_sandbox()) {
            if let Some(std::net::IpAddr::V4(ip)) = sandbox.ip {
                self.context.addresses.adopt(&sandbox.pod.uid, ip);
            }
        }
        let mut by_uid: HashMap<String, Vec<Container>> = HashMap::new();
        for container in listed {
            by_uid.entry(container.pod.uid.clone()).or_default().push(container);
        }
        let node = self.context.config.node_name.clone();
        let pods: Vec<Arc<Pod>> = self
            .pods
            .list()
            .into_iter()
            .filter(|pod| api::pod::node_name(pod) == Some(node.as_str()))
            .collect();
        // Those without a pod come first: a pod of the same name has to wait for their end.
        let known: std::collections::HashSet<&str> =
            pods.iter().filter_map(|p| p.metadata.uid.as_deref()).collect();
        let orphans: Vec<String> =
            by_uid.keys().filter(|uid| !known.contains(uid.as_str())).cloned().collect();
        for uid in orphans {
            if let Some(containers) = by_uid.remove(&uid)
                && let Some(pod) = containers.first().map(|c| c.pod.clone())
            {
                self.workers.adopt_orphan(&pod, containers);
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
        self.sweep();
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Pod(key) => {
                let node = self.context.config.node_name.as_str();
                let wanted =
                    self.pods.get(&key.0, &key.1).filter(|pod| api::pod::node_name(pod) == Some(node));
                // A pod that was not here at start has no containers here.
                let fresh = wanted.as_ref().is_some_and(|pod| self.is_fresh(pod));
                self.workers.reconcile(&key, wanted, fresh.then_some(&[]));
            }
            Event::Object(reference) => self.workers.refresh(&reference),
            Event::Runtime(runtime::Event::Pod { uid, container_id, action }) => {
                self.workers.container_event(&uid, container_id, action);
            }
            Event::Runtime(runtime::Event::Connected) => {
                self.engine.send_if_modified(|state| state.take().is_some());
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

    /// Whether nothing of this pod can be in the engine: no worker, and no status that tells of containers.
    fn is_fresh(&self, pod: &Pod) -> bool {
        let started = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        !started && !pod.metadata.uid.as_deref().is_some_and(|uid| self.workers.knows(uid))
    }

    fn disconnected(&self, why: String) {
        if self.engine.borrow().is_none() {
            tracing::warn!(error = %why, "the container engine cannot be reached; trying again until it can");
        }
        self.engine.send_if_modified(|state| state.replace(why.clone()).as_ref() != Some(&why));
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
        let known: std::collections::HashSet<String> =
            pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        gc::sweep(&self.context, |uid| known.contains(uid) || self.workers.knows(uid));
    }
}

/// Waits for the engine, prepares it for pods, and lists all containers.
async fn first_list(
    events: &mut futures::stream::BoxStream<'static, runtime::Event>,
    context: &Context,
    engine: &EngineState,
) -> Vec<Container> {
    loop {
        match events.next().await {
            Some(runtime::Event::Connected) => {}
            Some(runtime::Event::Disconnected(why)) => {
                tracing::warn!(error = %why, "the container engine cannot be reached");
                engine.send_replace(Some(why));
                continue;
            }
            Some(runtime::Event::Pod { .. }) => continue,
            None => std::future::pending().await,
        }
        loop {
            match list_once(context).await {
                Ok(listed) => {
                    engine.send_replace(None);
                    return listed;
                }
                Err(error) => {
                    tracing::warn!(%error, "preparing the container engine failed; trying again");
                    engine.send_replace(Some(error.to_string()));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

const RETRY: Duration = Duration::from_secs(2);

async fn list_once(context: &Context) -> runtime::Result<Vec<Container>> {
    context.runtime.prepare().await?;
    context.runtime.list().await
}

fn follow<K: Cached>(informers: &Informers, queue: &Queue<Item>, plural: &'static str) {
    let queue = queue.clone();
    informers.store::<K>().on_change(move |change: &Change<K>| {
        let meta = change.object().metadata();
        let name = meta.name.clone().unwrap_or_default();
        queue.add(Item::Object((plural, meta.namespace.clone().unwrap_or_default(), name)));
    });
}

fn key(pod: &Pod) -> Key {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}
