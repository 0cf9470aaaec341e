//! An API server of plain data with the real one's rules: one object a name, revisions, preconditions, graceful deletion
//! of what runs on a node, finalizers. Every change is an event in one log, which watches show sooner or later.

mod objects;
mod requests;
mod writes;

use super::oracle::Oracle;
use jiff::Timestamp;
pub(crate) use objects::{Obj, Typed};
use requests::InFlight;
use std::{collections::BTreeMap, sync::Arc};

pub(crate) const NS: &str = "ns";

/// What the API server promises, for a look at what each promise is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// A name is taken until its object is gone.
    OneName,
    /// A pod on a node stays, marked, until its grace is over and its kubelet says so.
    Graceful,
    /// A pod is bound once.
    BoundOnce,
    /// A precondition that does not hold refuses the write.
    Preconditions,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Actor {
    StatefulSets,
    Scheduler,
    Nodes,
    PodGarbage,
    Volumes,
}

pub(crate) type Key = (&'static str, String);

pub(crate) struct Event {
    pub(crate) deleted: bool,
    pub(crate) object: Obj,
}

impl Event {
    fn revision(&self) -> u64 {
        self.object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
    }
}

pub(crate) struct Server {
    pub(crate) now: Timestamp,
    pub(crate) rng: fastrand::Rng,
    pub(crate) objects: BTreeMap<Key, Obj>,
    /// What happened, one event a revision.
    pub(crate) log: Vec<Event>,
    /// The revision before the log begins.
    base: u64,
    pub(crate) oracle: Oracle,
    /// Requests may fail, before or after they did their work.
    pub(crate) faults: bool,
    pub(crate) broken: Option<Promise>,
    in_flight: Vec<InFlight>,
    counter: u64,
}

pub(crate) type Answer<T> = kube::Result<T>;

impl Server {
    pub(crate) fn new(now: Timestamp, rng: fastrand::Rng, broken: Option<Promise>) -> Self {
        Self {
            now,
            rng,
            objects: BTreeMap::new(),
            log: Vec::new(),
            base: 0,
            oracle: Oracle::default(),
            faults: true,
            broken,
            in_flight: Vec::new(),
            counter: 0,
        }
    }

    /// Begins where another server has come to rest: with its objects, and none of its past.
    pub(crate) fn resume(&mut self, rest: &Server) {
        self.now = rest.now;
        self.counter = rest.counter;
        self.objects = rest.objects.clone();
        let objects = self.objects.values().cloned();
        self.log = objects.map(|object| Event { deleted: false, object }).collect();
        self.log.sort_by_key(Event::revision);
        self.base = rest.revision() - self.log.len() as u64;
        self.oracle.resume(&rest.oracle);
    }

    fn promises(&self, promise: Promise) -> bool {
        self.broken != Some(promise)
    }

    pub(crate) fn get<K: Typed>(&self, name: &str) -> Option<&Arc<K>> {
        K::of(self.objects.get(&(K::KIND, name.to_owned()))?)
    }

    pub(crate) fn all<K: Typed>(&self) -> impl Iterator<Item = &Arc<K>> {
        let from = (K::KIND, String::new());
        self.objects.range(from..).take_while(|((kind, _), _)| *kind == K::KIND).filter_map(|(_, o)| K::of(o))
    }

    pub(crate) fn revision(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    /// The revision of a list that knows the first `at` events.
    pub(crate) fn revision_at(&self, at: usize) -> u64 {
        self.log[..at].last().map_or(0, Event::revision)
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        self.oracle.say(|| format!("{} {}", now.strftime("%H:%M:%S"), what()));
    }
}
