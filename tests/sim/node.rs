//! Nodes: a machine whose containers live on whatever becomes of the kubelet, and a kubelet that asks the real `step` what
//! to do, one operation at a time.

use super::{
    oracle::{Live, name, uid},
    process::{Shared, as_of, lock},
    server::{NS, Obj, Server, Typed},
};
use api::conditions;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, PodStatus},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, Time},
    },
};
use kubelet::{
    pure::{
        self, Claims, Turn,
        machine::{self, Effect, Object, Op, Stage, World},
        plan::{Health, spec_hash},
        returning,
        status::{self, Facts},
    },
    runtime::{Container, PodRef, SANDBOX_NAME, State},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

pub(crate) const MAIN: &str = "main";
/// A template with this image never becomes Ready.
pub(crate) const BAD: &str = "bad";

/// What runs on a node. It outlives kubelets.
#[derive(Default, Clone)]
pub(crate) struct Machine {
    pub(crate) containers: Vec<Container>,
    ready: BTreeSet<String>,
    counter: u64,
    changes: u64,
}

struct Worker {
    pod: Arc<Pod>,
    vanished: bool,
    state: machine::State,
    running: BTreeSet<Op>,
    effects: BTreeMap<Op, Effect>,
    /// (name of the claim, its uid, path) for each volume.
    volumes: Option<Vec<(String, String, String)>>,
    published: bool,
    released: bool,
    /// Something has changed since `step` was asked last, or will have at this time.
    stale: bool,
    wake: Option<Timestamp>,
    /// State of the machine that was looked at last.
    seen: u64,
}

impl Worker {
    fn new(pod: Arc<Pod>, vanished: bool) -> Self {
        Self {
            pod,
            vanished,
            state: machine::State::default(),
            running: BTreeSet::new(),
            effects: BTreeMap::new(),
            volumes: None,
            published: false,
            released: false,
            stale: true,
            wake: None,
            seen: 0,
        }
    }
}

pub(crate) struct Kubelet {
    pub(crate) node: String,
    server: Shared,
    pub(crate) machine: Machine,
    /// The process lives.
    pub(crate) up: bool,
    /// It reaches the API server.
    pub(crate) linked: bool,
    /// How often of four an operation has to wait.
    pub(crate) slow: u8,
    /// Containers end only when their time is up.
    pub(crate) stubborn: bool,
    cursor: Option<usize>,
    pods: BTreeMap<String, Arc<Pod>>,
    workers: BTreeMap<String, Worker>,
    /// Names to look at.
    changed: VecDeque<String>,
    begun: bool,
    /// What has to end before anything else; with the revision of the list it comes from.
    ending: Option<BTreeSet<String>>,
    /// How much of the log there was when it looked.
    listed_at: usize,
    told_ready: bool,
    /// Uids whose workers have ended.
    gone: BTreeSet<String>,
}

impl Kubelet {
    pub(crate) fn new(node: &str, server: &Shared, machine: Machine) -> Self {
        Self {
            node: node.to_owned(),
            server: server.clone(),
            machine,
            up: true,
            linked: true,
            slow: 0,
            stubborn: false,
            cursor: None,
            pods: BTreeMap::new(),
            workers: BTreeMap::new(),
            changed: VecDeque::new(),
            begun: false,
            ending: None,
            listed_at: 0,
            told_ready: false,
            gone: BTreeSet::new(),
        }
    }

    fn here(&self, pod: &Pod) -> bool {
        api::pod::node_name(pod) == Some(self.node.as_str())
    }

    // The process.

    /// Ends the process. What it had asked the engine to start may have been started.
    pub(crate) fn crash(&mut self, rng: &mut fastrand::Rng) {
        if self.up {
            let starting: Vec<(String, Op)> = self
                .workers
                .iter()
                .flat_map(|(uid, w)| w.running.iter().map(move |op| (uid.clone(), op.clone())))
                .filter(|(_, op)| matches!(op, Op::Start(_) | Op::Sandbox | Op::Kill { .. } | Op::Remove(_)))
                .collect();
            for (uid, op) in starting {
                if rng.bool() {
                    self.complete(&uid, &op);
                }
            }
        }
        let machine = std::mem::take(&mut self.machine);
        let (linked, slow, stubborn) = (self.linked, self.slow, self.stubborn);
        *self = Self {
            up: false,
            linked,
            slow,
            stubborn,
            ..Self::new(&self.node.clone(), &self.server.clone(), machine)
        };
    }

    pub(crate) fn start(&mut self) {
        self.up = true;
    }

    /// The machine loses power.
    pub(crate) fn kill(&mut self, rng: &mut fastrand::Rng) {
        self.crash(rng);
        let now = lock(&self.server).now;
        for container in &mut self.machine.containers {
            end(container, 137, now);
            lock(&self.server).oracle.ended(&container.id);
        }
        self.machine.ready.clear();
        self.machine.changes += 1;
    }

    /// Shows the cache of pods some more of the log.
    pub(crate) fn watch(&mut self, most: usize, stale: usize) -> bool {
        if !self.up || !self.linked {
            return false;
        }
        let shared = self.server.clone();
        let server = lock(&shared);
        let newest = server.log.len();
        let Some(from) = self.cursor else {
            let at = newest.saturating_sub(stale);
            self.cursor = Some(at);
            let listed = as_of(&server, "Pod", at).into_iter().filter_map(Pod::of);
            self.pods = listed.map(|p| (name(p).to_owned(), p.clone())).collect();
            return true;
        };
        let to = newest.min(from.saturating_add(most));
        self.cursor = Some(to);
        let mut any = false;
        for event in &server.log[from..to] {
            let Some(pod) = Pod::of(&event.object) else { continue };
            let known = match event.deleted {
                true => self.pods.remove(name(pod)),
                false => self.pods.insert(name(pod).to_owned(), pod.clone()),
            };
            if self.here(pod) || known.is_some_and(|k| self.here(&k)) {
                self.changed.push_back(name(pod).to_owned());
                any = true;
            }
        }
        any
    }

    /// The watch was cut and begins again a little in the past.
    pub(crate) fn repeat(&mut self, rng: &mut fastrand::Rng) {
        if let Some(cursor) = &mut self.cursor {
            *cursor = cursor.saturating_sub(rng.usize(..8));
        }
    }

    /// Whether it has something to tell the API server.
    pub(crate) fn is_speaking(&self) -> bool {
        self.workers.values().any(|w| w.running.iter().any(|op| matches!(op, Op::Delete | Op::Publish)))
    }

    // As the agent: which pods have workers.

    fn own_pods(&self) -> Vec<Arc<Pod>> {
        self.pods.values().filter(|p| self.here(p)).cloned().collect()
    }

    /// Takes over what is on the machine, once the cache is as new as the API server.
    fn begin(&mut self) -> bool {
        if self.begun || self.cursor.is_none() || !self.linked {
            return false;
        }
        let (listed, revision, at): (Vec<Pod>, u64, usize) = {
            let server = lock(&self.server);
            let own = server.all::<Pod>().filter(|p| self.here(p)).map(|p| Pod::clone(p));
            (own.collect(), server.revision(), server.log.len())
        };
        let cached = self.own_pods();
        if !returning::caught_up(&cached, &listed, revision) {
            return self.watch(usize::MAX, 0);
        }
        self.begun = true;
        self.listed_at = at;
        let ending = returning::to_end(&self.machine.containers, &cached);
        if !ending.is_empty() {
            lock(&self.server).say(|| format!("{}: has to end first: {ending:?}", self.node));
            for uid in &ending {
                match cached.iter().find(|p| super::oracle::uid(p) == uid) {
                    Some(pod) => self.reconcile(name(pod), Some(pod.clone())),
                    None => self.adopt_orphan(uid),
                }
            }
            self.ending = Some(ending);
            return true;
        }
        self.take_over();
        true
    }

    fn take_over(&mut self) {
        self.relist();
        for pod in self.own_pods() {
            self.reconcile(name(&pod), Some(pod.clone()));
        }
    }

    fn look_at_ending(&mut self) -> bool {
        let Some(ending) = &self.ending else { return false };
        if !returning::still_alive(ending, &self.machine.containers).is_empty() {
            return false;
        }
        self.ending = None;
        self.take_over();
        true
    }

    /// Containers without a pod get a worker that ends them.
    pub(crate) fn relist(&mut self) {
        if !self.up || !self.begun {
            return;
        }
        let known: BTreeSet<&str> = self.pods.values().map(|p| uid(p)).collect();
        let orphans: BTreeSet<String> = self
            .machine
            .containers
            .iter()
            .map(|c| c.pod.uid.clone())
            .filter(|uid| !known.contains(uid.as_str()) && !self.workers.contains_key(uid))
            .collect();
        orphans.iter().for_each(|uid| self.adopt_orphan(uid));
    }

    fn adopt_orphan(&mut self, uid: &str) {
        let Some(container) = self.machine.containers.iter().find(|c| c.pod.uid == uid) else { return };
        if self.workers.contains_key(uid) {
            return;
        }
        let pod = Pod {
            metadata: ObjectMeta {
                namespace: Some(NS.to_owned()),
                name: Some(container.pod.name.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { node_name: Some(self.node.clone()), ..PodSpec::default() }),
            status: None,
        };
        self.workers.insert(uid.to_owned(), Worker::new(Arc::new(pod), true));
    }

    fn reconcile(&mut self, key: &str, wanted: Option<Arc<Pod>>) {
        let wanted_uid = wanted.as_ref().map(|p| uid(p).to_owned()).unwrap_or_default();
        let others: Vec<String> =
            self.workers.iter().filter(|(_, w)| name(&w.pod) == key).map(|(uid, _)| uid.clone()).collect();
        for other in others.iter().filter(|o| **o != wanted_uid) {
            if let Some(worker) = self.workers.get_mut(other) {
                worker.stale |= !worker.vanished;
                worker.vanished = true;
            }
        }
        let Some(pod) = wanted else { return };
        match pure::turn(&others, &wanted_uid) {
            Turn::GoesOn => {
                if let Some(worker) = self.workers.get_mut(&wanted_uid) {
                    wish(worker, pod);
                }
            }
            Turn::Begins => {
                self.workers.insert(wanted_uid, Worker::new(pod, false));
            }
            Turn::Waits => {}
        }
    }

    fn handle(&mut self, key: &str) {
        let has_turn = |pod: &Pod| {
            self.ending.as_ref().is_none_or(|e| e.contains(uid(pod))) && !self.gone.contains(uid(pod))
        };
        let wanted = self.pods.get(key).filter(|p| self.here(p) && has_turn(p)).cloned();
        self.reconcile(key, wanted);
    }

    /// One thing the kubelet does; `false` if there is nothing (but to wait).
    pub(crate) fn step(&mut self, rng: &mut fastrand::Rng) -> bool {
        if !self.up {
            return false;
        }
        if !self.begun {
            return self.begin();
        }
        if self.look_at_ending() {
            return true;
        }
        if let Some(key) = self.changed.pop_front() {
            self.handle(&key);
            return true;
        }
        let mut uids: Vec<String> = self.workers.keys().cloned().collect();
        rng.shuffle(&mut uids);
        uids.iter().any(|uid| self.work(uid, rng))
    }

    // As a worker: step, operations, status.

    fn work(&mut self, uid: &str, rng: &mut fastrand::Rng) -> bool {
        let Some(worker) = self.workers.get(uid) else { return false };
        // Operations take their time: whatever else happens, happens between.
        let mut ops: Vec<Op> = worker.running.iter().cloned().collect();
        rng.shuffle(&mut ops);
        ops.retain(|_| rng.u8(..4) >= self.slow);
        let think_first = rng.u8(..4) == 0;
        (think_first && self.turn(uid)) || ops.iter().any(|op| self.complete(uid, op)) || self.turn(uid)
    }

    /// Asks `step` and begins what it says. `false` if nothing changed.
    fn turn(&mut self, uid: &str) -> bool {
        let now = lock(&self.server).now;
        let Some(worker) = self.workers.get_mut(uid) else { return false };
        if !worker.stale && worker.seen == self.machine.changes && worker.wake.is_none_or(|at| at > now) {
            return false;
        }
        (worker.stale, worker.wake, worker.seen) = (false, None, self.machine.changes);
        let containers = self.machine.of(uid);
        let health = self.machine.health(&containers);
        let (images, held) = (BTreeSet::from([MAIN.to_owned()]), BTreeMap::new());
        let world = World {
            pod: &worker.pod,
            object: Object::of(&worker.pod, worker.vanished),
            containers: &containers,
            health: &health,
            running: &worker.running,
            volumes_ready: worker.volumes.is_some(),
            images_ready: &images,
            held: &held,
            rejected: None,
            published: worker.published,
            released: worker.released,
        };
        let (state, effects) = machine::step(worker.state.clone(), &world, now);
        let mut worked = state != worker.state;
        worker.state = state;
        for effect in effects {
            let op = match &effect {
                Effect::PrepareVolumes => Op::Volumes,
                Effect::EnsureSandbox { .. } => Op::Sandbox,
                Effect::StartContainer { container, .. } => Op::Start(container.clone()),
                Effect::KillContainer { id, deadline, .. } => {
                    Op::Kill { id: id.clone(), deadline: *deadline }
                }
                Effect::RemoveContainer { id } => Op::Remove(id.clone()),
                Effect::DeleteObject => Op::Delete,
                Effect::Release => Op::Release,
                Effect::WakeAt(at) => {
                    worker.wake = Some(worker.wake.map_or(*at, |w| w.min(*at)));
                    continue;
                }
                Effect::EnsureImage { .. } => continue,
            };
            worked |= worker.running.insert(op.clone());
            worker.effects.insert(op, effect);
        }
        if worker.state.stage == Stage::Gone {
            let key = name(&worker.pod).to_owned();
            self.workers.remove(uid);
            self.gone.insert(uid.to_owned());
            self.changed.push_back(key);
            return true;
        }
        let worker = self.workers.get_mut(uid).unwrap();
        if !worker.vanished && !worker.running.contains(&Op::Publish) {
            let new = compute(worker, &containers, &health, now);
            let differs = worker.pod.status.as_ref() != Some(&new);
            if differs {
                worker.published = false;
                worked |= worker.running.insert(Op::Publish);
            } else {
                worked |= !std::mem::replace(&mut worker.published, true);
            }
        }
        worker.stale = worked;
        worked
    }

    /// An operation ends. `false` if it cannot, now.
    fn complete(&mut self, uid: &str, op: &Op) -> bool {
        let shared = self.server.clone();
        let mut server = lock(&shared);
        let now = server.now;
        let containers = self.machine.of(uid);
        let health = self.machine.health(&containers);
        let Some(worker) = self.workers.get_mut(uid) else { return false };
        if matches!(op, Op::Volumes | Op::Publish | Op::Delete) && !self.linked {
            return false;
        }
        if matches!(op, Op::Kill { deadline, .. } if self.stubborn && now < *deadline) {
            return false;
        }
        worker.running.remove(op);
        worker.stale = true;
        let pod = worker.pod.clone();
        match op {
            Op::Volumes => match mount(&server, &pod) {
                Ok(volumes) => worker.volumes = Some(volumes),
                Err(_) => {
                    // Tried again, the operation goes on.
                    worker.running.insert(Op::Volumes);
                    return false;
                }
            },
            Op::Sandbox => {
                let Some(Effect::EnsureSandbox { attempt }) = worker.effects.get(op).cloned() else {
                    return false;
                };
                self.machine.run(&pod, SANDBOX_NAME, attempt, "", now);
            }
            Op::Start(container) => {
                let Some(Effect::StartContainer { attempt, .. }) = worker.effects.get(op).cloned() else {
                    return false;
                };
                let Some(sandbox) = containers.iter().find(|c| c.is_sandbox() && c.is_running()) else {
                    return false;
                };
                let volumes = worker.volumes.clone().unwrap_or_default();
                if let Some(id) = self.machine.run(&pod, container, attempt, &sandbox.id, now) {
                    server.say(|| format!("{}: {} ({uid}) runs as {id}", self.node, name(&pod)));
                    let first = volumes.first();
                    let live = Live {
                        uid: uid.to_owned(),
                        identity: name(&pod).to_owned(),
                        node: self.node.clone(),
                        path: first.map(|(_, _, path)| path.clone()),
                    };
                    let claim = first.map(|(claim, uid, _)| (claim.as_str(), uid.as_str()));
                    server.oracle.started(&id, live, claim);
                }
            }
            Op::Kill { id, .. } | Op::Remove(id) => {
                let remove = matches!(op, Op::Remove(_));
                server.say(|| {
                    format!(
                        "{}: {} {id} of {}",
                        self.node,
                        if remove { "removes" } else { "kills" },
                        name(&pod)
                    )
                });
                server.oracle.ended(id);
                self.machine.stop(id, remove, now);
            }
            Op::Delete => {
                let params = pure::last_word(uid);
                server.say(|| format!("{}: last word on {} ({uid})", self.node, name(&pod)));
                // Gone already, or another's: as good as deleted.
                let _ = server.delete("Pod", name(&pod), &params);
                worker.vanished = true;
            }
            Op::Publish => {
                let new = compute(worker, &containers, &health, now);
                let old = pod.status.clone().unwrap_or_default();
                match server.write_status(name(&pod), status::only_of(uid), &old, &new) {
                    Some(written) if version(&written) >= version(&pod) => {
                        let pod = Arc::make_mut(&mut worker.pod);
                        pod.metadata.resource_version = written.metadata.resource_version.clone();
                        pod.status = written.status.clone();
                    }
                    Some(_) => {}
                    None => worker.published = true,
                }
            }
            Op::Release => worker.released = true,
            _ => {}
        }
        true
    }

    // What happens to containers by themselves.

    /// A container becomes ready or stops being it.
    pub(crate) fn flip(&mut self, rng: &mut fastrand::Rng, ready: bool) {
        let running: Vec<String> = self.machine.main().map(|c| c.id.clone()).collect();
        if let Some(id) = rng.choice(&running) {
            self.machine.set_ready(id, ready);
        }
        self.note_ready();
    }

    /// All become ready that can; bad ones that no update will reach, as they are not wanted, are repaired by hand.
    pub(crate) fn all_ready(&mut self, wanted: &BTreeSet<String>) -> bool {
        let before = self.machine.ready.len();
        let good = |c: &&Container| c.image != BAD || !wanted.contains(&c.pod.name);
        let ready: Vec<String> = self.machine.main().filter(good).map(|c| c.id.clone()).collect();
        self.machine.ready.extend(ready);
        self.machine.changes += u64::from(self.machine.ready.len() != before);
        self.note_ready();
        self.machine.ready.len() != before
    }

    pub(crate) fn all_unready(&mut self) {
        self.machine.ready.clear();
        self.machine.changes += 1;
    }

    fn note_ready(&self) {
        let ready = self.machine.main().filter(|c| self.machine.ready.contains(&c.id));
        lock(&self.server).oracle.ever_ready.extend(ready.map(|c| c.pod.uid.clone()));
    }

    /// A container dies by itself.
    pub(crate) fn fail(&mut self, rng: &mut fastrand::Rng) {
        let mut server = lock(&self.server);
        let running: Vec<String> = self.machine.main().map(|c| c.id.clone()).collect();
        if let Some(id) = rng.choice(&running) {
            server.say(|| format!("{}: {id} dies", self.node));
            server.oracle.ended(id);
            let now = server.now;
            self.machine.stop(id, false, now);
        }
    }

    // The node's own object.

    /// Renews the lease, registers where needed, and says Ready when it may.
    pub(crate) fn beat(&mut self) {
        if !self.up || !self.linked {
            return;
        }
        let shared = self.server.clone();
        let mut server = lock(&shared);
        if server.get::<Node>(&self.node).is_none() {
            if self.told_ready {
                return; // Only a kubelet that starts registers.
            }
            server.oracle.given_up.remove(&self.node);
            let _ = server.create(node(&self.node));
        }
        let now = server.now;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.node.clone()),
                namespace: Some("kube-node-lease".to_owned()),
                ..ObjectMeta::default()
            },
            ..Lease::default()
        };
        if server.get::<Lease>(&self.node).is_none() {
            let _ = server.create(lease.wrap());
        }
        server.change::<Lease>(&self.node, |l| {
            l.spec.get_or_insert_default().renew_time = Some(MicroTime(now))
        });
        server.oracle.beats.insert(self.node.clone(), now);
        let may = self.begun && self.ending.is_none();
        let ready = if may { "True" } else { "False" };
        let said = server.get::<Node>(&self.node).and_then(|n| {
            let all = n.status.as_ref()?.conditions.as_deref()?;
            conditions::find(all, "Ready").map(|c| c.status.clone())
        });
        if said.as_deref() == Some(ready) {
            self.told_ready |= may;
            return;
        }
        if may && !self.told_ready {
            self.told_ready = true;
            self.check_return(&mut server);
        }
        server.say(|| format!("{}: Ready {ready}", self.node));
        server.change::<Node>(&self.node, |node| {
            let all = node.status.get_or_insert_default().conditions.get_or_insert_default();
            let condition = NodeCondition {
                type_: "Ready".into(),
                status: ready.into(),
                last_heartbeat_time: Some(Time(now)),
                ..NodeCondition::default()
            };
            conditions::set(all, condition, now);
        });
    }

    /// A kubelet that has come back says Ready: nothing may live here of a pod that was gone when it looked.
    fn check_return(&self, server: &mut Server) {
        let there: BTreeSet<&str> = as_of(server, "Pod", self.listed_at)
            .into_iter()
            .filter_map(|o| o.meta().uid.as_deref())
            .collect();
        let survivor = self.machine.main().find(|c| {
            !there.contains(c.pod.uid.as_str())
                && c.created <= server.now
                && !self.is_newer(server, &c.pod.uid)
        });
        if let Some(container) = survivor {
            let what = format!("{} is Ready while {} of a pod that is gone runs", self.node, container.id);
            server.oracle.violated(what);
        }
    }

    /// Whether the pod was made after this kubelet looked.
    fn is_newer(&self, server: &Server, uid: &str) -> bool {
        server.log[self.listed_at..].iter().any(|e| e.object.meta().uid.as_deref() == Some(uid))
    }

    /// Everything the API server wants has been done, and nothing else is there.
    pub(crate) fn leftovers(&self) -> Option<String> {
        let server = lock(&self.server);
        let wanted: BTreeSet<&str> = server.all::<Pod>().filter(|p| self.here(p)).map(|p| uid(p)).collect();
        let left = self.machine.containers.iter().find(|c| !wanted.contains(c.pod.uid.as_str()))?;
        Some(format!("{} of {} is still on {}", left.id, left.pod.uid, self.node))
    }
}

