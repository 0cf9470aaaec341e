//! What a kubelet must be told; everything else it finds out.

use std::{net::Ipv4Addr, path::PathBuf};

/// The settings of one node's kubelet. `cli` fills it from flags, environment and file.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Node object's name, and the `minik8s.io/node` label of every container.
    pub node_name: String,
    /// The `minik8s.io/cluster` label: nothing with another id is ever touched.
    pub cluster_id: String,
    /// `<data_dir>/pods/<uid>/…` holds volumes, hosts files and termination messages.
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
    /// Labels put on the Node when it registers, beside the well-known ones.
    pub node_labels: Vec<(String, String)>,
    /// cgroup under which pods' cgroups are made; `None` leaves it to the Engine.
    pub cgroup_parent: Option<String>,
    /// Publishes EndpointSlice `kube-system/kube-dns-<node>`: this node runs a DNS server on its gateway address.
    pub publish_dns: bool,
    /// Privileges the process lacks, in words, shown as the node condition `MissingPrivileges`.
    pub missing_privileges: Vec<String>,
    /// `status.nodeInfo.kubeletVersion`, for example `v1.36.0+minik8s`.
    pub version: String,
}

/// Default of `Config::max_pods`, the real kubelet's.
pub const DEFAULT_MAX_PODS: u32 = 110;

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
            node_labels: Vec::new(),
            cgroup_parent: None,
            publish_dns: true,
            missing_privileges: Vec::new(),
            version: "v1.36.0+minik8s".to_owned(),
        }
    }
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    bits: u8,
}

impl Cidr {
    /// `bits` above 30 leave no room for a gateway and a pod and are refused.
    pub fn new(address: Ipv4Addr, bits: u8) -> Option<Self> {
        (bits <= 30).then(|| Self { base: u32::from(address) & mask(bits), bits })
    }
    /// The first address: the bridge's own, and the node's DNS server's.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }
    /// Addresses for pods: all but the network's, the gateway's and the broadcast's.
    pub fn pod_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let last = self.base | !mask(self.bits);
        (self.base + 2..last).map(Ipv4Addr::from)
    }
    /// The network's own address, and the bits of an address that belong to it.
    pub fn address_and_mask(&self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::from(self.base), Ipv4Addr::from(mask(self.bits)))
    }
    pub fn prefix_length(&self) -> u8 {
        self.bits
    }
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.bits) == self.base
    }
}

fn mask(bits: u8) -> u32 {
    if bits == 0 { 0 } else { u32::MAX << (32 - u32::from(bits)) }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("{s:?} is not an IPv4 network such as 10.244.1.0/24");
        let (address, bits) = s.split_once('/').ok_or_else(wrong)?;
        Self::new(address.parse().map_err(|_| wrong())?, bits.parse().map_err(|_| wrong())?).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_gives_its_gateway_and_pod_addresses() {
        let cidr: Cidr = "10.251.3.77/29".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.251.3.72/29");
        assert_eq!(cidr.gateway().to_string(), "10.251.3.73");
        let pods: Vec<_> = cidr.pod_addresses().map(|a| a.to_string()).collect();
        assert_eq!(pods, ["10.251.3.74", "10.251.3.75", "10.251.3.76", "10.251.3.77", "10.251.3.78"]);
        assert!(
            cidr.contains("10.251.3.79".parse().unwrap()) && !cidr.contains("10.251.3.80".parse().unwrap())
        );
        for bad in ["", "10.0.0.0", "10.0.0.0/31", "10.0.0/8", "x/8", "::1/64"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bridge_names_fit_linux() {
        let config = Config::new("n", 12, "0123456789abcdef", "/x".into(), "10.244.1.0/24".parse().unwrap());
        assert_eq!(config.bridge_name, "mk-01234512");
        assert!(config.bridge_name.len() <= 15);
    }
}
