//! Binding, scale and eviction.

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
