//! Starting, idling, and pods on real containers.

use crate::{connection::Target, millis, percentile, reference::docker_run};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use std::time::{Duration, Instant};
use tests::{Options, TestCluster};
use tokio::task::JoinSet;

const IMAGE: &str = "minik8s-test/busybox";
const PODS: &str = "/api/v1/namespaces/default/pods";
const STARTS: usize = 5;
const PAIRS: usize = 10;
const SETTLE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(60);

/// From exec to `/readyz`, as the server itself tells it.
pub(crate) fn ready() {
    for (what, options) in [("control plane", Options::without_pods()), ("with a node", Options::default())] {
        let mut took: Vec<Duration> = (0..STARTS)
            .map(|_| {
                let cluster = TestCluster::with(options.clone());
                let log = cluster.log();
                let text = log.split("is ready in ").nth(1).and_then(|t| t.split(' ').next());
                Duration::from_millis(text.and_then(|t| t.parse().ok()).expect("the ready line"))
            })
            .collect();
        println!(
            "exec to readyz, {what:13}           {:8.0} ms    (budget 150)   worst of {STARTS}: {:.0} ms",
            millis(percentile(&mut took, 0.5)),
            millis(percentile(&mut took, 1.0))
        );
    }
}

/// Memory and CPU of a server with one node that nobody uses.
pub(crate) fn idle() {
    let cluster = TestCluster::start();
    // User and system time, in hundredths of a second.
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.server_pid()));
        let stat = stat.expect("the server lives");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    };
    std::thread::sleep(SETTLE);
    let before = ticks();
    std::thread::sleep(IDLE);
    let share = (ticks() - before) as f64 / IDLE.as_secs_f64();
    println!("idle, one node: resident                {:8.1} MB    (budget 40)", resident(&cluster));
    println!("idle, one node: CPU                     {share:8.2} %     (budget 0.2)");
}

/// What a server holds in memory, in MiB.
pub(crate) fn resident(cluster: &TestCluster) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.server_pid()));
    let status = status.expect("the server lives");
    let line = status.lines().find(|l| l.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).expect("kB") / 1024.0
}

/// The first pod after exec, then pods on a warm server against `docker run` of the same image.
pub(crate) fn pods() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    docker_run(IMAGE, &["httpd", "-f"]);
    let begun = Instant::now();
    let mut cluster = TestCluster::prepared(Options::default());
    cluster.spawn();
    while !cluster.log().contains("is ready") {
        assert!(begun.elapsed() < DEADLINE, "not ready: {}", cluster.log());
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let target = Target::of(&cluster);
    runtime.block_on(async {
        start(&target, "first", "Running").await;
        println!("exec to first pod Running               {:8.0} ms    (budget 1500)", millis(begun.elapsed()));
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for n in 0..PAIRS {
            bare.push(docker_run(IMAGE, &["httpd", "-f"]));
            ours.push(start(&target, &format!("pod-{n}"), "Ready").await);
        }
        let (ours, bare) = (percentile(&mut ours, 0.5), percentile(&mut bare, 0.5));
        println!(
            "pod start, create to Ready seen         {:8.0} ms    (budget docker run + 100) docker run {:.0} ms, so {:+.0} ms",
            millis(ours),
            millis(bare),
            millis(ours) - millis(bare)
        );
    });
}

/// Creates a pod and follows it until it is `Running` or `Ready`; how long that took.
async fn start(target: &Target, name: &str, until: &str) -> Duration {
    let mut wires = JoinSet::new();
    let (mut writer, mut watcher) = (target.connect(&mut wires).await, target.connect(&mut wires).await);
    let path = format!("{PODS}?watch=1&fieldSelector=metadata.name%3D{name}&resourceVersion=0");
    let mut body = watcher.open(Method::GET, &path, Bytes::new()).await.into_body();
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["httpd", "-f"]},
        ]},
    });
    let begun = Instant::now();
    let (status, answer) = writer.call(Method::POST, PODS, pod.to_string().into()).await;
    assert_eq!(status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer));
    let mut rest = Vec::new();
    let followed = async {
        loop {
            let frame = body.frame().await.expect("the watch goes on").expect("the watch goes on");
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let event: serde_json::Value = serde_json::from_slice(&line).expect("an event");
                let status = &event["object"]["status"];
                let ready = status["conditions"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
                if ready || (until == "Running" && status["phase"] == "Running") {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, followed).await.expect("the pod starts");
    begun.elapsed()
}
