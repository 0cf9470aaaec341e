//! Strategic merge patch: a merge patch that knows which lists merge by a key.
//!
//! A patch is the partial object plus directives: `$patch: delete|replace` in a map or a list element,
//! `$retainKeys`, `$deleteFromPrimitiveList/<list>` and `$setElementOrder/<list>`. The rules are those of
//! <https://git.k8s.io/community/contributors/devel/sig-api-machinery/strategic-merge-patch.md>; order of merged
//! lists: `$setElementOrder`, else new elements first and each list's own order kept. Where a directive is malformed
//! we answer 400, also in the few places where Kubernetes answers 500.

use crate::{
    error::{ApiError, Result},
    openapi::markers::{Field, Shape, TypeId},
};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `current`, both whole objects of type `schema`.
///
/// # Errors
/// 400 for a malformed patch.
pub fn merge(current: Value, patch: Value, schema: Option<TypeId>) -> Result<Value> {
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return bad("invalid JSON document");
    };
    Ok(Value::Object(merge_map(current, patch, schema)?))
}

fn bad<T>(text: impl Into<String>) -> Result<T> {
    Err(ApiError::BadRequest(text.into()))
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    schema: Option<TypeId>,
) -> Result<Map<String, Value>> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(without_directives_map(patch)),
            Some("delete") => Ok(Map::new()),
            _ => bad(format!("unknown patch type: {directive} in map")),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    order_elements(&mut original, &mut patch, schema)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            delete_from(&mut original, list, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let field = schema.and_then(|s| s.get().field(&key));
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let replace = field.is_some_and(|f| f.replace);
                Some(Value::Object(if replace { new } else { merge_map(old, new, element(field))? }))
            }
            (Some(Value::Array(old)), Value::Array(new)) => Some(Value::Array(merge_field(old, new, field)?)),
            (_, new) => without_directives(new),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// The struct inside a field, whatever the container.
fn element(field: Option<&Field>) -> Option<TypeId> {
    match field?.shape {
        Shape::Struct(id) | Shape::List(Some(id)) | Shape::Map(Some(id)) => Some(id),
        _ => None,
    }
}

/// `$retainKeys`: what the list does not name goes, as the members of a union do when another is set.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<()> {
    const MALFORMED: &str = "invalid patch format of retainKeys";
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(retained) = retained else { return bad(MALFORMED) };
    let retains = |key: &str| retained.iter().any(|r| r.as_str() == Some(key));
    let unlisted = patch.iter().any(|(key, value)| {
        !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(ELEMENT_ORDER) && !retains(key)
    });
    if unlisted {
        return bad(MALFORMED);
    }
    original.retain(|key, _| retains(key));
    Ok(())
}

fn delete_from(original: &mut Map<String, Value>, list: &str, gone: &Value) -> Result<()> {
    let Some(gone) = gone.as_array() else { return bad("invalid patch format of primitive list") };
    if let Some(Value::Array(live)) = original.get_mut(list) {
        live.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// Handles every `$setElementOrder/<list>` together with the patch of that list, and takes both out of the patch.
fn order_elements(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    schema: Option<TypeId>,
) -> Result<()> {
    const MALFORMED: &str = "invalid patch format of setElementOrder list";
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else { return bad(MALFORMED) };
        let name = &directive[ELEMENT_ORDER.len()..];
        let field = schema.and_then(|s| s.get().field(name));
        let key = field.and_then(|f| f.merge_key);
        let list = |value: Option<Value>| match value {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => bad(MALFORMED),
        };
        let patched = list(patch.remove(name))?;
        let live = list(original.remove(name))?;
        if let Some(patched) = &patched {
            follows(patched, &order, key)?;
        }
        let merged = match (&live, patched) {
            (Some(live), None) => live.clone(),
            (None, Some(patched)) => without_directives_list(patched),
            (Some(live), Some(patched)) => merge_field(live.clone(), patched, field)?,
            (None, None) => continue,
        };
        let (ordered, rest) = merged.into_iter().partition(|item| position(&order, item, key).is_some());
        let merged = interleave(ordered, rest, &order, &live.unwrap_or_default(), key);
        original.insert(name.to_owned(), Value::Array(merged));
    }
    Ok(())
}

/// Checks that the patch's elements stand in the list of their order, in that order.
fn follows(patched: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in patched.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if let Some(key) = key {
            merge_key(item, key)?;
        }
        if !rest.any(|o| same(o, item, key)) {
            let show = |list: &[Value]| serde_json::to_string(list).unwrap_or_default();
            return bad(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                show(patched),
                show(order)
            ));
        }
    }
    Ok(())
}

