//! What changed between two objects, for messages about what may not change.

use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;

/// No message gets longer than this by what a client has written.
const MAX_BYTES: usize = 2000;

/// `- path: old` and `+ path: new` lines, one pair for every value that differs.
pub(crate) fn diff<T: Serialize>(old: &T, new: &T) -> String {
    let value = |object: &T| serde_json::to_value(object).unwrap_or(Value::Null);
    let mut text = String::new();
    walk(&value(old), &value(new), "", &mut text);
    if text.len() > MAX_BYTES {
        let end = (0..=MAX_BYTES).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push_str("…\n");
    }
    text
}

fn walk(old: &Value, new: &Value, path: &str, text: &mut String) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(before), Value::Object(after)) => {
            let added = after.keys().filter(|k| !before.contains_key(*k));
            for key in before.keys().chain(added) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(
                    before.get(key).unwrap_or(&Value::Null),
                    after.get(key).unwrap_or(&Value::Null),
                    &path,
                    text,
                );
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for i in 0..before.len().max(after.len()) {
                let at = |list: &[Value]| list.get(i).cloned().unwrap_or(Value::Null);
                walk(&at(before), &at(after), &format!("{path}[{i}]"), text);
            }
        }
        _ => {
            for (sign, value) in [('-', old), ('+', new)] {
                if !value.is_null() {
                    // Writing to a String cannot fail.
                    let _ = writeln!(text, "{sign} {path}: {value}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_for_what_differs() {
        let old = json!({"a": 1, "b": [{"c": "x"}, 2], "d": true});
        let new = json!({"a": 1, "b": [{"c": "y"}], "e": {"f": 1}});
        assert_eq!(
            diff(&old, &new),
            "- b[0].c: \"x\"\n+ b[0].c: \"y\"\n- b[1]: 2\n- d: true\n+ e: {\"f\":1}\n"
        );
        assert_eq!(diff(&old, &old), "");
        assert!(diff(&json!("ä".repeat(MAX_BYTES)), &json!(1)).len() < MAX_BYTES + 10);
    }
}
