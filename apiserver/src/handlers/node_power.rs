//! `nodes/NAME/stop`, `kill` and `start`: ours alone, to see how a cluster lives with the failure of a node.
//!
//! An ordinary write at the door: authenticated, and authorized as `create` of `nodes/stop` and so on. What happens is the
//! business of whoever runs the nodes; here it is found out whether there is such a node, and how to say what came of it.

use super::respond;
use crate::{
    admission::{Lookup, find},
    dial::{Power, PowerError},
    error::{ApiError, Result},
    kinds::{AnyKind, Subresource},
    request::{Incoming, options::WriteOptions},
    state::App,
};
use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

/// What a subresource of a node does to it.
pub fn power_of(subresource: Subresource) -> Option<Power> {
    match subresource {
        Subresource::Stop => Some(Power::Stop),
        Subresource::Kill => Some(Power::Kill),
        Subresource::Start => Some(Power::Start),
        _ => None,
    }
}

/// POST; the body says nothing.
pub async fn create(app: &App, nodes: &dyn AnyKind, power: Power, incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let options = WriteOptions::parse(&incoming.query, "CreateOptions")?;
    let name = incoming.info.name.as_str();
    let message = match app.forwarder.nodes().power(name, power, options.dry_run).await {
        Ok(message) => message,
        Err(error) => return Err(refusal(app, nodes, name, error).await?),
    };
    tracing::info!(
        node = name,
        ?power,
        user = incoming.user.name,
        dry_run = options.dry_run,
        message,
        "node"
    );
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "message": message,
        "details": {"name": name, "kind": "nodes"}, "code": 201,
    });
    Ok(respond::json(accepted, StatusCode::CREATED, status.to_string().into()))
}

async fn refusal(app: &App, nodes: &dyn AnyKind, name: &str, error: PowerError) -> Result<ApiError> {
    Ok(match error {
        PowerError::NotOurs(_) => {
            let lookup: &dyn Lookup = &app.registry;
            let exists =
                nodes.check_name(name).is_empty() && find::<Node>(lookup, "nodes", "", name).await?.is_some();
            if exists {
                ApiError::BadRequest(format!(
                    "node {name:?} cannot be stopped, killed or started here: it is {error}"
                ))
            } else {
                ApiError::NotFound {
                    group: String::new(),
                    resource: "nodes".to_owned(),
                    name: name.to_owned(),
                }
            }
        }
        PowerError::Already(detail) => ApiError::Conflict {
            group: String::new(),
            resource: "nodes".to_owned(),
            name: name.to_owned(),
            detail,
        },
        PowerError::Failed(why) => ApiError::Unavailable(why),
    })
}
