//! EndpointSlice: some of the addresses of a Service.

use super::shared::{cells, network, object_meta, repeats};
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use serde_json::Value;
use std::net::IpAddr;

/// Kubernetes' bounds of one slice.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

pub(super) struct EndpointSlices;

impl Kind for EndpointSlices {
    type Object = EndpointSlice;
    const PLURAL: &'static str = "endpointslices";
    const SINGULAR: &'static str = "endpointslice";
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("AddressType", "string", 0, "IPv4, IPv6 or FQDN"),
        Column::new("Ports", "string", 0, "Ports of every endpoint"),
        Column::new("Endpoints", "string", 0, "Addresses of the endpoints"),
        Column::age(),
    ];

    fn default(object: &mut EndpointSlice) {
        for port in object.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn validate(object: &EndpointSlice) -> Errors {
        let mut errors = Errors::default();
        let path = Path::new("addressType");
        match object.address_type.as_str() {
            "" => errors.required(&path, ""),
            "IPv4" | "IPv6" | "FQDN" => {}
            other => errors.not_supported(&path, other, &["FQDN", "IPv4", "IPv6"]),
        }
        validate_ports(object.ports.as_deref().unwrap_or_default(), &mut errors);
        let (endpoints, path) = (object.endpoints.as_deref().unwrap_or_default(), Path::new("endpoints"));
        if endpoints.len() > ENDPOINTS_MAX {
            errors.too_many(&path, endpoints.len(), ENDPOINTS_MAX);
            return errors;
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            validate_endpoint(endpoint, &object.address_type, &path.index(i), &mut errors);
        }
        errors
    }

    fn validate_update(new: &EndpointSlice, old: &EndpointSlice) -> Errors {
        let mut errors = Self::validate(new);
        object_meta::immutable(&new.address_type, &old.address_type, &Path::new("addressType"), &mut errors);
        errors
    }

    fn generation_changed(new: &EndpointSlice, old: &EndpointSlice) -> Option<bool> {
        Some(
            new.endpoints != old.endpoints
                || new.ports != old.ports
                || new.address_type != old.address_type
                || new.metadata.labels != old.metadata.labels,
        )
    }

    fn row(object: &EndpointSlice, now: Timestamp) -> Vec<Value> {
        let ports: Vec<_> = object
            .ports
            .iter()
            .flatten()
            .map(|p| match (p.port, &p.name) {
                (Some(port), _) => port.to_string(),
                (None, Some(name)) => name.clone(),
                (None, None) => "*".to_owned(),
            })
            .collect();
        let addresses: Vec<_> = object.endpoints.iter().flatten().flat_map(|e| e.addresses.clone()).collect();
        vec![
            cells::name(&object.metadata),
            object.address_type.clone().into(),
            cells::some_of(&ports).into(),
            cells::some_of(&addresses).into(),
            cells::age(&object.metadata, now),
        ]
    }
}

fn validate_ports(ports: &[EndpointPort], errors: &mut Errors) {
    let path = Path::new("ports");
    if ports.len() > PORTS_MAX {
        errors.too_many(&path, ports.len(), PORTS_MAX);
        return;
    }
    let repeated = repeats(ports.iter().map(|p| p.name.as_deref().unwrap_or("")));
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = port.name.as_deref().unwrap_or("");
        if !name.is_empty() {
            errors.invalid_each(&path.child("name"), name, names::dns_label(name));
        }
        if repeated[i] {
            errors.duplicate(&path.child("name"), name);
        }
        network::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
        network::app_protocol(port.app_protocol.as_ref(), &path.child("appProtocol"), errors);
    }
}

fn validate_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path, errors: &mut Errors) {
    let addresses = path.child("addresses");
    if endpoint.addresses.is_empty() {
        errors.required(&addresses, "must contain at least 1 address");
    } else if endpoint.addresses.len() > ADDRESSES_MAX {
        errors.too_many(&addresses, endpoint.addresses.len(), ADDRESSES_MAX);
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let path = addresses.index(i);
        if address_type == "FQDN" {
            errors.invalid_each(
                &path,
                address,
                names::dns_subdomain(address.strip_suffix('.').unwrap_or(address)),
            );
        } else if let Some(ip) = network::ip(address, &path, errors) {
            match (address_type, ip) {
                ("IPv4", IpAddr::V6(_)) => errors.invalid(&addresses, address, "must be an IPv4 address"),
                ("IPv6", IpAddr::V4(_)) => errors.invalid(&addresses, address, "must be an IPv6 address"),
                _ => {}
            }
            network::endpoint_ip(ip, &path, errors);
        }
    }
    if let Some(node) = &endpoint.node_name {
        errors.invalid_each(&path.child("nodeName"), node, names::dns_subdomain(node));
    }
    if let Some(host) = &endpoint.hostname {
        errors.invalid_each(&path.child("hostname"), host, names::dns_label(host));
    }
    object_meta::labels(endpoint.deprecated_topology.as_ref(), &path.child("deprecatedTopology"), errors);
    if let Some(hints) = &endpoint.hints {
        let zones: Vec<_> = hints.for_zones.iter().flatten().map(|z| z.name.as_str()).collect();
        let nodes: Vec<_> = hints.for_nodes.iter().flatten().map(|n| n.name.as_str()).collect();
        validate_hints(&zones, names::label_value, &path.child("hints").child("forZones"), errors);
        validate_hints(&nodes, names::dns_subdomain, &path.child("hints").child("forNodes"), errors);
    }
}

fn validate_hints(hints: &[&str], check: fn(&str) -> Vec<String>, path: &Path, errors: &mut Errors) {
    if hints.len() > HINTS_MAX {
        errors.too_many(path, hints.len(), HINTS_MAX);
        return;
    }
    for (i, name) in hints.iter().enumerate() {
        let path = path.index(i).child("name");
        if hints[..i].contains(name) {
            errors.duplicate(&path, name);
        }
        errors.invalid_each(&path, name, check(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn rules() {
        let mut slice = object::<EndpointSlice>(json!({"addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "hostname": "a-0"}, {"addresses": []}, {"addresses": ["x"]}, {"addresses": ["fd00::1"]}],
            "ports": [{"port": 80}, {"port": 81}]}));
        EndpointSlices::default(&mut slice);
        assert_eq!(
            texts(EndpointSlices::validate(&slice)),
            [
                "ports[1].name: Duplicate value: \"\"",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
                "endpoints[2].addresses[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
                 2001:db8::ffff)",
                "endpoints[3].addresses: Invalid value: \"fd00::1\": must be an IPv4 address",
            ]
        );
        let mut other = slice.clone();
        other.address_type = "IPv6".into();
        let errors = texts(EndpointSlices::validate_update(&other, &slice));
        assert!(errors.contains(&"addressType: Invalid value: \"IPv6\": field is immutable".to_owned()));
        assert_eq!(EndpointSlices::generation_changed(&slice, &slice), Some(false));
        assert_eq!(EndpointSlices::generation_changed(&other, &slice), Some(true));
    }

    #[test]
    fn row() {
        let slice = object::<EndpointSlice>(
            json!({"metadata": {"name": "kubia-x", "creationTimestamp": at(0)}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}], "ports": [{"port": 8080}]}),
        );
        let row = EndpointSlices::row(&slice, "1970-01-01T00:05:00Z".parse().unwrap());
        assert_eq!(json!(row), json!(["kubia-x", "IPv4", "8080", "10.0.0.1,10.0.0.2", "5m"]));
    }
}
