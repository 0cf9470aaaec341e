//! Keeps the EndpointSlices of every service that has a selector (API reference: discovery.k8s.io/v1).
//!
//! Slices are grouped by the ports their pods have, hold at most [`MAX_ENDPOINTS`], and keep an endpoint where it is
//! as long as it belongs there, so that one pod's change rewrites one slice. Names are derived from service, ports and
//! number: a create that a stale cache repeats finds the name taken instead of making a double.

use crate::{
    context::{self, Ctx, delete_as_seen},
    endpoints_of::{self, Member, Port},
    error::{Result, ignore_not_found, is_namespace_terminating},
    run::{Controller, Next, ObjectKey},
};
use async_trait::async_trait;
use client::{Change, Queue, Store};
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// Endpoints in one slice, as in Kubernetes: larger slices cost more per change, smaller ones more objects.
const MAX_ENDPOINTS: usize = 100;
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
pub const HEADLESS: &str = "service.kubernetes.io/headless";

pub struct EndpointSlices {
    ctx: Arc<Ctx>,
    services: Store<Service>,
    pods: Store<Pod>,
    slices: Store<EndpointSlice>,
}

impl EndpointSlices {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        let (services, pods, slices) = (ctx.informers.store(), ctx.informers.store(), ctx.informers.store());
        Self { ctx, services, pods, slices }
    }
}

#[async_trait]
impl Controller for EndpointSlices {
    type Key = ObjectKey;
    const NAME: &'static str = "endpointslice";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        endpoints_of::watch_services_and_pods(&self.services, &self.pods, queue);
        let queue = queue.clone();
        self.slices.on_change(move |change: &Change<EndpointSlice>| {
            let meta = &change.object().metadata;
            if let Some(service) = service_of(meta) {
                queue.add(ObjectKey::new(context::namespace(meta), service));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let existing: Vec<Arc<EndpointSlice>> = self
            .slices
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|s| service_of(&s.metadata) == Some(key.name.as_str()))
            .collect();
        let plan = match self.services.get(&key.namespace, &key.name) {
            Some(service) => plan(&service, &self.pods.in_namespace(&key.namespace), &existing),
            None => Plan { delete: existing, ..Plan::default() },
        };
        let api = self.ctx.api::<EndpointSlice>(&key.namespace);
        for slice in &plan.create {
            match api.create(&Default::default(), slice).await {
                Err(error) if is_namespace_terminating(&error) => return Ok(Next::Wait),
                other => other.map(|_| ())?,
            }
        }
        for slice in &plan.update {
            ignore_not_found(api.replace(context::name(&slice.metadata), &Default::default(), slice).await)?;
        }
        for slice in &plan.delete {
            ignore_not_found(delete_as_seen(&api, &slice.metadata).await)?;
        }
        Ok(Next::Wait)
    }
}

/// The service that one of this controller's slices belongs to.
fn service_of(meta: &ObjectMeta) -> Option<&str> {
    let labels = meta.labels.as_ref()?;
    (labels.get(MANAGED_BY).map(String::as_str) == Some(MANAGER))
        .then(|| labels.get(SERVICE_NAME))?
        .map(String::as_str)
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    /// Names, with the UID that was seen.
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// What must change so that the slices say what the pods are. `existing` are this controller's slices of the service.
pub fn plan(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    if !endpoints_of::is_managed(service) || service.metadata.deletion_timestamp.is_some() {
        plan.delete = existing.to_vec();
        return plan;
    }
    let mut groups: BTreeMap<Vec<Port>, Vec<Member>> = BTreeMap::new();
    for member in endpoints_of::members(service, pods) {
        let mut ports = member.ports.clone();
        ports.sort();
        groups.entry(ports).or_default().push(member);
    }
    if groups.is_empty() {
        // A slice even when nothing matches: "no endpoints" is a fact that clients watch for.
        groups.insert(Vec::new(), Vec::new());
    }

    let mut free: HashMap<Vec<Port>, Vec<Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        let mut ports: Vec<Port> = slice.ports.iter().flatten().map(port_of).collect();
        ports.sort();
        if groups.contains_key(&ports) && slice.metadata.deletion_timestamp.is_none() {
            free.entry(ports).or_default().push(Arc::clone(slice));
        } else {
            plan.delete.push(Arc::clone(slice));
        }
    }
    for (ports, members) in groups {
        let mut slices = free.remove(&ports).unwrap_or_default();
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        plan_group(service, &ports, members, &slices, &mut plan);
    }
    plan
}

/// Fills the group's existing slices first, then new ones; slices left empty go.
fn plan_group(
    service: &Service,
    ports: &[Port],
    members: Vec<Member>,
    slices: &[Arc<EndpointSlice>],
    plan: &mut Plan,
) {
    let order: Vec<String> = members.iter().map(uid_of).collect();
    let mut wanted: HashMap<String, Endpoint> = members.iter().map(|m| (uid_of(m), endpoint(m))).collect();
    // Keep what is in place.
    let mut filled: Vec<Vec<Endpoint>> = slices
        .iter()
        .map(|slice| {
            let uids = slice.endpoints.iter().flatten().filter_map(|e| e.target_ref.as_ref()?.uid.clone());
            uids.filter_map(|uid| wanted.remove(&uid)).collect()
        })
        .collect();
    // Place what is new, in the order of names.
    let mut rest = order.iter().filter_map(|uid| wanted.remove(uid)).collect::<Vec<_>>().into_iter();
    for slot in &mut filled {
        let room = MAX_ENDPOINTS.saturating_sub(slot.len());
        slot.extend(rest.by_ref().take(room));
    }
    let mut fresh: Vec<Vec<Endpoint>> = Vec::new();
    loop {
        let chunk: Vec<Endpoint> = rest.by_ref().take(MAX_ENDPOINTS).collect();
        if chunk.is_empty() {
            break;
        }
        fresh.push(chunk);
    }
    if slices.is_empty() && fresh.is_empty() {
        fresh.push(Vec::new());
    }
    // An empty slice goes, except the last one standing.
    let mut standing = filled.iter().filter(|f| !f.is_empty()).count() + fresh.len();
    for (slice, endpoints) in slices.iter().zip(filled) {
        if endpoints.is_empty() && standing > 0 {
            plan.delete.push(Arc::clone(slice));
            continue;
        }
        standing += usize::from(endpoints.is_empty());
        let mut new = EndpointSlice::clone(slice);
        new.metadata.labels = Some(labels(service));
        new.endpoints = some_if_any(endpoints);
        if new.endpoints.as_ref() != slice.endpoints.as_ref().filter(|e| !e.is_empty())
            || new.metadata.labels != slice.metadata.labels
        {
            plan.update.push(new);
        }
    }
    let taken: HashSet<&str> = slices.iter().filter_map(|s| s.metadata.name.as_deref()).collect();
    let mut number = 0;
    for endpoints in fresh {
        let name = loop {
            let name = slice_name(service, ports, number);
            number += 1;
            if !taken.contains(name.as_str()) {
                break name;
            }
        };
        plan.create.push(EndpointSlice {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels(service)),
                owner_references: Some(vec![owner_reference(service)]),
                ..Default::default()
            },
            address_type: "IPv4".to_owned(),
            endpoints: some_if_any(endpoints),
            ports: some_if_any(ports.iter().map(slice_port).collect()),
        });
    }
}

