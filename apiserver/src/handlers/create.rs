//! POST to a collection.

use super::{call, decode, method_not_allowed, respond};
use crate::{
    error::Result,
    kinds::AnyKind,
    request::{Incoming, body, options::WriteOptions},
    state::App,
};
use axum::response::Response;

pub async fn create(app: &App, kind: &dyn AnyKind, mut incoming: Incoming) -> Result<Response> {
    if kind.resource().namespaced && incoming.info.namespace.is_empty() {
        return Err(method_not_allowed());
    }
    let accepted = incoming.accepted()?;
    let options = WriteOptions::parse(&incoming.query, "CreateOptions")?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let parsed = body::parse(incoming.content_type(), &bytes, kind.resource().kind)?;
    let (object, mut warnings) = decode(kind, parsed.value, &parsed.repeated, &options)?;
    let outcome = app.registry.create(&call(kind, None, &incoming, options.dry_run), object).await?;
    warnings.extend(outcome.warnings);
    respond::object(kind, accepted, true, outcome.object, &warnings)
}
