//! The kubelet's own HTTP API, with the real kubelet's paths: logs, exec, attach, port-forward, health.
//!
//! The API server authorises and forwards; whoever can open a connection to [`serve`] is trusted.

mod attach;
mod exec;
mod logs;
mod port_forward;
mod query;
mod upgrade;

use crate::{
    pods::{Lookup, LookupError},
    runtime::{self, BoxStreamIo, Runtime},
};
use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{HeaderValue, StatusCode};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// From the first byte of a request to the end of its headers; also how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the routes need. Cheap to clone.
#[derive(Clone)]
pub struct State {
    pub lookup: Lookup,
    pub runtime: Arc<dyn Runtime>,
    /// Cancelled when the kubelet stops: open streams end.
    pub token: CancellationToken,
    /// Every task a stream needs is spawned here.
    pub tracker: TaskTracker,
}

/// Speaks HTTP/1.1 (with upgrades) on one connection until it ends.
pub async fn serve(stream: BoxStreamIo, state: State) {
    let token = state.token.clone();
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router(state)))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = token.cancelled() => {
            // The request under way ends by itself: every stream listens to the same token.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the kubelet broke off");
    }
}

fn router(state: State) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::logs))
        .route("/exec/{namespace}/{pod}/{container}", any(exec::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(attach::attach))
        .route("/portForward/{namespace}/{pod}", any(port_forward::port_forward))
        .fallback(async || Failure::not_found("the kubelet has no such path"))
        .with_state(state)
}

/// A request that is refused: a `Status`, as every client of the API understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
    /// For a client whose stream protocols are none of ours.
    accepted: Vec<&'static str>,
}

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), accepted: Vec::new() }
    }
    fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }
    fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        let mut response = (self.code, Json(status)).into_response();
        for protocol in self.accepted {
            response.headers_mut().append(upgrade::ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
        }
        response
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::PodNotFound { .. } => Failure::not_found(error.to_string()),
            _ => Failure::bad_request(error.to_string()),
        }
    }
}

impl From<runtime::Error> for Failure {
    fn from(error: runtime::Error) -> Self {
        let message = error.to_string();
        match error {
            runtime::Error::NotFound(_) => Failure::not_found(message),
            runtime::Error::Unavailable(_) | runtime::Error::Timeout { .. } => {
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
            }
            _ => Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message),
        }
    }
}

#[cfg(test)]
mod tests;
