//! One task per pod: it feeds `pod_machine::step` with what is known, performs the effects, and takes their results in.
//!
//! Nothing else changes anything of this pod on this node. Operations run inside the task, side by side (volumes, images
//! and the sandbox do not wait for one another); each ends with a [`Done`]. Cancelling the kubelet drops them: the next
//! start finds by label what they had come to.

pub(crate) mod effects;
mod images;
mod publish;
mod resized;
mod start;
mod volumes;

use crate::{
    container_plan::{Health, live_sandbox},
    node_context::Context,
    objects::Objects,
    pod_machine::{self, Effect, Object, Op, Stage, State, Why, World},
    pods::PodView,
    probe::{self, Probes},
    resize::Pending,
    runtime::{self, Action, Container, Image},
    status,
    volume::Volumes,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodStatus};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What the API wants of the pod: its newest object, and whether it is still there.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) pod: Arc<Pod>,
    pub(crate) vanished: bool,
    /// The node refuses the pod: (reason, message).
    pub(crate) rejected: Option<(String, String)>,
    /// Its spec asks for more than it was given, which is what `pod` shows: why it has to wait.
    pub(crate) resize: Option<Pending>,
}

/// Something happened to the pod's containers or to what it refers to.
#[derive(Debug, Clone)]
pub(crate) enum Poke {
    Container {
        id: String,
        action: Action,
    },
    /// A list showed something else than what we have.
    Look,
    /// A ConfigMap, Secret or claim the pod refers to has changed.
    Refresh,
    /// The engine is back: what failed for want of it may be tried now.
    Retry,
}

/// The result of an operation.
enum Done {
    Looked {
        epoch: u64,
        result: runtime::Result<Vec<Container>>,
    },
    Inspected {
        id: String,
        result: runtime::Result<Container>,
    },
    Volumes(Result<Prepared, String>),
    Image {
        container: String,
        result: runtime::Result<Image>,
    },
    Sandbox(runtime::Result<Container>),
    Started {
        container: String,
        result: runtime::Result<Container>,
    },
    Hooked {
        container: String,
        id: String,
        result: Result<(), String>,
    },
    Killed {
        op: Op,
        result: runtime::Result<Option<Container>>,
    },
    Removed {
        id: String,
        result: runtime::Result<()>,
    },
    Resized {
        id: String,
        result: runtime::Result<Container>,
    },
    /// Boxed: the others are a tenth of its size.
    Published {
        sent: Box<PodStatus>,
        result: Box<kube::Result<Option<Pod>>>,
    },
    Deleted(kube::Result<()>),
    Released(std::io::Result<()>),
    Probed {
        id: String,
        container: String,
        kind: probe::Kind,
        result: Result<(), String>,
    },
    Message {
        id: String,
        text: String,
    },
}

/// Volumes as they are on disk now.
struct Prepared {
    volumes: Volumes,
    /// When a token in them has to be replaced.
    refresh: Option<Timestamp>,
}

/// An operation that failed: when it may be tried again, and what it said.
struct Failure {
    at: Timestamp,
    until: Timestamp,
    delay: SignedDuration,
    reason: String,
    message: String,
}

pub(crate) struct Worker {
    context: Arc<Context>,
    wishes: watch::Receiver<Wish>,
    pokes: mpsc::Receiver<Poke>,
    /// The newest object, with the newest status known.
    pod: Pod,
    wish: Wish,
    uid: String,
    state: State,
    containers: Vec<Container>,
    /// Whether `containers` has been filled from the runtime.
    looked: bool,
    look_again: bool,
    looking: bool,
    /// Counts changes of `containers` that operations made: a look that began before one of them is stale.
    epoch: u64,
    ops: FuturesUnordered<BoxFuture<'static, Done>>,
    running: BTreeSet<Op>,
    failures: BTreeMap<Op, Failure>,
    volumes: Option<Volumes>,
    refresh_wanted: bool,
    refresh_at: Option<Timestamp>,
    images: HashMap<String, Image>,
    probes: Probes,
    hooking: BTreeSet<String>,
    messages: BTreeMap<String, String>,
    /// Containers (name) whose last BackOff event has been told: name → until.
    told: BTreeMap<String, Timestamp>,
    published: bool,
    /// What was written last, to notice when a write changes nothing.
    last_patch: Option<serde_json::Value>,
    released: bool,
    /// What it may use has changed, and nobody has been told yet that all of it is so.
    resizing: bool,
}

