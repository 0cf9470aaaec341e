//! serviceaccounts/NAME/token: a token for a while, bound to what it is for; and the key that others check it with.

use super::respond;
use crate::{
    admission::{Lookup, find},
    auth::{
        Authenticator,
        token::{Bound, Reference},
    },
    error::{ApiError, Result},
    request::{Incoming, body},
    state::App,
};
use api::field::{Errors, Path};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus},
        core::v1::{Node, Pod, Secret, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

/// Shorter tokens would be renewed all the time (Kubernetes' own bounds).
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;

/// POST of a TokenRequest.
pub async fn create(app: &App, mut incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let parsed = body::parse(incoming.content_type(), &bytes, "TokenRequest")?;
    super::check_type(&parsed.value, "TokenRequest", "authentication.k8s.io/v1")?;
    let request = serde_json::from_value(parsed.value)
        .map_err(|e| body::cannot_be_handled("TokenRequest", "v1", "TokenRequest", &e.to_string()))?;
    let (info, now) = (&incoming.info, jiff::Timestamp::now());
    let answer = issue(&app.authenticator, &app.registry, &info.namespace, &info.name, request, now).await?;
    let bytes = serde_json::to_vec(&answer).map_err(|e| ApiError::Internal(e.to_string()))?;
    Ok(respond::json(accepted, StatusCode::CREATED, bytes.into()))
}

/// OpenID Connect discovery and the key set.
pub fn openid(app: &App, path: &str) -> Result<Response> {
    let signer = app.authenticator.signer();
    let (media_type, document) = match path {
        "/.well-known/openid-configuration" => ("application/json", signer.discovery()),
        "/openid/v1/jwks" => ("application/jwk-set+json", signer.key_set()),
        _ => return Err(ApiError::NoSuchPath),
    };
    let headers = [(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "public, max-age=3600")];
    Ok((headers, document.to_string()).into_response())
}

/// Issues what `request` asks for, for the ServiceAccount of the path; its status then holds the token.
pub async fn issue(
    authenticator: &Authenticator,
    lookup: &dyn Lookup,
    namespace: &str,
    name: &str,
    mut request: TokenRequest,
    now: jiff::Timestamp,
) -> Result<TokenRequest> {
    let account = find::<ServiceAccount>(lookup, "serviceaccounts", namespace, name).await?;
    let account = account.ok_or_else(|| ApiError::NotFound {
        group: String::new(),
        resource: "serviceaccounts".to_owned(),
        name: name.to_owned(),
    })?;
    let spec = request.spec.get_or_insert_default();
    let seconds = *spec.expiration_seconds.get_or_insert(DEFAULT_SECONDS);
    check(name, seconds, spec.bound_object_ref.as_ref())?;
    let audiences = spec.audiences.get_or_insert_default();
    if audiences.is_empty() {
        audiences.push(authenticator.audience().to_owned());
    }
    let mut bound = Bound {
        namespace: namespace.to_owned(),
        serviceaccount: reference(&account.metadata),
        ..Bound::default()
    };
    if let Some(to) = &mut spec.bound_object_ref {
        bind(lookup, &mut bound, to).await?;
    }
    let (token, claims) = authenticator
        .signer()
        .issue(bound, audiences.clone(), now.as_second(), seconds)
        .map_err(ApiError::Internal)?;
    let expires = jiff::Timestamp::from_second(claims.exp).map_err(|e| ApiError::Internal(e.to_string()))?;
    request.status =
        Some(TokenRequestStatus { token: Some(token), expiration_timestamp: Some(Time(expires)) });
    // What Kubernetes answers with: the account's name, and when it was asked.
    request.metadata.name = Some(name.to_owned());
    request.metadata.namespace = Some(namespace.to_owned());
    request.metadata.creation_timestamp = Some(Time(now));
    Ok(request)
}

fn check(name: &str, seconds: i64, bound: Option<&BoundObjectReference>) -> Result<()> {
    let mut errors = Errors::default();
    let spec = Path::new("spec");
    let path = spec.child("expirationSeconds");
    if seconds < MIN_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if let Some(bound) = bound {
        let path = spec.child("boundObjectRef");
        if bound.name.as_deref().unwrap_or_default().is_empty() {
            errors.required(&path.child("name"), "");
        }
        let kind = bound.kind.as_deref().unwrap_or_default();
        if !KINDS.contains(&kind) {
            errors.not_supported(&path.child("kind"), kind, &KINDS);
        }
        let version = bound.api_version.as_deref().unwrap_or("v1");
        if version != "v1" {
            errors.not_supported(&path.child("apiVersion"), version, &["v1"]);
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid {
        group: "authentication.k8s.io".to_owned(),
        kind: "TokenRequest".to_owned(),
        name: name.to_owned(),
        errors,
    })
}

/// What a token may be bound to.
const KINDS: [&str; 3] = ["Node", "Pod", "Secret"];

fn reference(meta: &ObjectMeta) -> Reference {
    Reference { name: meta.name.clone().unwrap_or_default(), uid: meta.uid.clone().unwrap_or_default() }
}

/// Finds the object the token is to die with; fills in the uid the client did not name.
async fn bind(lookup: &dyn Lookup, bound: &mut Bound, to: &mut BoundObjectReference) -> Result<()> {
    let name = to.name.clone().unwrap_or_default();
    let namespace = bound.namespace.clone();
    let missing = |resource: &str| ApiError::NotFound {
        group: String::new(),
        resource: resource.to_owned(),
        name: name.clone(),
    };
    let (resource, meta) = match to.kind.as_deref() {
        Some("Pod") => {
            let pod = find::<Pod>(lookup, "pods", &namespace, &name).await?.ok_or_else(|| missing("pods"))?;
            let spec = pod.spec.unwrap_or_default();
            if spec.service_account_name.as_deref().unwrap_or_default() != bound.serviceaccount.name {
                let account = &bound.serviceaccount.name;
                return Err(ApiError::BadRequest(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            bound.pod = Some(reference(&pod.metadata));
            if let Some(node) = spec.node_name.filter(|n| !n.is_empty()) {
                let found = find::<Node>(lookup, "nodes", "", &node).await?;
                let uid = found.and_then(|n| n.metadata.uid).unwrap_or_default();
                bound.node = Some(Reference { name: node, uid });
            }
            ("pods", pod.metadata)
        }
        Some("Secret") => {
            let secret = find::<Secret>(lookup, "secrets", &namespace, &name).await?;
            let meta = secret.ok_or_else(|| missing("secrets"))?.metadata;
            bound.secret = Some(reference(&meta));
            ("secrets", meta)
        }
        _ => {
            let node = find::<Node>(lookup, "nodes", "", &name).await?.ok_or_else(|| missing("nodes"))?;
            bound.node = Some(reference(&node.metadata));
            ("nodes", node.metadata)
        }
    };
    let uid = meta.uid.unwrap_or_default();
    match to.uid.as_deref().filter(|u| !u.is_empty()) {
        Some(wanted) if wanted != uid => Err(ApiError::Conflict {
            group: String::new(),
            resource: resource.to_owned(),
            name,
            detail: format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            ),
        }),
        _ => {
            to.uid = Some(uid);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{Objects, object},
        auth::token::{self, tests::signer},
    };
    use serde_json::{Value, json};

    fn with_uid(mut object: Value, uid: &str) -> Value {
        object["metadata"]["uid"] = json!(uid);
        object
    }

    fn cluster() -> Objects {
        let pod =
            json!({"spec": {"containers": [{"name": "a"}], "serviceAccountName": "bot", "nodeName": "n1"}});
        Objects::new([
            with_uid(object("v1", "ServiceAccount", "default", "bot", json!({})), "sa-1"),
            with_uid(object("v1", "ServiceAccount", "default", "other", json!({})), "sa-2"),
            with_uid(object("v1", "Pod", "default", "web-0", pod), "pod-1"),
            with_uid(object("v1", "Node", "", "n1", json!({})), "node-1"),
        ])
    }

    async fn ask(authenticator: &Authenticator, name: &str, spec: Value) -> Result<TokenRequest> {
        let request: TokenRequest = serde_json::from_value(json!({"spec": spec})).unwrap();
        let now = jiff::Timestamp::from_second(1_000_000).unwrap();
        issue(authenticator, &cluster(), "default", name, request, now).await
    }

    #[tokio::test]
    async fn a_token_is_bound_to_the_pod_and_tells_its_node() {
        let authenticator = Authenticator::new(signer());
        let spec = json!({"audiences": ["vault"], "expirationSeconds": 600,
                          "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web-0", "uid": "pod-1"}});
        let answer = ask(&authenticator, "bot", spec).await.unwrap();
        let status = answer.status.unwrap();
        let claims = authenticator.signer().check(&status.token.unwrap(), 1_000_000).unwrap();
        let reference =
            |name: &str, uid: &str| token::Reference { name: name.to_owned(), uid: uid.to_owned() };
        assert_eq!(claims.kubernetes.serviceaccount, reference("bot", "sa-1"));
        assert_eq!(claims.kubernetes.pod, Some(reference("web-0", "pod-1")));
        assert_eq!(claims.kubernetes.node, Some(reference("n1", "node-1")));
        assert_eq!(claims.aud.iter().collect::<Vec<_>>(), ["vault"]);
        assert_eq!(claims.exp, 1_000_600);
        assert_eq!(status.expiration_timestamp.unwrap().0.as_second(), 1_000_600);
    }

    #[tokio::test]
    async fn defaults_are_an_hour_and_the_server_itself() {
        let authenticator = Authenticator::new(signer());
        let answer = ask(&authenticator, "bot", json!({})).await.unwrap();
        assert_eq!(answer.spec.as_ref().unwrap().expiration_seconds, Some(3600));
        assert_eq!(answer.spec.unwrap().audiences.unwrap(), [authenticator.audience()]);
        // A null is nothing said.
        assert!(ask(&authenticator, "bot", json!({"audiences": null})).await.is_ok());
    }

    #[tokio::test]
    async fn refusals() {
        let authenticator = Authenticator::new(signer());
        let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
        let table = [
            ("ghost", json!({}), 404, "serviceaccounts \"ghost\" not found"),
            (
                "bot",
                json!({"expirationSeconds": 599}),
                422,
                "may not specify a duration less than 10 minutes",
            ),
            ("bot", json!({"expirationSeconds": MAX_SECONDS + 1}), 422, "larger than 2^32 seconds"),
            ("bot", bound("Pod", "gone", ""), 404, "pods \"gone\" not found"),
            ("bot", bound("Pod", "web-0", "pod-0"), 409, "does not match the UID in record"),
            ("bot", bound("Deployment", "web", ""), 422, "supported values: \"Node\", \"Pod\", \"Secret\""),
            ("bot", bound("Pod", "", ""), 422, "spec.boundObjectRef.name: Required value"),
            ("other", bound("Pod", "web-0", ""), 400, "running with different serviceaccount name"),
        ];
        for (name, spec, code, text) in table {
            let error = ask(&authenticator, name, spec.clone()).await.unwrap_err();
            assert_eq!(error.code().as_u16(), code, "{spec}: {error}");
            assert!(error.to_string().contains(text), "{spec}: {error}");
        }
    }
}
