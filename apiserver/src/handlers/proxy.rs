//! pods/…/proxy, services/…/proxy and nodes/…/proxy: any request, to a pod's port or to a kubelet.
//!
//! Where to is read from our own objects, never from the path: a pod's address from its status, a service's from its
//! EndpointSlices and only where the address is a pod's. Redirects are passed on, not followed.

mod html;
mod rewrite;

use super::forward::{Forwarder, cannot_upgrade, remove_hop_by_hop, set_upgrade, wanted_upgrade};
use crate::{
    admission::{Lookup, find, find_all},
    auth::{Peer, authn::remove_credentials},
    error::{ApiError, Result},
    kinds::AnyKind,
    request::Incoming,
    state::App,
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use rewrite::Prefix;
use std::net::{IpAddr, SocketAddr};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the path names before `/proxy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Pod,
    Service,
    Node,
}

/// Any method on a `proxy` subresource.
pub async fn pass(app: &App, kind: &dyn AnyKind, incoming: Incoming) -> Result<Response> {
    let behind = match kind.resource().plural {
        "pods" => Behind::Pod,
        "services" => Behind::Service,
        "nodes" => Behind::Node,
        _ => return Err(ApiError::NoSuchPath),
    };
    let Incoming { info, request, .. } = incoming;
    proxy(&app.forwarder, &app.registry, behind, &info.namespace, &info.name, &info.remainder, request).await
}

/// Answers a request to `…/NAME/proxy` + `path`. The caller has authorised it. `id` is `[scheme:]NAME[:port]`, decoded;
/// `path` is what follows `proxy`, as sent (`RequestInfo::remainder`).
pub async fn proxy(
    forwarder: &Forwarder,
    lookup: &dyn Lookup,
    behind: Behind,
    namespace: &str,
    id: &str,
    path: &str,
    mut request: Request<Body>,
) -> Result<Response> {
    let what = match behind {
        Behind::Pod => "pod",
        Behind::Service => "service",
        Behind::Node => "node",
    };
    let target =
        Target::parse(id).ok_or_else(|| ApiError::BadRequest(format!("invalid {what} request {id:?}")))?;
    let place = match behind {
        Behind::Pod => Place::Address(pod_address(lookup, namespace, &target).await?),
        Behind::Service => Place::Address(service_address(lookup, namespace, &target).await?),
        Behind::Node => Place::Kubelet(target.name),
    };
    let upgrade = wanted_upgrade(request.headers());
    if upgrade.is_none() && path.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        return redirect_to_slash(request.uri());
    }

    let client = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    if upgrade.is_some() && client.is_none() {
        return Err(cannot_upgrade());
    }
    let whole = request.uri().path();
    let prefix = Prefix {
        path: whole.strip_suffix(path).unwrap_or(whole).to_owned(),
        backend: place.host(target.https),
        client: client_host(&request),
    };
    let onward = onward(request, path, &prefix, upgrade.clone())?;
    let method = onward.method().clone();
    let connection = match &place {
        Place::Address(address) => forwarder.address(*address, target.https).await?,
        Place::Kubelet(node) => forwarder.node(node).await?,
    };
    let response = forwarder.exchange(connection, onward).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return forwarder.answer(client.filter(|_| upgrade.is_some()), response);
    }
    let response = forwarder.answer(None, response)?;
    rewrite::response(&prefix, &method, response).await
}

enum Place<'a> {
    Address(SocketAddr),
    Kubelet(&'a str),
}

impl Place<'_> {
    /// As the backend would name itself in an absolute link.
    fn host(&self, https: bool) -> String {
        match self {
            Self::Address(address) if address.port() == if https { 443 } else { 80 } => match address.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            },
            Self::Address(address) => address.to_string(),
            Self::Kubelet(node) => (*node).to_owned(),
        }
    }
}

/// `[scheme:]NAME[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    https: bool,
    name: &'a str,
    /// A number, or for services a port's name; empty if not given.
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let https = match scheme {
            "" | "http" => false,
            "https" => true,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { https, name, port })
    }
}

async fn pod_address(lookup: &dyn Lookup, namespace: &str, target: &Target<'_>) -> Result<SocketAddr> {
    let pod = find::<Pod>(lookup, "pods", namespace, target.name).await?;
    let pod = pod.ok_or_else(|| not_found("pods", target.name))?;
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).unwrap_or_default();
    let declared = pod.spec.iter().flat_map(|s| &s.containers).find_map(|c| c.ports.as_ref()?.first());
    let port = match (target.port, declared) {
        ("", Some(port)) => u16::try_from(port.container_port).ok(),
        ("", None) => Some(if target.https { 443 } else { 80 }),
        (text, _) => text.parse().ok().filter(|p| *p != 0),
    };
    let port = port.ok_or_else(|| ApiError::BadRequest(format!("invalid port {:?}", target.port)))?;
    let ip = ip.parse().ok().filter(|ip| allowed(*ip));
    let ip = ip.ok_or_else(|| ApiError::BadRequest("address not allowed".to_owned()))?;
    Ok(SocketAddr::new(ip, port))
}

