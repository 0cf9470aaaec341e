//! Delete: at once, graceful, held back, and in numbers.

use super::*;

async fn stored(server: &Server, path: &str) -> Option<Value> {
    let answer = server.get(path).await;
    (answer.code == 200).then(|| answer.json())
}

#[tokio::test]
async fn a_plain_object_goes_at_once() {
    let server = Server::new();
    let object = server.create(MAPS, &map("a", &json!({}))).await;
    let path = format!("{MAPS}/a");
    let status = server.delete(&path, &Value::Null).await.expect(200);
    let details = json!({"name": "a", "kind": "configmaps", "uid": object["metadata"]["uid"]});
    assert_eq!(
        (&status["kind"], &status["status"], &status["details"]),
        (&json!("Status"), &json!("Success"), &details)
    );
    server.delete(&path, &Value::Null).await.refused(404, "NotFound", "configmaps \"a\" not found");
}

#[tokio::test]
async fn preconditions() {
    let server = Server::new();
    let object = server.create(MAPS, &map("a", &json!({}))).await;
    let path = format!("{MAPS}/a");
    let wrong = json!({"preconditions": {"uid": "other"}});
    server.delete(&path, &wrong).await.refused(
        409,
        "Conflict",
        "the UID in the precondition (other) does not match",
    );
    let wrong = json!({"preconditions": {"resourceVersion": "1000"}});
    server.delete(&path, &wrong).await.refused(
        409,
        "Conflict",
        "the ResourceVersion in the precondition (1000)",
    );
    let meta = &object["metadata"];
    let right = json!({"preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}});
    server.delete(&path, &right).await.expect(200);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = Server::new();
    let mut object = map("a", &json!({}));
    object["metadata"]["finalizers"] = json!(["x.io/a", "x.io/b"]);
    server.create(MAPS, &object).await;
    let path = format!("{MAPS}/a");
    let marked = server.delete(&path, &Value::Null).await.expect(200);
    assert_eq!(
        (&marked["kind"], &marked["metadata"]["deletionGracePeriodSeconds"]),
        (&json!("ConfigMap"), &json!(0))
    );
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    // A second delete changes nothing.
    assert_eq!(server.delete(&path, &Value::Null).await.expect(200), marked);

    let more = json!({"metadata": {"finalizers": ["x.io/a", "x.io/c"]}});
    server.patch(&path, "merge", &more).await.refused(422, "Invalid", "no new finalizers can be added");
    let less = json!({"metadata": {"finalizers": ["x.io/a"], "deletionTimestamp": null}});
    let one_left = server.patch(&path, "merge", &less).await.expect(200);
    assert_eq!(one_left["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
    let last = server.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert!(revision(&last) > revision(&one_left));
    assert!(stored(&server, &path).await.is_none());
}

/// (body, query, finalizers before) → finalizers after; none: it is gone
#[tokio::test]
async fn what_becomes_of_dependents_is_told_by_finalizers() {
    let server = Server::new();
    for (body, query, before, after) in [
        (json!({"propagationPolicy": "Foreground"}), "", json!([]), Some(json!(["foregroundDeletion"]))),
        (json!({"propagationPolicy": "Orphan"}), "", json!([]), Some(json!(["orphan"]))),
        (json!({"propagationPolicy": "Background"}), "", json!([]), None),
        (json!({"orphanDependents": true}), "", json!([]), Some(json!(["orphan"]))),
        (Value::Null, "?propagationPolicy=Foreground", json!([]), Some(json!(["foregroundDeletion"]))),
        (Value::Null, "", json!(["orphan"]), Some(json!(["orphan"]))),
        (json!({"propagationPolicy": "Background"}), "", json!(["orphan"]), None),
        (
            json!({"propagationPolicy": "Orphan"}),
            "",
            json!(["foregroundDeletion", "x.io/a"]),
            Some(json!(["x.io/a", "orphan"])),
        ),
    ] {
        let mut object = map("a", &json!({}));
        object["metadata"]["finalizers"] = before;
        server.create(MAPS, &object).await;
        let path = format!("{MAPS}/a");
        server.delete(&format!("{path}{query}"), &body).await.expect(200);
        let left = stored(&server, &path).await.map(|o| o["metadata"]["finalizers"].clone());
        assert_eq!(left, after, "{body} {query}");
        if left.is_some() {
            server.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await.expect(200);
        }
    }
    server.create(MAPS, &map("b", &json!({}))).await;
    server.delete(&format!("{MAPS}/b"), &json!({"propagationPolicy": "Whim"})).await.refused(
        422,
        "Invalid",
        "propagationPolicy",
    );
}

async fn bound_pod(server: &Server, name: &str) -> String {
    server.create(PODS, &pod(name)).await;
    let path = format!("{PODS}/{name}");
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    server.post(&format!("{path}/binding"), &binding).await.expect(201);
    path
}

#[tokio::test]
async fn a_pod_on_a_node_is_marked_and_goes_with_grace_zero() {
    let server = Server::new();
    let path = bound_pod(&server, "a").await;
    let marked = server.delete(&path, &Value::Null).await.expect(200);
    let meta = &marked["metadata"];
    assert_eq!((&marked["kind"], &meta["deletionGracePeriodSeconds"]), (&json!("Pod"), &json!(30)));
    assert_eq!(meta["generation"], 2);
    // Longer does nothing, shorter shortens.
    let longer = server.delete(&path, &json!({"gracePeriodSeconds": 60})).await.expect(200);
    assert_eq!(longer, marked);
    let shorter = server.delete(&path, &json!({"gracePeriodSeconds": 10})).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 10);
    let time =
        |o: &Value| o["metadata"]["deletionTimestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(time(&marked).as_second() - time(&shorter).as_second(), 20);
    assert_eq!(shorter["metadata"]["generation"], 2);
    let uid = &meta["uid"];
    let body = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    assert_eq!(server.delete(&path, &body).await.expect(200)["kind"], "Pod");
    assert!(stored(&server, &path).await.is_none());
}

#[tokio::test]
async fn pods_that_need_no_farewell_go_at_once() {
    let server = Server::new();
    server.create(PODS, &pod("unscheduled")).await;
    let last = server.delete(&format!("{PODS}/unscheduled"), &Value::Null).await.expect(200);
    assert_eq!((&last["kind"], &last["metadata"]["deletionGracePeriodSeconds"]), (&json!("Pod"), &json!(0)));
    assert!(last["metadata"]["deletionTimestamp"].is_string());
    assert!(stored(&server, &format!("{PODS}/unscheduled")).await.is_none());
    let forced = bound_pod(&server, "forced").await;
    server.delete(&format!("{forced}?gracePeriodSeconds=0"), &Value::Null).await.expect(200);
    assert!(stored(&server, &forced).await.is_none());
}

#[tokio::test]
async fn a_namespace_goes_when_its_own_finalizers_are_gone() {
    let server = Server::new();
    let made = server.create("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    assert_eq!(
        (&made["spec"]["finalizers"], &made["status"]["phase"]),
        (&json!(["kubernetes"]), &json!("Active"))
    );
    let path = "/api/v1/namespaces/n";
    let marked = server.delete(path, &Value::Null).await.expect(200);
    assert_eq!((&marked["kind"], &marked["status"]["phase"]), (&json!("Namespace"), &json!("Terminating")));
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    server.delete(path, &Value::Null).await.expect(200);
    // Only /finalize takes them away.
    server.patch(path, "merge", &json!({"spec": {"finalizers": []}})).await.expect(200);
    assert_eq!(stored(&server, path).await.unwrap()["spec"]["finalizers"], json!(["kubernetes"]));
    let mut empty = marked.clone();
    empty["metadata"]["resourceVersion"] = json!("1");
    empty["spec"] = json!({});
    server.put("/api/v1/namespaces/n/finalize", &empty).await.refused(409, "Conflict", "modified");
    empty["metadata"]["resourceVersion"] = marked["metadata"]["resourceVersion"].clone();
    server.put("/api/v1/namespaces/n/finalize", &empty).await.expect(200);
    assert!(stored(&server, path).await.is_none());
}

#[tokio::test]
async fn collections() {
    let server = Server::new();
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "x")] {
        let mut object = map(name, &json!({}));
        object["metadata"]["labels"] = json!({"l": label});
        server.create(MAPS, &object).await;
    }
    server.create("/api/v1/namespaces/other/configmaps", &map("a", &json!({}))).await;
    let path = format!("{MAPS}?labelSelector=l%3Dx&fieldSelector=metadata.name!%3Dd");
    let deleted = server.delete(&path, &Value::Null).await.expect(200);
    assert_eq!((&deleted["kind"], deleted["items"].as_array().unwrap().len()), (&json!("ConfigMapList"), 2));
    let names = |list: Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(server.get(MAPS).await.json()), ["c", "d"]);
    server.delete(&format!("{MAPS}?dryRun=All"), &Value::Null).await.expect(200);
    assert_eq!(names(server.get(MAPS).await.json()), ["c", "d"]);
    server.delete(MAPS, &Value::Null).await.expect(200);
    assert_eq!(names(server.get("/api/v1/configmaps").await.json()), ["a"]);
    server.delete("/api/v1/configmaps", &Value::Null).await.refused(405, "MethodNotAllowed", "");
    server.delete("/api/v1/namespaces", &Value::Null).await.refused(405, "MethodNotAllowed", "");
}
