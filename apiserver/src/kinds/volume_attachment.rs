//! VolumeAttachment and VolumeAttributesClass: of CSI drivers, stored and served.

use super::shared::{cells, object_meta};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttributesClass, VolumeError};
use serde_json::Value;

/// Kubernetes' limits, in bytes.
const METADATA_MAX: usize = 256 * 1024;
const MESSAGE_MAX: usize = 1024;
const PARAMETERS_MAX: usize = 512;

pub(super) struct VolumeAttachments;

impl Kind for VolumeAttachments {
    type Object = VolumeAttachment;
    const PLURAL: &'static str = "volumeattachments";
    const SINGULAR: &'static str = "volumeattachment";
    const UNCONDITIONAL_UPDATE: bool = false;
    const NAMESPACED: bool = false;
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::formatted("Attacher", "string", "name", 0, "Who attaches."),
        Column::new("PV", "string", 0, "The volume."),
        Column::new("Node", "string", 0, "Where it is attached."),
        Column::new("Attached", "boolean", 0, "Whether it is."),
        Column::age(),
    ];
    const RETURNS_DELETED: bool = true;

    fn prepare_create(object: &mut VolumeAttachment) {
        object.status = Some(Default::default());
    }
    fn prepare_update(new: &mut VolumeAttachment, old: &VolumeAttachment) {
        new.status = old.status.clone();
    }
    fn prepare_status_update(new: &mut VolumeAttachment, old: &VolumeAttachment) {
        new.spec = old.spec.clone();
        object_meta::keep(&mut new.metadata, &old.metadata);
    }

    fn validate(object: &VolumeAttachment) -> Errors {
        let (mut errors, path, spec) = (Errors::default(), Path::new("spec"), &object.spec);
        let attacher = path.child("attacher");
        match spec.attacher.as_str() {
            "" => errors.required(&attacher, ""),
            name => errors.invalid_each(&attacher, name, names::dns_subdomain(&name.to_lowercase())),
        }
        let source = path.child("source");
        let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (&spec.source.inline_volume_spec, &spec.source.persistent_volume_name) {
            (None, None) => errors.required(&source, one),
            (Some(_), Some(_)) => errors.forbidden(&source, one),
            (None, Some(name)) => {
                let path = source.child("persistentVolumeName");
                errors.invalid_each(&path, name, names::dns_subdomain(name));
            }
            (Some(_), None) => {}
        }
        let node = &spec.node_name;
        errors.invalid_each(&path.child("nodeName"), node, names::dns_subdomain(node));
        errors
    }

    fn validate_update(new: &VolumeAttachment, old: &VolumeAttachment) -> Errors {
        let mut errors = Self::validate(new);
        object_meta::immutable(&new.spec, &old.spec, &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_status_update(new: &VolumeAttachment, _: &VolumeAttachment) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("status"));
        let Some(status) = &new.status else { return errors };
        let size: usize = status.attachment_metadata.iter().flatten().map(|(k, v)| k.len() + v.len()).sum();
        if size > METADATA_MAX {
            errors.too_long(&path.child("attachmentMetadata"), METADATA_MAX);
        }
        let faults: [(&str, &Option<VolumeError>); 2] =
            [("attachError", &status.attach_error), ("detachError", &status.detach_error)];
        for (field, fault) in faults {
            if fault.as_ref().and_then(|f| f.message.as_ref()).is_some_and(|m| m.len() > MESSAGE_MAX) {
                errors.too_long(&path.child(field).child("message"), MESSAGE_MAX);
            }
        }
        errors
    }

    fn row(object: &VolumeAttachment, now: Timestamp) -> Vec<Value> {
        vec![
            cells::name(&object.metadata),
            object.spec.attacher.clone().into(),
            cells::text(object.spec.source.persistent_volume_name.as_ref()),
            object.spec.node_name.clone().into(),
            object.status.as_ref().is_some_and(|s| s.attached).into(),
            cells::age(&object.metadata, now),
        ]
    }
}

pub(super) struct VolumeAttributesClasses;

impl Kind for VolumeAttributesClasses {
    type Object = VolumeAttributesClass;
    const PLURAL: &'static str = "volumeattributesclasses";
    const SINGULAR: &'static str = "volumeattributesclass";
    const SHORT_NAMES: &'static [&'static str] = &["vac"];
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] =
        &[Column::name(), Column::new("DriverName", "string", 0, "The driver it is for."), Column::age()];
    const RETURNS_DELETED: bool = true;

    fn validate(object: &VolumeAttributesClass) -> Errors {
        let mut errors = Errors::default();
        match object.driver_name.as_str() {
            "" => errors.required(&Path::new("driverName"), ""),
            name => {
                let faults = names::qualified_name(&name.to_lowercase());
                errors.invalid_each(&Path::new("driverName"), name, faults);
            }
        }
        let (path, all) = (Path::new("parameters"), object.parameters.clone().unwrap_or_default());
        if all.is_empty() {
            errors.required(&path, "must contain at least one key/value pair");
        } else if all.len() > PARAMETERS_MAX {
            errors.too_long(&path, PARAMETERS_MAX);
        }
        if all.contains_key("") {
            errors.invalid(&path, "", "field can not be empty.");
        }
        errors
    }

    fn validate_update(new: &VolumeAttributesClass, old: &VolumeAttributesClass) -> Errors {
        let mut errors = Self::validate(new);
        if new.driver_name != old.driver_name {
            errors.forbidden(&Path::new("driverName"), "updates to driverName are forbidden.");
        }
        if new.parameters != old.parameters {
            errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
        errors
    }

    fn row(object: &VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
        let driver = object.driver_name.clone().into();
        vec![cells::name(&object.metadata), driver, cells::age(&object.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn rules() {
        let attachment = |source: Value| -> VolumeAttachment {
            object(
                json!({"metadata": {"name": "a"}, "spec": {"attacher": "d.io", "nodeName": "n", "source": source}}),
            )
        };
        let fine = attachment(json!({"persistentVolumeName": "pv"}));
        assert!(texts(VolumeAttachments::validate(&fine)).is_empty());
        assert_eq!(
            texts(VolumeAttachments::validate(&attachment(json!({})))),
            [
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"
            ]
        );
        assert_eq!(
            texts(VolumeAttachments::validate_update(
                &attachment(json!({"persistentVolumeName": "x"})),
                &fine
            ))
            .len(),
            1
        );
        let class = |speed: &str| -> VolumeAttributesClass {
            object(json!({"metadata": {"name": "c"}, "driverName": "d.io", "parameters": {"speed": speed}}))
        };
        assert!(texts(VolumeAttributesClasses::validate(&class("1"))).is_empty());
        assert_eq!(
            texts(VolumeAttributesClasses::validate_update(&class("1"), &class("2"))),
            ["parameters: Forbidden: updates to parameters are forbidden."]
        );
    }
}
