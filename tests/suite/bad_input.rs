//! What is wrong is refused in Kubernetes' words, and nothing is lost or half-written.

use serde_json::Value;
use std::process::Command;
use tests::{DEADLINE, Options, Output, TestCluster, Version, kubectl};

fn apply(c: &TestCluster, manifest: &str) -> Output {
    c.kubectl_of(Version::V1_33, &["apply", "-f", "-"], manifest.as_bytes())
}

/// A request as it is, past kubectl's own checks: the answer's status and its body.
fn request(url: &str, method: &str, kind: &str, body: &[u8]) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "60", "-w", "\n%{http_code}", "-H", &format!("Content-Type: {kind}")]);
    // No `Expect: 100-continue`: the answer to a body that is too large comes early.
    curl.args(["-H", "Expect:", "-X", method, "--data-binary", "@-", url]);
    let seen = kubectl::run(curl, body, DEADLINE);
    let (body, code) = seen.stdout.rsplit_once('\n').unwrap_or_default();
    (code.parse().unwrap_or_default(), serde_json::from_str(body).unwrap_or_default())
}

fn config_map(name: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"a":"b"}}}}"#)
}

#[test]
fn bad_requests_are_refused_in_kubernetes_words() {
    let c = TestCluster::with(Options::without_pods());
    manifests(&c);
    let (_proxy, url) = c.proxy();
    bodies(&c, &url);
    names(&c, &url);
    unsatisfiable_claim(&c);
    // None of this has left anything behind.
    let left = c.kubectl(&["get", "configmaps,statefulsets,pods", "-o=name"]);
    assert_eq!(left.trim(), "configmap/kube-root-ca.crt");
}

fn manifests(c: &TestCluster) {
    let set = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: s}
spec:
  serviceName: s
  replicaz: 2
  selector: {matchLabels: {app: s}}
  template:
    metadata: {labels: {app: s}}
    spec: {containers: [{name: c, image: i}]}
";
    let said = apply(c, set).fails();
    assert!(said.contains("strict decoding error: unknown field \"spec.replicaz\""), "{said}");

    // Two faults, both told, each with its path.
    let two = set.replace("replicaz: 2", "replicas: -1").replace("labels: {app: s}", "labels: {app: t}");
    let said = apply(c, &two).fails();
    assert!(said.contains("The StatefulSet \"s\" is invalid"), "{said}");
    assert!(
        said.contains("* spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        "{said}"
    );
    assert!(said.contains("* spec.template.metadata.labels: Invalid value:"), "{said}");

    let said = apply(c, &set.replace("replicaz: 2", "replicas: two")).fails();
    assert!(said.contains("replicas") && said.contains("BadRequest"), "{said}");

    for (version, kind) in [("v1", "Konfig"), ("nowhere/v1", "Pod")] {
        let manifest = format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: k}}}}");
        let args = ["apply", "--validate=false", "-f", "-"];
        let said = c.kubectl_of(Version::V1_33, &args, manifest.as_bytes()).fails();
        assert!(said.contains(&format!("no matches for kind \"{kind}\" in version \"{version}\"")), "{said}");
    }
    let said = c.try_kubectl(&["get", "konfigs"]).fails();
    assert!(said.contains("the server doesn't have a resource type \"konfigs\""), "{said}");
    let said = c.try_kubectl(&["get", "configmap", "nobody"]).fails();
    assert_eq!(said.trim(), "Error from server (NotFound): configmaps \"nobody\" not found");
    let said = apply(c, &config_map("Bad_Name")).fails();
    assert!(
        said.contains("metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain"),
        "{said}"
    );
}

