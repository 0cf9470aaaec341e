use super::*;
use serde_json::{Value, json};

fn allocator() -> Allocator {
    Allocator::new("10.96.0.0/16", (30000, 32767)).unwrap()
}

fn named(name: &str, spec: Value) -> Service {
    let spec = spec.as_object().unwrap().clone();
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).unwrap()
}

fn service(spec: Value) -> Service {
    named("web", spec)
}

fn port(number: i32) -> Value {
    json!([{"port": number, "protocol": "TCP"}])
}

fn ip(service: &Service) -> &str {
    service.spec.as_ref().unwrap().cluster_ip.as_deref().unwrap_or_default()
}

fn node_ports(service: &Service) -> Vec<i32> {
    service.spec.as_ref().unwrap().ports.iter().flatten().map(|p| p.node_port.unwrap_or(0)).collect()
}

/// Creates as the registry does when the store accepts.
fn create(allocator: &Allocator, spec: Value) -> Service {
    let mut new = service(spec);
    allocator.prepare(&mut new, None).unwrap().commit(false);
    new
}

fn update(allocator: &Allocator, old: &Service, spec: Value) -> Service {
    let mut new = service(spec);
    allocator.prepare(&mut new, Some(old)).unwrap().commit(false);
    new
}

fn refusal(allocator: &Allocator, mut new: Service, old: Option<&Service>) -> String {
    match allocator.prepare(&mut new, old) {
        Ok(_) => panic!("granted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_service_gets_an_address_from_the_upper_band() {
    let web = create(&allocator(), json!({"ports": port(80)}));
    let spec = web.spec.as_ref().unwrap();
    let address: Ipv4Addr = ip(&web).parse().unwrap();
    assert!(address >= "10.96.1.0".parse::<Ipv4Addr>().unwrap(), "{address}");
    assert_eq!(spec.cluster_ips.as_deref(), Some(&[address.to_string()][..]));
    assert_eq!(spec.ip_families.as_deref(), Some(&["IPv4".to_owned()][..]));
    assert_eq!(spec.ip_family_policy.as_deref(), Some("SingleStack"));
    assert_eq!(node_ports(&web), [0]);
}

#[test]
fn headless_and_external_services_hold_nothing() {
    let all = allocator();
    let headless = create(&all, json!({"clusterIP": "None", "ports": port(80)}));
    assert_eq!(headless.spec.as_ref().unwrap().cluster_ips.as_deref(), Some(&["None".to_owned()][..]));
    let external = create(&all, json!({"type": "ExternalName", "externalName": "example.com"}));
    assert_eq!(ip(&external), "");
    assert!(all.items(&headless).is_empty() && all.items(&external).is_empty());
}

#[test]
fn what_is_asked_for_is_granted_once() {
    let all = allocator();
    let spec =
        json!({"clusterIP": "10.96.0.77", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let first = create(&all, spec.clone());
    assert_eq!((ip(&first), node_ports(&first)), ("10.96.0.77", vec![30080]));
    let error = refusal(&all, named("other", spec.clone()), None);
    assert_eq!(
        error,
        "Service \"other\" is invalid: [spec.clusterIPs: Invalid value: [\"10.96.0.77\"]: failed to allocate IP \
         10.96.0.77: provided IP is already allocated, spec.ports[0].nodePort: Invalid value: 30080: provided port is \
         already allocated]"
    );
    all.release(&first, false);
    create(&all, spec);
}

#[test]
fn wishes_outside_the_ranges_are_refused() {
    let all = allocator();
    let outside = refusal(&all, service(json!({"clusterIP": "10.97.0.1"})), None);
    assert!(outside.contains("The range of valid IPs is 10.96.0.0/16"), "{outside}");
    let ports = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 29999}]});
    let outside = refusal(&all, service(ports), None);
    assert!(outside.contains("The range of valid ports is 30000-32767"), "{outside}");
    assert!(
        refusal(&all, service(json!({"clusterIP": "fd00::1"})), None).contains("not a valid IPv4 address")
    );
    let six = refusal(&all, service(json!({"ipFamilies": ["IPv6"]})), None);
    assert!(
        six.contains("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
        "{six}"
    );
    let dual = refusal(&all, service(json!({"ipFamilyPolicy": "RequireDualStack"})), None);
    assert!(dual.contains("not configured for dual-stack"), "{dual}");
}

#[test]
fn promised_addresses_are_kept_for_their_services() {
    let all = allocator();
    assert_eq!(
        (all.api_address().to_string(), all.dns_address().to_string()),
        ("10.96.0.1".into(), "10.96.0.10".into())
    );
    for address in ["10.96.0.1", "10.96.0.10"] {
        let error = refusal(&all, service(json!({"clusterIP": address})), None);
        assert!(error.contains("provided IP is already allocated"), "{error}");
    }
    let mut api = named("kubernetes", json!({"clusterIP": "10.96.0.1"}));
    all.prepare(&mut api, None).unwrap().commit(false);
}

#[test]
fn a_dropped_reservation_gives_everything_back() {
    let all = allocator();
    let spec =
        json!({"clusterIP": "10.96.0.77", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    drop(all.prepare(&mut service(spec.clone()), None).unwrap());
    create(&all, spec);
    // A refusal gives back what was granted before it.
    let half =
        json!({"clusterIP": "10.96.0.78", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    refusal(&all, service(half), None);
    create(&all, json!({"clusterIP": "10.96.0.78"}));
}

#[test]
fn an_update_that_says_nothing_keeps_what_was_allocated() {
    let all = allocator();
    let old =
        create(&all, json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}));
    let same =
        json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP"}, {"port": 80}, {"port": 81}]});
    let new = update(&all, &old, same);
    assert_eq!(ip(&new), ip(&old));
    assert_eq!(node_ports(&new)[..2], [node_ports(&old)[1], node_ports(&old)[0]]);
    assert!(node_ports(&new)[2] >= 30086);
}

#[test]
fn a_dropped_update_leaves_the_old_holdings_alone() {
    let all = allocator();
    let old = create(&all, json!({"clusterIP": "10.96.0.77", "ports": port(80)}));
    drop(all.prepare(&mut service(json!({"type": "NodePort", "ports": port(80)})), Some(&old)).unwrap());
    assert!(
        refusal(&all, named("o", json!({"clusterIP": "10.96.0.77"})), None).contains("already allocated")
    );
}

#[test]
fn a_changed_type_frees_what_it_no_longer_has() {
    let all = allocator();
    let old = create(
        &all,
        json!({"clusterIP": "10.96.0.77", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
    );
    // The client sends the old values back, as kubectl does after an edit of the type alone.
    let sent = json!({"clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"], "type": "ClusterIP",
                      "ports": [{"port": 80, "nodePort": 30080}]});
    let plain = update(&all, &old, sent.clone());
    assert_eq!(node_ports(&plain), [0]);
    create(
        &all,
        json!({"clusterIP": "None", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
    );

    let mut external = sent;
    external["ports"] = port(80);
    external["type"] = json!("ExternalName");
    external["externalName"] = json!("example.com");
    let external = update(&all, &plain, external);
    assert_eq!((ip(&external), &external.spec.as_ref().unwrap().cluster_ips), ("", &None));
    create(&all, json!({"clusterIP": "10.96.0.77"}));
    let back = update(&all, &external, json!({"type": "ClusterIP", "ports": port(80)}));
    assert_ne!(ip(&back), "");
}

#[test]
fn one_number_may_serve_two_protocols_of_one_service() {
    let all = allocator();
    let spec = json!({"type": "NodePort", "ports": [
        {"port": 53, "protocol": "TCP", "nodePort": 30053}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]});
    let dns = create(&all, spec.clone());
    assert_eq!(node_ports(&dns), [30053, 30053]);
    all.release(&dns, false);
    create(&all, spec);
    // Also when the number is ours to choose.
    let chosen = create(
        &all,
        json!({"type": "NodePort", "ports": [
        {"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}, {"port": 80}]}),
    );
    let ports = node_ports(&chosen);
    assert!(ports[0] == ports[1] && ports[0] != ports[2], "{ports:?}");
}

#[test]
fn load_balancers_have_node_ports_unless_told_otherwise() {
    let all = allocator();
    let lb =
        create(&all, json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": port(80)}));
    assert_ne!(node_ports(&lb), [0]);
    let health = lb.spec.as_ref().unwrap().health_check_node_port.unwrap();
    assert!((30000..=32767).contains(&health) && node_ports(&lb) != [health]);
    let bare = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": port(80)});
    assert_eq!(node_ports(&create(&all, bare)), [0]);
}

#[test]
fn a_restart_remembers() {
    let before = allocator();
    let web = create(
        &before,
        json!({"clusterIP": "10.96.0.77", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
    );
    let after = allocator();
    after.restore(&web);
    assert!(
        refusal(&after, named("o", json!({"clusterIP": "10.96.0.77"})), None).contains("already allocated")
    );
    update(&after, &web, json!({"type": "NodePort", "ports": port(80)}));
}

#[test]
fn bad_ranges_are_refused() {
    assert!(Allocator::new("nonsense", (30000, 32767)).is_err());
    assert!(Allocator::new("10.96.0.0/16", (30000, 29999)).is_err());
    assert!(Allocator::new("10.96.0.0/16", (0, 5)).is_err());
}
