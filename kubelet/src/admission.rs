//! What a node refuses although the pod was bound to it: the scheduler may have been wrong, or not asked. Pure.

use api::quantity::{self, Quantity};
use k8s_openapi::{
    api::core::v1::{Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use std::{collections::BTreeMap, sync::Arc};

/// `Err` is the reason and message of a Failed status.
pub(crate) fn check(
    pod: &Pod,
    running: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Text>,
    node: &str,
) -> Result<(), (String, String)> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let refuse =
        |reason: &str, message: String| Err((reason.to_owned(), format!("Pod was rejected: {message}")));
    let others: Vec<&PodSpec> = running.iter().filter_map(|pod| pod.spec.as_ref()).collect();
    for port in host_ports(spec) {
        if others.iter().flat_map(|other| host_ports(other)).any(|taken| conflicts(&port, &taken)) {
            let (_, protocol, number) = port;
            return refuse(
                "NodePorts",
                format!("host port {number}/{protocol} of node {node} is in use by another pod"),
            );
        }
    }
    let pods = quantity::of(allocatable.get("pods")).value();
    if pods > 0 && i64::try_from(others.len()).unwrap_or(i64::MAX) >= pods {
        return refuse(
            "OutOfpods",
            format!("Node didn't have enough resource: pods, requested: 1, used: {pods}, capacity: {pods}"),
        );
    }
    if let Some(Lack { name, wanted, used, capacity }) =
        lacking(spec, running, allocatable).into_iter().next()
    {
        return refuse(
            &format!("OutOf{name}"),
            format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            ),
        );
    }
    Ok(())
}

/// What a node does not have enough of.
pub(crate) struct Lack {
    pub(crate) name: String,
    pub(crate) wanted: Quantity,
    pub(crate) used: Quantity,
    pub(crate) capacity: Quantity,
}

/// What is missing for a pod beside the others.
pub(crate) fn lacking(
    spec: &PodSpec,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Text>,
) -> Vec<Lack> {
    let others: Vec<_> =
        others.iter().filter_map(|other| other.spec.as_ref()).map(api::pod::requests).collect();
    let mut lacks = Vec::new();
    for (name, wanted) in api::pod::requests(spec) {
        let Some(capacity) = allocatable.get(&name) else { continue };
        let capacity = quantity::of(Some(capacity));
        let used = others
            .iter()
            .fold(Quantity::ZERO, |sum, other| sum + other.get(&name).copied().unwrap_or_default());
        if wanted.is_positive() && used + wanted > capacity {
            lacks.push(Lack { name, wanted, used, capacity });
        }
    }
    lacks
}

type Port = (String, String, i32);

/// (address, protocol, port) of every host port.
fn host_ports(spec: &PodSpec) -> Vec<Port> {
    let host_network = spec.host_network == Some(true);
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.or(host_network.then_some(port.container_port)).filter(|n| *n > 0)?;
            let address = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| ANY.to_owned());
            Some((address, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), number))
        })
        .collect()
}

const ANY: &str = "0.0.0.0";

fn conflicts(a: &Port, b: &Port) -> bool {
    (a.1 == b.1 && a.2 == b.2) && (a.0 == b.0 || a.0 == ANY || b.0 == ANY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(port: serde_json::Value, cpu: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "ports": [port], "resources": {"requests": {"cpu": cpu}}}]}}))
        .unwrap()
    }

    #[test]
    fn refusals() {
        let allocatable = BTreeMap::from([
            ("cpu".to_owned(), Text("2".to_owned())),
            ("pods".to_owned(), Text("3".to_owned())),
        ]);
        let running =
            [Arc::new(pod(json!({"containerPort": 80, "hostPort": 8080, "hostIP": "1.1.1.1"}), "1500m"))];
        let verdict = |port: serde_json::Value, cpu: &str| {
            check(&pod(port, cpu), &running, &allocatable, "n").err().map(|(reason, _)| reason)
        };
        assert_eq!(
            verdict(json!({"containerPort": 80, "hostPort": 8080}), "0").as_deref(),
            Some("NodePorts")
        );
        assert_eq!(verdict(json!({"containerPort": 80, "hostPort": 8080, "hostIP": "2.2.2.2"}), "0"), None);
        assert_eq!(verdict(json!({"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}), "0"), None);
        assert_eq!(verdict(json!({"containerPort": 80}), "500m"), None);
        assert_eq!(verdict(json!({"containerPort": 80}), "501m").as_deref(), Some("OutOfcpu"));
        let full = [running[0].clone(), running[0].clone(), running[0].clone()];
        let error = check(&pod(json!({"containerPort": 80}), "0"), &full, &allocatable, "n").unwrap_err();
        assert_eq!(error.0, "OutOfpods");
    }
}