/// A newer object, with the newest status that is known.
fn wish(worker: &mut Worker, pod: Arc<Pod>) {
    if version(&pod) < version(&worker.pod) {
        let status = worker.pod.status.clone();
        worker.pod = Arc::new(Pod { status, ..Pod::clone(&pod) });
    } else {
        worker.pod = pod;
    }
    worker.published = false;
    worker.stale = true;
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn compute(
    worker: &Worker,
    containers: &[Container],
    health: &BTreeMap<String, Health>,
    now: Timestamp,
) -> PodStatus {
    status::compute(&Facts {
        pod: &worker.pod,
        containers,
        health,
        stage: &worker.state.stage,
        waiting: &BTreeMap::new(),
        messages: &BTreeMap::new(),
        hooking: &BTreeSet::new(),
        pod_ip: None,
        host_ip: None,
        now,
    })
}

/// What the pod's claims lead to, read afresh as kubelets do.
fn mount(server: &Server, pod: &Pod) -> Result<Vec<(String, String, String)>, String> {
    let mut claims = Claims::new();
    for name in pure::claim_names(pod) {
        let Some(claim) = server.get::<PersistentVolumeClaim>(&name) else { continue };
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
        let volume =
            volume.and_then(|v| server.get::<PersistentVolume>(v)).map(|v| PersistentVolume::clone(v));
        claims.insert(name, (PersistentVolumeClaim::clone(claim), volume));
    }
    pure::claim_names(pod)
        .into_iter()
        .map(|name| {
            let volume = pure::bound_volume(&claims, &name)?;
            let path = volume.spec.as_ref().and_then(|s| s.host_path.as_ref()).map(|h| h.path.clone());
            let uid = claims[&name].0.metadata.uid.clone().unwrap_or_default();
            Ok((name, uid, path.unwrap_or_default()))
        })
        .collect()
}

impl Machine {
    fn of(&self, uid: &str) -> Vec<Container> {
        self.containers.iter().filter(|c| c.pod.uid == uid).rev().cloned().collect()
    }

    fn main(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| !c.is_sandbox() && c.is_running())
    }

    fn health(&self, containers: &[Container]) -> BTreeMap<String, Health> {
        let one = |c: &Container| Health { started: true, ready: self.ready.contains(&c.id), failed: None };
        containers.iter().filter(|c| c.is_running()).map(|c| (c.id.clone(), one(c))).collect()
    }

    fn set_ready(&mut self, id: &str, ready: bool) {
        self.changes += 1;
        let good = self.containers.iter().any(|c| c.id == id && c.image != BAD);
        if ready && good {
            self.ready.insert(id.to_owned());
        } else {
            self.ready.remove(id);
        }
    }

    /// Makes and starts a container; `None` if it was there already.
    fn run(
        &mut self,
        pod: &Pod,
        container: &str,
        attempt: u32,
        sandbox: &str,
        now: Timestamp,
    ) -> Option<String> {
        if self
            .containers
            .iter()
            .any(|c| c.pod.uid == uid(pod) && c.name == container && c.attempt == attempt)
        {
            return None;
        }
        self.counter += 1;
        self.changes += 1;
        let spec = api::pod::container(pod.spec.as_ref()?, container);
        let id = format!("{}/{container}-{}", uid(pod), self.counter);
        self.containers.push(Container {
            id: id.clone(),
            pod: PodRef { namespace: NS.to_owned(), name: name(pod).to_owned(), uid: uid(pod).to_owned() },
            name: container.to_owned(),
            sandbox_id: sandbox.to_owned(),
            state: State::Running { started: now },
            created: now,
            attempt,
            hash: spec.map(spec_hash).unwrap_or_default(),
            image: spec.and_then(|s| s.image.clone()).unwrap_or_default(),
            image_id: String::new(),
            pid: None,
            ip: None,
            tty: false,
            stdin: false,
            grace: Duration::from_secs(10),
        });
        Some(id)
    }

    fn stop(&mut self, id: &str, remove: bool, now: Timestamp) {
        self.ready.remove(id);
        self.changes += 1;
        if remove {
            self.containers.retain(|c| c.id != id);
        } else if let Some(container) = self.containers.iter_mut().find(|c| c.id == id) {
            end(container, 137, now);
        }
    }
}

fn end(container: &mut Container, code: i32, now: Timestamp) {
    if let State::Running { started } = container.state {
        let finished = now.max(started);
        container.state =
            State::Exited { code, oom_killed: false, started: Some(started), finished, error: None };
    }
}

fn node(node: &str) -> Obj {
    let room = BTreeMap::from([
        ("cpu".to_owned(), Quantity("4".to_owned())),
        ("memory".to_owned(), Quantity("4Gi".to_owned())),
        ("pods".to_owned(), Quantity("40".to_owned())),
    ]);
    let mut object = Node {
        metadata: ObjectMeta { name: Some(node.to_owned()), ..ObjectMeta::default() },
        ..Node::default()
    };
    object.status.get_or_insert_default().allocatable = Some(room);
    object.wrap()
}

/// How long a turn of the clock may be for beats not to be missed.
pub(crate) const BEAT: SignedDuration = SignedDuration::from_secs(10);
