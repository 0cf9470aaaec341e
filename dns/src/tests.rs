//! Questions and answers by table, through the whole path from packet to packet, without sockets.

use crate::{
    answer::Zone,
    forward::Forward,
    handler::{Handler, Reply},
    index::{Index, Service},
    name::ServiceKey,
};
use arc_swap::ArcSwap;
use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
    serialize::binary::{BinDecodable, BinDecoder},
};
use hickory_server::{
    net::xfer::Protocol::{self, Tcp, Udp},
    server::Request,
};
use k8s_openapi::{
    api::{
        core::v1::{self as core, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use proptest::prelude::*;
use std::{collections::HashSet, sync::Arc};

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.into()), name: Some(name.into()), ..Default::default() }
}

fn service(name: &str, ip: &str, ports: &[(&str, &str, i32)]) -> core::Service {
    let ports = ports.iter().map(|(name, protocol, port)| ServicePort {
        name: (!name.is_empty()).then(|| (*name).to_owned()),
        protocol: Some((*protocol).to_owned()),
        port: *port,
        ..Default::default()
    });
    let spec =
        ServiceSpec { cluster_ip: Some(ip.into()), ports: Some(ports.collect()), ..Default::default() };
    core::Service { metadata: meta("default", name), spec: Some(spec), ..Default::default() }
}

fn external(name: &str, target: &str) -> core::Service {
    let spec = ServiceSpec {
        type_: Some("ExternalName".into()),
        external_name: Some(target.into()),
        ..Default::default()
    };
    core::Service { metadata: meta("default", name), spec: Some(spec), ..Default::default() }
}

fn endpoint(address: &str, hostname: Option<&str>, ready: Option<bool>) -> Endpoint {
    Endpoint {
        addresses: vec![address.into()],
        hostname: hostname.map(Into::into),
        conditions: Some(EndpointConditions { ready, ..Default::default() }),
        ..Default::default()
    }
}

fn slice(ports: &[(&str, i32)], endpoints: Vec<Endpoint>) -> Arc<EndpointSlice> {
    let ports = ports.iter().map(|(name, port)| EndpointPort {
        name: Some((*name).to_owned()),
        port: Some(*port),
        protocol: Some("TCP".into()),
        ..Default::default()
    });
    Arc::new(EndpointSlice { endpoints: Some(endpoints), ports: Some(ports.collect()), ..Default::default() })
}

pub(crate) struct Bed {
    pub(crate) handler: Handler,
}

fn zone() -> Zone {
    let networks = ["10.96.0.0/16", "10.244.0.0/16"].map(|n| n.parse().unwrap()).to_vec();
    Zone { name: Name::from_ascii("cluster.local.").unwrap(), ttl: 5, reverse_networks: networks }
}

impl Bed {
    fn new(services: Vec<(core::Service, Vec<Arc<EndpointSlice>>)>) -> Self {
        let mut index = Index::default();
        (index.serial, index.synced) = (7, true);
        for namespace in ["default", "kube-system", "empty"] {
            index.set_namespace(namespace, true);
        }
        for (service, slices) in services {
            set(&mut index, &service, &slices);
        }
        let forward = Forward::new(Some(&[]), HashSet::new()).unwrap();
        Self { handler: Handler::new(zone(), Arc::new(ArcSwap::from_pointee(index)), forward) }
    }

