//! Service: one address for many pods.

use super::shared::cells;
use super::{Column, Kind, Subresource};
use api::field::Errors;
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
    SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

mod validate;

/// Seconds a client sticks to a pod if nothing is said: three hours.
const AFFINITY_SECONDS: i32 = 10_800;

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
        // Relaxed from DNS-1035 in Kubernetes 1.36: a digit may come first.
        names::dns_label(name)
    }

    fn default(object: &mut Service) {
        let spec = object.spec.get_or_insert_default();
        let affinity = spec.session_affinity.get_or_insert_with(|| "None".to_owned());
        match affinity.as_str() {
            "None" => spec.session_affinity_config = None,
            "ClientIP" => {
                let config: &mut SessionAffinityConfig = spec.session_affinity_config.get_or_insert_default();
                let client: &mut ClientIPConfig = config.client_ip.get_or_insert_default();
                client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
            }
            _ => {}
        }
        let type_ = spec.type_.get_or_insert_with(|| "ClusterIP".to_owned()).clone();
        for port in spec.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
            let unset = match &port.target_port {
                None | Some(IntOrString::Int(0)) => true,
                Some(IntOrString::String(name)) => name.is_empty(),
                Some(IntOrString::Int(_)) => false,
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if is_external(spec) {
            spec.external_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
        }
        if type_ != "ExternalName" {
            spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
        }
        if type_ == "LoadBalancer" {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
            let ingress = object.status.as_mut().and_then(|s| s.load_balancer.as_mut());
            for ingress in ingress.into_iter().flat_map(|l| l.ingress.iter_mut().flatten()) {
                if ingress.ip.is_some() {
                    ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
                }
            }
        }
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

    fn validate(object: &Service) -> Errors {
        validate::validate(object)
    }

    fn validate_update(new: &Service, old: &Service) -> Errors {
        let mut errors = validate::validate_change(new, old);
        errors.extend(validate::validate(new));
        errors
    }

    fn validate_status_update(new: &Service, _: &Service) -> Errors {
        validate::validate_status(new)
    }

    fn warnings(object: &Service) -> Vec<String> {
        let none = Default::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let external_ips = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
        let external_name = spec.type_.as_deref() == Some("ExternalName");
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let mut texts = Vec::new();
        for (said, text) in [
            (
                external_ips,
                "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
            ),
            (headless && external_ips, "spec.externalIPs is ignored for headless services"),
            (
                headless && spec.session_affinity.as_deref() != Some("None"),
                "spec.SessionAffinity is ignored for headless services",
            ),
            (external_name && external_ips, "spec.externalIPs is ignored when spec.type is \"ExternalName\""),
            (
                !external_name && spec.external_name.is_some(),
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            ),
        ] {
            if said {
                texts.push(text.to_owned());
            }
        }
        texts
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

/// Reachable from outside the cluster: node ports, load balancers, external addresses.
fn is_external(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("NodePort" | "LoadBalancer") => true,
        Some("ClusterIP") => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object};
    use serde_json::json;

    fn row(spec: Value, status: Value) -> Value {
        let mut service = object(
            json!({"metadata": {"name": "s", "creationTimestamp": at(0)}, "spec": spec, "status": status}),
        );
        Services::default(&mut service);
        json!(Services::row(&service, "1970-01-01T00:00:30Z".parse().unwrap()))
    }

    #[test]
    fn defaults() {
        let mut service = object::<Service>(
            json!({"spec": {"ports": [{"port": 80}, {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"}]}}),
        );
        Services::default(&mut service);
        assert_eq!(
            serde_json::to_value(&service).unwrap()["spec"],
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ports": [
                {"port": 80, "protocol": "TCP", "targetPort": 80},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"}]})
        );
        let mut service =
            object::<Service>(json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}}));
        Services::default(&mut service);
        assert_eq!(
            serde_json::to_value(&service).unwrap()["spec"],
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                   "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true})
        );
        let mut service = object::<Service>(json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}));
        Services::default(&mut service);
        assert_eq!(
            serde_json::to_value(&service).unwrap()["spec"],
            json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"})
        );
    }

    #[test]
    fn warnings() {
        let warn = |spec: Value| {
            let mut service = object::<Service>(json!({"spec": spec}));
            Services::default(&mut service);
            Services::warnings(&service)
        };
        assert!(warn(json!({"clusterIP": "None"})).is_empty());
        assert_eq!(
            warn(json!({"clusterIP": "None", "sessionAffinity": "ClientIP", "externalName": "a"})),
            [
                "spec.SessionAffinity is ignored for headless services",
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            ]
        );
    }

    #[test]
    fn rows() {
        let ports = json!([{"port": 80}, {"port": 443, "nodePort": 30443}]);
        let none = json!({});
        assert_eq!(
            row(
                json!({"clusterIPs": ["10.96.0.5"], "ports": ports, "selector": {"app": "kubia"}}),
                none.clone()
            ),
            json!(["s", "ClusterIP", "10.96.0.5", "<none>", "80/TCP,443:30443/TCP", "30s", "app=kubia"])
        );
        assert_eq!(
            row(json!({"clusterIPs": ["None"]}), none.clone()),
            json!(["s", "ClusterIP", "None", "<none>", "<none>", "30s", "<none>"])
        );
        assert_eq!(row(json!({"type": "LoadBalancer"}), none.clone())[3], "<pending>");
        let status = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
        assert_eq!(
            row(json!({"type": "LoadBalancer", "externalIPs": ["5.6.7.8"]}), status)[3],
            "1.2.3.4,5.6.7.8"
        );
        assert_eq!(row(json!({"type": "ExternalName", "externalName": "a.b"}), none)[3], "a.b");
    }
}
