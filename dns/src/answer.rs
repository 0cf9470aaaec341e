//! From a question to its answer. Pure: no sockets, no clock.

use crate::{
    index::{Endpoint, Index, Kind, Port, Service},
    name::{Question, ServiceKey},
};
use api::Cidr;
use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{CNAME, NS, PTR, SOA, SRV, TXT},
};
use std::net::{IpAddr, Ipv4Addr};

/// Version of the specification that we follow.
const DNS_VERSION: &str = "1.1.0";
/// Additional addresses in an answer: more than a UDP packet holds; beyond, clients ask for themselves.
const MAX_ADDITIONALS: usize = 64;

/// What never changes while the server runs.
#[derive(Clone)]
pub(crate) struct Zone {
    pub(crate) name: Name,
    pub(crate) ttl: u32,
    pub(crate) reverse_networks: Vec<Cidr>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name is an alias: this record, then whatever the target's answer is.
    Alias {
        record: Box<Record>,
        target: Name,
    },
    /// The name exists and has no such records.
    NoData,
    NxDomain,
    /// Somebody else has to be asked.
    NotOurs,
}

/// `name` is the queried name in the case it was asked in; `spin` rotates address lists, so that clients which
/// take the first spread.
pub(crate) fn answer(
    zone: &Zone,
    index: &Index,
    question: &Question,
    name: &Name,
    kind: RecordType,
    spin: usize,
) -> Answer {
    let asked = Asked { zone, index, name, kind, spin };
    match question {
        Question::Foreign => Answer::NotOurs,
        Question::Unknown => Answer::NxDomain,
        Question::Branch => Answer::NoData,
        Question::Apex => asked.apex(),
        Question::DnsVersion => {
            asked.records(RecordType::TXT, || RData::TXT(TXT::new(vec![DNS_VERSION.to_owned()])))
        }
        Question::Namespace(namespace) if index.has_namespace(namespace) => Answer::NoData,
        Question::Pod { namespace, ip } if index.has_namespace(namespace) => {
            asked.addresses([*ip].into_iter())
        }
        Question::Namespace(_) | Question::Pod { .. } => Answer::NxDomain,
        Question::Reverse(address) => asked.reverse(*address),
        Question::Service(key) => index.service(key).map_or(Answer::NxDomain, |s| asked.service(s)),
        Question::Endpoint { service, host } => {
            let endpoints = index.service(service).map(|s| s.under(host)).unwrap_or_default();
            if endpoints.is_empty() { Answer::NxDomain } else { asked.endpoints(endpoints) }
        }
        Question::Protocol { service, protocol } => {
            let exists = |s: &Service| s.ports().any(|p| !p.name.is_empty() && p.protocol == *protocol);
            if index.service(service).is_some_and(exists) { Answer::NoData } else { Answer::NxDomain }
        }
        Question::Port { service, protocol, port } => {
            let Some(service) = index.service(service) else { return Answer::NxDomain };
            let wanted = |p: &Port| !p.name.is_empty() && p.name == *port && p.protocol == *protocol;
            if !service.ports().any(wanted) {
                return Answer::NxDomain;
            }
            asked.srv(service, wanted)
        }
    }
}

/// The SOA that goes with a negative answer, or answers for the apex.
pub(crate) fn soa(zone: &Zone, question: &Question, serial: u32) -> Record {
    let owner = match question {
        Question::Reverse(IpAddr::V4(address)) => {
            reverse_apex(zone, *address).unwrap_or_else(|| zone.name.clone())
        }
        _ => zone.name.clone(),
    };
    let below = |label: &str| zone.name.prepend_label(label).unwrap_or_else(|_| zone.name.clone());
    // Refresh, retry and expiry are for secondary servers, of which there are none.
    let seconds = i32::try_from(zone.ttl).unwrap_or(i32::MAX);
    let soa =
        SOA::new(name_server(zone), below("hostmaster"), serial, 7200, 1800, 86400.max(seconds), zone.ttl);
    Record::from_rdata(owner, zone.ttl, RData::SOA(soa))
}

/// The Service in front of the cluster's DNS servers.
fn name_server(zone: &Zone) -> Name {
    let name = Name::from_labels([b"kube-dns".as_slice(), b"kube-system", b"svc"]);
    name.and_then(|n| n.append_domain(&zone.name)).unwrap_or_else(|_| zone.name.clone())
}

/// The name of the network an address is in, cut at whole octets.
fn reverse_apex(zone: &Zone, address: Ipv4Addr) -> Option<Name> {
    let network = zone.reverse_networks.iter().find(|network| network.contains(address))?;
    let octets = usize::from(network.prefix_length().div_ceil(8)).min(3);
    let labels: Vec<String> = address.octets()[..octets].iter().rev().map(u8::to_string).collect();
    let labels = labels.iter().map(String::as_bytes).chain([b"in-addr".as_slice(), b"arpa"]);
    let mut name = Name::from_labels(labels).ok()?;
    name.set_fqdn(true);
    Some(name)
}

struct Asked<'a> {
    zone: &'a Zone,
    index: &'a Index,
    name: &'a Name,
    kind: RecordType,
    spin: usize,
}

