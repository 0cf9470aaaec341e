//! Service: one address for many pods.

use super::shared::cells;
use super::{Column, Kind, Subresource};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service, ServicePort, ServiceStatus};
use serde_json::Value;

pub(super) struct Services;

impl Kind for Services {
    type Object = Service;
    const PLURAL: &'static str = "services";
    const SINGULAR: &'static str = "service";
    const SHORT_NAMES: &'static [&'static str] = &["svc"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Proxy];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Type", "string", 0, "How the service is exposed"),
        Column::new("Cluster-IP", "string", 0, "Address within the cluster"),
        Column::new("External-IP", "string", 0, "Addresses outside the cluster"),
        Column::new("Port(s)", "string", 0, "Ports of the service"),
        Column::age(),
        Column::new("Selector", "string", 1, "Labels of the pods behind the service"),
    ];
    const CREATE_ON_UPDATE: bool = true;
    const RETURNS_DELETED: bool = true;
    const SELECTABLE: &'static [&'static str] = &["spec.clusterIP", "spec.type"];

    fn check_name(name: &str) -> Vec<String> {
        names::dns1035_label(name)
    }

    fn prepare_create(object: &mut Service) {
        object.status =
            Some(ServiceStatus { load_balancer: Some(LoadBalancerStatus::default()), ..Default::default() });
    }

    fn prepare_update(new: &mut Service, old: &Service) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut Service, old: &Service) {
        new.spec = old.spec.clone();
    }

    fn row(object: &Service, now: Timestamp) -> Vec<Value> {
        let none = Default::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let ports: Vec<_> = spec.ports.iter().flatten().map(port_cell).collect();
        let ips = spec.cluster_ips.as_deref().unwrap_or_default();
        let selector: Vec<_> = spec.selector.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
        let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
        vec![
            cells::name(&object.metadata),
            cells::text(spec.type_.as_ref()),
            ips.first().map_or("<none>", String::as_str).into(),
            external(object).into(),
            or_none(ports.join(",")).into(),
            cells::age(&object.metadata, now),
            or_none(selector.join(",")).into(),
        ]
    }

    fn selectable_fields(object: &Service) -> Vec<(&'static str, String)> {
        let spec = object.spec.as_ref();
        vec![
            ("spec.clusterIP", spec.and_then(|s| s.cluster_ip.clone()).unwrap_or_default()),
            ("spec.type", spec.and_then(|s| s.type_.clone()).unwrap_or_default()),
        ]
    }
}

fn port_cell(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("");
    match port.node_port {
        Some(node_port) if node_port > 0 => format!("{}:{node_port}/{protocol}", port.port),
        _ => format!("{}/{protocol}", port.port),
    }
}

fn external(service: &Service) -> String {
    let none = Default::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    let mut addresses = Vec::new();
    match spec.type_.as_deref().unwrap_or("") {
        "ClusterIP" | "NodePort" => {}
        "LoadBalancer" => {
            let ingress = service
                .status
                .as_ref()
                .and_then(|s| s.load_balancer.as_ref())
                .and_then(|l| l.ingress.as_ref());
            addresses.extend(
                ingress.into_iter().flatten().filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())),
            );
        }
        "ExternalName" => return spec.external_name.clone().unwrap_or_default(),
        _ => return "<unknown>".to_owned(),
    }
    addresses.extend(spec.external_ips.iter().flatten().cloned());
    match (addresses.is_empty(), spec.type_.as_deref()) {
        (false, _) => addresses.join(","),
        (true, Some("LoadBalancer")) => "<pending>".to_owned(),
        (true, _) => "<none>".to_owned(),
    }
}
