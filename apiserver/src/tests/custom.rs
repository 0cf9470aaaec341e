//! Custom resources as a client sees them.

use super::Server;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";
/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The definition of Kubernetes' documentation, with more of what can be said.
pub(super) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"],
                      "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["cronSpec"], "properties": {
                        "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
                        "image": {"type": "string", "default": "busybox"},
                        "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
                        "color": {"type": "string", "enum": ["red", "green"]},
                        "ports": {"type": "array", "x-kubernetes-list-type": "map",
                                  "x-kubernetes-list-map-keys": ["name"],
                                  "items": {"type": "object", "required": ["name"], "properties": {
                                      "name": {"type": "string"}, "port": {"type": "integer"}}}},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    }},
                    "status": {"type": "object", "properties": {
                        "replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}},
                }}},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.labelSelector"}},
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec", "description": "The schedule"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "selectableFields": [{"jsonPath": ".spec.color"}],
            }],
        },
    })
}

fn tab(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

/// A server that follows definitions.
pub(super) fn server() -> Server {
    let server = Server::new();
    let follow = crate::custom::follow::run(server.app.registry.clone());
    server.app.tasks.spawn(server.app.stop.clone().run_until_cancelled_owned(follow));
    server
}

impl Server {
    /// Asks until the answer is as wanted.
    async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            let (code, value) =
                (answer.code.as_u16(), serde_json::from_slice(&answer.bytes).unwrap_or_default());
            if wanted(code, &value) {
                return value;
            }
            assert!(Instant::now() < end, "{path}: {}", answer.text());
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn define(&self, definition: &Value) -> Value {
        self.create(DEFINITIONS, definition).await;
        let path = format!("{DEFINITIONS}/{}", definition["metadata"]["name"].as_str().unwrap());
        self.until(&path, |_, d| condition(d, "Established") == "True").await
    }
}

fn condition<'v>(object: &'v Value, type_: &str) -> &'v str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == type_);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

#[tokio::test]
async fn a_definition_is_served_as_any_kind() {
    let server = server();
    server.get(TABS).await.refused(404, "NotFound", "could not find the requested resource");
    let defined = server.define(&definition()).await;
    assert_eq!(condition(&defined, "NamesAccepted"), "True");
    assert_eq!(defined["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(defined["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(defined["spec"]["conversion"], json!({"strategy": "None"}));

    let list = server.get("/apis/stable.example.com/v1").await.expect(200);
    let names: Vec<&str> =
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/scale", "crontabs/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["ct"]));
    let groups = server.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "stable.example.com"));

    let made =
        server.create(TABS, &tab("a", json!({"cronSpec": "* * * * */5", "free": {"x": {"y": 1}}}))).await;
    assert_eq!(
        made["spec"],
        json!({"cronSpec": "* * * * */5", "image": "busybox", "replicas": 1, "free": {"x": {"y": 1}}})
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let list = server.get(TABS).await.expect(200);
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("CronTabList"), 1));
    assert_eq!(list["items"][0], made);

    let table = server
        .call("GET", TABS, "", &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")])
        .await
        .expect(200);
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Spec", "Replicas", "Age"]);
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..3],
        [json!("a"), json!("* * * * */5"), json!(1)]
    );
    server.app.stop.cancel();
}

#[tokio::test]
async fn bad_objects_are_refused_with_every_fault() {
    let server = server();
    server.define(&definition()).await;
    let spec = json!({"cronSpec": "no", "replicas": 11, "color": "blue", "image": 5, "ports": [{"port": 1}]});
    let status = server.post(TABS, &tab("a", spec)).await.refused(
        422,
        "Invalid",
        "CronTab.stable.example.com \"a\" is invalid",
    );
    let causes: Vec<(String, String)> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["field"].as_str().unwrap().to_owned(), c["message"].as_str().unwrap().to_owned()))
        .collect();
    let has = |field: &str, text: &str| {
        assert!(causes.iter().any(|(f, m)| f == field && m == text), "{field}: {text} is not in {causes:?}");
    };
    has("spec.replicas", "Invalid value: 11: spec.replicas in body should be less than or equal to 10");
    has("spec.color", "Unsupported value: \"blue\": supported values: \"red\", \"green\"");
    has("spec.image", "Invalid value: \"integer\": spec.image in body must be of type string: \"integer\"");
    has("spec.ports[0].name", "Required value");
    let strict = format!("{TABS}?fieldValidation=Strict");
    let spec = json!({"cronSpec": "* * * * *", "colour": "red"});
    server.post(&strict, &tab("a", spec.clone())).await.refused(
        400,
        "BadRequest",
        "strict decoding error: unknown field \"spec.colour\"",
    );
    let warned = server.post(TABS, &tab("a", spec)).await;
    assert_eq!(warned.warnings(), ["299 - \"unknown field \\\"spec.colour\\\"\""]);
    assert!(warned.expect(201)["spec"].get("colour").is_none());
    server.app.stop.cancel();
}

