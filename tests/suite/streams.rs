//! exec, attach, cp, logs and port-forward, with kubectls that speak SPDY and WebSocket.

use std::process::Command;
use tests::{DEADLINE, TestCluster, Version, busybox, kubectl, wait_for};

const PARROT_AND_TALKER: &str = "
# Says something, waits for a line on its standard input, and says it again.
apiVersion: v1
kind: Pod
metadata: {name: parrot}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: minik8s-test/busybox
    imagePullPolicy: IfNotPresent
    stdin: true
    command: [sh, -c, 'while read line; do echo \"heard $line\"; done; sleep 86400']
---
# Fails once, then runs.
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: state, emptyDir: {}}]
  containers:
  - name: main
    image: minik8s-test/busybox
    imagePullPolicy: IfNotPresent
    volumeMounts: [{name: state, mountPath: /state}]
    command:
    - sh
    - -c
    - |
      if [ ! -e /state/ran ]; then touch /state/ran; echo the first life; exit 3; fi
      for n in 1 2 3 4 5; do echo line $n; done
      while [ ! -e /state/more ]; do usleep 50000; done
      echo the last line
      sleep 86400
";

const WEB: &str = "mkdir /www && echo hello > /www/index.html && exec httpd -f -p 8080 -h /www";

fn run(c: &TestCluster, version: Version, args: &[&str], input: &[u8]) -> tests::Output {
    c.kubectl_of(version, args, input)
}

#[test]
fn streams_of_every_kubectl() {
    let c = TestCluster::start();
    c.apply(&format!("{}---{PARROT_AND_TALKER}", busybox("web", WEB)));
    for pod in ["web", "parrot"] {
        c.wait_ready(pod);
    }
    for version in Version::ALL {
        exec(&c, version);
        attach(&c, version);
        run_interactively(&c, version);
        copy(&c, version);
        port_forward(&c, version);
    }
    c.wait_field("pod/talker", ".status.containerStatuses[0].restartCount", |n| n == "1");
    c.wait_ready("talker");
    for version in Version::ALL {
        logs(&c, version);
    }
    followed_log(&c);
}

fn exec(c: &TestCluster, version: Version) {
    let seen = run(c, version, &["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], b"");
    assert_eq!((seen.stdout.as_str(), seen.code), ("out\n", Some(7)), "{version:?} {seen}");
    assert!(seen.stderr.starts_with("err\n"), "{version:?} {seen}");

    let input = "some input of more than a frame\n".repeat(8000);
    let seen = run(c, version, &["exec", "-i", "web", "--", "cat"], input.as_bytes());
    assert!(seen.success() && seen.stdout == input, "{version:?}: {} of {}", seen.stdout.len(), input.len());
    let seen = run(c, version, &["exec", "-i", "web", "--", "wc", "-c"], input.as_bytes());
    assert_eq!(seen.ok().trim(), input.len().to_string(), "{version:?}");

    let seen = run(c, version, &["exec", "web", "--", "no-such-program"], b"");
    assert!(!seen.success() && seen.to_string().contains("executable file not found"), "{version:?} {seen}");
    let seen = run(c, version, &["exec", "web", "-c", "other", "--", "true"], b"").fails();
    assert!(seen.contains("container other is not valid for pod web"), "{seen}");
}

fn attach(c: &TestCluster, version: Version) {
    let mut attached = c.background(version, &["attach", "-i", "parrot"]);
    // The container hears only what is sent once attached; what is sent before waits in the pipe.
    attached.send(&format!("{version:?}\n"));
    attached.wait_output(DEADLINE, |out| out.contains(&format!("heard {version:?}\n")));
}

fn run_interactively(c: &TestCluster, version: Version) {
    let name = format!("once-{version:?}").to_lowercase().replace('_', "-");
    let args = [
        "run",
        &name,
        "-i",
        "--rm",
        "--restart=Never",
        "--image=minik8s-test/busybox",
        "--image-pull-policy=IfNotPresent",
        "--",
        "sh",
        "-c",
        "read x; echo got $x; exit 0",
    ];
    let seen = run(c, version, &args, b"a line\n").ok();
    assert!(seen.contains("got a line"), "{version:?}: {seen}");
    assert!(!run(c, version, &["get", "pod", &name], b"").success(), "{version:?}: --rm removes the pod");
}

fn copy(c: &TestCluster, version: Version) {
    let text = "copied\n".repeat(20_000);
    let local = c.file("sent", &text);
    let back = format!("{local}.back-{version:?}");
    run(c, version, &["cp", &local, "web:/tmp/sent"], b"").ok();
    run(c, version, &["cp", "web:/tmp/sent", &back], b"").ok();
    assert!(std::fs::read_to_string(&back).is_ok_and(|t| t == text), "{version:?}");
}

fn port_forward(c: &TestCluster, version: Version) {
    let mut forward = c.background(version, &["port-forward", "pod/web", ":8080"]);
    let said = forward.wait_output(DEADLINE, |out| out.contains("127.0.0.1:") && out.contains(" -> 8080"));
    let port = said.split("127.0.0.1:").nth(1).and_then(|s| s.split(' ').next()).unwrap_or_default();
    for _ in 0..3 {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", &format!("http://127.0.0.1:{port}/")]);
        assert_eq!(kubectl::run(curl, b"", DEADLINE).ok(), "hello\n", "{version:?}");
    }
}

fn logs(c: &TestCluster, version: Version) {
    let lines = "line 1\nline 2\nline 3\nline 4\nline 5\n";
    wait_for("the container to have said its lines", DEADLINE, || {
        let seen = run(c, version, &["logs", "talker"], b"");
        if seen.stdout == lines { Ok(()) } else { Err(seen) }
    });
    let logs = |args: &[&str]| {
        let mut all = vec!["logs", "talker"];
        all.extend(args);
        run(c, version, &all, b"").ok()
    };
    assert_eq!(logs(&["--tail=2"]), "line 4\nline 5\n", "{version:?}");
    assert_eq!(logs(&["--since=1h"]), lines, "{version:?}");
    assert_eq!(logs(&["--since-time=2199-01-01T00:00:00Z"]), "", "{version:?}");
    assert_eq!(logs(&["-p"]), "the first life\n", "{version:?}");
    let stamped = logs(&["--timestamps", "--tail=1"]);
    let (stamp, rest) = stamped.split_once(' ').unwrap_or_default();
    assert!(stamp.starts_with("20") && stamp.contains('T') && stamp.ends_with('Z'), "{version:?}: {stamped}");
    assert_eq!(rest, "line 5\n", "{version:?}");
}

fn followed_log(c: &TestCluster) {
    let mut followers =
        Version::ALL.map(|version| c.background(version, &["logs", "-f", "--tail=1", "talker"]));
    for follower in &mut followers {
        follower.wait_output(DEADLINE, |out| out == "line 5\n");
    }
    c.kubectl(&["exec", "talker", "--", "touch", "/state/more"]);
    for follower in &mut followers {
        follower.wait_output(DEADLINE, |out| out == "line 5\nthe last line\n");
    }
    // A followed log ends with its container.
    c.kubectl(&["delete", "pod", "talker"]);
    for follower in &mut followers {
        follower.wait_end(DEADLINE);
    }
}
