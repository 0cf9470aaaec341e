use super::*;
use crate::kinds;
use proptest::prelude::*;

fn kind(group: &str, plural: &str) -> &'static dyn AnyKind {
    kinds::by_plural(group, "v1", plural).unwrap()
}
fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_800_000_000 + second).unwrap()
}
fn writer(name: &str) -> Writer<'_> {
    Writer { field_manager: name, ..Writer::default() }
}
fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": data})
}
fn maps(live: Option<&Value>, data: Value, manager: &str, force: bool) -> Result<Value> {
    apply(kind("", "configmaps"), live, config_map(data), &writer(manager), force, at(1))
}
fn pod(containers: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
           "spec": {"containers": containers}})
}
fn pods(live: Option<&Value>, containers: Value, manager: &str) -> Result<Value> {
    apply(kind("", "pods"), live, pod(containers), &writer(manager), false, at(1))
}
/// Whether `object` has all of `part`; lists in full length.
fn has(object: &Value, part: &Value) -> bool {
    match (object, part) {
        (Value::Object(object), Value::Object(part)) => {
            part.iter().all(|(k, v)| object.get(k).is_some_and(|o| has(o, v)))
        }
        (Value::Array(object), Value::Array(part)) => {
            object.len() == part.len() && object.iter().zip(part).all(|(o, p)| has(o, p))
        }
        _ => object == part,
    }
}
#[track_caller]
fn assert_has(object: &Value, part: Value) {
    assert!(has(object, &part), "{object} lacks some of {part}");
}
fn owned_by(object: &Value, manager: &str) -> Vec<String> {
    let entries = managed_fields::entries(object).unwrap_or_default();
    entries.iter().filter(|e| e.manager == manager).flat_map(|e| e.fields.paths()).collect()
}

#[test]
fn the_first_apply_creates_and_owns_what_it_said() {
    let made = maps(None, json!({"a": "1"}), "me", false).unwrap();
    assert_eq!(made["data"], json!({"a": "1"}));
    assert_eq!(
        made["metadata"]["managedFields"],
        json!([{"manager": "me", "operation": "Apply", "apiVersion": "v1", "time": "2027-01-15T08:00:01Z",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}])
    );
}

#[test]
fn fields_left_out_go_and_others_stay() {
    let made = maps(None, json!({"a": "1", "b": "1"}), "me", false).unwrap();
    let both = maps(Some(&made), json!({"b": "1", "c": "1"}), "you", false).unwrap();
    assert_eq!(both["data"], json!({"a": "1", "b": "1", "c": "1"}));
    let less = maps(Some(&both), json!({}), "me", false).unwrap();
    assert_eq!(less["data"], json!({"b": "1", "c": "1"}), "b is shared, c is another's");
    assert_eq!(owned_by(&less, "me"), [".data"]);
    assert_eq!(owned_by(&less, "you"), [".data.b", ".data.c"]);
}

#[test]
fn another_managers_field_is_a_conflict_until_forced() {
    let made = maps(None, json!({"a": "1", "b": "1"}), "me", false).unwrap();
    let error = maps(Some(&made), json!({"a": "2"}), "you", false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"me\": .data.a");
    let status = error.status();
    assert_eq!((status["code"].as_u64(), status["reason"].as_str()), (Some(409), Some("Conflict")));
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"me\"", "field": ".data.a"}])
    );
    let error = maps(Some(&made), json!({"a": "2", "b": "2"}), "you", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"me\":\n- .data.a\n- .data.b"
    );
    let forced = maps(Some(&made), json!({"a": "2"}), "you", true).unwrap();
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}));
    assert_eq!(owned_by(&forced, "me"), [".data.b"]);
    assert_eq!(owned_by(&forced, "you"), [".data.a"]);
}

#[test]
fn applying_the_same_again_changes_nothing_at_all() {
    let made = maps(None, json!({"a": "1"}), "me", false).unwrap();
    let again = apply(
        kind("", "configmaps"),
        Some(&made),
        config_map(json!({"a": "1"})),
        &writer("me"),
        false,
        at(99),
    );
    assert_eq!(again.unwrap(), made);
}

