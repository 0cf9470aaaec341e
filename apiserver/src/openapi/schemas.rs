//! Schemas of the API's types, in OpenAPI v3's form.
//!
//! k8s-openapi describes every field; what it leaves out (kinds, list types, merge keys, defaults) is laid over it
//! here, from the table of kinds and from [`super::markers`].

use super::markers::{self, ListType, Shape, TypeId};
use crate::kinds::AnyKind;
use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
};

pub(super) const REF: &str = "#/components/schemas/";
pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
pub(super) const GVK: &str = "x-kubernetes-group-version-kind";

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
/// Types for any JSON, or for some of it: their schemas say nothing.
const ANY_JSON: [&str; 4] =
    ["JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray"];
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// A line for each definition: its name, a space, its schema. Written by `build.rs`.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/definitions.gz"));

/// What k8s-openapi says of each type, by its definition's name. Held while documents are built: it is a megabyte.
pub(super) struct Texts(HashMap<String, String>);

impl Texts {
    pub(super) fn unpack() -> std::io::Result<Self> {
        let lines = BufReader::new(GzDecoder::new(PACKED)).lines();
        let named = lines.map(|line| {
            let line = line?;
            let (name, schema) = line.split_once(' ').ok_or(std::io::ErrorKind::InvalidData)?;
            Ok((name.to_owned(), schema.to_owned()))
        });
        named.collect::<std::io::Result<_>>().map(Self)
    }

    fn schema(&self, name: &str) -> Option<Value> {
        serde_json::from_str(self.0.get(name)?).ok()
    }
}

/// The definitions one document needs.
pub(super) struct Schemas<'t> {
    texts: &'t Texts,
    described: Map<String, Value>,
    extra: Map<String, Value>,
    /// Definition to (group, version, kind).
    kinds: Vec<(String, Value)>,
}

impl<'t> Schemas<'t> {
    pub(super) fn new(texts: &'t Texts) -> Self {
        let mut schemas = Self { texts, described: Map::new(), extra: Map::new(), kinds: Vec::new() };
        schemas.define(&format!("{META}DeleteOptions"));
        schemas.define(&format!("{META}ListMeta"));
        schemas.define(&format!("{META}APIResourceList"));
        let status = format!("{META}Status");
        schemas.define(&status);
        schemas.is_kind(&status, "", "v1", "Status");
        let patch =
            "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
        schemas.extra.insert(format!("{META}Patch"), json!({"description": patch, "type": "object"}));
        schemas
    }

    /// Adds a definition and what it refers to.
    fn define(&mut self, name: &str) {
        let mut todo = vec![name.to_owned()];
        while let Some(name) = todo.pop() {
            if self.described.contains_key(&name) {
                continue;
            }
            let Some(schema) = self.texts.schema(&name) else { continue };
            references(&schema, &mut todo);
            self.described.insert(name, schema);
        }
    }

    fn is_kind(&mut self, definition: &str, group: &str, version: &str, kind: &str) {
        self.kinds.push((definition.to_owned(), json!({"group": group, "kind": kind, "version": version})));
    }

    /// Adds one of our own types that clients send; its definition's name.
    pub(super) fn add_own(&mut self, group: &str, version: &str, kind: &str) -> String {
        let name = markers::definition_of(group, version, kind);
        self.define(&name);
        self.is_kind(&name, group, version, kind);
        name
    }

    /// Adds a kind with its list; its definition's name.
    pub(super) fn add(&mut self, kind: &dyn AnyKind) -> String {
        let r = kind.resource();
        let name = match kind.custom() {
            None => self.add_own(r.group, r.version, r.kind),
            Some(custom) => {
                self.define(&format!("{META}ObjectMeta"));
                let (name, schema) = custom.definition(false);
                self.extra.insert(name.clone(), schema);
                self.is_kind(&name, r.group, r.version, r.kind);
                name
            }
        };
        let list_kind = kind.list_kind();
        let list = format!("{}List", name);
        self.is_kind(&list, r.group, r.version, &list_kind);
        let text = |of: &str| self.text(&name, of);
        let mut schema = json!({
            "description": format!("{list_kind} is a list of {} objects.", r.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"description": text("apiVersion"), "type": "string"},
                "items": {
                    "description": format!("Items is the list of {} objects.", r.kind),
                    "type": "array",
                    "items": {"$ref": format!("{REF}{name}")},
                },
                "kind": {"description": text("kind"), "type": "string"},
                "metadata": {
                    "description": "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/\
                                    sig-architecture/api-conventions.md#types-kinds",
                    "allOf": [{"$ref": format!("{REF}{META}ListMeta")}],
                },
            },
        });
        if let Some(custom) = kind.custom() {
            custom.complete_list(&mut schema);
        }
        self.extra.insert(list, schema);
        name
    }

    fn text(&self, definition: &str, property: &str) -> Value {
        // A custom kind's own schema need not say what every kind says.
        let known = self.described.get(definition).or_else(|| self.described.get(&format!("{META}Status")));
        let text = known.and_then(|d| d.pointer(&format!("/properties/{property}/description")));
        text.cloned().unwrap_or_else(|| Value::String(String::new()))
    }

    /// All definitions asked for and what they refer to.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        let mut definitions = self.described;
        for (name, schema) in &mut definitions {
            overlay(name, schema);
        }
        definitions.append(&mut self.extra);
        self.kinds.dedup();
        for (name, kind) in self.kinds {
            if let Some(Value::Object(schema)) = definitions.get_mut(&name) {
                let list = schema.entry(GVK).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut().filter(|l| !l.contains(&kind)) {
                    list.push(kind);
                }
            }
        }
        definitions
    }
}

