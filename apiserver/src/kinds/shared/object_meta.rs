//! Rules of `metadata`, the same for every kind.

use api::field::{Errors, Path};
use api::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// Keys and values of all annotations together; Kubernetes' limit.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Kubernetes' limit for `managedFields[].manager`.
const MANAGER_MAX_BYTES: usize = 128;
/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// What is wrong with the metadata of an object about to be stored; the name (or the name generated) is already in it.
/// `own` says whether the kind is Kubernetes' own: then finalizers need a domain, those of custom kinds need none.
pub fn validate_meta(
    meta: &ObjectMeta,
    namespaced: bool,
    own: bool,
    check_name: impl Fn(&str) -> Vec<String>,
    path: &Path,
) -> Errors {
    let mut errors = Errors::default();
    if let Some(prefix) = meta.generate_name.as_deref().filter(|p| !p.is_empty()) {
        let faults = check_name(&names::mask_trailing_dash(prefix));
        errors.invalid_each(&path.child("generateName"), prefix, faults);
    }
    match meta.name.as_deref() {
        None | Some("") => errors.required(&path.child("name"), "name or generateName is required"),
        Some(name) => errors.invalid_each(&path.child("name"), name, check_name(name)),
    }
    let namespace = meta.namespace.as_deref().unwrap_or("");
    match (namespaced, namespace) {
        (true, "") => errors.required(&path.child("namespace"), ""),
        (true, name) => errors.invalid_each(&path.child("namespace"), name, names::dns_label(name)),
        (false, "") => {}
        (false, _) => errors.forbidden(&path.child("namespace"), "not allowed on this type"),
    }
    if meta.generation.is_some_and(|g| g < 0) {
        errors.invalid(&path.child("generation"), meta.generation, "must be greater than or equal to 0");
    }
    labels(meta.labels.as_ref(), &path.child("labels"), &mut errors);
    annotations(meta.annotations.as_ref(), &path.child("annotations"), &mut errors);
    owner_references(
        meta.owner_references.as_deref().unwrap_or_default(),
        &path.child("ownerReferences"),
        &mut errors,
    );
    finalizers(meta.finalizers.as_deref().unwrap_or_default(), own, &path.child("finalizers"), &mut errors);
    managed_fields(
        meta.managed_fields.as_deref().unwrap_or_default(),
        &path.child("managedFields"),
        &mut errors,
    );
    errors
}

/// What an update may not do to metadata. `new` has what the generic path carries over from `old` (UID, times, …).
pub fn validate_meta_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path) -> Errors {
    let mut errors = Errors::default();
    if old.deletion_timestamp.is_some() {
        let known = old.finalizers.as_deref().unwrap_or_default();
        let mut extra: Vec<_> = new.finalizers.iter().flatten().filter(|f| !known.contains(f)).collect();
        extra.sort();
        if !extra.is_empty() {
            let extra = extra.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
            errors.forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers \
                     []string{{{extra}}}"
                ),
            );
        }
    }
    if new.generation.unwrap_or(0) < old.generation.unwrap_or(0) {
        errors.invalid(&path.child("generation"), new.generation.unwrap_or(0), "must not be decremented");
    }
    immutable(new.name.as_ref(), old.name.as_ref(), &path.child("name"), &mut errors);
    immutable(new.namespace.as_ref(), old.namespace.as_ref(), &path.child("namespace"), &mut errors);
    immutable(new.uid.as_ref(), old.uid.as_ref(), &path.child("uid"), &mut errors);
    let (created, deleted) = ("creationTimestamp", "deletionTimestamp");
    immutable(
        new.creation_timestamp.as_ref(),
        old.creation_timestamp.as_ref(),
        &path.child(created),
        &mut errors,
    );
    immutable(
        new.deletion_timestamp.as_ref(),
        old.deletion_timestamp.as_ref(),
        &path.child(deleted),
        &mut errors,
    );
    immutable(
        new.deletion_grace_period_seconds,
        old.deletion_grace_period_seconds,
        &path.child("deletionGracePeriodSeconds"),
        &mut errors,
    );
    errors
}

/// What people say in metadata stays as it was: for a `/status` that changes nothing but status.
pub(in crate::kinds) fn keep(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.labels.clone_from(&old.labels);
    new.annotations.clone_from(&old.annotations);
    new.finalizers.clone_from(&old.finalizers);
    new.owner_references.clone_from(&old.owner_references);
}

/// A field that an update may not change.
pub(in crate::kinds) fn immutable<T: PartialEq + serde::Serialize>(
    new: T,
    old: T,
    path: &Path,
    errors: &mut Errors,
) {
    if new != old {
        errors.invalid(path, new, "field is immutable");
    }
}

pub(in crate::kinds) fn labels(labels: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.into_iter().flatten() {
        errors.invalid_each(path, key, names::qualified_name(key));
        errors.invalid_each(path, value, names::label_value(value));
    }
}

