//! Which elements a Service, with its EndpointSlices, and a Pod, with its host ports, want. Pure.
//!
//! Where a policy is `Local`, each node of this machine has elements of its own, under the address of its pod range. The
//! machine itself is the first node: so are its other addresses, and clients that are not pods.

use super::elements::{Chain, Element, Key, Protocol, Set, Value};
use k8s_openapi::api::{
    core::v1::{Pod, Service, ServicePort, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    net::Ipv4Addr,
    sync::Arc,
};

/// Slots over which a service with ClientIP affinity spreads its clients: a hash of the client's address chooses
/// the slot, the slot has its endpoint. More slots spread more evenly; each is one element.
pub(crate) const AFFINITY_SLOTS: u32 = 128;
/// Endpoints of one port that are used; more would spread no further on this machine.
const MAX_ENDPOINTS: usize = 0x1000;

/// The nodes whose pods are on this machine, by name: the addresses of their pod ranges.
pub(crate) type LocalNodes = BTreeMap<String, Ipv4Addr>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Endpoint {
    address: Ipv4Addr,
    port: u16,
    /// Its node, if that is one of this machine's.
    node: Option<Ipv4Addr>,
}

pub(crate) fn of_service(
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    local_nodes: &LocalNodes,
) -> Vec<Element> {
    let mut out = Elements::default();
    let Some(spec) = &service.spec else { return out.0 };
    if matches!(spec.type_.as_deref(), Some("ExternalName")) {
        return out.0;
    }
    let addresses = |texts: &mut dyn Iterator<Item = &String>| -> BTreeSet<Ipv4Addr> {
        // "None" of a headless service, and IPv6, do not parse.
        texts.filter_map(|t| t.parse().ok()).collect()
    };
    let cluster = addresses(&mut spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    let balancers = service.status.iter().flat_map(|s| &s.load_balancer).flat_map(|b| &b.ingress).flatten();
    let balancers = balancers.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref());
    let outside = addresses(&mut spec.external_ips.iter().flatten().chain(balancers));
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) =
            (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port))
        else {
            continue;
        };
        let found = Found::new(port, protocol, slices, local_nodes);
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let service = OnePort { all: &found.everywhere(), found: &found, affinity, protocol, local_nodes };
        for address in &cluster {
            let key = Key::service(*address, protocol, number);
            service.cluster_address(&mut out, key, is_local(spec.internal_traffic_policy.as_deref()));
        }
        let local = is_local(spec.external_traffic_policy.as_deref());
        for address in outside.difference(&cluster) {
            service.outside_address(&mut out, Key::service(*address, protocol, number), local);
        }
        if let Some(port) = node_port(spec, port) {
            service.node_port(&mut out, port, local);
        }
    }
    out.finish()
}

fn is_local(policy: Option<&str>) -> bool {
    policy == Some("Local")
}

fn node_port(spec: &ServiceSpec, port: &ServicePort) -> Option<u16> {
    matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
        .then(|| port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0))
        .flatten()
}

/// The endpoints of one port.
#[derive(Default)]
struct Found {
    ready: BTreeSet<Endpoint>,
    /// Those that still serve while they terminate.
    serving: BTreeSet<Endpoint>,
}

