//! Admission through the whole path of a write: what is refused leaves no trace, what is let in is counted with it.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

async fn quota(server: &Server, name: &str, hard: Value, used: Value) {
    let made = server.create(QUOTAS, &json!({"metadata": {"name": name}, "spec": {"hard": hard}})).await;
    let mut made = made;
    made["status"] = json!({"hard": hard, "used": used});
    server.put(&format!("{QUOTAS}/{name}/status"), &made).await.expect(200);
}

async fn used(server: &Server, name: &str) -> Value {
    server.get(&format!("{QUOTAS}/{name}")).await.expect(200)["status"]["used"].clone()
}

fn asking(name: &str, cpu: &str) -> Value {
    let container = json!({"name": "a", "image": "i", "resources": {"requests": {"cpu": cpu}}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}})
}

#[tokio::test]
async fn a_quota_is_used_by_what_is_written_and_by_nothing_else() {
    let server = Server::admitting().await;
    let hard = json!({"pods": "2", "requests.cpu": "1", "count/configmaps": "1"});
    quota(&server, "q", hard, json!({"pods": "0", "requests.cpu": "0", "count/configmaps": "0"})).await;
    server.create(PODS, &asking("a", "600m")).await;
    assert_eq!(
        used(&server, "q").await,
        json!({"pods": "1", "requests.cpu": "600m", "count/configmaps": "0"})
    );
    let before = server.app.registry.store().revision();
    server.post(PODS, &asking("b", "500m")).await.refused(
        403,
        "Forbidden",
        r#"pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"#,
    );
    // Of a name that is taken, of a dry run and of a bad object nothing is counted either.
    server.post(PODS, &asking("a", "100m")).await.refused(409, "AlreadyExists", "already exists");
    server.post(&format!("{PODS}?dryRun=All"), &asking("c", "100m")).await.expect(201);
    server.post(&format!("{PODS}?dryRun=All"), &asking("c", "500m")).await.refused(
        403,
        "Forbidden",
        "exceeded",
    );
    server.post(PODS, &asking("C", "100m")).await.refused(422, "Invalid", "RFC 1123");
    assert_eq!(server.app.registry.store().revision(), before);
    // The pod and the count come together.
    let made = server.create(PODS, &asking("c", "400m")).await;
    let quota = server.get(&format!("{QUOTAS}/q")).await.expect(200);
    assert_eq!(quota["status"]["used"]["requests.cpu"], "1");
    assert_eq!(revision(&quota), revision(&made) + 1);
    server.create("/api/v1/namespaces/default/configmaps", &map("m", &json!({}))).await;
    let second = server.post("/api/v1/namespaces/default/configmaps", &map("n", &json!({}))).await;
    second.refused(403, "Forbidden", "exceeded quota: q, requested: count/configmaps=1");
}

#[tokio::test]
async fn the_last_place_goes_to_one() {
    let server = Server::admitting().await;
    quota(&server, "q", json!({"pods": "5"}), json!({"pods": "0"})).await;
    quota(&server, "r", json!({"count/pods": "9"}), json!({"count/pods": "0"})).await;
    let tries = (0..20).map(|i| {
        let server = &server;
        async move { server.post(PODS, &asking(&format!("p{i}"), "1m")).await.code.as_u16() }
    });
    let codes = futures::future::join_all(tries).await;
    let made = codes.iter().filter(|c| **c == 201).count();
    assert_eq!((made, codes.iter().filter(|c| **c == 403).count()), (5, 15), "{codes:?}");
    assert_eq!(used(&server, "q").await, json!({"pods": "5"}));
    assert_eq!(used(&server, "r").await, json!({"count/pods": "5"}));
}

#[tokio::test]
async fn a_service_counts_for_what_it_becomes() {
    let server = Server::admitting().await;
    let hard = json!({"services": "1", "services.nodeports": "1", "services.loadbalancers": "0"});
    let none = json!({"services": "0", "services.nodeports": "0", "services.loadbalancers": "0"});
    quota(&server, "q", hard, none).await;
    let services = "/api/v1/namespaces/default/services";
    let service =
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
    server.create(services, &service).await;
    let path = format!("{services}/s");
    let as_type = |kind: &str| json!({"spec": {"type": kind}});
    server.patch(&path, "merge", &as_type("NodePort")).await.expect(200);
    let all = json!({"services": "1", "services.nodeports": "1", "services.loadbalancers": "0"});
    assert_eq!(used(&server, "q").await, all);
    let refused = server.patch(&path, "merge", &as_type("LoadBalancer")).await;
    refused.refused(403, "Forbidden", "exceeded quota: q, requested: services.loadbalancers=1");
    assert_eq!(used(&server, "q").await, all);
}

#[tokio::test]
async fn limit_ranges_fill_in_and_refuse() {
    let server = Server::admitting().await;
    let item = json!({"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
                      "max": {"cpu": "1"}});
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}});
    let made = server.post("/api/v1/namespaces/default/limitranges", &range).await;
    assert_eq!(made.warnings(), Vec::<String>::new());
    made.expect(201);
    let made = server.create(PODS, &pod("plain")).await;
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources, &json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}}));
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let mut big = pod("big");
    big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    server.post(PODS, &big).await.refused(
        403,
        "Forbidden",
        r#"pods "big" is forbidden: maximum cpu usage per Container is 1, but limit is 2"#,
    );
}

#[tokio::test]
async fn pod_security_refuses_pods_and_warns_of_workloads() {
    let server = Server::admitting().await;
    let mut host = pod("host");
    host["spec"]["hostNetwork"] = json!(true);
    server.create(PODS, &host).await;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let answer = server.patch("/api/v1/namespaces/default", "merge", &labels).await;
    assert_eq!(
        answer.warnings(),
        [
            r#"299 - "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"""#,
            r#"299 - "host: host namespaces""#,
        ]
    );
    answer.expect(200);
    host["metadata"]["name"] = json!("other");
    server.post(PODS, &host).await.refused(
        403,
        "Forbidden",
        r#"pods "other" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#,
    );
    let mut set = stateful_set("web");
    set["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    let made = server.post("/apis/apps/v1/namespaces/default/statefulsets", &set).await;
    let warnings = made.warnings();
    assert!(
        warnings
            .iter()
            .any(|w| w.contains(r#"would violate PodSecurity \"baseline:latest\": host namespaces"#)),
        "{warnings:?}"
    );
    made.expect(201);
    let typo = json!({"metadata": {"labels": {"pod-security.kubernetes.io/warn": "none"}}});
    let refused = server.patch("/api/v1/namespaces/default", "merge", &typo).await;
    refused.refused(422, "Invalid", "must be one of privileged, baseline, restricted");
}

#[tokio::test]
async fn classes_and_taints_are_filled_in() {
    let server = Server::admitting().await;
    let node = server.create("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await;
    assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let class =
        json!({"metadata": {"name": "kata"}, "handler": "h", "overhead": {"podFixed": {"cpu": "50m"}}});
    server.create("/apis/node.k8s.io/v1/runtimeclasses", &class).await;
    let mut kata = pod("kata");
    kata["spec"]["runtimeClassName"] = json!("kata");
    assert_eq!(server.create(PODS, &kata).await["spec"]["overhead"], json!({"cpu": "50m"}));
    kata["spec"]["runtimeClassName"] = json!("none");
    let refused = server.post(&format!("{PODS}?dryRun=All"), &kata).await;
    refused.refused(403, "Forbidden", r#"pod rejected: RuntimeClass "none" not found"#);
}
