//! What services want, by table; the account of it against a model; and the kernel's view, in a network
//! namespace of its own (skipped without root).

mod dataplane;

use super::{
    Config, LocalNode,
    elements::{Chain, Element, Key, Protocol, Set, Value},
    kernel::Kernel,
    ruleset, services,
    state::{Changes, State, UdpService},
};
use crate::{netlink::batch::Batch, testing::namespace};
use k8s_openapi::api::{
    core::v1::{Container, ContainerPort, Pod, PodSpec, PodStatus, Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

fn config() -> Config {
    Config {
        cluster_id: "test".into(),
        nodes: vec![LocalNode {
            name: "here".into(),
            bridge: "mk-test0".into(),
            pod_cidr: "10.244.1.0/24".parse().unwrap(),
            gateway: [10, 244, 1, 1].into(),
        }],
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
    }
}

/// As [`config`], with a virtual node beside the machine.
fn two_nodes() -> Config {
    let mut config = config();
    config.nodes.push(LocalNode {
        name: "second".into(),
        bridge: "mk-test1".into(),
        pod_cidr: "10.244.2.0/24".parse().unwrap(),
        gateway: [10, 244, 2, 1].into(),
    });
    config
}

fn here() -> services::LocalNodes {
    config().local_nodes()
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.into()), name: Some(name.into()), ..Default::default() }
}

/// Port 80 to whatever the slices say, with a node port.
fn service(name: &str, ip: &str, change: impl FnOnce(&mut ServiceSpec)) -> Service {
    let port = ServicePort { port: 80, protocol: Some("TCP".into()), ..Default::default() };
    let mut spec = ServiceSpec { cluster_ip: Some(ip.into()), ports: Some(vec![port]), ..Default::default() };
    change(&mut spec);
    Service { metadata: meta("default", name), spec: Some(spec), ..Default::default() }
}

fn node_port(spec: &mut ServiceSpec, port: i32) {
    spec.type_ = Some("NodePort".into());
    spec.ports.as_mut().unwrap()[0].node_port = Some(port);
}

/// `*` after an address: on another machine; `@`: on the second node of this one; `!`: not ready; `~`: terminating but
/// serving.
fn slice(service: &str, name: &str, protocol: &str, port: i32, endpoints: &[&str]) -> EndpointSlice {
    let endpoint = |text: &&str| Endpoint {
        addresses: vec![text.trim_end_matches(['*', '@', '!', '~']).to_owned()],
        node_name: Some(
            if text.contains('*') {
                "there"
            } else if text.contains('@') {
                "second"
            } else {
                "here"
            }
            .to_owned(),
        ),
        conditions: Some(EndpointConditions {
            ready: Some(!text.contains(['!', '~'])),
            serving: Some(!text.contains('!')),
            terminating: Some(text.contains('~')),
        }),
        ..Default::default()
    };
    let mut metadata = meta("default", name);
    metadata.labels = Some([("kubernetes.io/service-name".to_owned(), service.to_owned())].into());
    EndpointSlice {
        metadata,
        address_type: "IPv4".into(),
        endpoints: Some(endpoints.iter().map(endpoint).collect()),
        ports: Some(vec![EndpointPort {
            port: Some(port),
            protocol: Some(protocol.into()),
            ..Default::default()
        }]),
    }
}

/// One line for each element; affinity slots and hairpins are counted.
fn describe(elements: &[Element]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for Element { set, key, value } in elements {
        let (address, port, index) = (key.address, key.port, key.index);
        // The third byte tells the nodes apart.
        let node = format!("node {}", key.node.octets()[2]);
        let place = match set {
            Set::Services | Set::NoEndpoints => format!("{address}:{port}"),
            Set::Endpoints => format!("{address}:{port} {index}"),
            Set::LocalServices | Set::NoLocalEndpoints => format!("{node} {address}:{port}"),
            Set::LocalEndpoints => format!("{node} {address}:{port} {index}"),
            Set::NodePorts | Set::NoNodePortEndpoints => format!(":{port}"),
            Set::NodePortEndpoints => format!(":{port} {index}"),
            Set::InnerNodePorts | Set::LocalNodePorts | Set::HostPorts | Set::NoLocalNodePortEndpoints => {
                format!("{node} :{port}")
            }
            Set::LocalNodePortEndpoints => format!("{node} :{port} {index}"),
            Set::Hairpin => address.to_string(),
        };
        let value = match value {
            Value::Goto(chain) => chain.to_string(),
            Value::Endpoint(address, port) => format!("{address}:{port}"),
            other => format!("{other:?}").to_lowercase(),
        };
        lines.push(format!("{} {place} {value}", set.name()));
        *counted.entry(set.name().to_owned()).or_default() += 1;
    }
    lines
}

