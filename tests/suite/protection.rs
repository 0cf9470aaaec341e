//! What the API server tells about itself: its audit log and its metrics.

use serde_json::Value;
use tests::{DEADLINE, Options, TestCluster, cluster::binary, kubectl, wait_for};

#[test]
fn the_audit_log_tells_who_did_what() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut options = Options::without_pods();
    options.flags.push(format!("--audit-log={}", path.display()));
    let mut c = TestCluster::with(options);
    c.kubectl(&["create", "configmap", "seen", "--from-literal=a=b"]);
    c.try_kubectl(&["get", "secret", "hidden", "--as=jane"]).fails();
    let (enforce, audit) =
        ("pod-security.kubernetes.io/enforce=baseline", "pod-security.kubernetes.io/audit=restricted");
    c.kubectl(&["label", "namespace", "default", enforce, audit]);
    c.kubectl(&["run", "let-in", "--image=x"]);
    c.try_kubectl(&["run", "kept-out", "--image=x", "--privileged"]).fails();
    c.kubectl(&["create", "deployment", "looked-at", "--image=x"]);
    assert_eq!(c.stop(), Some(0));
    let text = std::fs::read_to_string(&path).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |verb: &str, resource: &str, user: &str| {
        let is = |e: &&Value| {
            e["verb"] == verb && e["objectRef"]["resource"] == resource && e["user"]["username"] == user
        };
        events.iter().find(is).unwrap_or_else(|| panic!("no {verb} of {resource} by {user} in\n{text}"))
    };
    let admin = user_of_kubectl(&events);
    let made = find("create", "configmaps", admin);
    assert_eq!((&made["responseStatus"]["code"], &made["stage"]), (&201.into(), &"ResponseComplete".into()));
    assert!(made["userAgent"].as_str().unwrap().starts_with("kubectl"), "{made}");
    let refused = find("get", "secrets", admin);
    assert_eq!(refused["impersonatedUser"]["username"], "jane");
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    // What Pod Security found, also of what it refused.
    let pod_security = |resource: &str| -> Vec<(u64, String, String)> {
        let is = |e: &&Value| {
            e["verb"] == "create" && e["objectRef"]["resource"] == resource && e["user"]["username"] == admin
        };
        let noted = |e: &Value| {
            let note = |key: &str| e["annotations"][key].as_str().unwrap_or_default().to_owned();
            let code = e["responseStatus"]["code"].as_u64().unwrap();
            let prefix = "pod-security.kubernetes.io/";
            (code, note(&format!("{prefix}enforce-policy")), note(&format!("{prefix}audit-violations")))
        };
        events.iter().filter(is).map(noted).collect()
    };
    let pods = pod_security("pods");
    assert_eq!(pods.iter().map(|p| p.0).collect::<Vec<_>>(), [201, 403], "{pods:?}");
    for (_, enforced, violation) in &pods {
        assert_eq!(enforced, "baseline:latest");
        assert!(violation.starts_with("would violate PodSecurity \"restricted:latest\": "), "{violation}");
    }
    let (_, enforced, violation) = &pod_security("deployments")[0];
    assert!(enforced.is_empty() && violation.contains("runAsNonRoot != true"), "{enforced} {violation}");
    // Those of the server's own components.
    let watches = |stage: &str| events.iter().filter(|e| e["verb"] == "watch" && e["stage"] == stage).count();
    assert!(watches("ResponseStarted") > 0 && watches("ResponseStarted") >= watches("ResponseComplete"));
}

/// The user in kubectl's certificate.
fn user_of_kubectl(events: &[Value]) -> &str {
    let kubectl = |e: &&Value| e["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kubectl"));
    events.iter().find(kubectl).and_then(|e| e["user"]["username"].as_str()).unwrap()
}

#[test]
fn an_audit_log_that_cannot_be_written_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = std::process::Command::new(binary("minik8s"));
    let data = format!("--data-dir={}", dir.path().join("data").display());
    server.args(["server", &data, "--port=0", "--disable=kubelet,dns,proxy", "--datastore=memory"]);
    server.arg("--audit-log=/no/such/directory/audit.log");
    let said = kubectl::run(server, b"", DEADLINE);
    assert_eq!(said.code, Some(2), "{said}");
    assert!(said.stderr.contains("--audit-log /no/such/directory/audit.log: No such file"), "{said}");
}

#[test]
fn metrics_are_for_those_who_may_read_them() {
    let c = TestCluster::with(Options::without_pods());
    c.kubectl(&["create", "configmap", "counted"]);
    let text = c.kubectl(&["get", "--raw", "/metrics"]);
    for start in [
        r#"apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="configmaps""#,
        "apiserver_request_duration_seconds_bucket{",
        "apiserver_storage_flush_duration_seconds_count ",
        "apiserver_storage_size_bytes ",
        r#"apiserver_current_inflight_requests{request_kind="readOnly"} "#,
    ] {
        assert!(text.lines().any(|line| line.starts_with(start)), "{start}\n{text}");
    }
    let refused = c.try_kubectl(&["get", "--raw", "/metrics", "--as=jane"]).fails();
    assert!(refused.contains(r#"User "jane" cannot get path "/metrics""#), "{refused}");
    c.kubectl(&["create", "clusterrolebinding", "see", "--clusterrole=system:monitoring", "--user=jane"]);
    wait_for("jane to see the metrics", DEADLINE, || {
        let seen = c.try_kubectl(&["get", "--raw", "/metrics", "--as=jane"]);
        if seen.success() { Ok(()) } else { Err(seen) }
    });
}
