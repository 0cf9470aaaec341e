//! PATCH of an object or of its `/status`, in all formats.

use super::{call, decode, respond};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, Subresource},
    registry::{
        Stored,
        patch::{self, PatchType},
        update::Change,
    },
    request::{Incoming, options::WriteOptions},
    state::App,
};
use axum::response::Response;
use serde_json::Value;

pub async fn patch(
    app: &App,
    kind: &'static dyn AnyKind,
    subresource: Option<Subresource>,
    mut incoming: Incoming,
) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let patch_type = PatchType::from_content_type(incoming.content_type())?;
    let options = WriteOptions::parse(&incoming.query, "PatchOptions")?;
    if patch_type == PatchType::Apply {
        return Err(ApiError::NotImplemented("server-side apply: not built yet".to_owned()));
    }
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let call = call(kind, subresource, &incoming, options.dry_run);
    let mut warnings = Vec::new();
    // A patch is made anew on whatever is stored when another write comes between: unless it names a resourceVersion
    // of its own, which then no longer fits.
    let mut make = |stored: Option<&Stored>| {
        let stored = stored.ok_or_else(|| call.not_found())?;
        let current: Value = serde_json::from_slice(&stored.bytes)
            .map_err(|e| ApiError::Internal(format!("a stored object cannot be read: {e}")))?;
        let patched = patch::apply(kind, patch_type, &current, &bytes)?;
        let (object, said) = decode(kind, patched.value, &patched.duplicates, &options)?;
        warnings = said;
        Ok(object)
    };
    let outcome = app.registry.update(&call, Change { create: false, retry: true, make: &mut make }).await?;
    warnings.extend(outcome.warnings);
    respond::object(kind, accepted, outcome.created, outcome.object, &warnings)
}
