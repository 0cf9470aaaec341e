//! Binding, scale and eviction; nodes stopped and started.

use super::*;

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = Server::new();
    let made = server.create(PODS, &pod("p")).await;
    let path = format!("{PODS}/p/binding");
    server.post(&path, &json!({"target": {}})).await.refused(422, "Invalid", "target.name: Required value");
    server.post(&path, &json!({"target": {"kind": "Pod", "name": "x"}})).await.refused(
        422,
        "Invalid",
        "target.kind: Unsupported value",
    );
    let wrong = json!({"metadata": {"uid": "other"}, "target": {"name": "n1"}});
    server.post(&path, &wrong).await.refused(409, "Conflict", "UID in precondition");
    let binding = json!({
        "kind": "Binding", "apiVersion": "v1", "target": {"kind": "Node", "name": "n1"},
        "metadata": {"uid": made["metadata"]["uid"], "annotations": {"a": "b"}},
    });
    assert_eq!(server.post(&path, &binding).await.expect(201)["status"], "Success");
    let bound = server.get(&format!("{PODS}/p")).await.json();
    assert_eq!(
        (&bound["spec"]["nodeName"], &bound["metadata"]["annotations"]["a"]),
        (&json!("n1"), &json!("b"))
    );
    let condition = bound["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "PodScheduled")
        .unwrap();
    assert_eq!(condition["status"], "True");
    server.post(&path, &binding).await.refused(409, "Conflict", "pod p is already assigned to node \"n1\"");
    server.post(&format!("{PODS}/q/binding"), &binding).await.refused(
        404,
        "NotFound",
        "pods \"q\" not found",
    );
    // The old resource names the pod in its body.
    server.create(PODS, &pod("q")).await;
    let old = json!({"metadata": {"name": "q"}, "target": {"name": "n2"}});
    server.post("/api/v1/namespaces/default/bindings", &old).await.expect(201);
    assert_eq!(server.get(&format!("{PODS}/q")).await.json()["spec"]["nodeName"], "n2");
}

#[tokio::test]
async fn scale() {
    let server = Server::new();
    let set = server.create(SETS, &stateful_set("s")).await;
    let path = format!("{SETS}/s/scale");
    let scale = server.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=a")));
    assert_eq!(scale["metadata"]["uid"], set["metadata"]["uid"]);

    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = json!(3);
    let scaled = server.put(&path, &wanted).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    let stored = server.get(&format!("{SETS}/s")).await.json();
    assert_eq!((&stored["spec"]["replicas"], &stored["metadata"]["generation"]), (&json!(3), &json!(2)));
    server.put(&path, &wanted).await.refused(409, "Conflict", "modified");
    let blind = json!({"metadata": {"name": "s"}, "spec": {"replicas": 4}});
    assert_eq!(server.put(&path, &blind).await.expect(200)["spec"]["replicas"], 4);
    let patched = server.patch(&path, "merge", &json!({"spec": {"replicas": 1}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 1);
    server.patch(&path, "merge", &json!({"spec": {"replicas": -1}})).await.refused(
        422,
        "Invalid",
        "spec.replicas: Invalid value: -1",
    );
    server.get(&format!("{SETS}/t/scale")).await.refused(
        404,
        "NotFound",
        "statefulsets.apps \"t\" not found",
    );
    server.get(&format!("{PODS}/p/scale")).await.refused(404, "NotFound", "could not find");
}

#[tokio::test]
async fn nodes_are_stopped_and_started_by_those_who_may() {
    let server = Server::new();
    let stop = |node: &str| format!("/api/v1/nodes/{node}/stop");
    let done = server.post(&stop("mine"), &json!({})).await.expect(201);
    assert_eq!((&done["kind"], &done["message"]), (&json!("Status"), &json!("Stop dry=false")));
    let done = server.post(&format!("{}?dryRun=All", stop("mine")), &json!({})).await.expect(201);
    assert_eq!(done["message"], "Stop dry=true");
    assert_eq!(
        server.post("/api/v1/nodes/mine/kill", &json!({})).await.expect(201)["message"],
        "Kill dry=false"
    );
    let again = server.post("/api/v1/nodes/mine/start", &json!({})).await;
    again.refused(409, "Conflict", "Operation cannot be fulfilled on nodes \"mine\": it runs");
    server.post(&stop("none"), &json!({})).await.refused(404, "NotFound", "nodes \"none\" not found");
    server.post(&stop("..%2f"), &json!({})).await.refused(404, "NotFound", "not found");
    // A node that somebody else runs, or nobody.
    server.create("/api/v1/nodes", &json!({"metadata": {"name": "theirs"}})).await;
    let theirs = server.post(&stop("theirs"), &json!({})).await;
    theirs.refused(400, "BadRequest", "it is not a node of this server, which runs mine");
    server.get(&stop("mine")).await.refused(405, "MethodNotAllowed", "does not allow");
    server.post("/api/v1/nodes/mine/explode", &json!({})).await.refused(404, "NotFound", "could not find");

    let jane = Peer::internal(User {
        name: "jane".to_owned(),
        groups: vec!["system:authenticated".to_owned()],
        ..User::default()
    });
    let router = WithPeer::new(crate::router::router(server.app.clone()), jane);
    let request = Request::post(stop("mine")).body(Body::empty()).unwrap();
    let refused = router.oneshot(request).await.unwrap();
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("cannot create resource \\\"nodes/stop\\\" in API group"), "{text}");

    let list = server.get("/api/v1").await.expect(200);
    let names: Vec<_> =
        list["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(["nodes/kill", "nodes/start", "nodes/stop"].iter().all(|n| names.contains(n)), "{names:?}");
}
