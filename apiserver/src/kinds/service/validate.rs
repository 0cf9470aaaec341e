//! Rules of services. Addresses and node ports are in place already, where they are allocated.

use super::is_external;
use crate::kinds::shared::pod_spec::enumerated;
use crate::kinds::shared::{network, object_meta, repeats};
use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Longest time a client may stick to a pod: a day.
const AFFINITY_SECONDS_MAX: i32 = 86_400;
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const LOAD_BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

fn ips(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(ips(spec), [only] if only == "None")
}

pub(super) fn validate(service: &Service) -> Errors {
    let mut errors = Errors::default();
    let none = Default::default();
    let (spec, path) = (service.spec.as_ref().unwrap_or(&none), Path::new("spec"));
    let type_ = spec.type_.as_deref().unwrap_or("");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = is_headless(spec);
    if ports.is_empty() && !headless && type_ != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    match type_ {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {type_} services");
            errors.invalid(&path.child("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => validate_external_name(spec, &path, &mut errors),
        _ => {}
    }
    validate_ports(ports, type_, &path.child("ports"), &mut errors);
    object_meta::labels(spec.selector.as_ref(), &path.child("selector"), &mut errors);
    validate_affinity(spec, &path, &mut errors);
    if type_ != "ExternalName" {
        validate_addresses(spec, &path, &mut errors);
    }
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        let path = path.child("externalIPs").index(i);
        if let Some(ip) = network::ip(ip, &path, &mut errors) {
            network::endpoint_ip(ip, &path, &mut errors);
        }
    }
    enumerated(Some(type_), &TYPES, &path.child("type"), &mut errors);
    if type_ != "LoadBalancer" {
        let ranges = spec.load_balancer_source_ranges.as_ref().is_some_and(|r| !r.is_empty());
        for (field, present) in [
            ("LoadBalancerSourceRanges", ranges),
            ("allocateLoadBalancerNodePorts", spec.allocate_load_balancer_node_ports.is_some()),
            ("loadBalancerClass", spec.load_balancer_class.is_some()),
        ] {
            if present {
                errors.forbidden(&path.child(field), LOAD_BALANCER_ONLY);
            }
        }
    }
    for (i, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        network::cidr(range.trim(), &path.child("LoadBalancerSourceRanges").index(i), &mut errors);
    }
    if let Some(class) = &spec.load_balancer_class {
        errors.invalid_each(&path.child("loadBalancerClass"), class, names::qualified_name(class));
    }
    validate_traffic(spec, type_, &path, &mut errors);
    errors
}

fn validate_external_name(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    for (field, present) in [
        ("clusterIPs", !ips(spec).is_empty()),
        ("ipFamilies", spec.ip_families.as_ref().is_some_and(|f| !f.is_empty())),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ] {
        if present {
            errors.forbidden(&path.child(field), "may not be set for ExternalName services");
        }
    }
    let name = spec.external_name.as_deref().unwrap_or("");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.required(&path.child("externalName"), "");
    } else {
        errors.invalid_each(&path.child("externalName"), name, names::dns_subdomain(name));
    }
}

