//! Services of type LoadBalancer: their address is that of the machine. `status.loadBalancer` says so, and the service
//! proxy of every node serves what stands there.
//!
//! One address has each port once: of two services that want the same, the older has it, and the other stays pending
//! with an event that says whose it is. A service with a `loadBalancerClass` is somebody else's.

use crate::{
    context::{Ctx, name, namespace, reference},
    error::{Result, ignore_not_found},
    run::{Controller, Next},
};
use async_trait::async_trait;
use client::{Change, Queue, Recorder, Store};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, PortStatus, Service};
use kube::api::PostParams;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

const TYPE: &str = "LoadBalancer";
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

pub struct LoadBalancers {
    ctx: Arc<Ctx>,
    services: Store<Service>,
    nodes: Store<Node>,
    recorder: Recorder,
    /// What was said last about each service that stays pending: once is enough.
    told: Mutex<HashMap<String, String>>,
}

impl LoadBalancers {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self {
            services: ctx.informers.store(),
            nodes: ctx.informers.store(),
            recorder: ctx.recorder("service-controller"),
            told: Mutex::default(),
            ctx,
        }
    }

    fn tell(&self, service: &Service, pending: Option<String>) {
        let key = key(service);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match pending {
            None => drop(told.remove(&key)),
            Some(why) if told.get(&key) == Some(&why) => {}
            Some(why) => {
                self.recorder.event(&reference(service), "Warning", "SyncLoadBalancerFailed", &why);
                told.insert(key, why);
            }
        }
    }
}

fn key(service: &Service) -> String {
    format!("{}/{}", namespace(&service.metadata), name(&service.metadata))
}

/// A load balancer of ours.
fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|s| s.type_.as_deref() == Some(TYPE) && s.load_balancer_class.is_none())
        && service.metadata.deletion_timestamp.is_none()
}

/// The address that services get: the InternalIP of the oldest node, which is the machine's own.
fn address(nodes: &[Arc<Node>]) -> Option<String> {
    let mut nodes: Vec<&Node> = nodes.iter().map(Arc::as_ref).collect();
    nodes.retain(|node| node.metadata.labels.as_ref().is_none_or(|labels| !labels.contains_key(EXCLUDED)));
    nodes.sort_by_key(|node| (node.metadata.creation_timestamp.clone(), name(&node.metadata).to_owned()));
    nodes.iter().find_map(|node| {
        let addresses = node.status.as_ref()?.addresses.as_deref()?;
        addresses.iter().find(|a| a.type_ == "InternalIP").map(|a| a.address.clone())
    })
}

/// What a service should have.
struct Wanted<'a> {
    service: &'a Service,
    ingress: Option<LoadBalancerIngress>,
    /// Why it has none.
    pending: Option<String>,
}

/// For all services at once: ports are given to the older first.
fn plan<'a>(services: &'a [Arc<Service>], address: Option<&str>) -> Vec<Wanted<'a>> {
    let mut all: Vec<&Service> = services.iter().map(Arc::as_ref).collect();
    all.sort_by_key(|s| (s.metadata.creation_timestamp.clone(), key(s)));
    let mut taken: HashMap<(String, i32), String> = HashMap::new();
    let decide = |service: &'a Service| {
        if !is_ours(service) {
            return Wanted { service, ingress: None, pending: None };
        }
        let Some(address) = address else {
            let pending = Some("no node has an address yet".to_owned());
            return Wanted { service, ingress: None, pending };
        };
        let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
        let protocol = |p: Option<&String>| p.map_or("TCP", String::as_str).to_owned();
        let ports: Vec<(String, i32)> =
            ports.iter().map(|p| (protocol(p.protocol.as_ref()), p.port)).collect();
        if let Some((port, other)) = ports.iter().find_map(|port| Some((port, taken.get(port)?))) {
            let pending = format!("port {}/{} of {address} is taken by service {other}", port.1, port.0);
            return Wanted { service, ingress: None, pending: Some(pending) };
        }
        taken.extend(ports.iter().map(|port| (port.clone(), key(service))));
        let status = |(protocol, port): (String, i32)| PortStatus { error: None, port, protocol };
        let ingress = LoadBalancerIngress {
            ip: Some(address.to_owned()),
            ip_mode: Some("VIP".to_owned()),
            ports: Some(ports.into_iter().map(status).collect()),
            hostname: None,
        };
        Wanted { service, ingress: Some(ingress), pending: None }
    };
    all.into_iter().map(decide).collect()
}

/// The status to write, if it is not what is there. A service that is no load balancer (any more) has no ingress; one of
/// somebody else's is left alone.
fn status(wanted: &Wanted<'_>) -> Option<Service> {
    let service = wanted.service;
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some(TYPE) && !is_ours(service) {
        return None;
    }
    let ingress = wanted.ingress.clone().map(|one| vec![one]);
    let have = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.clone());
    if have.clone().unwrap_or_default() == ingress.clone().unwrap_or_default() {
        return None;
    }
    let mut service = service.clone();
    service.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus { ingress });
    Some(service)
}