#[track_caller]
fn check(service: &Service, slices: &[EndpointSlice], expected: &[&str]) {
    check_on(&here(), service, slices, expected);
}

#[track_caller]
fn check_on(
    local_nodes: &services::LocalNodes,
    service: &Service,
    slices: &[EndpointSlice],
    expected: &[&str],
) {
    let slices: Vec<_> = slices.iter().cloned().map(Arc::new).collect();
    let mut got = describe(&services::of_service(service, &slices, local_nodes));
    let mut expected: Vec<_> = expected.iter().map(|s| (*s).to_owned()).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
}

fn one(endpoints: &[&str]) -> Vec<EndpointSlice> {
    vec![slice("web", "web-1", "TCP", 8080, endpoints)]
}

#[test]
fn a_service_leads_to_its_ready_endpoints() {
    let web = service("web", "10.96.0.5", |_| {});
    check(
        &web,
        &one(&["10.244.2.7*", "10.244.1.6", "10.244.1.9!"]),
        &[
            "services 10.96.0.5:80 balance-2",
            "endpoints 10.96.0.5:80 0 10.244.1.6:8080",
            "endpoints 10.96.0.5:80 1 10.244.2.7:8080",
            "hairpin 10.244.1.6 member",
        ],
    );
    check(&web, &one(&["10.244.1.9!"]), &["no-endpoints 10.96.0.5:80 reject"]);
    check(&web, &[], &["no-endpoints 10.96.0.5:80 reject"]);
    check(
        &web,
        &one(&["10.244.1.6~", "10.244.1.9!"]),
        &[
            "services 10.96.0.5:80 balance-1",
            "endpoints 10.96.0.5:80 0 10.244.1.6:8080",
            "hairpin 10.244.1.6 member",
        ],
    );
    check(&service("web", "None", |_| {}), &one(&["10.244.1.6"]), &[]);
    check(
        &service("web", "10.96.0.5", |s| s.type_ = Some("ExternalName".into())),
        &one(&["10.244.1.6"]),
        &[],
    );
    // Another port's or protocol's slices, and IPv6 addresses, are not its.
    let udp = slice("web", "web-2", "UDP", 8080, &["10.244.1.6"]);
    check(&web, &[udp], &["no-endpoints 10.96.0.5:80 reject"]);
    check(&web, &one(&["fd00::1"]), &["no-endpoints 10.96.0.5:80 reject"]);
}

#[test]
fn node_ports() {
    let web = service("web", "10.96.0.5", |s| node_port(s, 30080));
    check(
        &web,
        &one(&["10.244.2.7*"]),
        &[
            "services 10.96.0.5:80 balance-1",
            "endpoints 10.96.0.5:80 0 10.244.2.7:8080",
            "node-ports :30080 node-port-1",
            "node-port-endpoints :30080 0 10.244.2.7:8080",
        ],
    );
    check(&web, &[], &["no-endpoints 10.96.0.5:80 reject", "no-node-port-endpoints :30080 reject"]);
}

#[test]
fn external_traffic_policy_local() {
    let web = service("web", "10.96.0.5", |s| {
        node_port(s, 30080);
        s.external_traffic_policy = Some("Local".into());
    });
    let cluster = ["services 10.96.0.5:80 balance-1", "endpoints 10.96.0.5:80 0 10.244.2.7:8080"];
    check(
        &web,
        &one(&["10.244.2.7*"]),
        &[
            cluster[0],
            cluster[1],
            "inner-node-ports node 1 :30080 node-port-1",
            "node-port-endpoints :30080 0 10.244.2.7:8080",
            "no-local-node-port-endpoints node 1 :30080 drop",
        ],
    );
    check(
        &web,
        &one(&["10.244.1.6", "10.244.2.7*"]),
        &[
            "services 10.96.0.5:80 balance-2",
            "endpoints 10.96.0.5:80 0 10.244.1.6:8080",
            "endpoints 10.96.0.5:80 1 10.244.2.7:8080",
            "hairpin 10.244.1.6 member",
            "inner-node-ports node 1 :30080 node-port-2",
            "node-port-endpoints :30080 0 10.244.1.6:8080",
            "node-port-endpoints :30080 1 10.244.2.7:8080",
            "local-node-ports node 1 :30080 local-node-port-1",
            "local-node-port-endpoints node 1 :30080 0 10.244.1.6:8080",
        ],
    );
    check(&web, &[], &["no-endpoints 10.96.0.5:80 reject", "no-node-port-endpoints :30080 reject"]);
}

