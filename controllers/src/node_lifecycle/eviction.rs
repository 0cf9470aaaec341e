//! When a pod must leave a node with `NoExecute` taints. Pure.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions>

use crate::scheduler::affinity::{tolerates, tolerations};
use client::Guard;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Taint};

/// What is to be done with a pod on a tainted node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    Stay,
    At(Timestamp),
}

/// A pod leaves when the first of its tolerations runs out. Time counts from when the node was tainted (`since`), or
/// from when the pod was made, if that was later.
pub fn decide(pod: &Pod, taints: &[Taint], since: impl Fn(&Taint) -> Timestamp) -> Eviction {
    let made = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |t| t.0);
    let mut leave: Option<Timestamp> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let since = since(taint).max(made);
        let mut matching = tolerations(pod).iter().filter(|t| tolerates(t, taint)).peekable();
        let until = if matching.peek().is_none() || !Guard::Toleration.holds() {
            Some(since)
        } else {
            let shortest = matching.filter_map(|t| t.toleration_seconds).min();
            shortest
                .map(|s| since.saturating_add(SignedDuration::from_secs(s.max(0))).unwrap_or(Timestamp::MAX))
        };
        leave = match (leave, until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    leave.map_or(Eviction::Stay, Eviction::At)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn tolerations_run_out() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let taint = |key: &str, added: i64| json!({"key": key, "effect": "NoExecute", "timeAdded": at(added).to_string()});
        let tolerate = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let check = |tolerations: Value, taints: Value, expected: Eviction| {
            let pod = json!({"metadata": {"creationTimestamp": at(100).to_string()}, "spec": {"containers": [], "tolerations": tolerations}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let taints: Vec<Taint> = serde_json::from_value(taints).unwrap();
            let since = |t: &Taint| t.time_added.as_ref().unwrap().0;
            assert_eq!(decide(&pod, &taints, since), expected, "{tolerations} {taints:?}");
        };
        check(json!([]), json!([]), Eviction::Stay);
        check(json!([]), json!([{"key": "a", "effect": "NoSchedule"}]), Eviction::Stay);
        check(json!([]), json!([taint("a", 200)]), Eviction::At(at(200)));
        check(json!([tolerate("a", None)]), json!([taint("a", 200)]), Eviction::Stay);
        check(json!([tolerate("a", Some(300))]), json!([taint("a", 200)]), Eviction::At(at(500)));
        check(json!([tolerate("a", Some(300))]), json!([taint("a", 50)]), Eviction::At(at(400)));
        check(
            json!([tolerate("a", Some(300)), tolerate("a", Some(5))]),
            json!([taint("a", 200)]),
            Eviction::At(at(205)),
        );
        check(
            json!([tolerate("a", Some(300))]),
            json!([taint("a", 200), taint("b", 250)]),
            Eviction::At(at(250)),
        );
        check(json!([tolerate("a", Some(-1))]), json!([taint("a", 200)]), Eviction::At(at(200)));
    }
}
