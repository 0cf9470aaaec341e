//! Questions about pods that many ask: apiserver, controllers, scheduler, kubelet.

use crate::conditions;
use crate::quantity::{self, Quantity};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EphemeralContainer, Pod, PodSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use std::{borrow::Cow, collections::BTreeMap};

/// Amounts by resource name.
pub type Resources = BTreeMap<String, Quantity>;

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Condition Ready is True.
pub fn is_ready(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.conditions.as_ref()).is_some_and(|c| conditions::is_true(c, "Ready"))
}

/// Phase Succeeded or Failed: its containers have ended and will not be started again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Marked for deletion.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts as a running instance for controllers: neither ended nor going away.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

/// An init container that is started, kept running and restarted: a sidecar.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The node it is bound to; none while unscheduled.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// `12` of `kubia-12`: the ordinal of a StatefulSet's pod and the name of its parent.
pub fn parent_and_ordinal(name: &str) -> Option<(&str, i32)> {
    let (parent, digits) = name.rsplit_once('-')?;
    if parent.is_empty() || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((parent, digits.parse().ok()?))
}

/// The ordinal alone.
pub fn ordinal(name: &str) -> Option<i32> {
    parent_and_ordinal(name).map(|(_, ordinal)| ordinal)
}

/// Status of a container by name: app, init or ephemeral.
pub fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == name)
}

/// Container by name: app or init.
pub fn container<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

/// An ephemeral container in a regular one's clothes: all fields but its target are the same.
pub fn ephemeral_as_container(ephemeral: &EphemeralContainer) -> Container {
    let e = ephemeral.clone();
    Container {
        name: e.name,
        image: e.image,
        command: e.command,
        args: e.args,
        working_dir: e.working_dir,
        env: e.env,
        env_from: e.env_from,
        volume_mounts: e.volume_mounts,
        volume_devices: e.volume_devices,
        image_pull_policy: e.image_pull_policy,
        security_context: e.security_context,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        tty: e.tty,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        ports: e.ports,
        resources: e.resources,
        resize_policy: e.resize_policy,
        restart_policy: e.restart_policy,
        restart_policy_rules: e.restart_policy_rules,
        liveness_probe: e.liveness_probe,
        readiness_probe: e.readiness_probe,
        startup_probe: e.startup_probe,
        lifecycle: e.lifecycle,
    }
}

/// What the pod asks of a node: the most its containers may hold at one time (sidecars and the init containers started
/// after them included), or the pod-level requests where given, plus overhead.
pub fn requests(spec: &PodSpec) -> Resources {
    let mut total = effective(spec, |r| r.requests.as_ref());
    add(&mut total, &amounts(spec.overhead.as_ref()));
    total
}

/// As [`requests`], of the limits; overhead adds only to what is limited.
pub fn limits(spec: &PodSpec) -> Resources {
    let mut total = effective(spec, |r| r.limits.as_ref());
    let mut overhead = amounts(spec.overhead.as_ref());
    overhead.retain(|name, _| total.contains_key(name));
    add(&mut total, &overhead);
    total
}

/// As [`requests`], of a pod whose resources may be changing: what it asks for now, or what it was given and still
/// has, whichever is more. What the node can never give it (`Infeasible`) is not counted.
pub fn requests_of(pod: &Pod) -> Resources {
    held(pod).map(|spec| requests(&spec)).unwrap_or_default()
}

/// As [`limits`], in the same way.
pub fn limits_of(pod: &Pod) -> Resources {
    held(pod).map(|spec| limits(&spec)).unwrap_or_default()
}

/// The spec with what its containers hold or ask for, whichever is more.
fn held(pod: &Pod) -> Option<Cow<'_, PodSpec>> {
    let mut spec = Cow::Borrowed(pod.spec.as_ref()?);
    let pending = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let pending = conditions::find(pending, "PodResizePending").and_then(|c| c.reason.as_deref());
    let asked_for = pending != Some("Infeasible");
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let mut changed = Vec::new();
    for container in spec.containers.iter().chain(sidecars) {
        let told = container_status(pod, &container.name);
        let Some((told, actual)) = told.and_then(|t| Some((t, t.resources.as_ref()?))) else { continue };
        let wanted = container.resources.as_ref();
        let own =
            |list: Option<&BTreeMap<String, Text>>| if asked_for { amounts(list) } else { Resources::new() };
        let mut requests = own(wanted.and_then(|r| r.requests.as_ref()));
        max(&mut requests, &amounts(actual.requests.as_ref()));
        max(&mut requests, &amounts(told.allocated_resources.as_ref()));
        let mut limits = own(wanted.and_then(|r| r.limits.as_ref()));
        max(&mut limits, &amounts(actual.limits.as_ref()));
        let same = requests == amounts(wanted.and_then(|r| r.requests.as_ref()))
            && limits == amounts(wanted.and_then(|r| r.limits.as_ref()));
        if !same {
            changed.push((container.name.clone(), requests, limits));
        }
    }
    for (name, requests, limits) in changed {
        let spec = spec.to_mut();
        let mut all = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        if let Some(container) = all.find(|c| c.name == name) {
            let texts = |of: Resources| Some(of.into_iter().map(|(name, q)| (name, q.into())).collect());
            let resources = container.resources.get_or_insert_default();
            (resources.requests, resources.limits) = (texts(requests), texts(limits));
        }
    }
    Some(spec)
}

