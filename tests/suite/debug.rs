//! Pods that run are looked at with a container of one's own, and are given more or less to use.

use tests::{TestCluster, Version, busybox, wait_for};

const SLEEP: &str = "sleep 86400";

/// The API of ephemeral containers is as old as kubectl 1.25; `kubectl debug` of 1.20 knows another.
const DEBUGGERS: [Version; 2] = [Version::V1_27, Version::V1_33];

fn debug<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let image = ["--image=minik8s-test/busybox", "--image-pull-policy=IfNotPresent"];
    let mut args = vec!["debug", "-i", "web", "--target=main", "-c", name];
    args.extend(image);
    args.push("--");
    args.extend(more);
    args
}

#[test]
fn a_running_pod_is_debugged() {
    let mut c = TestCluster::start();
    c.apply(&busybox("web", SLEEP));
    c.wait_ready("web");
    for version in DEBUGGERS {
        let name = &format!("debugger-{version:?}").to_lowercase().replace('_', "-");
        // Its first process is the target's.
        let seen =
            c.kubectl_of(version, &debug(name, &["sh"]), b"tr '\\0' ' ' </proc/1/cmdline; echo; exit 3\n");
        assert!(seen.stdout.contains(SLEEP), "{version:?} {seen}");
        let code =
            format!(".status.ephemeralContainerStatuses[?(@.name==\"{name}\")].state.terminated.exitCode");
        c.wait_field("pod/web", &code, |code| code == "3");
        assert!(c.kubectl_of(version, &["logs", "web", "-c", name], b"").ok().contains(SLEEP), "{version:?}");
        // One that is quick: what it wrote is not lost.
        let quick = &format!("{name}-quick");
        let seen = c.kubectl_of(version, &debug(quick, &["echo", "said quickly"]), b"");
        assert!(seen.stdout.contains("said quickly"), "{version:?} {seen}");
    }
    let mut background = debug("stays", &["sleep", "1000"]);
    background.remove(1);
    c.kubectl_of(Version::V1_33, &background, b"").ok();
    let running = ".status.ephemeralContainerStatuses[?(@.name==\"stays\")].state.running.startedAt";
    let since = c.wait_field("pod/web", running, |at| !at.is_empty());
    let id = ".status.ephemeralContainerStatuses[?(@.name==\"stays\")].containerID";
    let before = c.field("pod/web", id);
    assert!(c.kubectl(&["exec", "web", "-c", "stays", "--", "ps"]).contains(SLEEP));
    assert_eq!(c.field("pod/web", ".status.conditions[?(@.type==\"Ready\")].status"), "True");
    assert_eq!(c.field("pod/web", ".status.containerStatuses[0].restartCount"), "0");

    // It lives on without a server, and is known to the next.
    c.kill();
    c.launch();
    assert_eq!(c.wait_field("pod/web", running, |at| !at.is_empty()), since);
    assert_eq!(c.field("pod/web", id), before);
    let patch = r#"{"spec": {"ephemeralContainers": [{"name": "stays", "image": "another"}]}}"#;
    let refused =
        c.try_kubectl(&["patch", "pod", "web", "--subresource=ephemeralcontainers", "-p", patch]).fails();
    assert!(refused.contains("ephemeralcontainers") || refused.contains("may not be changed"), "{refused}");
    c.kubectl(&["delete", "pod", "web"]);
    wait_for("the end of its containers", tests::DEADLINE, || match c.containers() {
        all if all.is_empty() => Ok(()),
        all => Err(format!("{all:?}")),
    });
}

const RESIZED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: minik8s-test/busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'sleep 86400']
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: RestartContainer}]
";

/// What the kernel lets the container use, in both versions of control groups: CPU quota in microseconds, memory in bytes.
const LIMITS: &str = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max; \
                      cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";

fn limits(c: &TestCluster) -> String {
    c.kubectl(&["exec", "web", "--", "sh", "-c", LIMITS])
}

fn resize(c: &TestCluster, resources: &str) -> tests::Output {
    let patch = format!(r#"{{"spec": {{"containers": [{{"name": "main", "resources": {resources}}}]}}}}"#);
    c.kubectl_of(Version::V1_33, &["patch", "pod", "web", "--subresource", "resize", "-p", &patch], b"")
}

/// Waits until the kubelet has done what the newest spec asks for.
fn settled(c: &TestCluster) {
    let generation = c.field("pod/web", ".metadata.generation");
    let all = "{.status.observedGeneration} {.status.conditions[*].type}";
    c.wait_get(&["pod/web", "-o", &format!("jsonpath={all}")], tests::DEADLINE, |seen| {
        seen.starts_with(&format!("{generation} ")) && !seen.contains("PodResize")
    });
}

#[test]
fn a_running_pod_is_resized() {
    let c = TestCluster::start();
    c.apply(RESIZED);
    c.wait_ready("web");
    assert_eq!(limits(&c), "20000\n67108864\n");
    let id = c.field("pod/web", ".status.containerStatuses[0].containerID");

    resize(&c, r#"{"requests": {"cpu": "150m"}, "limits": {"cpu": "400m"}}"#).ok();
    settled(&c);
    assert_eq!(limits(&c), "40000\n67108864\n");
    assert_eq!(c.field("pod/web", ".status.containerStatuses[0].resources.limits.cpu"), "400m");
    assert_eq!(c.field("pod/web", ".status.containerStatuses[0].allocatedResources.cpu"), "150m");
    assert_eq!(c.field("pod/web", ".status.containerStatuses[0].containerID"), id, "in place");

    resize(&c, r#"{"limits": {"memory": "128Mi"}}"#).ok();
    c.wait_field("pod/web", ".status.containerStatuses[0].restartCount", |n| n == "1");
    settled(&c);
    c.wait_ready("web");
    assert_eq!(limits(&c), "40000\n134217728\n");

    resize(&c, r#"{"requests": {"cpu": "900"}, "limits": {"cpu": "900"}}"#).ok();
    let reason = ".status.conditions[?(@.type==\"PodResizePending\")].reason";
    c.wait_field("pod/web", reason, |reason| reason == "Infeasible");
    assert_eq!(limits(&c), "40000\n134217728\n");
    resize(&c, r#"{"requests": {"cpu": "50m"}, "limits": {"cpu": "100m"}}"#).ok();
    settled(&c);
    assert_eq!(limits(&c), "10000\n134217728\n");
    let refused = resize(&c, r#"{"requests": {"cpu": "100m", "memory": "128Mi"}}"#).fails();
    assert!(refused.contains("Pod QOS Class may not change as a result of resizing"), "{refused}");
}
