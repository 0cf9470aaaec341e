//! One event, as `audit.k8s.io/v1` spells it.

use crate::{
    auth::{Peer, User},
    request::RequestInfo,
};
use axum::extract::Request;
use http::header;
use jiff::Timestamp;
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Stage {
    /// The head of an answer that goes on was sent.
    ResponseStarted,
    ResponseComplete,
}

/// Who was behind a request, as far as it came.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Who showed the credential.
    pub user: Option<Arc<User>>,
    /// Whom they acted as, if somebody else.
    pub acting_as: Option<Arc<User>>,
    /// Whether they might; `None` if it was not asked.
    pub allowed: Option<bool>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Who {
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl From<&User> for Who {
    fn from(user: &User) -> Self {
        let User { name, uid, groups, extra } = user.clone();
        Self { username: name, uid, groups, extra }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef {
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

#[derive(Debug, Serialize)]
struct ResponseStatus {
    metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    code: u16,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: Stage,
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: Option<Who>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<Who>,
    #[serde(rename = "sourceIPs")]
    source_ips: Vec<String>,
    user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<ResponseStatus>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

impl Event {
    pub(super) fn begin(id: &str, request: &Request) -> Self {
        let source_ips = match request.extensions().get::<Peer>() {
            Some(Peer::Tls { remote, .. }) => vec![SocketAddr::ip(remote).to_string()],
            Some(Peer::Internal(_)) | None => Vec::new(),
        };
        let agent = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        Self {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: "Metadata",
            audit_id: id.to_owned(),
            stage: Stage::ResponseComplete,
            request_uri: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
            verb: request.method().as_str().to_ascii_lowercase(),
            user: None,
            impersonated_user: None,
            source_ips,
            user_agent: agent.unwrap_or_default().to_owned(),
            object_ref: None,
            response_status: None,
            request_received_timestamp: now(),
            stage_timestamp: String::new(),
            annotations: BTreeMap::new(),
        }
    }

    pub(super) fn about(&mut self, info: &RequestInfo) {
        info.verb.clone_into(&mut self.verb);
        self.object_ref = info.is_resource.then(|| ObjectRef {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
        });
    }

    pub(super) fn annotated(&mut self, annotations: BTreeMap<&'static str, String>) {
        self.annotations.extend(annotations);
    }

    /// `failure` is the reason and the message.
    pub(super) fn answered(&mut self, identity: &Identity, code: u16, failure: Option<(&str, String)>) {
        self.user = identity.user.as_deref().map(Who::from);
        self.impersonated_user = identity.acting_as.as_deref().map(Who::from);
        if let Some(allowed) = identity.allowed {
            let decision = if allowed { "allow" } else { "forbid" };
            self.annotations.insert("authorization.k8s.io/decision", decision.to_owned());
            self.annotations.insert("authorization.k8s.io/reason", String::new());
        }
        let (reason, message) = failure.map(|(reason, message)| (reason.to_owned(), message)).unzip();
        let status = reason.is_some().then_some("Failure");
        self.response_status =
            Some(ResponseStatus { metadata: BTreeMap::new(), status, message, reason, code });
    }

    pub(super) fn line(&mut self, stage: Stage) -> Vec<u8> {
        (self.stage, self.stage_timestamp) = (stage, now());
        // Strings and numbers: nothing that JSON could refuse.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// As a `MicroTime`.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
