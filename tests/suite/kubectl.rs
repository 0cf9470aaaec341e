//! kubectl's verbs, and minik8s-ctl's, on the kinds of the scenario.

use tests::{DEADLINE, Options, TestCluster, Version, wait_for};

/// Never runs here: these servers have no node.
const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, labels: {app: web}}
spec:
  serviceName: web
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: main, image: 'nothing:1', ports: [{containerPort: 80}]}]
";

const MAP: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web}}
data: {colour: blue, size: '3'}
";

/// Columns are aligned differently by every kubectl: only the words count.
#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(words(text).contains(&words(part)), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn verbs() {
    let c = TestCluster::with(Options::without_pods());
    reading(&c);
    writing(&c);
    editing(&c);
    about_the_api(&c);
    watching(&c);
}

fn reading(c: &TestCluster) {
    let file = c.file("set.yaml", SET);
    assert_eq!(c.kubectl(&["create", "-f", &file]), "statefulset.apps/web created\n");
    c.wait_get(&["pods"], DEADLINE, |out| out.contains("web-0"));
    let table = c.kubectl(&["get", "statefulsets"]);
    contains(&table, &["NAME", "READY", "AGE", "web", "0/2"]);
    contains(&c.kubectl(&["get", "sts", "web", "-o", "wide"]), &["CONTAINERS", "IMAGES", "nothing:1"]);
    contains(&c.kubectl(&["get", "pods", "-o", "wide"]), &["NOMINATED NODE", "Pending", "<none>"]);
    contains(&c.kubectl(&["get", "sts", "web", "-o", "yaml"]), &["kind: StatefulSet", "replicas: 2"]);
    assert_eq!(c.field("sts/web", ".spec.replicas"), "2");
    assert_eq!(
        c.kubectl(&["get", "all", "-l", "app=web", "-o", "name"]),
        "pod/web-0\nstatefulset.apps/web\n"
    );
    assert_eq!(c.kubectl(&["get", "pods", "--field-selector=status.phase=Running", "-o=name"]), "");
    let columns = "custom-columns=NAME:.metadata.name,REPLICAS:.spec.replicas";
    contains(&c.kubectl(&["get", "sts", "-o", columns]), &["NAME", "REPLICAS", "web    2"]);
    let chunks = c.kubectl(&["get", "configmaps,services,serviceaccounts", "-A", "--chunk-size=1"]);
    contains(&chunks, &["kube-root-ca.crt", "kube-dns", "default"]);
    let described = c.kubectl(&["describe", "statefulset", "web"]);
    contains(&described, &["Replicas:           2 desired | 1 total", "SuccessfulCreate", "nothing:1"]);
    let pod = c.kubectl(&["describe", "pod", "web-0"]);
    contains(&pod, &["Controlled By:  StatefulSet/web", "Status:           Pending"]);
}

