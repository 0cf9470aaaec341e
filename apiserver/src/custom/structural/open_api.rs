//! What OpenAPI knows and a definition may not say, and what the extensions demand of one another.

use super::{is, list, members, text};
use crate::{
    custom::{prune, rules},
    kinds::shared::repeats,
};
use api::field::{Errors, Path};
use serde_json::Value;
use std::collections::HashSet;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// Members of a schema that exist in JSON Schema but not here.
const REFUSED: [&str; 5] = ["id", "additionalItems", "patternProperties", "definitions", "dependencies"];

/// Judges a whole schema.
pub(super) fn check(schema: &Value, path: &Path, errors: &mut Errors) {
    walk(schema, &Context { root: true, ..Context::default() }, path, errors);
}

#[derive(Debug, Clone, Copy, Default)]
struct Context {
    root: bool,
    /// Within `apiVersion`, `kind` or `metadata`.
    meta: bool,
    /// Why there may be no defaults here.
    no_defaults: Option<&'static str>,
}

/// What OpenAPI knows and a definition may not say, and what the extensions demand of one another.
fn walk(schema: &Value, context: &Context, path: &Path, errors: &mut Errors) {
    if !schema.is_object() {
        return;
    }
    let (kind, below) = (text(schema, "type"), Context { root: false, ..*context });
    if kind == "null" {
        errors.forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative");
    } else if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &TYPES);
    }
    if let (Some(why), true) = (context.no_defaults, schema.get("default").is_some_and(|d| !d.is_null())) {
        errors.forbidden(&path.child("default"), format!("must not be set {why}"));
    }
    for key in REFUSED {
        if schema.get(key).is_some_and(|v| !v.is_null()) {
            errors.forbidden(&path.child(key), format!("{key} is not supported"));
        }
    }
    if schema.get("$ref").is_some() {
        errors.forbidden(&path.child("$ref"), "$ref is not supported");
    }
    if schema["items"].is_array() {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if context.meta && is(schema, "x-kubernetes-embedded-resource") {
        let detail = "must not be used inside of resource meta";
        errors.forbidden(&path.child("x-kubernetes-embedded-resource"), detail);
    }
    if is(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), detail);
    }
    let additional = &schema["additionalProperties"];
    let has_properties = members(schema, "properties").next().is_some();
    if has_properties && (additional.is_object() || *additional == Value::Bool(false)) {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if additional.is_object() {
        let mut below = below;
        if context.meta {
            below.no_defaults = Some("inside additionalProperties applying to object metadata");
        }
        walk(additional, &below, &path.child("additionalProperties"), errors);
    }
    for (name, property) in members(schema, "properties") {
        let mut below = below;
        let resource = context.root || is(schema, "x-kubernetes-embedded-resource");
        if resource && prune::ALWAYS.contains(&name.as_str()) {
            below.meta = true;
            if context.root {
                below.no_defaults = Some(match name.as_str() {
                    "metadata" => "in top-level metadata",
                    "kind" => "in top-level kind",
                    _ => "in top-level apiVersion",
                });
            }
        }
        walk(property, &below, &path.child("properties").key(name), errors);
    }
    for key in ["not", "items"] {
        walk(&schema[key], &below, &path.child(key), errors);
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        for (i, one) in list(schema, key).iter().enumerate() {
            walk(one, &below, &path.child(key).index(i), errors);
        }
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let key = "x-kubernetes-preserve-unknown-fields";
        errors.invalid(&path.child(key), false, "must be true or undefined");
    }
    list_and_map_types(schema, path, errors);
    rules::shape_errors(schema, path, errors);
}

fn list_and_map_types(schema: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(schema, "type");
    let typed = |wanted: &str, key: &str, errors: &mut Errors| {
        let detail = format!("must be {wanted} if {key} is specified");
        match kind {
            "" => errors.required(&path.child("type"), detail),
            other => errors.invalid(&path.child("type"), other, detail),
        }
    };
    let (map_key, list_key) = ("x-kubernetes-map-type", "x-kubernetes-list-type");
    if let Some(map_type) = schema[map_key].as_str() {
        if kind != "object" {
            typed("object", map_key, errors);
        }
        if !["atomic", "granular"].contains(&map_type) {
            errors.not_supported(&path.child(map_key), map_type, &["atomic", "granular"]);
        }
    }
    let keys: Vec<&str> =
        list(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
    let keys_path = path.child("x-kubernetes-list-map-keys");
    let Some(list_type) = schema[list_key].as_str() else {
        if !keys.is_empty() {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.required(&path.child(list_key), detail);
        }
        return;
    };
    let (items, items_path) = (&schema["items"], path.child("items"));
    if kind != "array" {
        typed("array", list_key, errors);
    } else if list_type == "set" {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        match text(items, "type") {
            "array" if items[list_key].as_str().is_some_and(|t| t != "atomic") => {
                errors.invalid(&items_path.child(list_key), &items[list_key], detail);
            }
            "object" if items[map_key] != "atomic" => {
                errors.invalid(&items_path.child(map_key), &items[map_key], detail);
            }
            _ => {}
        }
    }
    if !["atomic", "set", "map"].contains(&list_type) {
        errors.not_supported(&path.child(list_key), list_type, &["atomic", "set", "map"]);
    }
    if !keys.is_empty() && list_type != "map" {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.invalid(&path.child(list_key), list_type, detail);
    }
    if list_type != "atomic" && is(items, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.forbidden(&items_path.child("nullable"), detail);
    }
    if list_type != "map" {
        return;
    }
    if keys.is_empty() {
        errors.required(&keys_path, "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_object() {
        return errors.required(&items_path, "must have a schema if x-kubernetes-list-type is map");
    }
    if items["type"] != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&items_path.child("type"), text(items, "type"), detail);
    }
    let required: HashSet<&str> = list(items, "required").iter().filter_map(Value::as_str).collect();
    for (key, again) in keys.iter().zip(repeats(&keys)) {
        let (property, at) = (&items["properties"][*key], items_path.child("properties").key(key));
        if again {
            errors.invalid(&keys_path, &keys, "must not contain duplicate entries");
        }
        if !property.is_object() {
            errors.invalid(&keys_path, &keys, "entries must all be names of item properties");
            continue;
        }
        if matches!(text(property, "type"), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&at.child("type"), text(items, "type"), detail);
        }
        if !required.contains(key) && property.get("default").is_none_or(Value::is_null) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                          property";
            errors.required(&at.child("default"), detail);
        }
        if is(property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&at.child("nullable"), detail);
        }
    }
}
