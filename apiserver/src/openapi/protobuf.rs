//! The v2 document in the protobuf form of gnostic's `openapi.v2.Document`: the only form kubectl up to 1.27 asks for.
//!
//! Only the messages and fields our documents use. Numbers are those of
//! <https://github.com/google/gnostic-models/blob/main/openapiv2/OpenAPIv2.proto>.

use crate::protobuf::wire;
use serde_json::Value;

/// Content type of the answer. The client's `Accept` spells it with `v2@v1.0`; Go's parser refuses that in an answer.
pub(super) const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

pub(super) fn document(doc: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &doc["swagger"]);
    out.message(2, |m| {
        m.text(1, &doc["info"]["title"]);
        m.text(2, &doc["info"]["version"]);
    });
    out.message(8, |m| {
        for (path, item) in entries(&doc["paths"]) {
            m.named(2, path, |m| path_item(m, item));
        }
    });
    out.message(9, |m| {
        for (name, definition) in entries(&doc["definitions"]) {
            m.named(1, name, |m| schema(m, definition));
        }
    });
    out.0
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn path_item(m: &mut Message, item: &Value) {
    for (method, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(op) = item.get(method) {
            m.message(number, |m| operation(m, op));
        }
    }
    for one in items(&item["parameters"]) {
        m.message(9, |m| parameter(m, one));
    }
}

fn operation(m: &mut Message, op: &Value) {
    for (number, key) in [(1, "tags"), (6, "produces"), (7, "consumes"), (10, "schemes")] {
        for text in items(&op[key]) {
            m.text(number, text);
        }
    }
    m.text(3, &op["description"]);
    m.text(5, &op["operationId"]);
    for one in items(&op["parameters"]) {
        m.message(8, |m| parameter(m, one));
    }
    m.message(9, |m| {
        for (code, response) in entries(&op["responses"]) {
            m.named(1, code, |m| {
                m.message(1, |m| {
                    m.text(1, &response["description"]);
                    if let Some(of) = response.get("schema") {
                        m.message(2, |m| m.message(1, |m| schema(m, of)));
                    }
                });
            });
        }
    });
    extensions(m, 13, op);
}

/// A `ParametersItem`.
fn parameter(m: &mut Message, parameter: &Value) {
    let body = parameter["in"] == "body";
    m.message(1, |m| match body {
        true => m.message(1, |m| {
            m.text(2, &parameter["name"]);
            m.text(3, &parameter["in"]);
            m.boolean(4, &parameter["required"]);
            m.message(5, |m| schema(m, &parameter["schema"]));
        }),
        false => {
            // QueryParameterSubSchema has `allow_empty_value` in between, which shifts the numbers by one.
            let (sort, kind, unique) = if parameter["in"] == "query" { (3, 6, 20) } else { (4, 5, 19) };
            m.message(2, |m| {
                m.message(sort, |m| {
                    m.boolean(1, &parameter["required"]);
                    m.text(2, &parameter["in"]);
                    m.text(3, &parameter["description"]);
                    m.text(4, &parameter["name"]);
                    m.text(kind, &parameter["type"]);
                    m.boolean(unique, &parameter["uniqueItems"]);
                });
            });
        }
    });
}

fn schema(m: &mut Message, of: &Value) {
    m.text(1, &of["$ref"]);
    m.text(2, &of["format"]);
    m.text(4, &of["description"]);
    for name in items(&of["required"]) {
        m.text(19, name);
    }
    if let Some(values) = of.get("additionalProperties") {
        m.message(21, |m| m.message(1, |m| schema(m, values)));
    }
    if let Some(kind) = of.get("type") {
        m.message(22, |m| m.text(1, kind));
    }
    if let Some(element) = of.get("items") {
        m.message(23, |m| m.message(1, |m| schema(m, element)));
    }
    if let Some(properties) = of.get("properties") {
        m.message(25, |m| {
            for (name, property) in entries(properties) {
                m.named(1, name, |m| schema(m, property));
            }
        });
    }
    extensions(m, 31, of);
}

/// `x-…` members as `NamedAny`: their YAML text, of which JSON is a form.
fn extensions(m: &mut Message, number: u32, of: &Value) {
    for (name, value) in entries(of).filter(|(name, _)| name.starts_with("x-")) {
        m.named(number, name, |m| m.bytes(2, value.to_string().as_bytes()));
    }
}

/// A protobuf message being written. Empty strings and `false` are left out, as proto3 does.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        wire::bytes(&mut self.0, number.into(), bytes);
    }
    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }
    fn boolean(&mut self, number: u32, value: &Value) {
        if value.as_bool() == Some(true) {
            wire::number(&mut self.0, number.into(), 1);
        }
    }
    fn message(&mut self, number: u32, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }
    /// The shape of every `Named…` message: name 1, value 2.
    fn named(&mut self, number: u32, name: &str, write: impl FnOnce(&mut Message)) {
        self.message(number, |m| {
            m.bytes(1, name.as_bytes());
            m.message(2, write);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_length_delimited_and_empty_fields_left_out() {
        let doc = json!({
            "swagger": "2.0", "info": {"title": "k", "version": "1"}, "paths": {},
            "definitions": {"A": {"type": "object", "required": ["b"], "description": "",
                "properties": {"b": {"$ref": "#/definitions/B"}}, "x-y": ["merge"]}},
        });
        let schema = [
            b"\x9a\x01\x01b".as_slice(),                                     // 19 required
            b"\xb2\x01\x08\x0a\x06object",                                   // 22 type
            b"\xca\x01\x18\x0a\x16\x0a\x01b\x12\x11\x0a\x0f#/definitions/B", // 25 properties
            b"\xfa\x01\x12\x0a\x03x-y\x12\x0b\x12\x09[\"merge\"]",           // 31 vendor_extension
        ]
        .concat();
        let definition = [b"\x0a\x01A\x12".as_slice(), &[schema.len() as u8], &schema].concat();
        let expected = [
            b"\x0a\x032.0\x12\x06\x0a\x01k\x12\x011\x42\x00\x4a".as_slice(),
            &[definition.len() as u8 + 2, 0x0a, definition.len() as u8],
            &definition,
        ]
        .concat();
        assert_eq!(document(&doc), expected);
    }
}
