//! What the kernel's sets and maps hold, as small plain values.

use crate::netlink::nftables::{Data, Verdict, kind};
use std::{fmt, net::Ipv4Addr};

/// The sets and maps of our table. `node` in a key is the address of a node's pod range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Set {
    /// address . protocol . port → chain that chooses an endpoint
    Services,
    /// address . protocol . port . index → endpoint
    Endpoints,
    /// node of the client . address . protocol . port → chain, where clients are served on their own node
    LocalServices,
    /// node of the client . address . protocol . port . index → endpoint
    LocalEndpoints,
    /// protocol . port → chain
    NodePorts,
    /// node of the client . node that is asked . protocol . port → chain, where the node's own clients are served otherwise
    /// than those from outside
    InnerNodePorts,
    /// protocol . port . index → endpoint
    NodePortEndpoints,
    /// node that is asked . protocol . port → chain, where each node has its own endpoints
    LocalNodePorts,
    /// node that is asked . protocol . port . index → endpoint
    LocalNodePortEndpoints,
    /// node that is asked . protocol . port → the pod that has taken the port
    HostPorts,
    /// address . protocol . port → reject or drop
    NoEndpoints,
    /// node of the client . address . protocol . port → drop
    NoLocalEndpoints,
    /// protocol . port → reject
    NoNodePortEndpoints,
    /// node that is asked . protocol . port → drop
    NoLocalNodePortEndpoints,
    /// Endpoints on this machine, as source . destination: one that reaches itself through a service must see
    /// another source (nft cannot compare two addresses of a packet).
    Hairpin,
}

/// A part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Node,
    Address,
    Protocol,
    Port,
    Index,
}

