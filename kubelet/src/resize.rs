//! What a pod may use, once its spec asks for something else than it was given: the node says whether there is room.
//! Pure.
//!
//! A pod holds what was allocated to it until the node accepts what its spec asks for now. Until then its worker knows
//! the pod as it was allocated ([`given`]), so that whatever is made of the pod, now or at a restart, is made of that.
//! What was allocated is written in the pod's status, where the next kubelet finds it ([`recorded`]).

use crate::admission;
use api::quantity::{self, Quantity};
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use std::{collections::BTreeMap, sync::Arc};

/// The resources that can change while a pod runs.
pub(crate) const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Why a resize has to wait: for room, or for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
pub struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    pub message: String,
}

/// The pod with the resources of `allocated`, which is an earlier state of it. `None` if they are its own.
pub(crate) fn given(pod: &Pod, allocated: &Pod) -> Option<Pod> {
    let before = allocated.spec.as_ref()?;
    let held = |name: &str| api::pod::container(before, name);
    let unchanged =
        |c: &Container| held(&c.name).is_none_or(|held| same(held.resources.as_ref(), c.resources.as_ref()));
    let spec = pod.spec.as_ref()?;
    if spec.containers.iter().chain(spec.init_containers.iter().flatten()).all(unchanged) {
        return None;
    }
    let mut pod = pod.clone();
    for container in containers_mut(&mut pod) {
        if let Some(held) = held(&container.name) {
            container.resources.clone_from(&held.resources);
        }
    }
    Some(pod)
}

fn containers_mut(pod: &mut Pod) -> impl Iterator<Item = &mut Container> {
    let spec = pod.spec.as_mut().into_iter();
    spec.flat_map(|s| s.containers.iter_mut().chain(s.init_containers.iter_mut().flatten()))
}

/// Whether two containers may use the same, however it is written.
fn same(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> bool {
    if a == b {
        return true;
    }
    let amounts = |list: Option<&BTreeMap<String, Text>>| -> BTreeMap<String, Quantity> {
        list.into_iter().flatten().map(|(name, text)| (name.clone(), quantity::of(Some(text)))).collect()
    };
    let requests = |r: Option<&ResourceRequirements>| amounts(r.and_then(|r| r.requests.as_ref()));
    let limits = |r: Option<&ResourceRequirements>| amounts(r.and_then(|r| r.limits.as_ref()));
    requests(a) == requests(b) && limits(a) == limits(b)
}

/// The pod as its status says it was allocated: for a kubelet that finds it running.
pub(crate) fn recorded(pod: &Pod) -> Option<Pod> {
    let mut allocated = pod.clone();
    for container in containers_mut(&mut allocated) {
        let Some(told) = api::pod::container_status(pod, &container.name) else { continue };
        let made = told.container_id.as_deref().is_some_and(|id| !id.is_empty());
        let (Some(actual), true) = (&told.resources, made) else { continue };
        let resources = container.resources.get_or_insert_default();
        take(&mut resources.requests, told.allocated_resources.as_ref());
        take(&mut resources.limits, actual.limits.as_ref());
    }
    given(pod, &allocated)
}

fn take(into: &mut Option<BTreeMap<String, Text>>, from: Option<&BTreeMap<String, Text>>) {
    for name in RESIZABLE {
        match from.and_then(|from| from.get(name)) {
            Some(amount) => {
                into.get_or_insert_default().insert(name.to_owned(), amount.clone());
            }
            None => {
                if let Some(into) = into {
                    into.remove(name);
                }
            }
        }
    }
}

/// Whether the node can give the pod what its spec asks for now. `others` are the pods here, as they were allocated.
pub(crate) fn decide(
    pod: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Text>,
) -> Result<(), Pending> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let wanted = api::pod::requests(spec);
    for name in RESIZABLE {
        let (Some(wanted), Some(capacity)) = (wanted.get(name), allocatable.get(name)) else { continue };
        let capacity = quantity::of(Some(capacity));
        if *wanted > capacity {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {}, capacity: {}",
                counted(name, *wanted),
                counted(name, capacity)
            );
            return Err(Pending { reason: "Infeasible", message });
        }
    }
    match admission::lacking(spec, others, allocatable)
        .into_iter()
        .find(|l| RESIZABLE.contains(&l.name.as_str()))
    {
        None => Ok(()),
        Some(lack) => Err(Pending {
            reason: "Deferred",
            message: format!(
                "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}",
                lack.name,
                counted(&lack.name, lack.wanted),
                counted(&lack.name, lack.used),
                counted(&lack.name, lack.capacity)
            ),
        }),
    }
}

/// As Kubernetes counts it in these messages: CPU by the thousandth, memory by the byte.
fn counted(name: &str, amount: Quantity) -> i64 {
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}

