//! Which of a set's pods to delete first. Pure.
//!
//! <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-down-a-replicaset>: what serves least
//! goes first. Ages are compared by their order of magnitude only, so that among pods of about the same age the choice
//! is as good as random (by UID) and no part of the cluster loses all its new pods at once.

use api::{conditions, pod};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::{cmp::Reverse, collections::HashMap, sync::Arc};

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What is compared, in this order; the smallest goes first. A key of its own, because a total order is what sorting
/// needs.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    assigned: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    /// More pods on the same node go first.
    neighbours: Reverse<usize>,
    ready_for: i32,
    restarts: Reverse<i32>,
    sidecar_restarts: Reverse<i32>,
    age: i32,
    uid: &'a str,
}

/// All of `pods`, the first to be deleted first. `related`: all pods that count as neighbours on a node; if empty,
/// `pods` themselves.
pub(super) fn first_to_go(pods: &[&Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    let mut meet = |pod| {
        if let Some(node) = pod::node_name(pod) {
            *on_node.entry(node).or_default() += 1;
        }
    };
    if related.is_empty() {
        pods.iter().for_each(|p| meet(p));
    } else {
        related.iter().filter(|p| pod::is_active(p)).for_each(|p| meet(p));
    }
    let mut sorted: Vec<&Arc<Pod>> = pods.to_vec();
    sorted.sort_by_cached_key(|p| rank(p, &on_node, now));
    sorted.into_iter().cloned().collect()
}

fn rank<'a>(pod: &'a Pod, on_node: &HashMap<&str, usize>, now: Timestamp) -> Rank<'a> {
    let node = pod::node_name(pod);
    let (restarts, sidecar_restarts) = restarts(pod);
    Rank {
        assigned: node.is_some(),
        phase: match pod::phase(pod) {
            "Unknown" => 1,
            "Running" => 2,
            _ => 0,
        },
        ready: pod::is_ready(pod),
        cost: cost(pod),
        neighbours: Reverse(node.and_then(|n| on_node.get(n)).copied().unwrap_or(0)),
        ready_for: magnitude(ready_since(pod), now),
        restarts: Reverse(restarts),
        sidecar_restarts: Reverse(sidecar_restarts),
        age: magnitude(pod.metadata.creation_timestamp.as_ref().map(|t| t.0), now),
        uid: pod.metadata.uid.as_deref().unwrap_or_default(),
    }
}

/// What a person says deleting this pod costs, compared to others of its set.
fn cost(pod: &Pod) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|a| a.get(COST));
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let all = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let ready = conditions::find(all, "Ready").filter(|c| c.status == "True")?;
    ready.last_transition_time.as_ref().map(|t| t.0)
}

/// The order of magnitude (base 2) of the time since; what never was counts as newest.
fn magnitude(since: Option<Timestamp>, now: Timestamp) -> i32 {
    let Some(since) = since else { return -2 };
    let nanos = now.duration_since(since).as_nanos();
    u128::try_from(nanos).ok().and_then(u128::checked_ilog2).map_or(-1, |n| n.cast_signed())
}

/// The most restarts of any of its containers, and of any of its sidecars.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let is_sidecar = |name: &str| init.iter().any(|c| c.name == name && pod::is_sidecar(c));
    let app = status.container_statuses.iter().flatten().map(|c| c.restart_count).max();
    let sidecars = status.init_container_statuses.iter().flatten().filter(|c| is_sidecar(&c.name));
    (app.unwrap_or(0), sidecars.map(|c| c.restart_count).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        Timestamp::from_second(100_000).unwrap()
    }

    fn seconds_ago(seconds: i64) -> String {
        Timestamp::from_second(100_000 - seconds).unwrap().to_string()
    }

    /// A pod on `node`, Ready for an hour, made a little before; changed by `change`.
    fn pod(name: &str, node: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "annotations": {}, "creationTimestamp": seconds_ago(4000)},
            "spec": {"nodeName": node, "containers": [], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": seconds_ago(3600)}]}
        });
        change(&mut value);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn restarted(n: i32) -> Value {
        json!([{"name": "s", "image": "", "imageID": "", "ready": true, "restartCount": n}])
    }

    #[test]
    fn the_least_useful_goes_first() {
        let ready = |p: &mut Value, s: i64| {
            p["status"]["conditions"][0]["lastTransitionTime"] = seconds_ago(s).into();
        };
        let in_order = [
            pod("unassigned", "", |p| p["status"] = json!({"phase": "Pending"})),
            pod("pending", "n1", |p| p["status"]["phase"] = "Pending".into()),
            pod("unready", "n2", |p| p["status"]["conditions"][0]["status"] = "False".into()),
            pod("cheap", "n3", |p| p["metadata"]["annotations"][COST] = "-5".into()),
            pod("double-a", "n4", |_| {}),
            pod("double-b", "n4", |_| {}),
            pod("new-ready", "n5", |p| ready(p, 60)),
            pod("restarted", "n6", |p| p["status"]["containerStatuses"] = restarted(3)),
            pod("sidecar", "n7", |p| p["status"]["initContainerStatuses"] = restarted(9)),
            pod("younger", "n8", |p| p["metadata"]["creationTimestamp"] = seconds_ago(3600).into()),
            pod("z-old", "n9", |p| p["metadata"]["creationTimestamp"] = seconds_ago(99_000).into()),
            pod("dear", "n10", |p| p["metadata"]["annotations"][COST] = "5".into()),
        ];
        let mut given: Vec<&Arc<Pod>> = in_order.iter().collect();
        given.reverse();
        let names: Vec<_> = first_to_go(&given, &[], now()).iter().map(|p| p.metadata.name.clone()).collect();
        let wanted: Vec<_> = in_order.iter().map(|p| p.metadata.name.clone()).collect();
        assert_eq!(names, wanted);
    }

    #[test]
    fn neighbours_of_other_sets_count() {
        let (a, b) = (pod("a", "n1", |_| {}), pod("b", "n2", |_| {}));
        let first =
            |related: &[Arc<Pod>]| first_to_go(&[&a, &b], related, now())[0].metadata.name.clone().unwrap();
        let other = pod("other", "n2", |_| {});
        let ended = pod("ended", "n2", |p| p["status"]["phase"] = "Failed".into());
        assert_eq!(first(&[a.clone(), b.clone(), other]), "b");
        assert_eq!(first(&[a.clone(), b.clone(), ended]), "a");
    }

    #[test]
    fn ages_by_magnitude() {
        let of = |seconds: i64| magnitude(Some(Timestamp::from_second(100_000 - seconds).unwrap()), now());
        assert_eq!(of(3600), of(4000));
        assert!(of(60) < of(3600));
        assert_eq!((of(0), of(-5), magnitude(None, now())), (-1, -1, -2));
    }
}