    /// The usual suspects.
    pub(crate) fn usual() -> Self {
        let mut dns = service("kube-dns", "10.96.0.10", &[("dns", "UDP", 53), ("dns-tcp", "TCP", 53)]);
        dns.metadata.namespace = Some("kube-system".into());
        let kubia = slice(
            &[("http", 8080)],
            vec![
                endpoint("10.244.1.7", Some("kubia-1"), Some(true)),
                endpoint("10.244.1.6", Some("kubia-0"), None),
                endpoint("10.244.1.8", Some("kubia-2"), Some(false)),
            ],
        );
        let plain = slice(
            &[("", 80), ("metrics", 9090)],
            vec![endpoint("10.244.1.20", None, Some(true)), endpoint("10.244.2.20", None, Some(true))],
        );
        Self::new(vec![
            (dns, vec![]),
            (service("web", "10.96.0.5", &[("http", "TCP", 80), ("dns", "UDP", 53)]), vec![plain.clone()]),
            (service("kubia", "None", &[("http", "TCP", 80)]), vec![kubia]),
            (service("plain", "None", &[("", "TCP", 80)]), vec![plain]),
            (service("idle", "None", &[("http", "TCP", 80)]), vec![]),
            (service("pending", "", &[("http", "TCP", 80)]), vec![]),
            (external("outside", "example.com"), vec![]),
            (external("inside", "web.default.svc.cluster.local."), vec![]),
            (external("round", "round.default.svc.cluster.local"), vec![]),
        ])
    }

    /// `None` is silence. What cannot be decoded hickory answers: see `sockets`.
    fn reply(&self, packet: &[u8], transport: Protocol) -> Option<Vec<u8>> {
        let client = "127.0.0.1:53".parse().unwrap();
        let request = Request::from_bytes(packet.to_vec(), client, transport).unwrap();
        let response = match self.handler.reply(&request) {
            Reply::Silence => return None,
            Reply::Now(response) => response,
            Reply::Later(pending) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(self.handler.finish(*pending, &request.queries))
            }
        };
        Some(response.encode(&request.queries).unwrap())
    }

    fn send(&self, query: &Message, transport: Protocol) -> Message {
        Message::from_vec(&self.reply(&query.to_vec().unwrap(), transport).unwrap()).unwrap()
    }

    #[track_caller]
    fn check(&self, name: &str, kind: RecordType, expected: &str) {
        let reply = self.send(&query(name, kind), Tcp);
        assert_eq!(describe(&reply), expected, "{name} {kind}");
        assert_eq!(reply.queries[0].name().to_ascii(), name, "the question comes back as it was");
        assert_eq!(reply.metadata.id, 4711);
    }
}

fn set(index: &mut Index, service: &core::Service, slices: &[Arc<EndpointSlice>]) {
    let built = Service::build(&zone().name, service, slices).unwrap();
    let (namespace, name) =
        (service.metadata.namespace.clone().unwrap(), service.metadata.name.clone().unwrap());
    index.set_service(ServiceKey::new(&namespace, &name), Some(built));
}

pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// Code and records, sorted within each section, without what is the same everywhere.
fn describe(reply: &Message) -> String {
    let section = |mark: &str, records: &[Record]| {
        let mut lines: Vec<String> = records
            .iter()
            .map(|r| {
                let data = match &r.data {
                    RData::SOA(soa) => format!("{}", soa.minimum),
                    RData::TXT(txt) => txt.to_string(),
                    data => data.to_string(),
                };
                format!("{mark}{} {} {data}", r.name, r.record_type()).replace(".cluster.local.", "")
            })
            .collect();
        lines.sort();
        lines
    };
    let mut out = vec![format!("{:?}", reply.metadata.response_code)];
    if reply.metadata.authoritative {
        out[0].push_str("/AA");
    }
    out.extend(section("", &reply.answers));
    out.extend(section("@", &reply.authorities));
    out.extend(section("+", &reply.additionals));
    out.join("; ")
}

use RecordType::{A, AAAA, ANY, CNAME, MX, NS, PTR, SOA, SRV, TXT};

const NO_DATA: &str = "NoError/AA; @cluster.local. SOA 5";
const NX_DOMAIN: &str = "NXDomain/AA; @cluster.local. SOA 5";