/// Two nodes of one machine are two nodes.
#[test]
fn external_traffic_policy_local_on_each_virtual_node() {
    let web = service("web", "None", |s| {
        node_port(s, 30080);
        s.external_traffic_policy = Some("Local".into());
    });
    let nodes = two_nodes().local_nodes();
    check_on(
        &nodes,
        &web,
        &one(&["10.244.2.7@"]),
        &[
            "hairpin 10.244.2.7 member",
            "inner-node-ports node 1 :30080 node-port-1",
            "inner-node-ports node 2 :30080 node-port-1",
            "node-port-endpoints :30080 0 10.244.2.7:8080",
            "no-local-node-port-endpoints node 1 :30080 drop",
            "local-node-ports node 2 :30080 local-node-port-1",
            "local-node-port-endpoints node 2 :30080 0 10.244.2.7:8080",
        ],
    );
    check_on(&nodes, &web, &[], &["no-node-port-endpoints :30080 reject"]);
    // A balancer's address is the machine's, before all of its nodes.
    let balanced = Service {
        status: serde_json::from_value(
            serde_json::json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
        )
        .ok(),
        ..service("web", "None", |s| s.external_traffic_policy = Some("Local".into()))
    };
    check_on(
        &nodes,
        &balanced,
        &one(&["10.244.2.7@", "10.244.9.9*"]),
        &[
            "services 192.0.2.1:80 balance-1",
            "endpoints 192.0.2.1:80 0 10.244.2.7:8080",
            "hairpin 10.244.2.7 member",
        ],
    );
    check_on(&nodes, &balanced, &one(&["10.244.9.9*"]), &["no-endpoints 192.0.2.1:80 drop"]);
}

#[test]
fn internal_traffic_policy_local_and_external_addresses() {
    let local = service("web", "10.96.0.5", |s| s.internal_traffic_policy = Some("Local".into()));
    check(&local, &one(&["10.244.2.7*"]), &["no-local-endpoints node 1 10.96.0.5:80 drop"]);
    check(&local, &[], &["no-endpoints 10.96.0.5:80 reject"]);
    check(
        &local,
        &one(&["10.244.2.7*", "10.244.1.1"]),
        &[
            "local-services node 1 10.96.0.5:80 local-1",
            "local-endpoints node 1 10.96.0.5:80 0 10.244.1.1:8080",
            "hairpin 10.244.1.1 member",
        ],
    );
    let nodes = two_nodes().local_nodes();
    check_on(
        &nodes,
        &local,
        &one(&["10.244.1.6", "10.244.1.7", "10.244.2.7@", "10.244.2.8@!"]),
        &[
            "local-services node 1 10.96.0.5:80 local-2",
            "local-endpoints node 1 10.96.0.5:80 0 10.244.1.6:8080",
            "local-endpoints node 1 10.96.0.5:80 1 10.244.1.7:8080",
            "local-services node 2 10.96.0.5:80 local-1",
            "local-endpoints node 2 10.96.0.5:80 0 10.244.2.7:8080",
            "hairpin 10.244.1.6 member",
            "hairpin 10.244.1.7 member",
            "hairpin 10.244.2.7 member",
        ],
    );
    // Of those that terminate each node uses its own, while it has no other.
    check_on(
        &nodes,
        &local,
        &one(&["10.244.1.6", "10.244.2.7@~"]),
        &[
            "local-services node 1 10.96.0.5:80 local-1",
            "local-endpoints node 1 10.96.0.5:80 0 10.244.1.6:8080",
            "local-services node 2 10.96.0.5:80 local-1",
            "local-endpoints node 2 10.96.0.5:80 0 10.244.2.7:8080",
            "hairpin 10.244.1.6 member",
            "hairpin 10.244.2.7 member",
        ],
    );
    let sticky = service("web", "10.96.0.5", |s| {
        s.internal_traffic_policy = Some("Local".into());
        s.session_affinity = Some("ClientIP".into());
    });
    let slices: Vec<_> =
        one(&["10.244.2.6@", "10.244.2.7@", "10.244.1.6"]).into_iter().map(Arc::new).collect();
    let elements = services::of_service(&sticky, &slices, &nodes);
    let slots = elements.iter().filter(|e| e.set == Set::LocalEndpoints && e.key.node.octets()[2] == 2);
    assert_eq!(slots.count(), services::AFFINITY_SLOTS as usize);
    assert!(elements.iter().any(|e| e.value == Value::Goto(Chain::LocalAffinity)));
    assert!(elements.iter().any(|e| e.value == Value::Goto(Chain::Local(1))), "one needs no slots");
    let external = service("web", "10.96.0.5", |s| s.external_ips = Some(vec!["192.0.2.9".into()]));
    check(
        &external,
        &one(&["10.244.2.7*"]),
        &[
            "services 10.96.0.5:80 balance-1",
            "endpoints 10.96.0.5:80 0 10.244.2.7:8080",
            "services 192.0.2.9:80 outside-1",
            "endpoints 192.0.2.9:80 0 10.244.2.7:8080",
        ],
    );
}

