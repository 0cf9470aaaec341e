//! What the controllers and the scheduler do, told apart from what a node does: there is no kubelet, the test writes
//! what one would. (With real containers: the other modules.)

use serde_json::{Value, json};
use std::time::Duration;
use tests::{
    cluster::{Options, TestCluster},
    wait::wait_for,
};

/// For what happens at once; long, because the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

fn node(cluster: &TestCluster, name: &str, cpu: &str) {
    cluster.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}"));
    let amounts = json!({"cpu": cpu, "memory": "4Gi", "pods": "10"});
    let ready = json!([{"type": "Ready", "status": "True", "reason": "Test", "message": "by hand"}]);
    status(cluster, "node", name, json!({"capacity": amounts, "allocatable": amounts, "conditions": ready}));
}

fn status(cluster: &TestCluster, kind: &str, name: &str, status: Value) {
    let patch = json!({ "status": status }).to_string();
    cluster.kubectl(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]);
}

/// The kubelet's word about a pod.
fn pod_is(cluster: &TestCluster, pod: &str, phase: &str, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    status(cluster, "pod", pod, json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}));
}

/// The kubelet has killed the containers of a terminating pod.
fn finish(cluster: &TestCluster, pod: &str) {
    cluster.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force"]);
}

/// `kubia-0 kubia-1~`: names of the pods, `~` after those that are terminating.
fn pods(cluster: &TestCluster) -> String {
    let path = "jsonpath={range .items[*]}{.metadata.name}{\"/\"}{.metadata.deletionTimestamp}{\" \"}{end}";
    let seen = cluster.kubectl(&["get", "pods", "-o", path]);
    let name = |pod: &str| match pod.split_once('/') {
        Some((name, "")) => name.to_owned(),
        Some((name, _)) => format!("{name}~"),
        None => pod.to_owned(),
    };
    seen.split_whitespace().map(name).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn wait_pods(cluster: &TestCluster, expected: &str) {
    wait_for(&format!("pods {expected}"), SOON, || {
        let seen = pods(cluster);
        if seen == expected { Ok(()) } else { Err(format!("{seen}\n{}", cluster.log())) }
    });
}

/// Nothing may happen, so there is nothing to wait for: the controller has said in its status that it has seen the
/// newest spec, and the pods are still the same.
#[track_caller]
fn stays(cluster: &TestCluster, expected: &str) {
    let path = "jsonpath={.metadata.generation}={.status.observedGeneration}";
    cluster.wait_get(&["statefulset", "kubia", "-o", path], SOON, |seen| {
        seen.split_once('=').is_some_and(|(generation, observed)| generation == observed)
    });
    assert_eq!(pods(cluster), expected);
}

const KUBIA: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: kubia}
spec:
  serviceName: kubia
  replicas: 2
  selector: {matchLabels: {app: kubia}}
  template:
    metadata: {labels: {app: kubia}}
    spec:
      containers: [{name: main, image: "kubia:1"}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

#[test]
fn a_stateful_set_from_birth_to_undo() {
    let cluster = TestCluster::with(Options::without_pods());
    node(&cluster, "n1", "2");
    cluster.apply(KUBIA);
    wait_pods(&cluster, "kubia-0");
    cluster.wait_get(&["pod", "kubia-0", "-o", "jsonpath={.spec.nodeName}"], SOON, |on| on == "n1");
    stays(&cluster, "kubia-0");
    pod_is(&cluster, "kubia-0", "Running", true);
    wait_pods(&cluster, "kubia-0 kubia-1");
    pod_is(&cluster, "kubia-1", "Running", true);

    // Scale-down waits while an instance is unhealthy, takes the highest first, and leaves the claims.
    cluster.kubectl(&["scale", "statefulset", "kubia", "--replicas=3"]);
    wait_pods(&cluster, "kubia-0 kubia-1 kubia-2");
    pod_is(&cluster, "kubia-2", "Running", true);
    pod_is(&cluster, "kubia-1", "Running", false);
    cluster.kubectl(&["scale", "statefulset", "kubia", "--replicas=1"]);
    stays(&cluster, "kubia-0 kubia-1 kubia-2");
    pod_is(&cluster, "kubia-1", "Running", true);
    wait_pods(&cluster, "kubia-0 kubia-1 kubia-2~");
    finish(&cluster, "kubia-2");
    wait_pods(&cluster, "kubia-0 kubia-1~");
    finish(&cluster, "kubia-1");
    wait_pods(&cluster, "kubia-0");
    let claims = cluster.kubectl(&["get", "pvc", "-o", "name"]);
    assert_eq!(claims.lines().count(), 3, "{claims}");

    // A deleted pod is replaced only once it is gone.
    cluster.kubectl(&["delete", "pod", "kubia-0", "--wait=false"]);
    let uid = cluster.kubectl(&["get", "pod", "kubia-0", "-o", "jsonpath={.metadata.uid}"]);
    wait_pods(&cluster, "kubia-0~");
    finish(&cluster, "kubia-0");
    cluster.wait_get(&["pod", "kubia-0", "-o", "jsonpath={.metadata.uid}"], SOON, |new| {
        !new.is_empty() && new != uid
    });
    pod_is(&cluster, "kubia-0", "Running", true);

    // A roll-out goes from the highest, and one that breaks can be taken back.
    cluster.kubectl(&["scale", "statefulset", "kubia", "--replicas=2"]);
    wait_pods(&cluster, "kubia-0 kubia-1");
    pod_is(&cluster, "kubia-1", "Running", true);
    cluster.kubectl(&["set", "image", "statefulset/kubia", "main=kubia:2"]);
    wait_pods(&cluster, "kubia-0 kubia-1~");
    finish(&cluster, "kubia-1");
    let image = "jsonpath={.spec.containers[0].image}";
    cluster.wait_get(&["pod", "kubia-1", "-o", image], SOON, |image| image == "kubia:2");
    pod_is(&cluster, "kubia-1", "Running", false);
    stays(&cluster, "kubia-0 kubia-1");
    cluster.kubectl(&["rollout", "undo", "statefulset", "kubia"]);
    wait_pods(&cluster, "kubia-0 kubia-1~");
    finish(&cluster, "kubia-1");
    cluster.wait_get(&["pod", "kubia-1", "-o", image], SOON, |image| image == "kubia:1");
    pod_is(&cluster, "kubia-1", "Running", true);
    cluster.kubectl(&["rollout", "status", "statefulset", "kubia", "--timeout=30s"]);
    let history = cluster.kubectl(&["rollout", "history", "statefulset", "kubia"]);
    let numbers: Vec<&str> = history
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .filter(|w| w.parse::<u32>().is_ok())
        .collect();
    assert_eq!(numbers, ["2", "3"], "the old revision came back under a new number: {history}");

    // One that has ended is made anew, and the set's end is the pods' end.
    pod_is(&cluster, "kubia-1", "Failed", false);
    cluster.wait_get(&["pod", "kubia-1", "-o", "jsonpath={.status.phase}"], SOON, |phase| phase == "Pending");
    let events = cluster.kubectl(&["describe", "statefulset", "kubia"]);
    assert!(events.contains("Create Pod kubia-0 in StatefulSet kubia successful"), "{events}");
    assert!(
        events.contains("Create Claim data-kubia-0 Pod kubia-0 in StatefulSet kubia success"),
        "{events}"
    );
    cluster.kubectl(&["delete", "statefulset", "kubia", "--wait=false"]);
    wait_pods(&cluster, "kubia-0~ kubia-1~");
}

#[test]
fn a_pod_without_room_hears_why_and_gets_it_later() {
    let cluster = TestCluster::with(Options::without_pods());
    node(&cluster, "small", "1");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1500m"}}}]}
    });
    cluster.apply(&pod.to_string());
    let sentence = "0/1 nodes are available: 1 Insufficient cpu.";
    let path = r#"jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}"#;
    cluster.wait_get(&["pod", "big", "-o", path], SOON, |message| message == sentence);
    wait_for("the event", SOON, || {
        let seen = cluster.kubectl(&["describe", "pod", "big"]);
        if seen.contains("FailedScheduling") && seen.contains(sentence) { Ok(()) } else { Err(seen) }
    });
    node(&cluster, "large", "2");
    cluster.wait_get(&["pod", "big", "-o", "jsonpath={.spec.nodeName}"], SOON, |on| on == "large");
    wait_for("the event", SOON, || {
        let seen = cluster.kubectl(&["describe", "pod", "big"]);
        let said = seen.contains("Successfully assigned default/big to large");
        if said { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn a_namespace_has_its_defaults_and_goes_in_order() {
    let cluster = TestCluster::with(Options::without_pods());
    node(&cluster, "n1", "2");
    cluster.kubectl(&["create", "namespace", "a"]);
    let account = ["serviceaccount", "default", "-n", "a", "-o", "jsonpath={.metadata.uid}"];
    let first = cluster.wait_get(&account, SOON, |uid| !uid.is_empty());
    cluster.kubectl(&["delete", "serviceaccount", "default", "-n", "a"]);
    cluster.wait_get(&account, SOON, |uid| !uid.is_empty() && uid != first);
    let ca = ["configmap", "kube-root-ca.crt", "-n", "a", "-o", r"jsonpath={.data.ca\.crt}"];
    let right = cluster.wait_get(&ca, SOON, |pem| pem.contains("BEGIN CERTIFICATE"));
    cluster.kubectl(&[
        "patch",
        "configmap",
        "kube-root-ca.crt",
        "-n",
        "a",
        "-p",
        r#"{"data":{"ca.crt":"x"}}"#,
    ]);
    cluster.wait_get(&ca, SOON, |pem| pem == right);

    // A pod that is held keeps everything else, and the namespace says so.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "held", "namespace": "a", "finalizers": ["example.com/hold"]},
        "spec": {"containers": [{"name": "c", "image": "i"}]}
    });
    cluster.apply(&pod.to_string());
    cluster.kubectl(&["create", "configmap", "kept", "-n", "a"]);
    cluster.kubectl(&["delete", "namespace", "a", "--wait=false"]);
    let remaining = r#"jsonpath={.status.conditions[?(@.type=="NamespaceFinalizersRemaining")].message}"#;
    cluster.wait_get(&["namespace", "a", "-o", remaining], SOON, |message| {
        message == "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
    });
    cluster.kubectl(&["get", "configmap", "kept", "-n", "a"]);
    let refused = cluster.try_kubectl(&["create", "configmap", "late", "-n", "a"]).fails();
    assert!(refused.contains("being terminated"), "{refused}");
    cluster.kubectl(&[
        "patch",
        "pod",
        "held",
        "-n",
        "a",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    // The kubelet would have ended it by now.
    let _ = cluster.try_kubectl(&["delete", "pod", "held", "-n", "a", "--grace-period=0", "--force"]);
    wait_for("the namespace to go", SOON, || {
        let seen = cluster.try_kubectl(&["get", "namespace", "a"]);
        if seen.stderr.contains("NotFound") { Ok(()) } else { Err(format!("{seen}\n{}", cluster.log())) }
    });
}
