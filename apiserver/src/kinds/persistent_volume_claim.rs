//! PersistentVolumeClaim: a wish for storage.

use super::shared::diff::diff;
use super::shared::pod_spec::{fractional, validate_quantities};
use super::shared::{cells, label_selector, object_meta};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::{names, quantity};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, TypedLocalObjectReference,
    TypedObjectReference,
};
use serde_json::Value;

pub(super) const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub(super) const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

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

    fn default(object: &mut PersistentVolumeClaim) {
        let spec = object.spec.get_or_insert_default();
        default_spec(spec);
        let status = object.status.get_or_insert_default();
        status.phase.get_or_insert_with(|| "Pending".to_owned());
    }

    fn prepare_create(object: &mut PersistentVolumeClaim) {
        object.status =
            Some(PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..Default::default() });
        let Some(spec) = &mut object.spec else { return };
        if !spec.data_source.as_ref().is_some_and(is_claim_or_snapshot) {
            spec.data_source = None;
        }
        unite_sources(spec);
    }

    fn prepare_update(new: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        new.status = old.status.clone();
        let Some(spec) = &mut new.spec else { return };
        // What is there already stays; see `prepare_create`.
        let in_use =
            old.spec.as_ref().is_some_and(|s| s.data_source.is_some() || s.data_source_ref.is_some());
        if !in_use && !spec.data_source.as_ref().is_some_and(is_claim_or_snapshot) {
            spec.data_source = None;
        }
        unite_sources(spec);
    }

    fn prepare_status_update(new: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        new.spec = old.spec.clone();
    }

    fn validate(object: &PersistentVolumeClaim) -> Errors {
        let mut errors = Errors::default();
        let none = Default::default();
        validate_spec(object.spec.as_ref().unwrap_or(&none), &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Errors {
        let mut errors = Self::validate(new);
        let none = (PersistentVolumeClaimSpec::default(), PersistentVolumeClaimSpec::default());
        let (spec, before) = (new.spec.as_ref().unwrap_or(&none.0), old.spec.as_ref().unwrap_or(&none.1));
        let path = Path::new("spec");
        let storage = |s: &PersistentVolumeClaimSpec| {
            s.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage")).cloned()
        };

        // With all that may change set back, nothing may be left that differs.
        let (mut rest, mut base) = (spec.clone(), before.clone());
        if base.volume_name.as_deref().unwrap_or("").is_empty() {
            base.volume_name = rest.volume_name.clone();
        }
        if base.storage_class_name.is_none() && annotated_class(old).is_none() {
            // The default class may be given later to a claim that named none.
            rest.storage_class_name = None;
        }
        let bound = new.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if bound {
            if let (Some(requests), Some(size)) =
                (rest.resources.as_mut().and_then(|r| r.requests.as_mut()), storage(before))
            {
                requests.insert("storage".to_owned(), size);
            }
            rest.volume_attributes_class_name = base.volume_attributes_class_name.clone();
        }
        if rest != base {
            let changes = diff(&base, &rest);
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                          bound claims";
            errors.forbidden(&path, format!("{detail}\n{changes}"));
        }
        let (size, old_size) = (quantity::of(storage(spec).as_ref()), quantity::of(storage(before).as_ref()));
        let capacity = old.status.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
        if size < old_size && size <= quantity::of(capacity) {
            let path = Path::new("spec.resources.requests.storage");
            errors.forbidden(&path, "field can not be less than status.capacity");
        }
        object_meta::immutable(&spec.volume_mode, &before.volume_mode, &Path::new("volumeMode"), &mut errors);
        errors
    }

    fn validate_status_update(new: &PersistentVolumeClaim, _old: &PersistentVolumeClaim) -> Errors {
        let mut errors = Errors::default();
        let capacity = new.status.iter().flat_map(|s| s.capacity.iter().flatten());
        for (name, amount) in capacity {
            if quantity::of(Some(amount)).is_negative() {
                let path = Path::new("status.capacity").key(name);
                errors.invalid(&path, &amount.0, "must be a valid resource quantity");
            }
        }
        errors
    }

    fn warnings(object: &PersistentVolumeClaim) -> Vec<String> {
        object.spec.as_ref().map(|s| warnings(s, &Path::new("spec"))).unwrap_or_default()
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

fn annotated_class(claim: &PersistentVolumeClaim) -> Option<&String> {
    claim.metadata.annotations.as_ref()?.get("volume.beta.kubernetes.io/storage-class")
}

pub(super) fn warnings(spec: &PersistentVolumeClaimSpec, path: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    fractional(requests, &["storage"], &path.child("resources").child("requests"), &mut texts);
    let limits = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    fractional(limits, &["storage"], &path.child("resources").child("limits"), &mut texts);
    texts
}

/// Also for templates of claims.
pub(super) fn default_spec(spec: &mut PersistentVolumeClaimSpec) {
    spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    spec.resources.get_or_insert_default();
}

/// What is not a claim or a snapshot, the older spelling cannot say.
fn is_claim_or_snapshot(source: &TypedLocalObjectReference) -> bool {
    let group = source.api_group.as_deref().unwrap_or_default();
    matches!(
        (group, source.kind.as_str()),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

/// Two spellings of where the data comes from follow one another (within the namespace).
fn unite_sources(spec: &mut PersistentVolumeClaimSpec) {
    if let Some(source) = &mut spec.data_source_ref {
        // Data from another namespace is a feature that is off.
        source.namespace = None;
    }
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(source)) => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
            });
        }
        _ => {}
    }
}

