//! Several nodes on one machine, and what becomes of pods when one of them fails: cut off, without power, given up, back
//! again. docs/node-failure.md tells the same with the usual periods.

use std::process::Command;
use tests::{DEADLINE, Options, TestCluster, Version, docker, kubectl, wait_for};

/// Short enough for a test, long enough for a busy machine.
const GRACE: &str = "8s";
const TOLERATION: &str = "4";

fn three_nodes() -> TestCluster {
    let flags = [
        "--nodes=3".to_owned(),
        format!("--node-monitor-grace-period={GRACE}"),
        format!("--default-toleration-seconds={TOLERATION}"),
    ];
    let c = TestCluster::with(Options { flags: flags.to_vec(), ..Options::default() });
    for node in names(&c) {
        c.wait_field(&format!("node/{node}"), READY, |s| s == "True");
    }
    c
}

/// `NAME`, `NAME-2`, `NAME-3`
fn names(c: &TestCluster) -> [String; 3] {
    [c.node(), format!("{}-2", c.node()), format!("{}-3", c.node())]
}

const READY: &str = r#".status.conditions[?(@.type=="Ready")].status"#;
const TAINTS: &str = ".spec.taints[*].key";

/// The kubia example, one pod a node.
fn kubia() -> String {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/kubia/kubia.yaml");
    let manifest = std::fs::read_to_string(example).unwrap();
    let grace = "      terminationGracePeriodSeconds: 5\n";
    assert!(manifest.contains(grace));
    let apart = "      affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [
        {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: kubia}}}]}}\n";
    manifest.replace(grace, &format!("{grace}{apart}"))
}

/// `kubectl delete pod --timeout` that a node which does not answer lets run out.
#[track_caller]
fn assert_delete_hangs(c: &TestCluster, pod: &str) {
    let hung = c.try_kubectl(&["delete", "pod", pod, "--timeout=2s"]);
    assert!(hung.stdout.contains(&format!("pod \"{pod}\" deleted")), "{hung}");
    assert!(hung.stderr.contains("timed out waiting for the condition"), "{hung}");
}

/// Running containers with this label.
fn running(label: &str) -> Vec<String> {
    let filter = format!("label={label}");
    docker(&["ps", "-q", "--no-trunc", "--filter", &filter]).lines().map(str::to_owned).collect()
}

fn of_pod(uid: &str) -> Vec<String> {
    running(&format!("io.kubernetes.pod.uid={uid}"))
}

#[track_caller]
fn ctl(c: &TestCluster, verb: &str, node: &str) {
    let said = c.ctl(&["node", verb, node]).ok();
    assert!(said.starts_with(&format!("node/{node} ")), "{said}");
}

/// Addresses that a service leads to.
fn endpoints(c: &TestCluster, service: &str) -> String {
    let slices = format!("-l=kubernetes.io/service-name={service}");
    let ready = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
    c.kubectl(&["get", "endpointslices", &slices, "-o", ready])
}

/// Waits until pod `client` finds these addresses under the name.
#[track_caller]
fn wait_dig(c: &TestCluster, name: &str, addresses: &[&str]) {
    let mut expected = addresses.to_vec();
    expected.sort_unstable();
    wait_for(&format!("{name} to be {expected:?}"), DEADLINE, || {
        let seen = c.try_kubectl(&["exec", "client", "--", "dig", "+short", "+tries=3", name]);
        let mut found: Vec<&str> = seen.stdout.lines().collect();
        found.sort_unstable();
        if seen.success() && found == expected { Ok(()) } else { Err(seen) }
    });
}

/// A pod to ask from.
fn client(image: &str, node: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: {image}, imagePullPolicy: IfNotPresent, command: [sleep, '86400']}}
"
    )
}

struct Placed {
    uid: String,
    node: String,
    ip: String,
}

