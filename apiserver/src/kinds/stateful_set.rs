//! StatefulSet: pods with names, order and storage of their own.

use super::shared::cells;
use super::{Column, Kind, Subresource};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use serde_json::Value;

pub(super) struct StatefulSets;

impl Kind for StatefulSets {
    type Object = StatefulSet;
    const PLURAL: &'static str = "statefulsets";
    const SINGULAR: &'static str = "statefulset";
    const SHORT_NAMES: &'static [&'static str] = &["sts"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Scale];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Ready", "string", 0, "Number of the pod with ready state"),
        Column::age(),
        Column::new("Containers", "string", 1, "Names of each container in the template."),
        Column::new("Images", "string", 1, "Images referenced by each container in the template."),
    ];

    fn prepare_create(object: &mut StatefulSet) {
        object.status = Some(StatefulSetStatus { available_replicas: Some(0), ..Default::default() });
    }

    fn prepare_update(new: &mut StatefulSet, old: &StatefulSet) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut StatefulSet, old: &StatefulSet) {
        new.spec = old.spec.clone();
    }

    fn generation_changed(new: &StatefulSet, old: &StatefulSet) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn row(object: &StatefulSet, now: Timestamp) -> Vec<Value> {
        let none = Default::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let ready = object.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        let containers = spec.template.spec.as_ref().map_or(&[][..], |s| &s.containers);
        let (names, images) = cells::containers(containers);
        vec![
            cells::name(&object.metadata),
            format!("{ready}/{}", spec.replicas.unwrap_or(0)).into(),
            cells::age(&object.metadata, now),
            names.into(),
            images.into(),
        ]
    }

    fn scale(object: &StatefulSet) -> Option<(i32, i32, String)> {
        let spec = object.spec.as_ref()?;
        let selector = api::selector::Selector::from_label_selector(Some(&spec.selector)).unwrap_or_default();
        let current = object.status.as_ref().map_or(0, |s| s.replicas);
        Some((spec.replicas.unwrap_or(0), current, selector.to_string()))
    }

    fn set_scale(object: &mut StatefulSet, replicas: i32) {
        object.spec.get_or_insert_default().replicas = Some(replicas);
    }
}
