//! Node: a machine that runs pods.

use super::shared::{cells, network, repeats};
use super::{Column, Kind, Subresource};
use api::field::{Error, Errors, Path, Type};
use api::{conditions, names};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;
use std::collections::BTreeSet;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";
pub(super) const TAINT_EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];

pub(super) struct Nodes;

impl Kind for Nodes {
    type Object = Node;
    const PLURAL: &'static str = "nodes";
    const SINGULAR: &'static str = "node";
    const NAMESPACED: bool = false;
    const SHORT_NAMES: &'static [&'static str] = &["no"];
    const SUBRESOURCES: &'static [Subresource] =
        &[Subresource::Status, Subresource::Proxy, Subresource::Stop, Subresource::Kill, Subresource::Start];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Status", "string", 0, "The status of the node"),
        Column::new("Roles", "string", 0, "The roles of the node"),
        Column::age(),
        Column::new("Version", "string", 0, "Version the kubelet reports"),
        Column::new("Internal-IP", "string", 1, "Address within the cluster"),
        Column::new("External-IP", "string", 1, "Address outside the cluster"),
        Column::new("OS-Image", "string", 1, "Operating system the node reports"),
        Column::new("Kernel-Version", "string", 1, "Kernel the node reports"),
        Column::new("Container-Runtime", "string", 1, "Container runtime and its version"),
    ];
    const SELECTABLE: &'static [&'static str] = &["spec.unschedulable"];

    fn default(object: &mut Node) {
        // Allocatable is capacity until the kubelet says less.
        if let Some(status) = &mut object.status
            && status.allocatable.is_none()
        {
            status.allocatable = status.capacity.clone();
        }
        // The single and the plural spelling say the same.
        if let Some(spec) = &mut object.spec {
            match (&spec.pod_cidr, spec.pod_cidrs.as_deref().unwrap_or_default()) {
                (Some(cidr), []) => spec.pod_cidrs = Some(vec![cidr.clone()]),
                (None, [first, ..]) => spec.pod_cidr = Some(first.clone()),
                _ => {}
            }
        }
    }

    fn prepare_update(new: &mut Node, old: &Node) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut Node, old: &Node) {
        new.spec = old.spec.clone();
    }

    fn validate(object: &Node) -> Errors {
        let mut errors = Errors::default();
        validate_taints(object, &mut errors);
        let cidrs = object.spec.as_ref().and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
        for (i, cidr) in cidrs.iter().enumerate() {
            network::cidr(cidr, &Path::new("spec.podCIDRs").index(i), &mut errors);
        }
        errors
    }

    fn validate_update(new: &Node, old: &Node) -> Errors {
        let mut errors = Errors::default();
        let none = Default::default();
        let (new_spec, old_spec) = (new.spec.as_ref().unwrap_or(&none), old.spec.as_ref().unwrap_or(&none));
        let addresses = new.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
        let repeated = repeats(addresses.iter().map(|a| (&a.type_, &a.address)));
        for (i, address) in addresses.iter().enumerate() {
            if repeated[i] {
                errors.duplicate(&Path::new("status.addresses").index(i), address);
            }
        }
        if old_spec.pod_cidrs.as_ref().is_some_and(|c| !c.is_empty())
            && new_spec.pod_cidrs != old_spec.pod_cidrs
        {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&Path::new("spec.podCIDRs"), detail);
        }
        let provider = old_spec.provider_id.as_deref().unwrap_or("");
        if !provider.is_empty() && new_spec.provider_id.as_deref() != Some(provider) {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&Path::new("spec.providerID"), detail);
        }
        validate_taints(new, &mut errors);
        errors
    }

    fn validate_status_update(new: &Node, old: &Node) -> Errors {
        Self::validate_update(new, old)
    }

    fn row(object: &Node, now: Timestamp) -> Vec<Value> {
        let none = Default::default();
        let status = object.status.as_ref().unwrap_or(&none);
        let ready = conditions::find(status.conditions.as_deref().unwrap_or_default(), "Ready");
        let mut state = match ready.map(|c| c.status.as_str()) {
            None => "Unknown".to_owned(),
            Some("True") => "Ready".to_owned(),
            Some(_) => "NotReady".to_owned(),
        };
        if object.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
            state.push_str(",SchedulingDisabled");
        }
        let address = |type_: &str| {
            let found = status.addresses.iter().flatten().find(|a| a.type_ == type_);
            Value::from(found.map_or("<none>", |a| a.address.as_str()))
        };
        let none = Default::default();
        let info = status.node_info.as_ref().unwrap_or(&none);
        let known = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
        let mut kernel = known(&info.kernel_version);
        if !info.architecture.is_empty() {
            kernel.push_str(&format!(" ({})", info.architecture));
        }
        vec![
            cells::name(&object.metadata),
            state.into(),
            roles(object).into(),
            cells::age(&object.metadata, now),
            info.kubelet_version.clone().into(),
            address("InternalIP"),
            address("ExternalIP"),
            known(&info.os_image).into(),
            kernel.into(),
            known(&info.container_runtime_version).into(),
        ]
    }

    fn selectable_fields(object: &Node) -> Vec<(&'static str, String)> {
        let unschedulable = object.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        vec![("spec.unschedulable", unschedulable.to_string())]
    }
}

