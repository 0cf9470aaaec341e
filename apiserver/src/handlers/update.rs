//! PUT of an object or of its `/status`.

use super::{call, decode, may_create, respond};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, Subresource},
    registry::{
        Stored,
        create::revision_of,
        update::{Change, check_name, check_uid},
    },
    request::{Incoming, body, options::WriteOptions},
    state::App,
};
use axum::response::Response;

pub async fn update(
    app: &App,
    kind: &dyn AnyKind,
    subresource: Option<Subresource>,
    mut incoming: Incoming,
) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let options = WriteOptions::parse(&incoming.query, "UpdateOptions")?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let parsed = body::parse(incoming.content_type(), &bytes, kind.resource().kind)?;
    let (mut object, mut warnings) = decode(kind, parsed.value, &parsed.repeated, &options)?;
    let call = call(kind, subresource, &incoming, options.dry_run);
    if object.meta().name.as_deref().is_none_or(str::is_empty) {
        let name = call.name;
        let text =
            format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
        return Err(ApiError::BadRequest(text));
    }
    check_name(&call, object.as_mut())?;
    // An object that names its revision is needed once: were another write to come between, it would no longer fit.
    let conditional = revision_of(object.as_ref())?.is_some();
    let mut object = Some(object);
    let (user, info) = (&*incoming.user, &incoming.info);
    let mut make = |stored: Option<&Stored>| {
        let given = if conditional { object.take() } else { object.as_ref().map(|o| o.clone_box()) };
        let given =
            given.ok_or_else(|| ApiError::Internal("a conditional update was made twice".to_owned()))?;
        match stored {
            Some(stored) => check_uid(&call, given.meta().uid.as_deref(), stored)?,
            None => may_create(app, user, info)?,
        }
        Ok(given)
    };
    let change = Change { apply: false, retry: !conditional, make: &mut make };
    let outcome = app.registry.update(&call, change).await?;
    warnings.extend(outcome.warnings);
    respond::object(kind, accepted, outcome.created, outcome.object, &warnings)
}
