//! A schema as the steps that use it want it: read once from the definition's `openAPIV3Schema`.
//!
//! Reading never fails: what a definition may not say is refused when it is written ([`super::structural`]), and a
//! definition that is stored is served.

use regex::Regex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The types of OpenAPI v3; `Any` where none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Type {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    fn read(text: &str) -> Self {
        match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => Self::Any,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// One rule of `x-kubernetes-validations`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    pub(crate) rule: String,
    pub(crate) message: String,
    pub(crate) message_expression: String,
    pub(crate) reason: String,
    pub(crate) field_path: String,
    pub(crate) optional_old_self: Option<bool>,
}

#[derive(Debug, Clone, Default)]
pub struct Schema {
    pub(crate) kind: Type,
    pub(crate) properties: BTreeMap<String, Schema>,
    /// Of a map: the schema of its values. `true` is a schema that allows everything.
    pub(crate) additional: Option<Box<Schema>>,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) default: Option<Value>,
    pub(crate) nullable: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    pub(crate) int_or_string: bool,
    pub(crate) list_type: ListType,
    pub(crate) list_map_keys: Vec<String>,
    /// `x-kubernetes-map-type: atomic`
    pub(crate) atomic_map: bool,
    pub(crate) rules: Vec<Rule>,
    pub(crate) checks: Checks,
}

/// What a schema demands of a value, apart from its structure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    pub(crate) format: String,
    /// The text, and what it compiles to.
    pub(crate) pattern: Option<(String, Option<Regex>)>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<i64>,
    pub(crate) max_length: Option<i64>,
    pub(crate) min_items: Option<i64>,
    pub(crate) max_items: Option<i64>,
    pub(crate) min_properties: Option<i64>,
    pub(crate) max_properties: Option<i64>,
    pub(crate) required: Vec<String>,
    pub(crate) one_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) not: Option<Box<Schema>>,
    pub(crate) allowed: Vec<Value>,
}

impl Schema {
    pub(crate) fn read(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default();
        let is = |key: &str| value[key] == Value::Bool(true);
        let named = |v: &Value| -> BTreeMap<String, Self> {
            v.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), Self::read(v))).collect()
        };
        Self {
            kind: Type::read(text("type")),
            properties: named(&value["properties"]),
            additional: match &value["additionalProperties"] {
                Value::Bool(true) => {
                    Some(Box::new(Self { preserve_unknown: true, nullable: true, ..Self::default() }))
                }
                Value::Object(schema) if !schema.is_empty() => {
                    Some(Box::new(Self::read(&value["additionalProperties"])))
                }
                Value::Object(_) => Some(Box::default()),
                _ => None,
            },
            items: value["items"].is_object().then(|| Box::new(Self::read(&value["items"]))),
            default: value.get("default").filter(|d| !d.is_null()).cloned(),
            nullable: is("nullable"),
            preserve_unknown: is("x-kubernetes-preserve-unknown-fields"),
            embedded: is("x-kubernetes-embedded-resource"),
            int_or_string: is("x-kubernetes-int-or-string"),
            list_type: match text("x-kubernetes-list-type") {
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Atomic,
            },
            list_map_keys: texts(&value["x-kubernetes-list-map-keys"]),
            atomic_map: text("x-kubernetes-map-type") == "atomic",
            rules: list(&value["x-kubernetes-validations"]).iter().map(Rule::read).collect(),
            checks: Checks::read(value),
        }
    }

    /// The schema of an object's member, if one is declared for it.
    pub(crate) fn member(&self, key: &str) -> Option<&Self> {
        self.properties.get(key).or(self.additional.as_deref())
    }

    /// Whether its objects are maps: keys are data, all values of one sort.
    pub(crate) fn is_map(&self) -> bool {
        self.properties.is_empty() && self.additional.is_some()
    }
}

impl Rule {
    fn read(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Self {
            rule: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old_self: value["optionalOldSelf"].as_bool(),
        }
    }
}

impl Checks {
    fn read(value: &Value) -> Self {
        let schemas = |key: &str| list(&value[key]).iter().map(Schema::read).collect();
        let pattern = value["pattern"].as_str().filter(|p| !p.is_empty());
        Self {
            format: value["format"].as_str().unwrap_or_default().to_owned(),
            pattern: pattern.map(|p| (p.to_owned(), Regex::new(p).ok())),
            minimum: value["minimum"].as_f64(),
            maximum: value["maximum"].as_f64(),
            exclusive_minimum: value["exclusiveMinimum"] == Value::Bool(true),
            exclusive_maximum: value["exclusiveMaximum"] == Value::Bool(true),
            multiple_of: value["multipleOf"].as_f64(),
            min_length: value["minLength"].as_i64(),
            max_length: value["maxLength"].as_i64(),
            min_items: value["minItems"].as_i64(),
            max_items: value["maxItems"].as_i64(),
            min_properties: value["minProperties"].as_i64(),
            max_properties: value["maxProperties"].as_i64(),
            required: texts(&value["required"]),
            one_of: schemas("oneOf"),
            any_of: schemas("anyOf"),
            all_of: schemas("allOf"),
            not: value["not"].is_object().then(|| Box::new(Schema::read(&value["not"]))),
            allowed: list(&value["enum"]).to_vec(),
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The key of an element of a list of type `map`: the values of its key fields, defaults filled in.
pub(crate) fn map_key(schema: &Schema, item: &Value) -> Option<Map<String, Value>> {
    let item = item.as_object()?;
    let mut key = Map::new();
    for name in &schema.list_map_keys {
        let default = || schema.items.as_ref()?.properties.get(name)?.default.clone();
        key.insert(name.clone(), item.get(name).cloned().or_else(default).unwrap_or_default());
    }
    Some(key)
}
