//! What an update may change of a pod: little, for its containers run already.

use crate::kinds::shared::{diff::diff, object_meta, pod_spec};
use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, Toleration};
use std::collections::{HashMap, HashSet};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Set on pods that a kubelet runs from a file; only the kubelet's own writes may carry it.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether a kubelet runs the pod from a file, and this is only its image.
pub(super) fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR))
}

pub(super) fn validate(new: &Pod, old: &Pod) -> Errors {
    let mut errors = Errors::default();
    let mirror = |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|a| a.get(MIRROR)).cloned();
    let annotation = Path::new("metadata.annotations").key(MIRROR);
    match (mirror(new), mirror(old)) {
        (now, before) if now == before => {}
        (_, None) => errors.forbidden(&annotation, "may not add mirror pod annotation"),
        (_, Some(_)) => errors.forbidden(&annotation, "may not remove or update mirror pod annotation"),
    }
    let none = (PodSpec::default(), PodSpec::default());
    let (new, old) = (new.spec.as_ref().unwrap_or(&none.0), old.spec.as_ref().unwrap_or(&none.1));
    if new == old {
        return errors;
    }
    let path = Path::new("spec");
    let inits = |spec: &PodSpec| spec.init_containers.clone().unwrap_or_default();
    let (new_init, old_init) = (inits(new), inits(old));
    for (field, new, old) in
        [("containers", &new.containers, &old.containers), ("initContainers", &new_init, &old_init)]
    {
        if new.len() != old.len() {
            errors.forbidden(&path.child(field), "pod updates may not add or remove containers");
            return errors;
        }
    }
    if !validate_deadline(new, old, &path.child("activeDeadlineSeconds"), &mut errors) {
        return errors;
    }
    let tolerations = path.child("tolerations");
    only_added(
        new.tolerations.as_deref().unwrap_or_default(),
        old.tolerations.as_deref().unwrap_or_default(),
        &tolerations,
        &mut errors,
    );
    let gates = old.scheduling_gates.as_deref().unwrap_or_default();
    for gate in new.scheduling_gates.iter().flatten().filter(|g| !gates.contains(g)) {
        let detail = "only deletion is allowed, but found new scheduling gate";
        errors.forbidden(&path.child("schedulingGates"), format!("{detail} '{}'", gate.name));
    }

    // With all that may change set back, nothing may be left that differs.
    let mut rest = new.clone();
    set_back(&mut rest.containers, &old.containers);
    if let Some(inits) = &mut rest.init_containers {
        set_back(inits, &old_init);
    }
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.tolerations = old.tolerations.clone();
    rest.scheduling_gates = old.scheduling_gates.clone();
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && rest.termination_grace_period_seconds == Some(1)
    {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if !gates.is_empty() {
        // Not scheduled yet: where it may run can still be narrowed.
        rest.node_selector = old.node_selector.clone();
        let node_affinity = old.affinity.as_ref().and_then(|a| a.node_affinity.clone());
        if rest.affinity.is_some() || node_affinity.is_some() {
            rest.affinity.get_or_insert_default().node_affinity = node_affinity;
        }
        if old.affinity.is_none() && rest.affinity.as_ref().is_some_and(|a| *a == Default::default()) {
            rest.affinity = None;
        }
    }
    if rest != *old {
        let changes = diff(old, &rest);
        errors
            .forbidden(&path, format!("pod updates may not change fields other than {UPDATABLE}\n{changes}"));
    }
    errors
}

fn set_back(containers: &mut [Container], old: &[Container]) {
    for (container, old) in containers.iter_mut().zip(old) {
        container.image = old.image.clone();
    }
}

/// Whether it is worth going on.
fn validate_deadline(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut Errors) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(seconds), old) => {
            let faults = names::in_range(seconds, 0, i64::from(i32::MAX));
            if !faults.is_empty() {
                errors.invalid_each(path, seconds, faults);
                return false;
            }
            if old.is_some_and(|old| old < seconds) {
                errors.invalid(path, seconds, "must be less than or equal to previous value");
                return false;
            }
        }
        (None, Some(_)) => {
            let null = serde_json::Value::Null;
            errors.invalid(path, null, "must not update from a positive integer to nil value");
        }
        (None, None) => {}
    }
    true
}

fn only_added(new: &[Toleration], old: &[Toleration], path: &Path, errors: &mut Errors) {
    fn fixed(t: &Toleration) -> [Option<&str>; 4] {
        [&t.key, &t.operator, &t.value, &t.effect].map(Option::as_deref)
    }
    let all: HashSet<_> = new.iter().map(fixed).collect();
    if old.iter().map(fixed).all(|old| all.contains(&old)) {
        pod_spec::validate_tolerations(new, path, errors);
    } else {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

/// A container that has ended for good must not come back to life.
pub(super) fn validate_status(new: &Pod, old: &Pod) -> Errors {
    let mut errors = Errors::default();
    let path = Path::new("status");
    let none = Default::default();
    let (status, before) = (new.status.as_ref().unwrap_or(&none), old.status.as_ref().unwrap_or(&none));
    object_meta::immutable(&status.qos_class, &before.qos_class, &path.child("qosClass"), &mut errors);
    if let Some(node) = status.nominated_node_name.as_deref().filter(|n| !n.is_empty())
        && status.nominated_node_name != before.nominated_node_name
    {
        errors.invalid_each(&path.child("nominatedNodeName"), node, names::dns_subdomain(node));
    }
    let mut seen = HashSet::new();
    for (i, ip) in status.pod_ips.iter().flatten().enumerate() {
        let path = path.child("podIPs").index(i);
        crate::kinds::shared::network::ip(&ip.ip, &path, &mut errors);
        if !seen.insert(&ip.ip) {
            errors.duplicate(&path, ip);
        }
    }
    let policy = old.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
    if policy == "Always" {
        return errors;
    }
    let has_ended = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.terminated.is_some());
    let now = status.container_statuses.as_deref().unwrap_or_default();
    let named: HashSet<&str> = now.iter().map(|c| c.name.as_str()).collect();
    let ended: HashSet<&str> = now.iter().filter(|c| has_ended(c)).map(|c| c.name.as_str()).collect();
    let mut policies: HashMap<&str, Option<&str>> = HashMap::new();
    if let Some(spec) = &old.spec {
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            policies.entry(&container.name).or_insert(container.restart_policy.as_deref());
        }
    }
    for (i, container) in before.container_statuses.iter().flatten().enumerate() {
        let Some(end) = container.state.as_ref().and_then(|s| s.terminated.as_ref()) else { continue };
        let own = policies.get(container.name.as_str()).copied().flatten();
        let restarts = match own.unwrap_or(policy) {
            "Always" => true,
            "OnFailure" => end.exit_code != 0,
            _ => false,
        };
        let name = container.name.as_str();
        if !restarts && named.contains(name) && !ended.contains(name) {
            let path = path.child("containerStatuses").index(i).child("state");
            errors.forbidden(&path, "may not be transitioned to non-terminated state");
        }
    }
    errors
}
