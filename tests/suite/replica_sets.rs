//! ReplicaSets and ReplicationControllers: as many pods as wanted, whoever takes or brings some.

use std::collections::BTreeSet;
use tests::{DEADLINE, Options, TestCluster};

/// The two kinds in turn: API version, kind, selector.
const KINDS: [(&str, &str, &str, &str); 2] = [
    ("apps/v1", "ReplicaSet", "rs", "matchLabels: {app: web}"),
    ("v1", "ReplicationController", "rc", "app: web"),
];

fn manifest(version: &str, kind: &str, selector: &str) -> String {
    format!(
        "
apiVersion: {version}
kind: {kind}
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{{selector}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {{name: main, image: 'minik8s-test/busybox', imagePullPolicy: Never, command: [sh, -c, 'trap exit TERM; sleep 3600 & wait']}}
"
    )
}

/// Names of the pods that are not being deleted, once `accept` takes them.
#[track_caller]
fn pods(c: &TestCluster, accept: impl Fn(&BTreeSet<String>) -> bool) -> BTreeSet<String> {
    let names = |out: &str| -> BTreeSet<String> {
        out.lines()
            .filter_map(|l| l.split_once(' '))
            .filter(|(_, gone)| gone.is_empty())
            .map(|(n, _)| n.to_owned())
            .collect()
    };
    let path = r#"jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{"\n"}{end}"#;
    names(&c.wait_get(&["pods", "-l=app=web", "-o", path], DEADLINE, |out| accept(&names(out))))
}

/// The words of the row of `web`, once the column of ready pods says `ready`.
#[track_caller]
fn row(c: &TestCluster, short: &str, ready: &str) -> Vec<String> {
    let words = |out: &str| -> Vec<String> { out.split_whitespace().map(str::to_owned).collect() };
    words(&c.wait_get(&[short, "web", "--no-headers", "-o=wide"], DEADLINE, |out| {
        words(out).get(3).is_some_and(|word| word == ready)
    }))
}

#[test]
fn replicas_are_kept() {
    let c = TestCluster::start();
    for (version, kind, short, selector) in KINDS {
        c.apply(&manifest(version, kind, selector));
        let two = pods(&c, |names| names.len() == 2);
        let seen = row(&c, short, "2");
        assert_eq!(seen[..4], ["web", "2", "2", "2"]);
        assert_eq!(seen[5..], ["main", "minik8s-test/busybox", "app=web"]);
        let object = format!("{short}/web");
        assert_eq!(c.field(&object, ".status.fullyLabeledReplicas"), "2");
        assert_eq!(c.field(&object, ".status.observedGeneration"), "1");

        // More, and a pod in place of a deleted one at once: it is not waited for.
        c.kubectl(&["scale", &object, "--replicas=3"]);
        let three = pods(&c, |names| names.len() == 3 && names.is_superset(&two));
        let lost = three.first().unwrap();
        c.kubectl(&["delete", "pod", lost, "--wait=false"]);
        pods(&c, |names| names.len() == 3 && !names.contains(lost));
        row(&c, short, "3");
        let described = c.kubectl(&["describe", short, "web"]);
        for part in ["3 current / 3 desired", "SuccessfulCreate", "Created pod: web-"] {
            assert!(described.contains(part), "{part:?} is not in:\n{described}");
        }

        // Whoever loses the label is let go and replaced; whoever gets it is one too many.
        let stray = pods(&c, |names| names.len() == 3).pop_first().unwrap();
        c.kubectl(&["label", "pod", &stray, "app=stray", "--overwrite"]);
        pods(&c, |names| names.len() == 3 && !names.contains(&stray));
        let owners = format!("pod/{stray}");
        c.wait_field(&owners, ".metadata.ownerReferences", str::is_empty);
        c.kubectl(&["label", "pod", &stray, "app=web", "--overwrite"]);
        c.wait_field(&object, ".status.replicas", |n| n == "3");
        pods(&c, |names| names.len() == 3);

        // The pods outlive an orphaning deletion, and a new set takes them in and does not make its own.
        let left = pods(&c, |names| names.len() == 3);
        c.kubectl(&["delete", &object, "--cascade=orphan"]);
        assert_eq!(pods(&c, |names| names.len() == 3), left);
        for pod in &left {
            c.wait_field(&format!("pod/{pod}"), ".metadata.ownerReferences", str::is_empty);
        }
        c.apply(&manifest(version, kind, selector).replace("replicas: 2", "replicas: 3"));
        row(&c, short, "3");
        assert_eq!(pods(&c, |names| names.len() == 3), left);
        c.kubectl(&["scale", &object, "--replicas=1", "--current-replicas=3"]);
        pods(&c, |names| names.len() == 1 && names.is_subset(&left));
        c.kubectl(&["delete", &object]);
        pods(&c, BTreeSet::is_empty);
    }
}

/// What cannot be made is said where people look, and asked for again.
#[test]
fn a_refusal_is_a_condition() {
    let c = TestCluster::with(Options::without_pods());
    let refused = manifest("apps/v1", "ReplicaSet", "matchLabels: {app: web}")
        .replace("terminationGracePeriodSeconds: 1", "serviceAccountName: late");
    c.apply(&refused);
    let failed = r#".status.conditions[?(@.type=="ReplicaFailure")].reason"#;
    c.wait_field("rs/web", failed, |reason| reason == "FailedCreate");
    let events = ["events", "--field-selector=reason=FailedCreate", "-o=jsonpath={.items[*].message}"];
    c.wait_get(&events, DEADLINE, |out| out.contains("serviceaccount \"late\" not found"));
    c.kubectl(&["create", "serviceaccount", "late"]);
    pods(&c, |names| names.len() == 2);
    c.wait_field("rs/web", failed, str::is_empty);
}
