//! What must change so that a set has as many pods as it wants. Pure: no clock, no client.
//!
//! Only active pods count: one that has ended or is being deleted is replaced at once, unlike a StatefulSet's, because
//! another pod here does not stand for the same identity.

use super::rank;
use crate::{
    context::{name, namespace, uid},
    stateful_set::status::until_available,
};
use api::{conditions, owner, pod, selector::Selector};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use std::sync::Arc;

/// Most pods made or deleted in one run (Kubernetes' figure): a set of any size is worked on in pieces.
pub const MAX_PODS_PER_RUN: usize = 500;
/// Longest name an object may have; `generateName` is cut where it must be.
const NAME_MAX: usize = 253;
pub(super) const NO_SELECTOR: &str = "the selector is empty";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What is known of a set. Pods: those of its namespace that it controls or that have no controller.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub set: &'a ReplicaSet,
    pub pods: &'a [Arc<Pod>],
    /// Pods of sets with the same controller, its own among them; empty where there is none.
    pub related: &'a [Arc<Pod>],
    /// Whether the status says how many pods are terminating.
    pub counts_terminating: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// If there is any, it is all that is planned: the next run sees who belongs to the set.
    pub ownership: Vec<Ownership>,
    /// How many pods to make.
    pub create: usize,
    /// Pods to delete, exactly as they were seen.
    pub delete: Vec<Arc<Pod>>,
    /// What the pods are before anything is done.
    status: ReplicaSetStatus,
    /// When to look again although nothing changed: a Ready pod becomes available.
    pub check_after: Option<SignedDuration>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ownership {
    Adopt(Arc<Pod>),
    Release(Arc<Pod>),
}

impl Plan {
    /// Whether it makes or deletes pods.
    pub fn acts(&self) -> bool {
        self.create > 0 || !self.delete.is_empty()
    }

    /// The status to write after the run: `failure` says why something could not be done.
    pub fn status_after(
        &self,
        old: Option<&ReplicaSetStatus>,
        failure: Option<&str>,
        now: Timestamp,
    ) -> ReplicaSetStatus {
        let mut status = self.status.clone();
        let mut all = old.and_then(|s| s.conditions.clone()).unwrap_or_default();
        match failure {
            None => {
                conditions::remove(&mut all, REPLICA_FAILURE);
            }
            Some(_) if conditions::find(&all, REPLICA_FAILURE).is_some() => {}
            Some(why) => {
                let reason = if self.create > 0 { "FailedCreate" } else { "FailedDelete" };
                let condition = ReplicaSetCondition {
                    type_: REPLICA_FAILURE.to_owned(),
                    status: "True".to_owned(),
                    reason: Some(reason.to_owned()),
                    message: Some(why.to_owned()),
                    last_transition_time: None,
                };
                conditions::set(&mut all, condition, now);
            }
        }
        status.conditions = (!all.is_empty()).then_some(all);
        status
    }
}

/// # Errors
/// A selector that cannot be read.
pub fn plan(view: &View<'_>, now: Timestamp) -> Result<Plan, String> {
    let set = view.set;
    let selector = selector(set)?;
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let own = |p: &&Arc<Pod>| {
        owner::is_controlled_by(&p.metadata, &set.metadata)
            && selector.matches_labels(p.metadata.labels.as_ref())
    };
    let active: Vec<&Arc<Pod>> = view.pods.iter().filter(|p| pod::is_active(p)).filter(own).collect();
    let ready = |p: &&&Arc<Pod>| pod::is_ready(p);
    let waits = || active.iter().filter(ready).map(|p| until_available(p, min_ready, now));
    let template_labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.clone());
    let of_template = Selector::from_map(&template_labels.unwrap_or_default());
    let terminating =
        view.pods.iter().filter(|p| pod::is_terminating(p) && !pod::is_terminal(p)).filter(own).count();
    let non_zero = |n: usize| Some(count(n)).filter(|n| *n != 0);
    let status = ReplicaSetStatus {
        available_replicas: non_zero(waits().filter(SignedDuration::is_zero).count()),
        conditions: None,
        fully_labeled_replicas: non_zero(
            active.iter().filter(|p| of_template.matches_labels(p.metadata.labels.as_ref())).count(),
        ),
        observed_generation: set.metadata.generation,
        ready_replicas: non_zero(active.iter().filter(ready).count()),
        replicas: count(active.len()),
        terminating_replicas: view.counts_terminating.then(|| count(terminating)),
    };
    let mut plan = Plan {
        ownership: ownership(view, &selector),
        create: 0,
        delete: Vec::new(),
        status,
        check_after: waits().filter(|wait| !wait.is_zero()).min(),
    };
    if set.metadata.deletion_timestamp.is_some() || !plan.ownership.is_empty() {
        return Ok(plan);
    }
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    plan.create = wanted.saturating_sub(active.len()).min(MAX_PODS_PER_RUN);
    let surplus = active.len().saturating_sub(wanted).min(MAX_PODS_PER_RUN);
    if surplus > 0 {
        plan.delete = rank::first_to_go(&active, view.related, now).into_iter().take(surplus).collect();
    }
    Ok(plan)
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

pub(super) fn selector(set: &ReplicaSet) -> Result<Selector, String> {
    let selector = Selector::from_label_selector(set.spec.as_ref().map(|s| &s.selector))
        .map_err(|e| format!("the selector is not valid: {e}"))?;
    // Never written by the API server; it would take in every pod of the namespace.
    if selector.is_everything() {
        return Err(NO_SELECTOR.to_owned());
    }
    Ok(selector)
}

/// Which active pods are to be taken in or let go. A set that is being deleted does neither.
fn ownership(view: &View<'_>, selector: &Selector) -> Vec<Ownership> {
    let set = &view.set.metadata;
    if set.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let here = view.pods.iter().filter(|p| namespace(&p.metadata) == namespace(set) && pod::is_active(p));
    here.filter_map(|pod| {
        let selected = selector.matches_labels(pod.metadata.labels.as_ref());
        match owner::controller_of(&pod.metadata) {
            Some(owner) if owner.uid == uid(set) && !selected => Some(Ownership::Release(Arc::clone(pod))),
            None if selected => Some(Ownership::Adopt(Arc::clone(pod))),
            _ => None,
        }
    })
    .collect()
}

/// A pod of the set's template, owned by `owner`.
pub fn new_pod(set: &ReplicaSet, owner: OwnerReference) -> Pod {
    let template = set.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let mut prefix = name(&set.metadata).to_owned();
    if prefix.len() < NAME_MAX {
        prefix.push('-');
    }
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.unwrap_or_default()),
        status: None,
    }
}

/// Whether there is anything to write. A controller with an old cache does not take `observedGeneration` back.
pub fn differs(old: Option<&ReplicaSetStatus>, new: &ReplicaSetStatus) -> bool {
    let Some(old) = old else { return true };
    if new.observed_generation < old.observed_generation {
        return false;
    }
    let zero_is_none = |status: &ReplicaSetStatus| {
        let mut status = status.clone();
        for field in
            [&mut status.fully_labeled_replicas, &mut status.ready_replicas, &mut status.available_replicas]
        {
            *field = field.filter(|n| *n != 0);
        }
        status.conditions = status.conditions.filter(|c| !c.is_empty());
        status
    };
    zero_is_none(old) != zero_is_none(new)
}
