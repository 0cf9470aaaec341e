//! What a deployment's conditions say. Pure.

use super::sets::Set;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(super) const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub(super) const PAUSED: &str = "DeploymentPaused";
/// A deadline that nobody means.
const NO_DEADLINE: i32 = i32::MAX;

pub(super) fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == type_)
}

/// Seconds without progress after which a roll-out counts as failed.
pub(super) fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.as_ref().and_then(|s| s.progress_deadline_seconds)?;
    (seconds != NO_DEADLINE).then(|| SignedDuration::from_secs(seconds.into()))
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Puts it in place of the one of its type, unless that says the same.
fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(old) = find(status, &condition.type_) {
        if old.status == condition.status && old.reason == condition.reason {
            return;
        }
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
    put(status, condition);
}

fn put(status: &mut DeploymentStatus, condition: DeploymentCondition) {
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

pub(super) fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(all) = &mut status.conditions {
        all.retain(|c| c.type_ != type_);
    }
    status.conditions = status.conditions.take().filter(|c| !c.is_empty());
}

pub(super) fn progressing(
    status: &mut DeploymentStatus,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    set(status, condition(PROGRESSING, value, reason, message, now));
}

/// Whether enough pods serve.
pub(super) fn availability(status: &mut DeploymentStatus, enough: bool, now: Timestamp) {
    let (value, reason, message) = match enough {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    set(status, condition(AVAILABLE, value, reason, message.to_owned(), now));
}

/// All pods are of the newest template and serve.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus, wanted: i32) -> bool {
    let all = [status.updated_replicas, status.replicas, status.available_replicas];
    all.into_iter().all(|n| n.unwrap_or(0) == wanted)
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

/// Says how the roll-out goes: done, under way, or stuck. `old` is the status before this run.
pub(super) fn progress(
    deployment: &Deployment,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
    (new, wanted): (Option<&Set>, i32),
    now: Timestamp,
) {
    let Some(deadline) = deadline(deployment) else { return remove(status, PROGRESSING) };
    let current = find(status, PROGRESSING).cloned();
    let reason = current.as_ref().and_then(|c| c.reason.as_deref()).unwrap_or_default();
    if status.replicas == status.updated_replicas && reason == NEW_AVAILABLE {
        return;
    }
    let who = match new.and_then(|s| s.set.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    let count = |n: Option<i32>| n.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| count(s.replicas) - count(s.updated_replicas);
    let moved = count(status.updated_replicas) > count(old.updated_replicas)
        || outdated(status) < outdated(old)
        || count(status.ready_replicas) > count(old.ready_replicas)
        || count(status.available_replicas) > count(old.available_replicas);
    if is_complete(deployment, status, wanted) {
        progressing(status, "True", NEW_AVAILABLE, format!("{who} has successfully progressed."), now);
    } else if moved {
        let message = format!("{who} is progressing.");
        let mut new = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
        // Every step counts as news, so that the deadline starts anew.
        if let Some(current) = current.filter(|c| c.status == "True") {
            new.last_transition_time = current.last_transition_time;
        }
        put(status, new);
    } else if let Some(current) = &current
        && reason != NEW_AVAILABLE
        && (reason == TIMED_OUT
            || current.last_update_time.as_ref().is_some_and(|t| now.duration_since(t.0) > deadline))
    {
        progressing(status, "False", TIMED_OUT, format!("{who} has timed out progressing."), now);
    }
}

/// The failure of one of the sets, the new one's before others'.
pub(super) fn failure<'a>(status: &mut DeploymentStatus, sets: impl Iterator<Item = &'a Set>) {
    let failures = sets.flat_map(|s| s.set.status.iter().flat_map(|s| s.conditions.iter().flatten()));
    let found = failures.filter(|c| c.type_ == REPLICA_FAILURE).map(|c| DeploymentCondition {
        type_: c.type_.clone(),
        status: c.status.clone(),
        reason: c.reason.clone(),
        message: c.message.clone(),
        last_transition_time: c.last_transition_time.clone(),
        last_update_time: c.last_transition_time.clone(),
    });
    match found.into_iter().next() {
        Some(failure) => set(status, failure),
        None => remove(status, REPLICA_FAILURE),
    }
}

/// When to look again for lack of progress.
pub(super) fn check_after(
    deployment: &Deployment,
    status: &DeploymentStatus,
    wanted: i32,
    now: Timestamp,
) -> Option<SignedDuration> {
    let deadline = deadline(deployment)?;
    let current = find(status, PROGRESSING)?;
    if is_complete(deployment, status, wanted)
        || matches!(current.reason.as_deref(), Some(TIMED_OUT | PAUSED | NEW_AVAILABLE))
    {
        return None;
    }
    let since = now.duration_since(current.last_update_time.as_ref()?.0);
    // A second more, so that it is over when we look.
    Some((deadline - since).max(SignedDuration::ZERO) + SignedDuration::from_secs(1))
}
