//! Pruning: what a schema does not declare goes, unless it says that unknown fields stay.

use super::Schema;
use serde_json::Value;

/// What every object has, whatever its schema says.
pub(crate) const ALWAYS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Takes out of `value` what `schema` does not declare; the paths of what went (`spec.a`, `spec.list[0].b`). At the root of
/// an object `apiVersion`, `kind` and `metadata` stay.
pub(crate) fn prune(value: &mut Value, schema: &Schema, root: bool) -> Vec<String> {
    let mut gone = Vec::new();
    walk(value, Some(schema), root || schema.embedded, schema.preserve_unknown, "", &mut gone);
    gone.sort();
    gone
}

/// `keep`: nothing goes here, but below there may be schemas again.
fn walk(
    value: &mut Value,
    schema: Option<&Schema>,
    resource: bool,
    keep: bool,
    path: &str,
    gone: &mut Vec<String>,
) {
    let below = |schema: &Schema, value: &mut Value, path: &str, gone: &mut Vec<String>| {
        walk(value, Some(schema), schema.embedded, schema.preserve_unknown, path, gone);
    };
    match value {
        Value::Object(map) => map.retain(|key, value| {
            if resource && ALWAYS.contains(&key.as_str()) {
                return true;
            }
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match schema.and_then(|s| s.member(key)) {
                Some(schema) => below(schema, value, &path, gone),
                None if keep => {}
                None => {
                    gone.push(path);
                    return false;
                }
            }
            true
        }),
        Value::Array(items) => {
            let element = schema.and_then(|s| s.items.as_deref());
            for (i, item) in items.iter_mut().enumerate() {
                let path = format!("{path}[{i}]");
                match element {
                    Some(schema) => below(schema, item, &path, gone),
                    // A list that no schema speaks of: objects in it lose everything.
                    None if !keep => walk(item, None, false, false, &path, gone),
                    None => {}
                }
            }
        }
        _ => {}
    }
}