fn owner_reference(service: &Service) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
    api::owner::controller_ref(service)
}

fn uid_of(member: &Member) -> String {
    member.pod.metadata.uid.clone().unwrap_or_default()
}

fn some_if_any<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

fn slice_name(service: &Service, ports: &[Port], number: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hasher = DefaultHasher::new();
    (service.metadata.uid.as_deref(), ports, number).hash(&mut hasher);
    let mut hash = hasher.finish();
    let mut suffix = String::new();
    for _ in 0..6 {
        let letter = ALPHABET[(hash % ALPHABET.len() as u64) as usize];
        suffix.push(char::from(letter));
        hash /= ALPHABET.len() as u64;
    }
    format!("{}-{suffix}", service.metadata.name.as_deref().unwrap_or_default())
}

/// The service's own labels, and those that say whose slice it is.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if endpoints_of::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn port_of(port: &EndpointPort) -> Port {
    Port {
        name: port.name.clone().unwrap_or_default(),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn slice_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(member: &Member) -> Endpoint {
    Endpoint {
        addresses: vec![member.address.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(member.ready),
            serving: Some(member.serving),
            terminating: Some(member.terminating),
        }),
        hostname: member.hostname.clone(),
        node_name: member.pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(pod_reference(&member.pod)),
        ..Default::default()
    }
}

