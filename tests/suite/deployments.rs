//! Deployments, as people use them: created, scaled, rolled out, undone, paused.

use tests::{DEADLINE, TestCluster};

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: minik8s-test/busybox
        imagePullPolicy: Never
        command: [sh, -c, 'trap exit TERM; sleep 3600 & wait']
        env: [{name: VERSION, value: one}]
";

#[track_caller]
fn rolled_out(c: &TestCluster) {
    let said = c.kubectl(&["rollout", "status", "deployment/web", "--timeout=110s"]);
    assert!(said.contains("successfully rolled out"), "{said}");
}

/// Sizes of the sets that have pods.
fn sets(c: &TestCluster) -> Vec<String> {
    let path = r#"jsonpath={range .items[?(@.spec.replicas>0)]}{.spec.replicas}{"\n"}{end}"#;
    c.kubectl(&["get", "rs", "-l=app=web", "-o", path]).lines().map(str::to_owned).collect()
}

#[test]
fn roll_outs() {
    let c = TestCluster::start();
    c.apply(WEB);
    rolled_out(&c);
    let row = c.kubectl(&["get", "deploy", "web", "--no-headers"]);
    assert_eq!(row.split_whitespace().take(4).collect::<Vec<_>>(), ["web", "2/2", "2", "2"]);
    assert_eq!(c.field("deploy/web", r#".metadata.annotations.deployment\.kubernetes\.io/revision"#), "1");
    assert_eq!(sets(&c), ["2"]);

    // A new template takes the old one's place, and back.
    c.kubectl(&["set", "env", "deployment/web", "VERSION=two"]);
    rolled_out(&c);
    assert_eq!(sets(&c), ["2"]);
    let pods = c.wait_get(&["pods", "-l=app=web", "-o=name"], DEADLINE, |out| out.lines().count() == 2);
    let pod = pods.lines().next().unwrap().to_owned();
    assert_eq!(c.kubectl(&["exec", &pod, "--", "sh", "-c", "echo $VERSION"]).trim(), "two");
    let history = c.kubectl(&["rollout", "history", "deployment/web"]);
    assert_eq!(history.lines().filter(|l| l.starts_with(['1', '2'])).count(), 2, "{history}");
    assert!(c.kubectl(&["rollout", "undo", "deployment/web"]).contains("rolled back"));
    rolled_out(&c);
    assert_eq!(c.field("deploy/web", ".spec.template.spec.containers[0].env[0].value"), "one");
    c.wait_field("deploy/web", r#".metadata.annotations.deployment\.kubernetes\.io/revision"#, |r| r == "3");

    // Paused, it scales but does not roll; one that cannot start stops early.
    c.kubectl(&["rollout", "pause", "deployment/web"]);
    c.kubectl(&["set", "image", "deployment/web", "main=minik8s-test/nowhere"]);
    c.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    rolled_out_paused(&c);
    assert_eq!(sets(&c), ["3"]);
    c.kubectl(&["rollout", "resume", "deployment/web"]);
    c.wait_get(&["rs", "-l=app=web", "-o=jsonpath={.items[*].spec.replicas}"], DEADLINE, |out| {
        out.split_whitespace().filter(|n| *n == "3").count() == 1
            && out.split_whitespace().filter(|n| *n == "1").count() == 1
    });
    assert_eq!(c.field("deploy/web", ".status.availableReplicas"), "3");
    c.kubectl(&["rollout", "undo", "deployment/web"]);
    rolled_out(&c);

    let described = c.kubectl(&["describe", "deployment", "web"]);
    for part in ["3 desired | 3 updated | 3 total | 3 available | 0 unavailable", "ScalingReplicaSet"] {
        assert!(described.contains(part), "{part:?} is not in:\n{described}");
    }
    c.kubectl(&["delete", "deployment", "web"]);
    c.wait_get(&["rs,pods", "-l=app=web", "-o=name"], DEADLINE, str::is_empty);
}

#[track_caller]
fn rolled_out_paused(c: &TestCluster) {
    c.wait_field("deploy/web", ".status.readyReplicas", |n| n == "3");
}
