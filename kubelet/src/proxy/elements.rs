//! What the kernel's sets and maps hold, as small plain values.

use crate::netlink::nftables::{Data, Verdict, kind};
use std::{fmt, net::Ipv4Addr};

/// The sets and maps of our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Set {
    /// address . protocol . port → chain that chooses an endpoint
    Services,
    /// address . protocol . port . index → endpoint
    Endpoints,
    /// protocol . port → chain, for clients from outside
    NodePorts,
    /// protocol . port → chain, for this machine and its pods, where that differs
    InnerNodePorts,
    /// protocol . port → chain: ports that pods have taken of the machine itself, which is the first node
    HostPorts,
    /// protocol . port . index → endpoint
    NodePortEndpoints,
    /// address . protocol . port → reject or drop
    NoEndpoints,
    /// protocol . port → reject or drop
    NoNodePortEndpoints,
    /// Endpoints on this machine, as source . destination: one that reaches itself through a service must see
    /// another source (nft cannot compare two addresses of a packet).
    Hairpin,
}

impl Set {
    pub(crate) const ALL: [Set; 9] = [
        Set::Services,
        Set::Endpoints,
        Set::NodePorts,
        Set::InnerNodePorts,
        Set::HostPorts,
        Set::NodePortEndpoints,
        Set::NoEndpoints,
        Set::NoNodePortEndpoints,
        Set::Hairpin,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Set::Services => "services",
            Set::Endpoints => "endpoints",
            Set::NodePorts => "node-ports",
            Set::InnerNodePorts => "inner-node-ports",
            Set::HostPorts => "host-ports",
            Set::NodePortEndpoints => "node-port-endpoints",
            Set::NoEndpoints => "no-endpoints",
            Set::NoNodePortEndpoints => "no-node-port-endpoints",
            Set::Hairpin => "hairpin",
        }
    }

    /// Type and length of the keys.
    pub(crate) fn key_type(self) -> (u32, u32) {
        use kind::{ADDRESS, MARK, PROTOCOL, SERVICE, concat};
        match self {
            Set::Services | Set::NoEndpoints => (concat(&[ADDRESS, PROTOCOL, SERVICE]), 12),
            Set::Endpoints => (concat(&[ADDRESS, PROTOCOL, SERVICE, MARK]), 16),
            Set::NodePorts | Set::InnerNodePorts | Set::HostPorts | Set::NoNodePortEndpoints => {
                (concat(&[PROTOCOL, SERVICE]), 8)
            }
            Set::NodePortEndpoints => (concat(&[PROTOCOL, SERVICE, MARK]), 12),
            Set::Hairpin => (concat(&[ADDRESS, ADDRESS]), 8),
        }
    }

    /// Type and length of what keys map to.
    pub(crate) fn data_type(self) -> Option<(u32, u32)> {
        use kind::{ADDRESS, SERVICE, VERDICT, concat};
        match self {
            Set::Endpoints | Set::NodePortEndpoints => Some((concat(&[ADDRESS, SERVICE]), 8)),
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

/// A key of any set; what a set has no use for is left at its default and not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) address: Ipv4Addr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) index: u32,
}

impl Key {
    pub(crate) fn service(address: Ipv4Addr, protocol: Protocol, port: u16) -> Self {
        Self { address, protocol, port, index: 0 }
    }

    pub(crate) fn node_port(protocol: Protocol, port: u16) -> Self {
        Self::service(Ipv4Addr::UNSPECIFIED, protocol, port)
    }

    pub(crate) fn hairpin(address: Ipv4Addr) -> Self {
        Self::service(address, Protocol::Tcp, 0)
    }

    pub(crate) fn at(self, index: u32) -> Self {
        Self { index, ..self }
    }

    /// As the kernel has it: each part padded to four bytes. Returns the bytes and their number.
    pub(crate) fn encode(&self, set: Set) -> ([u8; 16], usize) {
        let address = self.address.octets();
        let protocol = [self.protocol as u8, 0, 0, 0];
        let [p0, p1] = self.port.to_be_bytes();
        let port = [p0, p1, 0, 0];
        // In the machine's order: it is compared with a register that the kernel computed.
        let index = self.index.to_ne_bytes();
        let parts: &[[u8; 4]] = match set {
            Set::Services | Set::NoEndpoints => &[address, protocol, port],
            Set::Endpoints => &[address, protocol, port, index],
            Set::NodePorts | Set::InnerNodePorts | Set::HostPorts | Set::NoNodePortEndpoints => {
                &[protocol, port]
            }
            Set::NodePortEndpoints => &[protocol, port, index],
            Set::Hairpin => &[address, address],
        };
        let mut bytes = [0; 16];
        for (out, part) in bytes.chunks_exact_mut(4).zip(parts) {
            out.copy_from_slice(part);
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
    /// To one of so many endpoints of a node port.
    NodePort(u32),
    NodePortAffinity,
    /// The same among the endpoints on this machine, which see the client's address.
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
        let key = Key::service([10, 96, 0, 1].into(), Protocol::Udp, 0x1234).at(7);
        let encode = |set: Set| {
            let (bytes, length) = key.encode(set);
            assert_eq!(u32::try_from(length).unwrap(), set.key_type().1, "{set:?}");
            bytes[..length].to_vec()
        };
        let (address, protocol, port) = ([10, 96, 0, 1], [17, 0, 0, 0], [0x12, 0x34, 0, 0]);
        let index = 7u32.to_ne_bytes();
        assert_eq!(encode(Set::Services), [address, protocol, port].concat());
        assert_eq!(encode(Set::Endpoints), [address, protocol, port, index].concat());
        assert_eq!(encode(Set::NodePorts), [protocol, port].concat());
        assert_eq!(encode(Set::NodePortEndpoints), [protocol, port, index].concat());
        assert_eq!(encode(Set::Hairpin), [address, address].concat());
        assert_eq!(endpoint([10, 244, 1, 2].into(), 8080), [10, 244, 1, 2, 0x1f, 0x90, 0, 0]);
    }
}
