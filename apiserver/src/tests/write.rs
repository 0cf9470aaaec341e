//! Create, update and patch.

use super::*;

#[tokio::test]
async fn a_created_object_is_what_is_read() {
    let server = Server::new();
    let created = server.create(MAPS, &map("a", &json!({"x": "1"}))).await;
    let meta = &created["metadata"];
    assert_eq!((meta["name"].as_str(), meta["namespace"].as_str()), (Some("a"), Some("default")));
    assert!(meta["uid"].as_str().unwrap().len() == 36 && meta["creationTimestamp"].is_string());
    assert_eq!(revision(&created), server.app.registry.store().revision().0);
    assert_eq!(server.get(&format!("{MAPS}/a")).await.expect(200), created);
    assert_eq!((created["kind"].as_str(), created["apiVersion"].as_str()), (Some("ConfigMap"), Some("v1")));
    server.get(&format!("{MAPS}/b")).await.refused(404, "NotFound", "configmaps \"b\" not found");
    let status = server.post(MAPS, &map("a", &json!({}))).await.refused(
        409,
        "AlreadyExists",
        "configmaps \"a\" already exists",
    );
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps"}));
}

#[tokio::test]
async fn clients_libraries_understand_the_answers() {
    use k8s_openapi::api::core::v1::ConfigMap;
    let server = Server::new();
    let maps: kube::Api<ConfigMap> = kube::Api::default_namespaced(server.client());
    let object: ConfigMap = serde_json::from_value(map("a", &json!({"x": "1"}))).unwrap();
    maps.create(&Default::default(), &object).await.unwrap();
    let Err(kube::Error::Api(status)) = maps.create(&Default::default(), &object).await else { panic!() };
    assert!(status.is_already_exists());
    assert!(maps.get_opt("b").await.unwrap().is_none());
    assert_eq!(maps.list(&Default::default()).await.unwrap().items.len(), 1);
    let deleted = maps.delete("a", &Default::default()).await.unwrap();
    assert!(deleted.right().unwrap().is_success());
}