pub(in crate::kinds) fn annotations(
    all: Option<&BTreeMap<String, String>>,
    path: &Path,
    errors: &mut Errors,
) {
    let mut bytes = 0;
    for (key, value) in all.into_iter().flatten() {
        errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

fn owner_references(owners: &[OwnerReference], path: &Path, errors: &mut Errors) {
    let (mut controller, mut told): (Option<String>, bool) = (None, false);
    for owner in owners {
        if owner.api_version.is_empty() || owner.api_version.ends_with('/') {
            errors.invalid(&path.child("apiVersion"), &owner.api_version, "version must not be empty");
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.invalid(&path.child(field), value, "must not be empty");
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.controller == Some(true) {
            let name = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                // Once: it shows them all.
                Some(first) if !told => {
                    told = true;
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {name}"
                    );
                    errors.invalid(path, owners, detail);
                }
                Some(_) => {}
                None => controller = Some(name),
            }
        }
    }
}

pub(in crate::kinds) fn finalizers(all: &[String], own: bool, path: &Path, errors: &mut Errors) {
    for (i, finalizer) in all.iter().enumerate() {
        errors.invalid_each(path, finalizer, names::qualified_name(finalizer));
        if own && !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            errors.invalid(
                &path.index(i),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    let has = |name: &str| all.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(path, all, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn managed_fields(all: &[ManagedFieldsEntry], path: &Path, errors: &mut Errors) {
    for (i, entry) in all.iter().enumerate() {
        let path = path.index(i);
        let operation = entry.operation.as_deref().unwrap_or("");
        if !matches!(operation, "Apply" | "Update") {
            errors.invalid(&path.child("operation"), operation, "must be `Apply` or `Update`");
        }
        if entry.fields_type.as_deref().is_some_and(|t| !t.is_empty() && t != "FieldsV1") {
            errors.invalid(&path.child("fieldsType"), &entry.fields_type, "must be `FieldsV1`");
        }
        if entry.manager.as_deref().is_some_and(|m| m.len() > MANAGER_MAX_BYTES) {
            errors.too_long(&path.child("manager"), MANAGER_MAX_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn texts(meta: Value, namespaced: bool) -> Vec<String> {
        let meta = serde_json::from_value(meta).unwrap();
        let errors = validate_meta(&meta, namespaced, true, names::dns_label, &Path::new("metadata"));
        errors
            .0
            .iter()
            .map(ToString::to_string)
            .map(|t| t.split(" (e.g.").next().unwrap_or("").to_owned())
            .collect()
    }

    #[test]
    fn metadata_of_a_create() {
        assert!(texts(json!({"name": "a", "namespace": "n"}), true).is_empty());
        assert!(texts(json!({"name": "a-x7f2k", "generateName": "a-", "namespace": "n"}), true).is_empty());
        assert_eq!(
            texts(json!({"namespace": "n"}), true),
            ["metadata.name: Required value: name or generateName is required"]
        );
        assert_eq!(
            texts(json!({"name": "a", "namespace": "n"}), false),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        assert_eq!(
            texts(json!({"name": "a", "labels": {"a b": "c d"}, "annotations": {"/x": ""}}), false),
            [
                "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or \
                 '.', and must start and end with an alphanumeric character",
                "metadata.labels: Invalid value: \"c d\": a valid label must be an empty string or consist of \
                 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
                "metadata.annotations: Invalid value: \"/x\": prefix part must be non-empty",
            ]
        );
        assert_eq!(
            texts(json!({"name": "a", "annotations": {"big": "x".repeat(ANNOTATIONS_MAX_BYTES)}}), false),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
        assert_eq!(
            texts(
                json!({"name": "a", "finalizers": ["mine", "orphan", "foregroundDeletion", "a.io/b"]}),
                false
            ),
            [
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it \
                 fully qualified",
                "metadata.finalizers: Invalid value: [\"mine\",\"orphan\",\"foregroundDeletion\",\"a.io/b\"]: finalizer \
                 orphan and foregroundDeletion cannot be both set",
            ]
        );
        let owner = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": true});
        let errors = texts(json!({"name": "a", "ownerReferences": [owner("x", ""), owner("y", "2")]}), false);
        assert_eq!(errors[0], "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty");
        assert!(errors[1].ends_with("Found \"true\" in references for Pod/x and Pod/y"), "{}", errors[1]);
    }

    #[test]
    fn metadata_of_an_update() {
        let meta = |v: Value| serde_json::from_value::<ObjectMeta>(v).unwrap();
        let old = meta(
            json!({"name": "a", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]}),
        );
        let new = meta(json!({"name": "a", "uid": "2", "finalizers": ["a/b", "c/d"]}));
        let errors = validate_meta_update(&new, &old, &Path::new("metadata"));
        let texts: Vec<_> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{\"c/d\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: null: field is immutable",
            ]
        );
    }
}
