//! PATCH: a patch body applied to an object's JSON tree.
//!
//! JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch. Server-side apply has
//! its own file. What the result means (unknown fields, types, validation) is decided when the caller decodes it.

pub mod strategic;

use crate::{
    error::{ApiError, Result},
    kinds::AnyKind,
    openapi::markers,
    request::body,
};
use serde_json::Value;

/// Kubernetes' bound: each operation may copy a part of the object.
const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;
/// Bytes a JSON patch may grow an object to. `copy` doubles what it copies, so a few operations could fill the
/// memory; an object this large could not have been sent as a whole either.
const MAX_PATCHED_BYTES: usize = 3 * 1024 * 1024;

/// The four patch formats, by content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    StrategicMerge,
    Apply,
}

impl PatchType {
    pub const ALL: [Self; 4] = [Self::Json, Self::Merge, Self::StrategicMerge, Self::Apply];

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::StrategicMerge => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }

    /// Those that a kind takes: a custom one has no merge keys, so no strategic merge.
    pub fn of(kind: &dyn AnyKind) -> impl Iterator<Item = Self> + Clone + use<> {
        let custom = kind.custom().is_some();
        Self::ALL.into_iter().filter(move |t| !custom || *t != Self::StrategicMerge)
    }

    /// # Errors
    /// 415 for any other content type.
    pub fn from_content_type(content_type: Option<&str>) -> Result<Self> {
        Self::among(Self::ALL.into_iter(), content_type)
    }

    /// # Errors
    /// 415 for any that the kind does not take.
    pub fn for_kind(kind: &dyn AnyKind, content_type: Option<&str>) -> Result<Self> {
        Self::among(Self::of(kind), content_type)
    }

    fn among(mut taken: impl Iterator<Item = Self> + Clone, content_type: Option<&str>) -> Result<Self> {
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let all = taken.clone();
        taken.find(|t| t.content_type().eq_ignore_ascii_case(media)).ok_or_else(|| {
            ApiError::UnsupportedMediaType(format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                all.map(Self::content_type).collect::<Vec<_>>().join(", ")
            ))
        })
    }
}

/// A patched object, still to be decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Patched {
    pub value: Value,
    /// Keys that the patch itself gave twice, for strict field validation.
    pub repeated: body::Repeated,
}

/// Applies a patch `body` to `current`, the object's whole JSON.
///
/// # Errors
/// 400 for a body that is not a patch, 413 for too many operations, 422 for a patch that does not fit the object.
/// [`PatchType::Apply`] is not a patch in this sense: see `registry::apply`.
pub fn apply(kind: &dyn AnyKind, patch_type: PatchType, current: &Value, body: &[u8]) -> Result<Patched> {
    let parsed = body::parse_json(body)?;
    let value = match patch_type {
        PatchType::Json => json_patch(current, parsed.value)?,
        PatchType::Merge => {
            let mut value = current.clone();
            if !parsed.value.is_object() {
                return Err(ApiError::BadRequest("Invalid JSON Patch".to_owned()));
            }
            json_patch::merge(&mut value, &parsed.value);
            value
        }
        PatchType::StrategicMerge => {
            let schema = markers::of_kind(kind.resource());
            strategic::merge(current.clone(), parsed.value, schema)?
        }
        PatchType::Apply => {
            return Err(ApiError::Internal("an apply configuration was handed to patch::apply".to_owned()));
        }
    };
    Ok(Patched { value, repeated: parsed.repeated })
}

/// A JSON patch applied to `current`, within bounds.
///
/// # Errors
/// As [`apply`].
pub fn json_patch(current: &Value, patch: Value) -> Result<Value> {
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > MAX_JSON_PATCH_OPERATIONS {
        return Err(ApiError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {operations}"
        )));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|e| ApiError::BadRequest(format!("error decoding patch: {e}")))?;
    let mut value = current.clone();
    let mut copied = 0;
    for (i, operation) in patch.0.iter().enumerate() {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            copied += value.pointer(copy.from.as_str()).map_or(0, size);
            if copied > MAX_PATCHED_BYTES {
                return Err(ApiError::TooLarge(format!(
                    "the copy operations of the JSON patch exceed {MAX_PATCHED_BYTES} bytes"
                )));
            }
        }
        if let json_patch::PatchOperation::Test(test) = operation
            && test.value.is_null()
            && is_absent(&value, test.path.as_str())
        {
            continue;
        }
        json_patch::patch_unsafe(&mut value, std::slice::from_ref(operation))
            .map_err(|e| ApiError::Unprocessable(format!("operation {i}: {}", e.kind)))?;
    }
    Ok(value)
}

/// Whether an object has no such key. To Kubernetes a key that is absent is null: so clients test that there are no
/// finalizers before they add the first.
fn is_absent(value: &Value, path: &str) -> bool {
    let parent = path.rsplit_once('/').and_then(|(parent, _)| value.pointer(parent));
    parent.is_some_and(Value::is_object) && value.pointer(path).is_none()
}

