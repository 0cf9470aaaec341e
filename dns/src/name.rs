//! From a queried name to what is asked for (the forms of the "Kubernetes DNS-Based Service Discovery"
//! specification, version 1.1.0). Pure; names compare without case.

use hickory_proto::rr::Name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a name stands for. All strings are lower case.
#[derive(Debug, PartialEq)]
pub(crate) enum Question {
    /// The zone itself.
    Apex,
    /// `dns-version.ZONE`
    DnsVersion,
    /// `svc.ZONE` and `pod.ZONE`: exist, hold nothing.
    Branch,
    /// `NS.svc.ZONE` and `NS.pod.ZONE`: exist with the namespace, hold nothing.
    Namespace(String),
    /// `SERVICE.NS.svc.ZONE`
    Service(ServiceKey),
    /// `HOST.SERVICE.NS.svc.ZONE`
    Endpoint { service: ServiceKey, host: String },
    /// `_PROTOCOL.SERVICE.NS.svc.ZONE`: exists with a named port, holds nothing.
    Protocol { service: ServiceKey, protocol: String },
    /// `_PORT._PROTOCOL.SERVICE.NS.svc.ZONE`
    Port { service: ServiceKey, protocol: String, port: String },
    /// `10-244-1-5.NS.pod.ZONE`
    Pod { namespace: String, ip: IpAddr },
    /// `5.1.244.10.in-addr.arpa` and the like.
    Reverse(IpAddr),
    /// In the zone, but of none of these forms.
    Unknown,
    /// Not in the zone.
    Foreign,
}

/// `namespace/service`, lower case: how the index knows a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServiceKey(String);

impl ServiceKey {
    pub(crate) fn new(namespace: &str, service: &str) -> Self {
        Self(format!("{namespace}/{service}"))
    }
}

pub(crate) fn parse(name: &Name, zone: &Name) -> Question {
    if !zone.zone_of(name) {
        return reverse(name).map_or(Question::Foreign, Question::Reverse);
    }
    let depth = usize::from(name.num_labels().saturating_sub(zone.num_labels()));
    // The specification's forms have at most five labels below the zone.
    let mut labels = [const { String::new() }; 5];
    if depth > labels.len() {
        return Question::Unknown;
    }
    for (out, label) in labels.iter_mut().zip(name.iter().take(depth)) {
        // A `/` would make two keys alike; no object's name has one.
        match std::str::from_utf8(label) {
            Ok(text) if !text.contains('/') => *out = text.to_ascii_lowercase(),
            _ => return Question::Unknown,
        }
    }
    below_zone(&mut labels[..depth])
}

/// `labels` as written, the leaf first.
fn below_zone(labels: &mut [String]) -> Question {
    match labels {
        [] => Question::Apex,
        [one] if one == "dns-version" => Question::DnsVersion,
        [branch] if branch == "svc" || branch == "pod" => Question::Branch,
        [namespace, branch] if branch == "svc" || branch == "pod" => {
            Question::Namespace(std::mem::take(namespace))
        }
        [ip, namespace, branch] if branch == "pod" => match dashed_ip(ip) {
            Some(ip) => Question::Pod { namespace: std::mem::take(namespace), ip },
            None => Question::Unknown,
        },
        [service, namespace, branch] if branch == "svc" => {
            Question::Service(ServiceKey::new(namespace, service))
        }
        [host, service, namespace, branch] if branch == "svc" => {
            let service = ServiceKey::new(namespace, service);
            match host.strip_prefix('_') {
                Some(protocol) => Question::Protocol { service, protocol: protocol.to_owned() },
                None => Question::Endpoint { service, host: std::mem::take(host) },
            }
        }
        [port, protocol, service, namespace, branch] if branch == "svc" => {
            let service = ServiceKey::new(namespace, service);
            match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => {
                    Question::Port { service, protocol: protocol.to_owned(), port: port.to_owned() }
                }
                _ => Question::Unknown,
            }
        }
        _ => Question::Unknown,
    }
}

