//! DELETE of an object or of a collection.

use super::{call, respond};
use crate::{
    error::{ApiError, Result},
    kinds::AnyKind,
    registry::{PageOptions, Selection, delete::Deleted},
    request::{
        Incoming, body,
        options::{DeleteOptions, ListOptions},
    },
    state::App,
};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

async fn options(app: &App, incoming: &mut Incoming) -> Result<DeleteOptions> {
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let value = match bytes.is_empty() {
        true => None,
        false => Some(body::parse(incoming.content_type(), &bytes, "DeleteOptions")?.value),
    };
    DeleteOptions::parse(&incoming.query, value)
}

pub async fn delete(app: &App, kind: &dyn AnyKind, mut incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let options = options(app, &mut incoming).await?;
    let call = call(kind, None, &incoming, options.dry_run);
    let warnings: Vec<String> = orphaning(kind, &options).map(str::to_owned).into_iter().collect();
    match app.registry.delete(&call, &options).await? {
        Deleted::Gone(bytes) if kind.returns_deleted() => {
            respond::object(kind, accepted, false, bytes, &warnings)
        }
        Deleted::Gone(bytes) => {
            let answer = respond::json(accepted, StatusCode::OK, gone(kind, call.name, &bytes));
            Ok(respond::warn(answer, &warnings))
        }
        Deleted::Marked(bytes) => {
            let mut response = respond::object(kind, accepted, false, bytes, &warnings)?;
            if options.orphan_dependents == Some(false) {
                *response.status_mut() = StatusCode::ACCEPTED;
            }
            Ok(response)
        }
    }
}

/// Who deletes a Job and says nothing of its pods keeps them: hardly what was meant.
fn orphaning(kind: &dyn AnyKind, options: &DeleteOptions) -> Option<&'static str> {
    let said = options.propagation.is_some() || options.orphan_dependents.is_some();
    (kind.resource().group == "batch" && kind.orphans_by_default() && !said).then_some(
        "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or \
         set propagationPolicy=Orphan to suppress this warning",
    )
}

/// The `Status` that tells of a removal.
fn gone(kind: &dyn AnyKind, name: &str, last: &Bytes) -> Bytes {
    #[derive(Deserialize)]
    struct Head {
        metadata: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        uid: Option<String>,
    }
    let r = kind.resource();
    let uid = serde_json::from_slice::<Head>(last).ok().and_then(|h| h.metadata.uid);
    let mut details = json!({"name": name, "group": r.group, "kind": r.plural, "uid": uid});
    if let Some(details) = details.as_object_mut() {
        details.retain(|_, v| !v.is_null() && v.as_str() != Some(""));
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    status.to_string().into()
}

pub async fn collection(app: &App, kind: &dyn AnyKind, mut incoming: Incoming) -> Result<Response> {
    if kind.resource().namespaced && incoming.info.namespace.is_empty() {
        return Err(super::method_not_allowed());
    }
    let accepted = incoming.accepted()?;
    let list_options = ListOptions::parse(&incoming.query, false)?;
    let selection = Selection::parse(kind, &list_options)?;
    let options = options(app, &mut incoming).await?;
    if kind.resource().plural == "namespaces" {
        return Err(ApiError::MethodNotAllowed(
            "the server does not allow this method on the requested resource".to_owned(),
        ));
    }
    let call = call(kind, None, &incoming, options.dry_run);
    let page = PageOptions::of(&list_options)?;
    let page = app.registry.delete_collection(&call, &selection, &options, page).await?;
    respond::list(kind, accepted, &page)
}
