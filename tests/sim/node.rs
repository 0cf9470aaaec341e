//! Nodes: a machine whose containers live on whatever becomes of the kubelet, and a kubelet that asks the real `step` what
//! to do, one operation at a time.
mod machine;
mod object;
mod worker;

use super::{
    oracle::{name, uid},
    process::{Shared, as_of, lock},
    server::{NS, Typed},
};
use client::{Queue, Store};
use futures::FutureExt;
use k8s_openapi::{
    api::core::v1::{Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kubelet::{
    pure::{self, Turn, machine::Op, returning},
    runtime::Container,
};
pub(crate) use machine::Machine;
use machine::end;
pub(crate) use object::BEAT;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use worker::{Worker, wish};

pub(crate) const MAIN: &str = "main";
/// A template with this image never becomes Ready.
pub(crate) const BAD: &str = "bad";

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
    pods: Store<Pod>,
    workers: BTreeMap<String, Worker>,
    /// Names to look at.
    changed: Queue<String>,
    begun: bool,
    /// What has to end before anything else; with the revision of the list it comes from.
    ending: Option<BTreeSet<String>>,
    looked: returning::Looked,
    /// How much of the log there was when it looked.
    listed_at: usize,
    told_ready: bool,
    /// Uids whose workers have ended.
    gone: BTreeSet<String>,
}

impl Kubelet {
    pub(crate) fn new(node: &str, server: &Shared, machine: Machine) -> Self {
        let (pods, changed) = (Store::<Pod>::by_hand(), Queue::new());
        let (own, names) = (node.to_owned(), changed.clone());
        pods.on_change(move |change| {
            let pod = change.object();
            if api::pod::node_name(pod) == Some(own.as_str()) {
                names.add(name(pod).to_owned());
            }
        });
        Self {
            node: node.to_owned(),
            server: server.clone(),
            machine,
            up: true,
            linked: true,
            slow: 0,
            stubborn: false,
            cursor: None,
            pods,
            workers: BTreeMap::new(),
            changed,
            begun: false,
            ending: None,
            looked: returning::Looked::default(),
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
            self.pods.feed_list(listed.cloned().collect(), server.revision_at(at));
            return true;
        };
        let to = newest.min(from.saturating_add(most));
        self.cursor = Some(to);
        for event in &server.log[from..to] {
            if let Some(pod) = Pod::of(&event.object) {
                self.pods.feed(event.deleted, pod.clone());
            }
        }
        from < to
    }

    /// The watch was cut and begins again a little in the past.
    pub(crate) fn repeat(&mut self, rng: &mut fastrand::Rng) {
        if let Some(cursor) = &mut self.cursor {
            *cursor = cursor.saturating_sub(rng.usize(..8));
        }
    }

    /// The same, from there on.
    pub(crate) fn rewind(&mut self, to: usize) {
        self.cursor = self.cursor.map(|cursor| cursor.min(to));
    }

    /// Whether it has something to tell the API server.
    pub(crate) fn is_speaking(&self) -> bool {
        self.workers.values().any(|w| w.running.iter().any(|op| matches!(op, Op::Delete | Op::Publish)))
    }

    // As the agent: which pods have workers.

    fn own_pods(&self) -> Vec<Arc<Pod>> {
        let here = |p: &Arc<Pod>| self.here(p) && !self.looked.was_gone(p);
        self.pods.list().into_iter().filter(here).collect()
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
        self.looked = returning::Looked::new(&listed, revision);
        let mut ending = returning::to_end(&self.machine.containers, &cached);
        let before = self.ending.take().unwrap_or_default();
        if !ending.is_empty() {
            lock(&self.server).say(|| format!("{}: has to end first: {ending:?}", self.node));
            for uid in &ending {
                match cached.iter().find(|p| super::oracle::uid(p) == uid) {
                    Some(pod) => self.reconcile(name(pod), Some(pod.clone())),
                    None => self.adopt_orphan(uid),
                }
            }
            ending.extend(before);
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
        // It looks again: others may have been deleted or replaced meanwhile.
        self.begun = false;
        true
    }

    /// Containers without a pod get a worker that ends them.
    pub(crate) fn relist(&mut self) {
        if !self.up || !self.begun {
            return;
        }
        let known = self.pods.list();
        let known: BTreeSet<&str> = known.iter().map(|p| uid(p)).collect();
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
            self.ending.as_ref().is_none_or(|e| e.contains(uid(pod)))
                && !self.looked.was_gone(pod)
                && !self.gone.contains(uid(pod))
        };
        let wanted = self.pods.get(NS, key).filter(|p| self.here(p) && has_turn(p));
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
        if let Some(Some(key)) = self.changed.next().now_or_never() {
            self.changed.done(&key);
            self.handle(&key);
            return true;
        }
        let mut uids: Vec<String> = self.workers.keys().cloned().collect();
        rng.shuffle(&mut uids);
        uids.iter().any(|uid| self.work(uid, rng))
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
}
