//! GET of one object, and of its `/status`, which is the whole object too.

use super::{call, respond};
use crate::{
    error::{ApiError, Result},
    kinds::AnyKind,
    request::{
        Incoming,
        options::{ListOptions, ResourceVersion},
    },
    state::App,
};
use axum::response::Response;

pub async fn get(app: &App, kind: &dyn AnyKind, incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let options = ListOptions::parse(&incoming.query, false)?;
    if let ResourceVersion::At(wanted) = options.resource_version {
        // Reads are always the newest; only the future cannot be had.
        let current = app.registry.store().revision().0;
        if wanted > current {
            return Err(ApiError::TooLargeResourceVersion { requested: wanted, current });
        }
    }
    let kv = app.registry.get(&call(kind, None, &incoming, false)).await?;
    respond::object(kind, accepted, false, kv.value, &[])
}
