//! What a pod may know about itself: `fieldRef` and `resourceFieldRef`, for environment variables and files. Pure.

use api::quantity::{self, Quantity};
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use std::collections::BTreeMap;

/// Facts that are not in the pod's object yet when its first container is made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addresses {
    pub(crate) pod_ip: Option<String>,
    pub(crate) host_ip: Option<String>,
}

/// The value of a `fieldRef`, or what is wrong with it.
pub(crate) fn field(pod: &Pod, path: &str, addresses: &Addresses) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: &Option<String>| Ok(value.clone().unwrap_or_default());
    match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => Ok(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Ok(format_map(meta.annotations.as_ref())),
        "spec.nodeName" => text(&spec.and_then(|s| s.node_name.clone())),
        "spec.serviceAccountName" => text(&spec.and_then(|s| s.service_account_name.clone())),
        "status.podIP" | "status.podIPs" => text(&addresses.pod_ip),
        "status.hostIP" | "status.hostIPs" => text(&addresses.host_ip),
        _ => match subscript(path) {
            Some(("metadata.labels", key)) => Ok(look_up(meta.labels.as_ref(), key)),
            Some(("metadata.annotations", key)) => Ok(look_up(meta.annotations.as_ref(), key)),
            _ => Err(format!("unsupported fieldPath: {path}")),
        },
    }
}

/// `metadata.labels['key']` as its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (base, rest) = path.split_once("['")?;
    Some((base, rest.strip_suffix("']")?))
}

fn look_up(map: Option<&BTreeMap<String, String>>, key: &str) -> String {
    map.and_then(|map| map.get(key)).cloned().unwrap_or_default()
}

/// One `key="escaped value"` a line, sorted, as the downward API's files have it.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The value of a `resourceFieldRef`: a container's request or limit, in units of the divisor, rounded up. A limit that
/// is not set is what the node can give.
pub(crate) fn resource(
    pod: &Pod,
    own: &str,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, Text>,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(own);
    let container = pod
        .spec
        .as_ref()
        .and_then(|spec| api::pod::container(spec, name))
        .ok_or_else(|| format!("container {name} not found"))?;
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let amount = match kind {
        "limits" => listed(container, true, resource).or_else(|| allocatable.get(resource).cloned()),
        "requests" => listed(container, false, resource),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let amount = quantity::of(amount.as_ref());
    let divisor = quantity::of(selector.divisor.as_ref());
    Ok(divide_up(amount, divisor, resource == "cpu").to_string())
}

fn listed(container: &Container, limits: bool, resource: &str) -> Option<Text> {
    let resources = container.resources.as_ref()?;
    let list = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
    list?.get(resource).cloned()
}

fn divide_up(amount: Quantity, divisor: Quantity, milli: bool) -> i64 {
    let (amount, divisor) =
        if milli { (amount.milli_value(), divisor.milli_value()) } else { (amount.value(), divisor.value()) };
    // A divisor that is not given (or is zero) counts single units.
    let unit = if milli { 1000 } else { 1 };
    let divisor = if divisor == 0 { unit } else { divisor };
    let quotient = amount / divisor;
    if amount % divisor > 0 { quotient + 1 } else { quotient }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "1", "b.c/d": "x\"y"}},
            "spec": {"nodeName": "node", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1250m"}, "requests": {"memory": "64Mi"}}}]}
        }))
        .unwrap()
    }

    #[test]
    fn fields() {
        let addresses = Addresses { pod_ip: Some("10.0.0.2".into()), host_ip: None };
        let check = |path: &str, expected: Result<&str, &str>| {
            let found = field(&pod(), path, &addresses);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{path}");
        };
        check("metadata.name", Ok("p"));
        check("metadata.uid", Ok("u"));
        check("metadata.labels['a']", Ok("1"));
        check("metadata.labels['b.c/d']", Ok("x\"y"));
        check("metadata.labels['none']", Ok(""));
        check("metadata.labels", Ok("a=\"1\"\nb.c/d=\"x\\\"y\""));
        check("metadata.annotations", Ok(""));
        check("status.podIP", Ok("10.0.0.2"));
        check("status.hostIP", Ok(""));
        check("spec.nodeName", Ok("node"));
        check("spec.nothing", Err("unsupported fieldPath: spec.nothing"));
    }

    #[test]
    fn resources() {
        let allocatable = BTreeMap::from([("memory".to_owned(), Text("8Gi".to_owned()))]);
        let check = |resource_: &str, divisor: Option<&str>, expected: &str| {
            let selector = ResourceFieldSelector {
                resource: resource_.to_owned(),
                divisor: divisor.map(|d| Text(d.to_owned())),
                container_name: None,
            };
            assert_eq!(
                resource(&pod(), "c", &selector, &allocatable).unwrap(),
                expected,
                "{resource_} {divisor:?}"
            );
        };
        check("limits.cpu", None, "2");
        check("limits.cpu", Some("1m"), "1250");
        check("requests.memory", None, "67108864");
        check("requests.memory", Some("1Mi"), "64");
        check("limits.memory", Some("1Gi"), "8");
        check("requests.cpu", Some("0"), "0");
    }
}
