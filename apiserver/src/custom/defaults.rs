//! Defaults of a schema, filled in on the way in and on the way out.

use super::Schema;
use serde_json::Value;

/// A field that may not be null and is null is not given: it gets its default, or goes if it has none.
pub(crate) fn drop_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => map.retain(|key, value| {
            let schema = schema.and_then(|s| s.member(key));
            let useless = value.is_null() && schema.is_some_and(|s| !s.nullable && s.default.is_none());
            if !useless {
                drop_nulls(value, schema);
            }
            !useless
        }),
        Value::Array(items) => {
            let schema = schema.and_then(|s| s.items.as_deref());
            items.iter_mut().for_each(|item| drop_nulls(item, schema));
        }
        _ => {}
    }
}

/// Fills in the defaults of what is there: an object that is absent and has no default stays absent.
pub(crate) fn fill(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (key, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                if map.get(key).is_none_or(|v| v.is_null() && !property.nullable) {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, value) in map {
                if let Some(schema) = schema.member(key) {
                    fill_null(value, schema);
                    fill(value, schema);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for item in items {
                fill_null(item, schema);
                fill(item, schema);
            }
        }
        _ => {}
    }
}

fn fill_null(value: &mut Value, schema: &Schema) {
    if let (true, false, Some(default)) = (value.is_null(), schema.nullable, &schema.default) {
        value.clone_from(default);
    }
}
