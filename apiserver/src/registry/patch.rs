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

    /// # Errors
    /// 415 for any other content type.
    pub fn from_content_type(content_type: Option<&str>) -> Result<Self> {
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        Self::ALL.into_iter().find(|t| t.content_type().eq_ignore_ascii_case(media)).ok_or_else(|| {
            ApiError::UnsupportedMediaType(format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                Self::ALL.map(Self::content_type).join(", ")
            ))
        })
    }
}

/// A patched object, still to be decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Patched {
    pub value: Value,
    /// Paths of keys that the patch itself gave twice, for strict field validation.
    pub duplicates: Vec<String>,
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
    Ok(Patched { value, duplicates: parsed.duplicates })
}

fn json_patch(current: &Value, patch: Value) -> Result<Value> {
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
        json_patch::patch_unsafe(&mut value, std::slice::from_ref(operation))
            .map_err(|e| ApiError::Unprocessable(format!("operation {i}: {}", e.kind)))?;
    }
    Ok(value)
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