fn validate_source(group: Option<&str>, kind: &str, name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    if kind.is_empty() {
        errors.required(&path.child("kind"), "");
    }
    match group.unwrap_or_default() {
        "" if kind != "PersistentVolumeClaim" => {
            errors.invalid(
                path,
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        "" => {}
        group => errors.invalid_each(&path.child("apiGroup"), group, names::dns_subdomain(group)),
    }
}

/// Also for templates of claims.
pub(super) fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path, errors: &mut Errors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    if let Some(selector) = &spec.selector {
        label_selector::validate(selector, &path.child("selector"), errors);
    }
    access_modes(modes, &path.child("accessModes"), errors);
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    match requests.and_then(|r| r.get_key_value("storage")) {
        None => errors.required(&path.child("resources").key("storage"), ""),
        Some((name, amount)) => {
            let only = [(name.clone(), amount.clone())].into();
            validate_quantities(&only, &path.child("resources"), errors);
        }
    }
    if let Some(class) = spec.storage_class_name.as_deref().filter(|c| !c.is_empty()) {
        errors.invalid_each(&path.child("storageClassName"), class, names::dns_subdomain(class));
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|m| !VOLUME_MODES.contains(m)) {
        errors.not_supported(&path.child("volumeMode"), mode, &VOLUME_MODES);
    }
    if let Some(class) = spec.volume_attributes_class_name.as_deref().filter(|c| !c.is_empty()) {
        errors.invalid_each(&path.child("volumeAttributesClassName"), class, names::dns_subdomain(class));
    }
    if let Some(source) = &spec.data_source {
        let path = path.child("dataSource");
        validate_source(source.api_group.as_deref(), &source.kind, &source.name, &path, errors);
    }
    if let Some(source) = &spec.data_source_ref {
        let path = path.child("dataSourceRef");
        validate_source(source.api_group.as_deref(), &source.kind, &source.name, &path, errors);
        if let Some(namespace) = source.namespace.as_deref().filter(|n| !n.is_empty()) {
            errors.invalid_each(&path.child("namespace"), namespace, names::dns_label(namespace));
        }
    }
    // The offending value is printed as Kubernetes prints it: with nothing in it.
    let nothing = serde_json::json!({});
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(_), Some(far)) if far.namespace.as_deref().is_some_and(|n| !n.is_empty()) => {
            errors.invalid(path, nothing, "may not be specified when dataSourceRef.namespace is specified");
        }
        (Some(near), Some(far))
            if (&near.api_group, &near.kind, &near.name) != (&far.api_group, &far.kind, &far.name) =>
        {
            errors.invalid(path, nothing, "must match dataSourceRef");
        }
        _ => {}
    }
}

