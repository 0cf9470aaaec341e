//! What a kubelet must be told; everything else it finds out.

use crate::proxy;
use api::Cidr;
use std::{net::Ipv4Addr, path::PathBuf, time::Duration};
use tokio::sync::watch;

/// The settings of one node's kubelet. `cli` fills it from flags, environment and file.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Node object's name, and the `minik8s.io/node` label of every container.
    pub node_name: String,
    /// The `minik8s.io/cluster` label: nothing with another id is ever touched.
    pub cluster_id: String,
    /// `<data_dir>/pods/<uid>/…` holds volumes, hosts files and termination messages. One node's own: it removes what it
    /// does not know there.
    pub data_dir: PathBuf,
    /// The node's part of the cluster CIDR; the gateway is its first address.
    pub pod_cidr: Cidr,
    /// Name of the Linux bridge (at most 15 bytes) and of the Docker network over it.
    pub bridge_name: String,
    pub network_name: String,
    pub cluster_dns: Ipv4Addr,
    pub cluster_domain: String,
    /// ClusterIP and port of `default/kubernetes`, for `KUBERNETES_SERVICE_HOST` and `_PORT`
    /// until (and unless) that Service is seen.
    pub api_service: (Ipv4Addr, u16),
    /// The node's InternalIP: the machine's address for the first node, the bridge's gateway for others.
    /// `None` lets the kubelet find the machine's address (that of the default route).
    pub node_ip: Option<Ipv4Addr>,
    /// Port on which the kubelet's own API is reachable, for `status.daemonEndpoints`; 0 when in process only.
    pub api_port: u16,
    /// `status.capacity.pods`.
    pub max_pods: u32,
    /// How many nodes share this machine: each promises its part of CPU, memory and disk, so that the requests of all
    /// their pods together fit the machine.
    pub nodes_on_machine: u32,
    /// How often the node says that it is alive. Well below the node controller's grace period.
    pub heartbeat: Duration,
    /// Labels put on the Node when it registers, beside the well-known ones.
    pub node_labels: Vec<(String, String)>,
    /// cgroup under which pods' cgroups are made; `None` leaves it to the Engine.
    pub cgroup_parent: Option<String>,
    /// Publishes EndpointSlice `kube-system/kube-dns-<node>`: this node runs a DNS server on its gateway address.
    pub publish_dns: bool,
    /// Privileges the process lacks, in words, shown as the node condition `MissingPrivileges`.
    pub missing_privileges: Vec<String>,
    /// How the service proxy does, shown as the node condition `ServiceProxyReady`; `None` where there is none.
    pub service_proxy: Option<watch::Receiver<proxy::Status>>,
    /// `status.nodeInfo.kubeletVersion`, for example `v1.36.0+minik8s`.
    pub version: String,
}

/// Default of `Config::max_pods`, the real kubelet's.
pub const DEFAULT_MAX_PODS: u32 = 110;

/// Default of `Config::heartbeat`: a quarter of the usual grace period, as in Kubernetes.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);

/// The port of the node-local DNS server on the bridge's gateway (network.md §4: no port below 1024 is needed).
pub const DNS_PORT: u16 = 1053;

impl Config {
    /// The settings of node number `index` (0 is the machine itself) with the contract's names.
    pub fn new(node_name: &str, index: u8, cluster_id: &str, data_dir: PathBuf, pod_cidr: Cidr) -> Self {
        let short: String = cluster_id.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
        Self {
            node_name: node_name.to_owned(),
            cluster_id: cluster_id.to_owned(),
            data_dir,
            pod_cidr,
            bridge_name: format!("mk-{short}{index}"),
            network_name: format!("minik8s-{cluster_id}-{node_name}"),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            api_service: (Ipv4Addr::new(10, 96, 0, 1), 443),
            node_ip: (index > 0).then(|| pod_cidr.gateway()),
            api_port: 0,
            max_pods: DEFAULT_MAX_PODS,
            nodes_on_machine: 1,
            heartbeat: DEFAULT_HEARTBEAT,
            node_labels: Vec::new(),
            cgroup_parent: None,
            publish_dns: true,
            missing_privileges: Vec::new(),
            service_proxy: None,
            version: "v1.36.0+minik8s".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_names_fit_linux() {
        let config = Config::new("n", 12, "0123456789abcdef", "/x".into(), "10.244.1.0/24".parse().unwrap());
        assert_eq!(config.bridge_name, "mk-01234512");
        assert!(config.bridge_name.len() <= 15);
    }
}