#[test]
fn services_with_an_address() {
    let bed = Bed::usual();
    bed.check("web.default.svc.cluster.local.", A, "NoError/AA; web.default.svc A 10.96.0.5");
    bed.check("WEB.Default.svc.cluster.local.", A, "NoError/AA; WEB.Default.svc A 10.96.0.5");
    bed.check("web.default.svc.cluster.local.", AAAA, NO_DATA);
    bed.check("web.default.svc.cluster.local.", MX, NO_DATA);
    bed.check(
        "_http._tcp.web.default.svc.cluster.local.",
        SRV,
        "NoError/AA; _http._tcp.web.default.svc SRV 0 100 80 web.default.svc; +web.default.svc A 10.96.0.5",
    );
    bed.check(
        "web.default.svc.cluster.local.",
        SRV,
        "NoError/AA; web.default.svc SRV 0 50 53 web.default.svc; web.default.svc SRV 0 50 80 web.default.svc; \
         +web.default.svc A 10.96.0.5",
    );
    bed.check("_http._tcp.web.default.svc.cluster.local.", A, NO_DATA);
    bed.check("_tcp.web.default.svc.cluster.local.", SRV, NO_DATA);
    bed.check("_sctp.web.default.svc.cluster.local.", SRV, NX_DOMAIN);
    bed.check("_http._udp.web.default.svc.cluster.local.", SRV, NX_DOMAIN);
    bed.check("_smtp._tcp.web.default.svc.cluster.local.", SRV, NX_DOMAIN);
    bed.check(
        "10-244-1-20.web.default.svc.cluster.local.",
        A,
        "NoError/AA; 10-244-1-20.web.default.svc A 10.244.1.20",
    );
    bed.check("pending.default.svc.cluster.local.", A, NO_DATA);
    bed.check("pending.default.svc.cluster.local.", SRV, NO_DATA);
}

#[test]
fn headless_services() {
    let bed = Bed::usual();
    bed.check(
        "kubia.default.svc.cluster.local.",
        A,
        "NoError/AA; kubia.default.svc A 10.244.1.6; kubia.default.svc A 10.244.1.7",
    );
    bed.check(
        "kubia-0.kubia.default.svc.cluster.local.",
        A,
        "NoError/AA; kubia-0.kubia.default.svc A 10.244.1.6",
    );
    bed.check("kubia-2.kubia.default.svc.cluster.local.", A, NX_DOMAIN);
    bed.check("kubia-0.kubia.default.svc.cluster.local.", AAAA, NO_DATA);
    let targets = |name: &str| {
        format!(
            "NoError/AA; {name} SRV 0 50 8080 kubia-0.kubia.default.svc; \
             {name} SRV 0 50 8080 kubia-1.kubia.default.svc; \
             +kubia-0.kubia.default.svc A 10.244.1.6; +kubia-1.kubia.default.svc A 10.244.1.7"
        )
    };
    bed.check("kubia.default.svc.cluster.local.", SRV, &targets("kubia.default.svc"));
    bed.check("_http._tcp.kubia.default.svc.cluster.local.", SRV, &targets("_http._tcp.kubia.default.svc"));
    bed.check(
        "10-244-1-20.plain.default.svc.cluster.local.",
        A,
        "NoError/AA; 10-244-1-20.plain.default.svc A 10.244.1.20",
    );
    bed.check(
        "_metrics._tcp.plain.default.svc.cluster.local.",
        SRV,
        "NoError/AA; _metrics._tcp.plain.default.svc SRV 0 50 9090 10-244-1-20.plain.default.svc; \
         _metrics._tcp.plain.default.svc SRV 0 50 9090 10-244-2-20.plain.default.svc; \
         +10-244-1-20.plain.default.svc A 10.244.1.20; +10-244-2-20.plain.default.svc A 10.244.2.20",
    );
    let reply = bed.send(&query("plain.default.svc.cluster.local.", SRV), Tcp);
    assert_eq!((reply.answers.len(), reply.additionals.len()), (4, 2), "one for each endpoint and port");
    bed.check("idle.default.svc.cluster.local.", A, NO_DATA);
    bed.check("idle.default.svc.cluster.local.", SRV, NO_DATA);
}

