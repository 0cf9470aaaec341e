//! GET of a collection.

use super::{call, respond};
use crate::{
    error::Result,
    kinds::AnyKind,
    registry::{PageOptions, Selection},
    request::{Incoming, options::ListOptions},
    state::App,
};
use axum::response::Response;

pub async fn list(app: &App, kind: &dyn AnyKind, incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let options = ListOptions::parse(&incoming.query, false)?;
    let selection = Selection::parse(kind, &options)?;
    let namespace = call(kind, None, &incoming, false).namespace;
    let page = app.registry.list(kind, namespace, &selection, &PageOptions::of(&options)?).await?;
    respond::list(kind, accepted, &page)
}
