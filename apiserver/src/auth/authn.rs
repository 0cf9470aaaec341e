//! From a connection and its headers to a user.
//!
//! First the client certificate, then the bearer token, else anonymous. A token that is shown and is no good is refused,
//! even where anonymous would do; so is any other kind of credential.

use super::{
    AUTHENTICATED, Authorizer, Peer, User, authz,
    token::{Bound, Claims, Reference, Signer},
};
use crate::{
    admission::Lookup,
    error::{ApiError, Result},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use http::{HeaderMap, header};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tracing::debug;

/// `user.extra` keys of Kubernetes' ServiceAccount tokens.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
pub const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
pub const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
/// Browsers cannot set headers on a WebSocket, so Kubernetes takes the token from the list of protocols.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// A terminating pod keeps its token's rights for a while: its preStop hook may need the API.
const DELETION_LEEWAY: Duration = Duration::from_secs(60);
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";

/// What is needed to tell users apart.
pub struct Authenticator {
    signer: Signer,
}

impl Authenticator {
    pub fn new(signer: Signer) -> Self {
        Self { signer }
    }

    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The audiences a token for this server carries.
    pub fn audience(&self) -> &str {
        self.signer.issuer()
    }

    /// The user of a request, and whom they act as.
    #[cfg(test)]
    pub async fn authenticate(
        &self,
        lookup: &dyn Lookup,
        authorizer: &Authorizer,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<User> {
        let user = self.credential(lookup, peer, headers).await?;
        Ok(acting_as(authorizer, &user, headers)?.unwrap_or_else(|| User::clone(&user)))
    }

    /// The user whose credential a request shows, anonymous if it shows none. `lookup` finds the ServiceAccount behind a
    /// token.
    pub async fn credential(
        &self,
        lookup: &dyn Lookup,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Arc<User>> {
        match peer {
            Peer::Internal(user) => return Ok(user.clone()),
            Peer::Tls { user: Some(user), .. } if user.name.is_empty() => return Err(ApiError::Unauthorized),
            Peer::Tls { user: Some(user), .. } => return Ok(user.clone()),
            Peer::Tls { user: None, .. } => {}
        }
        match bearer(headers)? {
            // Boxed: certificates are what most show, and this is held for every request.
            Some(token) => match Box::pin(self.check_token(lookup, &token, &[self.audience()])).await? {
                Ok((user, _)) => Ok(Arc::new(user)),
                Err(why) => {
                    debug!(why, "token refused");
                    Err(ApiError::Unauthorized)
                }
            },
            None => Ok(Arc::new(User::anonymous())),
        }
    }

    /// The user of a token, and which of `audiences` it is meant for; or why it is no good.
    /// The outer error is ours (the store failed), not the token's.
    pub async fn check_token(
        &self,
        lookup: &dyn Lookup,
        token: &str,
        audiences: &[&str],
    ) -> Result<std::result::Result<(User, Vec<String>), String>> {
        let now = jiff::Timestamp::now();
        let claims = match self.signer.check(token, now.as_second()) {
            Ok(claims) => claims,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let meant: Vec<String> = audiences
            .iter()
            .filter(|a| claims.aud.iter().any(|t| t == **a))
            .map(|a| (*a).to_owned())
            .collect();
        if meant.is_empty() {
            return Ok(Err(format!("meant for {:?}", claims.aud)));
        }
        match still_bound(lookup, &claims.kubernetes, now).await? {
            Some(why) => Ok(Err(why)),
            None => Ok(Ok((token_user(&claims), meant))),
        }
    }
}

/// Takes what proved the user's identity out of a request, before anything else may see or pass it on.
pub fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let extras: Vec<_> = headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    for key in extras {
        headers.remove(key);
    }
    let offered = protocols(headers);
    if offered.iter().any(|p| p.starts_with(TOKEN_PROTOCOL)) {
        let rest: Vec<String> = offered.into_iter().filter(|p| !p.starts_with(TOKEN_PROTOCOL)).collect();
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        if let Ok(value) = rest.join(", ").parse() {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

/// The bearer token shown, if any. Another scheme is a credential we cannot check: refused.
fn bearer(headers: &HeaderMap) -> Result<Option<String>> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().map_err(|_| ApiError::Unauthorized)?.trim();
        let (scheme, token) = value.split_once(' ').ok_or(ApiError::Unauthorized)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return Err(ApiError::Unauthorized);
        }
        return Ok(Some(token.to_owned()));
    }
    let offered = protocols(headers);
    let Some(encoded) = offered.iter().find_map(|p| p.strip_prefix(TOKEN_PROTOCOL)) else { return Ok(None) };
    // Kubernetes wants a second protocol, the one to be spoken: the token must never be echoed as the choice.
    if offered.len() < 2 {
        return Err(ApiError::Unauthorized);
    }
    let token = BASE64URL.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    token.map(Some).ok_or(ApiError::Unauthorized)
}

fn protocols(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|p| p.trim().to_owned())
        .filter(|p| !p.is_empty())
        .collect()
}

/// Whether everything the token is bound to is still there under the same uid; else why not.
async fn still_bound(lookup: &dyn Lookup, bound: &Bound, now: jiff::Timestamp) -> Result<Option<String>> {
    let namespace = bound.namespace.as_str();
    let references = [
        ("serviceaccounts", namespace, Some(&bound.serviceaccount)),
        ("pods", namespace, bound.pod.as_ref()),
        ("secrets", namespace, bound.secret.as_ref()),
        // A pod's node is told for information; only a token bound to the node itself dies with it.
        ("nodes", "", bound.node.as_ref().filter(|_| bound.pod.is_none())),
    ];
    for (plural, namespace, reference) in references {
        if let Some(reference) = reference
            && let Some(why) = gone(lookup, plural, namespace, reference, now).await?
        {
            return Ok(Some(why));
        }
    }
    Ok(None)
}

async fn gone(
    lookup: &dyn Lookup,
    plural: &str,
    namespace: &str,
    reference: &Reference,
    now: jiff::Timestamp,
) -> Result<Option<String>> {
    let Some(object) = lookup.get(plural, namespace, &reference.name).await? else {
        return Ok(Some(format!("{plural} {:?} is gone", reference.name)));
    };
    let meta = object.meta();
    if meta.uid.as_deref().unwrap_or_default() != reference.uid {
        return Ok(Some(format!("{plural} {:?} is another one than the token's", reference.name)));
    }
    let leeway = jiff::SignedDuration::try_from(DELETION_LEEWAY).unwrap_or_default();
    let deleted = meta.deletion_timestamp.as_ref().is_some_and(|at| at.0 + leeway < now);
    Ok(deleted.then(|| format!("{plural} {:?} is being deleted", reference.name)))
}

fn token_user(claims: &Claims) -> User {
    let bound = &claims.kubernetes;
    let mut extra = BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![format!("JTI={}", claims.jti)])]);
    let mut note = |name: &str, uid: &str, reference: &Option<Reference>| {
        if let Some(reference) = reference {
            extra.insert(name.to_owned(), vec![reference.name.clone()]);
            if !reference.uid.is_empty() {
                extra.insert(uid.to_owned(), vec![reference.uid.clone()]);
            }
        }
    };
    note(POD_NAME, POD_UID, &bound.pod);
    note(NODE_NAME, NODE_UID, &bound.node);
    User {
        name: service_account_name(&bound.namespace, &bound.serviceaccount.name),
        uid: bound.serviceaccount.uid.clone(),
        groups: service_account_groups(&bound.namespace),
        extra,
    }
}

pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

pub(super) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        AUTHENTICATED.to_owned(),
    ]
}

/// `kubectl --as`: the user asked for, if this one may act as them; `None` if nobody is asked for.
pub fn acting_as(authorizer: &Authorizer, user: &User, headers: &HeaderMap) -> Result<Option<User>> {
    let text = |name: &str| -> Result<Option<String>> {
        let Some(value) = headers.get(name) else { return Ok(None) };
        value.to_str().map(|v| Some(v.to_owned())).map_err(|_| bad_header(name))
    };
    if !headers.keys().any(|k| k.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    let Some(name) = text("impersonate-user")?.filter(|n| !n.is_empty()) else {
        return Err(ApiError::BadRequest("requested impersonation without impersonating a user".to_owned()));
    };
    let uid = text("impersonate-uid")?.unwrap_or_default();
    let mut groups = Vec::new();
    for value in headers.get_all("impersonate-group") {
        groups.push(value.to_str().map_err(|_| bad_header("impersonate-group"))?.to_owned());
    }
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in headers {
        if let Some(key) = key.as_str().strip_prefix(IMPERSONATE_EXTRA) {
            let value = value.to_str().map_err(|_| bad_header(IMPERSONATE_EXTRA))?.to_owned();
            extra.entry(percent_decoded(key)).or_default().push(value);
        }
    }

    let question = |group, version, resource, name| authz::Attributes {
        verb: "impersonate",
        group,
        version,
        resource,
        name,
        ..authz::Attributes::default()
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => authorizer.authorize(
            user,
            authz::Attributes { namespace, ..question("", "v1", "serviceaccounts", name) },
        )?,
        None => authorizer.authorize(user, question("", "v1", "users", &name))?,
    }
    for group in &groups {
        authorizer.authorize(user, question("", "v1", "groups", group))?;
    }
    if !uid.is_empty() {
        authorizer.authorize(user, question("authentication.k8s.io", "v1", "uids", &uid))?;
    }
    for (key, values) in &extra {
        for value in values {
            let question = question("authentication.k8s.io", "v1", "userextras", value);
            authorizer.authorize(user, authz::Attributes { subresource: key, ..question })?;
        }
    }

    if let (true, Some((namespace, _))) = (groups.is_empty(), account) {
        groups = service_account_groups(namespace);
    }
    let nobody = name == super::ANONYMOUS || groups.iter().any(|g| g == super::UNAUTHENTICATED);
    let missing = if nobody { super::UNAUTHENTICATED } else { AUTHENTICATED };
    if !groups.iter().any(|g| g == missing) {
        groups.push(missing.to_owned());
    }
    Ok(Some(User { name, uid, groups, extra }))
}

fn bad_header(name: &str) -> ApiError {
    ApiError::BadRequest(format!("header {name} is not readable text"))
}

/// Extra keys hold `/` and other characters that no header name may.
fn percent_decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests;