/// About the length of `value` as JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>() + 2,
        Value::Array(list) => list.iter().map(|v| size(v) + 1).sum::<usize>() + 2,
        Value::String(s) => s.len() + 2,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn patched(current: &Value, operations: Value) -> Result<Value> {
        json_patch(current, operations)
    }

    #[test]
    fn content_types() {
        for one in PatchType::ALL {
            assert_eq!(PatchType::from_content_type(Some(one.content_type())).unwrap(), one);
        }
        let with_charset = Some("Application/Merge-Patch+json; charset=UTF-8");
        assert_eq!(PatchType::from_content_type(with_charset).unwrap(), PatchType::Merge);
        assert_eq!(PatchType::from_content_type(Some("application/json")).unwrap_err().code(), 415);
        assert_eq!(PatchType::from_content_type(None).unwrap_err().code(), 415);
    }

    #[test]
    fn what_is_absent_is_null_to_a_test() {
        let current = json!({"a": {"b": [1]}});
        for (path, value, holds) in [
            ("/a/none", json!(null), true),
            ("/none", json!(null), true),
            ("/a/none", json!(1), false),
            ("/a/b", json!(null), false),
            ("/none/b", json!(null), false),
            ("/a/b/7", json!(null), false),
        ] {
            let done = patched(&current, json!([{"op": "test", "path": path, "value": value}]));
            assert_eq!(done.is_ok(), holds, "{path} {value}");
        }
    }

    #[test]
    fn json_patch_does_its_operations_in_order() {
        let current = json!({"a": {"b": [1, 2]}, "x/y": 1});
        let operations = json!([
            {"op": "test", "path": "/a/b/0", "value": 1},
            {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "remove", "path": "/a/b/0"},
            {"op": "replace", "path": "/x~1y", "value": null},
            {"op": "copy", "from": "/a/b", "path": "/c"},
            {"op": "move", "from": "/a", "path": "/d"},
        ]);
        assert_eq!(
            patched(&current, operations).unwrap(),
            json!({"c": [2, 3], "d": {"b": [2, 3]}, "x/y": null})
        );
    }

    #[test]
    fn json_patches_that_do_not_fit_are_422_and_non_patches_400() {
        let current = json!({"a": 1});
        let cases = [
            (json!([{"op": "test", "path": "/a", "value": 2}]), 422),
            (json!([{"op": "remove", "path": "/b"}]), 422),
            (json!([{"op": "replace", "path": "/b/c", "value": 2}]), 422),
            (json!([{"op": "frob", "path": "/a"}]), 400),
            (json!({"a": 1}), 400),
            (json!([{"op": "add", "path": "a", "value": 2}]), 400),
        ];
        for (operations, code) in cases {
            assert_eq!(patched(&current, operations.clone()).unwrap_err().code(), code, "{operations}");
        }
    }

    #[test]
    fn json_patches_are_bounded_in_number_and_growth() {
        let many = vec![json!({"op": "test", "path": "", "value": {}}); MAX_JSON_PATCH_OPERATIONS + 1];
        assert_eq!(patched(&json!({}), many.into()).unwrap_err().code(), 413);
        let mut doubling = vec![json!({"op": "add", "path": "/a0", "value": vec!["x"; 1000]})];
        for i in 1..40 {
            doubling.push(json!({"op": "copy", "from": "", "path": format!("/a{i}")}));
        }
        assert_eq!(patched(&json!({}), doubling.into()).unwrap_err().code(), 413);
    }

    /// Any JSON but null: a merge patch cannot express a null in the result.
    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..4).prop_map(Value::from),
            "[ab]".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from), object(inner),]
        })
    }
    fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
    }
    /// The merge patch that turns `from` into `to`.
    fn difference(from: &Value, to: &Value) -> Value {
        let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
        let gone = from.keys().filter(|k| !to.contains_key(*k)).map(|k| (k.clone(), Value::Null));
        let changed = to.iter().filter(|(k, v)| from.get(*k) != Some(v));
        let changed =
            changed.map(|(k, v)| (k.clone(), from.get(k).map_or(v.clone(), |old| difference(old, v))));
        Value::Object(gone.chain(changed).collect())
    }

    proptest! {
        #[test]
        fn a_merge_patch_of_the_difference_gives_the_other_object(a in object(tree()), b in object(tree())) {
            let mut value = a.clone();
            json_patch::merge(&mut value, &difference(&a, &b));
            prop_assert_eq!(&value, &b);
            // A strategic merge patch without a schema is a merge patch.
            prop_assert_eq!(&strategic::merge(a.clone(), difference(&a, &b), None).unwrap(), &b);
        }
    }
}