fn roles(node: &Node) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in node.metadata.labels.iter().flatten() {
        match key.strip_prefix(ROLE_PREFIX) {
            Some("") => {}
            Some(role) => {
                roles.insert(role);
            }
            None if key == ROLE_LABEL && !value.is_empty() => {
                roles.insert(value);
            }
            None => {}
        }
    }
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn validate_taints(node: &Node, errors: &mut Errors) {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let repeated = repeats(taints.iter().map(|t| (&t.key, &t.effect)));
    for (i, taint) in taints.iter().enumerate() {
        // The path is Kubernetes' own, odd as it is.
        let path = Path::new("metadata.taints").index(i);
        errors.invalid_each(&path.child("key"), &taint.key, names::qualified_name(&taint.key));
        let value = taint.value.as_deref().unwrap_or("");
        let faults = names::label_value(value);
        if !faults.is_empty() {
            errors.invalid(&path.child("value"), value, faults.join(";"));
        }
        match taint.effect.as_str() {
            "" => errors.required(&path.child("effect"), ""),
            known if TAINT_EFFECTS.contains(&known) => {}
            other => errors.not_supported(&path.child("effect"), other, &TAINT_EFFECTS),
        }
        if repeated[i] {
            errors.add(Error {
                kind: Type::Duplicate,
                path: path.to_string(),
                bad_value: serde_json::to_string(taint).ok(),
                detail: "taints must be unique by key and effect pair".to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn rows() {
        let node = object::<Node>(json!({
            "metadata": {"name": "n1", "creationTimestamp": at(0), "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "worker"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                       "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1", "architecture": "amd64",
                                    "containerRuntimeVersion": "docker://29", "bootID": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "linux", "systemUUID": ""}}
        }));
        assert_eq!(
            json!(Nodes::row(&node, "1970-01-02T00:00:00Z".parse().unwrap())),
            json!([
                "n1",
                "Ready,SchedulingDisabled",
                "control-plane,worker",
                "24h",
                "v1.36.0",
                "10.0.0.1",
                "<none>",
                "Debian",
                "6.1 (amd64)",
                "docker://29"
            ])
        );
        let bare = Nodes::row(&object(json!({"metadata": {"name": "n"}})), Timestamp::UNIX_EPOCH);
        assert_eq!(json!(bare[1..5]), json!(["Unknown", "<none>", "<unknown>", ""]));
    }

    #[test]
    fn taints_and_cidrs() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        let node = object::<Node>(
            json!({"spec": {"taints": [taint, taint, {"key": "b", "effect": "No"}], "podCIDRs": ["10.0.0.0/24"]}}),
        );
        let errors = texts(Nodes::validate(&node));
        assert_eq!(
            errors,
            [
                "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by \
                 key and effect pair",
                "metadata.taints[2].effect: Unsupported value: \"No\": supported values: \"NoExecute\", \"NoSchedule\", \
                 \"PreferNoSchedule\"",
            ]
        );
        let moved = object::<Node>(json!({"spec": {"podCIDRs": ["10.1.0.0/24"]}}));
        assert_eq!(
            texts(Nodes::validate_update(&moved, &node)),
            ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
        );
    }
}
