//! The server dies, stops and is removed: what has to live on does, and nothing else.

use std::{path::Path, process::Command};
use tests::{DEADLINE, TestCluster, busybox, docker, kubectl, wait_for};

/// A pod that stays as it is.
fn steady(name: &str) -> String {
    busybox(name, "exec sleep 86400")
}

fn config_maps(from: u32, to: u32) -> String {
    (from..to)
        .map(|n| {
            format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{n}}}\ndata: {{n: '{n}'}}\n")
        })
        .collect()
}

/// Ids of the cluster's running containers, in order.
fn running(c: &TestCluster) -> Vec<String> {
    let label = format!("label=minik8s.io/cluster={}", c.cluster_id());
    let mut ids: Vec<_> =
        docker(&["ps", "-q", "--no-trunc", "--filter", &label]).lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

/// The kernel's nftables tables, where there is a tool to see them.
fn nft_tables() -> Option<String> {
    let Some(nft) = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"].iter().find(|p| Path::new(p).exists())
    else {
        eprintln!("not looked at: the service proxy's table (no nft here)");
        return None;
    };
    let mut command = Command::new(nft);
    command.args(["list", "tables"]);
    Some(kubectl::run(command, b"", DEADLINE).ok())
}

#[test]
fn containers_objects_and_watches_outlive_a_kill() {
    let mut c = TestCluster::start();
    c.apply(&steady("steady"));
    c.wait_ready("steady");
    c.apply(&config_maps(0, 10));
    let seen = c.kubectl(&["get", "--raw", "/api/v1/namespaces/default/configmaps?limit=1"]);
    let list: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    c.apply(&config_maps(10, 15));
    c.kubectl(&["delete", "configmap", "c3"]);
    let objects = c.kubectl(&["get", "configmaps,services,serviceaccounts", "-A", "-o", "yaml"]);
    let (id, uid) = (c.field("pod/steady", ".status.containerStatuses[0].containerID"), running(&c));
    assert_eq!(uid.len(), 2, "the container and its sandbox");

    c.kill();
    assert_eq!(running(&c), uid, "containers live on without the server");
    c.launch();

    // The node works again: it starts a pod. By then it has looked at the one it found.
    c.apply(&steady("after"));
    c.wait_ready("after");
    let now = running(&c);
    assert!(uid.iter().all(|id| now.contains(id)), "the same containers: {uid:?}, now {now:?}");
    assert_eq!(c.field("pod/steady", ".status.containerStatuses[0].containerID"), id);
    assert_eq!(c.field("pod/steady", ".status.containerStatuses[0].restartCount"), "0");
    c.wait_ready("steady");
    assert_eq!(c.kubectl(&["exec", "steady", "--", "echo", "alive"]), "alive\n");
    assert_eq!(c.kubectl(&["get", "configmaps,services,serviceaccounts", "-A", "-o", "yaml"]), objects);

    // A watch goes on from before the kill.
    let path =
        format!("/api/v1/namespaces/default/configmaps?watch=1&resourceVersion={revision}&timeoutSeconds=2");
    let events: Vec<_> = c
        .kubectl(&["get", "--raw", &path])
        .lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
            format!("{} {name}", event["type"].as_str().unwrap_or_default())
        })
        .collect();
    let expected = ["ADDED c10", "ADDED c11", "ADDED c12", "ADDED c13", "ADDED c14", "DELETED c3"];
    assert_eq!(events, expected);
}

/// The cluster's pod networks: bridges that carry its id as root, else networks of the Engine's.
fn networks(cluster: &str) -> Vec<String> {
    let label = format!("label=minik8s.io/cluster={cluster}");
    let engines = docker(&["network", "ls", "-q", "--filter", &label]);
    let links = std::fs::read_dir("/sys/class/net").unwrap().map(|link| link.unwrap().path());
    let ours = links.filter(|link| {
        let alias = std::fs::read_to_string(link.join("ifalias")).unwrap_or_default();
        alias.starts_with(&format!("minik8s {cluster} "))
    });
    let ours = ours.map(|link| link.display().to_string());
    engines.lines().map(str::to_owned).chain(ours).collect()
}

#[test]
fn stop_leaves_containers_and_reset_leaves_nothing() {
    let mut c = TestCluster::start();
    c.apply(&steady("steady"));
    c.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {selector: {a: b}, ports: [{port: 80}]}}",
    );
    c.wait_ready("steady");
    let before = running(&c);
    assert_eq!(c.stop(), Some(0), "{}", c.log());
    assert_eq!(running(&c), before, "a stop leaves the containers to the next start");

    let cluster = c.cluster_id();
    let label = format!("label=minik8s.io/cluster={cluster}");
    let table = format!("minik8s-{cluster}");
    if let Some(tables) = nft_tables() {
        assert!(tables.contains(&table), "the service proxy has a table: {tables}");
    }
    assert_eq!(networks(&cluster).len(), 1);

    c.reset().ok();
    wait_for("Docker to forget the containers", DEADLINE, || {
        let left = docker(&["ps", "-aq", "--filter", &label]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(networks(&cluster), Vec::<String>::new());
    assert_eq!(docker(&["volume", "ls", "-q", "--filter", &label]), "");
    if let Some(tables) = nft_tables() {
        assert!(!tables.contains(&table), "{tables}");
    }
    assert!(!c.data_dir().exists());
    c.reset().ok();
}