/// The names of the definitions that `schema` refers to.
fn references(schema: &Value, into: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            let reference = map.get("$ref").and_then(Value::as_str);
            into.extend(reference.and_then(|r| r.strip_prefix(REF)).map(str::to_owned));
            map.values().for_each(|value| references(value, into));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, into)),
        _ => {}
    }
}

/// What k8s-openapi requires, and a client need not say: in Go these are structs with `omitempty` or without meaning when
/// empty. And what it must say, although k8s-openapi can do without.
fn require(name: &str, schema: &mut Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let has = |property: &str| properties.contains_key(property);
    let core = name.strip_prefix("io.k8s.api.core.v1.");
    let event = core == Some("Event");
    // Those that embed a LocalObjectReference.
    let reference = core.is_some_and(|kind| {
        let (config, secret) = (kind.strip_prefix("ConfigMap"), kind.strip_prefix("Secret"));
        kind == "LocalObjectReference"
            || config.or(secret).is_some_and(|part| {
                ["KeySelector", "EnvSource", "Projection"].contains(&part) || kind == "ConfigMapVolumeSource"
            })
    });
    let added = match name {
        "io.k8s.api.events.v1.Event" if has("eventTime") => Some("eventTime"),
        _ => None,
    };
    let mut required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    required.retain(|r| (r != "metadata" || event) && (r != "name" || !reference));
    required.extend(added.filter(|a| !required.iter().any(|r| r == a)).map(Value::from));
    if required.is_empty() {
        remove(schema, "required");
    } else {
        schema["required"] = required.into();
    }
}

fn overlay(name: &str, schema: &mut Value) {
    match name {
        QUANTITY => {
            schema["oneOf"] = json!([{"type": "string"}, {"type": "number"}]);
            remove(schema, "x-kubernetes-int-or-string");
            return;
        }
        INT_OR_STRING => {
            schema["oneOf"] = json!([{"type": "integer"}, {"type": "string"}]);
            schema["format"] = "int-or-string".into();
            remove(schema, "x-kubernetes-int-or-string");
            return;
        }
        _ => {}
    }
    require(name, schema);
    if ANY_JSON.iter().any(|any| name.strip_suffix(any).is_some_and(|rest| rest.ends_with('.'))) {
        remove(schema, "oneOf");
        remove(schema, "type");
    }
    let Some(id) = markers::of_definition(name) else { return };
    if id.get().atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    mark_fields(schema, id);
}

fn mark_fields(schema: &mut Value, id: TypeId) {
    for field in id.get().fields() {
        let Some(property) = schema.pointer_mut(&format!("/properties/{}", field.name)) else { continue };
        // Beside a reference nothing else is read.
        if let Some(reference) = property.get("$ref").cloned() {
            *property = json!({"allOf": [{"$ref": reference}]});
        }
        if let Some(values) = field.values {
            let values: Vec<String> = values.split(',').map(|v| v.replace("%20", " ")).collect();
            let of =
                if matches!(field.shape, Shape::List(_)) { &mut property["items"] } else { &mut *property };
            of["enum"] = values.into();
        }
        let mut set = |key: &str, value: Value| property[key] = value;
        match field.list_type {
            Some(ListType::Atomic) => set("x-kubernetes-list-type", "atomic".into()),
            Some(ListType::Set) => set("x-kubernetes-list-type", "set".into()),
            Some(ListType::Map) => {
                set("x-kubernetes-list-type", "map".into());
                set("x-kubernetes-list-map-keys", field.keys.clone().into());
            }
            None => {}
        }
        if field.atomic && !matches!(field.shape, Shape::List(_)) {
            set("x-kubernetes-map-type", "atomic".into());
        }
        if field.granular {
            set("x-kubernetes-map-type", "granular".into());
        }
        let strategies =
            [(field.merge, "merge"), (field.replace, "replace"), (field.retain_keys, "retainKeys")];
        let strategies: Vec<&str> = strategies.into_iter().filter(|s| s.0).map(|s| s.1).collect();
        if !strategies.is_empty() {
            set("x-kubernetes-patch-strategy", strategies.join(",").into());
        }
        if let Some(key) = field.merge_key {
            set("x-kubernetes-patch-merge-key", key.into());
        }
        if let Some(default) = field.default.and_then(|text| serde_json::from_str(text).ok()) {
            set("default", default);
        }
    }
}

fn remove(schema: &mut Value, key: &str) {
    if let Some(map) = schema.as_object_mut() {
        map.remove(key);
    }
}
