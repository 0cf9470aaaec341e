//! What a set's status says about its pods. Pure.

use super::{identity, revisions::Resolved};
use api::{conditions, pod};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::Pod,
};
use std::sync::Arc;

/// Phase Running and condition Ready.
pub fn is_running_and_ready(pod: &Pod) -> bool {
    pod::phase(pod) == "Running" && pod::is_ready(pod)
}

/// Ready for at least `minReadySeconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_running_and_ready(pod) && until_available(pod, min_ready_seconds, now).is_zero()
}

/// Available and staying: what an ordered scale or roll-out waits for.
pub fn is_healthy(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_available(pod, min_ready_seconds, now) && !pod::is_terminating(pod)
}

/// How long a Ready pod must stay so until it counts as available.
pub(crate) fn until_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> SignedDuration {
    if min_ready_seconds <= 0 {
        return SignedDuration::ZERO;
    }
    let wait = SignedDuration::from_secs(min_ready_seconds.into());
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    match conditions::find(conditions, "Ready").and_then(|c| c.last_transition_time.as_ref()) {
        Some(since) => (wait - now.duration_since(since.0)).max(SignedDuration::ZERO),
        None => wait,
    }
}

/// When the next Ready pod becomes available, if nothing else happens.
pub fn next_available(pods: &[&Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Option<SignedDuration> {
    pods.iter()
        .filter(|p| is_running_and_ready(p))
        .map(|p| until_available(p, min_ready_seconds, now))
        .filter(|wait| !wait.is_zero())
        .min()
}

/// The status for the set's pods. A roll-out is complete, and the update revision becomes the current one, when all
/// replicas are of the update revision and Ready.
pub fn compute(
    set: &StatefulSet,
    resolved: &Resolved,
    pods: &[&Arc<Pod>],
    now: Timestamp,
) -> StatefulSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let created: Vec<&Arc<Pod>> = pods.iter().copied().filter(|p| !pod::phase(p).is_empty()).collect();
    let count = |wanted: &dyn Fn(&Pod) -> bool| {
        i32::try_from(created.iter().filter(|p| wanted(p)).count()).unwrap_or(i32::MAX)
    };
    let of = |revision: &str| count(&|p| !pod::is_terminating(p) && identity::revision_of(p) == revision);
    let replicas = count(&|_| true);
    let ready = count(&is_running_and_ready);
    let updated = of(&resolved.update.revision);
    let mut current = of(&resolved.current.revision);
    let mut current_revision = resolved.current.revision.clone();
    let wanted = spec.replicas.unwrap_or(1);
    let rolling = spec.update_strategy.and_then(|s| s.type_).is_none_or(|t| t == "RollingUpdate");
    if rolling && [updated, ready, replicas] == [wanted; 3] {
        current = updated;
        current_revision = resolved.update.revision.clone();
    }
    let old = set.status.clone().unwrap_or_default();
    let non_zero = |n: i32| (n != 0).then_some(n);
    StatefulSetStatus {
        observed_generation: set.metadata.generation.or(old.observed_generation),
        replicas,
        ready_replicas: non_zero(ready),
        // Always written, as Kubernetes does.
        available_replicas: Some(count(&|p| is_available(p, min_ready, now))),
        current_replicas: non_zero(current),
        updated_replicas: non_zero(updated),
        current_revision: Some(current_revision),
        update_revision: Some(resolved.update.revision.clone()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    }
}

/// Whether there is anything to write. A controller with an old cache does not take `observedGeneration` back.
pub fn differs(old: Option<&StatefulSetStatus>, new: &StatefulSetStatus) -> bool {
    let Some(old) = old else { return true };
    if new.observed_generation < old.observed_generation {
        return false;
    }
    let zero_is_none = |status: &StatefulSetStatus| {
        let mut status = status.clone();
        for field in [
            &mut status.ready_replicas,
            &mut status.available_replicas,
            &mut status.current_replicas,
            &mut status.updated_replicas,
            &mut status.collision_count,
        ] {
            *field = field.filter(|n| *n != 0);
        }
        status
    };
    zero_is_none(old) != zero_is_none(new)
}
