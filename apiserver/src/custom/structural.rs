//! Whether a schema may define a kind: "structural", with defaults that fit, and rules that compile.
//!
//! Structural means that every field is named outside of the alternatives (`anyOf`, …), with one type; the alternatives
//! only narrow values. See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>.

mod open_api;

use super::{Schema, formats, prune, rules, validate};
use api::field::{Errors, Path};
use regex::Regex;
use serde_json::{Value, json};

/// What the root may hold beside, with a status subresource.
const AT_ROOT_WITH_STATUS: [&str; 23] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
    "nullable",
];

/// Where in the whole schema a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Judges the `openAPIV3Schema` of a version; `status` says whether it has the status subresource.
pub(crate) fn check(schema: &Value, status: bool, path: &Path) -> Errors {
    let mut errors = Errors::default();
    if status && let Some(members) = schema.as_object() {
        if schema["type"] != "object" {
            let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            errors.invalid(&path.child("type"), schema["type"].as_str().unwrap_or_default(), detail);
        }
        if let Some(other) = members.keys().find(|k| !AT_ROOT_WITH_STATUS.contains(&k.as_str())) {
            let detail = format!(
                "{other} is not allowed at the root of the schema if the status subresource is enabled"
            );
            errors.invalid(path, "", detail);
        }
    }
    if is(schema, "nullable") {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    structure(schema, Level::Root, path, &mut errors);
    open_api::check(schema, path, &mut errors);
    if errors.is_empty() {
        let parsed = Schema::read(schema);
        defaults(&parsed, true, path, &mut errors);
        rules::compile_errors(&parsed, path, &mut errors);
    }
    errors
}

/// Texts for warnings, one for each format that says nothing here.
pub(crate) fn unrecognized_formats(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    visit(schema, &mut |s| {
        let format = s["format"].as_str().unwrap_or_default();
        let kind = Schema::read(&json!({"type": s["type"]})).kind;
        if !format.is_empty() && !formats::is_known(format, kind) {
            found.push(format!("unrecognized format {format:?}"));
        }
    });
    found
}

fn is(schema: &Value, key: &str) -> bool {
    schema[key] == Value::Bool(true)
}

fn text<'v>(schema: &'v Value, key: &str) -> &'v str {
    schema[key].as_str().unwrap_or_default()
}

fn members<'v>(schema: &'v Value, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    schema[key].as_object().into_iter().flatten()
}

fn list<'v>(schema: &'v Value, key: &str) -> &'v [Value] {
    schema[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Every schema within, the alternatives' too.
fn visit(schema: &Value, seen: &mut impl FnMut(&Value)) {
    fn go(schema: &Value, seen: &mut dyn FnMut(&Value)) {
        if !schema.is_object() {
            return;
        }
        seen(schema);
        for key in ["items", "additionalProperties", "not"] {
            go(&schema[key], seen);
        }
        members(schema, "properties").for_each(|(_, s)| go(s, seen));
        for key in ["allOf", "anyOf", "oneOf"] {
            list(schema, key).iter().for_each(|s| go(s, seen));
        }
    }
    go(schema, seen);
}

/// What makes a schema structural.
fn structure(schema: &Value, level: Level, path: &Path, errors: &mut Errors) {
    let kind = text(schema, "type");
    let items = &schema["items"];
    if kind == "array" && !items.is_object() {
        errors.required(&path.child("items"), "must be specified");
    }
    if items.is_object() {
        structure(items, Level::Item, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, property) in members(schema, "properties") {
        structure(property, Level::Field, &properties.key(name), errors);
    }
    let additional = &schema["additionalProperties"];
    let has_additional = additional.is_object() || *additional == Value::Bool(true);
    if has_additional {
        if level == Level::Root {
            errors.forbidden(&path.child("additionalProperties"), "must not be used at the root");
        }
        if additional.is_object() {
            structure(additional, Level::Field, &path.child("additionalProperties"), errors);
        }
    }
    extensions(schema, path, errors);
    let (skip_any, skip_first) = int_or_string_patterns(schema);
    junctors(schema, skip_any, skip_first, path, errors);

    let embedded = is(schema, "x-kubernetes-embedded-resource");
    let free = is(schema, "x-kubernetes-int-or-string") || is(schema, "x-kubernetes-preserve-unknown-fields");
    let type_path = path.child("type");
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" => errors.required(&type_path, detail),
            other => errors.invalid(&type_path, other, detail),
        }
    } else if kind.is_empty() && !free {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(&type_path, detail);
    }
    if embedded && has_additional {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(&type_path, kind, "must be object at the root");
    }
    if level == Level::Root || embedded {
        for name in ["kind", "apiVersion"] {
            let property = &schema["properties"][name];
            if property.is_object() && property["type"] != "string" {
                errors.invalid(&properties.key(name).child("type"), text(property, "type"), "must be string");
            }
        }
        root_metadata(&schema["properties"]["metadata"], level, &properties.key("metadata"), errors);
    }
    if embedded
        && !is(schema, "x-kubernetes-preserve-unknown-fields")
        && members(schema, "properties").next().is_none()
    {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.required(&properties, detail);
    }
    expressible(schema, schema, path, errors);
}

