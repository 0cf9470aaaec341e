//! Server-side apply: a manager says what it wants of an object, and owns what it said.
//!
//! The configuration is merged into the live object by the rules of its types; fields the manager applied before and
//! left out now go, unless someone else has them; a change to another manager's field is a conflict, unless forced.
//! See <https://kubernetes.io/docs/reference/using-api/server-side-apply/> and KEP-555.

use super::managed_fields::{
    self, Entry, Operation, Writer,
    set::Set,
    walk::{self, Merge},
};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, Subresource},
};
use serde_json::{Value, json};

/// Owner of what was there before an object was first applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// kubectl's manager name, and where its client-side apply keeps what it applied.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object after `writer` applied `config` to `live` (`None`: to nothing), `metadata.managedFields` included. The
/// result is still to be decoded, defaulted and validated. When nothing changed it is `live`, byte for byte.
///
/// # Errors
/// 400 for a configuration that is not one of this kind; [`ApiError::ApplyConflict`] with every conflict.
pub fn apply(
    kind: &dyn AnyKind,
    live: Option<&Value>,
    mut config: Value,
    writer: &Writer<'_>,
    force: bool,
    now: jiff::Timestamp,
) -> Result<Value> {
    let (manager, subresource) = (&*writer.name(), writer.part());
    let merge = managed_fields::whole_object(kind);
    check(kind, &config, merge)?;
    confine(kind, &mut config, subresource);
    let api_version = kind.resource().api_version();
    let applied = walk::fields(&config, merge);
    let mut own = Entry::new(manager, Operation::Apply, &api_version, subresource);
    own.fields = managed_fields::owned(kind, applied.clone(), subresource);
    own.time = Some(managed_fields::rfc3339(now));
    let Some(live) = live else {
        managed_fields::store(&mut config, &[own]);
        return Ok(config);
    };

    let mut others = managed_fields::entries(live).unwrap_or_default();
    let mut bare = live.clone();
    managed_fields::store(&mut bare, &[]);
    if others.is_empty() {
        let mut before = Entry::new(BEFORE_FIRST_APPLY, Operation::Update, &api_version, None);
        let fields = walk::compare(&json!({}), &bare, merge).added;
        before.fields = managed_fields::owned(kind, fields, None);
        before.time.clone_from(&own.time);
        others.push(before);
    }
    let last = others.iter().position(|e| e.same(&own)).map(|i| others.remove(i));

    let mut wanted = merged(bare.clone(), &config, merge);
    if let Some(last) = &last {
        let held = others.iter().fold(applied, |held, entry| held.union(&entry.fields));
        prune(&mut wanted, &last.fields, &held, merge);
    }
    let changes = walk::compare(&bare, &wanted, merge);
    let changed = managed_fields::owned(kind, changes.modified.union(&changes.added), subresource);
    let mut conflicts: Vec<(&Entry, Set)> =
        others.iter().map(|e| (e, e.fields.intersection(&changed))).collect();
    conflicts.retain(|(_, fields)| !fields.is_empty());
    if !force && manager == KUBECTL && !conflicts.is_empty() {
        // What kubectl set by client-side apply and nobody changed since was its own all along.
        let allowed = last_applied_fields(&bare, &api_version, merge);
        for (_, fields) in &mut conflicts {
            *fields = std::mem::take(fields).difference(&allowed);
        }
        conflicts.retain(|(_, fields)| !fields.is_empty());
    }
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    let unchanged = wanted == bare
        && last.as_ref().is_some_and(|l| l.fields == own.fields && l.api_version == own.api_version);
    if unchanged {
        return Ok(live.clone());
    }
    for entry in &mut others {
        entry.fields = std::mem::take(&mut entry.fields).difference(&changed).difference(&changes.removed);
    }
    others.push(own);
    if manager == KUBECTL {
        renew_last_applied(&mut wanted, &config);
    }
    managed_fields::store(&mut wanted, &others);
    Ok(wanted)
}

