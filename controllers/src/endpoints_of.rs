//! What pods a service's endpoints are, shared by EndpointSlices and the older Endpoints: pure.

use crate::run::ObjectKey;
use api::pod;
use client::{Change, Queue, Store};
use k8s_openapi::{
    api::core::v1::{Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::sync::Arc;

/// One pod as an endpoint of a service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    pub pod: Arc<Pod>,
    pub address: String,
    /// The name it has under the service's DNS name, where pod and service agree on one.
    pub hostname: Option<String>,
    /// May get traffic: ready and not terminating, or the service asks for every pod.
    pub ready: bool,
    /// Ready, terminating or not.
    pub serving: bool,
    pub terminating: bool,
    /// The service's ports as they are on this pod, those that do not exist there left out.
    pub ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    pub name: String,
    pub port: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

/// Whether a controller keeps endpoints for the service; without a selector a person does.
pub(crate) fn is_managed(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| {
        s.selector.as_ref().is_some_and(|m| !m.is_empty()) && s.type_.as_deref() != Some("ExternalName")
    })
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// Whether the service selects the pod.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else { return false };
    let labels = pod.metadata.labels.as_ref();
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

/// Adds to `queue` every service that changes, and the services whose endpoints a changed pod is or was.
pub(crate) fn watch_services_and_pods(
    services: &Store<Service>,
    pods: &Store<Pod>,
    queue: &Queue<ObjectKey>,
) {
    let added = queue.clone();
    services.on_change(move |change| added.add(ObjectKey::of(&change.object().metadata)));
    let (services, queue) = (services.clone(), queue.clone());
    pods.on_change(move |change| {
        let (old, new) = match change {
            Change::Applied { old, new } => (old.as_ref(), Some(new)),
            Change::Deleted(last) => (Some(last), None),
        };
        if let (Some(old), Some(new)) = (old, new)
            && old.metadata.labels == new.metadata.labels
            && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
            && old.status.as_ref().and_then(|s| s.pod_ip.as_ref())
                == new.status.as_ref().and_then(|s| s.pod_ip.as_ref())
            && pod::is_ready(old) == pod::is_ready(new)
            && pod::is_terminal(old) == pod::is_terminal(new)
        {
            return;
        }
        let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
        for service in services.in_namespace(namespace) {
            if [old, new].into_iter().flatten().any(|p| selects(&service, p)) {
                queue.add(ObjectKey::of(&service.metadata));
            }
        }
    });
}

/// The members of a service, in the order of their names.
pub(crate) fn members(service: &Service, pods: &[Arc<Pod>]) -> Vec<Member> {
    let mut members: Vec<Member> =
        pods.iter().filter(|p| selects(service, p)).filter_map(|p| member(service, p)).collect();
    members.sort_by(|a, b| a.pod.metadata.name.cmp(&b.pod.metadata.name));
    members
}

fn member(service: &Service, candidate: &Arc<Pod>) -> Option<Member> {
    let spec = service.spec.as_ref()?;
    let address = candidate.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    if pod::is_terminal(candidate) {
        return None;
    }
    let serving = pod::is_ready(candidate);
    let terminating = pod::is_terminating(candidate);
    let everyone = spec.publish_not_ready_addresses == Some(true);
    let pod_spec = candidate.spec.as_ref()?;
    let hostname = pod_spec.hostname.clone().filter(|h| !h.is_empty());
    let same_domain = pod_spec.subdomain == service.metadata.name;
    Some(Member {
        pod: Arc::clone(candidate),
        address,
        hostname: hostname.filter(|_| same_domain),
        ready: everyone || (serving && !terminating),
        serving,
        terminating,
        ports: spec.ports.iter().flatten().filter_map(|p| port_on(p, candidate)).collect(),
    })
}

/// The service's port as it is on this pod; `None` if it names a container port the pod does not have.
fn port_on(port: &ServicePort, candidate: &Pod) -> Option<Port> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(name)) => {
            candidate
                .spec
                .as_ref()?
                .containers
                .iter()
                .chain(
                    candidate
                        .spec
                        .iter()
                        .flat_map(|s| s.init_containers.iter().flatten().filter(|c| pod::is_sidecar(c))),
                )
                .flat_map(|c| c.ports.iter().flatten())
                .find(|p| {
                    p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
                })?
                .container_port
        }
    };
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        port: number,
        protocol,
        app_protocol: port.app_protocol.clone(),
    })
}
