//! Server-side apply and the OpenAPI documents, through the router.

use super::{Answer, MAPS, SETS, Server, map, revision, stateful_set};
use serde_json::{Value, json};

const APPLY: &str = "application/apply-patch+yaml";

impl Server {
    async fn apply(&self, path: &str, query: &str, config: impl ToString) -> Answer {
        self.call("PATCH", &format!("{path}?{query}"), config.to_string(), &[("content-type", APPLY)]).await
    }
}

fn managers(object: &Value) -> Vec<&str> {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(|e| e["manager"].as_str()).collect()
}

#[tokio::test]
async fn apply_creates_then_changes_then_does_nothing() {
    let server = Server::new();
    let item = format!("{MAPS}/a");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  x: \"1\"\n";
    let made = server.apply(&item, "fieldManager=me", yaml).await.expect(201);
    assert_eq!((&made["data"]["x"], managers(&made)), (&json!("1"), vec!["me"]));
    let same = server.apply(&item, "fieldManager=me", yaml).await.expect(200);
    assert_eq!(revision(&same), revision(&made), "nothing was written");
    let next = server.apply(&item, "fieldManager=me", map("a", &json!({"y": "1"}))).await.expect(200);
    assert_eq!(next["data"], json!({"y": "1"}));
    let dry = server.apply(&item, "fieldManager=me&dryRun=All", map("a", &json!({}))).await.expect(200);
    assert!(dry.get("data").is_none() || dry["data"] == json!({}));
    assert_eq!(server.get(&item).await.json()["data"], json!({"y": "1"}));
}

#[tokio::test]
async fn conflicts_are_told_and_can_be_forced() {
    let server = Server::new();
    let item = format!("{MAPS}/a");
    server.apply(&item, "fieldManager=me", map("a", &json!({"x": "1"}))).await.expect(201);
    let theirs = map("a", &json!({"x": "2"}));
    let status = server.apply(&item, "fieldManager=you", &theirs).await.refused(
        409,
        "Conflict",
        "Apply failed with 1 conflict: conflict with \"me\": .data.x",
    );
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(status["details"]["causes"][0]["field"], ".data.x");
    let forced = server.apply(&item, "fieldManager=you&force=true", &theirs).await.expect(200);
    assert_eq!((&forced["data"]["x"], managers(&forced)), (&json!("2"), vec!["you"]));
}

#[tokio::test]
async fn other_writers_of_an_applied_object_own_what_they_change() {
    let server = Server::new();
    let item = format!("{SETS}/web");
    let made = server.apply(&item, "fieldManager=me", stateful_set("web")).await.expect(201);
    let same = server.apply(&item, "fieldManager=me", stateful_set("web")).await.expect(200);
    assert_eq!(revision(&same), revision(&made), "defaults are nobody's and no change");
    let path = format!("{item}?fieldManager=scaler");
    let scaled = server.patch(&path, "merge", &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(managers(&scaled), ["me", "scaler"]);
    let status = json!({"status": {"replicas": 5}});
    let status =
        server.patch(&format!("{item}/status?fieldManager=controller"), "merge", &status).await.expect(200);
    let entries = status["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries.iter().find(|e| e["manager"] == "controller").unwrap();
    assert_eq!((&entry["subresource"], &entry["operation"]), (&json!("status"), &json!("Update")));
    server.apply(&item, "fieldManager=me", stateful_set("web")).await.refused(
        409,
        "Conflict",
        "conflict with \"scaler\" using apps/v1: .spec.replicas",
    );
    let mut without = stateful_set("web");
    without["spec"].as_object_mut().unwrap().remove("replicas");
    let left = server.apply(&item, "fieldManager=me", without).await.expect(200);
    assert_eq!(left["spec"]["replicas"], 5, "the scaler's now");
    assert_eq!(left["status"]["replicas"], 5);
}

#[tokio::test]
async fn objects_never_applied_carry_no_managed_fields() {
    let server = Server::new();
    let made = server.create(&format!("{MAPS}?fieldManager=me"), &map("a", &json!({"x": "1"}))).await;
    assert!(made["metadata"].get("managedFields").is_none());
    let patched = server.patch(&format!("{MAPS}/a"), "merge", &json!({"data": {"x": "2"}})).await.expect(200);
    assert!(patched["metadata"].get("managedFields").is_none());
}

#[tokio::test]
async fn bad_applies_are_refused() {
    let server = Server::new();
    let item = format!("{MAPS}/a");
    let good = map("a", &json!({}));
    let refused = server.apply(&item, "", &good).await;
    refused.refused(422, "Invalid", "fieldManager: Required value: is required for apply patch");
    let forced = server.patch(&format!("{item}?force=true"), "merge", &json!({})).await;
    forced.refused(422, "Invalid", "force: Forbidden: may not be specified for non-apply patch");
    let unreadable = server.apply(&item, "fieldManager=me", "a: [").await;
    unreadable.refused(400, "BadRequest", "yaml parse error");
    let other_name = server.apply(&item, "fieldManager=me", map("b", &json!({}))).await;
    other_name.refused(400, "BadRequest", "name");
    let status = server.apply(&format!("{SETS}/none/status"), "fieldManager=me", stateful_set("none")).await;
    status.refused(404, "NotFound", "statefulsets.apps \"none\" not found");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let server = Server::new();
    let index = server.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = server.get(url).await.expect(200);
    assert!(
        document["paths"].get("/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}/scale").is_some()
    );
    assert_eq!(server.get("/openapi/v2").await.expect(200)["swagger"], "2.0");
    server.get("/openapi/v3/apis/none/v1").await.refused(404, "NotFound", "could not find");
    server.get("/openapi/v4").await.refused(404, "NotFound", "could not find");
}