#[track_caller]
fn placed(c: &TestCluster, pod: &str) -> Placed {
    c.wait_ready(pod);
    let field = |path: &str| c.field(&format!("pod/{pod}"), path);
    Placed { uid: field(".metadata.uid"), node: field(".spec.nodeName"), ip: field(".status.podIP") }
}

/// Waits until the pod of that name is marked for deletion, and says so.
#[track_caller]
fn wait_marked(c: &TestCluster, pod: &str) {
    c.wait_field(&format!("pod/{pod}"), ".metadata.deletionTimestamp", |at| !at.is_empty());
    let row = c.kubectl(&["get", "pod", pod, "--no-headers"]);
    assert!(row.contains(" Terminating "), "{row}");
}

/// The StatefulSet controller has looked again, and has not replaced the pod.
#[track_caller]
fn assert_not_replaced(c: &TestCluster, pod: &str, uid: &str) {
    c.kubectl(&["patch", "statefulset", "kubia", "-p", r#"{"spec":{"minReadySeconds":1}}"#]);
    let generation = c.field("statefulset/kubia", ".metadata.generation");
    c.wait_field("statefulset/kubia", ".status.observedGeneration", |seen| seen == generation);
    assert_eq!(c.field(&format!("pod/{pod}"), ".metadata.uid"), uid, "a pod of a lost node is not replaced");
}

#[test]
fn a_partition() {
    let c = three_nodes();
    let [first, ..] = names(&c);
    // So that both pods are on virtual nodes and the first is free for a replacement.
    c.kubectl(&["cordon", &first]);
    c.apply(&kubia());
    let (zero, one) = (placed(&c, "kubia-0"), placed(&c, "kubia-1"));
    c.kubectl(&["uncordon", &first]);
    assert!(zero.node != one.node && zero.node != first && one.node != first, "{} {}", zero.node, one.node);
    c.apply(&client("minik8s-example/dnsutils", &first));
    c.wait_ready("client");
    wait_dig(&c, "kubia.default.svc.cluster.local", &[&zero.ip, &one.ip]);
    let (_proxy, url) = c.proxy();
    let pod_path = format!("{url}/api/v1/namespaces/default/pods/kubia-0/proxy/");
    assert_eq!(curl(&["-d", "kept over all", &pod_path]).ok().trim(), "Data stored on pod kubia-0");
    let volume = c.field("pvc/data-kubia-0", ".spec.volumeName");

    // The kubelet goes silent; the containers know nothing of it.
    ctl(&c, "stop", &zero.node);
    let again = c.ctl(&["node", "stop", &zero.node]).fails();
    assert!(again.contains("(Conflict)") && again.contains("the node is stopped already"), "{again}");
    let refused = c.try_kubectl(&["logs", "kubia-0"]).fails();
    assert!(refused.contains("kubelet is not running"), "{refused}");

    let node = format!("node/{}", zero.node);
    c.wait_field(&node, READY, |s| s == "Unknown");
    c.wait_field(&node, TAINTS, |t| t.matches("node.kubernetes.io/unreachable").count() == 2);
    let row = c.kubectl(&["get", "node", &zero.node, "--no-headers"]);
    assert!(row.contains(" NotReady "), "{row}");
    let reason = r#".status.conditions[?(@.type=="Ready")].reason"#;
    c.wait_field("pod/kubia-0", reason, |r| r == "NodeLost");
    wait_for("the services to drop the pod", DEADLINE, || {
        let seen = (endpoints(&c, "kubia"), endpoints(&c, "kubia-public"));
        if seen == (one.ip.clone(), one.ip.clone()) { Ok(()) } else { Err(format!("{seen:?}")) }
    });

    wait_dig(&c, "kubia.default.svc.cluster.local", &[&one.ip]);
    wait_dig(&c, "kubia-0.kubia.default.svc.cluster.local", &[]);

    wait_marked(&c, "kubia-0");
    assert_not_replaced(&c, "kubia-0", &zero.uid);
    assert_delete_hangs(&c, "kubia-0");
    assert_eq!(of_pod(&zero.uid).len(), 2, "on the other side of the partition it lives on");

    // A person says that it is dead, or that they do not care.
    c.kubectl(&["delete", "po", "kubia-0", "--force", "--grace-period", "0"]);
    c.wait_field("pod/kubia-0", ".metadata.uid", |uid| !uid.is_empty() && uid != zero.uid);
    let new = placed(&c, "kubia-0");
    assert_eq!(new.node, first, "the only healthy node without one");
    assert_eq!(c.field("pvc/data-kubia-0", ".spec.volumeName"), volume);
    assert_eq!(curl(&[&format!("{pod_path}?local")]).ok().trim(), "kept over all");
    wait_dig(&c, "kubia-0.kubia.default.svc.cluster.local", &[&new.ip]);

    // Two of one name live now, by that person's will; the one on the returning node dies before the node is Ready.
    assert_eq!(of_pod(&zero.uid).len(), 2);
    ctl(&c, "start", &zero.node);
    c.wait_field(&node, READY, |s| s == "True");
    assert_eq!(of_pod(&zero.uid), [""; 0], "dead before the node was Ready");
    c.wait_field(&node, TAINTS, str::is_empty);
    assert_eq!(c.field("pod/kubia-0", ".metadata.uid"), new.uid);
    let again = c.ctl(&["node", "start", &zero.node]).fails();
    assert!(again.contains("the node is running already"), "{again}");

    // Whoever does not force anything gets the replacement when the node is back.
    ctl(&c, "stop", &one.node);
    wait_marked(&c, "kubia-1");
    assert_eq!(of_pod(&one.uid).len(), 2);
    ctl(&c, "start", &one.node);
    c.wait_field(&format!("node/{}", one.node), READY, |s| s == "True");
    assert_eq!(of_pod(&one.uid), [""; 0], "dead before the node was Ready");
    c.wait_field("pod/kubia-1", ".metadata.uid", |uid| !uid.is_empty() && uid != one.uid);
    c.wait_ready("kubia-1");
}

#[test]
fn a_dead_machine() {
    let mut c = three_nodes();
    let [first, ..] = names(&c);
    c.kubectl(&["cordon", &first]);
    c.apply(&kubia());
    let (zero, one) = (placed(&c, "kubia-0"), placed(&c, "kubia-1"));
    c.kubectl(&["uncordon", &first]);
    let node = format!("node/{}", zero.node);
    let of_node = |c: &TestCluster, node: &str| {
        let of_cluster = running(&format!("minik8s.io/cluster={}", c.cluster_id()));
        let of_node = running(&format!("minik8s.io/node={node}"));
        of_node.into_iter().filter(|id| of_cluster.contains(id)).count()
    };

    ctl(&c, "kill", &zero.node);
    assert_eq!(
        (of_node(&c, &zero.node), of_node(&c, &one.node)),
        (0, 2),
        "its containers died, and no others"
    );
    let again = c.ctl(&["node", "kill", &zero.node]).fails();
    assert!(again.contains("the node is dead already"), "{again}");
    wait_marked(&c, "kubia-0");
    assert_not_replaced(&c, "kubia-0", &zero.uid);

    // A restart of the server changes nothing: the machine is still off.
    assert_eq!(c.stop(), Some(0));
    c.launch();
    let again = c.ctl(&["node", "stop", &zero.node]).fails();
    assert!(again.contains("the node is stopped already"), "{again}");
    assert_eq!(c.field(&node, READY), "Unknown");
    assert_eq!(c.field("pod/kubia-0", ".metadata.uid"), zero.uid);
    c.wait_ready("kubia-1");
    assert_eq!(c.field("pod/kubia-1", ".metadata.uid"), one.uid);

    // The person who knows that it is off says so: its pods are released.
    let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    c.kubectl(&["taint", "node", &zero.node, taint]);
    c.wait_field("pod/kubia-0", ".metadata.uid", |uid| !uid.is_empty() && uid != zero.uid);
    assert_eq!(placed(&c, "kubia-0").node, first);

    // Power is back.
    c.kubectl(&["taint", "node", &zero.node, &format!("{taint}-")]);
    ctl(&c, "start", &zero.node);
    c.wait_field(&node, READY, |s| s == "True");
    c.wait_field(&node, TAINTS, str::is_empty);

    // The other machine is gone for good.
    ctl(&c, "kill", &one.node);
    c.wait_field(&format!("node/{}", one.node), READY, |s| s == "Unknown");
    c.kubectl(&["delete", "node", &one.node]);
    c.wait_field("pod/kubia-1", ".metadata.uid", |uid| !uid.is_empty() && uid != one.uid);
    assert_eq!(placed(&c, "kubia-1").node, zero.node);
    let left = c.kubectl(&["get", "nodes", "-o=name"]);
    assert_eq!(left.lines().count(), 2, "{left}");
    // Or was it?
    ctl(&c, "start", &one.node);
    c.wait_field(&format!("node/{}", one.node), READY, |s| s == "True");
    assert_eq!(of_pod(&one.uid), [""; 0]);
}

#[test]
fn when_no_node_is_heard_of_nobody_is_evicted() {
    let c = three_nodes();
    c.apply(POD);
    let steady = placed(&c, "steady");
    for node in names(&c) {
        ctl(&c, "stop", &node);
    }
    for node in names(&c) {
        let node = format!("node/{node}");
        c.wait_field(&node, READY, |s| s == "Unknown");
        c.wait_field(&node, ".spec.taints[*].effect", |e| e == "NoSchedule");
    }
    assert_eq!(c.field("pod/steady", ".metadata.deletionTimestamp"), "");
    // All come back: the pod never noticed.
    for node in names(&c) {
        ctl(&c, "start", &node);
        c.wait_field(&format!("node/{node}"), READY, |s| s == "True");
    }
    c.wait_ready("steady");
    let now = placed(&c, "steady");
    assert_eq!((now.uid, now.ip), (steady.uid, steady.ip));
    assert_eq!(c.field("pod/steady", ".status.containerStatuses[0].restartCount"), "0");
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: minik8s-test/busybox, imagePullPolicy: IfNotPresent, command: [sleep, '86400']}
";

/// A web server with port 8080 of its node, which answers with the node's name.
fn server(name: &str, node: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: minik8s-test/busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'mkdir /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www']
    ports: [{{name: http, containerPort: 8080, hostPort: 8099}}]
"
    )
}

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
";

