//! Tables: a set that wants three pods, the pods there are, and what is done about them.
//!
//! A pod is written `NAME STATE`, as in `a+`: `+` Ready, `-` running but not Ready, `?` Pending, `x` Failed,
//! `o` Succeeded; then `~` says terminating, `!` that its labels do not match, `*` that nobody owns it, `#` that another
//! set does. Plans print as `+2` (make two), `-a` (delete), `take a`, `leave a`.

use super::plan::{Ownership, Plan, View, differs, new_pod, plan};
use crate::context::name;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::Pod,
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

pub(super) fn set(replicas: i32, change: impl FnOnce(&mut Value)) -> ReplicaSet {
    let mut set = json!({
        "metadata": {"name": "kubia", "namespace": "ns", "uid": "set", "generation": 4},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "kubia"}},
                 "template": {"metadata": {"labels": {"app": "kubia", "v": "2"}, "annotations": {"x": "y"}},
                              "spec": {"containers": [{"name": "c", "image": "i"}]}}}
    });
    change(&mut set);
    serde_json::from_value(set).unwrap()
}

fn pod(text: &str) -> Arc<Pod> {
    let (pod_name, flags) = text.split_at(1);
    let has = |c: char| flags.contains(c);
    let phase = match flags.chars().next() {
        Some('+' | '-') => "Running",
        Some('x') => "Failed",
        Some('o') => "Succeeded",
        _ => "Pending",
    };
    let owner = |uid: &str| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid, "controller": true}]);
    let mut value = json!({
        "metadata": {"name": pod_name, "namespace": "ns", "uid": pod_name, "creationTimestamp": "1970-01-02T00:00:00Z",
                     "labels": {"app": if has('!') { "other" } else { "kubia" }}},
        "spec": {"nodeName": if phase == "Pending" { "" } else { "n" }, "containers": []},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if has('+') { "True" } else { "False" },
                                                   "lastTransitionTime": (now() - SignedDuration::from_secs(10)).to_string()}]}
    });
    if !has('*') {
        value["metadata"]["ownerReferences"] = owner(if has('#') { "other" } else { "set" });
    }
    if has('~') {
        value["metadata"]["deletionTimestamp"] = "1970-01-03T00:00:00Z".into();
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn planned(set: &ReplicaSet, pods: &str) -> Plan {
    let pods: Vec<_> = pods.split_whitespace().map(pod).collect();
    plan(&View { set, pods: &pods, related: &[], counts_terminating: true }, now()).unwrap()
}

fn text(plan: &Plan) -> String {
    let owned = plan.ownership.iter().map(|o| match o {
        Ownership::Adopt(pod) => format!("take {}", name(&pod.metadata)),
        Ownership::Release(pod) => format!("leave {}", name(&pod.metadata)),
    });
    let created = (plan.create > 0).then(|| format!("+{}", plan.create));
    let deleted = plan.delete.iter().map(|p| format!("-{}", name(&p.metadata)));
    owned.chain(created).chain(deleted).collect::<Vec<_>>().join(" ")
}

fn status(plan: &Plan) -> ReplicaSetStatus {
    plan.status_after(None, None, now())
}

#[test]
fn pods_are_made_and_deleted() {
    for (wanted, pods, expected) in [
        (3, "", "+3"),
        (3, "a+ b+ c+", ""),
        (3, "a+ b- c?", ""),
        (3, "a+ bx co", "+2"),
        (3, "a+ b+ c+~", "+1"),
        (0, "a+ b+~", "-a"),
        (1, "a+ b- c?", "-c -b"),
        (3, "a+ b+ c+ d+#", ""),
        (3, "a+ b+ c+*", "take c"),
        (3, "a+ b+ c+!", "leave c"),
        (3, "a+ b+ c+!#", "+1"),
        (3, "a+ b+ c+*~ dx*", "+1"),
        (3, "a+ b+ c+!*", "+1"),
        (600, "", "+500"),
    ] {
        assert_eq!(text(&planned(&set(wanted, |_| {}), pods)), expected, "{wanted} of {pods}");
    }
    let deleted = set(3, |s| s["metadata"]["deletionTimestamp"] = "1970-01-03T00:00:00Z".into());
    assert_eq!(text(&planned(&deleted, "a+ b+* c+!")), "", "a set that is being deleted only counts");
}

#[test]
fn the_status_counts_active_pods() {
    let plan = planned(&set(3, |_| {}), "a+ b- c? dx e+~ f+#");
    let expected = json!({"replicas": 3, "readyReplicas": 1, "availableReplicas": 1, "terminatingReplicas": 1,
                          "observedGeneration": 4});
    assert_eq!(
        serde_json::to_value(status(&plan)).unwrap(),
        expected,
        "the template has a label more than they"
    );
    let plan =
        planned(&set(3, |s| s["spec"]["template"]["metadata"]["labels"] = json!({"app": "kubia"})), "a+ b+");
    assert_eq!(status(&plan).fully_labeled_replicas, Some(2));
    let patient = set(1, |s| s["spec"]["minReadySeconds"] = 30.into());
    let plan = planned(&patient, "a+");
    assert_eq!((status(&plan).ready_replicas, status(&plan).available_replicas), (Some(1), None));
    assert_eq!(plan.check_after, Some(SignedDuration::from_secs(20)));
}

#[test]
fn a_failure_is_a_condition_until_it_is_gone() {
    let plan = planned(&set(3, |_| {}), "");
    let failed = plan.status_after(None, Some("no room"), now());
    let conditions = failed.conditions.clone().unwrap();
    assert_eq!(
        (conditions[0].reason.as_deref(), conditions[0].message.as_deref()),
        (Some("FailedCreate"), Some("no room"))
    );
    let later = now() + SignedDuration::from_secs(9);
    assert_eq!(plan.status_after(Some(&failed), Some("still no room"), later), failed, "told once");
    assert_eq!(plan.status_after(Some(&failed), None, later).conditions, None);
}

#[test]
fn what_is_worth_writing() {
    let plan = planned(&set(3, |_| {}), "a+");
    let written = ReplicaSetStatus { fully_labeled_replicas: Some(0), ..status(&plan) };
    assert!(!differs(Some(&written), &status(&plan)));
    assert!(differs(None, &status(&plan)));
    let newer = ReplicaSetStatus { observed_generation: Some(5), replicas: 9, ..written };
    assert!(!differs(Some(&newer), &status(&plan)), "an old cache does not take it back");
}

#[test]
fn pods_are_of_the_template() {
    let owner = api::owner::controller_ref(&set(1, |_| {}));
    let made = new_pod(&set(1, |_| {}), owner);
    let value = serde_json::to_value(&made).unwrap();
    assert_eq!(value["metadata"]["generateName"], "kubia-");
    assert_eq!(value["metadata"]["labels"], json!({"app": "kubia", "v": "2"}));
    assert_eq!(value["metadata"]["annotations"], json!({"x": "y"}));
    assert_eq!(value["metadata"]["ownerReferences"][0]["controller"], true);
    assert_eq!(value["spec"]["containers"][0]["image"], "i");
}

#[test]
fn an_empty_selector_takes_nobody() {
    let set = set(3, |s| s["spec"]["selector"] = json!({}));
    let view = View { set: &set, pods: &[], related: &[], counts_terminating: true };
    assert!(plan(&view, now()).is_err());
}
