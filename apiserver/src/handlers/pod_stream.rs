//! pods/{log,exec,attach,portforward}: found out where the pod runs, asked of that node's kubelet, passed through.
//!
//! This file decides who is asked for which container. What flows through an upgraded connection (SPDY/3.1 or WebSocket
//! frames) is between the client and the kubelet.

use super::forward::{Forwarder, cannot_upgrade, set_upgrade, wanted_upgrade};
use crate::{
    admission::{Lookup, find},
    error::{ApiError, Result},
    kinds::Subresource,
    request::Incoming,
    state::App,
};
use api::field::{Errors, Path};
use axum::{body::Body, response::Response};
use http::{HeaderName, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};

/// Protocols a client may switch to; each is framed by the kubelet.
const PROTOCOLS: [&str; 2] = ["spdy/3.1", "websocket"];
/// What the kubelet needs to know of the client's request besides its path. Credentials are ours and stay here.
const PASSED: [HeaderName; 8] = [
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    HeaderName::from_static("x-stream-protocol-version"),
    header::ACCEPT,
    header::ORIGIN,
    header::USER_AGENT,
];
/// A kubelet's error text that we quote; its own are one line.
const MAX_ERROR_TEXT: usize = 8 << 10;

/// GET or POST of one of a pod's streams.
pub async fn open(app: &App, subresource: Subresource, incoming: Incoming) -> Result<Response> {
    let Incoming { info, request, .. } = incoming;
    stream(&app.forwarder, &app.registry, subresource, &info.namespace, &info.name, request).await
}

/// Answers a request for one of a pod's streams. The caller has authorised it.
pub async fn stream(
    forwarder: &Forwarder,
    lookup: &dyn Lookup,
    subresource: Subresource,
    namespace: &str,
    name: &str,
    request: Request<Body>,
) -> Result<Response> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let pod = find::<Pod>(lookup, "pods", namespace, name).await?.ok_or_else(|| ApiError::NotFound {
        group: String::new(),
        resource: "pods".to_owned(),
        name: name.to_owned(),
    })?;
    let websocket = wanted_upgrade(request.headers()).is_some();
    if subresource == Subresource::Log && !websocket {
        return logs(forwarder, &pod, namespace, name, &query).await;
    }
    let path = match subresource {
        // As messages of the subprotocol binary.k8s.io.
        Subresource::Log => logs_path(&pod, namespace, name, &query)?,
        Subresource::PortForward => port_forward_path(namespace, name, &query),
        Subresource::Attach => {
            exec_path("attach", namespace, name, &container(&pod, name, query.get("container"))?, &query)
        }
        _ => exec_path("exec", namespace, name, &container(&pod, name, query.get("container"))?, &query),
    };
    let node = node_of(&pod)
        .ok_or_else(|| ApiError::BadRequest(format!("pod {name} does not have a host assigned")))?;
    upgrade(forwarder, node, &path, request).await
}

async fn logs(
    forwarder: &Forwarder,
    pod: &Pod,
    namespace: &str,
    name: &str,
    query: &Query,
) -> Result<Response> {
    let target = logs_path(pod, namespace, name, query)?;
    // As Kubernetes: a pod that has no node yet has written nothing yet.
    let Some(node) = node_of(pod) else { return Ok(Response::new(Body::empty())) };
    let connection = forwarder.node(node).await?;
    let request = kubelet_request(http::Method::GET, &target, node)?;
    let response = forwarder.exchange(connection, request).await?;
    if response.status().is_success() {
        return forwarder.answer(None, response);
    }
    Err(refused(name, response).await)
}

fn logs_path(pod: &Pod, namespace: &str, name: &str, query: &Query) -> Result<String> {
    check_log_options(name, query)?;
    let container = container(pod, name, query.get("container"))?;
    let options =
        ["follow", "previous", "timestamps", "tailLines", "sinceSeconds", "sinceTime", "limitBytes"];
    Ok(format!("/containerLogs/{namespace}/{name}/{container}{}", query.select(&options)))
}

/// The kubelet's refusal in our words. Ours sends a `Status`, others plain text.
async fn refused(name: &str, response: http::Response<hyper::body::Incoming>) -> ApiError {
    let code = response.status();
    let text = match Limited::new(response.into_body(), MAX_ERROR_TEXT).collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            let status = serde_json::from_slice::<Status>(&body).ok();
            let message = status.and_then(|status| status.message);
            message.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned())
        }
        Err(_) => format!("the kubelet answered {code}"),
    };
    match code {
        StatusCode::NOT_IMPLEMENTED => ApiError::NotImplemented(text),
        StatusCode::NOT_FOUND => {
            ApiError::NotFound { group: String::new(), resource: "pods".to_owned(), name: name.to_owned() }
        }
        code if code.is_client_error() => ApiError::BadRequest(text),
        _ => ApiError::BadGateway(format!("the kubelet answered {code}: {text}")),
    }
}