#[test]
fn affinity_slots_are_shared_evenly_and_stay_where_they_are() {
    let sticky = service("web", "10.96.0.5", |s| s.session_affinity = Some("ClientIP".into()));
    let slots = |endpoints: &[&str]| -> BTreeMap<u32, Value> {
        let slices = one(endpoints).into_iter().map(Arc::new).collect::<Vec<_>>();
        let elements = services::of_service(&sticky, &slices, &here());
        assert!(elements.iter().any(|e| e.set == Set::Services && e.value == Value::Goto(Chain::Affinity)));
        elements.iter().filter(|e| e.set == Set::Endpoints).map(|e| (e.key.index, e.value)).collect()
    };
    let four = slots(&["10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.4"]);
    assert_eq!(four.len(), services::AFFINITY_SLOTS as usize);
    let gone = Value::Endpoint([10, 244, 1, 3].into(), 8080);
    for endpoint in four.values().collect::<BTreeSet<_>>() {
        let share = four.values().filter(|v| *v == endpoint).count();
        assert!((16..=52).contains(&share), "{endpoint:?} has {share} of 128 slots");
    }
    let three = slots(&["10.244.1.1", "10.244.1.2", "10.244.1.4"]);
    for (slot, endpoint) in &four {
        assert!(*endpoint == gone || three[slot] == *endpoint, "slot {slot} moved without need");
    }
}

fn pod(name: &str, ip: &str, ports: Vec<ContainerPort>) -> Pod {
    Pod {
        metadata: meta("default", name),
        spec: Some(PodSpec {
            node_name: Some("here".into()),
            containers: vec![Container { name: "c".into(), ports: Some(ports), ..Default::default() }],
            ..Default::default()
        }),
        status: Some(PodStatus {
            pod_ip: Some(ip.into()),
            phase: Some("Running".into()),
            ..Default::default()
        }),
    }
}

fn host_port(host: i32, container: i32, ip: Option<&str>) -> ContainerPort {
    ContainerPort {
        host_port: Some(host),
        container_port: container,
        host_ip: ip.map(Into::into),
        ..Default::default()
    }
}

#[test]
fn host_ports() {
    let ports = vec![host_port(8000, 80, None), host_port(9000, 90, Some("192.0.2.1"))];
    let web = pod("web", "10.244.1.6", ports);
    let mut got = describe(&services::of_pod(&web, &here()));
    got.sort();
    assert_eq!(
        got,
        [
            "endpoints 192.0.2.1:9000 0 10.244.1.6:90",
            "hairpin 10.244.1.6 member",
            "host-ports node 1 :8000 10.244.1.6:80",
            "services 192.0.2.1:9000 balance-1",
        ]
    );
    // A second node of this machine has ports of its own.
    let mut other = pod("web", "10.244.2.6", vec![host_port(8000, 80, None)]);
    other.spec.as_mut().unwrap().node_name = Some("second".into());
    let mut got = describe(&services::of_pod(&other, &two_nodes().local_nodes()));
    got.sort();
    assert_eq!(got, ["hairpin 10.244.2.6 member", "host-ports node 2 :8000 10.244.2.6:80",]);
    for change in [
        (|p| p.spec.as_mut().unwrap().node_name = Some("there".into())) as fn(&mut Pod),
        |p| p.spec.as_mut().unwrap().host_network = Some(true),
        |p| p.status.as_mut().unwrap().phase = Some("Succeeded".into()),
        |p| p.status.as_mut().unwrap().pod_ip = None,
    ] {
        let mut pod = web.clone();
        change(&mut pod);
        assert_eq!(services::of_pod(&pod, &here()), []);
    }
}

