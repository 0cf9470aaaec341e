//! PersistentVolumeClaim: a wish for storage.

use super::shared::cells;
use super::{Column, Kind, Subresource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus};
use serde_json::Value;

pub(super) struct PersistentVolumeClaims;

impl Kind for PersistentVolumeClaims {
    type Object = PersistentVolumeClaim;
    const PLURAL: &'static str = "persistentvolumeclaims";
    const SINGULAR: &'static str = "persistentvolumeclaim";
    const SHORT_NAMES: &'static [&'static str] = &["pvc"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Status", "string", 0, "Pending, Bound or Lost"),
        Column::new("Volume", "string", 0, "The volume it is bound to"),
        Column::new("Capacity", "string", 0, "Size of that volume"),
        Column::new("Access Modes", "string", 0, "Ways that volume can be mounted"),
        Column::new("StorageClass", "string", 0, "StorageClass of the pvc"),
        Column::new("VolumeAttributesClass", "string", 0, "VolumeAttributesClass of the pvc"),
        Column::age(),
        Column::new("VolumeMode", "string", 1, "Filesystem or Block"),
    ];
    const RETURNS_DELETED: bool = true;

    fn prepare_create(object: &mut PersistentVolumeClaim) {
        object.status =
            Some(PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..Default::default() });
    }

    fn prepare_update(new: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        new.spec = old.spec.clone();
    }

    fn row(object: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        let none = Default::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let status = object.status.as_ref();
        let phase = match object.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => status.and_then(|s| s.phase.as_deref()).unwrap_or(""),
        };
        let volume = spec.volume_name.as_deref().unwrap_or("");
        let (capacity, modes) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            let capacity = status.and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
            let modes = status.and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
            (capacity.map_or("0".to_owned(), |q| q.0.clone()), cells::access_modes(modes))
        };
        vec![
            cells::name(&object.metadata),
            phase.into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            cells::storage_class(&object.metadata, spec.storage_class_name.as_ref()).into(),
            cells::text_or(spec.volume_attributes_class_name.as_ref(), "<unset>").into(),
            cells::age(&object.metadata, now),
            cells::text_or(spec.volume_mode.as_ref(), "<unset>").into(),
        ]
    }
}
