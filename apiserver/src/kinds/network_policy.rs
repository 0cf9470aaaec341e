//! NetworkPolicy: who may talk to which pods. Stored and served; nothing here enforces it yet.

use super::shared::{cells, label_selector, network, pod_template};
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use std::net::IpAddr;

pub(super) struct NetworkPolicies;

impl Kind for NetworkPolicies {
    type Object = NetworkPolicy;
    const PLURAL: &'static str = "networkpolicies";
    const SINGULAR: &'static str = "networkpolicy";
    const SHORT_NAMES: &'static [&'static str] = &["netpol"];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Pod-Selector", "string", 0, "The pods this policy is about."),
        Column::age(),
    ];

    fn default(object: &mut NetworkPolicy) {
        let spec = object.spec.get_or_insert_default();
        // Not optional in the API's own type.
        spec.pod_selector.get_or_insert_default();
        let ports = spec.ingress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        let more = spec.egress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        for port in ports.chain(more) {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
        if spec.policy_types.as_ref().is_none_or(|t| t.is_empty()) {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|e| !e.is_empty()) {
                types.push("Egress".to_owned());
            }
            spec.policy_types = Some(types);
        }
    }

    fn generation_changed(new: &NetworkPolicy, old: &NetworkPolicy) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &NetworkPolicy) -> Errors {
        let mut errors = Errors::default();
        let (spec, path) = (object.spec.clone().unwrap_or_default(), Path::new("spec"));
        if let Some(selector) = &spec.pod_selector {
            label_selector::validate(selector, &path.child("podSelector"), &mut errors);
        }
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let path = path.child("ingress").index(i);
            validate_rule(&rule.ports, (&rule.from, "from"), &path, &mut errors);
        }
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let path = path.child("egress").index(i);
            validate_rule(&rule.ports, (&rule.to, "to"), &path, &mut errors);
        }
        let (types, path) = (spec.policy_types.unwrap_or_default(), path.child("policyTypes"));
        if types.len() > 2 {
            errors.invalid(&path, &types, "may not specify more than two policyTypes");
        } else {
            for (i, type_) in
                types.iter().enumerate().filter(|(_, t)| !["Ingress", "Egress"].contains(&t.as_str()))
            {
                errors.not_supported(&path.index(i), type_, &["Ingress", "Egress"]);
            }
        }
        errors
    }

    fn validate_update(new: &NetworkPolicy, _: &NetworkPolicy) -> Errors {
        Self::validate(new)
    }

    fn row(object: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let selector = object.spec.as_ref().and_then(|s| s.pod_selector.clone()).unwrap_or_default();
        vec![
            cells::name(&object.metadata),
            pod_template::selector_cell(&selector),
            cells::age(&object.metadata, now),
        ]
    }
}

fn validate_rule(
    ports: &Option<Vec<NetworkPolicyPort>>,
    (peers, name): (&Option<Vec<NetworkPolicyPeer>>, &str),
    path: &Path,
    errors: &mut Errors,
) {
    for (i, port) in ports.iter().flatten().enumerate() {
        validate_port(port, &path.child("ports").index(i), errors);
    }
    for (i, peer) in peers.iter().flatten().enumerate() {
        validate_peer(peer, &path.child(name).index(i), errors);
    }
}

fn validate_port(port: &NetworkPolicyPort, path: &Path, errors: &mut Errors) {
    if let Some(protocol) = port.protocol.as_deref().filter(|p| !network::PROTOCOLS.contains(p)) {
        errors.not_supported(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let (at, end) = (path.child("port"), path.child("endPort"));
    match (&port.port, port.end_port) {
        (None, Some(last)) => errors.invalid(&end, last, "may not be specified when `port` is not specified"),
        (None, None) => {}
        (Some(IntOrString::Int(first)), last) => {
            network::port(*first, &at, errors);
            if let Some(last) = last {
                if last < *first {
                    errors.invalid(&end, first, "must be greater than or equal to `port`");
                }
                network::port(last, &end, errors);
            }
        }
        (Some(IntOrString::String(name)), last) => {
            if let Some(last) = last {
                errors.invalid(&end, last, "may not be specified when `port` is non-numeric");
            }
            errors.invalid_each(&at, name, names::port_name(name));
        }
    }
}

fn validate_peer(peer: &NetworkPolicyPeer, path: &Path, errors: &mut Errors) {
    let selectors = [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)];
    for (field, selector) in selectors {
        if let Some(selector) = selector {
            label_selector::validate(selector, &path.child(field), errors);
        }
    }
    let selects = selectors.iter().any(|(_, s)| s.is_some());
    match &peer.ip_block {
        None if !selects => errors.required(path, "must specify a peer"),
        None => {}
        Some(block) => {
            validate_block(block, &path.child("ipBlock"), errors);
            if selects {
                errors.forbidden(path, "may not specify both ipBlock and another peer");
            }
        }
    }
}

fn validate_block(block: &IPBlock, path: &Path, errors: &mut Errors) {
    if block.cidr.is_empty() {
        return errors.required(&path.child("cidr"), "");
    }
    network::cidr(&block.cidr, &path.child("cidr"), errors);
    let Some(whole) = parse(&block.cidr) else { return };
    for (i, except) in block.except.iter().flatten().enumerate() {
        let path = path.child("except").index(i);
        network::cidr(except, &path, errors);
        if parse(except).is_some_and(|part| !is_within(part, whole)) {
            errors.invalid(&path, except, "must be a strict subset of `cidr`");
        }
    }
}

fn parse(cidr: &str) -> Option<(IpAddr, u32)> {
    let (ip, bits) = cidr.split_once('/')?;
    Some((ip.parse().ok()?, bits.parse().ok()?))
}

/// Whether the first network is a part of the second, and not all of it.
fn is_within((part, bits): (IpAddr, u32), (whole, fewer): (IpAddr, u32)) -> bool {
    let same = match (part, whole) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= fewer.min(32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= fewer.min(128),
        _ => false,
    };
    same && bits > fewer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    fn policy(spec: Value) -> NetworkPolicy {
        let mut policy = object(json!({"metadata": {"name": "p"}, "spec": spec}));
        NetworkPolicies::default(&mut policy);
        policy
    }

    #[test]
    fn defaults() {
        let value = serde_json::to_value(policy(json!({"egress": [{"ports": [{"port": 80}]}]}))).unwrap();
        assert_eq!(value["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(value["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(value["spec"]["podSelector"], json!({}));
    }

    #[test]
    fn rules() {
        let faults = |spec| texts(NetworkPolicies::validate(&policy(spec)));
        let block = |cidr: &str, except: &str| json!({"ingress": [{"from": [{"ipBlock": {"cidr": cidr, "except": [except]}}]}]});
        assert!(faults(block("10.0.0.0/8", "10.1.0.0/16")).is_empty());
        let path = "spec.ingress[0].from[0]";
        assert_eq!(
            faults(block("10.0.0.0/8", "11.1.0.0/16")),
            [format!(
                "{path}.ipBlock.except[0]: Invalid value: \"11.1.0.0/16\": must be a strict subset of `cidr`"
            )]
        );
        assert_eq!(faults(block("fe80::/10", "10.0.0.0/8")).len(), 1);
        assert_eq!(
            faults(json!({"ingress": [{"from": [{}]}]})),
            [format!("{path}: Required value: must specify a peer")]
        );
        assert_eq!(
            faults(json!({"ingress": [{"ports": [{"port": "http", "endPort": 90}, {"port": 0}]}]})),
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ]
        );
    }
}
