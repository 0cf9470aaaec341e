//! Objects within objects (`x-kubernetes-embedded-resource`): they have a type and metadata of their own, which no schema
//! declares and which are judged as any object's are.

use super::Schema;
use crate::kinds::{decode_metadata, shared::object_meta::validate_meta};
use api::{
    field::{Errors, Path},
    names,
};
use serde_json::{Map, Value};

/// Takes out of the metadata of embedded objects what metadata does not have; the paths of what went. Metadata that is none
/// stays as it is, for [`validate`] to tell.
pub(crate) fn coerce(value: &mut Value, schema: &Schema) -> Vec<String> {
    let mut gone = Vec::new();
    walk(value, schema, &Path::default(), &mut |object, path| {
        let Some(metadata) = object.get_mut("metadata") else { return };
        let Ok((meta, unknown)) = decode_metadata(metadata.clone()) else { return };
        let at = path.child("metadata");
        gone.extend(unknown.iter().map(|field| format!("{at}.{field}")));
        if let Ok(plain) = serde_json::to_value(meta) {
            *metadata = plain;
        }
    });
    gone
}

/// What is wrong with the types and metadata of the embedded objects in `value`.
pub(crate) fn validate(value: &Value, schema: &Schema) -> Errors {
    let mut errors = Errors::default();
    // Asked rarely, of few kinds: a copy is cheaper than a second walk.
    if holds_any(schema) {
        let mut copy = value.clone();
        walk(&mut copy, schema, &Path::default(), &mut |object, path| judge(object, path, &mut errors));
    }
    errors
}

fn holds_any(schema: &Schema) -> bool {
    schema.embedded
        || schema.properties.values().any(holds_any)
        || [&schema.items, &schema.additional].into_iter().flatten().any(|s| holds_any(s))
}

fn walk(
    value: &mut Value,
    schema: &Schema,
    path: &Path,
    found: &mut impl FnMut(&mut Map<String, Value>, &Path),
) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                found(map, path);
            }
            for (key, value) in map {
                if let Some(property) = schema.properties.get(key) {
                    walk(value, property, &path.child(key), found);
                } else if let Some(additional) = &schema.additional {
                    walk(value, additional, &path.key(key), found);
                }
            }
        }
        Value::Array(items) => {
            let Some(element) = &schema.items else { return };
            for (i, item) in items.iter_mut().enumerate() {
                walk(item, element, &path.index(i), found);
            }
        }
        _ => {}
    }
}

fn judge(object: &Map<String, Value>, path: &Path, errors: &mut Errors) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match object.get(name) {
            None => errors.required(&at, ""),
            Some(Value::String(text)) if text.is_empty() => errors.invalid(&at, text, "must not be empty"),
            Some(Value::String(text)) if name == "apiVersion" => {
                if text.matches('/').count() > 1 {
                    errors.invalid(&at, text, format!("unexpected GroupVersion string: {text}"));
                }
            }
            Some(Value::String(text)) => {
                let faults = names::dns1035_label(&text.to_lowercase());
                if !faults.is_empty() {
                    let detail =
                        format!("may have mixed case, but should otherwise match: {}", faults.join(","));
                    errors.invalid(&at, text, detail);
                }
            }
            Some(other) => errors.invalid(&at, other, "must be a string"),
        }
    }
    let Some(metadata) = object.get("metadata") else { return };
    let at = path.child("metadata");
    match decode_metadata(metadata.clone()) {
        Err(why) => errors.invalid(&at, metadata, why),
        Ok((mut meta, _)) => {
            // A name is no duty here.
            if meta.name.as_deref().is_none_or(str::is_empty) {
                meta.name = Some("fakename".to_owned());
            }
            let namespaced = meta.namespace.as_deref().is_some_and(|n| !n.is_empty());
            errors.extend(validate_meta(&meta, namespaced, true, names::path_segment, &at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        Schema::read(&json!({"type": "object", "properties": {"list": {"type": "array", "items": {
            "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}}))
    }

    #[test]
    fn unknown_metadata_goes() {
        let mut value = json!({"list": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "odd": 1}, "x": 2}]});
        assert_eq!(coerce(&mut value, &schema()), ["list[0].metadata.odd"]);
        let expected = json!([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "x": 2}]);
        assert_eq!(value["list"], expected);
    }

    #[test]
    fn types_and_metadata_are_judged() {
        for (object, expected) in [
            (
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"generateName": "a-"}}),
                vec![],
            ),
            (json!({}), vec!["list[0].apiVersion: Required value", "list[0].kind: Required value"]),
            (
                json!({"apiVersion": "a/b/c", "kind": 5}),
                vec![
                    "list[0].apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                    "list[0].kind: Invalid value: 5: must be a string",
                ],
            ),
            (
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a/b"}}),
                vec!["list[0].metadata.name: Invalid value: \"a/b\": may not contain '/'"],
            ),
        ] {
            let errors = validate(&json!({"list": [object]}), &schema());
            let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{object}");
        }
        let errors =
            validate(&json!({"list": [{"apiVersion": "v1", "kind": "a", "metadata": 3}]}), &schema());
        assert!(
            errors.0[0].to_string().starts_with("list[0].metadata: Invalid value: 3: "),
            "{:?}",
            errors.0
        );
    }
}
