//! Pod: containers that live and die together.

use super::{Column, Deletion, Kind, Subresource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::Value;

mod row;

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
        Subresource::Log,
        Subresource::Exec,
        Subresource::Attach,
        Subresource::PortForward,
        Subresource::Proxy,
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
            return Deletion::Immediate;
        }
        let own = object.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        match requested.or(own).unwrap_or(0) {
            0 => Deletion::Immediate,
            seconds if seconds < 0 => Deletion::Graceful { seconds: 1 },
            seconds => Deletion::Graceful { seconds },
        }
    }
}