fn merge_field(original: Vec<Value>, patch: Vec<Value>, field: Option<&Field>) -> Result<Vec<Value>> {
    match field {
        Some(f) if f.merge => merge_list(original, patch, element(field), f.merge_key),
        _ => Ok(without_directives_list(patch)),
    }
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    schema: Option<TypeId>,
    key: Option<&str>,
) -> Result<Vec<Value>> {
    if patch.is_empty() {
        return Ok(original);
    }
    check_elements(&original, &patch)?;
    let Some(key) = key.filter(|_| patch[0].is_object()) else {
        if patch[0].is_object() {
            return bad("cannot merge lists without merge key");
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        let (patched, rest) = merged.into_iter().partition(|item| patch.contains(item));
        return Ok(interleave(patched, rest, &patch, &original, None));
    };
    let (live, patch) = element_directives(original, patch, key)?;
    let mut merged = live.clone();
    let mut order = Vec::with_capacity(patch.len());
    for item in patch {
        let wanted = merge_key(&item, key)?.clone();
        order.push(Value::Object(Map::from_iter([(key.to_owned(), wanted)])));
        match (position(&merged, &item, Some(key)), item) {
            (Some(at), Value::Object(new)) => {
                if let Value::Object(old) = merged[at].take() {
                    merged[at] = Value::Object(merge_map(old, new, schema)?);
                }
            }
            (_, item) => merged.extend(without_directives(item)),
        }
    }
    let (patched, rest) = merged.into_iter().partition(|item| position(&order, item, Some(key)).is_some());
    Ok(interleave(patched, rest, &order, &live, Some(key)))
}

/// Carries out `$patch` in list elements: what is left of the original and of the patch.
fn element_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE).map(Value::as_str) {
            None => plain.push(item),
            Some(Some("replace")) => replace = true,
            Some(Some("delete")) => {
                let gone = merge_key(&item, key)?;
                original.retain(|o| o.get(key) != Some(gone));
            }
            Some(Some("merge")) => return bad("merging lists cannot yet be specified in the patch"),
            Some(_) => return bad(format!("unknown patch type: {} in map", item[DIRECTIVE])),
        }
    }
    Ok(if replace { (Vec::new(), plain) } else { (original, plain) })
}

fn check_elements(original: &[Value], patch: &[Value]) -> Result<()> {
    let mut sorts = original.iter().chain(patch).map(std::mem::discriminant);
    let first = sorts.next();
    if sorts.any(|sort| Some(sort) != first) {
        return bad("list element types are not identical");
    }
    if patch.iter().any(Value::is_array) {
        return bad("lists of lists are not supported");
    }
    Ok(())
}

fn merge_key<'a>(item: &'a Value, key: &str) -> Result<&'a Value> {
    match item.get(key) {
        Some(value) => Ok(value),
        None => bad(format!("map: {item} does not contain declared merge key: {key}")),
    }
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some_and(|a| b.get(key) == Some(a)),
        None => a == b,
    }
}

fn position(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| same(other, item, key))
}

/// Joins the elements that the patch orders with those only the server has: each in its own order, and where both
/// were in the live list, as they stood there. Elements new with the patch come before the server's.
fn interleave(
    mut patched: Vec<Value>,
    mut rest: Vec<Value>,
    order: &[Value],
    live: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    patched.sort_by_key(|item| position(order, item, key));
    rest.sort_by_key(|item| position(live, item, key));
    let mut out = Vec::with_capacity(patched.len() + rest.len());
    let mut patched = patched.into_iter().peekable();
    let mut rest = rest.into_iter().peekable();
    loop {
        let server_first = match (rest.peek(), patched.peek()) {
            (Some(server), Some(new)) => match (position(live, server, key), position(live, new, key)) {
                (Some(server), Some(new)) => server < new,
                _ => false,
            },
            (server, _) => server.is_some(),
        };
        match if server_first { rest.next() } else { patched.next() } {
            Some(item) => out.push(item),
            None => return out,
        }
    }
}

/// The value to store where the original had none: without directives and, as in a merge patch, without nulls.
/// `None` when the whole value is a directive.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(Value::Object(without_directives_map(map))),
        Value::Array(list) => Some(Value::Array(without_directives_list(list))),
        scalar => Some(scalar),
    }
}

fn without_directives_map(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .filter(|(key, value)| {
            let directive =
                key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER);
            !directive && !value.is_null()
        })
        .filter_map(|(key, value)| Some((key, without_directives(value)?)))
        .collect()
}

