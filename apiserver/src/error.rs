//! What can go wrong with a request, and how a client is told: the one place that names HTTP status codes.

use crate::{
    handlers::respond,
    request::negotiate::{Accepted, Encoding},
};
use api::field;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

pub type Result<T> = std::result::Result<T, ApiError>;

/// Why a request was not carried out. Messages are Kubernetes' own: tools match on them.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// `pods "x" not found`; `resource` is qualified (`statefulsets.apps`).
    #[error("{resource} {name:?} not found")]
    NotFound { group: String, resource: String, name: String },
    /// The path names nothing we serve.
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    /// `deleting` says that what is there is about to go.
    #[error("{}{resource} {name:?} already exists", if *deleting { "object is being deleted: " } else { "" })]
    AlreadyExists { group: String, resource: String, name: String, deleting: bool },
    #[error("Operation cannot be fulfilled on {resource} {name:?}: {detail}")]
    Conflict { group: String, resource: String, name: String, detail: String },
    /// Server-side apply met fields of other managers: (message, field path) of each.
    #[error("{message}")]
    ApplyConflict { message: String, causes: Vec<(String, String)> },
    #[error("{}", invalid_message(group, kind, name, errors))]
    Invalid { group: String, kind: String, name: String, errors: field::Errors },
    /// A configuration to be applied that does not fit its type: Kubernetes has no reason for it.
    #[error("{0}")]
    NotTyped(String),
    /// A patch that does not fit the object it is applied to.
    #[error("the server rejected our request due to an error in our request: {0}")]
    Unprocessable(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("Unauthorized")]
    Unauthorized,
    /// Without a name the sentence has none; without a resource (a plain path) it has neither.
    #[error("{}: {detail}", forbidden_subject(resource, name))]
    Forbidden { group: String, resource: String, name: String, detail: String },
    /// Creation in a namespace that is going away: a `Forbidden` whose cause clients look for.
    #[error(
        "{}: unable to create new content in namespace {namespace} because it is being terminated",
        forbidden_subject(resource, name)
    )]
    NamespaceTerminating { group: String, resource: String, name: String, namespace: String },
    #[error("{0}")]
    MethodNotAllowed(String),
    #[error("{0}")]
    NotAcceptable(String),
    #[error("{0}")]
    UnsupportedMediaType(String),
    #[error("{0}")]
    TooLarge(String),
    /// Too old a resourceVersion or continue token; `fresh` is a token to go on with at a new revision.
    #[error("{message}")]
    Expired { message: String, fresh: Option<String> },
    #[error("{message}")]
    TooManyRequests { message: String, retry_after: u32 },
    /// A disruption budget has no room for an eviction now.
    #[error("Cannot evict pod as it would violate the pod's disruption budget.")]
    Disruption { cause: String, retry_after: u32 },
    #[error(
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    )]
    SeveralBudgets,
    #[error("{0}")]
    NotImplemented(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Timeout(String),
    /// The revision asked for is ahead of the newest.
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLargeResourceVersion { requested: u64, current: u64 },
    /// A pod, service or kubelet behind the API server did not answer.
    #[error("{0}")]
    BadGateway(String),
    /// Not the client's fault. The text goes to the log; the client reads "internal error".
    #[error("Internal error occurred: {0}")]
    Internal(String),
}

fn invalid_message(group: &str, kind: &str, name: &str, errors: &field::Errors) -> String {
    let kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let list: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    match list.as_slice() {
        [one] => format!("{kind} {name:?} is invalid: {one}"),
        many => format!("{kind} {name:?} is invalid: [{}]", many.join(", ")),
    }
}

fn forbidden_subject(resource: &str, name: &str) -> String {
    match (resource, name) {
        ("", _) => "forbidden".to_owned(),
        (_, "") => format!("{resource} is forbidden"),
        _ => format!("{resource} {name:?} is forbidden"),
    }
}

impl ApiError {
    pub fn code(&self) -> StatusCode {
        self.parts().0
    }

    /// The request's time is over.
    pub fn timed_out() -> Self {
        Self::Timeout("Timeout: request did not complete within the allotted timeout".to_owned())
    }