/// Whether a container has to be restarted for what changed from what it was made with (its label) to what it may use.
pub(crate) fn restarts(spec: &Container, made_with: &str) -> bool {
    let policy = |name: &str| {
        let all = spec.resize_policy.iter().flatten();
        all.filter(|p| p.resource_name == name).any(|p| p.restart_policy == "RestartContainer")
    };
    let Some(before) = read(made_with) else { return false };
    let now = amounts(spec);
    RESIZABLE.iter().zip(before.iter().zip(&now)).any(|(name, (before, now))| before != now && policy(name))
}

/// What a container is made with, as its label tells it: request and limit of CPU and of memory.
pub(crate) fn label(spec: &Container) -> String {
    let one = |(request, limit): (i64, i64)| format!("{request}/{limit}");
    amounts(spec).map(one).join(",")
}

fn amounts(spec: &Container) -> [(i64, i64); 2] {
    RESIZABLE.map(|name| {
        let of = |list: Option<&BTreeMap<String, Text>>| {
            counted(name, quantity::of(list.and_then(|l| l.get(name))))
        };
        let resources = spec.resources.as_ref();
        (of(resources.and_then(|r| r.requests.as_ref())), of(resources.and_then(|r| r.limits.as_ref())))
    })
}

fn read(label: &str) -> Option<[(i64, i64); 2]> {
    let one = |text: &str| {
        let (request, limit) = text.split_once('/')?;
        Some((request.parse().ok()?, limit.parse().ok()?))
    };
    let (cpu, memory) = label.split_once(',')?;
    Some([one(cpu)?, one(memory)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: Value, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c", "resources": resources}]},
            "status": {"containerStatuses": [status]},
        }))
        .unwrap()
    }

    fn status(rest: Value) -> Value {
        let mut status = json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "containerID": "docker://x"});
        status.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        status
    }

    fn cpu(pod: &Pod) -> String {
        serde_json::to_value(pod).unwrap()["spec"]["containers"][0]["resources"].to_string()
    }

    #[test]
    fn a_pod_keeps_what_it_was_given() {
        let one = pod(json!({"requests": {"cpu": "1"}}), status(json!({})));
        let same = pod(json!({"requests": {"cpu": "1000m"}}), status(json!({})));
        let other = pod(json!({"requests": {"cpu": "2"}}), status(json!({})));
        assert_eq!(given(&same, &one), None);
        assert_eq!(cpu(&given(&other, &one).unwrap()), r#"{"requests":{"cpu":"1"}}"#);
    }

    #[test]
    fn the_status_remembers_it() {
        let wanted = json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "3"}});
        let told = status(json!({
            "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
        }));
        let allocated = recorded(&pod(wanted.clone(), told)).unwrap();
        assert_eq!(cpu(&allocated), r#"{"limits":{"cpu":"1"},"requests":{"cpu":"1"}}"#);
        assert_eq!(recorded(&pod(wanted.clone(), status(json!({})))), None, "nothing is told of resources");
        let not_made = status(json!({"containerID": "", "resources": {"requests": {"cpu": "1"}}}));
        assert_eq!(recorded(&pod(wanted, not_made)), None);
    }

    #[test]
    fn there_is_room_or_not() {
        let allocatable = BTreeMap::from(
            [("cpu", "2"), ("memory", "1Gi")].map(|(n, a)| (n.to_owned(), Text(a.to_owned()))),
        );
        let other = Arc::new(pod(json!({"requests": {"cpu": "500m"}}), status(json!({}))));
        let check = |requests: Value, expected: Option<(&str, &str)>| {
            let pod = pod(json!({"requests": requests}), status(json!({})));
            let pending = decide(&pod, std::slice::from_ref(&other), &allocatable).err();
            assert_eq!(pending.as_ref().map(|p| (p.reason, p.message.as_str())), expected);
        };
        check(json!({"cpu": "1500m"}), None);
        check(
            json!({"cpu": "1600m"}),
            Some((
                "Deferred",
                "Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000",
            )),
        );
        check(
            json!({"cpu": "2100m"}),
            Some(("Infeasible", "Node didn't have enough capacity: cpu, requested: 2100, capacity: 2000")),
        );
        check(
            json!({"memory": "2Gi"}),
            Some((
                "Infeasible",
                "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824",
            )),
        );
    }

    #[test]
    fn restarts_for_what_the_policy_says() {
        let container = |cpu: &str, memory: &str| -> Container {
            serde_json::from_value(json!({
                "name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}},
                "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
            }))
            .unwrap()
        };
        let made_with = label(&container("1", "1Mi"));
        assert_eq!(made_with, "1000/0,1048576/0");
        assert!(!restarts(&container("1", "1024Ki"), &made_with));
        assert!(!restarts(&container("2", "1Mi"), &made_with));
        assert!(restarts(&container("1", "2Mi"), &made_with));
        assert!(!restarts(&container("1", "2Mi"), ""), "made before there was such a label");
    }
}