fn without_directives_list(list: Vec<Value>) -> Vec<Value> {
    list.into_iter().filter_map(without_directives).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::markers;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(current: Value, patch: Value) -> Result<Value> {
        merge(current, patch, markers::of_definition("io.k8s.api.core.v1.Pod"))
    }
    fn spec(current: Value, patch: Value) -> Value {
        pod(json!({"spec": current}), json!({"spec": patch})).unwrap()["spec"].take()
    }
    fn fault(current: Value, patch: Value) -> String {
        let error = pod(json!({"spec": current}), json!({"spec": patch})).unwrap_err();
        assert_eq!(error.code(), 400);
        error.to_string()
    }

    #[test]
    fn maps_merge_and_null_deletes() {
        let merged = pod(
            json!({"metadata": {"labels": {"a": "1", "b": "2"}, "name": "x"}}),
            json!({"metadata": {"labels": {"a": "9", "b": null, "c": "3", "d": null}}}),
        );
        assert_eq!(merged.unwrap(), json!({"metadata": {"labels": {"a": "9", "c": "3"}, "name": "x"}}));
        assert_eq!(spec(json!({}), json!({"affinity": {"nodeAffinity": null}})), json!({"affinity": {}}));
        assert_eq!(spec(json!({"hostname": "a"}), json!({"hostname": "b"})), json!({"hostname": "b"}));
    }

    #[test]
    fn lists_with_a_key_merge_by_it_and_others_are_replaced() {
        let merged = spec(
            json!({"containers": [
                {"name": "a", "image": "1", "command": ["x", "y"],
                 "ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 81}],
                 "env": [{"name": "A", "value": "1"}]},
                {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "2", "command": ["z"],
                "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "B", "value": "2"}]}]}),
        );
        assert_eq!(
            merged,
            json!({"containers": [
                {"name": "a", "image": "2", "command": ["z"],
                 "ports": [{"containerPort": 80, "name": "web", "protocol": "TCP"}, {"containerPort": 81}],
                 "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]},
                {"name": "b"}]})
        );
        let tolerations =
            spec(json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": [{"key": "b"}]}));
        assert_eq!(tolerations, json!({"tolerations": [{"key": "b"}]}));
    }

    #[test]
    fn owner_references_merge_by_uid_and_finalizers_by_value() {
        let current = json!({"metadata": {"ownerReferences": [{"uid": "1"}], "finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"ownerReferences": [{"uid": "2"}], "finalizers": ["b", "c"]}});
        assert_eq!(
            pod(current.clone(), patch).unwrap(),
            json!({"metadata": {"ownerReferences": [{"uid": "2"}, {"uid": "1"}], "finalizers": ["a", "b", "c"]}})
        );
        let patch = json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": "1"}],
                                        "$deleteFromPrimitiveList/finalizers": ["a", "z"]}});
        assert_eq!(
            pod(current, patch).unwrap(),
            json!({"metadata": {"ownerReferences": [], "finalizers": ["b"]}})
        );
    }

    #[test]
    fn directives_delete_and_replace() {
        let current = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}});
        let patched = |patch| spec(current.clone(), patch);
        assert_eq!(
            patched(json!({"containers": [{"$patch": "delete", "name": "a"}]}))["containers"],
            json!([{"name": "b"}])
        );
        assert_eq!(
            patched(json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}))["containers"],
            json!([{"name": "c"}])
        );
        assert_eq!(
            patched(json!({"nodeSelector": {"$patch": "replace", "y": "2"}}))["nodeSelector"],
            json!({"y": "2"})
        );
        assert_eq!(patched(json!({"nodeSelector": {"$patch": "delete"}}))["nodeSelector"], json!({}));
        // Directives about what is not there leave no trace.
        assert_eq!(
            patched(
                json!({"dnsConfig": {"$patch": "delete"}, "initContainers": [{"$patch": "delete", "name": "q"}]})
            ),
            json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}, "initContainers": []})
        );
    }

    #[test]
    fn retain_keys_clears_the_other_members_of_a_union() {
        let current = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        let patch = json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]});
        assert_eq!(
            spec(current.clone(), patch),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]})
        );
        let unlisted = json!({"volumes": [{"name": "v", "hostPath": {}, "$retainKeys": ["name"]}]});
        assert_eq!(fault(current, unlisted), "invalid patch format of retainKeys");
    }

    #[test]
    fn element_order_is_obeyed_and_the_servers_own_elements_keep_their_place() {
        let current = json!({"containers": [{"name": "a"}, {"name": "side"}, {"name": "b"}]});
        let patch = json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
                           "containers": [{"name": "new", "image": "n"}]});
        assert_eq!(
            spec(current.clone(), patch)["containers"],
            json!([{"name": "side"}, {"name": "b"}, {"name": "new", "image": "n"}, {"name": "a"}])
        );
        let only_order = json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]});
        assert_eq!(
            spec(current.clone(), only_order)["containers"],
            json!([{"name": "side"}, {"name": "b"}, {"name": "a"}])
        );
        let wrong = json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]});
        assert!(fault(current, wrong).contains("doesn't match $setElementOrder list"));
        assert_eq!(
            spec(
                json!({}),
                json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a"}]})
            ),
            json!({"containers": [{"name": "a"}]})
        );
        let finalizers = pod(
            json!({"metadata": {"finalizers": ["x", "y"]}}),
            json!({"metadata": {"$setElementOrder/finalizers": ["z", "x"], "finalizers": ["z"],
                                "$deleteFromPrimitiveList/finalizers": ["y"]}}),
        );
        assert_eq!(finalizers.unwrap(), json!({"metadata": {"finalizers": ["z", "x"]}}));
    }

    #[test]
    fn malformed_patches_are_refused() {
        let current = json!({"containers": [{"name": "a"}]});
        let cases = [
            (json!({"containers": [{"image": "x"}]}), "does not contain declared merge key: name"),
            (json!({"containers": ["x"]}), "list element types are not identical"),
            (
                json!({"containers": [{"$patch": "merge", "name": "a"}]}),
                "merging lists cannot yet be specified",
            ),
            (json!({"containers": [{"$patch": 1, "name": "a"}]}), "unknown patch type: 1"),
            (json!({"$patch": "frob"}), "unknown patch type: \"frob\""),
            (json!({"$setElementOrder/containers": 1}), "invalid patch format of setElementOrder list"),
            (json!({"$deleteFromPrimitiveList/x": 1}), "invalid patch format of primitive list"),
            (json!({"$retainKeys": "x"}), "invalid patch format of retainKeys"),
        ];
        for (patch, text) in cases {
            assert!(fault(current.clone(), patch.clone()).contains(text), "{patch}");
        }
        assert!(pod(json!({}), json!([])).is_err());
    }

    fn names() -> impl Strategy<Value = Vec<(u8, u8)>> {
        prop::collection::btree_map(0u8..8, 0u8..4, 0..8)
            .prop_map(|m| m.into_iter().collect::<Vec<_>>())
            .prop_shuffle()
    }
    fn containers(list: &[(u8, u8)]) -> Value {
        list.iter()
            .map(|(name, image)| json!({"name": name.to_string(), "image": image.to_string()}))
            .collect()
    }

    proptest! {
        /// Upsert by name: what the patch names has the patch's image, everything else is as it was, nothing is lost
        /// or doubled, the patch's elements stand in the patch's order and applying it again changes nothing.
        #[test]
        fn a_list_patch_is_an_upsert(live in names(), patch in names()) {
            let current = json!({"spec": {"containers": containers(&live)}});
            let body = json!({"spec": {"containers": containers(&patch)}});
            let merged = pod(current, body.clone()).unwrap();
            let list = merged["spec"]["containers"].as_array().unwrap();
            let image = |all: &[(u8, u8)], name: &str| {
                all.iter().find(|(n, _)| n.to_string() == name).map(|(_, i)| i.to_string())
            };
            let distinct: std::collections::BTreeSet<_> = live.iter().chain(&patch).map(|(n, _)| n).collect();
            prop_assert_eq!(list.len(), distinct.len());
            for item in list {
                let name = item["name"].as_str().unwrap();
                let wanted = image(&patch, name).or(image(&live, name));
                prop_assert_eq!(item["image"].as_str().map(str::to_owned), wanted);
            }
            let order = |all: &[(u8, u8)]| {
                let of = |v: &Value| all.iter().position(|(n, _)| n.to_string() == v["name"].as_str().unwrap());
                list.iter().filter_map(of).collect::<Vec<_>>()
            };
            prop_assert!(order(&patch).is_sorted());
            prop_assert_eq!(pod(merged.clone(), body).unwrap(), merged);
        }

        /// kubectl's way of saying "this whole list": order, new elements and deletions give exactly the wanted list.
        #[test]
        fn order_and_deletions_give_the_wanted_list(live in names(), wanted in names()) {
            let gone = live.iter().filter(|(n, _)| !wanted.iter().any(|(w, _)| w == n));
            let mut elements = containers(&wanted).as_array().unwrap().clone();
            elements.extend(gone.map(|(n, _)| json!({"$patch": "delete", "name": n.to_string()})));
            let order: Value = wanted.iter().map(|(n, _)| json!({"name": n.to_string()})).collect();
            let patch = json!({"spec": {"$setElementOrder/containers": order, "containers": elements}});
            let current = json!({"spec": {"containers": containers(&live)}});
            prop_assert_eq!(&pod(current, patch).unwrap()["spec"]["containers"], &containers(&wanted));
        }
    }
}