fn element(port: u16, value: u16) -> Element {
    let key = Key::service([10, 96, 0, 1].into(), Protocol::Udp, port);
    Element { set: Set::Endpoints, key, value: Value::Endpoint([10, 244, 1, 1].into(), value) }
}

#[test]
fn changes_are_what_the_kernel_needs_and_no_more() {
    let mut state = State::default();
    state.set("service:a".into(), vec![element(1, 1), element(2, 2)]);
    let changes = state.take_changes();
    assert_eq!((changes.remove.len(), changes.add[&Set::Endpoints].len()), (0, 2));
    assert_eq!(changes.udp.len(), 2);
    state.set("service:a".into(), vec![element(1, 9), element(2, 2)]);
    let changes = state.take_changes();
    assert_eq!(changes.remove[&Set::Endpoints], [element(1, 9).key]);
    assert_eq!(changes.add[&Set::Endpoints], [(element(1, 9).key, element(1, 9).value)]);
    let endpoints = HashSet::from([(Ipv4Addr::new(10, 244, 1, 1), 9)]);
    let address = Some(Ipv4Addr::new(10, 96, 0, 1));
    assert_eq!(changes.udp, [UdpService { address, port: 1, endpoints }]);
    // There and back between two looks is nothing.
    state.set("service:a".into(), vec![]);
    state.set("service:a".into(), vec![element(1, 9), element(2, 2)]);
    assert_eq!(state.take_changes(), Changes::default());
}

#[test]
fn the_first_by_name_has_a_contested_place_until_it_goes() {
    let mut state = State::default();
    let placed = |state: &mut State| state.everything().add.remove(&Set::Endpoints).unwrap_or_default();
    state.set("service:b".into(), vec![element(1, 2)]);
    state.set("service:a".into(), vec![element(1, 1)]);
    assert_eq!(placed(&mut state), [(element(1, 1).key, element(1, 1).value)]);
    state.set("service:a".into(), vec![]);
    assert_eq!(placed(&mut state), [(element(1, 2).key, element(1, 2).value)]);
}

proptest! {
    /// Whatever the services do, applying the changes to what was there gives what is wanted: by the first owner
    /// for each place.
    #[test]
    fn the_account_is_exact(
        rounds in prop::collection::vec(prop::collection::vec((0..4u8, prop::collection::vec((0..5u16, 0..3u16), 0..5)), 1..4), 1..8)
    ) {
        let mut state = State::default();
        let mut wanted: BTreeMap<String, Vec<Element>> = BTreeMap::new();
        let mut kernel: BTreeMap<Key, Value> = BTreeMap::new();
        for round in rounds {
            for (owner, ports) in round {
                let ports: BTreeMap<u16, u16> = ports.into_iter().collect();
                let elements: Vec<_> = ports.into_iter().map(|(port, value)| element(port, value)).collect();
                wanted.insert(owner.to_string(), elements.clone());
                state.set(owner.to_string(), elements);
            }
            let changes = state.take_changes();
            for key in changes.remove.values().flatten() {
                prop_assert!(kernel.remove(key).is_some(), "removes what is not there");
            }
            for (key, value) in changes.add.values().flatten() {
                prop_assert!(kernel.insert(*key, *value).is_none(), "adds what is there");
            }
            let mut expected = BTreeMap::new();
            for element in wanted.values().flatten() {
                expected.entry(element.key).or_insert(element.value);
            }
            prop_assert_eq!(&kernel, &expected);
        }
    }
}

