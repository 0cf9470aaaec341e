//! Tables: a pod and some nodes; which refuse it and why, which is chosen.

use super::{
    affinity::PodAffinity,
    cache::{Cache, NodeInfo, PodInfo},
    feasible, filter, is_waiting, score,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn node(name: &str, more: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"},
                   "conditions": [{"type": "Ready", "status": "True"}]}
    });
    merge(&mut node, more);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, spec: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "uid": name, "namespace": "ns", "labels": {"app": name}},
        "spec": {"containers": [{"name": "c"}]}
    });
    merge(&mut pod["spec"], spec);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn cluster(nodes: &[Arc<Node>], placed: &[Arc<Pod>]) -> Cache {
    let mut cache = Cache::default();
    nodes.iter().for_each(|n| cache.set_node(n.clone()));
    placed.iter().for_each(|p| cache.set_pod(p));
    cache
}

/// The node chosen, or the sentence that says why there is none.
fn place(pod: &Arc<Pod>, cache: &Cache) -> String {
    let info = PodInfo::new(pod.clone());
    let affinity = PodAffinity::new(&info, cache, &|_| None);
    let wanted = filter::Wanted { pod: &info, volumes: vec![], affinity };
    let (nodes, refusals) = feasible(&wanted, cache, "uid");
    match score::best(&info, &wanted.affinity, &nodes) {
        Some(node) => NodeInfo::name(node).to_owned(),
        None => filter::message(cache.nodes.len(), &refusals),
    }
}

fn requests(list: Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": list}}]})
}

#[track_caller]
fn check(node_more: Value, pod_spec: Value, placed: &[Arc<Pod>], expected: &str) {
    let cache = cluster(&[node("n", node_more)], placed);
    assert_eq!(place(&pod("p", pod_spec), &cache), expected);
}

#[test]
fn resources() {
    let full = pod(
        "q",
        json!({"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}),
    );
    check(json!({}), requests(json!({"cpu": "2"})), &[], "n");
    check(json!({}), requests(json!({"cpu": "500m"})), std::slice::from_ref(&full), "n");
    let no_cpu = "0/1 nodes are available: 1 Insufficient cpu.";
    check(json!({}), requests(json!({"cpu": "501m"})), &[full], no_cpu);
    check(json!({}), requests(json!({"cpu": "2001m"})), &[], no_cpu);
    check(
        json!({}),
        requests(json!({"cpu": "3", "memory": "5Gi", "example.com/gpu": "1"})),
        &[],
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, 1 Insufficient memory.",
    );
    let offers = json!({"status": {"allocatable": {"example.com/gpu": "1", "ephemeral-storage": "1Gi"}}});
    check(offers.clone(), requests(json!({"example.com/gpu": "1"})), &[], "n");
    check(
        offers,
        requests(json!({"ephemeral-storage": "2Gi"})),
        &[],
        "0/1 nodes are available: 1 Insufficient ephemeral-storage.",
    );
    let one_pod = json!({"status": {"allocatable": {"pods": "1"}}});
    let other = pod("q", json!({"nodeName": "n"}));
    check(one_pod, json!({}), &[other], "0/1 nodes are available: 1 Too many pods.");
    // What has ended gives its room back.
    let mut ended = Pod::clone(&pod("q", requests(json!({"cpu": "2"}))));
    ended.spec.as_mut().unwrap().node_name = Some("n".into());
    ended.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
    check(json!({}), requests(json!({"cpu": "2"})), &[Arc::new(ended)], "n");
}

#[test]
fn cordons_and_taints() {
    let cordoned = json!({"spec": {"unschedulable": true}});
    check(cordoned.clone(), json!({}), &[], "0/1 nodes are available: 1 node(s) were unschedulable.");
    let all = json!({"tolerations": [{"operator": "Exists"}]});
    check(cordoned, all.clone(), &[], "n");
    let tainted = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let refused = "0/1 nodes are available: 1 node(s) had untolerated taint(s).";
    for (effect, tolerations, expected) in [
        ("NoSchedule", json!([]), refused),
        ("NoExecute", json!([]), refused),
        ("PreferNoSchedule", json!([]), "n"),
        ("NoSchedule", json!([{"key": "k", "value": "v"}]), "n"),
        ("NoSchedule", json!([{"key": "k", "operator": "Equal", "value": "w"}]), refused),
        ("NoSchedule", json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]), "n"),
        ("NoSchedule", json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]), refused),
        ("NoSchedule", json!([{"key": "other", "operator": "Exists"}]), refused),
    ] {
        check(tainted(effect), json!({"tolerations": tolerations}), &[], expected);
    }
    for (ready, expected) in [("True", "n"), ("False", refused), ("Unknown", refused)] {
        let conditions = json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        check(conditions, json!({}), &[], expected);
    }
    check(json!({"status": {"conditions": []}}), json!({}), &[], refused);
    check(json!({"status": {"conditions": []}}), all, &[], "n");
}