fn writing(c: &TestCluster) {
    let map = c.file("map.yaml", MAP);
    assert_eq!(c.kubectl(&["apply", "-f", &map]), "configmap/settings created\n");
    assert_eq!(c.kubectl(&["apply", "-f", &map]), "configmap/settings unchanged\n");
    let changed = c.file("changed.yaml", &MAP.replace("blue", "red").replace(", size: '3'", ""));
    let difference = c.try_kubectl(&["diff", "-f", &changed]);
    assert_eq!(difference.code, Some(1), "{difference}");
    contains(&difference.stdout, &["-  colour: blue", "+  colour: red", "-  size: \"3\""]);
    assert_eq!(c.kubectl(&["apply", "-f", &changed]), "configmap/settings configured\n");
    assert_eq!(c.field("configmap/settings", ".data"), r#"{"colour":"red"}"#);
    assert_eq!(c.kubectl(&["diff", "-f", &changed]), "");
    assert_eq!(c.kubectl(&["replace", "-f", &map]), "configmap/settings replaced\n");
    assert_eq!(c.field("configmap/settings", ".data.size"), "3");

    // Server-side apply: a field of another manager is not taken without a word.
    let said = c.try_kubectl(&["apply", "--server-side", "--field-manager=other", "-f", &changed]).fails();
    contains(&said, &["conflict", ".data.colour"]);
    let args = ["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", &changed];
    assert_eq!(c.kubectl(&args), "configmap/settings serverside-applied\n");

    // The three types of patch.
    let merge = r#"{"data":{"colour":null,"shape":"round"}}"#;
    c.kubectl(&["patch", "configmap", "settings", "--type=merge", "-p", merge]);
    let json = r#"[{"op":"replace","path":"/data/shape","value":"square"}]"#;
    c.kubectl(&["patch", "configmap", "settings", "--type=json", "-p", json]);
    assert_eq!(c.field("cm/settings", ".data.shape"), "square");
    assert_eq!(c.field("cm/settings", ".data.colour"), "");
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"side:1"}]}}}}"#;
    c.kubectl(&["patch", "sts", "web", "-p", strategic]);
    assert_eq!(c.field("sts/web", ".spec.template.spec.containers[*].name"), "side main");
    let said = c.try_kubectl(&[
        "patch",
        "cm",
        "settings",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/data/x"}]"#,
    ]);
    contains(&said.fails(), &["error"]);

    c.kubectl(&["label", "cm", "settings", "tier=front"]);
    contains(
        &c.kubectl(&["get", "cm", "-l", "tier in (front)", "--show-labels"]),
        &["settings", "tier=front"],
    );
    let said = c.try_kubectl(&["label", "cm", "settings", "tier=back"]).fails();
    contains(&said, &["already has a value (front), and --overwrite is false"]);
    c.kubectl(&["label", "cm", "settings", "tier-"]);
    c.kubectl(&["annotate", "cm", "settings", "note=kept"]);
    assert_eq!(c.field("cm/settings", ".metadata.annotations.note"), "kept");

    assert_eq!(c.kubectl(&["scale", "sts/web", "--replicas=3"]), "statefulset.apps/web scaled\n");
    assert_eq!(c.field("sts/web", ".spec.replicas"), "3");
    let said = c.try_kubectl(&["scale", "sts/web", "--current-replicas=7", "--replicas=1"]).fails();
    contains(&said, &["Expected replicas to be 7, was 3"]);

    c.kubectl(&["create", "configmap", "literal", "--from-literal=k=v"]);
    c.kubectl(&["create", "secret", "generic", "hidden", "--from-literal=k=v"]);
    assert_eq!(c.field("secret/hidden", ".data.k"), "dg==");
    c.kubectl(&["create", "serviceaccount", "robot"]);
    assert!(c.kubectl(&["create", "token", "robot"]).trim().split('.').count() == 3);
    c.kubectl(&["create", "service", "clusterip", "plain", "--tcp=80:8080"]);
    contains(&c.kubectl(&["get", "service", "plain"]), &["ClusterIP", "80/TCP"]);
    let dry =
        c.kubectl(&["create", "configmap", "dry", "--from-literal=k=v", "--dry-run=server", "-o", "yaml"]);
    contains(&dry, &["uid:", "k: v"]);
    c.try_kubectl(&["get", "configmap", "dry"]).fails();
    let said = c.try_kubectl(&["create", "configmap", "literal"]).fails();
    assert_eq!(said.trim(), "error: failed to create configmap: configmaps \"literal\" already exists");
}

/// An editor that does one replacement.
fn editing(c: &TestCluster) {
    let mut edit = c.kubectl_command(Version::V1_33);
    edit.args(["edit", "configmap", "literal"]).env("KUBE_EDITOR", "sed -i 's/k: v/k: edited/'");
    contains(&tests::kubectl::run(edit, b"", DEADLINE).ok(), &["configmap/literal edited"]);
    assert_eq!(c.field("cm/literal", ".data.k"), "edited");
}

fn about_the_api(c: &TestCluster) {
    let resources = c.kubectl(&["api-resources"]);
    for kind in [
        "Namespace",
        "Node",
        "Pod",
        "Service",
        "Endpoints",
        "EndpointSlice",
        "ConfigMap",
        "Secret",
        "ServiceAccount",
        "Event",
        "Lease",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "StorageClass",
        "StatefulSet",
        "ControllerRevision",
    ] {
        assert!(resources.lines().any(|l| l.split_whitespace().last() == Some(kind)), "{kind}:\n{resources}");
    }
    contains(&c.kubectl(&["api-versions"]), &["apps/v1", "storage.k8s.io/v1", "coordination.k8s.io/v1"]);
    let explained = c.kubectl(&["explain", "statefulset.spec.volumeClaimTemplates"]);
    contains(&explained, &["GROUP:      apps", "volumeClaimTemplates <[]PersistentVolumeClaim>", "spec"]);
    contains(&c.kubectl(&["explain", "pod", "--recursive"]), &["KIND:       Pod", "readinessProbe"]);
    contains(&c.kubectl(&["auth", "whoami"]), &["Username", "Groups", "system:masters"]);
    assert_eq!(c.kubectl(&["auth", "can-i", "create", "pods"]), "yes\n");
    contains(&c.kubectl(&["version"]), &["Server Version: v1."]);
    contains(&c.kubectl(&["cluster-info"]), &["is running at"]);
    contains(&c.kubectl(&["get", "--raw", "/readyz?verbose"]), &["[+]", "readyz check passed"]);
    assert_eq!(c.kubectl(&["get", "--raw", "/livez"]), "ok");
}