#[async_trait]
impl Controller for LoadBalancers {
    /// All services, under one key: who has a port depends on the others.
    type Key = String;
    const NAME: &'static str = "service-load-balancer";
    const WORKERS: usize = 1;

    fn watch(&self, queue: &Queue<String>) {
        let q = queue.clone();
        self.services.on_change(move |change: &Change<Service>| {
            let concerns = |service: &Service| {
                let is = service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some(TYPE));
                let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
                is || status.is_some_and(|b| b.ingress.as_ref().is_some_and(|i| !i.is_empty()))
            };
            if concerns(change.object()) {
                q.add("all".to_owned());
            }
        });
        let q = queue.clone();
        self.nodes.on_change(move |change: &Change<Node>| {
            let addresses = |node: &Node| node.status.as_ref().and_then(|s| s.addresses.clone());
            // A heartbeat moves nothing.
            let same = match change {
                Change::Applied { old: Some(old), new } => addresses(old) == addresses(new),
                _ => false,
            };
            if !same {
                q.add("all".to_owned());
            }
        });
    }

    async fn reconcile(&self, _all: &String) -> Result<Next> {
        let (services, address) = (self.services.list(), address(&self.nodes.list()));
        for wanted in plan(&services, address.as_deref()) {
            if let Some(new) = status(&wanted) {
                let api = self.ctx.api::<Service>(namespace(&new.metadata));
                ignore_not_found(
                    api.replace_status(name(&new.metadata), &PostParams::default(), &new).await,
                )?;
            }
            self.tell(wanted.service, wanted.pending);
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(name: &str, second: i64, type_: &str, port: i32, class: Option<&str>) -> Arc<Service> {
        let created = format!("2026-01-01T00:00:{second:02}Z");
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "ns", "name": name, "creationTimestamp": created},
                "spec": {"type": type_, "loadBalancerClass": class, "ports": [{"port": port, "protocol": "TCP"}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn the_older_service_has_the_port() {
        let services = [
            service("late", 9, TYPE, 80, None),
            service("early", 1, TYPE, 80, None),
            service("other-port", 5, TYPE, 81, None),
            service("foreign", 0, TYPE, 80, Some("a.io/b")),
            service("plain", 0, "ClusterIP", 80, None),
        ];
        let shown: Vec<Value> = plan(&services, Some("192.0.2.1"))
            .iter()
            .map(|w| {
                let ip = w.ingress.as_ref().and_then(|i| i.ip.clone());
                json!([name(&w.service.metadata), ip, w.pending])
            })
            .collect();
        assert_eq!(
            json!(shown),
            json!([
                ["foreign", null, null],
                ["plain", null, null],
                ["early", "192.0.2.1", null],
                ["other-port", "192.0.2.1", null],
                ["late", null, "port 80/TCP of 192.0.2.1 is taken by service ns/early"],
            ])
        );
        assert!(plan(&services, None)[2].pending.is_some());
    }

    #[test]
    fn a_status_is_written_once_and_taken_back() {
        let services = [service("a", 1, TYPE, 80, None)];
        let written = status(&plan(&services, Some("192.0.2.1"))[0]).unwrap();
        let ingress =
            written.status.as_ref().unwrap().load_balancer.as_ref().unwrap().ingress.as_ref().unwrap();
        assert_eq!(
            json!(ingress),
            json!([{"ip": "192.0.2.1", "ipMode": "VIP", "ports": [{"port": 80, "protocol": "TCP"}]}])
        );
        let again = [Arc::new(written.clone())];
        assert!(status(&plan(&again, Some("192.0.2.1"))[0]).is_none());
        let mut plain = written;
        plain.spec.as_mut().unwrap().type_ = Some("ClusterIP".into());
        let plain = [Arc::new(plain)];
        let cleared = status(&plan(&plain, Some("192.0.2.1"))[0]).unwrap();
        assert!(cleared.status.unwrap().load_balancer.unwrap().ingress.is_none());
    }

    #[test]
    fn the_address_is_the_first_nodes() {
        let node = |name: &str, second: i64, ip: &str| -> Arc<Node> {
            let created = format!("2026-01-01T00:00:{second:02}Z");
            let addresses =
                json!([{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]);
            let node = json!({"metadata": {"name": name, "creationTimestamp": created}, "status": {"addresses": addresses}});
            Arc::new(serde_json::from_value(node).unwrap())
        };
        let nodes = [node("b", 2, "192.0.2.2"), node("c", 1, "192.0.2.3"), node("a", 2, "192.0.2.1")];
        assert_eq!(address(&nodes).as_deref(), Some("192.0.2.3"));
        assert_eq!(address(&[]), None);
    }
}
