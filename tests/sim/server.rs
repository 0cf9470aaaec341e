//! An API server of plain data with the real one's rules: one object a name, revisions, preconditions, graceful deletion
//! of what runs on a node, finalizers. Every change is an event in one log, which watches show sooner or later.

use super::oracle::{Meaning, Oracle, Run};
use api::conditions;
use client::stage::{Call, Object, Reply, Verb};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{ControllerRevision, StatefulSet},
        coordination::v1::Lease,
        core::v1::{
            Binding, Namespace, Node, NodeCondition, PersistentVolume, PersistentVolumeClaim, Pod,
            PodCondition, PodStatus, Taint,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::api::DeleteParams;
use serde_json::{Value, json};
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

pub(crate) trait Typed: Resource + Sized + 'static {
    fn of(object: &Obj) -> Option<&Arc<Self>>;
    fn wrap(self) -> Obj;
}

macro_rules! objects {
    ($($name:ident),*) => {
        #[derive(Clone, Debug)]
        pub(crate) enum Obj { $($name(Arc<$name>)),* }

        impl Obj {
            pub(crate) fn kind(&self) -> &'static str {
                match self { $(Obj::$name(_) => <$name as Resource>::KIND),* }
            }
            pub(crate) fn meta(&self) -> &ObjectMeta {
                match self { $(Obj::$name(o) => &o.metadata),* }
            }
            pub(crate) fn meta_mut(&mut self) -> &mut ObjectMeta {
                match self { $(Obj::$name(o) => &mut Arc::make_mut(o).metadata),* }
            }
            fn any(&self) -> Object {
                match self { $(Obj::$name(o) => o.clone() as Object),* }
            }
            fn from_any(object: &Object) -> Self {
                $(if let Ok(found) = object.clone().downcast::<$name>() {
                    return Obj::$name(found);
                })*
                panic!("an object of a kind that nobody keeps")
            }
        }

        $(impl Typed for $name {
            fn of(object: &Obj) -> Option<&Arc<Self>> {
                match object { Obj::$name(o) => Some(o), _ => None }
            }
            fn wrap(self) -> Obj {
                Obj::$name(Arc::new(self))
            }
        })*
    };
}

objects!(
    Pod,
    StatefulSet,
    PersistentVolumeClaim,
    PersistentVolume,
    ControllerRevision,
    Node,
    StorageClass,
    Lease,
    Namespace
);

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

/// A request on its way: of a process that lives, or of one that crashed after it had sent it.
struct InFlight {
    ticket: u64,
    actor: Actor,
    call: Call,
    /// What its sender had looked at, once that has crashed.
    run: Run,
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

fn refuse<T>(code: u16, reason: &str, message: String) -> Answer<T> {
    Err(kube::Error::Api(kube::core::Status::failure(&message, reason).with_code(code).boxed()))
}

fn conflict<T>(message: impl Into<String>) -> Answer<T> {
    refuse(409, "Conflict", message.into())
}

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

    // Writes.

    fn put(&mut self, mut object: Obj) -> Obj {
        let revision = self.revision() + 1;
        object.meta_mut().resource_version = Some(revision.to_string());
        let key = (object.kind(), object.meta().name.clone().unwrap_or_default());
        if let Obj::Node(node) = &object {
            self.oracle.node_changed(node, self.now);
        }
        self.objects.insert(key, object.clone());
        self.log.push(Event { deleted: false, object: object.clone() });
        object
    }

    fn remove(&mut self, key: &Key) {
        let Some(mut object) = self.objects.remove(key) else { return };
        let revision = self.revision() + 1;
        object.meta_mut().resource_version = Some(revision.to_string());
        self.say(|| format!("  gone: {} {}", key.0, key.1));
        if let Obj::Pod(pod) = &object {
            self.oracle.removed(pod);
        }
        self.log.push(Event { deleted: true, object });
    }