impl Found {
    fn new(
        port: &ServicePort,
        protocol: Protocol,
        slices: &[Arc<EndpointSlice>],
        local_nodes: &LocalNodes,
    ) -> Self {
        let name = port.name.as_deref().unwrap_or_default();
        let mut found = Self::default();
        for slice in slices {
            let ports = slice.ports.iter().flatten();
            let matching = ports.filter(|p| {
                p.name.as_deref().unwrap_or_default() == name
                    && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
            });
            for number in matching.filter_map(|p| p.port.and_then(|n| u16::try_from(n).ok())) {
                for endpoint in slice.endpoints.iter().flatten() {
                    let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
                        continue;
                    };
                    let node = endpoint.node_name.as_ref().and_then(|n| local_nodes.get(n)).copied();
                    let known = Endpoint { address, port: number, node };
                    let conditions = endpoint.conditions.as_ref();
                    if conditions.and_then(|c| c.ready).unwrap_or(true) {
                        found.ready.insert(known);
                    } else if conditions
                        .is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true))
                    {
                        found.serving.insert(known);
                    }
                }
            }
        }
        found
    }

    fn everywhere(&self) -> Vec<Endpoint> {
        self.those(|_| true)
    }

    fn on_this_machine(&self) -> Vec<Endpoint> {
        self.those(|e| e.node.is_some())
    }

    fn on(&self, node: Ipv4Addr) -> Vec<Endpoint> {
        self.those(|e| e.node == Some(node))
    }

    /// In a fixed order. Ready ones; if there is none among them, those that still serve (KEP-1669).
    fn those(&self, wanted: impl Fn(&Endpoint) -> bool) -> Vec<Endpoint> {
        let of = |all: &BTreeSet<Endpoint>| -> Vec<Endpoint> {
            all.iter().filter(|e| wanted(e)).take(MAX_ENDPOINTS).copied().collect()
        };
        let ready = of(&self.ready);
        if ready.is_empty() { of(&self.serving) } else { ready }
    }
}

#[derive(Default)]
struct Elements(Vec<Element>);

impl Elements {
    fn push(&mut self, set: Set, key: Key, value: Value) {
        self.0.push(Element { set, key, value });
    }

    fn finish(mut self) -> Vec<Element> {
        self.0.sort();
        self.0.dedup();
        self.0
    }
}

struct OnePort<'a> {
    found: &'a Found,
    /// What it finds everywhere.
    all: &'a [Endpoint],
    affinity: bool,
    protocol: Protocol,
    local_nodes: &'a LocalNodes,
}

impl OnePort<'_> {
    /// Whether clients keep to one of these endpoints; where there is but one, they do anyway.
    fn is_sticky(&self, endpoints: &[Endpoint]) -> bool {
        self.affinity && endpoints.len() > 1
    }

    /// The chain for so many endpoints, or for sticky clients.
    fn choose(&self, endpoints: &[Endpoint], random: fn(u32) -> Chain, sticky: Chain) -> Value {
        Value::Goto(if self.is_sticky(endpoints) { sticky } else { random(count(endpoints)) })
    }

    /// Endpoints by index, or the slots of clients; with the hairpin of those on this machine.
    fn endpoints(&self, out: &mut Elements, set: Set, key: Key, endpoints: &[Endpoint]) {
        for endpoint in endpoints.iter().filter(|e| e.node.is_some()) {
            out.push(Set::Hairpin, Key::hairpin(endpoint.address), Value::Member);
        }
        let sticky = self.is_sticky(endpoints);
        let count = if sticky { AFFINITY_SLOTS } else { count(endpoints) };
        for index in 0..count {
            let chosen = if sticky { slot(endpoints, index) } else { endpoints.get(index as usize) };
            if let Some(chosen) = chosen {
                out.push(set, key.at(index), Value::Endpoint(chosen.address, chosen.port));
            }
        }
    }

    /// At an address of the service's own; where `local`, clients are served on their own node.
    fn cluster_address(&self, out: &mut Elements, key: Key, local: bool) {
        if self.all.is_empty() {
            return out.push(Set::NoEndpoints, key, Value::Reject);
        }
        if !local {
            self.endpoints(out, Set::Endpoints, key, self.all);
            let chain = self.choose(self.all, Chain::Balance, Chain::Affinity);
            return out.push(Set::Services, key, chain);
        }
        for node in self.local_nodes.values() {
            let (own, key) = (self.found.on(*node), key.on(*node));
            if own.is_empty() {
                out.push(Set::NoLocalEndpoints, key, Value::Drop);
                continue;
            }
            self.endpoints(out, Set::LocalEndpoints, key, &own);
            let chain = self.choose(&own, Chain::Local, Chain::LocalAffinity);
            out.push(Set::LocalServices, key, chain);
        }
    }

    /// At an address by which it is reached from elsewhere, which is the machine's before all of its nodes: where `local`,
    /// the endpoints of all of them, which see the client's address.
    fn outside_address(&self, out: &mut Elements, key: Key, local: bool) {
        let used = if local { self.found.on_this_machine() } else { self.all.to_vec() };
        if used.is_empty() {
            // Somewhere else there is one: silence, so that a balancer in front looks on there.
            let value = if self.all.is_empty() { Value::Reject } else { Value::Drop };
            return out.push(Set::NoEndpoints, key, value);
        }
        self.endpoints(out, Set::Endpoints, key, &used);
        let chain = if local {
            self.choose(&used, Chain::Balance, Chain::Affinity)
        } else {
            self.choose(&used, Chain::Outside, Chain::OutsideAffinity)
        };
        out.push(Set::Services, key, chain);
    }

    fn node_port(&self, out: &mut Elements, port: u16, local: bool) {
        let key = Key::node_port(self.protocol, port);
        if self.all.is_empty() {
            return out.push(Set::NoNodePortEndpoints, key, Value::Reject);
        }
        self.endpoints(out, Set::NodePortEndpoints, key, self.all);
        let everywhere = self.choose(self.all, Chain::NodePort, Chain::NodePortAffinity);
        if !local {
            return out.push(Set::NodePorts, key, everywhere);
        }
        for node in self.local_nodes.values() {
            let (own, key) = (self.found.on(*node), key.on(*node));
            // A node's own pods are not outside: they reach all endpoints (as kube-proxy has it).
            out.push(Set::InnerNodePorts, key, everywhere);
            if own.is_empty() {
                out.push(Set::NoLocalNodePortEndpoints, key, Value::Drop);
                continue;
            }
            self.endpoints(out, Set::LocalNodePortEndpoints, key, &own);
            let chain = self.choose(&own, Chain::LocalNodePort, Chain::LocalNodePortAffinity);
            out.push(Set::LocalNodePorts, key, chain);
        }
    }
}

