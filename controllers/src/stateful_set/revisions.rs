//! The history of a set's template: ControllerRevisions as Kubernetes writes them, so that `kubectl rollout
//! history|undo` work. Pure.
//!
//! A revision's data is a strategic merge patch, `{"spec":{"template":{…,"$patch":"replace"}}}`; its name is
//! `<set>-<hash of the data>`, so that equal templates give equal names and a rollback finds the old revision.

use super::plan::PlanError;
use crate::context::{name, uid};
use api::owner;
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, StatefulSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// Longest set name that leaves room for the hash in a name of 253 bytes.
const MAX_PREFIX: usize = 223;

/// What must be written so that the set's template has its revision.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The newest revision is the template's.
    Keep,
    /// An older revision has this template: it becomes the newest again.
    Renumber {
        revision: Arc<ControllerRevision>,
        number: i64,
    },
    Create(Box<ControllerRevision>),
}

/// The two templates that a set's pods may be made from.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub step: Step,
    /// Where a roll-out starts from.
    pub current: Template,
    /// Where it goes to: the set's own template.
    pub update: Template,
}

#[derive(Debug, Clone)]
pub struct Template {
    /// Name of the revision: the value of the pods' label `controller-revision-hash`.
    pub revision: String,
    pub template: PodTemplateSpec,
}

/// Finds the revisions of a set among `revisions` (its own, in any order).
pub fn resolve(set: &StatefulSet, revisions: &[Arc<ControllerRevision>]) -> Result<Resolved, PlanError> {
    let revisions = sorted(revisions);
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let data = patch_of(&template)?;
    let number = revisions.last().map_or(1, |r| r.revision + 1);
    let equal = revisions.iter().rev().find(|r| r.data.as_ref().is_some_and(|d| d.0 == data));
    let newest = revisions.last();
    let (step, revision) = match (equal, newest) {
        (Some(equal), Some(newest)) if name(&equal.metadata) == name(&newest.metadata) => {
            (Step::Keep, name(&equal.metadata).to_owned())
        }
        (Some(equal), _) => {
            let step = Step::Renumber { revision: Arc::clone(equal), number };
            (step, name(&equal.metadata).to_owned())
        }
        (None, _) => {
            let new = new(set, data, number);
            let revision = name(&new.metadata).to_owned();
            (Step::Create(Box::new(new)), revision)
        }
    };
    let update = Template { revision, template };
    let status = set.status.as_ref().and_then(|s| s.current_revision.as_deref()).unwrap_or_default();
    let current = match revisions.iter().find(|r| name(&r.metadata) == status) {
        Some(current) if status != update.revision => {
            Template { revision: status.to_owned(), template: template_of(current)? }
        }
        _ => update.clone(),
    };
    Ok(Resolved { step, current, update })
}

/// By number, then age, then name: the order in which history counts.
pub fn sorted(revisions: &[Arc<ControllerRevision>]) -> Vec<Arc<ControllerRevision>> {
    let mut sorted = revisions.to_vec();
    sorted.sort_by(|a, b| {
        let key = |r: &ControllerRevision| {
            (r.revision, r.metadata.creation_timestamp.as_ref().map(|t| t.0), r.metadata.name.clone())
        };
        key(a).cmp(&key(b))
    });
    sorted
}

/// The revisions beyond `spec.revisionHistoryLimit` that no pod and no roll-out needs, oldest first.
pub fn expired(
    set: &StatefulSet,
    revisions: &[Arc<ControllerRevision>],
    live: &BTreeSet<&str>,
) -> Vec<Arc<ControllerRevision>> {
    let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let mut history = sorted(revisions);
    history.retain(|r| !live.contains(name(&r.metadata)));
    history.truncate(history.len().saturating_sub(limit));
    history
}

/// The revision's data for a template.
fn patch_of(template: &PodTemplateSpec) -> Result<Value, PlanError> {
    let mut template = serde_json::to_value(template).map_err(|e| PlanError::Template(e.to_string()))?;
    if let Value::Object(fields) = &mut template {
        fields.insert("$patch".into(), "replace".into());
    }
    Ok(json!({ "spec": { "template": template } }))
}

/// The template that a revision's data restores.
fn template_of(revision: &ControllerRevision) -> Result<PodTemplateSpec, PlanError> {
    let unreadable = |why: String| PlanError::Revision { name: name(&revision.metadata).to_owned(), why };
    let data = revision.data.as_ref().ok_or_else(|| unreadable("it has no data".into()))?;
    let mut template = data.0["spec"]["template"].clone();
    match &mut template {
        Value::Object(fields) => fields.remove("$patch"),
        _ => return Err(unreadable("its data has no spec.template".into())),
    };
    serde_json::from_value(template).map_err(|e| unreadable(e.to_string()))
}

fn new(set: &StatefulSet, data: Value, number: i64) -> ControllerRevision {
    let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = hash(&data, collisions);
    let of_template = set.spec.as_ref().and_then(|s| s.template.metadata.as_ref());
    let mut labels = of_template.and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let set_name = name(&set.metadata);
    // Names are ASCII, so that cutting by bytes cuts no character.
    let prefix = set_name.get(..MAX_PREFIX).unwrap_or(set_name);
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![owner::controller_ref(set)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// FNV-1 of the data (keys sorted) and the number of name collisions, in letters that form no words.
fn hash(data: &Value, collisions: i32) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in data.to_string().bytes().chain(collisions.to_string().bytes()) {
        hash = hash.wrapping_mul(0x0100_0193) ^ u32::from(byte);
    }
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    hash.to_string().bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// Whether the revision belongs to the set or to nobody.
pub fn is_own_or_orphan(set: &StatefulSet, revision: &ControllerRevision) -> bool {
    owner::controller_of(&revision.metadata).is_none_or(|o| o.uid == uid(&set.metadata))
}