/// Of the root's metadata a schema may restrict the names, and nothing else.
fn root_metadata(metadata: &Value, level: Level, path: &Path, errors: &mut Errors) {
    let Some(map) = metadata.as_object() else { return };
    if metadata["type"] != "object" {
        errors.invalid(&path.child("type"), text(metadata, "type"), "must be object");
    }
    if level != Level::Root {
        return;
    }
    let names_only =
        members(metadata, "properties").all(|(name, _)| name == "name" || name == "generateName");
    let other = map.keys().any(|k| !matches!(k.as_str(), "type" | "properties" | "description"));
    if !names_only || other {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(path, detail);
    }
}

fn extensions(schema: &Value, path: &Path, errors: &mut Errors) {
    if !is(schema, "x-kubernetes-int-or-string") {
        return;
    }
    for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if is(schema, key) {
            errors.invalid(&path.child(key), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
}

/// The two places where alternatives may name types: those of an int-or-string.
fn int_or_string_patterns(schema: &Value) -> (bool, bool) {
    if !is(schema, "x-kubernetes-int-or-string") {
        return (false, false);
    }
    let pattern = json!([{"type": "integer"}, {"type": "string"}]);
    (schema["anyOf"] == pattern, schema["allOf"][0]["anyOf"] == pattern)
}

fn junctors(schema: &Value, skip_any: bool, skip_first: bool, path: &Path, errors: &mut Errors) {
    for key in ["anyOf", "allOf", "oneOf"] {
        if key == "anyOf" && skip_any {
            continue;
        }
        for (i, one) in list(schema, key).iter().enumerate() {
            nested(one, key == "allOf" && i == 0 && skip_first, &path.child(key).index(i), errors);
        }
    }
    if schema["not"].is_object() {
        nested(&schema["not"], false, &path.child("not"), errors);
    }
    let pattern = text(schema, "pattern");
    if let (false, Err(e)) = (pattern.is_empty(), Regex::new(pattern)) {
        let why = e.to_string();
        let why = why.lines().last().unwrap_or_default();
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(&path.child("pattern"), pattern, detail);
    }
}

/// A schema below an alternative: it narrows values and says nothing about structure.
fn nested(schema: &Value, skip_any: bool, path: &Path, errors: &mut Errors) {
    junctors(schema, skip_any, false, path, errors);
    if schema["items"].is_object() {
        nested(&schema["items"], false, &path.child("items"), errors);
    }
    for (name, property) in members(schema, "properties") {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    for (key, detail) in [
        ("type", "must be empty to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        if schema.get(key).is_some_and(|v| !v.is_null()) {
            errors.forbidden(&path.child(key), detail);
        }
    }
    for key in [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ] {
        if is(schema, key) {
            errors.forbidden(&path.child(key), "must be false to be structural");
        }
    }
    if schema["properties"]["metadata"].is_object() {
        let detail = "must not be specified in a nested context";
        errors.forbidden(&path.child("properties").key("metadata"), detail);
    }
}

/// Every field and list that an alternative speaks of is declared outside of it.
fn expressible(schema: &Value, outer: &Value, path: &Path, errors: &mut Errors) {
    let mut all: Vec<(Path, &Value)> = Vec::new();
    for key in ["anyOf", "allOf", "oneOf"] {
        all.extend(list(schema, key).iter().enumerate().map(|(i, s)| (path.child(key).index(i), s)));
    }
    if schema["not"].is_object() {
        all.push((path.child("not"), &schema["not"]));
    }
    for (at, inner) in all {
        declared(inner, outer, &at, path, errors);
    }
}

fn declared(inner: &Value, outer: &Value, at: &Path, outer_path: &Path, errors: &mut Errors) {
    for (name, property) in members(inner, "properties") {
        let place = outer_path.child("properties").key(name);
        match &outer["properties"][name.as_str()] {
            found if found.is_object() => {
                declared(property, found, &at.child("properties").key(name), &place, errors);
            }
            _ => errors
                .required(&place, format!("because it is defined in {}", at.child("properties").key(name))),
        }
    }
    if inner["items"].is_object() {
        let place = outer_path.child("items");
        match &outer["items"] {
            found if found.is_object() => {
                declared(&inner["items"], found, &at.child("items"), &place, errors)
            }
            _ => errors.required(&place, format!("because it is defined in {}", at.child("items"))),
        }
    }
    for key in ["anyOf", "allOf", "oneOf"] {
        for (i, one) in list(inner, key).iter().enumerate() {
            declared(one, outer, &at.child(key).index(i), outer_path, errors);
        }
    }
    if inner["not"].is_object() {
        declared(&inner["not"], outer, &at.child("not"), outer_path, errors);
    }
}

/// Defaults are values that their schema accepts, and hold nothing that it does not declare.
fn defaults(schema: &Schema, root: bool, path: &Path, errors: &mut Errors) {
    if let Some(default) = schema.default.as_ref().filter(|_| !root) {
        let at = path.child("default");
        let mut pruned = default.clone();
        prune::prune(&mut pruned, schema, schema.embedded);
        if pruned != *default {
            errors.invalid(&at, default, "must not have unknown fields");
        }
        let faults = validate::validate(default, None, schema, &at.to_string());
        if faults.is_empty() {
            errors.extend(rules::evaluate(default, schema, &at.to_string()));
        }
        errors.extend(faults);
    }
    if let Some(items) = &schema.items {
        defaults(items, false, &path.child("items"), errors);
    }
    for (name, property) in &schema.properties {
        defaults(property, false, &path.child("properties").key(name), errors);
    }
}