fn count(endpoints: &[Endpoint]) -> u32 {
    // At most MAX_ENDPOINTS.
    u32::try_from(endpoints.len()).unwrap_or(u32::MAX)
}

/// The endpoint of an affinity slot, by highest hash: when endpoints come and go only their own slots move.
fn slot(endpoints: &[Endpoint], slot: u32) -> Option<&Endpoint> {
    endpoints.iter().max_by_key(|endpoint| {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        (slot, endpoint.address, endpoint.port).hash(&mut hasher);
        hasher.finish()
    })
}

/// FNV-1a with a final mix: the same on every node and at every start, unlike std's.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ mixed >> 32
    }
}

/// The host ports of a pod on one of this machine's nodes: each node has its own.
pub(crate) fn of_pod(pod: &Pod, local_nodes: &LocalNodes) -> Vec<Element> {
    let mut out = Elements::default();
    let Some(spec) = &pod.spec else { return out.0 };
    let Some(node) = spec.node_name.as_ref().and_then(|name| local_nodes.get(name)) else {
        return out.0;
    };
    let status = pod.status.as_ref();
    let over = status.and_then(|s| s.phase.as_deref()).is_some_and(|p| matches!(p, "Succeeded" | "Failed"));
    let address = status.and_then(|s| s.pod_ip.as_deref()).and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let Some(address) = address.filter(|_| !over && spec.host_network != Some(true)) else {
        return out.0;
    };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    for port in spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports).flatten() {
        let Some(host_port) = port.host_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0) else {
            continue;
        };
        let (Some(protocol), Ok(number)) =
            (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.container_port))
        else {
            continue;
        };
        let target = Value::Endpoint(address, number);
        out.push(Set::Hairpin, Key::hairpin(address), Value::Member);
        let wanted = port.host_ip.as_deref().unwrap_or_default().parse::<Ipv4Addr>().ok();
        match wanted.filter(|ip| !ip.is_unspecified()) {
            Some(host) => {
                let key = Key::service(host, protocol, host_port);
                out.push(Set::Services, key, Value::Goto(Chain::Balance(1)));
                out.push(Set::Endpoints, key, target);
            }
            None => out.push(Set::HostPorts, Key::node_port(protocol, host_port).on(*node), target),
        }
    }
    out.finish()
}