/// A look that fails (the Engine is away) is repeated after this; its return brings a poke anyway.
const LOOK_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// When nothing is due: a bound on the sleep, not a poll.
const IDLE: SignedDuration = SignedDuration::from_hours(1);
/// Pokes waiting for one worker. When it is full, the worker has enough reason to look already.
pub(crate) const POKES: usize = 32;

impl Worker {
    pub(crate) fn new(
        context: Arc<Context>,
        wishes: watch::Receiver<Wish>,
        pokes: mpsc::Receiver<Poke>,
        containers: Option<Vec<Container>>,
    ) -> Self {
        let wish = wishes.borrow().clone();
        let pod = Pod::clone(&wish.pod);
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            looked: containers.is_some(),
            containers: containers.unwrap_or_default(),
            context,
            wishes,
            pokes,
            pod,
            wish,
            state: State::default(),
            look_again: false,
            looking: false,
            epoch: 0,
            ops: FuturesUnordered::new(),
            running: BTreeSet::new(),
            failures: BTreeMap::new(),
            volumes: None,
            refresh_wanted: false,
            refresh_at: None,
            images: HashMap::new(),
            probes: Probes::default(),
            hooking: BTreeSet::new(),
            messages: BTreeMap::new(),
            told: BTreeMap::new(),
            published: false,
            last_patch: None,
            released: false,
            resizing: false,
        }
    }

    /// Runs until the pod is gone (true) or the kubelet stops (false).
    pub(crate) async fn run(mut self, token: CancellationToken) -> bool {
        loop {
            let now = Timestamp::now();
            let wake = self.turn(now);
            if self.state.stage == Stage::Gone {
                let pod = &self.pod.metadata;
                let (namespace, name) = (pod.namespace.as_deref(), pod.name.as_deref());
                self.context.lookup.forget(
                    namespace.unwrap_or_default(),
                    name.unwrap_or_default(),
                    &self.uid,
                );
                return true;
            }
            let sleep = pod_machine::remaining(wake, Timestamp::now());
            tokio::select! {
                () = token.cancelled() => return false,
                changed = self.wishes.changed() => match changed {
                    Ok(()) => self.wished(),
                    Err(_) => return false,
                },
                Some(poke) = self.pokes.recv() => self.poked(poke),
                Some(done) = self.ops.next(), if !self.ops.is_empty() => self.done(done),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// One decision: step, effects, probes, status. Gives the time to look again at the latest.
    fn turn(&mut self, now: Timestamp) -> Timestamp {
        let mut wake = now.checked_add(IDLE).unwrap_or(now);
        let mut at = |time: Timestamp| wake = wake.min(time);
        if !self.looked || self.look_again {
            match self.failures.get(&Op::Look) {
                Some(failure) if failure.until > now => at(failure.until),
                _ => self.look(),
            }
            if !self.looked {
                return wake;
            }
        }
        self.sync_probes();
        let health = self.health();
        let (state, effects) = {
            let images: BTreeSet<String> = self.images.keys().cloned().collect();
            let held = self.failures.iter().map(|(op, failure)| (op.clone(), failure.until)).collect();
            let world = World {
                pod: &self.pod,
                object: Object::of(&self.pod, self.wish.vanished),
                containers: &self.containers,
                health: &health,
                running: &self.running,
                volumes_ready: self.volumes.is_some(),
                images_ready: &images,
                held: &held,
                rejected: self.wish.rejected.as_ref(),
                published: self.published,
                released: self.released,
            };
            pod_machine::step(self.state.clone(), &world, now)
        };
        let began = std::mem::replace(&mut self.state, state);
        self.tell_end(&began.stage);
        for effect in effects {
            match effect {
                Effect::WakeAt(time) => at(time),
                effect => self.perform(effect),
            }
        }
        if self.state.stage == Stage::Gone {
            return now;
        }
        let syncing = self.state.stage == Stage::Syncing;
        if syncing && self.volumes.is_some() {
            let token_due = self.refresh_at.is_some_and(|due| due <= now);
            if (self.refresh_wanted || token_due) && !self.running.contains(&Op::Volumes) {
                match self.failures.get(&Op::Volumes) {
                    Some(failure) if failure.until > now => at(failure.until),
                    _ => self.perform(Effect::PrepareVolumes),
                }
            }
            if let Some(due) = self.refresh_at.filter(|due| *due > now) {
                at(due);
            }
        }
        // Without a sandbox there is no address to ask, and what is left of the pod is being killed.
        if live_sandbox(&self.containers).is_some() {
            for (id, container, kind, probe) in self.probes.due(now, !syncing) {
                self.ask(id, container, kind, probe);
            }
            if let Some(due) = self.probes.next() {
                at(due);
            }
        }
        self.collect_messages();
        let before = self.published;
        if let Some(time) = self.publish(&health, now) {
            at(time);
        }
        if self.published && !before {
            at(now); // What waited for the status may go on.
        }
        self.tell_resized();
        self.show();
        wake
    }

    /// Says why a pod ends, where nobody asked for it.
    fn tell_end(&self, before: &Stage) {
        if *before != Stage::Syncing {
            return;
        }
        match self.state.stage.why() {
            Some(Why::DeadlineExceeded) => {
                let text = "Pod was active on the node longer than the specified deadline";
                self.context.event(&self.pod, None, false, "DeadlineExceeded", text);
            }
            Some(Why::Rejected(reason, message)) => {
                self.context.event(&self.pod, None, true, reason, message)
            }
            _ => {}
        }
    }

    fn health(&self) -> BTreeMap<String, Health> {
        let mut health = self.probes.health();
        for id in &self.hooking {
            // Until its hook is through, a container has not started for anybody.
            health.insert(id.clone(), Health { started: false, ready: false, failed: None });
        }
        health
    }

    fn sync_probes(&mut self) {
        let spec = self.pod.spec.as_ref();
        let specs: Vec<&Spec> = spec
            .into_iter()
            .flat_map(|spec| {
                let sidecars = spec.init_containers.iter().flatten().filter(|c| api::pod::is_sidecar(c));
                spec.containers.iter().chain(sidecars)
            })
            .collect();
        let pod = &self.pod;
        let running = self.containers.iter().filter_map(|container| {
            let runtime::State::Running { started } = container.state else { return None };
            let spec = specs.iter().find(|spec| spec.name == container.name)?;
            if self.hooking.contains(&container.id) {
                return None;
            }
            let told = api::pod::container_status(pod, &container.name)
                .filter(|told| told.container_id.as_deref() == Some(&status::container_id(&container.id)))
                .map(|told| (told.started == Some(true), told.ready));
            Some(probe::Running { id: &container.id, spec, since: started, told })
        });
        self.probes.sync(running);
    }

    fn wished(&mut self) {
        let wish = self.wishes.borrow_and_update().clone();
        let changed = wish.pod.metadata.generation != self.wish.pod.metadata.generation;
        let relabelled = wish.pod.metadata.labels != self.wish.pod.metadata.labels
            || wish.pod.metadata.annotations != self.wish.pod.metadata.annotations;
        if changed {
            // Another image may be wanted, and what failed may succeed now.
            self.failures.retain(|op, _| !matches!(op, Op::Image(_) | Op::Start(_) | Op::Resize(_)));
            self.images.clear();
        }
        self.tell_resize(&wish);
        if relabelled {
            self.refresh();
        }
        let status = if version(&wish.pod) >= version(&self.pod) { None } else { self.pod.status.take() };
        self.pod = Pod::clone(&wish.pod);
        if status.is_some() {
            // What we wrote last is newer than what the informer has.
            self.pod.status = status;
        }
        self.published = false;
        let vanished = self.wish.vanished || wish.vanished;
        self.wish = Wish { vanished, ..wish };
    }

    fn poked(&mut self, poke: Poke) {
        match poke {
            Poke::Look => self.look_again = true,
            Poke::Refresh => self.refresh(),
            Poke::Retry => {
                self.failures
                    .retain(|_, failure| !matches!(failure.reason.as_str(), "" | "ContainerCreating"));
            }
            Poke::Container { id, action } => {
                let known = self.containers.iter().find(|container| container.id == id);
                let told = match action {
                    Action::Started => known.is_some_and(Container::is_running),
                    Action::Died => known.is_some_and(Container::is_exited),
                    Action::Removed => known.is_none(),
                };
                // Its own operation will tell of it.
                let awaited = self.running.iter().any(|op| match op {
                    Op::Kill { id: killed, .. } => *killed == id && action == Action::Died,
                    Op::Remove(removed) => *removed == id,
                    Op::Sandbox | Op::Start(_) => known.is_none() && action == Action::Started,
                    _ => false,
                });
                if !told && !awaited {
                    self.inspect(id);
                }
            }
        }
    }

    fn refresh(&mut self) {
        self.refresh_wanted = true;
        self.failures.retain(|op, _| !matches!(op, Op::Volumes | Op::Start(_)));
    }

    /// Lists the pod's containers, unless that is being done.
    fn look(&mut self) {
        if self.looking {
            return;
        }
        (self.looking, self.look_again) = (true, false);
        let (context, uid, epoch) = (Arc::clone(&self.context), self.uid.clone(), self.epoch);
        let look = async move { Done::Looked { epoch, result: context.runtime.list_pod(&uid).await } };
        self.ops.push(look.boxed());
    }

    /// Looks at one container that an event told of. Not by a list: Docker tells of a death before its lists show it.
    fn inspect(&mut self, id: String) {
        let runtime = Arc::clone(&self.context.runtime);
        let inspect = async move {
            let result = runtime.inspect(&id).await;
            Done::Inspected { id, result }
        };
        self.ops.push(inspect.boxed());
    }

    /// Takes in what a container has become; an answer that is older than what is known is dropped.
    fn note(&mut self, container: Container) {
        let known = self.containers.iter().find(|known| known.id == container.id).map(|known| &known.state);
        if let (Some(runtime::State::Exited { finished, .. }), runtime::State::Running { started }) =
            (known, &container.state)
            && started <= finished
        {
            return;
        }
        self.epoch += 1;
        self.published = false;
        self.containers.retain(|known| known.id != container.id);
        self.containers.push(container);
        self.containers.sort_by_key(|c| std::cmp::Reverse((c.created, c.attempt)));
    }

    /// Lets the kubelet's API see the pod.
    fn show(&self) {
        let waiting = self.waiting();
        self.context.lookup.publish(PodView {
            pod: Arc::new(self.pod.clone()),
            containers: self.containers.clone(),
            waiting: waiting.into_iter().map(|(name, (reason, _))| (name, reason)).collect(),
        });
    }

    /// The pod's address, when its sandbox runs.
    fn pod_ip(&self) -> Option<std::net::IpAddr> {
        let sandbox = live_sandbox(&self.containers)?;
        if crate::container_spec::host_network(&self.pod) {
            return self.context.machine.node_ip.map(Into::into);
        }
        sandbox.ip
    }

    fn fail(&mut self, op: Op, now: Timestamp, first: i64, last: i64, reason: &str, message: String) {
        let before = self.failures.get(&op).map(|failure| failure.delay);
        let first = SignedDuration::from_secs(first);
        let delay = before.map_or(first, |delay| (delay * 2).min(SignedDuration::from_secs(last)));
        let until = now.checked_add(delay).unwrap_or(now);
        self.failures.insert(op, Failure { at: now, until, delay, reason: reason.to_owned(), message });
    }

    fn spec_of(&self, name: &str) -> Option<Spec> {
        let spec = self.pod.spec.as_ref()?;
        let ephemeral = || {
            let found = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
            Some(api::pod::ephemeral_as_container(found))
        };
        api::pod::container(spec, name).cloned().or_else(ephemeral)
    }
}

/// resourceVersion as a number, to tell which of two copies is newer.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The objects a container's variables name, fetched.
async fn env_objects(context: &Context, namespace: &str, spec: &Spec) -> runtime::Result<Objects> {
    let references = crate::objects::of_env(spec);
    if references.is_empty() {
        return Ok(Objects::default());
    }
    let found = Objects::fetch(&context.client, namespace, &references).await;
    found.map_err(|error| runtime::Error::ContainerConfig(error.to_string()))
}

#[cfg(test)]
mod tests;