impl Set {
    pub(crate) const ALL: [Set; 15] = [
        Set::Services,
        Set::Endpoints,
        Set::LocalServices,
        Set::LocalEndpoints,
        Set::NodePorts,
        Set::InnerNodePorts,
        Set::NodePortEndpoints,
        Set::LocalNodePorts,
        Set::LocalNodePortEndpoints,
        Set::HostPorts,
        Set::NoEndpoints,
        Set::NoLocalEndpoints,
        Set::NoNodePortEndpoints,
        Set::NoLocalNodePortEndpoints,
        Set::Hairpin,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Set::Services => "services",
            Set::Endpoints => "endpoints",
            Set::LocalServices => "local-services",
            Set::LocalEndpoints => "local-endpoints",
            Set::NodePorts => "node-ports",
            Set::InnerNodePorts => "inner-node-ports",
            Set::NodePortEndpoints => "node-port-endpoints",
            Set::LocalNodePorts => "local-node-ports",
            Set::LocalNodePortEndpoints => "local-node-port-endpoints",
            Set::HostPorts => "host-ports",
            Set::NoEndpoints => "no-endpoints",
            Set::NoLocalEndpoints => "no-local-endpoints",
            Set::NoNodePortEndpoints => "no-node-port-endpoints",
            Set::NoLocalNodePortEndpoints => "no-local-node-port-endpoints",
            Set::Hairpin => "hairpin",
        }
    }

    /// What keys are made of, in the order in which the rules load it.
    fn parts(self) -> &'static [Part] {
        use Part::{Address, Index, Node, Port, Protocol};
        match self {
            Set::Services | Set::NoEndpoints => &[Address, Protocol, Port],
            Set::Endpoints => &[Address, Protocol, Port, Index],
            Set::LocalServices | Set::NoLocalEndpoints => &[Node, Address, Protocol, Port],
            Set::LocalEndpoints => &[Node, Address, Protocol, Port, Index],
            Set::NodePorts | Set::NoNodePortEndpoints => &[Protocol, Port],
            // Clients of the node that is asked.
            Set::InnerNodePorts => &[Node, Node, Protocol, Port],
            Set::NodePortEndpoints => &[Protocol, Port, Index],
            Set::LocalNodePorts | Set::HostPorts | Set::NoLocalNodePortEndpoints => &[Node, Protocol, Port],
            Set::LocalNodePortEndpoints => &[Node, Protocol, Port, Index],
            Set::Hairpin => &[Address, Address],
        }
    }

    /// Type and length of the keys.
    pub(crate) fn key_type(self) -> (u32, u32) {
        let kinds = self.parts().iter().map(|part| match part {
            Part::Node | Part::Address => kind::ADDRESS,
            Part::Protocol => kind::PROTOCOL,
            Part::Port => kind::SERVICE,
            Part::Index => kind::MARK,
        });
        (kinds.clone().fold(0, |packed, kind| packed << 6 | kind), kinds.map(|_| 4).sum())
    }

    /// Type and length of what keys map to.
    pub(crate) fn data_type(self) -> Option<(u32, u32)> {
        use kind::{ADDRESS, SERVICE, VERDICT, concat};
        match self {
            Set::Endpoints
            | Set::LocalEndpoints
            | Set::NodePortEndpoints
            | Set::LocalNodePortEndpoints
            | Set::HostPorts => Some((concat(&[ADDRESS, SERVICE]), 8)),
            Set::Hairpin => None,
            _ => Some((VERDICT, 0)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    /// The API's spelling; absent is TCP.
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// The longest key's parts, four bytes each.
const LONGEST_KEY: usize = 5 * 4;

/// A key of any set; what a set has no use for is left at its default and not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) node: Ipv4Addr,
    pub(crate) address: Ipv4Addr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) index: u32,
}

impl Key {
    pub(crate) fn service(address: Ipv4Addr, protocol: Protocol, port: u16) -> Self {
        Self { node: Ipv4Addr::UNSPECIFIED, address, protocol, port, index: 0 }
    }

    /// A port at no address of its own: of one node or of all.
    pub(crate) fn node_port(protocol: Protocol, port: u16) -> Self {
        Self::service(Ipv4Addr::UNSPECIFIED, protocol, port)
    }

    pub(crate) fn hairpin(address: Ipv4Addr) -> Self {
        Self::service(address, Protocol::Tcp, 0)
    }

    pub(crate) fn on(self, node: Ipv4Addr) -> Self {
        Self { node, ..self }
    }

    pub(crate) fn at(self, index: u32) -> Self {
        Self { index, ..self }
    }

    /// As the kernel has it: each part padded to four bytes. Returns the bytes and their number.
    pub(crate) fn encode(&self, set: Set) -> ([u8; LONGEST_KEY], usize) {
        let [p0, p1] = self.port.to_be_bytes();
        let parts = set.parts();
        let mut bytes = [0; LONGEST_KEY];
        for (out, part) in bytes.chunks_exact_mut(4).zip(parts) {
            out.copy_from_slice(&match part {
                Part::Node => self.node.octets(),
                Part::Address => self.address.octets(),
                Part::Protocol => [self.protocol as u8, 0, 0, 0],
                Part::Port => [p0, p1, 0, 0],
                // In the machine's order: it is compared with a register that the kernel computed.
                Part::Index => self.index.to_ne_bytes(),
            });
        }
        (bytes, parts.len() * 4)
    }
}

/// The chains that elements lead to. Their numbers of endpoints are part of the chain, because the modulus of an
/// index is part of a rule; each is made once, when first needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Chain {
    /// To one of so many of a service's endpoints.
    Balance(u32),
    /// To the endpoint that the client's address chooses.
    Affinity,
    /// As `Balance`, for clients that must not see where the answer comes from: with our address as source.
    Outside(u32),
    OutsideAffinity,
    /// As `Balance`, among the endpoints on the client's node.
    Local(u32),
    LocalAffinity,
    /// To one of so many endpoints of a node port.
    NodePort(u32),
    NodePortAffinity,
    /// The same among the endpoints on the node that is asked, which see the client's address.
    LocalNodePort(u32),
    LocalNodePortAffinity,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chain::Balance(n) => write!(f, "balance-{n}"),
            Chain::Affinity => f.write_str("affinity"),
            Chain::Outside(n) => write!(f, "outside-{n}"),
            Chain::OutsideAffinity => f.write_str("outside-affinity"),
            Chain::Local(n) => write!(f, "local-{n}"),
            Chain::LocalAffinity => f.write_str("local-affinity"),
            Chain::NodePort(n) => write!(f, "node-port-{n}"),
            Chain::NodePortAffinity => f.write_str("node-port-affinity"),
            Chain::LocalNodePort(n) => write!(f, "local-node-port-{n}"),
            Chain::LocalNodePortAffinity => f.write_str("local-node-port-affinity"),
        }
    }
}