fn watching(c: &TestCluster) {
    let mut watch = c.background(Version::V1_33, &["get", "configmaps", "-w", "-o", "name"]);
    watch.wait_output(DEADLINE, |out| out.contains("configmap/settings"));
    c.kubectl(&["create", "configmap", "seen"]);
    watch.wait_output(DEADLINE, |out| out.contains("configmap/seen"));
    let mut wait =
        c.background(Version::V1_33, &["wait", "--for=delete", "configmap/seen", "--timeout=100s"]);
    let holds = ["wait", "--for=jsonpath={.data.k}=edited", "configmap/literal", "--timeout=60s"];
    assert_eq!(c.kubectl(&holds), "configmap/literal condition met\n");
    c.kubectl(&["delete", "configmap", "seen"]);
    assert!(wait.wait_end(DEADLINE).success());

    let deleted = c.kubectl(&["delete", "configmap,secret", "literal", "hidden", "--ignore-not-found"]);
    contains(&deleted, &["configmap \"literal\" deleted", "secret \"hidden\" deleted"]);
    c.kubectl(&["delete", "statefulset", "web", "--cascade=orphan"]);
    contains(&c.kubectl(&["get", "pods"]), &["web-0"]);
    c.kubectl(&["delete", "pods", "--all"]);
    assert_eq!(c.kubectl(&["get", "pods", "-o", "name"]), "");
}

#[test]
fn older_kubectls_and_our_own() {
    let c = TestCluster::with(Options::without_pods());
    for version in [Version::V1_20, Version::V1_27] {
        let run = |args: &[&str], input: &str| c.kubectl_of(version, args, input.as_bytes());
        contains(&run(&["apply", "-f", "-"], MAP).ok(), &["configmap/settings created"]);
        contains(&run(&["apply", "-f", "-"], &MAP.replace("blue", "red")).ok(), &["configured"]);
        contains(&run(&["apply", "-f", "-"], SET).ok(), &["statefulset.apps/web created"]);
        contains(&run(&["get", "sts,cm"], "").ok(), &["READY", "statefulset.apps/web", "configmap/settings"]);
        assert_eq!(run(&["get", "cm/settings", "-o", "jsonpath={.data.colour}"], "").ok(), "red");
        contains(&run(&["explain", "statefulset.spec"], "").ok(), &["serviceName", "volumeClaimTemplates"]);
        contains(&run(&["describe", "sts", "web"], "").ok(), &["Name:", "web", "nothing:1"]);
        contains(&run(&["describe", "cm", "settings"], "").ok(), &["colour:", "red"]);
        let said = run(&["apply", "-f", "-"], &MAP.replace("\ndata:", "\ndaten:")).fails();
        contains(&said, &["unknown field", "daten"]);
        contains(
            &run(&["delete", "sts/web", "cm/settings"], "").ok(),
            &["\"web\" deleted", "\"settings\" deleted"],
        );
    }

    let file = c.file("both.yaml", &format!("{SET}---{MAP}"));
    contains(&c.ctl(&["apply", "-f", &file]).ok(), &["statefulset.apps/web", "configmap/settings"]);
    contains(&c.ctl(&["get", "statefulsets"]).ok(), &["READY", "web", "0/2"]);
    contains(&c.ctl(&["get", "cm", "settings", "-o", "yaml"]).ok(), &["colour: blue"]);
    c.ctl(&["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"green"}}"#]).ok();
    assert_eq!(c.field("cm/settings", ".data.colour"), "green");
    c.ctl(&["scale", "sts/web", "--replicas=4"]).ok();
    assert_eq!(c.field("sts/web", ".spec.replicas"), "4");
    contains(&c.ctl(&["describe", "sts", "web"]).ok(), &["web", "nothing:1"]);
    contains(&c.ctl(&["get", "cm", "nobody"]).fails(), &["configmaps \"nobody\" not found"]);
    c.ctl(&["delete", "sts/web", "cm/settings"]).ok();
    wait_for("the objects to go", DEADLINE, || {
        let left = c.kubectl(&["get", "sts,cm", "-o", "name"]);
        if left == "configmap/kube-root-ca.crt\n" { Ok(()) } else { Err(left) }
    });
}