#[test]
fn what_was_there_before_belongs_to_before_first_apply() {
    let live = config_map(json!({"a": "1"}));
    let same = maps(Some(&live), json!({"a": "1", "b": "2"}), "me", false).unwrap();
    assert_eq!(owned_by(&same, "before-first-apply"), [".data", ".data.a"]);
    assert_eq!(owned_by(&same, "me"), [".data.a", ".data.b"]);
    let error = maps(Some(&live), json!({"a": "2"}), "me", false).unwrap_err().to_string();
    assert!(error.ends_with("conflict with \"before-first-apply\" using v1: .data.a"), "{error}");
}

#[test]
fn kubectl_takes_over_what_its_client_side_apply_set() {
    let mut live = config_map(json!({"a": "1", "b": "changed by hand"}));
    let last = config_map(json!({"a": "1", "b": "1"})).to_string();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: last});
    let taken = maps(Some(&live), json!({"a": "2"}), "kubectl", false).unwrap();
    assert_eq!(taken["data"]["a"], "2");
    let annotation = taken["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(annotation).unwrap(), config_map(json!({"a": "2"})));
    let error = maps(Some(&live), json!({"a": "2", "b": "2"}), "kubectl", false).unwrap_err();
    assert!(error.to_string().ends_with("using v1: .data.b"), "{error}");
    assert!(maps(Some(&live), json!({"a": "2"}), "other", false).is_err());
}

