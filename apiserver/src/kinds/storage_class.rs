//! StorageClass: how volumes of a class are made.

use super::shared::{cells, object_meta};
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

/// Kubernetes' limits for `parameters`: entries, and bytes of all together.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;
const DEFAULT_ANNOTATIONS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) struct StorageClasses;

impl Kind for StorageClasses {
    type Object = StorageClass;
    const PLURAL: &'static str = "storageclasses";
    const SINGULAR: &'static str = "storageclass";
    const NAMESPACED: bool = false;
    const SHORT_NAMES: &'static [&'static str] = &["sc"];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Provisioner", "string", 0, "Who makes the volumes"),
        Column::new("ReclaimPolicy", "string", 0, "What becomes of a volume when its claim is gone"),
        Column::new("VolumeBindingMode", "string", 0, "When volumes are made and bound"),
        Column::new("AllowVolumeExpansion", "string", 0, "Whether volumes may grow"),
        Column::age(),
    ];
    const RETURNS_DELETED: bool = true;

    fn default(object: &mut StorageClass) {
        object.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        object.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(object: &StorageClass) -> Errors {
        let mut errors = Errors::default();
        let provisioner = Path::new("provisioner");
        if object.provisioner.is_empty() {
            errors.required(&provisioner, "");
        } else {
            let faults = names::qualified_name(&object.provisioner.to_lowercase());
            errors.invalid_each(&provisioner, &object.provisioner, faults);
        }
        let parameters = Path::new("parameters");
        if let Some(all) = &object.parameters {
            if all.len() > PARAMETERS_MAX {
                errors.too_long(&parameters, PARAMETERS_MAX);
            }
            if all.contains_key("") {
                errors.invalid(&parameters, "", "field can not be empty.");
            }
            if all.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > PARAMETERS_MAX_BYTES {
                errors.too_long(&parameters, PARAMETERS_MAX_BYTES);
            }
        }
        match object.reclaim_policy.as_deref() {
            None | Some("" | "Delete" | "Retain") => {}
            Some(other) => errors.not_supported(&Path::new("reclaimPolicy"), other, &["Delete", "Retain"]),
        }
        match object.volume_binding_mode.as_deref() {
            None => errors.required(&Path::new("volumeBindingMode"), ""),
            Some("Immediate" | "WaitForFirstConsumer") => {}
            Some(other) => {
                errors.not_supported(
                    &Path::new("volumeBindingMode"),
                    other,
                    &["Immediate", "WaitForFirstConsumer"],
                );
            }
        }
        errors
    }

    fn validate_update(new: &StorageClass, old: &StorageClass) -> Errors {
        let mut errors = Errors::default();
        let path = |name| Path::new(name);
        object_meta::immutable(&new.parameters, &old.parameters, &path("parameters"), &mut errors);
        object_meta::immutable(&new.provisioner, &old.provisioner, &path("provisioner"), &mut errors);
        object_meta::immutable(&new.reclaim_policy, &old.reclaim_policy, &path("reclaimPolicy"), &mut errors);
        let mode = path("volumeBindingMode");
        object_meta::immutable(&new.volume_binding_mode, &old.volume_binding_mode, &mode, &mut errors);
        errors
    }

    fn row(object: &StorageClass, now: Timestamp) -> Vec<Value> {
        let annotations = object.metadata.annotations.as_ref();
        let default = DEFAULT_ANNOTATIONS
            .iter()
            .any(|key| annotations.and_then(|a| a.get(*key)).is_some_and(|value| value == "true"));
        let name = object.metadata.name.as_deref().unwrap_or("");
        vec![
            if default { format!("{name} (default)").into() } else { name.into() },
            object.provisioner.clone().into(),
            cells::text_or(object.reclaim_policy.as_ref(), "Delete").into(),
            cells::text_or(object.volume_binding_mode.as_ref(), "Immediate").into(),
            object.allow_volume_expansion.unwrap_or(false).into(),
            cells::age(&object.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn defaults_rules_and_row() {
        let mut class = object::<StorageClass>(json!({
            "metadata": {"name": "standard", "creationTimestamp": at(0), "annotations": {DEFAULT_ANNOTATIONS[0]: "true"}},
            "provisioner": "minik8s.io/host-path"
        }));
        StorageClasses::default(&mut class);
        assert!(StorageClasses::validate(&class).is_empty());
        assert_eq!(
            json!(StorageClasses::row(&class, "1970-01-01T01:00:00Z".parse().unwrap())),
            json!(["standard (default)", "minik8s.io/host-path", "Delete", "Immediate", false, "60m"])
        );
        let wrong = object::<StorageClass>(
            json!({"provisioner": "", "reclaimPolicy": "Recycle", "volumeBindingMode": "x"}),
        );
        assert_eq!(
            texts(StorageClasses::validate(&wrong)),
            [
                "provisioner: Required value",
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                "volumeBindingMode: Unsupported value: \"x\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ]
        );
        let mut changed = class.clone();
        changed.reclaim_policy = Some("Retain".into());
        assert_eq!(
            texts(StorageClasses::validate_update(&changed, &class)),
            ["reclaimPolicy: Invalid value: \"Retain\": field is immutable"]
        );
    }
}
