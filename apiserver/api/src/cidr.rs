//! An IPv4 network: the ranges of pods, nodes and services.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// Longer prefixes leave no room for a gateway and a pod.
const LONGEST_PREFIX: u8 = 30;
/// Each node gets a network of this prefix.
pub const NODE_PREFIX: u8 = 24;

/// A network without host bits, of at most 30 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

impl Cidr {
    /// The network of this size that `address` lies in.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= LONGEST_PREFIX).then(|| Self { base: u32::from(address) & mask(prefix), prefix })
    }

    /// The network's own address, and the bits of an address that belong to it.
    pub fn address_and_mask(&self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::from(self.base), Ipv4Addr::from(mask(self.prefix)))
    }

    pub fn prefix_length(&self) -> u8 {
        self.prefix
    }

    /// The `n`th address, counted from the network's own; beyond the network it goes on.
    pub fn nth(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base.wrapping_add(n))
    }

    /// The first address: in a node's network the bridge's own, and the node's DNS server's.
    pub fn gateway(&self) -> Ipv4Addr {
        self.nth(1)
    }

    /// Addresses for pods: all but the network's, the gateway's and the broadcast's.
    pub fn pod_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let last = self.base | !mask(self.prefix);
        (self.base + 2..last).map(Ipv4Addr::from)
    }

    /// The /24 of the node with this index, counted from 1 (0 is left free for the cluster's own use).
    pub fn node(&self, index: u32) -> Option<Self> {
        let nodes = 1u64 << u32::from(NODE_PREFIX.checked_sub(self.prefix)?);
        (u64::from(index) < nodes)
            .then(|| Self { base: self.base + (index << (32 - NODE_PREFIX)), prefix: NODE_PREFIX })
    }

    /// How many nodes there is room for, counted from 1.
    pub fn nodes(&self) -> u32 {
        NODE_PREFIX.checked_sub(self.prefix).map_or(0, |bits| (1u32 << u32::from(bits)) - 1)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }

    pub fn overlaps(&self, other: Self) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.base & shorter == other.base & shorter
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// The error goes on a sentence that begins with the text.
impl FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').ok_or("has no /prefix")?;
        let address: Ipv4Addr = address.parse().map_err(|_| "is not an IPv4 range")?;
        let prefix: u8 = prefix.parse().map_err(|_| "has no valid prefix length")?;
        let network = Self::containing(address, prefix)
            .ok_or_else(|| format!("has a prefix length above {LONGEST_PREFIX}"))?;
        if network.base != u32::from(address) {
            return Err(format!("has host bits set; did you mean {network}?"));
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_gives_its_gateway_and_pod_addresses() {
        let network = Cidr::containing("10.251.3.77".parse().unwrap(), 29).unwrap();
        assert_eq!((network, network.to_string().as_str()), (cidr("10.251.3.72/29"), "10.251.3.72/29"));
        assert_eq!(network.gateway().to_string(), "10.251.3.73");
        let pods: Vec<_> = network.pod_addresses().map(|a| a.to_string()).collect();
        assert_eq!(pods, ["10.251.3.74", "10.251.3.75", "10.251.3.76", "10.251.3.77", "10.251.3.78"]);
        for (address, inside) in [("10.251.3.72", true), ("10.251.3.79", true), ("10.251.3.80", false)] {
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{address}");
        }
    }

    #[test]
    fn text_is_read_strictly() {
        for (text, why) in [
            ("", "has no /prefix"),
            ("10.0.0.0", "has no /prefix"),
            ("10.0.0.0/31", "above 30"),
            ("10.0.0.0/x", "no valid prefix"),
            ("10.0.0/8", "not an IPv4"),
            ("fd00::/64", "not an IPv4"),
            ("10.244.1.0/16", "did you mean 10.244.0.0/16?"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!(cidr("0.0.0.0/0").contains("9.9.9.9".parse().unwrap()));
    }

    #[test]
    fn nodes_get_their_own_24() {
        let cluster = cidr("10.244.0.0/16");
        assert_eq!(cluster.node(1), Some(cidr("10.244.1.0/24")));
        assert_eq!(cluster.node(255), Some(cidr("10.244.255.0/24")));
        assert_eq!(cluster.node(256), None);
        assert_eq!((cluster.nodes(), cidr("10.0.0.0/24").nodes(), cidr("10.0.0.0/25").nodes()), (255, 0, 0));
        assert_eq!(cidr("10.0.0.0/25").node(0), None);
        assert_eq!(cidr("0.0.0.0/0").node(0), Some(cidr("0.0.0.0/24")));
    }

    #[test]
    fn overlap_is_by_the_shorter_prefix() {
        for (a, b, overlap) in [
            ("10.96.0.0/12", "10.96.0.0/16", true),
            ("10.244.0.0/16", "10.96.0.0/16", false),
            ("0.0.0.0/0", "10.0.0.0/8", true),
        ] {
            assert_eq!((cidr(a).overlaps(cidr(b)), cidr(b).overlaps(cidr(a))), (overlap, overlap), "{a} {b}");
        }
    }
}