#[tokio::test]
async fn what_only_the_server_says_is_not_taken_from_a_client() {
    let server = Server::new();
    let mut object = map("a", &json!({}));
    object["metadata"]["uid"] = json!("mine");
    object["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    object["metadata"]["deletionTimestamp"] = json!("2001-01-01T00:00:00Z");
    object["metadata"]["generation"] = json!(7);
    let created = server.create(MAPS, &object).await;
    let meta = created["metadata"].as_object().unwrap();
    assert_ne!(meta["uid"], "mine");
    assert_ne!(meta["creationTimestamp"], "2001-01-01T00:00:00Z");
    assert!(!meta.contains_key("deletionTimestamp"), "{meta:?}");
    // What a kind does not count is a client's own affair.
    assert_eq!(meta["generation"], 7);
    object["metadata"]["resourceVersion"] = json!("5");
    server.post(MAPS, &object).await.refused(400, "BadRequest", "resourceVersion should not be set");
}

#[tokio::test]
async fn generated_names() {
    let server = Server::new();
    let object = json!({"metadata": {"generateName": "job-"}});
    let (a, b) = (server.create(MAPS, &object).await, server.create(MAPS, &object).await);
    let (a, b) = (a["metadata"]["name"].as_str().unwrap(), b["metadata"]["name"].as_str().unwrap());
    assert!(a.starts_with("job-") && a.len() == 9 && a != b, "{a} {b}");
    let long = "x".repeat(100);
    let object = json!({"metadata": {"generateName": long}});
    assert_eq!(server.create(MAPS, &object).await["metadata"]["name"].as_str().unwrap().len(), 63);
    let status = server.post(MAPS, &json!({"metadata": {}})).await.refused(
        422,
        "Invalid",
        "name or generateName is required",
    );
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.name");
}

#[tokio::test]
async fn bodies_that_contradict_the_path() {
    let server = Server::new();
    let mut other = map("a", &json!({}));
    other["metadata"]["namespace"] = json!("kube-system");
    server.post(MAPS, &other).await.refused(
        400,
        "BadRequest",
        "does not match the namespace sent on the request",
    );
    server.post(MAPS, &pod("a")).await.refused(
        400,
        "BadRequest",
        "Pod in version \"v1\" cannot be handled as a ConfigMap",
    );
    let mut version = map("a", &json!({}));
    version["apiVersion"] = json!("v2");
    server.post(MAPS, &version).await.refused(
        400,
        "BadRequest",
        "the API version in the data (v2) does not match",
    );
    server.post(MAPS, &json!({"data": {"x": 1}, "metadata": {"name": "a"}})).await.refused(
        400,
        "BadRequest",
        "ConfigMap",
    );
    server.post(MAPS, &map("Not_a_name", &json!({}))).await.refused(
        422,
        "Invalid",
        "metadata.name: Invalid value: \"Not_a_name\"",
    );
    server.post("/api/v1/configmaps", &map("a", &json!({}))).await.refused(
        405,
        "MethodNotAllowed",
        "does not allow",
    );
    server.call("POST", MAPS, "{", &[]).await.refused(400, "BadRequest", "must be of type ConfigMap");
    let csv = [("content-type", "text/csv")];
    server.call("POST", MAPS, "a,b", &csv).await.refused(415, "UnsupportedMediaType", "unknown format");
    let yaml = "metadata: {name: from-yaml}\ndata: {a: b}\n";
    server.call("POST", MAPS, yaml, &[("content-type", "application/yaml")]).await.expect(201);
    assert_eq!(server.get(MAPS).await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn unknown_and_repeated_fields() {
    let server = Server::new();
    let body = r#"{"metadata":{"name":"NAME","unknownMeta":1},"data":{"a":"1"},"data":{"a":"2"},"spec":{}}"#;
    let post = async |name: &str, how: &str| {
        server.call("POST", &format!("{MAPS}?fieldValidation={how}"), body.replace("NAME", name), &[]).await
    };
    let strict = post("a", "Strict").await;
    let text = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"metadata.unknownMeta\", unknown field \"spec\", duplicate field \"data\"";
    strict.refused(400, "BadRequest", text);
    let warned = post("b", "Warn").await;
    assert_eq!(warned.code, 201);
    assert_eq!(
        warned.warnings(),
        [
            "299 - \"unknown field \\\"metadata.unknownMeta\\\"\"",
            "299 - \"unknown field \\\"spec\\\"\"",
            "299 - \"duplicate field \\\"data\\\"\"",
        ]
    );
    assert_eq!(warned.json()["data"], json!({"a": "2"}));
    let ignored = post("c", "Ignore").await;
    assert!(ignored.code == 201 && ignored.warnings().is_empty());
    post("d", "Loose").await.refused(422, "Invalid", "fieldValidation: Unsupported value: \"Loose\"");
}

#[tokio::test]
async fn dry_runs_change_nothing() {
    let server = Server::new();
    let created = server.post(&format!("{MAPS}?dryRun=All"), &map("a", &json!({}))).await.expect(201);
    assert!(created["metadata"].get("resourceVersion").is_none() && created["metadata"]["uid"].is_string());
    server.get(&format!("{MAPS}/a")).await.refused(404, "NotFound", "");
    let object = server.create(MAPS, &map("a", &json!({}))).await;
    let dry = format!("{MAPS}/a?dryRun=All");
    server.post(&format!("{MAPS}?dryRun=All"), &map("a", &json!({}))).await.refused(409, "AlreadyExists", "");
    let put = server.put(&dry, &map("a", &json!({"x": "1"}))).await.expect(200);
    assert_eq!(put["data"], json!({"x": "1"}));
    server.patch(&dry, "merge", &json!({"data": {"x": "2"}})).await.expect(200);
    let empty = "dryRun: Unsupported value: [\"\"]: supported values: \"All\"";
    server.put(&format!("{MAPS}/a?dryRun="), &map("a", &json!({}))).await.refused(422, "Invalid", empty);
    server.delete(&format!("{MAPS}/a?dryRun="), &Value::Null).await.refused(422, "Invalid", empty);
    server.delete(&dry, &Value::Null).await.expect(200);
    assert_eq!(server.get(&format!("{MAPS}/a")).await.expect(200), object);
}

#[tokio::test]
async fn updates_are_conditional_on_the_revision_they_name() {
    let server = Server::new();
    let first = server.create(MAPS, &map("a", &json!({"x": "1"}))).await;
    let path = format!("{MAPS}/a");
    let mut second = first.clone();
    second["data"]["x"] = json!("2");
    let second = server.put(&path, &second).await.expect(200);
    assert!(revision(&second) > revision(&first));
    let mut stale = first.clone();
    stale["data"]["x"] = json!("3");
    let status = server.put(&path, &stale).await.refused(
        409,
        "Conflict",
        "the object has been modified; please apply your changes",
    );
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("Operation cannot be fulfilled on configmaps \"a\": ")
    );
    // Without a revision: unconditional, and what the server keeps is kept.
    let third = server.put(&path, &map("a", &json!({"x": "3"}))).await.expect(200);
    assert_eq!(third["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(third["metadata"]["creationTimestamp"], first["metadata"]["creationTimestamp"]);
    let mut stranger = map("a", &json!({}));
    stranger["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    server.put(&path, &stranger).await.refused(409, "Conflict", "UID in precondition");
    server.put(&path, &map("b", &json!({}))).await.refused(
        400,
        "BadRequest",
        "the name of the object (b) does not match the name on the URL (a)",
    );
    // What the body says is looked at first.
    server.put(&format!("{MAPS}/none"), &map("b", &json!({}))).await.refused(
        400,
        "BadRequest",
        "does not match",
    );
    for path in [&path, &format!("{MAPS}/none")] {
        server.put(path, &json!({"data": {}})).await.refused(
            400,
            "BadRequest",
            "based on URL) was undeterminable: name must be provided",
        );
    }
    server.put(&format!("{MAPS}/b"), &map("b", &json!({}))).await.refused(
        404,
        "NotFound",
        "configmaps \"b\" not found",
    );
    let mut changed = third.clone();
    changed["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    server.put(&path, &changed).await.refused(422, "Invalid", "field is immutable");
}

#[tokio::test]
async fn a_write_that_changes_nothing_is_none() {
    let server = Server::new();
    let object = server.create(MAPS, &map("a", &json!({"x": "1"}))).await;
    let before = server.app.registry.store().revision();
    let path = format!("{MAPS}/a");
    assert_eq!(server.put(&path, &object).await.expect(200), object);
    assert_eq!(server.put(&path, &map("a", &json!({"x": "1"}))).await.expect(200), object);
    assert_eq!(server.patch(&path, "merge", &json!({"data": {"x": "1"}})).await.expect(200), object);
    assert_eq!(server.app.registry.store().revision(), before);
}

#[tokio::test]
async fn kinds_differ_in_how_they_take_updates() {
    let server = Server::new();
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let lease =
        json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 5}});
    // A lease may be made by PUT, and never be overwritten blindly.
    let made = server.put(path, &lease).await.expect(201);
    server.put(path, &lease).await.refused(
        422,
        "Invalid",
        "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
    );
    server.put(path, &made).await.expect(200);
}

#[tokio::test]
async fn patches() {
    let server = Server::new();
    server.create(MAPS, &map("a", &json!({"x": "1", "y": "1"}))).await;
    let path = format!("{MAPS}/a");
    let merged = server.patch(&path, "merge", &json!({"data": {"x": "2", "y": null}})).await.expect(200);
    assert_eq!(merged["data"], json!({"x": "2"}));
    let operations = json!([{"op": "test", "path": "/data/x", "value": "2"}, {"op": "add", "path": "/data/z", "value": "3"}]);
    let patched = server.patch(&path, "json", &operations).await.expect(200);
    assert_eq!(patched["data"], json!({"x": "2", "z": "3"}));
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = server.patch(&path, "strategic-merge", &labels).await.expect(200);
    assert_eq!(patched["metadata"]["labels"], json!({"a": "b"}));

    let failing = json!([{"op": "test", "path": "/data/x", "value": "9"}]);
    assert_eq!(server.patch(&path, "json", &failing).await.code, 422);
    server
        .patch(&path, "merge", &json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "9"}}))
        .await
        .refused(409, "Conflict", "modified");
    server.patch(&path, "merge", &json!({"metadata": {"name": "b"}})).await.refused(
        400,
        "BadRequest",
        "does not match the name on the URL",
    );
    server.patch(&path, "merge", &json!({"metadata": {"uid": "1"}})).await.refused(
        422,
        "Invalid",
        "metadata.uid: Invalid value: \"1\": field is immutable",
    );
    server.patch(&path, "merge", &json!({"kind": "Pod"})).await.refused(400, "BadRequest", "");
    server.call("PATCH", &path, "{}", &[("content-type", "application/json")]).await.refused(
        415,
        "UnsupportedMediaType",
        "strategic-merge",
    );
    server.patch(&format!("{MAPS}/b"), "merge", &json!({})).await.refused(
        404,
        "NotFound",
        "configmaps \"b\"",
    );
    let strict = format!("{path}?fieldValidation=Strict");
    server.patch(&strict, "merge", &json!({"nonsense": 1})).await.refused(
        422,
        "Invalid",
        "patch: Invalid value: \"{\\\"nonsense\\\":1}\": strict decoding error: unknown field \"nonsense\"",
    );
    assert_eq!(server.get(&path).await.json(), patched);
}

