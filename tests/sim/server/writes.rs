//! What a write makes of an object: preconditions, graceful deletion, finalizers, spec apart from status.

use super::{Answer, Event, Key, NS, Obj, Promise, Server, Typed};
use api::conditions;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::StatefulSet,
    api::core::v1::{
        Binding, Node, NodeCondition, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition, PodStatus,
        Taint,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::api::DeleteParams;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

fn refuse<T>(code: u16, reason: &str, message: String) -> Answer<T> {
    Err(kube::Error::Api(kube::core::Status::failure(&message, reason).with_code(code).boxed()))
}

fn conflict<T>(message: impl Into<String>) -> Answer<T> {
    refuse(409, "Conflict", message.into())
}

impl Server {
    pub(super) fn put(&mut self, mut object: Obj) -> Obj {
        let revision = self.revision() + 1;
        object.meta_mut().resource_version = Some(revision.to_string());
        let key = (object.kind(), object.meta().name.clone().unwrap_or_default());
        self.objects.insert(key, object.clone());
        self.log.push(Event { deleted: false, object: object.clone() });
        object
    }

    pub(super) fn remove(&mut self, key: &Key) {
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

    pub(super) fn find(&self, kind: &'static str, name: &str) -> Answer<Obj> {
        match self.objects.get(&(kind, name.to_owned())) {
            Some(object) => Ok(object.clone()),
            None => refuse(404, "NotFound", format!("{kind} {name:?} not found")),
        }
    }

    pub(super) fn check(&self, seen: &ObjectMeta, uid: Option<&str>, version: Option<&str>) -> Answer<()> {
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

    pub(super) fn replace(&mut self, name: &str, new: Obj, status: bool) -> Answer<Obj> {
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

    pub(super) fn patch(&mut self, kind: &'static str, name: &str, patch: &Value) -> Answer<Obj> {
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

    pub(super) fn bind(&mut self, name: &str, binding: &Value) -> Answer<()> {
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