/// `10-244-1-5` or `fd00--1`.
fn dashed_ip(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// The label that stands for an address without a host name.
pub(crate) fn to_dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// The whole address of an `in-addr.arpa` or `ip6.arpa` name.
fn reverse(name: &Name) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let [address @ .., tree, arpa] = labels.as_slice() else { return None };
    if !arpa.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    if tree.eq_ignore_ascii_case(b"in-addr") && address.len() == 4 {
        let mut octets = [0u8; 4];
        for (octet, label) in octets.iter_mut().zip(address.iter().rev()) {
            let text = std::str::from_utf8(label).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
            *octet = text.parse().ok()?;
        }
        return Some(IpAddr::V4(octets.into()));
    }
    if tree.eq_ignore_ascii_case(b"ip6") && address.len() == 32 {
        let mut bits = 0u128;
        for label in address.iter().rev() {
            let [digit] = label else { return None };
            bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
        }
        return Some(IpAddr::V6(bits.into()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Question) {
        let zone = Name::from_ascii("cluster.local.").unwrap();
        // By labels: the parser of text is stricter than the wire.
        let labels = name.split('.').filter(|l| !l.is_empty()).map(str::as_bytes);
        assert_eq!(parse(&Name::from_labels(labels).unwrap(), &zone), expected, "{name}");
    }

    #[test]
    fn names_of_the_specification() {
        let foo = || ServiceKey::new("default", "foo");
        check("cluster.local.", Question::Apex);
        check("CLUSTER.Local.", Question::Apex);
        check("dns-version.cluster.local.", Question::DnsVersion);
        check("svc.cluster.local.", Question::Branch);
        check("pod.cluster.local.", Question::Branch);
        check("default.svc.cluster.local.", Question::Namespace("default".into()));
        check("default.pod.cluster.local.", Question::Namespace("default".into()));
        check("foo.default.svc.cluster.local.", Question::Service(foo()));
        check("FoO.Default.SVC.cluster.local.", Question::Service(foo()));
        check(
            "a-0.foo.default.svc.cluster.local.",
            Question::Endpoint { service: foo(), host: "a-0".into() },
        );
        check(
            "_tcp.foo.default.svc.cluster.local.",
            Question::Protocol { service: foo(), protocol: "tcp".into() },
        );
        check(
            "_HTTP._tcp.foo.default.svc.cluster.local.",
            Question::Port { service: foo(), protocol: "tcp".into(), port: "http".into() },
        );
        let ip = "10.244.1.5".parse().unwrap();
        check("10-244-1-5.default.pod.cluster.local.", Question::Pod { namespace: "default".into(), ip });
        let ip = "fd00::1".parse().unwrap();
        check("fd00--1.default.pod.cluster.local.", Question::Pod { namespace: "default".into(), ip });
    }

    #[test]
    fn other_names_in_the_zone_are_unknown() {
        for name in [
            "nothing.cluster.local.",
            "foo.default.nothing.cluster.local.",
            "a.b.foo.default.svc.cluster.local.",
            "_http.b.foo.default.svc.cluster.local.",
            "x._http._tcp.foo.default.svc.cluster.local.",
            "no-ip.default.pod.cluster.local.",
            "1-2-3.default.pod.cluster.local.",
            "x.1-2-3-4.default.pod.cluster.local.",
            "a/b.default.svc.cluster.local.",
            "registry.npmjs.org.default.svc.cluster.local.",
        ] {
            check(name, Question::Unknown);
        }
    }

    #[test]
    fn names_elsewhere_are_foreign_or_reverse() {
        for name in [
            ".",
            "local.",
            "example.com.",
            "xcluster.local.",
            "in-addr.arpa.",
            "1.10.in-addr.arpa.",
            "256.0.0.1.in-addr.arpa.",
            "+1.0.0.1.in-addr.arpa.",
            "5.4.3.2.1.in-addr.arpa.",
            "x.ip6.arpa.",
        ] {
            check(name, Question::Foreign);
        }
        check("5.1.244.10.IN-ADDR.arpa.", Question::Reverse("10.244.1.5".parse().unwrap()));
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.F.ip6.arpa.";
        check(v6, Question::Reverse("fd00::1".parse().unwrap()));
    }

    #[test]
    fn addresses_as_labels_go_both_ways() {
        for ip in ["10.244.1.5", "fd00::1", "1:2:3:4:5:6:7:8"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(dashed_ip(&to_dashed(ip)), Some(ip));
        }
    }
}
