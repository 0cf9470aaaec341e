//! Keeps the Endpoints object of every service that has a selector, for clients older than EndpointSlices.

use crate::{
    endpoint_slice::{HEADLESS, pod_reference},
    endpoints_of::{self, Member, Port},
};
use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Addresses in one object; beyond it Kubernetes cuts and says so in this annotation.
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

/// The object as it should be, or `None` if no controller keeps one for this service.
pub fn plan(service: &Service, pods: &[Arc<Pod>]) -> Option<Endpoints> {
    if !endpoints_of::is_managed(service) || service.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut members = endpoints_of::members(service, pods);
    members.retain(|m| m.ready || !m.terminating);
    let mut annotations = BTreeMap::new();
    if members.len() > MAX_ADDRESSES {
        members.sort_by_key(|m| !m.ready);
        members.truncate(MAX_ADDRESSES);
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if endpoints_of::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    let subsets = subsets(&members);
    Some(Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..Default::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    })
}

/// One subset for each set of ports that some addresses share, ready and unready side by side.
fn subsets(members: &[Member]) -> Vec<EndpointSubset> {
    // For each port, who has it; then for each group of owners, the ports they share.
    let mut owners: BTreeMap<Option<Port>, BTreeSet<usize>> = BTreeMap::new();
    for (i, member) in members.iter().enumerate() {
        if member.ports.is_empty() {
            owners.entry(None).or_default().insert(i);
        }
        for port in &member.ports {
            owners.entry(Some(port.clone())).or_default().insert(i);
        }
    }
    let mut groups: BTreeMap<BTreeSet<usize>, Vec<Port>> = BTreeMap::new();
    for (port, who) in owners {
        groups.entry(who).or_default().extend(port);
    }
    groups
        .into_iter()
        .map(|(who, ports)| {
            let side = |ready: bool| {
                let list: Vec<EndpointAddress> =
                    who.iter().map(|&i| &members[i]).filter(|m| m.ready == ready).map(address).collect();
                (!list.is_empty()).then_some(list)
            };
            let ports: Vec<EndpointPort> = ports.iter().map(port).collect();
            EndpointSubset {
                addresses: side(true),
                not_ready_addresses: side(false),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .collect()
}

fn address(member: &Member) -> EndpointAddress {
    EndpointAddress {
        ip: member.address.clone(),
        hostname: member.hostname.clone(),
        node_name: member.pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(pod_reference(&member.pod)),
    }
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: (!port.name.is_empty()).then(|| port.name.clone()),
        port: port.port,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}
