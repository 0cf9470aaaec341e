//! Keeps the Endpoints object of every service that has a selector, for clients older than EndpointSlices.

use crate::{
    context::{Ctx, delete_as_seen},
    endpoint_slice::{HEADLESS, pod_reference},
    endpoints_of::{self, Member, Port},
    error::{Result, ignore_not_found, is_namespace_terminating},
    run::{Controller, Next, ObjectKey},
};
use async_trait::async_trait;
use client::{Queue, Store};
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
const MANAGER: &str = "endpoint-controller";

pub struct EndpointsController {
    ctx: Arc<Ctx>,
    services: Store<Service>,
    pods: Store<Pod>,
    endpoints: Store<Endpoints>,
}

impl EndpointsController {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        let (services, pods, endpoints) =
            (ctx.informers.store(), ctx.informers.store(), ctx.informers.store());
        Self { ctx, services, pods, endpoints }
    }
}

#[async_trait]
impl Controller for EndpointsController {
    type Key = ObjectKey;
    const NAME: &'static str = "endpoints";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        endpoints_of::watch_services_and_pods(&self.services, &self.pods, queue);
        let queue = queue.clone();
        self.endpoints.on_change(move |change| queue.add(ObjectKey::of(&change.object().metadata)));
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let service = self.services.get(&key.namespace, &key.name);
        let wanted = service.and_then(|s| plan(&s, &self.pods.in_namespace(&key.namespace)));
        let existing = self.endpoints.get(&key.namespace, &key.name);
        let api = self.ctx.api::<Endpoints>(&key.namespace);
        match (wanted, existing) {
            (Some(wanted), None) => match api.create(&Default::default(), &wanted).await {
                Err(error) if is_namespace_terminating(&error) => {}
                other => other.map(|_| ())?,
            },
            (Some(wanted), Some(existing)) => {
                let mut new = Endpoints::clone(&existing);
                new.metadata.labels = wanted.metadata.labels;
                new.subsets = wanted.subsets;
                let annotations = new.metadata.annotations.get_or_insert_default();
                annotations.remove(OVER_CAPACITY);
                annotations.extend(wanted.metadata.annotations.unwrap_or_default());
                if annotations.is_empty() {
                    new.metadata.annotations = None;
                }
                if new != *existing {
                    ignore_not_found(api.replace(&key.name, &Default::default(), &new).await)?;
                }
            }
            (None, Some(existing)) if is_ours(&existing) => {
                ignore_not_found(delete_as_seen(&api, &existing.metadata).await)?;
            }
            (None, _) => {}
        }
        Ok(Next::Wait)
    }
}

/// Endpoints of a service without a selector are a person's: never touched.
fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).map(String::as_str) == Some(MANAGER)
}

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
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn subsets_group_by_ports_with_ready_and_unready_apart() {
        let service: Service = from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 80, "targetPort": "http"}]},
        }))
        .unwrap();
        let pod = |name: &str, ip: &str, port: i32, ready: &str| -> Arc<Pod> {
            Arc::new(
                from_value(json!({
                    "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
                    "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
                }))
                .unwrap(),
            )
        };
        let pods = [
            pod("a", "10.0.0.1", 80, "True"),
            pod("b", "10.0.0.2", 80, "False"),
            pod("c", "10.0.0.3", 90, "True"),
        ];
        let endpoints = plan(&service, &pods).unwrap();
        let ips = |a: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            a.iter().flatten().map(|a| a.ip.clone()).collect()
        };
        let seen: Vec<_> = endpoints
            .subsets
            .unwrap()
            .iter()
            .map(|s| (s.ports.as_ref().unwrap()[0].port, ips(&s.addresses), ips(&s.not_ready_addresses)))
            .collect();
        assert_eq!(
            seen,
            [
                (80, vec!["10.0.0.1".to_owned()], vec!["10.0.0.2".to_owned()]),
                (90, vec!["10.0.0.3".to_owned()], vec![])
            ]
        );
        assert!(endpoints.metadata.labels.unwrap().contains_key(HEADLESS));
    }

    #[test]
    fn a_service_without_selector_is_left_to_people() {
        let service: Service =
            from_value(json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 1}]}})).unwrap();
        assert_eq!(plan(&service, &[]), None);
    }
}
