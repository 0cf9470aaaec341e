//! What the scheduler knows of the nodes: their room, and who is or soon will be on them. Plain data, kept up to
//! date event by event so that a decision costs nothing but looking.
//!
//! A pod is *assumed* on a node from the decision until the watch confirms it: otherwise the next pod would be
//! given the same room.

use crate::context::{name, uid};
use api::{conditions, owner, pod as pods, quantity};
use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, Taint};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// Amounts of resources, in the units that are compared: thousandths of a CPU, bytes, pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub pods: i64,
    /// Everything else, by name: huge pages, devices, whatever a node offers.
    pub extended: BTreeMap<String, i64>,
}

impl Amounts {
    fn set(&mut self, name: &str, amount: quantity::Quantity) {
        match name {
            "cpu" => self.milli_cpu = amount.milli_value(),
            "memory" => self.memory = amount.value(),
            "ephemeral-storage" => self.ephemeral_storage = amount.value(),
            "pods" => self.pods = amount.value(),
            other => drop(self.extended.insert(other.to_owned(), amount.value())),
        }
    }

    fn apply(&mut self, other: &Self, sign: i64) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory += sign * other.memory;
        self.ephemeral_storage += sign * other.ephemeral_storage;
        self.pods += sign * other.pods;
        for (name, amount) in &other.extended {
            *self.extended.entry(name.clone()).or_default() += sign * amount;
        }
    }
}

/// A port of the host that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node: the wildcard address conflicts with every address.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// A pod with what is asked of it often, computed once.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub requests: Amounts,
    pub ports: Vec<HostPort>,
    /// UID of its controller.
    pub owner: Option<String>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let mut requests = Amounts { pods: 1, ..Amounts::default() };
        let mut ports = Vec::new();
        for (name, amount) in pods::requests_of(&pod) {
            if name != "pods" {
                requests.set(&name, amount);
            }
        }
        if let Some(spec) = &pod.spec {
            let host_network = spec.host_network.unwrap_or(false);
            let sidecars = spec.init_containers.iter().flatten().filter(|c| pods::is_sidecar(c));
            for port in spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()) {
                let number = port.host_port.or(host_network.then_some(port.container_port));
                if let Some(number) = number.filter(|p| *p > 0) {
                    ports.push(HostPort {
                        ip: port.host_ip.clone().unwrap_or_default(),
                        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                        port: number,
                    });
                }
            }
        }
        let owner = owner::controller_of(&pod.metadata).map(|o| o.uid.clone());
        Self { pod, requests, ports, owner }
    }

    pub fn anti_affinity(&self) -> &[PodAffinityTerm] {
        let affinity = self.pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        affinity
            .and_then(|a| a.pod_anti_affinity.as_ref())
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }
}

/// A node, its room and its pods.
#[derive(Debug)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub allocatable: Amounts,
    pub requested: Amounts,
    pub pods: HashMap<String, Arc<PodInfo>>,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> Self {
        let allocatable = allocatable(&node);
        Self { node, allocatable, requested: Amounts::default(), pods: HashMap::new() }
    }

    pub fn name(&self) -> &str {
        name(&self.node.metadata)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
    }

    fn add(&mut self, pod: &Arc<PodInfo>) {
        if self.pods.insert(uid(&pod.pod.metadata).to_owned(), pod.clone()).is_none() {
            self.requested.apply(&pod.requests, 1);
        }
    }

    fn remove(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            self.requested.apply(&pod.requests, -1);
        }
    }
}

/// The status of condition Ready; a node that never reported has none.
pub fn ready(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions::find(conditions, "Ready").map(|c| c.status.as_str())
}

fn allocatable(node: &Node) -> Amounts {
    let mut amounts = Amounts::default();
    let status = node.status.as_ref();
    let listed = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
    for (name, text) in listed.into_iter().flatten() {
        amounts.set(name, quantity::of(Some(text)));
    }
    amounts
}

/// All nodes and all pods that take room on them.
#[derive(Debug, Default)]
pub struct Cache {
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Where each pod is, also on nodes that do not exist (yet).
    placed: HashMap<String, (String, Arc<PodInfo>)>,
    assumed: HashSet<String>,
    /// Pods that keep others away.
    anti: HashSet<String>,
}

