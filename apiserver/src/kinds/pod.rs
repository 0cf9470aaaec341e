//! Pod: containers that live and die together.

use super::shared::pod_spec::{self, Holder};
use super::{Column, Deletion, Kind, Subresource};
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodIP, PodStatus};
use serde_json::Value;

mod parts;
mod row;
mod update;

pub(super) struct Pods;

impl Kind for Pods {
    type Object = Pod;
    const PLURAL: &'static str = "pods";
    const SINGULAR: &'static str = "pod";
    const SHORT_NAMES: &'static [&'static str] = &["po"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[
        Subresource::Status,
        Subresource::Binding,
        Subresource::Eviction,
        Subresource::Log,
        Subresource::Exec,
        Subresource::Attach,
        Subresource::PortForward,
        Subresource::Proxy,
        Subresource::EphemeralContainers,
        Subresource::Resize,
    ];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Ready", "string", 0, "The aggregate readiness state of this pod for accepting traffic."),
        Column::new("Status", "string", 0, "The aggregate status of the containers in this pod."),
        Column::new(
            "Restarts",
            "string",
            0,
            "The number of times the containers in this pod have been restarted and when the last container in this pod \
             has restarted.",
        ),
        Column::age(),
        Column::new("IP", "string", 1, "Address of the pod"),
        Column::new("Node", "string", 1, "Node the pod runs on"),
        Column::new("Nominated Node", "string", 1, "Node that is being cleared for the pod"),
        Column::new(
            "Readiness Gates",
            "string",
            1,
            "Conditions that must hold besides readiness of the containers",
        ),
    ];
    const RETURNS_DELETED: bool = true;
    const SELECTABLE: &'static [&'static str] = &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ];

    fn default(object: &mut Pod) {
        let spec = object.spec.get_or_insert_default();
        pod_spec::default_spec(spec);
        pod_spec::default_pod(spec);
        // Read by people and schedulers of old; the pod may have been made before it could be known.
        if let Some(status) = &mut object.status
            && status.qos_class.is_none()
        {
            status.qos_class = Some(api::pod::qos_class(spec).to_owned());
        }
        if let Some(status) = &mut object.status {
            same_addresses(status);
        }
    }

    fn prepare_create(object: &mut Pod) {
        let qos_class = object.spec.as_ref().map(|s| api::pod::qos_class(s).to_owned());
        object.status =
            Some(PodStatus { phase: Some("Pending".to_owned()), qos_class, ..Default::default() });
    }

    fn prepare_update(new: &mut Pod, old: &Pod) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut Pod, old: &Pod) {
        new.spec = old.spec.clone();
        new.metadata.owner_references = old.metadata.owner_references.clone();
        if let (Some(new), Some(old)) = (&mut new.status, &old.status)
            && new.qos_class.is_none()
        {
            new.qos_class = old.qos_class.clone();
        }
    }

    fn prepare_part_update(part: Subresource, new: &mut Pod, old: &Pod) {
        match part {
            Subresource::EphemeralContainers => parts::prepare_ephemeral(new, old),
            _ => parts::prepare_resize(new, old),
        }
    }

    fn validate(object: &Pod) -> Errors {
        let mut errors = validate_spec(object);
        let none = Default::default();
        let (spec, path) = (object.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
            errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
        }
        if spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty())
            && api::pod::node_name(object).is_some()
        {
            let detail = "cannot be set until all schedulingGates have been cleared";
            errors.forbidden(&path.child("nodeName"), detail);
        }
        errors
    }

    fn validate_update(new: &Pod, old: &Pod) -> Errors {
        let mut errors = validate_spec(new);
        errors.extend(update::validate(new, old));
        errors
    }

    fn validate_status_update(new: &Pod, old: &Pod) -> Errors {
        update::validate_status(new, old)
    }

    fn validate_part_update(part: Subresource, new: &Pod, old: &Pod) -> Errors {
        match part {
            Subresource::EphemeralContainers => parts::validate_ephemeral(new, old),
            _ => parts::validate_resize(new, old),
        }
    }

    fn warnings(object: &Pod) -> Vec<String> {
        let mut texts = Vec::new();
        let name = object.metadata.name.as_deref().unwrap_or("");
        let faults = api::names::dns_label(name);
        if !name.is_empty() && !faults.is_empty() {
            texts.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
                 recommended: [{}]",
                faults.join(" ")
            ));
        }
        if let Some(spec) = &object.spec {
            texts.extend(pod_spec::warnings(spec, &Path::new("spec")));
        }
        texts
    }

    fn generation_changed(new: &Pod, old: &Pod) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn row(object: &Pod, now: Timestamp) -> Vec<Value> {
        row::row(object, now)
    }

    fn selectable_fields(object: &Pod) -> Vec<(&'static str, String)> {
        let none = (Default::default(), Default::default());
        let spec = object.spec.as_ref().unwrap_or(&none.0);
        let status = object.status.as_ref().unwrap_or(&none.1);
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        vec![
            ("spec.nodeName", text(&spec.node_name)),
            ("spec.restartPolicy", text(&spec.restart_policy)),
            ("spec.schedulerName", text(&spec.scheduler_name)),
            ("spec.serviceAccountName", text(&spec.service_account_name)),
            ("spec.hostNetwork", spec.host_network.unwrap_or(false).to_string()),
            ("status.phase", text(&status.phase)),
            ("status.podIP", text(&status.pod_ip)),
            ("status.podIPs", text(&status.pod_ip)),
            ("status.nominatedNodeName", text(&status.nominated_node_name)),
        ]
    }

    fn deletion(object: &Pod, requested: Option<i64>) -> Deletion {
        // Nobody would ever confirm the end of what no node runs.
        if api::pod::node_name(object).is_none() || api::pod::is_terminal(object) {
            return Deletion::Graceful { seconds: 0 };
        }
        let own = object.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        match requested.or(own).unwrap_or(0) {
            seconds if seconds < 0 => Deletion::Graceful { seconds: 1 },
            seconds => Deletion::Graceful { seconds },
        }
    }
}

/// The single and the plural spelling of addresses say the same.
fn same_addresses(status: &mut PodStatus) {
    match (&status.pod_ip, status.pod_ips.as_deref().unwrap_or_default()) {
        (Some(ip), []) => status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]),
        (None, [first, ..]) => status.pod_ip = Some(first.ip.clone()),
        _ => {}
    }
    match (&status.host_ip, status.host_ips.as_deref().unwrap_or_default()) {
        (Some(ip), []) => status.host_ips = Some(vec![HostIP { ip: ip.clone() }]),
        (None, [first, ..]) => status.host_ip = Some(first.ip.clone()),
        _ => {}
    }
}

fn validate_spec(pod: &Pod) -> Errors {
    let mut errors = Errors::default();
    let path = Path::new("spec");
    let Some(spec) = &pod.spec else {
        errors.required(&path, "");
        return errors;
    };
    pod_spec::validate(spec, Holder::Pod, &path, &mut errors);
    if spec.service_account_name.as_deref().unwrap_or("").is_empty() {
        for (i, volume) in spec.volumes.iter().flatten().enumerate() {
            let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
            for (j, _) in sources.enumerate().filter(|(_, s)| s.service_account_token.is_some()) {
                let path = path.child("volumes").index(i).child("projected").child("sources").index(j);
                let detail = "must not be specified when serviceAccountName is not set";
                errors.forbidden(&path.child("serviceAccountToken"), detail);
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests;
