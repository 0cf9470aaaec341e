//! A JSON tree to bytes.
//!
//! What the tree does not have is left out, required or not: readers of every language take absence for a zero.

use super::{
    MAGIC, MAX_DEPTH, SCHEMA, message_of,
    table::{self, Field, Message, Shape},
    wire::{bytes, nested, number, varint},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

/// The object with its envelope, or `None` if its kind has no protobuf form.
pub fn object(json: &[u8]) -> Option<Vec<u8>> {
    let Ok(Value::Object(object)) = serde_json::from_slice(json) else { return None };
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let message = message_of(version, kind)?;
    let mut out = Vec::with_capacity(json.len());
    out.extend_from_slice(MAGIC);
    nested(&mut out, 1, |meta| {
        bytes(meta, 1, version.as_bytes());
        bytes(meta, 2, kind.as_bytes());
    });
    nested(&mut out, 2, |raw| fields(raw, message, &object, MAX_DEPTH));
    Some(out)
}

/// One frame of a watch: its length in four bytes, then a `WatchEvent` with the object in its envelope.
pub fn watch_event(kind: &str, json: &[u8]) -> Option<Vec<u8>> {
    let object = object(json)?;
    let mut event = Vec::with_capacity(object.len() + 32);
    bytes(&mut event, 1, kind.as_bytes());
    nested(&mut event, 2, |raw| bytes(raw, 1, &object));
    let mut frame = u32::try_from(event.len()).ok()?.to_be_bytes().to_vec();
    frame.append(&mut event);
    Some(frame)
}

fn fields(out: &mut Vec<u8>, message: &Message, object: &Map<String, Value>, depth: usize) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for field in &message.fields {
        if field.name == "-" {
            if let Some(inner) = table::message(field.sort) {
                let mut inlined = Vec::new();
                fields(&mut inlined, inner, object, depth);
                if !inlined.is_empty() {
                    bytes(out, field.tag, &inlined);
                }
            }
            continue;
        }
        match (field.shape, object.get(field.name)) {
            (_, None | Some(Value::Null)) => {}
            (Shape::One, Some(found)) => value(out, field.tag, field, found, depth),
            (Shape::List, Some(Value::Array(list))) => {
                list.iter().for_each(|item| value(out, field.tag, field, item, depth));
            }
            (Shape::Map, Some(Value::Object(map))) => {
                for (key, item) in map {
                    nested(out, field.tag, |entry| {
                        bytes(entry, 1, key.as_bytes());
                        value(entry, 2, field, item, depth);
                    });
                }
            }
            // Stored objects are typed: a list is a list.
            (Shape::List | Shape::Map, Some(_)) => {}
        }
    }
}

fn value(out: &mut Vec<u8>, tag: u64, field: &Field, value: &Value, depth: usize) {
    let text = || value.as_str().unwrap_or_default();
    match field.sort {
        "s" => bytes(out, tag, text().as_bytes()),
        "y" => bytes(out, tag, &BASE64_STANDARD.decode(text()).unwrap_or_default()),
        "b" => number(out, tag, u64::from(value.as_bool().unwrap_or_default())),
        // Negative numbers are sign-extended to 64 bits on the wire.
        "i" => number(out, tag, value.as_i64().unwrap_or_default().cast_unsigned()),
        "d" => {
            varint(out, tag << 3 | 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        "!quantity" => nested(out, tag, |inner| match value {
            Value::String(text) => bytes(inner, 1, text.as_bytes()),
            other => bytes(inner, 1, other.to_string().as_bytes()),
        }),
        "!intorstring" => nested(out, tag, |inner| match value {
            Value::String(text) => {
                number(inner, 1, 1);
                bytes(inner, 3, text.as_bytes());
            }
            other => {
                number(inner, 1, 0);
                number(inner, 2, other.as_i64().unwrap_or_default().cast_unsigned());
            }
        }),
        "!raw" => nested(out, tag, |inner| bytes(inner, 1, value.to_string().as_bytes())),
        "!schemaorarray" | "!schemaorbool" | "!schemaorstrings" => {
            nested(out, tag, |inner| alternatives(inner, field.sort, value, depth));
        }
        "!time" | "!microtime" => nested(out, tag, |inner| {
            if let Ok(stamp) = text().parse::<jiff::Timestamp>() {
                number(inner, 1, stamp.as_second().cast_unsigned());
                number(inner, 2, i64::from(stamp.subsec_nanosecond()).cast_unsigned());
            }
        }),
        "!list" => nested(out, tag, |inner| {
            for item in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
                bytes(inner, 1, item.as_bytes());
            }
        }),
        name => {
            if let (Some(message), Value::Object(object)) = (table::message(name), value) {
                nested(out, tag, |inner| fields(inner, message, object, depth));
            }
        }
    }
}

/// Where a JSON schema holds one of two things; see `read::alternatives`.
fn alternatives(out: &mut Vec<u8>, sort: &str, value: &Value, depth: usize) {
    let schema = |out: &mut Vec<u8>, tag: u64, object: &Map<String, Value>| {
        if let Some(message) = table::message(SCHEMA) {
            nested(out, tag, |inner| fields(inner, message, object, depth));
        }
    };
    match value {
        Value::Bool(allows) => number(out, 1, u64::from(*allows)),
        Value::Object(object) if sort == "!schemaorbool" => {
            number(out, 1, 1);
            schema(out, 2, object);
        }
        Value::Object(object) => schema(out, 1, object),
        Value::Array(list) => {
            for item in list {
                match item {
                    Value::Object(object) => schema(out, 2, object),
                    other => bytes(out, 2, other.as_str().unwrap_or_default().as_bytes()),
                }
            }
        }
        _ => {}
    }
}