#[tokio::test]
async fn rivals_all_get_their_patch_in() {
    let server = Arc::new(Server::new());
    server.create(MAPS, &map("a", &json!({}))).await;
    let tasks = TaskTracker::new();
    let running: Vec<_> = (0..16)
        .map(|i| {
            let server = server.clone();
            tasks.spawn(async move {
                server
                    .patch(&format!("{MAPS}/a"), "merge", &json!({"data": {format!("k{i}"): "v"}}))
                    .await
                    .code
            })
        })
        .collect();
    for task in running {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!(server.get(&format!("{MAPS}/a")).await.json()["data"].as_object().unwrap().len(), 16);
}

#[tokio::test]
async fn status_and_spec_have_one_door_each() {
    let server = Server::new();
    let mut set = stateful_set("s");
    set["status"] = json!({"replicas": 9});
    let made = server.create(SETS, &set).await;
    assert_eq!(
        (made["status"]["replicas"].as_i64(), made["metadata"]["generation"].as_i64()),
        (Some(0), Some(1))
    );
    let path = format!("{SETS}/s");
    let status = format!("{path}/status");
    assert_eq!(server.get(&status).await.expect(200), made);

    let mut both = made.clone();
    both["status"]["replicas"] = json!(5);
    both["spec"]["replicas"] = json!(3);
    both["metadata"]["annotations"] = json!({"by": "main"});
    let main = server.put(&path, &both).await.expect(200);
    assert_eq!((main["spec"]["replicas"].as_i64(), main["status"]["replicas"].as_i64()), (Some(3), Some(0)));
    assert_eq!(main["metadata"]["generation"], 2);

    let mut both = main.clone();
    both["status"]["replicas"] = json!(5);
    both["spec"]["replicas"] = json!(7);
    both["metadata"]["annotations"] = json!({"by": "status"});
    let after = server.put(&status, &both).await.expect(200);
    assert_eq!(
        (after["spec"]["replicas"].as_i64(), after["status"]["replicas"].as_i64()),
        (Some(3), Some(5))
    );
    assert_eq!(
        (&after["metadata"]["generation"], &after["metadata"]["annotations"]["by"]),
        (&json!(2), &json!("status"))
    );
    let patched = server
        .patch(&status, "merge", &json!({"status": {"replicas": 6}, "spec": {"replicas": 1}}))
        .await
        .expect(200);
    assert_eq!(
        (patched["spec"]["replicas"].as_i64(), patched["status"]["replicas"].as_i64()),
        (Some(3), Some(6))
    );
    // Metadata does not count as a generation.
    let labelled =
        server.patch(&path, "merge", &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 2);
    server.get(&format!("{MAPS}/a/status")).await.refused(
        404,
        "NotFound",
        "could not find the requested resource",
    );
}

#[tokio::test]
async fn names_cannot_leave_their_place_in_the_store() {
    let server = Server::new();
    for path in [
        "/api/v1/namespaces/default/configmaps/..%2Fx",
        "/api/v1/namespaces/a%2Fb/configmaps/x",
        "/api/v1/namespaces/../configmaps/x",
    ] {
        server.get(path).await.refused(400, "BadRequest", "parameter invalid");
        server.delete(path, &Value::Null).await.refused(400, "BadRequest", "parameter invalid");
    }
    server.post("/api/v1/namespaces/a%2Fb/configmaps", &map("x", &json!({}))).await.refused(
        422,
        "Invalid",
        "metadata.namespace",
    );
}

#[tokio::test]
async fn the_revision_is_written_where_it_belongs() {
    let server = Server::new();
    let mut object = map("a", &json!({"resourceVersion": "", "metadata": "{\"resourceVersion\":\"\"}"}));
    object["metadata"]["labels"] = json!({"resourceVersion": ""});
    object["metadata"]["annotations"] = json!({"resourceVersion": "\"resourceVersion\":\"\""});
    let made = server.create(MAPS, &object).await;
    assert_eq!(made["data"], object["data"]);
    assert_eq!(made["metadata"]["labels"], object["metadata"]["labels"]);
    assert_eq!(made["metadata"]["annotations"], object["metadata"]["annotations"]);
    assert_eq!(revision(&made), server.app.registry.store().revision().0);
}

#[tokio::test]
async fn events_expire_an_hour_after_they_last_happened() {
    let server = Server::new();
    let events = "/api/v1/namespaces/default/events";
    for name in ["a", "b"] {
        let event = json!({
            "metadata": {"name": name}, "reason": "R", "type": "Normal",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        });
        server.create(events, &event).await;
    }
    let again = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(30);
    server
        .patch(&format!("{events}/b"), "merge", &json!({"lastTimestamp": again.to_string()}))
        .await
        .expect(200);
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(59);
    assert_eq!(server.app.registry.expire_events(later).await.unwrap(), 0);
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(61);
    assert_eq!(server.app.registry.expire_events(later).await.unwrap(), 1);
    let left = server.get(events).await.json();
    assert_eq!(
        (left["items"].as_array().unwrap().len(), &left["items"][0]["metadata"]["name"]),
        (1, &json!("b"))
    );
}

/// Bodies have room for hundreds of thousands of short things. An answer has not, and to hold each against all others would
/// take minutes.
#[tokio::test]
async fn what_is_said_of_a_body_is_bounded_and_so_is_the_time_it_takes() {
    const MANY: usize = 100_000;
    let server = Server::new();
    let mut unknown = map("unknown", &json!({}));
    for n in 0..MANY {
        unknown[format!("u{n}")] = json!(n);
    }
    let answer = server.post(MAPS, &unknown).await;
    assert_eq!((answer.code.as_u16(), answer.warnings().len()), (201, 100));
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let refused = server.post(&strict, &unknown).await.refused(400, "BadRequest", "unknown field \"u0\"");
    assert_eq!(refused["message"].as_str().unwrap().matches("unknown field").count(), 100);

    let twice: Vec<String> = (0..MANY).map(|n| format!("\"k{n}\":\"\",\"k{n}\":\"\"")).collect();
    let body = format!("{{\"metadata\":{{\"name\":\"twice\"}},\"data\":{{{}}}}}", twice.join(","));
    let answer = server.call("POST", MAPS, body, &[("content-type", "application/json")]).await;
    assert_eq!((answer.code.as_u16(), answer.warnings().len()), (201, 100));

    let mut owned = map("owned", &json!({}));
    let owner = |n: usize| json!({"apiVersion": "v1", "kind": "A", "name": "a", "uid": n.to_string(), "controller": true});
    owned["metadata"]["ownerReferences"] = (0..30_000).map(owner).collect();
    let message = "Only one reference can have Controller set to true";
    let refused = server.post(MAPS, &owned).await.refused(422, "Invalid", message);
    assert!(refused.to_string().len() < 100_000);

    let mut labelled = map("labelled", &json!({}));
    for n in 0..MANY {
        labelled["metadata"]["labels"][format!("no label {n}")] = json!("");
    }
    let refused = server.post(MAPS, &labelled).await.refused(422, "Invalid", "no label");
    assert_eq!(refused["details"]["causes"].as_array().unwrap().len(), 1000);

    let mut crowded = pod("crowded");
    crowded["spec"]["containers"][0]["env"] = (0..MANY).map(|n| json!({"name": format!("V{n}")})).collect();
    server.post(&format!("{PODS}?dryRun=All"), &crowded).await.expect(201);

    let tolerations: Vec<Value> =
        (0..60_000).map(|n| json!({"key": format!("k{n}"), "operator": "Exists"})).collect();
    let class =
        json!({"metadata": {"name": "a"}, "handler": "h", "scheduling": {"tolerations": tolerations}});
    server.post("/apis/node.k8s.io/v1/runtimeclasses?dryRun=All", &class).await.expect(201);

    let mut tolerant = pod("tolerant");
    tolerant["spec"]["tolerations"] = json!(tolerations[..30_000]);
    let mut tolerant = server.create(PODS, &tolerant).await;
    tolerant["spec"]["tolerations"].as_array_mut().unwrap().push(json!({"operator": "Exists"}));
    server.put(&format!("{PODS}/tolerant"), &tolerant).await.expect(200);

    let actions: Vec<String> = (0..MANY).map(|n| n.to_string()).collect();
    let binding =
        json!({"metadata": {"name": "a"}, "spec": {"policyName": "p", "validationActions": actions}});
    let bindings = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
    server.post(bindings, &binding).await.refused(422, "Invalid", "validationActions[0]: Unsupported value");

    let mut definition = custom::definition();
    let spec = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": actions,
                      "items": {"type": "object", "required": actions}});
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    *definition.pointer_mut(schema).unwrap() = spec;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let message = "entries must all be names of item properties";
    server.post(definitions, &definition).await.refused(422, "Invalid", message);
}