async fn upgrade(
    forwarder: &Forwarder,
    node: &str,
    target: &str,
    mut request: Request<Body>,
) -> Result<Response> {
    let protocol = wanted_upgrade(request.headers()).ok_or_else(cannot_upgrade)?;
    let known = protocol.to_str().is_ok_and(|p| PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(p)));
    if !known {
        let list = PROTOCOLS.join(", ");
        return Err(ApiError::BadRequest(format!("unable to upgrade: expected one of {list} in Upgrade")));
    }
    // Taken before anything is dialled: a connection that cannot switch (HTTP/2, in process) costs nothing.
    let client = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>().ok_or_else(cannot_upgrade)?;
    let mut onward = kubelet_request(request.method().clone(), target, node)?;
    for name in PASSED {
        for value in request.headers().get_all(&name) {
            onward.headers_mut().append(name.clone(), value.clone());
        }
    }
    set_upgrade(onward.headers_mut(), Some(protocol));
    let connection = forwarder.node(node).await?;
    let response = forwarder.exchange(connection, onward).await?;
    forwarder.answer(Some(client), response)
}

fn kubelet_request(method: http::Method, target: &str, node: &str) -> Result<Request<Body>> {
    let uri: Uri = target.parse().map_err(|e| ApiError::BadRequest(format!("invalid request: {e}")))?;
    Request::builder()
        .method(method)
        .uri(uri)
        .header(header::HOST, node)
        .body(Body::empty())
        .map_err(|e| ApiError::BadRequest(format!("invalid request: {e}")))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// The container asked for, or the only one there is.
fn container(pod: &Pod, name: &str, wanted: Option<&str>) -> Result<String> {
    let Some(spec) = &pod.spec else {
        return Err(ApiError::BadRequest(format!("pod {name} has no containers")));
    };
    let app: Vec<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    let init: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    let ephemeral: Vec<&str> = spec.ephemeral_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    if let Some(wanted) = wanted.filter(|w| !w.is_empty()) {
        return if app.iter().chain(&init).chain(&ephemeral).any(|c| *c == wanted) {
            Ok(wanted.to_owned())
        } else {
            Err(ApiError::BadRequest(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    if let [only] = app.as_slice()
        && init.is_empty()
        && ephemeral.is_empty()
    {
        return Ok((*only).to_owned());
    }
    let mut text =
        format!("a container name must be specified for pod {name}, choose one of: [{}]", app.join(" "));
    for (what, names) in [("init", init), ("ephemeral", ephemeral)] {
        if !names.is_empty() {
            text.push_str(&format!(" or one of the {what} containers: [{}]", names.join(" ")));
        }
    }
    Err(ApiError::BadRequest(text))
}

/// kubectl's names of the options, in the kubelet's spelling.
fn exec_path(verb: &str, namespace: &str, name: &str, container: &str, query: &Query) -> String {
    let mut path = format!("/{verb}/{namespace}/{name}/{container}");
    let mut onward = Query::default();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.is_set(ours) {
            onward.push(theirs, "1");
        }
    }
    if verb == "exec" {
        for word in query.all("command") {
            onward.push("command", word);
        }
    }
    path.push_str(&onward.to_string());
    path
}

fn port_forward_path(namespace: &str, name: &str, query: &Query) -> String {
    format!("/portForward/{namespace}/{name}{}", query.select(&["ports", "port"]))
}

/// Kubernetes' `ValidatePodLogOptions`.
fn check_log_options(name: &str, query: &Query) -> Result<()> {
    let mut errors = Errors::default();
    let root = Path::default();
    for (option, least, rule) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        let Some(text) = query.get(option) else { continue };
        match text.parse::<i64>() {
            Ok(number) if number >= least => {}
            Ok(number) => errors.invalid(&root.child(option), number, rule),
            Err(_) => {
                return Err(ApiError::BadRequest(format!("{option}: {text:?} is not an integer")));
            }
        }
    }
    if let Some(time) = query.get("sinceTime") {
        if time.parse::<jiff::Timestamp>().is_err() {
            return Err(ApiError::BadRequest(format!("sinceTime: {time:?} is not an RFC 3339 time")));
        }
        if query.get("sinceSeconds").is_some() {
            errors.forbidden(&root, "at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
    }
    if let Some(stream) = query.get("stream").filter(|s| *s != "All") {
        errors.not_supported(&root.child("stream"), stream, &["All"]);
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid {
        group: String::new(),
        kind: "PodLogOptions".to_owned(),
        name: name.to_owned(),
        errors,
    })
}

/// A decoded query string that keeps its order and repetitions.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }
    fn push(&mut self, key: &str, value: &str) {
        self.0.push((key.to_owned(), value.to_owned()));
    }
    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    /// As Kubernetes converts booleans of a query: `0`, `false` are false, anything else (also nothing) is true.
    fn is_set(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| !matches!(v, "0" | "false"))
    }
    /// Only these keys, as a query with its question mark.
    fn select(&self, keys: &[&str]) -> String {
        Self(self.0.iter().filter(|(k, _)| keys.contains(&k.as_str())).cloned().collect()).to_string()
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish();
        write!(f, "?{text}")
    }
}

#[cfg(test)]
mod tests;