/// Node-keyed elements lead as well where a service leads.
#[test]
fn udp_services_tell_all_their_endpoints() {
    let dns = service("dns", "10.96.0.10", |s| {
        s.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
        s.internal_traffic_policy = Some("Local".into());
        node_port(s, 30053);
        s.external_traffic_policy = Some("Local".into());
    });
    let slices = |endpoints: &[&str]| vec![Arc::new(slice("dns", "dns-1", "UDP", 1053, endpoints))];
    let nodes = two_nodes().local_nodes();
    let mut state = State::default();
    state.set(
        "service:dns".into(),
        services::of_service(&dns, &slices(&["10.244.1.1", "10.244.2.1@"]), &nodes),
    );
    let endpoints = |last: &[u8]| last.iter().map(|n| (Ipv4Addr::new(10, 244, *n, 1), 1053)).collect();
    let expected = |last: &[u8]| {
        vec![
            UdpService { address: None, port: 30053, endpoints: endpoints(last) },
            UdpService { address: Some([10, 96, 0, 10].into()), port: 80, endpoints: endpoints(last) },
        ]
    };
    assert_eq!(state.take_changes().udp, expected(&[1, 2]));
    state.set("service:dns".into(), services::of_service(&dns, &slices(&["10.244.1.1"]), &nodes));
    assert_eq!(state.take_changes().udp, expected(&[1]));
}

/// The bytes of one change, so that the encoding does not move unnoticed.
#[test]
fn a_change_on_the_wire() {
    let mut changes = Changes::default();
    changes.add.insert(Set::Endpoints, vec![(element(80, 8080).key, element(80, 8080).value)]);
    let mut batch = Batch::default();
    ruleset::write_changes(&mut batch, &config(), &changes, &BTreeSet::new());
    let bytes = batch.finish(0).unwrap();
    let hex: Vec<String> = bytes.chunks(4).map(|c| c.iter().map(|b| format!("{b:02x}")).collect()).collect();
    if cfg!(target_endian = "little") {
        assert_eq!(
            hex.join(" "),
            "68000000 0c0a0104 01000000 00000000 02000000 \
             11000100 6d696e69 6b38732d 74657374 00000000 \
             0e000200 656e6470 6f696e74 73000000 \
             30000380 2c000180 \
             18000180 14000100 0a600001 11000000 00500000 00000000 \
             10000280 0c000100 0af40101 1f900000"
        );
    }
}