fn curl(args: &[&str]) -> tests::Output {
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail-with-body", "--max-time", "5"]).args(args);
    kubectl::run(command, b"", DEADLINE)
}

#[track_caller]
fn until_answered(url: &str, accept: impl Fn(&str) -> bool) {
    wait_for(url, DEADLINE, || {
        let seen = curl(&[url]);
        if seen.success() && accept(seen.stdout.trim()) { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn each_virtual_node_is_a_node() {
    let c = three_nodes();
    let nodes = names(&c);
    let field = |node: &String, path: &str| c.field(&format!("node/{node}"), path);
    let mut seen: Vec<String> = Vec::new();
    for node in &nodes {
        assert_eq!(field(node, r".metadata.labels.kubernetes\.io/hostname"), *node);
        assert_eq!(field(node, ".status.allocatable.pods"), "40");
        for path in [r#".status.addresses[?(@.type=="InternalIP")].address"#, ".spec.podCIDR"] {
            let value = field(node, path);
            assert!(!value.starts_with("127.") && !seen.contains(&value), "{node} {path} {value}");
            seen.push(value);
        }
        let lease = ["get", "lease", "-n=kube-node-lease", node, "-o=jsonpath={.spec.holderIdentity}"];
        assert_eq!(c.kubectl(&lease), *node);
        c.kubectl(&["get", "endpointslice", "-n=kube-system", &format!("kube-dns-{node}")]);
    }
    // Somebody cleans up: every node has an endpoint of its cluster DNS again.
    c.kubectl(&["delete", "endpointslice", "-n=kube-system", "--all"]);
    for node in &nodes {
        let slice = ["endpointslice", "-n=kube-system", "-o=name", &format!("kube-dns-{node}")];
        c.wait_get(&slice, DEADLINE, |seen| !seen.is_empty());
    }

    c.apply(&format!("{SERVICE}{}{}", server("web-a", &nodes[0]), server("web-b", &nodes[1])));
    let (a, b) = (placed(&c, "web-a"), placed(&c, "web-b"));
    // From a third node: pods by address, and the service by its name.
    c.apply(&client("minik8s-test/node", &nodes[2]));
    c.wait_ready("client");
    let look = "require('http').get(process.argv[1], r => r.pipe(process.stdout)).on('error', e => console.log(e.message))";
    let get = |url: &str| c.try_kubectl(&["exec", "client", "--", "node", "-e", look, url]);
    let service = "http://web/".to_owned();
    let urls = [format!("http://{}:8080/", a.ip), format!("http://{}:8080/", b.ip)];
    for (url, name) in [(&urls[0], "web-a"), (&urls[1], "web-b")].into_iter().chain(
        // By chance it leads to one or the other.
        ["web-a", "web-b"].map(|name| (&service, name)),
    ) {
        wait_for(&format!("{name} to answer {url}"), DEADLINE, || {
            let seen = get(url);
            if seen.stdout.trim() == name { Ok(()) } else { Err(seen) }
        });
    }
    let port = c.field("service/web", ".spec.ports[0].nodePort");
    for node in &nodes {
        let ip = field(node, r#".status.addresses[?(@.type=="InternalIP")].address"#);
        until_answered(&format!("http://{ip}:{port}/"), |seen| seen.starts_with("web-"));
    }
    // The same port of two nodes leads to two pods, and to nobody on the third.
    let ip = |n: usize| field(&nodes[n], r#".status.addresses[?(@.type=="InternalIP")].address"#);
    until_answered(&format!("http://{}:8099/", ip(0)), |seen| seen == "web-a");
    until_answered(&format!("http://{}:8099/", ip(1)), |seen| seen == "web-b");
    assert!(!curl(&[&format!("http://{}:8099/", ip(2))]).success());

    each_node_has_its_own_endpoints(&c, &nodes, &port);
    a_host_port_is_free_once_a_node(&c);
    // Without being told where to go they spread.
    c.apply(&format!("{}{}{}", spread("s1"), spread("s2"), spread("s3")));
    let mut on: Vec<_> = ["s1", "s2", "s3"].map(|pod| placed(&c, pod).node).to_vec();
    on.sort();
    on.dedup();
    assert_eq!(on.len(), 3, "{on:?}");
}

/// Services whose traffic is `Local` lead to the pods of one node; the third has none.
#[track_caller]
fn each_node_has_its_own_endpoints(c: &TestCluster, nodes: &[String; 3], port: &str) {
    let local = r#"{"spec":{"externalTrafficPolicy":"Local","internalTrafficPolicy":"Local"}}"#;
    c.kubectl(&["patch", "service", "web", "-p", local]);
    let ip = |n: usize| {
        c.field(&format!("node/{}", nodes[n]), r#".status.addresses[?(@.type=="InternalIP")].address"#)
    };
    // From outside of a node: to the machine, which is the first node, the others are other nodes.
    wait_for("nobody to answer on the third node", DEADLINE, || {
        let seen = curl(&["--max-time", "1", &format!("http://{}:{port}/", ip(2))]);
        if seen.success() { Err(seen) } else { Ok(()) }
    });
    for _ in 0..8 {
        assert_eq!(curl(&[&format!("http://{}:{port}/", ip(1))]).ok().trim(), "web-b");
    }
    until_answered(&format!("http://{}:{port}/", ip(0)), |seen| seen == "web-b");
    until_answered(&format!("http://{}:{port}/", ip(0)), |seen| seen == "web-a");
    // Inside: pods on a node with an endpoint reach that one, by the service's name, and the others none.
    let near = client("minik8s-test/node", &nodes[1]).replace("name: client", "name: near");
    c.apply(&near);
    c.wait_ready("near");
    let look = "require('http').get('http://web/', {timeout: 1000}, r => r.pipe(process.stdout))
        .on('timeout', () => { console.log('silence'); process.exit() }).on('error', e => console.log(e.message))";
    for _ in 0..5 {
        assert_eq!(c.kubectl(&["exec", "near", "--", "node", "-e", look]).trim(), "web-b");
        assert_eq!(c.kubectl(&["exec", "client", "--", "node", "-e", look]).trim(), "silence");
    }
}

/// Pods that want the same port go to as many nodes as there are, and the rest wait.
#[track_caller]
fn a_host_port_is_free_once_a_node(c: &TestCluster) {
    c.apply(
        "
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: greedy}
spec:
  replicas: 4
  selector: {matchLabels: {app: greedy}}
  template:
    metadata: {labels: {app: greedy}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: minik8s-test/busybox
        imagePullPolicy: IfNotPresent
        command: [sleep, '86400']
        ports: [{containerPort: 8080, hostPort: 8098}]
",
    );
    let ready = ["replicaset/greedy", "-o=jsonpath={.status.readyReplicas}"];
    c.wait_get(&ready, DEADLINE, |n| n == "3");
    let nodes = c.kubectl(&["get", "pods", "-l=app=greedy", "-o=jsonpath={.items[*].spec.nodeName}"]);
    let mut nodes: Vec<&str> = nodes.split(' ').collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    let events = ["events", "--field-selector=reason=FailedScheduling", "-o=jsonpath={.items[*].message}"];
    c.wait_get(&events, DEADLINE, |said| said.contains("3 node(s) didn't have free ports"));
    c.kubectl(&["delete", "replicaset", "greedy"]);
}

fn spread(name: &str) -> String {
    let labels = format!("name: {name}, labels: {{group: spread}}");
    let affinity = "spec:
  affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, podAffinityTerm: {
    topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {group: spread}}}}]}}";
    format!("---{}", POD.replace("name: steady", &labels).replace("spec:", affinity))
}

#[test]
fn what_cannot_be_stopped() {
    let c = TestCluster::with(Options::without_pods());
    c.apply("{apiVersion: v1, kind: Node, metadata: {name: by-hand}}");
    let unknown = c.ctl(&["node", "stop", "nowhere"]).fails();
    assert!(unknown.contains("(NotFound)") && unknown.contains("nodes \"nowhere\" not found"), "{unknown}");
    for (args, why) in [
        (&["node", "stop", ""][..], "a value is required for '<NAME>'"),
        (&["node", "stop"], "required arguments were not provided"),
        (&["node", "fly", "mars"], "unrecognized subcommand 'fly'"),
        (&["node", "stop", "a", "b"], "unexpected argument 'b'"),
    ] {
        let said = c.ctl(args).fails();
        assert!(said.contains(why), "{args:?}: {said}");
    }
    let foreign = c.ctl(&["node", "kill", "by-hand"]).fails();
    assert!(foreign.contains("not a node of this server, which runs none"), "{foreign}");
    // As any other client does it.
    let raw = c.try_kubectl(&["create", "--raw", "/api/v1/nodes/nowhere/start", "-f", "/dev/null"]).fails();
    assert!(raw.contains("not found"), "{raw}");
    let listed = c.ctl(&["node", "list"]).ok();
    assert!(listed.contains("by-hand"), "{listed}");
    for version in Version::ALL {
        let nodes = c.kubectl_of(version, &["get", "nodes", "-o=name"], b"").ok();
        assert_eq!(nodes.trim(), "node/by-hand", "discovery is as clients know it");
    }
}
