//! JSON to protobuf and back, for every kind there is.

use super::{
    knows, message_of, object, parse,
    table::{self, Field, Message, Shape},
    watch_event,
};
use crate::kinds;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Deep enough to reach a pod template's probes.
const DEPTH: usize = 9;

/// A value of a message, with what its fields can hold; never a zero, which says no more than absence.
fn random(message: &Message, random_of: &mut fastrand::Rng, depth: usize) -> Map<String, Value> {
    let mut map = Map::new();
    for field in &message.fields {
        // Fewer the deeper, or objects would explode.
        let skipped = random_of.usize(0..10) < if depth + 2 >= DEPTH { 2 } else { 6 };
        let nested = !field.sort.starts_with('!') && field.sort.len() > 1;
        if skipped || (nested && depth == 0) {
            continue;
        }
        if field.name == "-" {
            map.extend(
                table::message(field.sort).map(|m| random(m, random_of, depth - 1)).unwrap_or_default(),
            );
            continue;
        }
        let value = match field.shape {
            Shape::One => random_value(field, random_of, depth),
            Shape::List => {
                (0..random_of.usize(1..3)).map(|_| random_value(field, random_of, depth)).collect()
            }
            Shape::Map => {
                let entry = |n| (format!("key-{n}"), random_value(field, random_of, depth));
                Value::Object((0..2).map(entry).collect())
            }
        };
        map.insert(field.name.to_owned(), value);
    }
    map
}

fn random_value(field: &Field, random_of: &mut fastrand::Rng, depth: usize) -> Value {
    let text = |random_of: &mut fastrand::Rng| format!("text-{}-é", random_of.u16(..));
    match field.sort {
        "s" => text(random_of).into(),
        "y" => "/w==".into(),
        "b" => true.into(),
        "i" => [1i64, -1, 127, 128, 1 << 31, -(1 << 40)][random_of.usize(..6)].into(),
        "d" => 0.5.into(),
        "!quantity" => ["1", "100m", "1Gi"][random_of.usize(..3)].into(),
        "!intorstring" if random_of.bool() => random_of.u16(..).into(),
        "!intorstring" => "25%".into(),
        "!raw" => json!({"f:metadata": {"f:name": {}}}),
        "!time" => "2026-11-22T18:20:00Z".into(),
        "!microtime" => "2026-11-22T18:20:00.123456Z".into(),
        "!list" => json!(["a", "b"]),
        "!schemaorarray" => json!([{"type": "string"}, {"default": 0}]),
        "!schemaorbool" => {
            [json!(true), json!(false), json!({"type": "string"})][random_of.usize(..3)].clone()
        }
        "!schemaorstrings" => json!(["a", "b"]),
        name => match table::message(name) {
            Some(message) => Value::Object(random(message, random_of, depth.saturating_sub(1))),
            None => panic!("{name} is not in the table"),
        },
    }
}

#[test]
fn every_kind_and_its_list_are_known() {
    for kind in kinds::all() {
        let r = kind.resource();
        assert!(knows(&r.api_version(), r.kind), "{}/{}", r.api_version(), r.kind);
        assert!(knows(&r.api_version(), &kind.list_kind()), "{}", kind.list_kind());
    }
    assert!(knows("meta.k8s.io/v1", "PartialObjectMetadataList"));
    assert!(knows("v1", "Status"));
    assert!(!knows("example.com/v1", "Widget"));
}

#[test]
fn a_kind_without_a_message_has_no_form() {
    assert_eq!(object(br#"{"apiVersion":"example.com/v1","kind":"Widget"}"#), None);
    assert_eq!(object(b"no JSON"), None);
    assert_eq!(watch_event("ADDED", b"{}"), None);
}

#[test]
fn a_frame_tells_its_length_and_holds_the_envelope() {
    let map = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;
    let frame = watch_event("ADDED", map).unwrap();
    let (length, event) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, event.len());
    let inner = object(map).unwrap();
    assert_eq!(&event[..7], b"\x0a\x05ADDED");
    assert!(event.ends_with(&inner));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_on_the_way_to_protobuf_and_back(seed: u64) {
        let mut random_of = fastrand::Rng::with_seed(seed);
        for kind in kinds::all() {
            let (r, version) = (kind.resource(), kind.resource().api_version());
            let message = message_of(&version, r.kind).unwrap();
            let mut map = random(message, &mut random_of, DEPTH);
            map.insert("apiVersion".to_owned(), version.into());
            map.insert("kind".to_owned(), r.kind.into());
            let value = Value::Object(map);
            let written = object(value.to_string().as_bytes()).unwrap();
            prop_assert_eq!(parse(&written).unwrap(), value);
        }
    }
}

/// `Verbs` is the one named list that is a message, although it stands in no map.
#[test]
fn verbs_of_a_resource_are_a_message() {
    let list = json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
        {"name": "pods", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"]},
    ]});
    let packed = object(list.to_string().as_bytes()).unwrap();
    let verbs = b"\x22\x05\x0a\x03get";
    assert!(packed.windows(verbs.len()).any(|w| w == verbs), "{packed:x?}");
    assert_eq!(parse(&packed).unwrap()["resources"][0]["verbs"], json!(["get"]));
}