    pub(crate) fn create(&mut self, mut object: Obj) -> Answer<Obj> {
        let key = (object.kind(), object.meta().name.clone().unwrap_or_default());
        if self.objects.contains_key(&key) && self.promises(Promise::OneName) {
            return refuse(409, "AlreadyExists", format!("{} {:?} already exists", key.0, key.1));
        }
        self.counter += 1;
        let (uid, now) = (format!("u{}", self.counter), self.now);
        let cluster_wide = matches!(
            object,
            Obj::Node(_) | Obj::PersistentVolume(_) | Obj::StorageClass(_) | Obj::Namespace(_)
        );
        let meta = object.meta_mut();
        meta.uid = Some(uid);
        meta.creation_timestamp = Some(Time(now));
        meta.generation = Some(1);
        meta.namespace = (!cluster_wide).then(|| meta.namespace.clone().unwrap_or_else(|| NS.to_owned()));
        match &mut object {
            Obj::Pod(pod) => Arc::make_mut(pod).status.get_or_insert_default().phase = Some("Pending".into()),
            Obj::PersistentVolumeClaim(claim) => {
                let claim = Arc::make_mut(claim);
                claim.status.get_or_insert_default().phase = Some("Pending".into());
                claim.metadata.finalizers = Some(vec!["kubernetes.io/pvc-protection".into()]);
            }
            Obj::PersistentVolume(volume) => {
                let volume = Arc::make_mut(volume);
                volume.status.get_or_insert_default().phase = Some("Pending".into());
                volume.metadata.finalizers = Some(vec!["kubernetes.io/pv-protection".into()]);
            }
            _ => {}
        }
        Ok(self.put(object))
    }

    fn find(&self, kind: &'static str, name: &str) -> Answer<Obj> {
        match self.objects.get(&(kind, name.to_owned())) {
            Some(object) => Ok(object.clone()),
            None => refuse(404, "NotFound", format!("{kind} {name:?} not found")),
        }
    }

