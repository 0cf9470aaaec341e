//! PersistentVolume: a piece of storage.

use super::shared::cells;
use super::{Column, Kind, Subresource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeStatus};
use serde_json::Value;

pub(super) struct PersistentVolumes;

impl Kind for PersistentVolumes {
    type Object = PersistentVolume;
    const PLURAL: &'static str = "persistentvolumes";
    const SINGULAR: &'static str = "persistentvolume";
    const NAMESPACED: bool = false;
    const SHORT_NAMES: &'static [&'static str] = &["pv"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Capacity", "string", 0, "Size of the volume"),
        Column::new("Access Modes", "string", 0, "Ways the volume can be mounted"),
        Column::new("Reclaim Policy", "string", 0, "What becomes of the volume when its claim is gone"),
        Column::new("Status", "string", 0, "Available, Bound, Released or Failed"),
        Column::new("Claim", "string", 0, "The claim it is bound to"),
        Column::new("StorageClass", "string", 0, "StorageClass of the pv"),
        Column::new("VolumeAttributesClass", "string", 0, "VolumeAttributesClass of the pv"),
        Column::new("Reason", "string", 0, "Why the volume is in this state"),
        Column::age(),
        Column::new("VolumeMode", "string", 1, "Filesystem or Block"),
    ];
    const RETURNS_DELETED: bool = true;

    fn prepare_create(object: &mut PersistentVolume) {
        object.status =
            Some(PersistentVolumeStatus { phase: Some("Pending".to_owned()), ..Default::default() });
    }

    fn prepare_update(new: &mut PersistentVolume, old: &PersistentVolume) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut PersistentVolume, old: &PersistentVolume) {
        new.spec = old.spec.clone();
    }

    fn row(object: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        let none = Default::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let status = object.status.as_ref();
        let claim = spec.claim_ref.as_ref().map_or_else(String::new, |c| {
            format!("{}/{}", c.namespace.as_deref().unwrap_or(""), c.name.as_deref().unwrap_or(""))
        });
        let phase = match object.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => status.and_then(|s| s.phase.as_deref()).unwrap_or(""),
        };
        let storage = spec.capacity.as_ref().and_then(|c| c.get("storage"));
        vec![
            cells::name(&object.metadata),
            storage.map_or("0", |q| q.0.as_str()).into(),
            cells::access_modes(spec.access_modes.as_deref().unwrap_or_default()).into(),
            cells::text(spec.persistent_volume_reclaim_policy.as_ref()),
            phase.into(),
            claim.into(),
            cells::storage_class(&object.metadata, spec.storage_class_name.as_ref()).into(),
            cells::text_or(spec.volume_attributes_class_name.as_ref(), "<unset>").into(),
            cells::text(status.and_then(|s| s.reason.as_ref())),
            cells::age(&object.metadata, now),
            cells::text_or(spec.volume_mode.as_ref(), "<unset>").into(),
        ]
    }
}
