//! `namespaces/NAME/finalize`: the only way to change `spec.finalizers`. A namespace whose deletion waits for the last
//! of them goes with this write.

use super::{call, decode, respond};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, Subresource},
    registry::{
        Stored,
        update::{Change, check_uid},
    },
    request::{Incoming, body, options::WriteOptions},
    state::App,
};
use axum::response::Response;
use k8s_openapi::api::core::v1::Namespace;

pub async fn update(app: &App, kind: &dyn AnyKind, mut incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let options = WriteOptions::parse(&incoming.query, "UpdateOptions")?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let parsed = body::parse(incoming.content_type(), &bytes, kind.resource().kind)?;
    let (given, mut warnings) = decode(kind, parsed.value, &parsed.repeated, &options)?;
    let not_one = || ApiError::Internal("finalize of something that is no namespace".to_owned());
    let call = call(kind, Some(Subresource::Finalize), &incoming, options.dry_run);
    let mut make = |stored: Option<&Stored>| {
        let stored = stored.ok_or_else(|| call.not_found())?;
        check_uid(&call, given.meta().uid.as_deref(), stored)?;
        let given = given.as_any().downcast_ref::<Namespace>().ok_or_else(not_one)?;
        let mut object = stored.object.clone_box();
        let namespace = object.as_any_mut().downcast_mut::<Namespace>().ok_or_else(not_one)?;
        namespace.metadata.resource_version.clone_from(&given.metadata.resource_version);
        if given.metadata.name.is_some() {
            namespace.metadata.name.clone_from(&given.metadata.name);
        }
        namespace.spec.get_or_insert_default().finalizers =
            given.spec.as_ref().and_then(|s| s.finalizers.clone()).filter(|f| !f.is_empty());
        Ok(object)
    };
    let outcome = app.registry.update(&call, Change { apply: false, retry: true, make: &mut make }).await?;
    warnings.extend(outcome.warnings);
    respond::object(kind, accepted, false, outcome.object, &warnings)
}
