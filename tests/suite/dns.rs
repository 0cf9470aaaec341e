//! Names as programs in pods see them: by dig, glibc, busybox and Node.js.

use std::process::Command;
use tests::{DEADLINE, Output, TestCluster, Version, wait_for};

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: foo}
spec:
  clusterIP: None
  selector: {app: a}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec:
  selector: {app: a}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: a}
spec:
  serviceName: foo
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: minik8s-test/busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'mkdir /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www']
        ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: dnsutils, image: minik8s-example/dnsutils, imagePullPolicy: IfNotPresent, command: [sleep, '86400']}
";

const NODE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: nodejs}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: node, image: minik8s-test/node, imagePullPolicy: IfNotPresent, command: [sleep, '86400']}
";

struct Client<'a>(&'a TestCluster);

impl Client<'_> {
    fn run(&self, command: &[&str]) -> Output {
        let mut args = vec!["exec", "client", "--"];
        args.extend(command);
        self.0.try_kubectl(&args)
    }

    /// The answers of `dig +short`, sorted.
    #[track_caller]
    fn dig(&self, args: &[&str]) -> Vec<String> {
        let mut command = vec!["dig", "+short", "+tries=3"];
        command.extend(args);
        let mut lines: Vec<_> = self.run(&command).ok().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

#[test]
fn pods_find_one_another_by_name() {
    let c = TestCluster::start();
    c.apply(MANIFEST);
    for pod in ["client", "a-0", "a-1"] {
        c.wait_ready(pod);
    }
    let client = Client(&c);
    let address = |pod: &str| c.field(&format!("pod/{pod}"), ".status.podIP");
    let (first, second) = (address("a-0"), address("a-1"));
    let mut both = vec![first.clone(), second];
    both.sort();

    wait_for("both pods in the headless service", DEADLINE, || {
        let seen = client.dig(&["A", "foo.default.svc.cluster.local"]);
        if seen == both { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let srv =
        ["0 50 8080 a-0.foo.default.svc.cluster.local.", "0 50 8080 a-1.foo.default.svc.cluster.local."];
    assert_eq!(client.dig(&["SRV", "foo.default.svc.cluster.local"]), srv);
    assert_eq!(client.dig(&["SRV", "_http._tcp.foo.default.svc.cluster.local"]), srv);
    assert_eq!(client.dig(&["+tcp", "SRV", "foo.default.svc.cluster.local"]), srv);
    assert_eq!(client.dig(&["a-0.foo.default.svc.cluster.local"]), [first.as_str()]);
    assert_eq!(client.dig(&["+tcp", "a-0.foo.default.svc.cluster.local"]), [first.as_str()]);
    assert_eq!(client.dig(&["-x", &first]), ["a-0.foo.default.svc.cluster.local."]);
    let ip = c.field("service/front", ".spec.clusterIP");
    assert_eq!(client.dig(&["front.default.svc.cluster.local"]), [ip.as_str()]);
    let api = c.field("service/kubernetes", ".spec.clusterIP");
    assert_eq!(client.dig(&["kubernetes.default.svc.cluster.local"]), [api.as_str()]);

    // With the addresses as additionals, and errors with the zone's SOA.
    let full = client.run(&["dig", "SRV", "foo.default.svc.cluster.local"]).ok();
    assert!(full.contains("ADDITIONAL SECTION") && full.contains(&first), "{full}");
    let none = client.run(&["dig", "nobody.default.svc.cluster.local"]).ok();
    assert!(none.contains("status: NXDOMAIN") && none.contains("SOA"), "{none}");
    let nodata = client.run(&["dig", "TXT", "foo.default.svc.cluster.local"]).ok();
    assert!(nodata.contains("status: NOERROR") && nodata.contains("SOA"), "{nodata}");

    // Through the search path: dig, glibc, busybox.
    assert_eq!(client.dig(&["+search", "a-0.foo"]), [first.as_str()]);
    for name in ["a-0.foo", "a-0.foo.default", "a-0.foo.default.svc"] {
        let seen = client.run(&["getent", "ahostsv4", name]).ok();
        assert!(seen.starts_with(&first), "{name}: {seen}");
    }
    assert_eq!(client.run(&["getent", "ahostsv4", "nobody"]).code, Some(2), "getent says not found");
    let seen = c.kubectl(&["exec", "a-1", "--", "wget", "-q", "-O", "-", "http://a-0.foo:8080/"]);
    assert_eq!(seen, "a-0\n");

    // Through the service's address, which the service proxy turns into a pod's.
    wait_for("an answer through the service", DEADLINE, || {
        let seen = c.try_kubectl(&["exec", "a-1", "--", "wget", "-q", "-O", "-", "http://front/"]);
        if seen.stdout.starts_with("a-") { Ok(()) } else { Err(seen) }
    });

    node_js(&c, &first);
    one_off_pod(&c);
}

fn node_js(c: &TestCluster, first: &str) {
    let image = Command::new("docker").args(["image", "inspect", "minik8s-test/node"]).output().unwrap();
    if !image.status.success() {
        eprintln!("not looked at: Node.js (tests/images.sh found none here)");
        return;
    }
    c.apply(NODE);
    c.wait_ready("nodejs");
    let script = "
        const dns = require('dns').promises;
        (async () => {
            const srv = await dns.resolveSrv('foo.default.svc.cluster.local');
            console.log(srv.map(r => `${r.name}:${r.port}`).sort().join(' '));
            console.log((await dns.lookup('a-0.foo', {family: 4})).address);
            await dns.resolveSrv('nobody.default.svc.cluster.local').catch(e => console.log(e.code));
        })();";
    let seen = c.kubectl(&["exec", "nodejs", "--", "node", "-e", script]);
    let expected = format!(
        "a-0.foo.default.svc.cluster.local:8080 a-1.foo.default.svc.cluster.local:8080\n{first}\nENOTFOUND\n"
    );
    assert_eq!(seen, expected);
}

/// The look-up of the notes on StatefulSets. It waits for a line, so that it is attached to before it is done.
fn one_off_pod(c: &TestCluster) {
    let look_up = "read go && dig SRV foo.default.svc.cluster.local";
    let image = "--image=minik8s-example/dnsutils";
    let mut args = vec!["run", "srvlookup", "-i", image, "--image-pull-policy=IfNotPresent", "--rm"];
    args.extend(["--restart=Never", "--", "sh", "-c", look_up]);
    let seen = c.kubectl_of(Version::V1_33, &args, b"go\n").ok();
    assert!(seen.contains("ANSWER SECTION") && seen.contains("a-1.foo.default.svc.cluster.local"), "{seen}");
    let gone = c.try_kubectl(&["get", "pod", "srvlookup"]).fails();
    assert!(gone.contains("not found"), "{gone}");
}