#[tokio::test]
async fn patches_status_scale_and_selectors() {
    let server = server();
    server.define(&definition()).await;
    server.create(TABS, &tab("a", json!({"cronSpec": "* * * * *", "color": "red"}))).await;
    server.create(TABS, &tab("b", json!({"cronSpec": "* * * * *", "color": "green"}))).await;
    let a = format!("{TABS}/a");
    let patched = server
        .patch(&a, "merge", &json!({"spec": {"replicas": 3}, "status": {"replicas": 9}}))
        .await
        .expect(200);
    assert_eq!((&patched["metadata"]["generation"], patched.get("status")), (&json!(2), None));
    server.patch(&a, "strategic-merge", &json!({})).await.refused(
        415,
        "UnsupportedMediaType",
        "json-patch+json",
    );
    let status = json!({"status": {"replicas": 3, "labelSelector": "a=b"}, "spec": {"replicas": 9}});
    let patched = server.patch(&format!("{a}/status"), "merge", &status).await.expect(200);
    assert_eq!((&patched["spec"]["replicas"], &patched["status"]["replicas"]), (&json!(3), &json!(3)));
    assert_eq!(patched["metadata"]["generation"], 2);
    let scale = server.get(&format!("{a}/scale")).await.expect(200);
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(3), &json!("a=b")));
    server.patch(&format!("{a}/scale"), "merge", &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(server.get(&a).await.expect(200)["spec"]["replicas"], 5);
    let red = server.get(&format!("{TABS}?fieldSelector=spec.color%3Dred")).await.expect(200);
    assert_eq!(red["items"].as_array().unwrap().len(), 1);
    let refused = server.get(&format!("{TABS}?fieldSelector=spec.image%3Dred")).await;
    refused.refused(400, "BadRequest", "field label not supported: spec.image");
    let unconditional = tab("a", json!({"cronSpec": "* * * * *"}));
    server.put(&a, &unconditional).await.refused(
        422,
        "Invalid",
        "metadata.resourceVersion: Invalid value: 0: must be specified",
    );
    server.app.stop.cancel();
}

