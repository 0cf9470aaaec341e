//! The ReplicaSets of a Deployment: which is the one of the template, what their annotations say, how a new one looks.
//! Pure.

use crate::context::name;
use api::owner;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{collections::BTreeMap, sync::Arc};

/// Tells the pods of one template from those of another.
pub(super) const HASH: &str = "pod-template-hash";
/// The number of a template in the history; on sets, and of the newest on the deployment.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Numbers that a set had before a rollback gave it a new one.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The deployment's replicas, and those with the surge, when a set was last scaled.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a deployment that mean nothing on its sets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// Longest history that an annotation holds, in bytes (Kubernetes' figure).
const HISTORY_MAX: usize = 2000;
/// Longest name of a set without its hash.
const MAX_PREFIX: usize = 242;

/// A set as it was seen, and as it shall be.
#[derive(Debug, Clone)]
pub(super) struct Set {
    /// `None` for one that is still to be made.
    pub(super) seen: Option<Arc<ReplicaSet>>,
    pub(super) set: ReplicaSet,
}

impl Set {
    pub(super) fn of(seen: &Arc<ReplicaSet>) -> Self {
        Self { seen: Some(seen.clone()), set: ReplicaSet::clone(seen) }
    }

    pub(super) fn replicas(&self) -> i32 {
        self.set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)
    }

    /// How many pods it has.
    pub(super) fn actual(&self) -> i32 {
        self.set.status.as_ref().map_or(0, |s| s.replicas)
    }

    pub(super) fn ready(&self) -> i32 {
        self.set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
    }

    pub(super) fn available(&self) -> i32 {
        self.set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }

    /// Of the available ones, those it may keep: a set that was just scaled down still tells of more.
    pub(super) fn serving(&self) -> i32 {
        self.available().min(self.replicas())
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.set.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn number(&self, key: &str) -> Option<i32> {
        self.annotation(key)?.parse().ok()
    }

    pub(super) fn revision(&self) -> i64 {
        self.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
    }

    pub(super) fn desired(&self) -> Option<i32> {
        self.number(DESIRED)
    }

    pub(super) fn max(&self) -> Option<i32> {
        self.number(MAX)
    }

    /// Wants this many pods. The annotations say for which size of the deployment.
    pub(super) fn scale(&mut self, replicas: i32, desired: i32, max: i32) {
        self.set.spec.get_or_insert_default().replicas = Some(replicas);
        self.mark(desired, max);
    }

    pub(super) fn mark(&mut self, desired: i32, max: i32) {
        let annotations = self.set.metadata.annotations.get_or_insert_default();
        annotations.insert(DESIRED.to_owned(), desired.to_string());
        annotations.insert(MAX.to_owned(), max.to_string());
    }

    /// Takes over the deployment's annotations, and `revision` if it is a higher one than it has.
    pub(super) fn follow(&mut self, deployment: &Deployment, revision: i64) {
        let has = self.revision();
        let known = self.annotation(REVISION).is_some();
        let annotations = self.set.metadata.annotations.get_or_insert_default();
        for (key, value) in deployment.metadata.annotations.iter().flatten() {
            if !NOT_COPIED.contains(&key.as_str()) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        if has < revision {
            annotations.insert(REVISION.to_owned(), revision.to_string());
            if known {
                remember(annotations, has);
            }
        }
        self.set.spec.get_or_insert_default().min_ready_seconds =
            deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
    }
}

/// Adds an old number to the history; the oldest go if it gets too long.
fn remember(annotations: &mut BTreeMap<String, String>, revision: i64) {
    let before = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
    let mut numbers: Vec<String> = before.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
    numbers.push(revision.to_string());
    while numbers.len() > 1 && numbers.iter().map(|n| n.len() + 1).sum::<usize>() > HISTORY_MAX {
        numbers.remove(0);
    }
    annotations.insert(REVISION_HISTORY.to_owned(), numbers.join(","));
}

/// The template without the label that the controller adds.
fn plain(template: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH);
    }
    meta.labels = meta.labels.take().filter(|l| !l.is_empty());
    template
}

pub(super) fn same_template(a: &ReplicaSet, b: &ReplicaSet) -> bool {
    let template = |set: &ReplicaSet| plain(set.spec.as_ref().and_then(|s| s.template.as_ref()));
    template(a) == template(b)
}

/// Whether the set is the one of the deployment's template.
pub(super) fn is_of(deployment: &Deployment, set: &ReplicaSet) -> bool {
    plain(deployment.spec.as_ref().map(|s| &s.template))
        == plain(set.spec.as_ref().and_then(|s| s.template.as_ref()))
}

/// A set for the deployment's template, with no pods yet.
pub(super) fn new(deployment: &Deployment) -> Set {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let own = name(&deployment.metadata);
    // Names are ASCII, so that cutting by bytes cuts no character.
    let prefix = own.get(..MAX_PREFIX).unwrap_or(own);
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner::controller_ref(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(0),
            selector,
            template: Some(template),
        }),
        status: None,
    };
    Set { seen: None, set }
}

/// FNV-1 of the template and the number of name collisions, in letters that form no words.
fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = serde_json::to_string(template).unwrap_or_default();
    let mut hash: u32 = 0x811c_9dc5;
    for byte in text.bytes().chain(collisions.to_string().bytes()) {
        hash = hash.wrapping_mul(0x0100_0193) ^ u32::from(byte);
    }
    hash.to_string().bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// Oldest first.
pub(super) fn by_age(sets: &mut [Set]) {
    sets.sort_by_key(|s| {
        (s.set.metadata.creation_timestamp.as_ref().map(|t| t.0), s.set.metadata.name.clone())
    });
}