    /// The `reason` of the Status: what client libraries branch on.
    pub fn reason(&self) -> &'static str {
        self.parts().1
    }

    fn parts(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound { .. } | Self::NoSuchPath => (StatusCode::NOT_FOUND, "NotFound"),
            Self::AlreadyExists { .. } => (StatusCode::CONFLICT, "AlreadyExists"),
            Self::Conflict { .. } | Self::ApplyConflict { .. } => (StatusCode::CONFLICT, "Conflict"),
            Self::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequest"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::Forbidden { .. } | Self::NamespaceTerminating { .. } => {
                (StatusCode::FORBIDDEN, "Forbidden")
            }
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::NotAcceptable(_) => (StatusCode::NOT_ACCEPTABLE, "NotAcceptable"),
            Self::UnsupportedMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge"),
            Self::Expired { .. } => (StatusCode::GONE, "Expired"),
            Self::TooManyRequests { .. } | Self::Disruption { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests")
            }
            Self::SeveralBudgets => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            Self::NotImplemented(_) => (StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            Self::Timeout(_) | Self::TooLargeResourceVersion { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "Timeout")
            }
            Self::BadGateway(_) => (StatusCode::BAD_GATEWAY, "BadGateway"),
            Self::NotTyped(_) => (StatusCode::INTERNAL_SERVER_ERROR, ""),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        }
    }

    /// The `Status` object that is the body of the answer.
    pub fn status(&self) -> Value {
        let (code, reason) = self.parts();
        let mut details = json!({});
        match self {
            Self::NotFound { group, resource, name }
            | Self::AlreadyExists { group, resource, name, .. }
            | Self::Conflict { group, resource, name, .. }
            | Self::Forbidden { group, resource, name, .. } => {
                let plural = resource.split('.').next().unwrap_or(resource);
                details = json!({"name": name, "group": group, "kind": plural});
            }
            Self::NamespaceTerminating { group, resource, name, namespace } => {
                let plural = resource.split('.').next().unwrap_or(resource);
                details = json!({"name": name, "group": group, "kind": plural, "causes": [{
                    "reason": "NamespaceTerminating",
                    "message": format!("namespace {namespace} is being terminated"),
                    "field": "metadata.namespace",
                }]});
            }
            Self::Invalid { group, kind, name, errors } => {
                let causes: Vec<Value> = errors
                    .0
                    .iter()
                    .map(|e| json!({"reason": e.kind.reason(), "message": e.body(), "field": e.path}))
                    .collect();
                details = json!({"name": name, "group": group, "kind": kind, "causes": causes});
            }
            Self::TooLargeResourceVersion { .. } => {
                let causes =
                    json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
                details = json!({"causes": causes, "retryAfterSeconds": 1});
            }
            Self::ApplyConflict { causes, .. } => {
                let cause = |(message, field)| json!({"reason": "FieldManagerConflict", "message": message, "field": field});
                details = json!({"causes": causes.iter().map(|(m, f)| cause((m, f))).collect::<Vec<_>>()});
            }
            Self::Internal(why) => details = json!({"causes": [{"message": why}]}),
            Self::TooManyRequests { retry_after, .. } => details = json!({"retryAfterSeconds": retry_after}),
            Self::Disruption { cause, retry_after } => {
                details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]});
                if *retry_after > 0 {
                    details["retryAfterSeconds"] = json!(retry_after);
                }
            }
            _ => {}
        }
        if let Some(map) = details.as_object_mut() {
            map.retain(|_, v| v.as_str() != Some(""));
        }
        // An answer made of nothing but a code has details, be they empty; a sentence of its own has none.
        let bare = matches!(self, Self::NoSuchPath | Self::Unprocessable(_) | Self::MethodNotAllowed(_));
        if !bare && details.as_object().is_some_and(serde_json::Map::is_empty) {
            details = Value::Null;
        }
        let mut metadata = json!({});
        if let Self::Expired { fresh: Some(token), .. } = self {
            metadata = json!({"continue": token});
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.to_string(), "reason": reason, "code": code.as_u16(),
        });
        if !details.is_null() {
            status["details"] = details;
        }
        if let (true, Some(status)) = (reason.is_empty(), status.as_object_mut()) {
            status.retain(|name, _| !matches!(name.as_str(), "reason" | "details"));
        }
        status
    }
}

impl ApiError {
    /// The answer, in the encoding that the client asked for.
    pub fn answer(self, encoding: Encoding) -> Response {
        let code = self.code();
        // The end of an error's way. Our own faults are logged louder, with their request, by the router.
        tracing::debug!(error = %self, code = code.as_u16(), "a request was refused");
        let retry_after = match &self {
            Self::TooManyRequests { retry_after, .. } => Some(*retry_after),
            Self::Disruption { retry_after, .. } => Some(*retry_after).filter(|s| *s > 0),
            Self::TooLargeResourceVersion { .. } => Some(1),
            _ => None,
        };
        let accepted = Accepted { encoding, ..Accepted::default() };
        let mut response = respond::json(accepted, code, self.status().to_string().into());
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.answer(Encoding::Json)
    }
}

#[cfg(test)]
mod tests;
