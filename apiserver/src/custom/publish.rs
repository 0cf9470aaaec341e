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
const OBJECT_META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The group's parts in reverse, then version and kind: `com.example.stable.v1.CronTab`.
pub(super) fn definition_name(resource: &Resource) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.extend([resource.version, resource.kind]);
    parts.join(".")
}

impl CustomKind {
    /// The name of its definition and the definition.
    pub(crate) fn definition(&self, v2: bool) -> (String, Value) {
        let mut schema = self.published().clone();
        if schema.is_null() {
            schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        }
        if v2 {
            plain(&mut schema);
        }
        complete(&mut schema, true);
        (definition_name(self.resource()), schema)
    }
}

/// Adds what the root and every embedded object have without saying so.
fn complete(schema: &mut Value, root: bool) {
    let Some(map) = schema.as_object_mut() else { return };
    if root || map.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
        map.entry("type").or_insert_with(|| "object".into());
        let properties = map.entry("properties").or_insert_with(|| json!({}));
        properties["apiVersion"] = json!({"description": API_VERSION, "type": "string"});
        properties["kind"] = json!({"description": KIND, "type": "string"});
        properties["metadata"] = json!({"description": METADATA, "allOf": [{"$ref": OBJECT_META}]});
    }
    for key in ["items", "additionalProperties"] {
        if let Some(below) = map.get_mut(key) {
            complete(below, false);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(|below| complete(below, false));
    }
}

/// What OpenAPI v2 and its readers can express: no alternatives, no nulls; where anything may be, nothing is said.
fn plain(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["allOf", "anyOf", "oneOf", "not", "default"] {
        map.remove(key);
    }
    let is = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
    if is(map, "nullable") {
        for key in ["nullable", "type", "items", "properties", "additionalProperties"] {
            map.remove(key);
        }
    }
    if is(map, "x-kubernetes-preserve-unknown-fields") {
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
