//! OpenAPI v2 from v3: older clients (kubectl up to 1.27) validate and explain by it.

use super::schemas::REF;
use serde_json::{Map, Value, json};

/// The v2 document over the paths and definitions of all v3 documents.
pub(super) fn document(version: &str, paths: Map<String, Value>, definitions: Map<String, Value>) -> Value {
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths.into_iter().map(|(path, item)| (path, path_item(item))).collect::<Map<_, _>>(),
        "definitions": definitions.into_iter().map(|(name, s)| (name, schema(s))).collect::<Map<_, _>>(),
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

fn path_item(item: Value) -> Value {
    let Value::Object(methods) = item else { return item };
    let methods = methods.into_iter().map(|(method, op)| match op {
        Value::Array(parameters) => (method, parameters.into_iter().map(parameter).collect()),
        op => (method, operation(op)),
    });
    Value::Object(methods.collect())
}

fn operation(mut op: Value) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    let body = op.as_object_mut().and_then(|o| o.remove("requestBody"));
    op["consumes"] = json!(["*/*"]);
    if let Some(mut body) = body {
        let content = body["content"].take();
        let content = content.as_object();
        op["consumes"] = content.map(|c| c.keys().cloned().collect()).unwrap_or_default();
        let first = content.and_then(|c| c.values().next()).map(|c| c["schema"].clone()).unwrap_or_default();
        let required = body["required"].as_bool().unwrap_or_default();
        let mut body = json!({"name": "body", "in": "body", "schema": schema(first)});
        if required {
            body["required"] = true.into();
        }
        parameters.push(body);
    }
    if let Some(Value::Array(given)) = op.get_mut("parameters").map(Value::take) {
        parameters.extend(given.into_iter().map(parameter));
    }
    op["parameters"] = parameters.into();
    op["schemes"] = json!(["https"]);
    op["produces"] = json!(["application/json"]);
    if let Some(responses) = op["responses"].as_object_mut() {
        for response in responses.values_mut() {
            let Some(content) = response.as_object_mut().and_then(|r| r.remove("content")) else { continue };
            if let Some(first) = content.as_object().and_then(|c| c.values().next()) {
                response["schema"] = schema(first["schema"].clone());
            }
        }
    }
    op
}

fn parameter(mut parameter: Value) -> Value {
    if let Some(Value::Object(schema)) = parameter.as_object_mut().and_then(|p| p.remove("schema")) {
        for (key, value) in schema {
            parameter[key] = value;
        }
    }
    parameter
}

/// A schema in v2's form: plain references, and types where v3 has alternatives.
fn schema(schema: Value) -> Value {
    let Value::Object(schema_map) = schema else { return schema };
    let mut out = Map::new();
    for (key, value) in schema_map {
        match (key.as_str(), value) {
            ("$ref", Value::String(to)) => {
                out.insert(key, to.replace(REF, "#/definitions/").into());
            }
            ("allOf", Value::Array(mut list)) if list.len() == 1 => {
                if let Value::Object(one) = self::schema(list.remove(0)) {
                    out.extend(one);
                }
            }
            ("oneOf", _) => {
                out.insert("type".to_owned(), "string".into());
            }
            ("items" | "additionalProperties", value) => {
                out.insert(key, self::schema(value));
            }
            ("properties", Value::Object(properties)) => {
                let properties = properties.into_iter().map(|(name, p)| (name, self::schema(p)));
                out.insert(key, Value::Object(properties.collect()));
            }
            ("default", _) => {}
            (_, value) => {
                out.insert(key, value);
            }
        }
    }
    Value::Object(out)
}
