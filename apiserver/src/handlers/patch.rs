//! PATCH of an object or of its `/status`, in all formats.

use super::{call, decode_patched, may_create, respond};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, Subresource},
    registry::{
        Stored, apply,
        patch::{self, PatchType},
        update::Change,
    },
    request::{
        Incoming,
        body::{self, Repeated},
        options::{FieldValidation, WriteOptions},
    },
    state::App,
};
use api::field;
use axum::response::Response;
use serde_json::Value;

pub async fn patch(
    app: &App,
    kind: &dyn AnyKind,
    subresource: Option<Subresource>,
    mut incoming: Incoming,
) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let patch_type = PatchType::for_kind(kind, incoming.content_type())?;
    let options = WriteOptions::parse(&incoming.query, "PatchOptions")?;
    check_options(patch_type, &options)?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    if patch_type == PatchType::Apply {
        return apply(app, kind, subresource, incoming, &options, &bytes).await;
    }
    let call = call(kind, subresource, &incoming, options.dry_run);
    let mut warnings = Vec::new();
    // A patch is made anew on whatever is stored when another write comes between: unless it names a resourceVersion
    // of its own, which then no longer fits.
    let mut make = |stored: Option<&Stored>| {
        let stored = stored.ok_or_else(|| call.not_found())?;
        let current: Value = serde_json::from_slice(&kind.show(&stored.bytes))
            .map_err(|e| ApiError::Internal(format!("a stored object cannot be read: {e}")))?;
        let patched = patch::apply(kind, patch_type, &current, &bytes)?;
        let (object, said) = decode_patched(kind, patched.value, &patched.repeated, &options, &bytes)?;
        warnings = said;
        Ok(object)
    };
    let outcome = app.registry.update(&call, Change { apply: false, retry: true, make: &mut make }).await?;
    warnings.extend(outcome.warnings);
    respond::object(kind, accepted, outcome.created, outcome.object, &warnings)
}

/// Server-side apply: makes the object if there is none.
async fn apply(
    app: &App,
    kind: &dyn AnyKind,
    subresource: Option<Subresource>,
    incoming: Incoming,
    options: &WriteOptions,
    bytes: &[u8],
) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let config = body::parse_yaml(bytes)?;
    let call = call(kind, subresource, &incoming, options.dry_run);
    let force = options.force == Some(true);
    let (user, info) = (&*incoming.user, &incoming.info);
    let mut warnings = Vec::new();
    let mut make = |stored: Option<&Stored>| {
        let live = stored.map(|s| serde_json::from_slice::<Value>(&kind.show(&s.bytes))).transpose();
        let live = live.map_err(|e| ApiError::Internal(format!("a stored object cannot be read: {e}")))?;
        if live.is_none() && subresource.is_some() {
            return Err(call.not_found());
        }
        if live.is_none() {
            may_create(app, user, info)?;
        }
        let now = jiff::Timestamp::now();
        let value = apply::apply(kind, live.as_ref(), config.value.clone(), &call.writer, force, now)?;
        let (object, said) = decode_patched(kind, value, &Repeated::NONE, options, bytes)?;
        warnings = said;
        match (&config.repeated, options.field_validation) {
            (Repeated::Lines(lines), FieldValidation::Warn) => warnings.extend(lines.iter().cloned()),
            (repeated, FieldValidation::Strict) => {
                if let Some(error) = repeated.yaml_error() {
                    let text = format!("error strict decoding YAML: error converting YAML to JSON: {error}");
                    return Err(ApiError::BadRequest(text));
                }
            }
            _ => {}
        }
        Ok(object)
    };
    let outcome = app.registry.update(&call, Change { apply: true, retry: true, make: &mut make }).await?;
    warnings.extend(outcome.warnings);
    respond::object(kind, accepted, outcome.created, outcome.object, &warnings)
}

/// An apply needs a manager; only an apply can be forced.
pub(super) fn check_options(patch_type: PatchType, options: &WriteOptions) -> Result<()> {
    let mut errors = field::Errors::default();
    match patch_type {
        PatchType::Apply if options.field_manager.is_empty() => {
            errors.required(&field::Path::new("fieldManager"), "is required for apply patch");
        }
        PatchType::Apply => {}
        _ if options.force.is_some() => {
            errors.forbidden(&field::Path::new("force"), "may not be specified for non-apply patch");
        }
        _ => {}
    }
    if errors.is_empty() {
        return Ok(());
    }
    let (group, kind) = ("meta.k8s.io".to_owned(), "PatchOptions".to_owned());
    Err(ApiError::Invalid { group, kind, name: String::new(), errors })
}
