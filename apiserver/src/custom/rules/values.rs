//! JSON as CEL sees it, by its schema: times are times, numbers are doubles, fields have names that CEL can spell.

use crate::custom::schema::{Schema, Type};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube_cel::cel::{
    Context, Program, Value as Cel,
    objects::{Key, Map},
};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

/// Words that CEL keeps for itself.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

static TIMESTAMP: LazyLock<Option<Program>> = LazyLock::new(|| Program::compile("timestamp(text)").ok());
static DURATION: LazyLock<Option<Program>> = LazyLock::new(|| Program::compile("duration(text)").ok());

/// The name of a field in an expression: `a-b` is `a__dash__b`.
pub(super) fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    // Doubled underscores first: the other replacements bring new ones.
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let (text, length) = match c {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            c => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
        };
        out.push_str(text);
        rest = &rest[length..];
    }
    out
}

pub(super) fn of(value: &Value, schema: &Schema) -> Cel {
    convert(value, Some(schema))
}

fn convert(value: &Value, schema: Option<&Schema>) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(b) => Cel::Bool(*b),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            _ if schema.is_some_and(|s| s.kind == Type::Number) => Cel::Float(n.as_f64().unwrap_or_default()),
            (Some(n), _) => Cel::Int(n),
            (None, Some(n)) => Cel::UInt(n),
            // 3.0 where an integer is declared is 3.
            #[allow(clippy::cast_possible_truncation)]
            _ if schema.is_some_and(|s| s.kind == Type::Integer || s.int_or_string) => {
                Cel::Int(n.as_f64().unwrap_or_default() as i64)
            }
            _ => Cel::Float(n.as_f64().unwrap_or_default()),
        },
        Value::String(text) => string(text, schema),
        Value::Array(items) => {
            let element = schema.and_then(|s| s.items.as_deref());
            Cel::List(Arc::new(items.iter().map(|i| convert(i, element)).collect()))
        }
        Value::Object(map) => {
            // Keys of a map are data and stay as they are.
            let data = schema.is_some_and(Schema::is_map);
            let entries = map.iter().map(|(key, value)| {
                let name = if data { key.clone() } else { escaped(key) };
                (Key::String(Arc::new(name)), convert(value, schema.and_then(|s| s.member(key))))
            });
            Cel::Map(Map { map: Arc::new(entries.collect::<HashMap<_, _>>()) })
        }
    }
}

fn string(text: &str, schema: Option<&Schema>) -> Cel {
    let plain = || Cel::String(Arc::new(text.to_owned()));
    let format = schema.filter(|s| !s.int_or_string).map_or("", |s| s.checks.format.as_str());
    match format {
        "date-time" | "datetime" => made(&TIMESTAMP, text).unwrap_or_else(plain),
        "date" => made(&TIMESTAMP, &format!("{text}T00:00:00Z")).unwrap_or_else(plain),
        "duration" => made(&DURATION, text).unwrap_or_else(plain),
        "byte" => STANDARD.decode(text).map_or_else(|_| plain(), |bytes| Cel::Bytes(Arc::new(bytes))),
        _ => plain(),
    }
}

/// Times are made by CEL's own functions.
fn made(program: &LazyLock<Option<Program>>, text: &str) -> Option<Cel> {
    let mut context = Context::default();
    context.add_variable_from_value("text", text);
    program.as_ref()?.execute(&context).ok()
}

/// The length of the longest list or map within: what a loop may go over.
pub(super) fn largest(value: &Value) -> u64 {
    let length = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    match value {
        Value::Array(items) => items.iter().map(largest).fold(length(items.len()), u64::max),
        Value::Object(map) => map.values().map(largest).fold(length(map.len()), u64::max),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cel_can_spell() {
        for (name, expected) in [
            ("plain", "plain"),
            ("a_b", "a_b"),
            ("a__b", "a__underscores__b"),
            ("a.b-c/d", "a__dot__b__dash__c__slash__d"),
            ("namespace", "__namespace__"),
            ("if", "__if__"),
        ] {
            assert_eq!(escaped(name), expected);
        }
    }
}