/// Refuses what is not a configuration of this kind.
fn check(kind: &dyn AnyKind, config: &Value, merge: Merge) -> Result<()> {
    let r = kind.resource();
    let bad = |text: String| Err(ApiError::BadRequest(text));
    if !config.is_object() {
        return bad("error decoding YAML: the configuration must be an object".to_owned());
    }
    let version = config["apiVersion"].as_str().unwrap_or_default();
    if version != r.api_version() {
        return bad(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            r.api_version()
        ));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return bad("metadata.managedFields must be nil".to_owned());
    }
    let faults = match kind.decode(config.clone()) {
        Err(why) => vec![why],
        Ok(decoded) => {
            let unknown = decoded.unknown.iter().map(|path| format!(".{path}: field not declared in schema"));
            unknown.chain(walk::check(config, merge)).collect()
        }
    };
    let faults = match faults.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => many.iter().fold("errors:".to_owned(), |text, fault| format!("{text}\n  {fault}")),
    };
    let text = |key: &str| config["metadata"][key].as_str().unwrap_or_default();
    let gvk = format!("{}, Kind={}", r.api_version(), r.kind);
    bad(format!(
        "failed to create typed patch object ({}/{}; {gvk}): {faults}",
        text("namespace"),
        text("name")
    ))
}

/// Takes out of a configuration what its endpoint cannot write.
fn confine(kind: &dyn AnyKind, config: &mut Value, subresource: Option<&str>) {
    let Some(config) = config.as_object_mut() else { return };
    match subresource {
        Some("status") => {
            config.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        }
        _ if kind.has(Subresource::Status) => {
            config.remove("status");
        }
        _ => {}
    }
}

/// `live` with everything `config` sets.
fn merged(live: Value, config: &Value, merge: Merge) -> Value {
    match (merge, live, config) {
        (Merge::Struct(_) | Merge::Map(_), Value::Object(mut live), Value::Object(config)) => {
            for (key, value) in config.iter().filter(|(_, v)| !v.is_null()) {
                let value = match live.remove(key) {
                    Some(old) => merged(old, value, merge.member(key)),
                    None => value.clone(),
                };
                live.insert(key.clone(), value);
            }
            Value::Object(live)
        }
        (Merge::Set | Merge::Keyed { .. }, Value::Array(live), Value::Array(config)) => {
            merged_list(live, config, merge)
        }
        (_, _, config) => config.clone(),
    }
}

/// The configuration's elements in its order; elements only the live list has stay where they were among those.
fn merged_list(live: Vec<Value>, config: &[Value], merge: Merge) -> Value {
    let steps: Vec<Option<String>> = config.iter().map(|item| merge.step(item).ok()).collect();
    let mut live: Vec<(Option<usize>, Option<Value>)> = live
        .into_iter()
        .map(|item| {
            let step = merge.step(&item).ok();
            (step.and_then(|step| steps.iter().position(|s| s.as_ref() == Some(&step))), Some(item))
        })
        .collect();
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut next = 0;
    for (i, item) in config.iter().enumerate() {
        // What only the server has goes out first, up to the next element that the configuration also has.
        while let Some((shared, value)) = live.get_mut(next) {
            match (shared, value.take()) {
                (None, Some(value)) => out.push(value),
                (Some(_), Some(kept)) => {
                    *value = Some(kept);
                    break;
                }
                (_, None) => {}
            }
            next += 1;
        }
        let old = live.iter_mut().find(|(shared, value)| *shared == Some(i) && value.is_some());
        out.push(match old.and_then(|(_, value)| value.take()) {
            Some(old) => merged(old, item, merge.element()),
            None => item.clone(),
        });
    }
    out.extend(
        live.into_iter().skip(next).filter(|(shared, _)| shared.is_none()).filter_map(|(_, value)| value),
    );
    Value::Array(out)
}

/// Removes what the manager had applied and nobody holds any more. A struct goes with its last held field; what
/// was named itself (list elements, map keys) goes unless someone else named it as well.
fn prune(value: &mut Value, last: &Set, held: &Set, merge: Merge) {
    let fate = |step: &str| {
        let node = last.get(step)?;
        let still = held.get(step).filter(|h| h.member || merge.is_struct());
        Some((&node.children, still.map(|h| &h.children)))
    };
    match value {
        Value::Object(map) => {
            for (step, _) in last.iter() {
                let Some(key) = step.strip_prefix("f:") else { continue };
                match fate(step) {
                    Some((_, None)) => {
                        map.remove(key);
                    }
                    Some((last, Some(held))) => {
                        if let Some(value) = map.get_mut(key) {
                            prune(value, last, held, merge.member(key));
                        }
                    }
                    None => {}
                }
            }
        }
        Value::Array(list) => list.retain_mut(|item| {
            let Ok(step) = merge.step(item) else { return true };
            match fate(&step) {
                Some((_, None)) => false,
                Some((last, Some(held))) => {
                    prune(item, last, held, merge.element());
                    true
                }
                None => true,
            }
        }),
        _ => {}
    }
}

