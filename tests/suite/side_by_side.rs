//! Several clusters on one machine: neither sees, stops or removes what is the other's.

use std::{process::Command, time::Duration};
use tests::{TestCluster, kubectl, wait_for};

const DEADLINE: Duration = Duration::from_secs(60);

const WEB: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: minik8s-test/busybox
    imagePullPolicy: Never
    command: [sh, -c, "mkdir /www && echo PAGE > /www/index.html && exec httpd -f -p 8080 -h /www"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: TYPE, selector: {app: web}, ports: [{port: PORT, targetPort: 8080}]}
"#;

fn web(cluster: &TestCluster, page: &str, type_: &str, port: u16) {
    cluster.apply(&WEB.replace("PAGE", page).replace("TYPE", type_).replace("PORT", &port.to_string()));
    cluster.wait_ready("web");
}

/// Until the address shows the page: the proxy follows the endpoints.
#[track_caller]
fn shows(address: &str, page: &str) {
    wait_for(&format!("{page} at {address}"), DEADLINE, || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "5", &format!("http://{address}/")]);
        let seen = kubectl::run(curl, b"", DEADLINE);
        if seen.stdout.trim() == page { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn two_clusters_do_not_disturb_each_other() {
    let (a, mut b) = (TestCluster::start(), TestCluster::start());
    web(&a, "one", "ClusterIP", 80);
    web(&b, "two", "ClusterIP", 80);
    let (ip_a, ip_b) = (a.field("service/web", ".spec.clusterIP"), b.field("service/web", ".spec.clusterIP"));
    assert_ne!(ip_a, ip_b);
    shows(&ip_a, "one");
    shows(&ip_b, "two");
    let containers = a.containers();
    assert!(containers.len() >= 2 && b.containers().iter().all(|id| !containers.contains(id)));
    let started = || a.field("pod/web", ".status.containerStatuses[0].containerID");
    let before = started();

    // One is killed, started again and removed: the other's pod, address and rules stay as they were.
    b.kill();
    shows(&ip_a, "one");
    b.launch();
    shows(&ip_b, "two");
    b.stop();
    b.reset().ok();
    assert!(b.containers().is_empty());
    shows(&ip_a, "one");
    assert_eq!((a.containers(), started()), (containers, before));
}

#[test]
fn a_load_balancer_has_the_machines_address() {
    let c = TestCluster::start();
    // No port that the machine itself may use.
    let port = 20_080 + c.port() % 100;
    web(&c, "balanced", "LoadBalancer", port);
    let ip = c.wait_field("service/web", ".status.loadBalancer.ingress[0].ip", |ip| !ip.is_empty());
    assert_eq!(
        ip,
        c.field(&format!("node/{}", c.node()), r#".status.addresses[?(@.type=="InternalIP")].address"#)
    );
    shows(&format!("{ip}:{port}"), "balanced");
    let table = c.kubectl(&["get", "service", "web"]);
    assert!(table.contains(&ip) && !table.contains("<pending>"), "{table}");

    c.kubectl(&[
        "expose",
        "pod",
        "web",
        "--name=late",
        "--type=LoadBalancer",
        &format!("--port={port}"),
        "--target-port=8080",
    ]);
    c.wait_get(&["events", "--field-selector=involvedObject.name=late"], DEADLINE, |seen| {
        seen.contains("SyncLoadBalancerFailed") && seen.contains("is taken by service default/web")
    });
    assert_eq!(c.field("service/late", ".status.loadBalancer.ingress"), "");
    c.kubectl(&["delete", "service", "web"]);
    c.wait_field("service/late", ".status.loadBalancer.ingress[0].ip", |seen| seen == ip);
    shows(&format!("{ip}:{port}"), "balanced");
    let ready = r#".status.conditions[?(@.type=="ServiceProxyReady")].status"#;
    c.wait_field(&format!("node/{}", c.node()), ready, |status| status == "True");
}
