//! Endpoints: the addresses of a Service, in the old form.

use super::shared::{cells, network};
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, Endpoints};
use serde_json::Value;
use std::net::IpAddr;

pub(super) struct EndpointsKind;

impl Kind for EndpointsKind {
    type Object = Endpoints;
    const PLURAL: &'static str = "endpoints";
    const SINGULAR: &'static str = "endpoints";
    const SHORT_NAMES: &'static [&'static str] = &["ep"];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Endpoints", "string", 0, "Addresses and ports that are ready"),
        Column::age(),
    ];
    const CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut Endpoints) {
        for port in object.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten()) {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn validate(object: &Endpoints) -> Errors {
        let mut errors = Errors::default();
        for (i, subset) in object.subsets.iter().flatten().enumerate() {
            let path = Path::new("subsets").index(i);
            let ready = subset.addresses.as_deref().unwrap_or_default();
            let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
            if ready.is_empty() && not_ready.is_empty() {
                errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
            }
            for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
                for (j, address) in addresses.iter().enumerate() {
                    validate_address(address, &path.child(field).index(j), &mut errors);
                }
            }
            let ports = subset.ports.as_deref().unwrap_or_default();
            for (j, port) in ports.iter().enumerate() {
                validate_port(port, ports.len() > 1, &path.child("ports").index(j), &mut errors);
            }
        }
        errors
    }

    fn validate_update(new: &Endpoints, _old: &Endpoints) -> Errors {
        Self::validate(new)
    }

    fn row(object: &Endpoints, now: Timestamp) -> Vec<Value> {
        let mut all = Vec::new();
        for subset in object.subsets.iter().flatten() {
            let addresses = subset.addresses.as_deref().unwrap_or_default();
            match subset.ports.as_deref().unwrap_or_default() {
                [] => all.extend(addresses.iter().map(|a| a.ip.clone())),
                ports => {
                    for port in ports {
                        all.extend(addresses.iter().map(|a| join(&a.ip, port.port)));
                    }
                }
            }
        }
        let shown = if all.is_empty() { "<none>".to_owned() } else { cells::some_of(&all) };
        vec![cells::name(&object.metadata), shown.into(), cells::age(&object.metadata, now)]
    }
}

fn join(ip: &str, port: i32) -> String {
    match ip.parse() {
        Ok(IpAddr::V6(_)) => format!("[{ip}]:{port}"),
        _ => format!("{ip}:{port}"),
    }
}

fn validate_address(address: &EndpointAddress, path: &Path, errors: &mut Errors) {
    if let Some(ip) = network::ip(&address.ip, &path.child("ip"), errors) {
        network::endpoint_ip(ip, &path.child("ip"), errors);
    }
    if let Some(host) = address.hostname.as_deref().filter(|h| !h.is_empty()) {
        errors.invalid_each(&path.child("hostname"), host, names::dns_label(host));
    }
    if let Some(node) = &address.node_name {
        errors.invalid_each(&path.child("nodeName"), node, names::dns_subdomain(node));
    }
}

fn validate_port(port: &EndpointPort, named: bool, path: &Path, errors: &mut Errors) {
    match port.name.as_deref().unwrap_or("") {
        "" if named => errors.required(&path.child("name"), ""),
        "" => {}
        name => errors.invalid_each(&path.child("name"), name, names::dns_label(name)),
    }
    network::port(port.port, &path.child("port"), errors);
    network::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
    network::app_protocol(port.app_protocol.as_ref(), &path.child("appProtocol"), errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn rules() {
        let mut endpoints = object::<Endpoints>(json!({"subsets": [
            {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 0}, {"name": "a", "port": 1, "protocol": "XTP"}]}, {}]}));
        EndpointsKind::default(&mut endpoints);
        assert_eq!(
            texts(EndpointsKind::validate(&endpoints)),
            [
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
                 ::1/128)",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "subsets[0].ports[1].protocol: Unsupported value: \"XTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
            ]
        );
    }

    #[test]
    fn row() {
        let endpoints = |ips: &[&str]| {
            let addresses: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            object::<Endpoints>(json!({"metadata": {"name": "kubia", "creationTimestamp": at(0)},
                "subsets": [{"addresses": addresses, "ports": [{"port": 8080}]}]}))
        };
        let shown = |e: &Endpoints| EndpointsKind::row(e, Timestamp::UNIX_EPOCH)[1].clone();
        assert_eq!(shown(&endpoints(&["10.0.0.1", "10.0.0.2"])), "10.0.0.1:8080,10.0.0.2:8080");
        assert_eq!(
            shown(&endpoints(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"])),
            "1.1.1.1:8080,1.1.1.2:8080,1.1.1.3:8080 + 1 more..."
        );
        assert_eq!(shown(&Endpoints::default()), "<none>");
    }
}