fn validate_ports(ports: &[ServicePort], type_: &str, path: &Path, errors: &mut Errors) {
    let (mut seen, mut node_ports, mut pairs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        match port.name.as_deref().unwrap_or("") {
            "" if ports.len() > 1 => errors.required(&path.child("name"), ""),
            "" => {}
            name => {
                errors.invalid_each(&path.child("name"), name, names::dns_label(name));
                if !seen.insert(name) {
                    errors.duplicate(&path.child("name"), name);
                }
            }
        }
        network::port(port.port, &path.child("port"), errors);
        network::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
        match &port.target_port {
            Some(IntOrString::Int(number)) => network::port(*number, &path.child("targetPort"), errors),
            Some(IntOrString::String(name)) => {
                errors.invalid_each(&path.child("targetPort"), name, names::port_name(name));
            }
            None => {}
        }
        network::app_protocol(port.app_protocol.as_ref(), &path.child("appProtocol"), errors);
    }
    for (i, port) in ports.iter().enumerate() {
        let (path, protocol) = (path.index(i), port.protocol.as_deref().unwrap_or(""));
        if let Some(node_port) = port.node_port.filter(|p| *p != 0) {
            if type_ == "ClusterIP" {
                errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            if !node_ports.insert((protocol, node_port)) {
                errors.duplicate(&path.child("nodePort"), node_port);
            }
        }
        if !pairs.insert((protocol, port.port)) {
            let pair = ServicePort { protocol: port.protocol.clone(), port: port.port, ..Default::default() };
            errors.duplicate(&path, pair);
        }
    }
}

fn validate_affinity(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let affinity = spec.session_affinity.as_deref().unwrap_or("");
    enumerated(Some(affinity), &["ClientIP", "None"], &path.child("sessionAffinity"), errors);
    let path = path.child("sessionAffinityConfig");
    let seconds = spec
        .session_affinity_config
        .as_ref()
        .and_then(|c| c.client_ip.as_ref())
        .and_then(|c| c.timeout_seconds);
    match (affinity, seconds) {
        ("ClientIP", None) => {
            errors.required(&path, "when session affinity type is ClientIP");
        }
        ("ClientIP", Some(seconds)) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
            let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
            errors.invalid(&path.child("clientIP").child("timeoutSeconds"), seconds, detail);
        }
        ("None", _) if spec.session_affinity_config.is_some() => {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn validate_addresses(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let (all, all_path) = (ips(spec), path.child("clusterIPs"));
    match (spec.cluster_ip.as_deref().unwrap_or(""), all) {
        ("", []) => {}
        ("", _) => errors.invalid(&all_path, all, "must be empty when `clusterIP` is not specified"),
        (_, []) => errors.required(&all_path, ""),
        (ip, [first, ..]) if ip != first => {
            errors.invalid(&all_path, all, "first value must match `clusterIP`")
        }
        _ => {}
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let repeated = repeats(families);
    for (i, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(i);
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            errors.not_supported(&path, family, &["IPv4", "IPv6"]);
        }
        if repeated[i] {
            errors.duplicate(&path, family);
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(policy) = spec.ip_family_policy.as_deref().filter(|p| !policies.contains(p)) {
        errors.not_supported(&path.child("ipFamilyPolicy"), policy, &policies);
    }
    let mut parsed = Vec::new();
    for (i, ip) in all.iter().enumerate() {
        if i == 0 && ip == "None" {
            if all.len() > 1 {
                errors.invalid(&all_path, all, "'None' must be the first and only value");
            }
            return;
        }
        match network::ip(ip, &all_path.index(i), errors) {
            Some(ip) => parsed.push(ip),
            None => return,
        }
    }
    if all.len() > 2 {
        errors.invalid(&all_path, all, "may only hold up to 2 values");
    }
    if parsed.len() > 1 && parsed.iter().all(IpAddr::is_ipv4) | parsed.iter().all(IpAddr::is_ipv6) {
        errors.invalid(&all_path, all, "may specify no more than one IP for each IP family");
    }
    for (i, (ip, family)) in parsed.iter().zip(families).enumerate() {
        let path = all_path.index(i);
        match (family.as_str(), ip.is_ipv6()) {
            ("IPv4", true) => {
                let detail = format!("expected an IPv4 value as indicated by `ipFamilies[{i}]`");
                errors.invalid(&path, ip.to_string(), detail);
            }
            ("IPv6", false) => {
                let detail = format!("expected an IPv6 value as indicated by `ipFamilies[{i}]`");
                errors.invalid(&path, ip.to_string(), detail);
            }
            _ => {}
        }
    }
}

fn validate_traffic(spec: &ServiceSpec, type_: &str, path: &Path, errors: &mut Errors) {
    let external = path.child("externalTrafficPolicy");
    match spec.external_traffic_policy.as_deref().unwrap_or("") {
        "" if !is_external(spec) => {}
        policy if !is_external(spec) => {
            errors.invalid(&external, policy, "may only be set for externally-accessible services");
        }
        policy => enumerated(Some(policy), &["Cluster", "Local"], &external, errors),
    }
    let health_check = path.child("healthCheckNodePort");
    let checked = type_ == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local");
    match spec.health_check_node_port.unwrap_or(0) {
        0 => {}
        port if !checked => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&health_check, port, detail);
        }
        port => network::port(port, &health_check, errors),
    }
    let internal = path.child("internalTrafficPolicy");
    match spec.internal_traffic_policy.as_deref() {
        None if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&type_) => errors.required(&internal, ""),
        None => {}
        policy => enumerated(policy, &["Cluster", "Local"], &internal, errors),
    }
    if let Some(distribution) = spec.traffic_distribution.as_deref() {
        let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        enumerated(Some(distribution), &known, &path.child("trafficDistribution"), errors);
    }
}

/// What may not change once it is given out.
pub(super) fn validate_change(new: &Service, old: &Service) -> Errors {
    let mut errors = Errors::default();
    let none = (ServiceSpec::default(), ServiceSpec::default());
    let (new, old) = (new.spec.as_ref().unwrap_or(&none.0), old.spec.as_ref().unwrap_or(&none.1));
    let is = |spec: &ServiceSpec, type_: &str| spec.type_.as_deref() == Some(type_);
    if is(new, "LoadBalancer")
        && is(old, "LoadBalancer")
        && new.load_balancer_class != old.load_balancer_class
    {
        let path = Path::new("spec.loadBalancerClass");
        errors.invalid(&path, &new.load_balancer_class, "may not change once set");
    }
    if is(new, "ExternalName") || is(old, "ExternalName") || is_headless(new) && is_headless(old) {
        return errors;
    }
    let path = Path::new("spec.clusterIPs");
    let (now, before) = (ips(new), ips(old));
    match (now, before) {
        ([], [_, ..]) => errors.invalid(&path.index(0), now, "primary clusterIP can not be unset"),
        _ => {
            for (i, _) in now.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b) {
                errors.invalid(&path.index(i), now, "may not change once set");
            }
        }
    }
    let single = new.ip_family_policy.as_deref() == Some("SingleStack");
    if before.len() > 1 && now.len() == 1 && !single {
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(&Path::new("spec.ipFamilyPolicy"), &new.ip_family_policy, detail);
    }
    if !is_headless(new) && !is_headless(old) {
        let families = |spec: &ServiceSpec| spec.ip_families.clone().unwrap_or_default();
        let (now, before) = (families(new), families(old));
        if now.iter().zip(&before).any(|(a, b)| a != b) {
            errors.invalid(&Path::new("spec.ipFamilies").index(0), &now, "may not change once set");
        }
    }
    errors
}

/// Where a load balancer says it is reached.
pub(super) fn validate_status(service: &Service) -> Errors {
    let mut errors = Errors::default();
    let path = Path::new("status.loadBalancer.ingress");
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_deref());
    let ingress = ingress.unwrap_or_default();
    let balanced = service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer"));
    if !balanced && !ingress.is_empty() {
        errors.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        return errors;
    }
    for (i, entry) in ingress.iter().enumerate() {
        let (path, mode) = (path.index(i), path.index(i).child("ipMode"));
        let ip = entry.ip.as_deref().filter(|ip| !ip.is_empty());
        if let Some(ip) = ip {
            network::ip(ip, &path.child("ip"), &mut errors);
        }
        match (entry.ip_mode.as_deref(), ip) {
            (None, None) => {}
            (None, Some(_)) => errors.required(&mode, "must be specified when `ip` is set"),
            (Some(_), None) => errors.forbidden(&mode, "may not be specified when `ip` is not set"),
            (given, Some(_)) => enumerated(given, &["Proxy", "VIP"], &mode, &mut errors),
        }
        if let Some(host) = entry.hostname.as_deref().filter(|h| !h.is_empty()) {
            let path = path.child("hostname");
            errors.invalid_each(&path, host, names::dns_subdomain(host));
            network::no_address(host, &path, &mut errors);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::Services;
    use super::*;
    use crate::kinds::Kind;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        let mut service = object(json!({"spec": spec}));
        Services::default(&mut service);
        service
    }

    fn faults(spec: Value) -> Vec<String> {
        texts(Services::validate(&service(spec)))
    }

    #[test]
    fn what_is_fine() {
        for spec in [
            json!({"ports": [{"port": 80}]}),
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            json!({"ports": [{"name": "a", "port": 53, "protocol": "TCP"}, {"name": "b", "port": 53, "protocol": "UDP"}]}),
            json!({"type": "ExternalName", "externalName": "example.com."}),
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080, "targetPort": "http"}], "sessionAffinity": "ClientIP"}),
            json!({"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerClass": "a.io/b", "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
        ] {
            assert_eq!(faults(spec.clone()), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn what_is_wrong() {
        for (spec, expected) in [
            (json!({}), vec!["spec.ports: Required value"]),
            (
                json!({"ports": [{"port": 0}, {"name": "a", "port": 80}, {"name": "a", "port": 80, "protocol": "X", "targetPort": "-"}]}),
                vec![
                    "spec.ports[0].name: Required value",
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[2].name: Duplicate value: \"a\"",
                    "spec.ports[2].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                    "spec.ports[2].targetPort: Invalid value: \"-\": must contain at least one letter (a-z)",
                    "spec.ports[2].targetPort: Invalid value: \"-\": must not begin or end with a hyphen",
                ],
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30000, "name": "a"}, {"port": 80, "name": "b"}]}),
                vec![
                    "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                    "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
                ],
            ),
            (
                json!({"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
                vec![
                    "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
                ],
            ),
            (
                json!({"type": "ExternalName", "clusterIPs": ["10.0.0.1"]}),
                vec![
                    "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                    "spec.externalName: Required value",
                ],
            ),
            (
                json!({"type": "Fancy", "ports": [{"port": 80}], "sessionAffinity": "Glue", "internalTrafficPolicy": "Far"}),
                vec![
                    "spec.sessionAffinity: Unsupported value: \"Glue\": supported values: \"ClientIP\", \"None\"",
                    "spec.type: Unsupported value: \"Fancy\": supported values: \"ClusterIP\", \"ExternalName\", \
                     \"LoadBalancer\", \"NodePort\"",
                    "spec.internalTrafficPolicy: Unsupported value: \"Far\": supported values: \"Cluster\", \"Local\"",
                ],
            ),
            (
                json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"], "ipFamilies": ["IPv6"],
                       "externalIPs": ["127.0.0.1"], "externalTrafficPolicy": "Local", "loadBalancerClass": "x"}),
                vec![
                    "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
                    "spec.clusterIPs[0]: Invalid value: \"10.0.0.2\": expected an IPv6 value as indicated by `ipFamilies[0]`",
                    "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                    "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
                ],
            ),
            (
                json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
                vec![
                    "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                ],
            ),
        ] {
            assert_eq!(faults(spec.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn addresses_of_load_balancers() {
        let told = |type_: &str, ingress: Value| {
            let mut service = object(json!({
                "spec": {"type": type_, "ports": [{"port": 80}]}, "status": {"loadBalancer": {"ingress": ingress}},
            }));
            Services::default(&mut service);
            texts(validate_status(&service))
        };
        let none: [&str; 0] = [];
        assert_eq!(told("ClusterIP", json!([])), none);
        assert_eq!(
            told(
                "LoadBalancer",
                json!([{"ip": "1.2.3.4"}, {"ip": "::1", "ipMode": "Proxy"}, {"hostname": "a.b"}])
            ),
            none
        );
        assert_eq!(
            told("NodePort", json!([{"ip": "1.2.3.4"}])),
            ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]
        );
        assert_eq!(
            told(
                "LoadBalancer",
                json!([{"ip": "x", "ipMode": "Some"}, {"hostname": "1.2.3.4", "ipMode": "VIP"}, {"hostname": "A"}])
            ),
            [
                "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"Some\": supported values: \"Proxy\", \"VIP\"",
                "status.loadBalancer.ingress[1].ipMode: Forbidden: may not be specified when `ip` is not set",
                "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                "status.loadBalancer.ingress[2].hostname: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ]
        );
    }

    #[test]
    fn addresses_stay() {
        let at = |ip: &str| {
            let all: Vec<_> = (!ip.is_empty()).then_some(ip).into_iter().collect();
            service(json!({"ports": [{"port": 80}], "clusterIP": ip, "clusterIPs": all}))
        };
        let change = |new: Service, old: Service| texts(validate_change(&new, &old));
        assert_eq!(
            change(at("10.0.0.2"), at("10.0.0.1")),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
        assert_eq!(
            change(at(""), at("10.0.0.1")),
            ["spec.clusterIPs[0]: Invalid value: []: primary clusterIP can not be unset"]
        );
        assert_eq!(
            change(at("None"), at("10.0.0.1")),
            ["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"]
        );
        assert!(change(at("10.0.0.1"), at("10.0.0.1")).is_empty());
        assert!(change(service(json!({"type": "ExternalName"})), at("10.0.0.1")).is_empty());
    }
}
