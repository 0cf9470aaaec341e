//! A custom kind in the published OpenAPI: its schema with what every object has, and the plainer form of v2.

use super::CustomKind;
use crate::kinds::AnyKind;
use api::resource::Resource;
use serde_json::{Map, Value, json};

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
    convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this \
    from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const EMBEDDED_API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const CONVENTIONS: &str =
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const SELECTABLE: &str = "x-kubernetes-selectable-fields";
const OBJECT_META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The group's parts in reverse, then version and kind: `com.example.stable.v1.CronTab`.
fn definition_name(resource: &Resource) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.extend([resource.version, resource.kind]);
    parts.join(".")
}

impl CustomKind {
    /// The name of its definition and the definition.
    pub(crate) fn definition(&self, v2: bool) -> (String, Value) {
        let mut schema = publish(self.published(), v2);
        if let Some(paths) = self.selectable_paths() {
            schema[SELECTABLE] = paths;
        }
        (definition_name(self.resource()), schema)
    }

    /// What its list has beside what every list has.
    pub(crate) fn complete_list(&self, list: &mut Value) {
        let Resource { kind, plural, .. } = self.resource();
        list["description"] = format!("{} is a list of {kind}", self.list_kind()).into();
        list["properties"]["items"]["description"] =
            format!("List of {plural}. More info: {CONVENTIONS}").into();
        if let Some(paths) = self.selectable_paths() {
            list[SELECTABLE] = paths;
        }
    }

    /// The fields that selectors may name (KEP-4358).
    fn selectable_paths(&self) -> Option<Value> {
        let paths: Vec<Value> = self.selectable().iter().map(|path| json!({"fieldPath": path})).collect();
        (!paths.is_empty()).then_some(Value::Array(paths))
    }
}

/// A written schema as readers need it.
///
/// In version 2 a root that keeps unknown fields tells no properties: kubectl takes those told for all there are.
pub(super) fn publish(written: &Value, v2: bool) -> Value {
    if written.is_null() || (v2 && written.get(PRESERVE) == Some(&Value::Bool(true))) {
        return json!({"type": "object"});
    }
    let mut schema = written.clone();
    if v2 {
        plain(&mut schema);
    }
    complete(&mut schema, v2);
    describe(&mut schema, API_VERSION, KIND);
    schema
}

/// Says what every object has.
fn describe(schema: &mut Value, api_version: &str, kind: &str) {
    schema["type"] = "object".into();
    schema["properties"]["apiVersion"] = json!({"description": api_version, "type": "string"});
    schema["properties"]["kind"] = json!({"description": kind, "type": "string"});
    schema["properties"]["metadata"] = json!({"description": METADATA, "allOf": [{"$ref": OBJECT_META}]});
}

/// Says what a definition leaves unsaid: the fields of every embedded object, and the two types of an int-or-string.
fn complete(schema: &mut Value, v2: bool) {
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["items", "additionalProperties"] {
        if let Some(below) = map.get_mut(key) {
            complete(below, v2);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(|below| complete(below, v2));
    }
    if is(map, "x-kubernetes-int-or-string")
        && !v2
        && !["anyOf", "allOf"].iter().any(|key| map.contains_key(*key))
    {
        map.insert("anyOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
    }
    if is(map, "x-kubernetes-embedded-resource") && !(v2 && is(map, PRESERVE)) {
        let mut required: Vec<Value> =
            map.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|r| r == name) {
                required.push(name.into());
            }
        }
        map.insert("required".into(), required.into());
        describe(schema, EMBEDDED_API_VERSION, EMBEDDED_KIND);
    }
}

fn is(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key) == Some(&Value::Bool(true))
}

/// What OpenAPI v2 and its readers can express: no alternatives, no nulls; where anything may be, nothing is said.
fn plain(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["allOf", "anyOf", "oneOf", "not", "default"] {
        map.remove(key);
    }
    if is(map, "nullable") {
        for key in ["nullable", "type", "items", "properties", "additionalProperties"] {
            map.remove(key);
        }
    }
    if is(map, PRESERVE) {
        for key in ["type", "items", "properties", "additionalProperties"] {
            map.remove(key);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(below) = map.get_mut(key) {
            plain(below);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(plain);
    }
}