#[test]
fn an_endpoint_in_several_slices_is_one() {
    let twice = |port| {
        slice(&[(if port == 1 { "a" } else { "b" }, port)], vec![endpoint("10.244.1.6", Some("x"), None)])
    };
    let bed = Bed::new(vec![(service("foo", "None", &[]), vec![twice(1), twice(2), twice(2)])]);
    bed.check("foo.default.svc.cluster.local.", A, "NoError/AA; foo.default.svc A 10.244.1.6");
    bed.check(
        "foo.default.svc.cluster.local.",
        SRV,
        "NoError/AA; foo.default.svc SRV 0 50 1 x.foo.default.svc; foo.default.svc SRV 0 50 2 x.foo.default.svc; \
         +x.foo.default.svc A 10.244.1.6",
    );
}

#[test]
fn names_that_hold_nothing_and_names_that_are_not() {
    let bed = Bed::usual();
    for name in ["svc", "pod", "default.svc", "default.pod", "empty.svc"] {
        bed.check(&format!("{name}.cluster.local."), A, NO_DATA);
    }
    for name in [
        "nothing",
        "nothing.svc",
        "nothing.pod",
        "nothing.default.svc",
        "web.empty.svc",
        "x.web.default.svc",
        "a.b.web.default.svc",
        "1-2-3-4.nothing.pod",
        "www.example.com.default.svc",
    ] {
        bed.check(&format!("{name}.cluster.local."), A, NX_DOMAIN);
    }
}

#[test]
fn the_apex_and_the_version() {
    let bed = Bed::usual();
    bed.check("cluster.local.", A, NO_DATA);
    bed.check("cluster.local.", SOA, "NoError/AA; cluster.local. SOA 5");
    let server =
        "NoError/AA; cluster.local. NS kube-dns.kube-system.svc; +kube-dns.kube-system.svc A 10.96.0.10";
    bed.check("cluster.local.", NS, server);
    bed.check("dns-version.cluster.local.", TXT, "NoError/AA; dns-version TXT 1.1.0");
    bed.check("dns-version.cluster.local.", A, NO_DATA);
}

#[test]
fn addresses_of_pods() {
    let bed = Bed::usual();
    bed.check("10-244-1-5.default.pod.cluster.local.", A, "NoError/AA; 10-244-1-5.default.pod A 10.244.1.5");
    bed.check("10-244-1-5.default.pod.cluster.local.", AAAA, NO_DATA);
    bed.check("fd00--1.default.pod.cluster.local.", AAAA, "NoError/AA; fd00--1.default.pod AAAA fd00::1");
}

#[test]
fn names_of_addresses() {
    let bed = Bed::usual();
    bed.check("5.0.96.10.in-addr.arpa.", PTR, "NoError/AA; 5.0.96.10.in-addr.arpa. PTR web.default.svc");
    bed.check(
        "6.1.244.10.in-addr.arpa.",
        PTR,
        "NoError/AA; 6.1.244.10.in-addr.arpa. PTR kubia-0.kubia.default.svc",
    );
    bed.check("6.1.244.10.in-addr.arpa.", A, "NoError/AA; @244.10.in-addr.arpa. SOA 5");
    bed.check("20.1.244.10.in-addr.arpa.", PTR, "NXDomain/AA; @244.10.in-addr.arpa. SOA 5");
    bed.check("8.1.244.10.in-addr.arpa.", PTR, "NXDomain/AA; @244.10.in-addr.arpa. SOA 5");
    bed.check("8.8.8.8.in-addr.arpa.", PTR, "ServFail");
}