#[test]
fn node_selectors_and_affinity() {
    let labelled = json!({"metadata": {"labels": {"disk": "ssd", "gen": "5"}}});
    let refused = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    check(labelled.clone(), json!({"nodeSelector": {"disk": "ssd"}}), &[], "n");
    check(labelled.clone(), json!({"nodeSelector": {"disk": "hdd"}}), &[], refused);
    let terms = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    for (expression, expected) in [
        (json!({"key": "disk", "operator": "In", "values": ["hdd", "ssd"]}), "n"),
        (json!({"key": "disk", "operator": "NotIn", "values": ["ssd"]}), refused),
        (json!({"key": "none", "operator": "NotIn", "values": ["ssd"]}), "n"),
        (json!({"key": "disk", "operator": "Exists"}), "n"),
        (json!({"key": "none", "operator": "Exists"}), refused),
        (json!({"key": "none", "operator": "DoesNotExist"}), "n"),
        (json!({"key": "gen", "operator": "Gt", "values": ["4"]}), "n"),
        (json!({"key": "gen", "operator": "Lt", "values": ["5"]}), refused),
    ] {
        check(labelled.clone(), terms(json!([{"matchExpressions": [expression]}])), &[], expected);
    }
    check(labelled.clone(), terms(json!([{}])), &[], refused);
    let field =
        |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
    check(labelled.clone(), terms(field("n")), &[], "n");
    check(labelled, terms(field("m")), &[], refused);
}

#[test]
fn host_ports() {
    let with = |name: &str, node: Option<&str>, ip: &str, protocol: &str| {
        let ports = json!([{"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol}]);
        pod(name, json!({"nodeName": node, "containers": [{"name": "c", "ports": ports}]}))
    };
    let cache = cluster(&[node("n", json!({}))], &[with("q", Some("n"), "127.0.0.1", "TCP")]);
    let refused = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(place(&with("p", None, "0.0.0.0", "TCP"), &cache), refused);
    assert_eq!(place(&with("p", None, "127.0.0.1", "TCP"), &cache), refused);
    assert_eq!(place(&with("p", None, "10.0.0.1", "TCP"), &cache), "n");
    assert_eq!(place(&with("p", None, "127.0.0.1", "UDP"), &cache), "n");
}

#[test]
fn pod_affinity() {
    let term = |app: &str| json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}});
    let required = |kind: &str, app: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(app)]}}});
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let cache = cluster(&nodes, &[pod("db", json!({"nodeName": "b"}))]);
    assert_eq!(place(&pod("p", required("podAffinity", "db")), &cache), "b");
    assert_eq!(place(&pod("p", required("podAntiAffinity", "db")), &cache), "a");
    assert_eq!(
        place(&pod("p", required("podAffinity", "none")), &cache),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
    );
    assert_eq!(
        place(&pod("p", required("podAffinity", "p")), &cache),
        "a",
        "the first of its kind may start"
    );
    // Those already there have their say, too.
    let mut lonely = required("podAntiAffinity", "p");
    lonely["nodeName"] = "a".into();
    let cache = cluster(&nodes[..1], &[pod("lonely", lonely)]);
    assert_eq!(
        place(&pod("p", json!({})), &cache),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    let preferred = json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": term("db")}]}}});
    let cache = cluster(&nodes, &[pod("db", json!({"nodeName": "b"}))]);
    assert_eq!(place(&pod("p", preferred), &cache), "b");
}

#[test]
fn the_emptier_node_is_better() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let busy = pod(
        "q",
        json!({"nodeName": "a", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}),
    );
    assert_eq!(place(&pod("p", json!({})), &cluster(&nodes, &[busy])), "b");
    let idle = pod("q", json!({"nodeName": "a"}));
    assert_eq!(place(&pod("p", json!({})), &cluster(&nodes, &[idle])), "b");
    assert_eq!(place(&pod("p", json!({})), &cluster(&nodes, &[])), "a", "else by name, always the same");
}

#[test]
fn pods_of_one_owner_spread() {
    let owned = |name: &str, node: Option<&str>| {
        let mut pod = Pod::clone(&pod(name, json!({"nodeName": node})));
        let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "s", "controller": true}]);
        pod.metadata.owner_references = Some(serde_json::from_value(owner).unwrap());
        Arc::new(pod)
    };
    let big = node("a", json!({"status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "100"}}}));
    let cache = cluster(&[big, node("b", json!({}))], &[owned("s-0", Some("a"))]);
    assert_eq!(place(&owned("s-1", None), &cache), "b");
}

#[test]
fn preferences_of_the_pod_and_of_the_node() {
    let nodes = [node("a", json!({})), node("b", json!({"metadata": {"labels": {"disk": "ssd"}}}))];
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
    assert_eq!(place(&pod("p", preferred), &cluster(&nodes, &[])), "b");
    let soft = node("a", json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}}));
    assert_eq!(place(&pod("p", json!({})), &cluster(&[soft, node("b", json!({}))], &[])), "b");
}

#[test]
fn the_sentence_counts_every_reason() {
    let nodes = [
        node("a", json!({"spec": {"unschedulable": true}})),
        node("b", json!({"spec": {"unschedulable": true}})),
        node("c", json!({})),
    ];
    assert_eq!(
        place(&pod("p", requests(json!({"cpu": "3"}))), &cluster(&nodes, &[])),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable."
    );
    assert_eq!(place(&pod("p", json!({})), &cluster(&[], &[])), "no nodes available to schedule pods");
}

#[test]
fn large_clusters_are_sampled_but_never_refused_wrongly() {
    let mut nodes: Vec<Arc<Node>> =
        (0..300).map(|i| node(&format!("n{i:03}"), json!({"spec": {"unschedulable": true}}))).collect();
    nodes.push(node("z", json!({})));
    assert_eq!(place(&pod("p", json!({})), &cluster(&nodes, &[])), "z");
}

#[test]
fn whose_pods_are_scheduled() {
    for (spec, waits) in [
        (json!({}), true),
        (json!({"schedulerName": "default-scheduler"}), true),
        (json!({"schedulerName": "other"}), false),
        (json!({"nodeName": "n"}), false),
        (json!({"schedulingGates": [{"name": "g"}]}), false),
    ] {
        assert_eq!(is_waiting(&pod("p", spec.clone())), waits, "{spec}");
    }
}
