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
    let tolerations = spec(json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": [{"key": "b"}]}));
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
    let patch =
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]});
    assert_eq!(spec(current.clone(), patch), json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}));
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
        (json!({"containers": [{"$patch": "merge", "name": "a"}]}), "merging lists cannot yet be specified"),
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
    list.iter().map(|(name, image)| json!({"name": name.to_string(), "image": image.to_string()})).collect()
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

/// The definition, word for word: an element of the patch changes the first live one of its key, or is new; new ones
/// come first, and what both sides have keeps the live order.
fn plainly(live: &[(u8, u8)], patch: &[(u8, u8)]) -> Vec<(u8, u8)> {
    let mut merged: Vec<(u8, u8)> = live.to_vec();
    for (key, value) in patch {
        match merged.iter_mut().find(|(k, _)| k == key) {
            Some(item) => item.1 = *value,
            None => merged.push((*key, *value)),
        }
    }
    let at = |list: &[(u8, u8)], key: u8| list.iter().position(|(k, _)| *k == key);
    let (mut patched, mut rest): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|(k, _)| at(patch, *k).is_some());
    patched.sort_by_key(|(k, _)| at(patch, *k));
    rest.sort_by_key(|(k, _)| at(live, *k));
    let mut out = Vec::new();
    while !patched.is_empty() || !rest.is_empty() {
        let server_first = match (rest.first(), patched.first()) {
            (Some((server, _)), Some((new, _))) => {
                at(live, *new).is_some_and(|new| at(live, *server).is_some_and(|server| server < new))
            }
            (server, _) => server.is_some(),
        };
        out.push(if server_first { rest.remove(0) } else { patched.remove(0) });
    }
    out
}

fn env(pairs: &[(u8, u8)]) -> Value {
    pairs.iter().map(|(k, v)| json!({"name": k.to_string(), "value": v.to_string()})).collect()
}

proptest! {
    #[test]
    fn looking_up_by_hash_is_looking_through(
        live in prop::collection::vec((0u8..12, 0u8..4), 0..14),
        patch in prop::collection::vec((0u8..12, 0u8..4), 1..14),
    ) {
        let of = |pairs: &[(u8, u8)]| json!({"containers": [{"name": "a", "env": env(pairs)}]});
        let merged = spec(of(&live), of(&patch));
        prop_assert_eq!(&merged["containers"][0]["env"], &env(&plainly(&live, &patch)));
    }
}

#[test]
fn long_lists_merge_in_one_pass() {
    // Quadratic, this would take minutes in a debug build.
    let of = |step: usize| -> Value {
        (0..50_000)
            .step_by(step)
            .map(|i| json!({"name": format!("v{i}"), "value": step.to_string()}))
            .collect()
    };
    let object = |env: Value| json!({"containers": [{"name": "a", "env": env}]});
    let merged = spec(object(of(1)), object(of(2)));
    assert_eq!(merged["containers"][0]["env"].as_array().map(Vec::len), Some(50_000));
}