fn bodies(c: &TestCluster, url: &str) {
    let maps = format!("{url}/api/v1/namespaces/default/configmaps");
    let json = "application/json";

    let double =
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"d"},"data":{"k":"1","k":"2"}}"#;
    let (code, status) = request(&format!("{maps}?fieldValidation=Strict"), "POST", json, double);
    assert_eq!((code, &status["reason"]), (400, &Value::from("BadRequest")), "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains("strict decoding error: duplicate field \"data.k\""), "{message}");

    for broken in [&b"{"[..], b"", b"[]", b"\xff\xfe", b"{\"metadata\":3}"] {
        let (code, status) = request(&maps, "POST", json, broken);
        assert_eq!(code, 400, "{:?}: {status}", String::from_utf8_lossy(broken));
        assert_eq!(status["kind"], "Status");
    }
    let (code, status) = request(&maps, "POST", "text/plain", config_map("t").as_bytes());
    assert_eq!(code, 415, "{status}");
    let (code, status) = request(&maps, "POST", json, config_map("other").replace("v1", "v9").as_bytes());
    assert_eq!(code, 400, "{status}");

    // Larger than any object may be.
    let mut large = config_map("large").into_bytes();
    large.truncate(large.len() - 3);
    large.resize(8 << 20, b'x');
    large.extend(b"\"}}");
    let (code, status) = request(&maps, "POST", json, &large);
    assert_eq!((code, &status["reason"]), (413, &Value::from("RequestEntityTooLarge")), "{status}");

    let (code, status) = request(&format!("{url}/api/v1/namespaces/default/pods/p/log"), "DELETE", json, b"");
    assert_eq!(code, 405, "{status}");
    let (code, _) = request(&format!("{url}/apis/nowhere/v1/things"), "GET", json, b"");
    assert_eq!(code, 404);
    assert!(c.kubectl(&["get", "--raw", "/readyz"]).contains("ok"));
}

fn names(c: &TestCluster, url: &str) {
    // Neither made nor looked up: what no key may hold never reaches the store.
    for name in ["..", "a/b", "a%00b", "A", "a b", &"x".repeat(254)] {
        let body = config_map(&name.replace("%00", "\\u0000"));
        let maps = format!("{url}/api/v1/namespaces/default/configmaps");
        let (code, status) = request(&maps, "POST", "application/json", body.as_bytes());
        assert_eq!((code, &status["reason"]), (422, &Value::from("Invalid")), "{name}: {status}");
    }
    for path in ["%2e%2e", "a%2Fb", "a%00b"] {
        let one = format!("{url}/api/v1/namespaces/default/configmaps/{path}");
        let (code, status) = request(&one, "GET", "application/json", b"");
        assert!((400..500).contains(&code), "{path}: {code} {status}");
    }
    let said = c.try_kubectl(&["create", "namespace", "a.b"]).fails();
    assert!(said.contains("metadata.name: Invalid value: \"a.b\": must not contain dots"), "{said}");
    let said = c.try_kubectl(&["create", "configmap", "m", "-n", "nowhere"]).fails();
    assert!(said.contains("namespaces \"nowhere\" not found"), "{said}");
}

fn unsatisfiable_claim(c: &TestCluster) {
    c.apply(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: never},
          spec: {storageClassName: nobody, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
    );
    c.wait_get(&["events", "--field-selector=involvedObject.name=never"], DEADLINE, |events| {
        events.contains("ProvisioningFailed") && events.contains("\"nobody\" not found")
    });
    assert_eq!(c.field("pvc/never", ".status.phase"), "Pending");
    let described = c.kubectl(&["describe", "pvc", "never"]);
    assert!(described.contains("ProvisioningFailed"), "{described}");
    c.kubectl(&["delete", "pvc", "never"]);
}

#[test]
fn missing_image_is_told_and_tried_again() {
    let c = TestCluster::start();
    c.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 1, containers: [
          {name: c, image: 'minik8s-test/nobody-has-this:1', imagePullPolicy: Never}]}}",
    );
    let reason = ".status.containerStatuses[0].state.waiting.reason";
    c.wait_field("pod/p", reason, |r| r == "ErrImageNeverPull");

    // A registry that nobody runs on this machine.
    c.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: q}, spec: {terminationGracePeriodSeconds: 1, containers: [
          {name: c, image: 'localhost:1/nobody-has-this:1'}]}}",
    );
    c.wait_get(&["events", "--field-selector=involvedObject.name=q"], DEADLINE, |events| {
        events.contains("ErrImagePull") && events.contains("localhost:1/nobody-has-this:1")
    });
    c.wait_field("pod/q", reason, |r| r == "ImagePullBackOff");
    let described = c.kubectl(&["describe", "pod", "q"]);
    assert!(described.contains("Failed to pull image"), "{described}");
    c.kubectl(&["delete", "pod", "p", "q"]);
}