#[tokio::test]
async fn a_definition_takes_its_objects_along_and_waits_for_them() {
    let server = server();
    server.define(&definition()).await;
    server.create(TABS, &tab("a", json!({"cronSpec": "* * * * *"}))).await;
    let mut held = tab("held", json!({"cronSpec": "* * * * *"}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.create(TABS, &held).await;
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let going = server.delete(&path, &Value::Null).await.expect(200);
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(condition(&going, "Terminating"), "True");
    server.until(&format!("{TABS}/a"), |code, _| code == 404).await;
    let refused = server.post(TABS, &tab("c", json!({"cronSpec": "* * * * *"}))).await;
    refused.refused(
        403,
        "Forbidden",
        "crontabs.stable.example.com \"c\" is forbidden: create not allowed while custom resource definition is terminating",
    );
    // Nor does an apply make one.
    let mut applied = tab("d", json!({"cronSpec": "* * * * *"}));
    applied["apiVersion"] = json!("stable.example.com/v1");
    let headers = [("content-type", "application/apply-patch+yaml")];
    let refused =
        server.call("PATCH", &format!("{TABS}/d?fieldManager=m"), applied.to_string(), &headers).await;
    refused.refused(403, "Forbidden", "create not allowed while custom resource definition");
    // Its objects are deleted side by side: that one is gone says nothing of the other.
    let marked = |_, held: &Value| held["metadata"]["deletionTimestamp"].is_string();
    server.until(&format!("{TABS}/held"), marked).await;
    let let_go = json!({"metadata": {"finalizers": null}});
    server.patch(&format!("{TABS}/held"), "merge", &let_go).await.expect(200);
    server.until(&path, |code, _| code == 404).await;
    server.until(TABS, |code, _| code == 404).await;
    server.app.stop.cancel();
}

#[tokio::test]
async fn patches_let_nothing_grow_without_end() {
    let server = server();
    server.define(&definition()).await;
    server.create(TABS, &tab("a", json!({"cronSpec": "* * * * *", "free": {}}))).await;
    let grow = |n: usize| json!({"spec": {"free": {format!("k{n}"): "x".repeat(1024 * 1024)}}});
    for n in 0..2 {
        server.patch(&format!("{TABS}/a"), "merge", &grow(n)).await.expect(200);
    }
    let refused = server.patch(&format!("{TABS}/a"), "merge", &grow(2)).await;
    refused.refused(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728");
    server.app.stop.cancel();
}

#[tokio::test]
async fn names_belong_to_who_came_first() {
    let server = server();
    server.define(&definition()).await;
    let mut other = definition();
    other["metadata"]["name"] = json!("cronners.stable.example.com");
    other["spec"]["names"] = json!({"plural": "cronners", "kind": "CronTab", "shortNames": ["ct"]});
    server.create(DEFINITIONS, &other).await;
    let path = format!("{DEFINITIONS}/cronners.stable.example.com");
    let refused = server.until(&path, |_, d| !condition(d, "NamesAccepted").is_empty()).await;
    assert_eq!(condition(&refused, "NamesAccepted"), "False");
    assert_eq!(condition(&refused, "Established"), "False");
    server.delete(&format!("{DEFINITIONS}/crontabs.stable.example.com"), &Value::Null).await.expect(200);
    server.until(&path, |_, d| condition(d, "Established") == "True").await;
    server.app.stop.cancel();
}

#[tokio::test]
async fn versions_see_the_same_objects() {
    let server = server();
    let mut definition = definition();
    let mut second = definition["spec"]["versions"][0].clone();
    second["name"] = json!("v1beta1");
    second["storage"] = json!(false);
    second["deprecated"] = json!(true);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["image"] =
        json!({"type": "string", "default": "old"});
    definition["spec"]["versions"].as_array_mut().unwrap().push(second);
    server.define(&definition).await;
    let group = server.get("/apis/stable.example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let old = TABS.replace("/v1/", "/v1beta1/");
    let mut object = tab("a", json!({"cronSpec": "* * * * *"}));
    object["apiVersion"] = json!("stable.example.com/v1beta1");
    let made = server.post(&old, &object).await;
    assert_eq!(made.warnings(), ["299 - \"stable.example.com/v1beta1 CronTab is deprecated\""]);
    let made = made.expect(201);
    assert_eq!((&made["apiVersion"], &made["spec"]["image"]), (&object["apiVersion"], &json!("old")));
    let seen = server.get(&format!("{TABS}/a")).await.expect(200);
    assert_eq!(
        (&seen["apiVersion"], &seen["spec"]["image"]),
        (&json!("stable.example.com/v1"), &json!("old"))
    );
    let gone = server.delete(&format!("{old}/a"), &Value::Null).await.expect(200);
    assert_eq!(gone["status"], "Success");
    server.app.stop.cancel();
}

#[tokio::test]
async fn a_schema_that_is_not_structural_is_refused() {
    let server = server();
    let mut bad = definition();
    let version = &mut bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    version["properties"]["spec"]["properties"]["image"] = json!({"description": "no type"});
    version["properties"]["spec"]["properties"]["replicas"]["default"] = json!("one");
    let status = server.post(DEFINITIONS, &bad).await.refused(
        422,
        "Invalid",
        "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[image].type: Required value: must not be \
         empty for specified object fields",
    );
    assert_eq!(status["details"]["kind"], "CustomResourceDefinition");
    server.app.stop.cancel();
}

#[tokio::test]
async fn applies_merge_by_the_schemas_keys() {
    let server = server();
    server.define(&definition()).await;
    let a = format!("{TABS}/a");
    let apply = async |manager: &str, force: bool, spec: Value| {
        let path = format!("{a}?fieldManager={manager}&force={force}");
        let body = tab("a", spec).to_string();
        server.call("PATCH", &path, body, &[("content-type", "application/apply-patch+yaml")]).await
    };
    let port = |name: &str, port: i32| json!({"name": name, "port": port});
    let one = json!({"cronSpec": "* * * * *", "ports": [port("a", 1)], "free": {"x": {"y": 1}}});
    apply("one", false, one).await.expect(201);
    let two = json!({"cronSpec": "* * * * *", "ports": [port("b", 2)], "free": {"x": {"z": 1}}});
    let both = apply("two", false, two).await.expect(200);
    assert_eq!(both["spec"]["ports"], json!([port("a", 1), port("b", 2)]));
    assert_eq!(both["spec"]["free"], json!({"x": {"y": 1, "z": 1}}));
    let clash = json!({"cronSpec": "* * * * 1", "ports": [port("a", 9)]});
    let conflict =
        apply("two", false, clash.clone()).await.refused(409, "Conflict", "conflicts with \"one\"");
    let causes: Vec<&str> = conflict["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert_eq!(causes, [".spec.cronSpec", ".spec.ports[name=\"a\"].port"]);
    let forced = apply("two", true, clash).await.expect(200);
    assert_eq!(forced["spec"]["ports"], json!([port("a", 9)]));
    let unknown = apply("two", false, json!({"colour": 1})).await;
    let status = unknown.expect(500);
    assert!(
        status["message"].as_str().unwrap().ends_with(": .spec.colour: field not declared in schema"),
        "{status}"
    );
    let keyless = apply("two", false, json!({"ports": [{"port": 1}]})).await.expect(500);
    let text = ".spec.ports: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and";
    assert!(keyless["message"].as_str().unwrap().contains(text), "{keyless}");
    server.app.stop.cancel();
}

#[tokio::test]
async fn the_openapi_documents_know_it_at_once() {
    let server = server();
    let index = |value: Value| value["paths"].as_object().unwrap().len();
    let before = index(server.get("/openapi/v3").await.expect(200));
    server.define(&definition()).await;
    let after = server.get("/openapi/v3").await.expect(200);
    assert!(after["paths"]["apis/apps/v1"].is_object());
    assert_eq!(index(after), before + 1);
    let v3 = server.get("/openapi/v3/apis/stable.example.com/v1").await.expect(200);
    let schema = &v3["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["maximum"], 10.0);
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "stable.example.com", "kind": "CronTab", "version": "v1"}])
    );
    assert!(schema["properties"]["metadata"]["allOf"][0]["$ref"].is_string());
    let patch = &v3["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]["patch"];
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());
    let v2 = server.get("/openapi/v2").await.expect(200);
    let schema = &v2["definitions"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["required"], json!(["cronSpec"]));
    assert!(schema["properties"]["spec"]["properties"]["image"].get("default").is_none());
    server.app.stop.cancel();
}

#[tokio::test]
async fn rules_hold_on_every_write() {
    let server = server();
    let mut definition = definition();
    let spec = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["x-kubernetes-validations"] = json!([
        {"rule": "self.replicas <= 5 || self.color == 'red'", "message": "only red ones may be many", "fieldPath": ".replicas"},
        {"rule": "self.cronSpec == oldSelf.cronSpec", "message": "the schedule stays"}]);
    server.define(&definition).await;
    let many = tab("a", json!({"cronSpec": "* * * * *", "color": "green", "replicas": 6}));
    server.post(TABS, &many).await.refused(
        422,
        "Invalid",
        "spec.replicas: Invalid value: only red ones may be many",
    );
    server.create(TABS, &tab("a", json!({"cronSpec": "* * * * *", "color": "green"}))).await;
    let a = format!("{TABS}/a");
    let moved = json!({"spec": {"cronSpec": "* * * * 1"}});
    server.patch(&a, "merge", &moved).await.refused(
        422,
        "Invalid",
        "spec: Invalid value: the schedule stays",
    );
    server.patch(&a, "merge", &json!({"spec": {"color": "red", "replicas": 6}})).await.expect(200);
    let mut bad = super::custom::definition();
    bad["metadata"]["name"] = json!("bads.stable.example.com");
    bad["spec"]["names"] = json!({"plural": "bads", "kind": "Bad"});
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.replica > 1"}]);
    server.post(DEFINITIONS, &bad).await.refused(422, "Invalid", "undefined field 'replica'");
    server.app.stop.cancel();
}

#[tokio::test]
async fn a_watch_ends_when_its_definition_changes_and_sees_all_before() {
    use http_body_util::BodyExt;
    let server = server();
    server.define(&definition()).await;
    let request = http::Request::get(format!("{TABS}?watch=true")).body(axum::body::Body::empty()).unwrap();
    let mut body = tower::ServiceExt::oneshot(server.router.clone(), request).await.unwrap().into_body();
    server.create(TABS, &tab("a", json!({"cronSpec": "* * * * *"}))).await;
    let first =
        tokio::time::timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(br#"{"type":"ADDED""#));
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    server
        .patch(&path, "merge", &json!({"spec": {"names": {"shortNames": ["ct", "tab"]}}}))
        .await
        .expect(200);
    while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap() {
        frame.unwrap();
    }
    server
        .until("/apis/stable.example.com/v1", |_, l| l["resources"][0]["shortNames"] == json!(["ct", "tab"]))
        .await;
    server.app.stop.cancel();
}