impl Asked<'_> {
    fn wants(&self, kind: RecordType) -> bool {
        self.kind == kind || self.kind == RecordType::ANY
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.zone.ttl, data)
    }

    fn records(&self, kind: RecordType, data: impl FnOnce() -> RData) -> Answer {
        if !self.wants(kind) {
            return Answer::NoData;
        }
        Answer::Records { answers: vec![self.record(data())], additionals: Vec::new() }
    }

    fn apex(&self) -> Answer {
        match self.kind {
            RecordType::SOA => Answer::Records {
                answers: vec![soa(self.zone, &Question::Apex, self.index.serial)],
                additionals: Vec::new(),
            },
            RecordType::NS | RecordType::ANY => {
                let server = name_server(self.zone);
                let key = ServiceKey::new("kube-system", "kube-dns");
                let addresses = self.index.service(&key).map(|s| match &s.kind {
                    Kind::Cluster { addresses, .. } => addresses.as_slice(),
                    _ => &[],
                });
                let additionals =
                    addresses.unwrap_or_default().iter().map(|ip| self.glue(&server, *ip)).collect();
                Answer::Records { answers: vec![self.record(RData::NS(NS(server)))], additionals }
            }
            _ => Answer::NoData,
        }
    }

    fn reverse(&self, address: IpAddr) -> Answer {
        let names = self.index.names_of(address);
        let ours = matches!(address, IpAddr::V4(v4) if reverse_apex(self.zone, v4).is_some());
        match names {
            Some(names) if self.wants(RecordType::PTR) => {
                let answers = names.iter().map(|n| self.record(RData::PTR(PTR(n.clone())))).collect();
                Answer::Records { answers, additionals: Vec::new() }
            }
            Some(_) if ours => Answer::NoData,
            None if ours => Answer::NxDomain,
            _ => Answer::NotOurs,
        }
    }

    fn service(&self, service: &Service) -> Answer {
        match &service.kind {
            Kind::External(None) => Answer::NoData,
            Kind::External(Some(target)) => {
                let record = self.record(RData::CNAME(CNAME(target.clone())));
                if self.wants(RecordType::CNAME) {
                    return Answer::Records { answers: vec![record], additionals: Vec::new() };
                }
                Answer::Alias { record: Box::new(record), target: target.clone() }
            }
            _ if self.kind == RecordType::SRV => self.srv(service, |_| true),
            Kind::Cluster { addresses, .. } => self.addresses(addresses.iter().copied()),
            Kind::Headless => self.endpoints(&service.endpoints),
        }
    }

    /// Addresses of the queried name.
    fn addresses(&self, addresses: impl Iterator<Item = IpAddr>) -> Answer {
        let wanted =
            addresses.filter(|ip| self.wants(if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA }));
        let mut answers: Vec<Record> = wanted.map(|ip| self.record(address(ip))).collect();
        if answers.is_empty() {
            return Answer::NoData;
        }
        let start = self.spin % answers.len();
        answers.rotate_left(start);
        Answer::Records { answers, additionals: Vec::new() }
    }

    /// The endpoints of a headless service, or those of one host name.
    fn endpoints(&self, endpoints: &[Endpoint]) -> Answer {
        if self.kind == RecordType::SRV {
            return self.targets(endpoints, |_| true);
        }
        let mut addresses: Vec<IpAddr> = endpoints.iter().map(|e| e.address).collect();
        addresses.sort();
        addresses.dedup();
        self.addresses(addresses.into_iter())
    }

    /// Where a service's ports are: at the service itself, or at each endpoint of a headless one.
    fn srv(&self, service: &Service, wanted: impl Fn(&Port) -> bool) -> Answer {
        if !self.wants(RecordType::SRV) {
            return Answer::NoData;
        }
        match &service.kind {
            Kind::Headless => self.targets(&service.endpoints, wanted),
            Kind::External(_) => Answer::NoData,
            Kind::Cluster { addresses, ports } => {
                let ports: Vec<u16> = ports.iter().filter(|p| wanted(p)).map(|p| p.number).collect();
                if addresses.is_empty() || ports.is_empty() {
                    return Answer::NoData;
                }
                let weight = weight(ports.len());
                let srv = |port| self.record(RData::SRV(SRV::new(0, weight, port, service.name.clone())));
                Answer::Records {
                    answers: ports.into_iter().map(srv).collect(),
                    additionals: addresses.iter().map(|ip| self.glue(&service.name, *ip)).collect(),
                }
            }
        }
    }

    fn targets(&self, endpoints: &[Endpoint], wanted: impl Fn(&Port) -> bool) -> Answer {
        let pairs = endpoints.iter().flat_map(|e| e.ports.iter().map(move |p| (e, p)));
        let mut pairs: Vec<(&Name, u16)> =
            pairs.filter(|(_, p)| wanted(p)).map(|(e, p)| (&e.name, p.number)).collect();
        pairs.dedup();
        if pairs.is_empty() {
            return Answer::NoData;
        }
        let weight = weight(pairs.len());
        let srv =
            |(name, port): (&Name, u16)| self.record(RData::SRV(SRV::new(0, weight, port, name.clone())));
        let mut answers: Vec<Record> = pairs.into_iter().map(srv).collect();
        let start = self.spin % answers.len();
        answers.rotate_left(start);
        let glue = endpoints.iter().filter(|e| e.ports.iter().any(&wanted)).take(MAX_ADDITIONALS);
        Answer::Records { answers, additionals: glue.map(|e| self.glue(&e.name, e.address)).collect() }
    }

    fn glue(&self, name: &Name, ip: IpAddr) -> Record {
        Record::from_rdata(name.clone(), self.zone.ttl, address(ip))
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    }
}

/// All targets alike; 100 shared out, as CoreDNS does.
fn weight(targets: usize) -> u16 {
    u16::try_from(100 / targets.max(1)).unwrap_or(1).max(1)
}
