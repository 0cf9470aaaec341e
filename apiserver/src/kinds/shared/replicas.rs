//! What ReplicaSet and ReplicationController have in common: what they print, and what their status may count.

use super::{cells, pod_template};
use crate::kinds::Column;
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::ReplicaSetStatus,
        core::v1::{PodTemplateSpec, ReplicationControllerStatus},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

pub(in crate::kinds) const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Desired", "integer", 0, "Number of pods that are wanted."),
    Column::new("Current", "integer", 0, "Number of pods there are."),
    Column::new("Ready", "integer", 0, "Number of pods that are ready."),
    Column::age(),
    Column::new("Containers", "string", 1, "Names of each container in the template."),
    Column::new("Images", "string", 1, "Images referenced by each container in the template."),
    Column::new("Selector", "string", 1, "Label query that the pods match."),
];
pub(in crate::kinds) const SELECTABLE: &[&str] = &["status.replicas"];

/// What a status counts.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::kinds) struct Counts {
    pub(in crate::kinds) replicas: i32,
    fully_labeled: Option<i32>,
    ready: Option<i32>,
    available: Option<i32>,
    terminating: Option<i32>,
    observed_generation: Option<i64>,
}

impl From<Option<&ReplicaSetStatus>> for Counts {
    fn from(status: Option<&ReplicaSetStatus>) -> Self {
        status.map_or_else(Self::default, |s| Self {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas,
            ready: s.ready_replicas,
            available: s.available_replicas,
            terminating: s.terminating_replicas,
            observed_generation: s.observed_generation,
        })
    }
}

impl From<Option<&ReplicationControllerStatus>> for Counts {
    fn from(status: Option<&ReplicationControllerStatus>) -> Self {
        status.map_or_else(Self::default, |s| Self {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas,
            ready: s.ready_replicas,
            available: s.available_replicas,
            terminating: None,
            observed_generation: s.observed_generation,
        })
    }
}

impl Counts {
    pub(in crate::kinds) fn validate(self) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("status"));
        let parts = [
            ("fullyLabeledReplicas", self.fully_labeled),
            ("readyReplicas", self.ready),
            ("availableReplicas", self.available),
        ];
        pod_template::within_replicas(self.replicas, &parts, &path, &mut errors);
        pod_template::not_negative([("observedGeneration", self.observed_generation)], &path, &mut errors);
        pod_template::not_negative([("terminatingReplicas", self.terminating)], &path, &mut errors);
        errors
    }

    pub(in crate::kinds) fn selectable_fields(self) -> Vec<(&'static str, String)> {
        vec![("status.replicas", self.replicas.to_string())]
    }
}

pub(in crate::kinds) fn row(
    meta: &ObjectMeta,
    wanted: Option<i32>,
    counts: Counts,
    template: Option<&PodTemplateSpec>,
    selector: Value,
    now: Timestamp,
) -> Vec<Value> {
    let [containers, images] = pod_template::container_cells(template);
    vec![
        cells::name(meta),
        wanted.unwrap_or(0).into(),
        counts.replicas.into(),
        counts.ready.unwrap_or(0).into(),
        cells::age(meta, now),
        containers,
        images,
        selector,
    ]
}

pub(in crate::kinds) fn warnings(meta: &ObjectMeta, template: Option<&PodTemplateSpec>) -> Vec<String> {
    let mut texts = pod_template::warnings(template, &Path::new("spec").child("template"));
    texts.extend(pod_template::name_warning(meta));
    texts
}