impl Cache {
    pub fn set_node(&mut self, node: Arc<Node>) {
        let node_name = name(&node.metadata).to_owned();
        let mut info = NodeInfo::new(node);
        match self.nodes.get_mut(&node_name) {
            Some(old) => {
                info.pods = std::mem::take(&mut old.pods);
                info.requested = std::mem::take(&mut old.requested);
            }
            None => {
                let here = self.placed.values().filter(|(on, _)| *on == node_name);
                here.for_each(|(_, pod)| info.add(pod));
            }
        }
        self.nodes.insert(node_name, info);
    }

    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// A pod as the watch shows it. One that has ended takes no room; one without a node takes none unless assumed.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) {
        let pod_uid = uid(&pod.metadata);
        match pods::node_name(pod) {
            Some(node) if !pods::is_terminal(pod) => {
                self.remove_pod(pod_uid);
                self.place(Arc::new(PodInfo::new(pod.clone())), node);
            }
            None if self.assumed.contains(pod_uid) && !pods::is_terminal(pod) => {}
            _ => self.remove_pod(pod_uid),
        }
    }

    pub fn remove_pod(&mut self, uid: &str) {
        self.assumed.remove(uid);
        self.anti.remove(uid);
        if let Some((node, _)) = self.placed.remove(uid)
            && let Some(info) = self.nodes.get_mut(&node)
        {
            info.remove(uid);
        }
    }

    /// Takes the room for a pod that is about to be bound.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.insert(uid(&pod.pod.metadata).to_owned());
        self.place(pod, node);
    }

    /// Gives the room back after a binding failed; one that the watch confirmed meanwhile stays.
    pub fn forget(&mut self, uid: &str) {
        if self.assumed.contains(uid) {
            self.remove_pod(uid);
        }
    }

    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains(uid)
    }

    /// Pods with a required anti-affinity, and their nodes.
    pub fn keeping_away(&self) -> impl Iterator<Item = (&PodInfo, &NodeInfo)> {
        self.anti.iter().filter_map(|uid| {
            let (node, pod) = self.placed.get(uid)?;
            Some((pod.as_ref(), self.nodes.get(node)?))
        })
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        let pod_uid = uid(&pod.pod.metadata).to_owned();
        if let Some(info) = self.nodes.get_mut(node) {
            info.add(&pod);
        }
        if !pod.anti_affinity().is_empty() {
            self.anti.insert(pod_uid.clone());
        }
        self.placed.insert(pod_uid, (node.to_owned(), pod));
    }
}

/// Whether the difference between two states of a node can make room for a pod that did not fit.
pub fn matters(old: &Node, new: &Node) -> bool {
    fn rules(node: &Node) -> Option<(&Option<Vec<Taint>>, Option<bool>)> {
        node.spec.as_ref().map(|s| (&s.taints, s.unschedulable))
    }
    old.metadata.labels != new.metadata.labels
        || rules(old) != rules(new)
        || allocatable(old) != allocatable(new)
        || ready(old) != ready(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str) -> Arc<Node> {
        let status = json!({"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap())
    }

    fn pod(uid: &str, node: Option<&str>, phase: &str) -> Arc<Pod> {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "500m"}}});
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": uid, "uid": uid},
                "spec": {"nodeName": node, "containers": [container]},
                "status": {"phase": phase}
            }))
            .unwrap(),
        )
    }

    fn used(cache: &Cache, node: &str) -> (i64, i64) {
        let requested = &cache.nodes[node].requested;
        (requested.milli_cpu, requested.pods)
    }

    #[test]
    fn pods_take_room_until_they_end() {
        let mut cache = Cache::default();
        cache.set_pod(&pod("early", Some("n"), "Running"));
        cache.set_node(node("n"));
        assert_eq!(used(&cache, "n"), (500, 1), "a pod seen before its node");
        cache.set_pod(&pod("b", Some("n"), "Pending"));
        cache.set_pod(&pod("b", Some("n"), "Running"));
        assert_eq!(used(&cache, "n"), (1000, 2));
        cache.set_node(node("n"));
        assert_eq!(used(&cache, "n"), (1000, 2), "a node update keeps its pods");
        cache.set_pod(&pod("b", Some("n"), "Succeeded"));
        cache.remove_pod("early");
        assert_eq!(used(&cache, "n"), (0, 0));
    }

    #[test]
    fn assumed_pods_hold_their_room() {
        let mut cache = Cache::default();
        cache.set_node(node("n"));
        cache.assume(Arc::new(PodInfo::new(pod("a", None, "Pending"))), "n");
        cache.set_pod(&pod("a", None, "Pending"));
        assert_eq!(used(&cache, "n"), (500, 1), "an older event does not take it back");
        cache.set_pod(&pod("a", Some("n"), "Pending"));
        assert!(!cache.is_assumed("a"));
        cache.forget("a");
        assert_eq!(used(&cache, "n"), (500, 1), "confirmed");
        cache.assume(Arc::new(PodInfo::new(pod("b", None, "Pending"))), "n");
        cache.forget("b");
        assert_eq!(used(&cache, "n"), (500, 1));
    }

    #[test]
    fn wildcard_host_ports_conflict_with_any_address() {
        let port = |ip: &str, protocol: &str| HostPort { ip: ip.into(), protocol: protocol.into(), port: 80 };
        assert!(port("", "TCP").conflicts(&port("127.0.0.1", "TCP")));
        assert!(port("127.0.0.1", "TCP").conflicts(&port("0.0.0.0", "TCP")));
        assert!(!port("127.0.0.1", "TCP").conflicts(&port("10.0.0.1", "TCP")));
        assert!(!port("", "TCP").conflicts(&port("", "UDP")));
    }

    #[test]
    fn heartbeats_do_not_matter() {
        let with = |ready: &str, beat: &str, cpu: &str| -> Node {
            let condition = json!({"type": "Ready", "status": ready, "lastHeartbeatTime": beat});
            let status = json!({"allocatable": {"cpu": cpu}, "conditions": [condition]});
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap()
        };
        let (one, two) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z");
        assert!(!matters(&with("True", one, "1"), &with("True", two, "1")));
        assert!(matters(&with("False", one, "1"), &with("True", two, "1")));
        assert!(matters(&with("True", one, "1"), &with("True", one, "2")));
    }
}