#[test]
fn the_kernel_takes_the_table_and_its_changes() {
    if !namespace::inside("proxy::tests::the_kernel_takes_the_table_and_its_changes") {
        return;
    }
    let config = Arc::new(config());
    let mut state = State::default();
    let slices = |endpoints: &[&str]| one(endpoints).into_iter().map(Arc::new).collect::<Vec<_>>();
    let mut web = service("web", "10.96.0.5", |s| node_port(s, 30080));
    let endpoints = ["10.244.2.7*", "10.244.1.6"];
    state.set("service:web".into(), services::of_service(&web, &slices(&endpoints), &here()));
    let mut sticky = service("sticky", "10.96.0.6", |s| {
        s.session_affinity = Some("ClientIP".into());
        node_port(s, 30081);
        s.external_traffic_policy = Some("Local".into());
        s.external_ips = Some(vec!["192.0.2.9".into()]);
    });
    state.set("service:sticky".into(), services::of_service(&sticky, &slices(&endpoints), &here()));
    state.set(
        "service:none".into(),
        services::of_service(&service("none", "10.96.0.7", |_| {}), &[], &here()),
    );
    let mut kernel = Kernel::open(config.clone()).unwrap();
    let everything = state.everything();
    kernel.replace(&everything).unwrap();
    kernel.replace(&everything).unwrap();
    assert!(kernel.is_untouched().unwrap());
    let count = |set: &str| namespace::set_size("minik8s-test", set);
    let expect = |state: &mut State| {
        for (set, elements) in state.everything().add {
            assert_eq!(count(set.name()), elements.len(), "{set:?}");
        }
    };
    expect(&mut state);

    let listing = namespace::output("nft", &["-n", "list", "table", "ip", "minik8s-test"]);
    for line in [
        "ip saddr . ip daddr @hairpin ct status 0x20 masquerade fully-random",
        "ip saddr 10.244.1.0/24 ip daddr != 10.244.0.0/16 oifname != \"mk-test0\" masquerade fully-random",
        "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints",
        "10.96.0.5 . 6 . 80 : goto balance-2",
        "10.96.0.7 . 6 . 80 : goto do-reject",
        "ip daddr 10.96.0.0/16 reject",
        "ip saddr & 255.255.255.0 . ip daddr . meta l4proto . th dport vmap @local-services",
        "dnat ip to ip daddr & 255.255.255.0 . meta l4proto . th dport map @host-ports",
        "10.244.1.0 . 6 . 30081 : goto local-node-port-1",
    ] {
        assert!(listing.contains(line), "no {line:?} in\n{listing}");
    }

    // One endpoint less, another port, one service less, a first of its number of endpoints.
    state.set("service:web".into(), services::of_service(&web, &slices(&endpoints[..1]), &here()));
    kernel.change(&state.take_changes()).unwrap();
    expect(&mut state);
    let three = ["10.244.1.6", "10.244.1.7", "10.244.1.8"];
    node_port(web.spec.as_mut().unwrap(), 30099);
    state.set("service:web".into(), services::of_service(&web, &slices(&three), &here()));
    sticky.spec.as_mut().unwrap().session_affinity = None;
    state.set("service:sticky".into(), services::of_service(&sticky, &slices(&endpoints), &here()));
    state.set("service:none".into(), vec![]);
    kernel.change(&state.take_changes()).unwrap();
    expect(&mut state);
    assert!(kernel.is_untouched().unwrap(), "our own changes are no touch");

    // A change that does not fit changes nothing.
    let mut wrong = Changes::default();
    wrong.remove.insert(Set::Services, vec![Key::service([1, 2, 3, 4].into(), Protocol::Tcp, 1)]);
    wrong.add.insert(Set::Hairpin, vec![(Key::hairpin([1, 2, 3, 4].into()), Value::Member)]);
    assert!(kernel.change(&wrong).unwrap_err().is_missing());
    expect(&mut state);

    namespace::output("nft", &["flush", "ruleset"]);
    assert!(!kernel.is_untouched().unwrap());
    kernel.replace(&state.everything()).unwrap();
    expect(&mut state);

    // Docker's chain: there or not, once, gone with the rest.
    assert!(!kernel.allow_in_docker().unwrap());
    namespace::output("nft", &["add", "table", "ip", "filter"]);
    namespace::output("nft", &["add", "chain", "ip", "filter", "DOCKER-USER"]);
    for _ in 0..2 {
        assert!(kernel.allow_in_docker().unwrap());
        let rules = namespace::output("nft", &["list", "chain", "ip", "filter", "DOCKER-USER"]);
        assert_eq!(rules.matches("accept comment \"minik8s test\"").count(), 2, "{rules}");
        assert_eq!(rules.matches("10.244.0.0/16").count(), 2, "{rules}");
    }
    for _ in 0..2 {
        super::kernel::cleanup("test").unwrap();
        let left = namespace::output("nft", &["list", "ruleset"]);
        assert!(!left.contains("minik8s"), "{left}");
        assert!(left.contains("DOCKER-USER"));
    }
}

/// Figures, not a test: `cargo nextest run --run-ignored only -E 'test(figures)' --no-capture` (release for real ones).
#[test]
#[ignore = "prints figures"]
fn figures() {
    if !namespace::inside_ignored("proxy::tests::figures") {
        return;
    }
    let mut state = State::default();
    let slices =
        one(&["10.244.1.6", "10.244.1.7", "10.244.2.8*"]).into_iter().map(Arc::new).collect::<Vec<_>>();
    let time = |what: &str, work: &mut dyn FnMut()| {
        let times: Vec<_> = (0..5)
            .map(|_| {
                let start = std::time::Instant::now();
                work();
                start.elapsed()
            })
            .collect();
        println!("{what}: {times:?}");
    };
    let build = |i: u16, slices: &[Arc<EndpointSlice>]| {
        let [a, b] = i.to_be_bytes();
        services::of_service(&service("x", &format!("10.96.{a}.{b}"), |_| {}), slices, &here())
    };
    for i in 0..1000 {
        state.set(format!("service:{i}"), build(i, &slices));
    }
    let mut kernel = Kernel::open(Arc::new(config())).unwrap();
    let everything = state.everything();
    time("replace 1,000 services of 3 endpoints", &mut || kernel.replace(&everything).unwrap());
    let other = one(&["10.244.1.9"]).into_iter().map(Arc::new).collect::<Vec<_>>();
    let mut turn = 0;
    time("change the endpoints of one", &mut || {
        turn += 1;
        state.set("service:7".into(), build(7, if turn % 2 == 0 { &slices } else { &other }));
        kernel.change(&state.take_changes()).unwrap();
    });
    time("look whether somebody else changed anything", &mut || assert!(kernel.is_untouched().unwrap()));
}