    fn check(&self, seen: &ObjectMeta, uid: Option<&str>, version: Option<&str>) -> Answer<()> {
        let differs =
            |wanted: Option<&str>, is: &Option<String>| wanted.is_some_and(|w| is.as_deref() != Some(w));
        if (differs(uid, &seen.uid) || differs(version, &seen.resource_version))
            && self.promises(Promise::Preconditions)
        {
            return conflict("the object has been modified");
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, kind: &'static str, name: &str, params: &DeleteParams) -> Answer<Obj> {
        let mut object = self.find(kind, name)?;
        if let Some(wanted) = &params.preconditions {
            self.check(object.meta(), wanted.uid.as_deref(), wanted.resource_version.as_deref())?;
        }
        let key = (kind, name.to_owned());
        let asked = params.grace_period_seconds.map(i64::from);
        let now = self.now;
        let grace = match &object {
            Obj::Pod(pod) if self.promises(Promise::Graceful) => grace(pod, asked, now),
            _ => Grace::Over,
        };
        match grace {
            Grace::Runs => return Ok(object),
            Grace::Marked { until, seconds } => {
                let meta = object.meta_mut();
                meta.deletion_timestamp = Some(Time(until));
                meta.deletion_grace_period_seconds = Some(seconds);
                return Ok(self.put(object));
            }
            Grace::Over => {}
        }
        let held = object.meta().finalizers.as_ref().is_some_and(|f| !f.is_empty());
        if !held {
            self.remove(&key);
        } else if object.meta().deletion_timestamp.is_none() {
            object.meta_mut().deletion_timestamp = Some(Time(now));
            object.meta_mut().deletion_grace_period_seconds = Some(0);
            self.put(object.clone());
        }
        Ok(object)
    }

    /// Stores a new state, or removes what nothing holds any more.
    pub(crate) fn update(&mut self, object: Obj) -> Obj {
        let meta = object.meta();
        let free = meta.finalizers.as_ref().is_none_or(Vec::is_empty);
        if meta.deletion_timestamp.is_some() && free && !matches!(object, Obj::Pod(_)) {
            let key = (object.kind(), meta.name.clone().unwrap_or_default());
            self.objects.insert(key.clone(), object.clone());
            self.remove(&key);
            return object;
        }
        self.put(object)
    }

    /// Changes an object that is there; for what needs no conditions.
    pub(crate) fn change<K: Typed + Clone>(&mut self, name: &str, change: impl FnOnce(&mut K)) {
        if let Some(object) = self.get::<K>(name) {
            let mut object = K::clone(object);
            change(&mut object);
            self.update(object.wrap());
        }
    }

    fn replace(&mut self, name: &str, new: Obj, status: bool) -> Answer<Obj> {
        let old = self.find(new.kind(), name)?;
        let meta = new.meta().clone();
        self.check(old.meta(), meta.uid.as_deref(), meta.resource_version.as_deref())?;
        let keep = |new: &mut ObjectMeta| {
            new.uid = old.meta().uid.clone();
            new.creation_timestamp = old.meta().creation_timestamp.clone();
            new.deletion_timestamp = old.meta().deletion_timestamp.clone();
        };
        macro_rules! split {
            ($($name:ident),*) => {
                match (&old, new) {
                    $((Obj::$name(old), Obj::$name(new)) => {
                        let (mut base, other) = if status {
                            ($name::clone(old), $name::clone(&new))
                        } else {
                            ($name::clone(&new), $name::clone(old))
                        };
                        base.status = other.status;
                        keep(&mut base.metadata);
                        base.wrap()
                    })*
                    (_, mut new) => {
                        keep(new.meta_mut());
                        new
                    }
                }
            };
        }
        let merged = split!(Pod, StatefulSet, PersistentVolumeClaim, PersistentVolume, Node);
        Ok(self.update(merged))
    }

    fn patch(&mut self, kind: &'static str, name: &str, patch: &Value) -> Answer<Obj> {
        let mut object = self.find(kind, name)?;
        let meta = &patch["metadata"];
        self.check(object.meta(), meta["uid"].as_str(), meta["resourceVersion"].as_str())?;
        let read = |value: &Value| (!value.is_null()).then(|| value.clone());
        let new = object.meta_mut();
        if let Some(labels) = read(&meta["labels"]) {
            let labels: BTreeMap<String, String> = serde_json::from_value(labels).unwrap();
            new.labels.get_or_insert_default().extend(labels);
        }
        if let Some(annotations) = read(&meta["annotations"]) {
            let annotations: BTreeMap<String, String> = serde_json::from_value(annotations).unwrap();
            new.annotations.get_or_insert_default().extend(annotations);
        }
        if let Some(owners) = read(&meta["ownerReferences"]) {
            new.owner_references = serde_json::from_value(owners).unwrap();
        }
        if let Some(finalizers) = read(&meta["finalizers"]) {
            new.finalizers = serde_json::from_value(finalizers).unwrap();
        }
        match &mut object {
            Obj::Pod(pod) => {
                let status = Arc::make_mut(pod).status.get_or_insert_default();
                if let Some(all) = read(&patch["status"]["conditions"]) {
                    status.conditions = Some(serde_json::from_value::<Vec<PodCondition>>(all).unwrap());
                }
                if let Some(phase) = patch["status"]["phase"].as_str() {
                    status.phase = Some(phase.to_owned());
                }
            }
            Obj::Node(node) => {
                let node = Arc::make_mut(node);
                if let Some(all) = read(&patch["status"]["conditions"]) {
                    let all = serde_json::from_value::<Vec<NodeCondition>>(all).unwrap();
                    node.status.get_or_insert_default().conditions = Some(all);
                }
                if let Some(taints) = read(&patch["spec"]["taints"]) {
                    let taints = serde_json::from_value::<Vec<Taint>>(taints).unwrap();
                    node.spec.get_or_insert_default().taints = Some(taints);
                }
            }
            _ => {}
        }
        Ok(self.update(object))
    }

    fn bind(&mut self, name: &str, binding: &Value) -> Answer<()> {
        let binding: Binding = serde_json::from_value(binding.clone()).unwrap();
        let Obj::Pod(pod) = self.find("Pod", name)? else { unreachable!() };
        self.check(&pod.metadata, binding.metadata.uid.as_deref(), None)?;
        if pod.metadata.deletion_timestamp.is_some() {
            return conflict("the pod is being deleted");
        }
        if api::pod::node_name(&pod).is_some() && self.promises(Promise::BoundOnce) {
            return conflict("the pod has a node");
        }
        let mut pod = Pod::clone(&pod);
        pod.spec.get_or_insert_default().node_name = binding.target.name;
        let scheduled =
            PodCondition { type_: "PodScheduled".into(), status: "True".into(), ..PodCondition::default() };
        let now = self.now;
        let status = pod.status.get_or_insert_default();
        conditions::set(status.conditions.get_or_insert_default(), scheduled, now);
        self.put(pod.wrap());
        Ok(())
    }

    /// A kubelet's status patch: what differs between `old` and `new`, for the pod of `uid` if that is given.
    pub(crate) fn write_status(
        &mut self,
        name: &str,
        uid: Option<&str>,
        old: &PodStatus,
        new: &PodStatus,
    ) -> Option<Arc<Pod>> {
        let found = self.get::<Pod>(name)?.clone();
        self.check(&found.metadata, uid, None).ok()?;
        let mut pod = Pod::clone(&found);
        let status = pod.status.get_or_insert_default();
        let there = status.conditions.take().unwrap_or_default();
        let known = old.conditions.as_deref().unwrap_or_default();
        let changed = new.conditions.iter().flatten().filter(|c| !known.contains(c));
        let mut merged = there;
        for condition in changed {
            merged.retain(|c| c.type_ != condition.type_);
            merged.push(condition.clone());
        }
        let phase = if old.phase == new.phase { status.phase.clone() } else { new.phase.clone() };
        *status = PodStatus { conditions: Some(merged), phase, ..new.clone() };
        match self.put(pod.wrap()) {
            Obj::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    // Requests of components.

    pub(crate) fn submit(&mut self, actor: Actor, call: Call) -> u64 {
        self.counter += 1;
        self.in_flight.push(InFlight { ticket: self.counter, actor, call, run: Run::default() });
        self.counter
    }

    pub(crate) fn deliver(&mut self, ticket: u64) -> Answer<Reply> {
        let lost = || kube::Error::Service("the connection was lost".into());
        let Some(at) = self.in_flight.iter().position(|f| f.ticket == ticket) else { return Err(lost()) };
        let InFlight { actor, call, .. } = self.in_flight.swap_remove(at);
        if self.faults && self.rng.u8(..) < 3 {
            return Err(lost());
        }
        let answer = self.serve(actor, call);
        if self.faults && self.rng.u8(..) < 3 { Err(lost()) } else { answer }
    }

    /// The actor is gone. What it had sent may still arrive.
    pub(crate) fn crashed(&mut self, actor: Actor, surely_late: bool) {
        let late = (surely_late || self.rng.bool()) && self.faults;
        let writes = |f: &InFlight| !matches!(f.call.verb, Verb::Get | Verb::List(_));
        self.in_flight.retain(|f| f.actor != actor || (late && writes(f)));
        let run = self.oracle.run(actor);
        for late in self.in_flight.iter_mut().filter(|f| f.actor == actor && f.ticket != 0) {
            (late.ticket, late.run) = (0, run.clone());
        }
    }

    /// Someone whose request is on its way.
    pub(crate) fn busy(&mut self) -> Option<Actor> {
        let busy: Vec<Actor> = self.in_flight.iter().filter(|f| f.ticket != 0).map(|f| f.actor).collect();
        self.rng.choice(busy)
    }

    /// Whether it has asked for a change and not been served yet.
    pub(crate) fn is_writing(&self, actor: Actor) -> bool {
        self.writing(actor).next().is_some()
    }

    /// How many changes of objects of a kind it has asked for and not been served.
    pub(crate) fn writes(&self, actor: Actor, kind: &str) -> usize {
        self.writing(actor).filter(|f| f.call.kind == kind).count()
    }

    fn writing(&self, actor: Actor) -> impl Iterator<Item = &InFlight> {
        let writes = |f: &&InFlight| !matches!(f.call.verb, Verb::Get | Verb::List(_));
        self.in_flight.iter().filter(move |f| f.actor == actor && f.ticket != 0).filter(writes)
    }

    /// Lets a request of a crashed process arrive.
    pub(crate) fn deliver_late(&mut self) {
        if let Some(at) = self.in_flight.iter().position(|f| f.ticket == 0) {
            let InFlight { actor, call, run, .. } = self.in_flight.remove(at);
            self.say(|| "late:".to_owned());
            let now = self.oracle.swap_run(actor, run);
            let _ = self.serve(actor, call);
            self.oracle.swap_run(actor, now);
        }
    }

    pub(crate) fn forget_late(&mut self) {
        self.in_flight.retain(|f| f.ticket != 0);
    }

    pub(crate) fn serve(&mut self, actor: Actor, call: Call) -> Answer<Reply> {
        if !matches!(call.verb, Verb::Get | Verb::List(_)) {
            self.say(|| format!("{actor:?}: {} {} {}", verb(&call.verb), call.kind, named(&call)));
        }
        let meaning = Oracle::before(self, actor, &call);
        let released = match &meaning {
            Meaning::Releases(uid) => self.oracle.released.insert(uid.clone()),
            _ => false,
        };
        let one = |object: Obj| Ok(Reply::Object(object.any()));
        let answer = match &call.verb {
            Verb::Get => self.find(call.kind, &call.name).and_then(one),
            Verb::List(_) => {
                let all = self.objects.iter().filter(|((kind, _), _)| *kind == call.kind);
                Ok(Reply::List(all.map(|(_, o)| o.any()).collect()))
            }
            Verb::Create(object) => self.create(Obj::from_any(object)).and_then(one),
            Verb::Replace(object) => self.replace(&call.name, Obj::from_any(object), false).and_then(one),
            Verb::ReplaceStatus(object) => {
                self.replace(&call.name, Obj::from_any(object), true).and_then(one)
            }
            Verb::Patch(patch) | Verb::PatchStatus(patch) => {
                self.patch(call.kind, &call.name, patch).and_then(one)
            }
            Verb::Delete(params) => self.delete(call.kind, &call.name, params).and_then(one),
            Verb::CreateSubresource(_, binding) => {
                self.bind(&call.name, binding).map(|()| Reply::Value(json!({})))
            }
        };
        match (&answer, meaning) {
            (Err(error), meaning) => {
                self.say(|| format!("  refused: {error}"));
                if let (true, Meaning::Releases(uid)) = (released, meaning) {
                    self.oracle.released.remove(&uid);
                }
            }
            (Ok(_), Meaning::Wrong(wrong)) => self.oracle.violated(wrong),
            (Ok(_), _) => {}
        }
        answer
    }
}

enum Grace {
    /// It is marked already, and this changes nothing.
    Runs,
    Marked {
        until: Timestamp,
        seconds: i64,
    },
    Over,
}

/// What a delete makes of a pod: as `apiserver`'s registry and its kind decide.
fn grace(pod: &Pod, asked: Option<i64>, now: Timestamp) -> Grace {
    let later = |seconds: i64| now.saturating_add(SignedDuration::from_secs(seconds)).unwrap();
    let left = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    match (&pod.metadata.deletion_timestamp, asked) {
        (Some(_), None) if left > 0 => Grace::Runs,
        (Some(_), Some(asked)) if left > 0 && asked >= left => Grace::Runs,
        (Some(_), Some(asked)) if left > 0 && asked > 0 => {
            Grace::Marked { until: later(asked), seconds: asked }
        }
        (Some(_), _) => Grace::Over,
        (None, _) if api::pod::node_name(pod).is_none() || api::pod::is_terminal(pod) => Grace::Over,
        (None, asked) => {
            let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
            match asked.or(own).unwrap_or(0) {
                0 => Grace::Over,
                seconds => Grace::Marked { until: later(seconds), seconds },
            }
        }
    }
}

fn verb(verb: &Verb) -> String {
    match verb {
        Verb::Get => "get".into(),
        Verb::List(_) => "list".into(),
        Verb::Create(_) => "create".into(),
        Verb::Replace(_) => "replace".into(),
        Verb::ReplaceStatus(_) => "replace status of".into(),
        Verb::Patch(_) => "patch".into(),
        Verb::PatchStatus(_) => "patch status of".into(),
        Verb::Delete(params) => format!("delete (grace {:?})", params.grace_period_seconds),
        Verb::CreateSubresource(_, value) => format!("bind to {}", value["target"]["name"]),
    }
}

fn named(call: &Call) -> String {
    match &call.verb {
        Verb::Create(object) => Obj::from_any(object).meta().name.clone().unwrap_or_default(),
        _ => call.name.clone(),
    }
}