fn effective(
    spec: &PodSpec,
    pick: fn(&ResourceRequirements) -> Option<&BTreeMap<String, Text>>,
) -> Resources {
    let of = |c: &Container| amounts(c.resources.as_ref().and_then(pick));
    let mut total = Resources::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut peak) = (Resources::new(), Resources::new());
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if is_sidecar(container) {
            add(&mut sidecars, &own);
            add(&mut total, &own);
            max(&mut peak, &sidecars);
        } else {
            let mut now = sidecars.clone();
            add(&mut now, &own);
            max(&mut peak, &now);
        }
    }
    max(&mut total, &peak);
    for (name, amount) in amounts(spec.resources.as_ref().and_then(pick)) {
        total.insert(name, amount);
    }
    total
}

fn amounts(list: Option<&BTreeMap<String, Text>>) -> Resources {
    list.into_iter().flatten().map(|(name, text)| (name.clone(), quantity::of(Some(text)))).collect()
}

fn add(into: &mut Resources, other: &Resources) {
    for (name, amount) in other {
        *into.entry(name.clone()).or_default() += *amount;
    }
}

fn max(into: &mut Resources, other: &Resources) {
    for (name, amount) in other {
        let entry = into.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by requests and limits of cpu and memory.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all: Vec<&ResourceRequirements> = match &spec.resources {
        Some(pod) if pod.requests.is_some() || pod.limits.is_some() => vec![pod],
        _ => {
            let none: &'static ResourceRequirements = &NO_RESOURCES;
            containers.map(|c| c.resources.as_ref().unwrap_or(none)).collect()
        }
    };
    let positive = |list: &Option<BTreeMap<String, Text>>, name: &str| {
        let amount = quantity::of(list.as_ref().and_then(|l| l.get(name)));
        amount.is_positive().then_some(amount)
    };
    let (mut any, mut guaranteed) = (false, !all.is_empty());
    for resources in all {
        for name in ["cpu", "memory"] {
            let request = positive(&resources.requests, name);
            let limit = positive(&resources.limits, name);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

const NO_RESOURCES: ResourceRequirements =
    ResourceRequirements { claims: None, limits: None, requests: None };

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn requests_are_the_peak() {
        let cpu = |v: Value| requests(&spec(v))["cpu"].to_string();
        let c = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        assert_eq!(cpu(json!({"containers": [c("100m"), c("200m")]})), "300m");
        assert_eq!(cpu(json!({"containers": [c("100m")], "initContainers": [c("1"), c("500m")]})), "1");
        assert_eq!(
            cpu(json!({"containers": [c("100m")], "initContainers": [sidecar("1"), c("500m")]})),
            "1500m"
        );
        assert_eq!(cpu(json!({"containers": [c("1")], "initContainers": [sidecar("1"), c("500m")]})), "2");
        assert_eq!(cpu(json!({"containers": [c("1")], "overhead": {"cpu": "10m"}})), "1010m");
        assert_eq!(cpu(json!({"containers": [c("1")], "resources": {"requests": {"cpu": "3"}}})), "3");
    }

    #[test]
    fn a_pod_that_is_being_resized_counts_with_the_larger() {
        let cpu = |wanted: &str, allocated: &str, actual: &str, conditions: Value| {
            let pod: Pod = serde_json::from_value(json!({
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": wanted}}}]},
                "status": {"conditions": conditions, "containerStatuses": [{
                    "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "allocatedResources": {"cpu": allocated}, "resources": {"requests": {"cpu": actual}},
                }]},
            }))
            .unwrap();
            requests_of(&pod)["cpu"].to_string()
        };
        assert_eq!(cpu("1", "1", "1", json!([])), "1");
        assert_eq!(cpu("2", "1", "1", json!([])), "2");
        assert_eq!(cpu("1", "2", "1", json!([])), "2");
        assert_eq!(cpu("1", "1", "2500m", json!([])), "2500m");
        let infeasible = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        assert_eq!(cpu("100", "1", "1", infeasible), "1");
    }

    #[test]
    fn quality_of_service() {
        let of = |r: Value| qos_class(&spec(json!({"containers": [{"name": "c", "resources": r}]})));
        assert_eq!(of(json!({})), "BestEffort");
        assert_eq!(of(json!({"requests": {"cpu": "0"}})), "BestEffort");
        assert_eq!(of(json!({"requests": {"cpu": "1"}})), "Burstable");
        let full = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(of(json!({"requests": full, "limits": full})), "Guaranteed");
        assert_eq!(of(json!({"limits": full})), "Guaranteed");
        assert_eq!(of(json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": full})), "Burstable");
        let two = json!({"containers": [{"name": "a", "resources": {"limits": full}}, {"name": "b"}]});
        assert_eq!(qos_class(&spec(two)), "Burstable");
    }

    #[test]
    fn ordinals() {
        assert_eq!(parent_and_ordinal("kubia-12"), Some(("kubia", 12)));
        assert_eq!(parent_and_ordinal("a-b-0"), Some(("a-b", 0)));
        for none in ["kubia", "kubia-", "-1", "kubia-x", "kubia-99999999999"] {
            assert_eq!(ordinal(none), None, "{none}");
        }
    }

    #[test]
    fn states() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                       "initContainerStatuses": [{"name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 1}]}
        }))
        .unwrap();
        assert!(is_ready(&pod) && is_active(&pod) && !is_terminal(&pod) && !is_terminating(&pod));
        assert_eq!(container_status(&pod, "i").map(|s| s.restart_count), Some(1));
        assert_eq!(node_name(&pod), Some("n"));
    }
}
