//! What a namespace may have, and what its pods may be: quotas, limit ranges, Pod Security, as kubectl's users meet them.

use std::time::Duration;
use tests::{
    cluster::{Options, TestCluster},
    wait::{ensure, wait_for},
};

/// A quota's controller counts a moment after something goes.
const SOON: Duration = Duration::from_secs(30);

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  containers: [{name: a, image: i, resources: {requests: {cpu: 400m}}}]
";

fn used(c: &TestCluster, quota: &str, expected: &str) {
    wait_for(&format!("quota {quota} has used {expected}"), SOON, || {
        let seen = c.kubectl(&["get", "quota", quota, "-o", "jsonpath={.status.used}"]);
        ensure(seen == expected, seen)
    });
}

#[test]
fn a_quota_counts_refuses_and_forgets() {
    let c = TestCluster::with(Options::without_pods());
    // Every namespace has one ConfigMap of its own.
    c.kubectl(&[
        "create",
        "quota",
        "q",
        "--hard=pods=2,requests.cpu=1,configmaps=2,count/deployments.apps=1",
    ]);
    used(&c, "q", r#"{"configmaps":"1","count/deployments.apps":"0","pods":"0","requests.cpu":"0"}"#);
    c.apply(&POD.replace("NAME", "one"));
    c.apply(&POD.replace("NAME", "two"));
    let third = c.file("three.yaml", &POD.replace("NAME", "three"));
    let refused = c.try_kubectl(&["apply", "-f", &third]).fails();
    assert!(
        refused.contains(
            "Error from server (Forbidden): error when creating \""
        ) && refused.contains(
            "pods \"three\" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=400m, used: pods=2,requests.cpu=800m, limited: pods=2,requests.cpu=1"
        ),
        "{refused}"
    );
    c.kubectl(&["create", "configmap", "mine"]);
    c.try_kubectl(&["create", "configmap", "more"]).fails();
    c.kubectl(&["create", "deployment", "d", "--image=i", "--replicas=0"]);
    c.try_kubectl(&["create", "deployment", "e", "--image=i"]).fails();
    used(&c, "q", r#"{"configmaps":"2","count/deployments.apps":"1","pods":"2","requests.cpu":"800m"}"#);
    c.kubectl(&["delete", "pod", "one", "--force", "--grace-period=0"]);
    c.kubectl(&["delete", "configmap/mine", "deployment/d"]);
    used(&c, "q", r#"{"configmaps":"1","count/deployments.apps":"0","pods":"1","requests.cpu":"400m"}"#);
    // What a person writes into the status is put back.
    let lie = r#"{"status": {"hard": {"pods": "9"}}}"#;
    c.kubectl(&["patch", "quota", "q", "--subresource=status", "--type=merge", "-p", lie]);
    wait_for("the status says what the spec says", SOON, || {
        let hard = c.kubectl(&["get", "quota", "q", "-o", "jsonpath={.status.hard.pods}"]);
        ensure(hard == "2", hard)
    });
    let described = c.kubectl(&["describe", "quota", "q"]);
    assert!(described.contains("requests.cpu            400m  1"), "{described}");
}

#[test]
fn limits_and_security_of_a_namespace() {
    let c = TestCluster::with(Options::without_pods());
    c.apply("{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: Container, default: {cpu: 500m}, max: {cpu: '1'}}]}}");
    c.kubectl(&["run", "plain", "--image=i"]);
    assert_eq!(c.field("pod/plain", ".spec.containers[0].resources.limits.cpu"), "500m");
    let big =
        r#"{"spec": {"containers": [{"name": "big", "image": "i", "resources": {"limits": {"cpu": "2"}}}]}}"#;
    let refused = c.try_kubectl(&["run", "big", "--image=i", "--overrides", big]).fails();
    assert!(
        refused.contains("pods \"big\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"),
        "{refused}"
    );
    let warned = c.try_kubectl(&["label", "ns", "default", "pod-security.kubernetes.io/enforce=restricted"]);
    assert!(
        warned.stderr.contains("Warning: existing pods in namespace \"default\" violate the new PodSecurity enforce level \"restricted:latest\"")
            && warned.stderr.contains("Warning: plain: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"),
        "{}",
        warned.stderr
    );
    warned.ok();
    let refused = c.try_kubectl(&["run", "other", "--image=i"]).fails();
    assert!(refused.contains("pods \"other\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"other\" must set securityContext.allowPrivilegeEscalation=false)"), "{refused}");
    let warned = c.try_kubectl(&["create", "deployment", "d", "--image=i"]);
    assert!(
        warned.stderr.contains("Warning: would violate PodSecurity \"restricted:latest\""),
        "{}",
        warned.stderr
    );
    warned.ok();
    // Its pods are refused one by one; the ReplicaSet says so.
    wait_for("the ReplicaSet says why it has no pods", SOON, || {
        let path = "jsonpath={.items[*].status.conditions[?(@.type=='ReplicaFailure')].message}";
        let said = c.kubectl(&["get", "rs", "-o", path]);
        ensure(said.contains("violates PodSecurity"), said)
    });
}

/// Each controller asks under a name of its own, and none is refused.
#[test]
fn controllers_may_what_they_do() {
    let c = TestCluster::with(Options::without_pods());
    c.kubectl(&["create", "deployment", "d", "--image=i", "--replicas=2"]);
    c.kubectl(&["expose", "deployment", "d", "--port=80", "--type=LoadBalancer"]);
    c.apply("
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: s}
spec:
  serviceName: s
  replicas: 1
  selector: {matchLabels: {a: s}}
  template:
    metadata: {labels: {a: s}}
    spec: {containers: [{name: a, image: i}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
{apiVersion: v1, kind: ReplicationController, metadata: {name: r}, spec: {replicas: 1, template: {metadata: {labels: {a: r}}, spec: {containers: [{name: a, image: i}]}}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: more, labels: {rbac.authorization.k8s.io/aggregate-to-view: 'true'}}, rules: [{apiGroups: [example.com], resources: [x], verbs: [get]}]}
---
{apiVersion: v1, kind: Namespace, metadata: {name: short}}
");
    c.kubectl(&["create", "quota", "q", "--hard=pods=9", "-n", "short"]);
    c.kubectl(&["create", "configmap", "m", "-n", "short"]);
    let count = |what: &str| c.kubectl(&["get", what, "-o", "name"]).lines().count();
    wait_for("all pods are made", SOON, || {
        let pods = count("pods");
        ensure(pods == 4, format!("{pods} pods"))
    });
    c.wait_field("clusterrole/view", ".rules[*].apiGroups", |groups| groups.contains("example.com"));
    c.kubectl(&["delete", "ns", "short", "--timeout=60s"]);
    c.kubectl(&[
        "delete",
        "deployment/d",
        "service/d",
        "rc/r",
        "sts/s",
        "--cascade=foreground",
        "--timeout=60s",
    ]);
    wait_for("what they owned is gone", SOON, || {
        let left = [count("pods"), count("rs"), count("endpointslices")];
        // Of the API server itself one is left.
        ensure(left[..2] == [0, 0], format!("{left:?}"))
    });
    let log = c.log();
    let refused: Vec<&str> =
        log.lines().filter(|line| line.contains("cannot ") && line.contains("User \"system:")).collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