fn conflict(conflicts: &[(&Entry, Set)]) -> ApiError {
    let who = |entry: &Entry| {
        let mut who = format!("{:?}", entry.manager);
        if !entry.subresource.is_empty() {
            who += &format!(" with subresource {:?}", entry.subresource);
        }
        if entry.operation == Operation::Update {
            who += &format!(" using {}", entry.api_version);
        }
        who
    };
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    let mut conflicts: Vec<(String, Vec<String>)> =
        conflicts.iter().map(|(entry, fields)| (who(entry), fields.paths())).collect();
    conflicts.sort();
    for (who, paths) in &conflicts {
        lines.push(format!("conflicts with {who}:"));
        for path in paths {
            lines.push(format!("- {path}"));
            causes.push((format!("conflict with {who}"), path.clone()));
        }
    }
    let message = match causes.as_slice() {
        [(text, path)] => format!("Apply failed with 1 conflict: {text}: {path}"),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    ApiError::ApplyConflict { message, causes }
}

fn last_applied(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|text| !text.is_empty())
}

/// The fields that client-side apply set and that still have the values it gave them.
fn last_applied_fields(live: &Value, api_version: &str, merge: Merge) -> Set {
    let config = last_applied(live).and_then(|text| serde_json::from_str::<Value>(text).ok());
    match config {
        Some(config) if config["apiVersion"] == api_version => {
            let changes = walk::compare(&config, live, merge);
            let fields = walk::fields(&config, merge);
            fields.difference(&changes.modified).difference(&changes.added).difference(&changes.removed)
        }
        _ => Set::default(),
    }
}

/// Keeps client-side apply's annotation in step, for users who go back to it.
fn renew_last_applied(object: &mut Value, config: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    object["metadata"]["annotations"][LAST_APPLIED] = Value::String(format!("{config}\n"));
}

#[cfg(test)]
mod tests {
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
        let mut made = pods(None, mine.clone(), "me").unwrap();
        // As the server defaults it.
        made["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP".into();
        let theirs = json!([{"name": "side"}, {"name": "a", "env": [{"name": "Y", "value": "2"}]}]);
        let both = pods(Some(&made), theirs, "you").unwrap();
        assert_eq!(
            both["spec"]["containers"],
            json!([{"name": "side"},
                   {"name": "a", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}])
        );
        assert!(owned_by(&both, "me").contains(
            &".spec.containers[name=\"a\"].ports[containerPort=80,protocol=\"TCP\"].containerPort".to_owned()
        ));
        // The port is matched although the configuration leaves out the protocol: nothing is doubled.
        assert_eq!(pods(Some(&both), mine, "me").unwrap(), both);
        let less = pods(Some(&both), json!([{"name": "a", "image": "1"}]), "me").unwrap();
        let rest = json!({"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}]});
        assert_eq!(less["spec"]["containers"], json!([{"name": "side"}, rest]));
        let gone = pods(Some(&less), json!([{"name": "a"}]), "you").unwrap();
        assert_eq!(gone["spec"]["containers"], json!([{"name": "a", "image": "1"}]));
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
        let subresources: Vec<_> =
            entries.iter().map(|e| (e.subresource.as_str(), e.fields.paths())).collect();
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
        let mut no_key = pod(json!([{"image": "x"}]));
        let twice = pod(json!([{"name": "a"}, {"name": "a"}]));
        let cases = [
            ("configmaps", json!([1]), "must be an object"),
            ("configmaps", wrong_version, "Specified patch version: v2, expected: v1"),
            ("configmaps", managed, "metadata.managedFields must be nil"),
            ("configmaps", unknown, "object (n/c; v1, Kind=ConfigMap): .dota: field not declared in schema"),
            (
                "configmaps",
                config_map(json!({"a": 1})),
                "failed to create typed patch object (n/c; v1, Kind=ConfigMap)",
            ),
            (
                "pods",
                no_key.take(),
                "element 0: associative list with keys has an element that omits key field \"name\"",
            ),
            ("pods", twice, ".spec.containers: duplicate entries for key [name=\"a\"]"),
        ];
        for (plural, config, text) in cases {
            let error = apply(kind("", plural), None, config, &writer("me"), false, at(1)).unwrap_err();
            assert_eq!(error.code(), 400);
            assert!(error.to_string().contains(text), "{error}");
        }
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
}