/// The reference by which an endpoint names its pod.
pub fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn service(extra: Value) -> Service {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "s1", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9",
                     "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
        });
        json_patch::merge(&mut object, &extra);
        from_value(object).unwrap()
    }

    fn pod(name: &str, port: i32, ready: bool, extra: Value) -> Arc<Pod> {
        let mut object = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": format!("10.244.1.{}", name.len() + port as usize % 100),
                       "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        json_patch::merge(&mut object, &extra);
        Arc::new(from_value(object).unwrap())
    }

    /// Applies a plan as the API server would.
    fn apply(plan: &Plan, before: &[Arc<EndpointSlice>]) -> Vec<Arc<EndpointSlice>> {
        let gone = |s: &EndpointSlice| plan.delete.iter().any(|d| d.metadata.name == s.metadata.name);
        let changed =
            |s: &EndpointSlice| plan.update.iter().find(|u| u.metadata.name == s.metadata.name).cloned();
        let kept =
            before.iter().filter(|s| !gone(s)).map(|s| Arc::new(changed(s).unwrap_or_else(|| (**s).clone())));
        kept.chain(plan.create.iter().cloned().map(Arc::new)).collect()
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let plan = plan(&service(json!({})), &[], &[]);
        assert_eq!(plan.create.len(), 1);
        assert_eq!(plan.create[0].endpoints, None);
        let labels = plan.create[0].metadata.labels.clone().unwrap();
        assert_eq!(labels[SERVICE_NAME], "web");
        assert_eq!(labels["team"], "a");
        assert_eq!(super::plan(&service(json!({})), &[], &apply(&plan, &[])), Plan::default(), "settled");
    }

    #[test]
    fn conditions_follow_readiness_and_termination() {
        let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let pods = [
            pod("a", 8080, true, json!({})),
            pod("bb", 8080, false, json!({})),
            pod("ccc", 8080, true, gone),
            pod("dddd", 8080, true, json!({"status": {"phase": "Failed"}})),
            pod("no-ip", 8080, true, json!({"status": {"podIP": null}})),
        ];
        let conditions = |service: &Service| -> Vec<(bool, bool, bool)> {
            let plan = plan(service, &pods, &[]);
            let endpoints = plan.create[0].endpoints.clone().unwrap();
            let of = |e: &Endpoint| e.conditions.clone().unwrap();
            endpoints
                .iter()
                .map(|e| {
                    (of(e).ready == Some(true), of(e).serving == Some(true), of(e).terminating == Some(true))
                })
                .collect()
        };
        assert_eq!(
            conditions(&service(json!({}))),
            [(true, true, false), (false, false, false), (false, true, true)]
        );
        let everyone = service(json!({"spec": {"publishNotReadyAddresses": true}}));
        assert_eq!(conditions(&everyone), [(true, true, false), (true, false, false), (true, true, true)]);
    }

    #[test]
    fn pods_whose_named_port_differs_get_slices_of_their_own() {
        let pods = [pod("a", 8080, true, json!({})), pod("b", 9090, true, json!({}))];
        let plan = plan(&service(json!({})), &pods, &[]);
        let ports: Vec<i32> =
            plan.create.iter().map(|s| s.ports.as_ref().unwrap()[0].port.unwrap()).collect();
        assert_eq!(ports, [8080, 9090]);
    }

    #[test]
    fn hostnames_are_published_where_the_subdomain_is_the_service() {
        let with = |subdomain: &str| {
            let extra = json!({"spec": {"hostname": "web-0", "subdomain": subdomain}});
            plan(&service(json!({})), &[pod("web-0", 80, true, extra)], &[]).create[0]
                .endpoints
                .clone()
                .unwrap()[0]
                .hostname
                .clone()
        };
        assert_eq!(with("web").as_deref(), Some("web-0"));
        assert_eq!(with("other"), None);
    }

    #[test]
    fn one_pods_change_rewrites_one_slice_and_large_services_are_cut() {
        let mut pods: Vec<_> = (0..250).map(|i| pod(&format!("p{i:03}"), 8080, true, json!({}))).collect();
        let first = plan(&service(json!({})), &pods, &[]);
        let slices = apply(&first, &[]);
        assert_eq!(
            slices.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect::<Vec<_>>(),
            [100, 100, 50]
        );
        pods[7] = pod("p007", 8080, false, json!({}));
        let second = plan(&service(json!({})), &pods, &slices);
        assert_eq!((second.create.len(), second.update.len(), second.delete.len()), (0, 1, 0));
        let third = plan(&service(json!({})), &[], &apply(&second, &slices));
        assert_eq!(apply(&third, &slices).len(), 1, "one empty slice stays");
    }

    #[test]
    fn no_selector_or_no_service_means_no_slices() {
        let slices = apply(&plan(&service(json!({})), &[], &[]), &[]);
        for extra in [json!({"spec": {"selector": null}}), json!({"spec": {"type": "ExternalName"}})] {
            assert_eq!(plan(&service(extra), &[], &slices).delete.len(), 1);
        }
    }
}