#[test]
fn list_elements_merge_by_their_keys_with_defaults() {
    let mine = json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}], "env": [{"name": "X", "value": "1"}]}]);
    let made = pods(None, mine.clone(), "me").unwrap();
    let theirs = json!([{"name": "side"}, {"name": "a", "env": [{"name": "Y", "value": "2"}]}]);
    let both = pods(Some(&made), theirs, "you").unwrap();
    assert_has(
        &both["spec"]["containers"],
        json!([{"name": "side"},
               {"name": "a", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]),
    );
    let port = ".spec.containers[name=\"a\"].ports[containerPort=80,protocol=\"TCP\"].containerPort";
    assert!(owned_by(&both, "me").contains(&port.to_owned()));
    // The port is matched although the configuration leaves out the protocol: nothing is doubled.
    assert_eq!(pods(Some(&both), mine, "me").unwrap(), both);
    let less = pods(Some(&both), json!([{"name": "a", "image": "1"}]), "me").unwrap();
    let rest = json!({"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}]});
    assert_has(&less["spec"]["containers"], json!([{"name": "side"}, rest]));
    assert!(less["spec"]["containers"][1].get("ports").is_none());
    let gone = pods(Some(&less), json!([{"name": "a"}]), "you").unwrap();
    assert_has(&gone["spec"]["containers"], json!([{"name": "a", "image": "1"}]));
    assert!(gone["spec"]["containers"][0].get("env").is_none());
}

#[test]
fn what_means_the_same_is_no_conflict() {
    let cpu = |cpu: Value| json!([{"name": "a", "resources": {"requests": {"cpu": cpu}}}]);
    let made = pods(None, cpu(json!("1")), "me").unwrap();
    let same = pods(Some(&made), cpu(json!(1)), "you").unwrap();
    assert!(
        owned_by(&same, "you").contains(&".spec.containers[name=\"a\"].resources.requests.cpu".to_owned())
    );
    assert!(pods(Some(&made), cpu(json!(2)), "you").is_err());
}

#[test]
fn status_belongs_to_its_own_endpoint() {
    let mut config = pod(json!([{"name": "a"}]));
    config["status"] = json!({"phase": "Running"});
    let pods = kind("", "pods");
    let made = apply(pods, None, config.clone(), &writer("me"), false, at(1)).unwrap();
    assert!(made.get("status").is_none());
    let status = Writer { subresource: "status", ..writer("me") };
    let with_status = apply(pods, Some(&made), config, &status, false, at(2)).unwrap();
    assert_eq!(with_status["status"]["phase"], "Running");
    let entries = managed_fields::entries(&with_status).unwrap();
    let subresources: Vec<_> = entries.iter().map(|e| (e.subresource.as_str(), e.fields.paths())).collect();
    assert_eq!(subresources[1], ("status", vec![".status.phase".to_owned()]));
    assert_eq!(subresources[0].0, "");
}

#[test]
fn bad_configurations_are_refused() {
    let mut wrong_version = config_map(json!({}));
    wrong_version["apiVersion"] = "v2".into();
    let mut managed = config_map(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    let mut unknown = config_map(json!({}));
    unknown["dota"] = json!({});
    let no_key = pod(json!([{"image": "x"}]));
    let twice = pod(json!([{"name": "a"}, {"name": "a"}]));
    let cases = [
        (
            "configmaps",
            json!([1]),
            400,
            "json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        ("configmaps", wrong_version, 400, "invalid object type: /v2, Kind=ConfigMap"),
        ("configmaps", json!(null), 400, "invalid object type: /, Kind="),
        ("pods", config_map(json!({})), 400, "invalid object type: /v1, Kind=ConfigMap"),
        ("configmaps", managed, 400, "metadata.managedFields must be nil"),
        (
            "configmaps",
            unknown,
            500,
            "object (n/c; /v1, Kind=ConfigMap): .dota: field not declared in schema",
        ),
        (
            "configmaps",
            config_map(json!({"a": 1})),
            500,
            "failed to create typed patch object (n/c; /v1, Kind=ConfigMap)",
        ),
        ("pods", twice, 500, ".spec.containers: duplicate entries for key [name=\"a\"]"),
    ];
    for (plural, config, code, text) in cases {
        let error = apply(kind("", plural), None, config, &writer("me"), false, at(1)).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        // Not our fault, but no reason that clients know either.
        assert_eq!(error.status().get("reason").is_none(), code == 500);
    }
    // A missing key is for validation to tell of.
    apply(kind("", "pods"), None, no_key, &writer("me"), false, at(1)).unwrap();
}

#[test]
fn lists_keep_the_servers_elements_in_place() {
    let merge = Merge::Set;
    let cases = [
        (json!(["a", "b"]), json!(["c"]), json!(["a", "b", "c"])),
        (json!(["a", "b", "x"]), json!(["b", "a"]), json!(["b", "a", "x"])),
        (json!(["s", "a", "t", "b"]), json!(["a", "n", "b"]), json!(["s", "a", "t", "n", "b"])),
        (json!([]), json!(["a"]), json!(["a"])),
    ];
    for (live, config, expected) in cases {
        assert_eq!(merged(live, &config, merge), expected);
    }
}

fn data() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", "[12]", 0..4).prop_map(|m| json!(m))
}

proptest! {
    /// Whatever was applied before: afterwards the object has what was applied last, with force always, and
    /// applying it again changes nothing.
    #[test]
    fn an_apply_gets_what_it_wants(first in data(), second in data(), third in data()) {
        let live = maps(None, first, "one", false).unwrap();
        let live = maps(Some(&live), second.clone(), "two", true).unwrap();
        for (key, value) in second.as_object().unwrap() {
            prop_assert_eq!(&live["data"][key], value);
        }
        let live = maps(Some(&live), third.clone(), "one", true).unwrap();
        for (key, value) in third.as_object().unwrap() {
            prop_assert_eq!(&live["data"][key], value);
        }
        for key in live["data"].as_object().into_iter().flatten().map(|(k, _)| k) {
            let owners = owned_by(&live, "one").into_iter().chain(owned_by(&live, "two"));
            prop_assert!(owners.into_iter().any(|p| p == format!(".data.{key}")), "{} has no owner", key);
        }
        prop_assert_eq!(maps(Some(&live), third, "one", false).unwrap(), live);
    }
}
