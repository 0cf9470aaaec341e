//! `pods/NAME/eviction`: a delete that may be refused. Disruption budgets come with their kind; until then no pod
//! is covered by one, and an eviction is a delete.

use super::{call, respond};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, Subresource},
    request::{Incoming, body, options::DeleteOptions, options::WriteOptions},
    state::App,
};
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

pub async fn create(app: &App, pods: &dyn AnyKind, mut incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let options = WriteOptions::parse(&incoming.query, "CreateOptions")?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let parsed = body::parse(incoming.content_type(), &bytes, "Eviction")?;
    super::check_type(&parsed.value, "Eviction", "policy/v1")?;
    let name = parsed.value.pointer("/metadata/name").and_then(|v| v.as_str()).unwrap_or_default();
    if !name.is_empty() && name != incoming.info.name {
        return Err(ApiError::BadRequest("name in URL does not match name in Eviction object".to_owned()));
    }
    let mut delete = DeleteOptions::parse(&incoming.query, parsed.value.get("deleteOptions").cloned())?;
    delete.dry_run |= options.dry_run;
    let call = call(pods, Some(Subresource::Eviction), &incoming, delete.dry_run);
    app.registry.delete(&call, &delete).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::json(accepted, StatusCode::CREATED, status.to_string().into()))
}