/// Chain that refuses at once.
pub(crate) const REJECT: &str = "do-reject";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Value {
    Goto(Chain),
    Reject,
    Drop,
    Endpoint(Ipv4Addr, u16),
    /// Of a set.
    Member,
}

impl Value {
    /// Calls `f` with the value as the kernel takes it.
    pub(crate) fn with_data<R>(&self, f: impl FnOnce(Data<'_>) -> R) -> R {
        match self {
            Value::Goto(chain) => f(Data::Verdict(Verdict::Goto(&chain.to_string()))),
            Value::Reject => f(Data::Verdict(Verdict::Goto(REJECT))),
            Value::Drop => f(Data::Verdict(Verdict::Drop)),
            Value::Endpoint(address, port) => f(Data::Value(&endpoint(*address, *port))),
            Value::Member => f(Data::None),
        }
    }
}

fn endpoint(address: Ipv4Addr, port: u16) -> [u8; 8] {
    let [a, b, c, d] = address.octets();
    let [p0, p1] = port.to_be_bytes();
    [a, b, c, d, p0, p1, 0, 0]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) set: Set,
    pub(crate) key: Key,
    pub(crate) value: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_out_as_the_rules_load_them() {
        let key = Key::service([10, 96, 0, 1].into(), Protocol::Udp, 0x1234).on([10, 244, 2, 0].into()).at(7);
        let encode = |set: Set| {
            let (bytes, length) = key.encode(set);
            assert_eq!(u32::try_from(length).unwrap(), set.key_type().1, "{set:?}");
            bytes[..length].to_vec()
        };
        let (address, protocol, port) = ([10, 96, 0, 1], [17, 0, 0, 0], [0x12, 0x34, 0, 0]);
        let (node, index) = ([10, 244, 2, 0], 7u32.to_ne_bytes());
        assert_eq!(encode(Set::Services), [address, protocol, port].concat());
        assert_eq!(encode(Set::Endpoints), [address, protocol, port, index].concat());
        assert_eq!(encode(Set::LocalServices), [node, address, protocol, port].concat());
        assert_eq!(encode(Set::LocalEndpoints), [node, address, protocol, port, index].concat());
        assert_eq!(encode(Set::NodePorts), [protocol, port].concat());
        assert_eq!(encode(Set::InnerNodePorts), [node, node, protocol, port].concat());
        assert_eq!(encode(Set::NodePortEndpoints), [protocol, port, index].concat());
        assert_eq!(encode(Set::LocalNodePortEndpoints), [node, protocol, port, index].concat());
        assert_eq!(encode(Set::HostPorts), [node, protocol, port].concat());
        assert_eq!(encode(Set::Hairpin), [address, address].concat());
        assert_eq!(endpoint([10, 244, 1, 2].into(), 8080), [10, 244, 1, 2, 0x1f, 0x90, 0, 0]);
    }

    #[test]
    fn types_are_packed_as_nft_reads_them() {
        use kind::{ADDRESS, MARK, PROTOCOL, SERVICE, concat};
        let all = concat(&[ADDRESS, ADDRESS, PROTOCOL, SERVICE, MARK]);
        assert_eq!(Set::LocalEndpoints.key_type(), (all, 20));
        assert_eq!(Set::NodePorts.key_type(), (concat(&[PROTOCOL, SERVICE]), 8));
    }
}