#[test]
fn aliases() {
    let bed = Bed::usual();
    bed.check(
        "outside.default.svc.cluster.local.",
        CNAME,
        "NoError/AA; outside.default.svc CNAME example.com.",
    );
    bed.check(
        "inside.default.svc.cluster.local.",
        A,
        "NoError/AA; inside.default.svc CNAME web.default.svc; web.default.svc A 10.96.0.5",
    );
    bed.check(
        "inside.default.svc.cluster.local.",
        AAAA,
        "NoError/AA; inside.default.svc CNAME web.default.svc; @cluster.local. SOA 5",
    );
    bed.check("round.default.svc.cluster.local.", A, "ServFail/AA");
    // Nobody upstream: half a chain must not look like a whole one.
    bed.check("outside.default.svc.cluster.local.", A, "ServFail");
    bed.check("example.com.", A, "ServFail");
}

#[test]
fn changes_replace_what_was_known() {
    let mut index = Index::default();
    let one = slice(&[("http", 80)], vec![endpoint("10.244.1.6", Some("x"), None)]);
    set(&mut index, &service("foo", "None", &[]), &[one]);
    let before = index.clone();
    let ip = |text: &str| text.parse().unwrap();
    assert!(index.names_of(ip("10.244.1.6")).is_some());
    let two = slice(&[("http", 80)], vec![endpoint("10.244.1.7", Some("x"), None)]);
    set(&mut index, &service("foo", "None", &[]), &[two]);
    assert!(index.names_of(ip("10.244.1.6")).is_none() && index.names_of(ip("10.244.1.7")).is_some());
    set(&mut index, &service("foo", "10.96.0.9", &[]), &[]);
    assert!(index.names_of(ip("10.244.1.7")).is_none() && index.names_of(ip("10.96.0.9")).is_some());
    index.set_service(ServiceKey::new("default", "foo"), None);
    assert!(index.names_of(ip("10.96.0.9")).is_none());
    assert!(before.names_of(ip("10.244.1.6")).is_some(), "what readers hold does not change");
}

#[test]
fn before_the_first_sync_clients_are_asked_to_come_again() {
    let bed = Bed::usual();
    bed.handler.index.store(Arc::new(Index::default()));
    bed.check("web.default.svc.cluster.local.", A, "ServFail");
    bed.check("5.0.96.10.in-addr.arpa.", PTR, "ServFail");
}

#[test]
fn address_lists_rotate() {
    let bed = Bed::usual();
    let first = |_| bed.send(&query("kubia.default.svc.cluster.local.", A), Udp).answers[0].data.clone();
    assert_eq!((0..4).map(first).collect::<HashSet<_>>().len(), 2);
}

#[test]
fn what_is_not_a_plain_query_is_refused() {
    let bed = Bed::usual();
    let code = |change: fn(&mut Message)| {
        let mut message = query("web.default.svc.cluster.local.", A);
        change(&mut message);
        bed.send(&message, Udp).metadata.response_code
    };
    assert_eq!(code(|m| m.metadata.op_code = OpCode::Notify), ResponseCode::NotImp);
    assert_eq!(
        code(|m| {
            m.queries[0].set_query_class(DNSClass::CH);
        }),
        ResponseCode::Refused
    );
    assert_eq!(
        code(|m| {
            m.queries[0].set_query_type(RecordType::AXFR);
        }),
        ResponseCode::Refused
    );
    assert_eq!(
        code(|m| {
            m.queries.clear();
        }),
        ResponseCode::FormErr
    );
    assert_eq!(
        code(|m| {
            m.add_query(m.queries[0].clone());
        }),
        ResponseCode::FormErr
    );
    assert_eq!(
        code(|m| {
            m.edns.insert(Edns::new()).set_version(1);
        }),
        ResponseCode::BADSIG, // 16, as BADVERS; the decoder cannot know
    );
    let mut response = query("web.default.svc.cluster.local.", A).to_vec().unwrap();
    response[2] |= 0x80;
    assert!(bed.reply(&response, Udp).is_none(), "two servers would chat for ever");
    // The name is whatever stands in the header.
    let packet = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xc0, 4, 0, 1, 0, 1]].concat();
    let reply = Message::from_vec(&bed.reply(&packet, Udp).unwrap()).unwrap();
    assert_eq!((reply.metadata.response_code, reply.queries.len()), (ResponseCode::FormErr, 0));
}