async fn service_address(lookup: &dyn Lookup, namespace: &str, target: &Target<'_>) -> Result<SocketAddr> {
    let service = find::<Service>(lookup, "services", namespace, target.name).await?;
    let service = service.ok_or_else(|| not_found("services", target.name))?;
    let port = port_name(&service, target)?;
    let slices = find_all::<EndpointSlice>(lookup, "endpointslices", namespace).await?;
    let mut candidates = ready(&slices, target.name, &port);
    // Any of them will do; the next is tried only where one turns out not to be a pod's.
    fastrand::shuffle(&mut candidates);
    for (address, pod) in candidates {
        let pod = find::<Pod>(lookup, "pods", namespace, &pod).await?;
        let own = pod.is_some_and(|pod| has_address(&pod, address.ip()));
        if own && allowed(address.ip()) {
            return Ok(address);
        }
    }
    Err(ApiError::Unavailable(format!("no endpoints available for service {:?}", target.name)))
}

/// Slices know ports by name; the number in the path is the service's. Where the path names none, a service's only port
/// is meant, whatever its name (Kubernetes finds only an unnamed one).
fn port_name(service: &Service, target: &Target<'_>) -> Result<String> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    if let ("", [only]) = (target.port, ports) {
        return Ok(only.name.clone().unwrap_or_default());
    }
    let Ok(number) = target.port.parse::<i32>() else { return Ok(target.port.to_owned()) };
    let port = ports.iter().find(|p| p.port == number);
    let port = port.ok_or_else(|| {
        ApiError::Unavailable(format!("no service port {number} found for service {:?}", target.name))
    })?;
    Ok(port.name.clone().unwrap_or_default())
}

/// Addresses of ready endpoints on the named port, each with its pod's name. An address that belongs to no pod is not
/// for us to dial: anyone who may write a slice would borrow our place in the network.
fn ready(slices: &[EndpointSlice], service: &str, port: &str) -> Vec<(SocketAddr, String)> {
    let of_service = |slice: &&EndpointSlice| {
        slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME)).is_some_and(|name| name == service)
    };
    let mut found = Vec::new();
    for slice in slices.iter().filter(of_service) {
        let numbers = slice.ports.iter().flatten().filter(|p| p.name.as_deref().unwrap_or_default() == port);
        for number in numbers.filter_map(|p| u16::try_from(p.port?).ok()) {
            for endpoint in slice.endpoints.iter().flatten() {
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                let pod = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
                let Some(pod) = pod.and_then(|t| t.name.clone()).filter(|_| ready) else { continue };
                let addresses = endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
                found.extend(addresses.map(|ip| (SocketAddr::new(ip, number), pod.clone())));
            }
        }
    }
    found
}

fn has_address(pod: &Pod, ip: IpAddr) -> bool {
    let Some(status) = &pod.status else { return false };
    let more = status.pod_ips.iter().flatten().map(|i| &i.ip);
    status.pod_ip.iter().chain(more).any(|text| text.parse() == Ok(ip))
}

/// As Kubernetes: nothing but global unicast, so that no status can point at our own loopback or at a metadata service.
fn allowed(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_link_local()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

fn not_found(resource: &str, name: &str) -> ApiError {
    ApiError::NotFound { group: String::new(), resource: resource.to_owned(), name: name.to_owned() }
}

/// Relative links of the page would lose their last segment without the slash.
fn redirect_to_slash(uri: &Uri) -> Result<Response> {
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let location = HeaderValue::try_from(format!("{}/{query}", uri.path()))
        .map_err(|e| ApiError::BadRequest(format!("invalid path: {e}")))?;
    Ok((StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, location)]).into_response())
}

/// The host the client asked for: the header in HTTP/1.1, the authority in HTTP/2.
fn client_host(request: &Request<Body>) -> String {
    let header = request.headers().get(header::HOST).and_then(|v| v.to_str().ok()).map(str::to_owned);
    header.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default()
}

/// The request as the backend gets it.
fn onward(
    request: Request<Body>,
    path: &str,
    prefix: &Prefix,
    upgrade: Option<HeaderValue>,
) -> Result<Request<Body>> {
    let bad = |e: &dyn std::fmt::Display| ApiError::BadRequest(format!("invalid request: {e}"));
    let (mut parts, body) = request.into_parts();
    let path = if path.is_empty() { "/" } else { path };
    let target = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let remote = parts.extensions.get::<Peer>().and_then(|peer| match peer {
        Peer::Tls { remote, .. } => Some(remote.ip()),
        Peer::Internal(_) => None,
    });
    parts.uri = target.parse().map_err(|e| bad(&e))?;
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();
    let headers = &mut parts.headers;
    remove_hop_by_hop(headers);
    remove_credentials(headers);
    // The server below us has answered it already.
    headers.remove(header::EXPECT);
    set_upgrade(headers, upgrade);
    headers.insert(header::HOST, HeaderValue::try_from(&prefix.client).map_err(|e| bad(&e))?);
    headers
        .insert(FORWARDED_URI, HeaderValue::try_from(format!("{}{path}", prefix.path)).map_err(|e| bad(&e))?);
    if let Some(remote) = remote {
        append_forwarded_for(headers, remote);
    }
    Ok(Request::from_parts(parts, body))
}

fn append_forwarded_for(headers: &mut HeaderMap, remote: IpAddr) {
    let before: Vec<&str> = headers.get_all(&FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    let chain =
        if before.is_empty() { remote.to_string() } else { format!("{}, {remote}", before.join(", ")) };
    if let Ok(value) = HeaderValue::try_from(chain) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests;