pub(super) fn access_modes(modes: &[String], path: &Path, errors: &mut Errors) {
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(&m.as_str())) {
        errors.not_supported(path, mode, &ACCESS_MODES);
    }
    let alone = modes.iter().any(|m| m == "ReadWriteOncePod");
    if alone && modes.iter().any(|m| m != "ReadWriteOncePod" && ACCESS_MODES.contains(&m.as_str())) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut claim =
            object(json!({"metadata": {"name": "data-kubia-0", "creationTimestamp": at(0)}, "spec": spec}));
        PersistentVolumeClaims::default(&mut claim);
        claim
    }

    #[test]
    fn defaults_and_rules() {
        let good =
            claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}));
        assert!(PersistentVolumeClaims::validate(&good).is_empty());
        assert_eq!(serde_json::to_value(&good).unwrap()["spec"]["volumeMode"], "Filesystem");
        let bad =
            claim(json!({"accessModes": ["RWO", "ReadWriteOncePod", "ReadOnlyMany"], "volumeMode": "Tape",
            "resources": {"requests": {"storage": "0"}}, "storageClassName": "A"}));
        let errors = texts(PersistentVolumeClaims::validate(&bad));
        assert_eq!(
            errors.iter().map(|e| e.split(" (e.g.").next().unwrap()).collect::<Vec<_>>(),
            [
                "spec.accessModes: Unsupported value: \"RWO\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \
                 \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
                "spec.storageClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case \
                 alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
                "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"",
            ]
        );
        assert_eq!(
            texts(PersistentVolumeClaims::validate(&claim(json!({})))),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ]
        );
    }

    #[test]
    fn only_a_bound_claim_may_grow() {
        let spec = |size: &str, class: Option<&str>, volume: &str| {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "volumeName": volume});
            if let Some(class) = class {
                spec["storageClassName"] = class.into();
            }
            claim(spec)
        };
        let bind = |mut claim: PersistentVolumeClaim| {
            claim.status = object(json!({"phase": "Bound", "capacity": {"storage": "1Gi"}}));
            claim
        };
        let update = |new, old| texts(PersistentVolumeClaims::validate_update(&new, &old));
        assert!(update(spec("1Gi", None, "pv-1"), spec("1Gi", None, "")).is_empty(), "binding");
        assert!(
            update(spec("1Gi", Some("standard"), ""), spec("1Gi", None, "")).is_empty(),
            "class given later"
        );
        assert!(update(bind(spec("2Gi", None, "v")), bind(spec("1Gi", None, "v"))).is_empty(), "growing");
        assert_eq!(
            update(spec("2Gi", None, ""), spec("1Gi", None, "")),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName \
              for bound claims\n- resources.requests.storage: \"1Gi\"\n+ resources.requests.storage: \"2Gi\"\n"
            ]
        );
        assert_eq!(
            update(bind(spec("1Mi", None, "v")), bind(spec("1Gi", None, "v"))),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        assert_eq!(update(spec("1Gi", Some("b"), ""), spec("1Gi", Some("a"), "")).len(), 1);
    }

    #[test]
    fn row() {
        let mut bound = claim(
            json!({"accessModes": ["ReadWriteOnce"], "volumeName": "pv-1", "storageClassName": "standard"}),
        );
        let row = |claim: &PersistentVolumeClaim| {
            json!(PersistentVolumeClaims::row(claim, "1970-01-01T00:00:09Z".parse().unwrap()))
        };
        bound.status = object(
            json!({"phase": "Bound", "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"]}),
        );
        assert_eq!(
            row(&bound),
            json!(["data-kubia-0", "Bound", "pv-1", "1Mi", "RWO", "standard", "<unset>", "9s", "Filesystem"])
        );
        assert_eq!(
            row(&claim(json!({}))),
            json!(["data-kubia-0", "Pending", "", "", "", "", "<unset>", "9s", "Filesystem"])
        );
    }
}