/// A headless service with many endpoints.
fn crowd(endpoints: usize) -> Bed {
    let all = (0..endpoints).map(|i| {
        let address = format!("10.244.{}.{}", i / 250, i % 250 + 1);
        endpoint(&address, Some(&format!("a-rather-long-name-of-a-pod-{i}")), Some(true))
    });
    Bed::new(vec![(service("crowd", "None", &[]), vec![slice(&[("http", 80)], all.collect())])])
}

#[test]
fn answers_fit_or_say_that_they_do_not() {
    for (endpoints, edns, transport) in [
        (1, None, Udp),
        (5, None, Udp),
        (20, None, Udp),
        (20, Some(4096), Udp),
        (20, Some(100), Udp),
        (200, Some(1232), Udp),
        (200, None, Tcp),
        (500, Some(1232), Tcp),
        (3000, None, Tcp),
    ] {
        let bed = crowd(endpoints);
        for kind in [A, SRV, ANY] {
            let mut message = query("crowd.default.svc.cluster.local.", kind);
            if let Some(size) = edns {
                message.edns.insert(Edns::new()).set_max_payload(size);
            }
            let bytes = bed.reply(&message.to_vec().unwrap(), transport).unwrap();
            let limit = match (transport, edns) {
                (Tcp, _) => 65535,
                (_, None) => 512,
                (_, Some(size)) => usize::from(size.clamp(512, 1232)),
            };
            let what =
                format!("{endpoints} endpoints, {edns:?}, {transport:?}, {kind}: {} bytes", bytes.len());
            assert!(bytes.len() <= limit, "{what}");
            let mut decoder = BinDecoder::new(&bytes);
            let reply = Message::read(&mut decoder).unwrap();
            assert!(decoder.is_empty(), "nothing trails: {what}");
            assert_eq!(reply.edns.is_some(), edns.is_some(), "{what}");
            let whole = reply.answers.len() == endpoints;
            assert!(whole != reply.metadata.truncation && (whole || reply.answers.is_empty()), "{what}");
            if transport == Tcp && endpoints <= 500 {
                assert!(whole, "{what}");
            }
        }
    }
    // Five SRV records fit, their five addresses do not all: that is no truncation.
    let reply = crowd(5).send(&query("crowd.default.svc.cluster.local.", SRV), Udp);
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (5, false));
    assert!(reply.additionals.len() < 5);
}

proptest! {
    /// Whatever comes in, what goes out is nothing or a well-formed response to it.
    #[test]
    fn any_packet_gets_silence_or_a_sound_reply(
        random in prop::collection::vec(any::<u8>(), 0..600),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        name in prop::sample::select(vec!["web.default.svc", "kubia.default.svc", "10-1-2-3.default.pod", "x.y"]),
        mutate in any::<bool>(),
        tcp in any::<bool>(),
    ) {
        let bed = Bed::usual();
        let packet = if mutate {
            let mut message = query(&format!("{name}.cluster.local."), SRV);
            message.edns = Some(Edns::new());
            let mut packet = message.to_vec().unwrap();
            for (index, byte) in flips {
                let at = index.index(packet.len());
                packet[at] = byte;
            }
            packet
        } else {
            random
        };
        let transport = if tcp { Tcp } else { Udp };
        let client = "127.0.0.1:53".parse().unwrap();
        if let Ok(request) = Request::from_bytes(packet.clone(), client, transport)
            && let Reply::Now(response) = bed.handler.reply(&request)
        {
            let bytes = response.encode(&request.queries).unwrap();
            let reply = Message::from_vec(&bytes);
            prop_assert!(reply.is_ok(), "{packet:?} -> {bytes:?}");
            prop_assert_eq!(&bytes[..2], &packet[..2]);
            prop_assert!(bytes[2] & 0x80 != 0);
            prop_assert!(tcp || bytes.len() <= 1232);
        }
    }
}
