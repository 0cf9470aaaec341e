//! CustomResourceDefinition: a kind that people define. What becomes of it is in `crate::custom`.

mod validate;

use super::shared::cells;
use super::{Column, Kind, Subresource};
use api::{conditions, field::Errors};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionCondition,
    CustomResourceDefinitionStatus,
};
use serde_json::Value;

/// Keeps a definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(super) struct CustomResourceDefinitions;

impl Kind for CustomResourceDefinitions {
    type Object = CustomResourceDefinition;
    const PLURAL: &'static str = "customresourcedefinitions";
    const SINGULAR: &'static str = "customresourcedefinition";
    const NAMESPACED: bool = false;
    const SHORT_NAMES: &'static [&'static str] = &["crd", "crds"];
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[Column::name(), Column::created_at()];
    const UNCONDITIONAL_UPDATE: bool = false;
    const RETURNS_DELETED: bool = true;

    fn default(object: &mut CustomResourceDefinition) {
        let spec = &mut object.spec;
        let kind = spec.names.kind.clone();
        if !kind.is_empty() {
            spec.names.singular.get_or_insert_with(|| kind.to_lowercase());
            spec.names.list_kind.get_or_insert_with(|| format!("{kind}List"));
        }
        spec.conversion
            .get_or_insert_with(|| CustomResourceConversion { strategy: "None".to_owned(), webhook: None });
        // What v1 demands anyway; Kubernetes does not show it.
        spec.preserve_unknown_fields.take_if(|preserve| !*preserve);
        remember_storage(object);
    }

    fn prepare_create(object: &mut CustomResourceDefinition) {
        object.status = None;
        remember_storage(object);
    }

    fn prepare_update(new: &mut CustomResourceDefinition, old: &CustomResourceDefinition) {
        new.status.clone_from(&old.status);
        remember_storage(new);
    }

    fn prepare_status_update(new: &mut CustomResourceDefinition, old: &CustomResourceDefinition) {
        new.spec.clone_from(&old.spec);
    }

    fn generation_changed(new: &CustomResourceDefinition, old: &CustomResourceDefinition) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &CustomResourceDefinition) -> Errors {
        validate::whole(object, None)
    }

    fn validate_update(new: &CustomResourceDefinition, old: &CustomResourceDefinition) -> Errors {
        validate::whole(new, Some(old))
    }

    fn validate_status_update(new: &CustomResourceDefinition, _old: &CustomResourceDefinition) -> Errors {
        validate::status(new)
    }

    fn warnings(object: &CustomResourceDefinition) -> Vec<String> {
        validate::warnings(object)
    }

    fn row(object: &CustomResourceDefinition, _now: jiff::Timestamp) -> Vec<Value> {
        vec![cells::name(&object.metadata), cells::created_at(&object.metadata)]
    }

    /// The first delete always marks: the objects go first.
    fn held(object: &CustomResourceDefinition) -> bool {
        object.metadata.deletion_timestamp.is_none()
    }

    fn prepare_deletion(object: &mut CustomResourceDefinition) {
        // Kubernetes tells of no grace here.
        object.metadata.deletion_grace_period_seconds = None;
        let finalizers = object.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == CLEANUP) {
            finalizers.push(CLEANUP.to_owned());
        }
        let now = object.metadata.deletion_timestamp.as_ref().map(|t| t.0).unwrap_or_default();
        let text = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
        let pending = condition("Terminating", true, "InstanceDeletionPending", text);
        set_condition(object.status.get_or_insert_default(), pending, now);
    }
}

/// The version in which objects are stored is one that may have stored objects.
fn remember_storage(object: &mut CustomResourceDefinition) {
    let Some(storage) = object.spec.versions.iter().find(|v| v.storage) else { return };
    let status = object.status.get_or_insert_default();
    let stored = status.stored_versions.get_or_insert_default();
    if !stored.contains(&storage.name) {
        stored.push(storage.name.clone());
    }
}

pub(crate) fn condition(
    type_: &str,
    status: bool,
    reason: &str,
    message: &str,
) -> CustomResourceDefinitionCondition {
    CustomResourceDefinitionCondition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..CustomResourceDefinitionCondition::default()
    }
}

/// Returns whether anything changed.
pub(crate) fn set_condition(
    status: &mut CustomResourceDefinitionStatus,
    condition: CustomResourceDefinitionCondition,
    now: jiff::Timestamp,
) -> bool {
    conditions::set(status.conditions.get_or_insert_default(), condition, now)
}

pub(crate) fn is_true(object: &CustomResourceDefinition, type_: &str) -> bool {
    let conditions = object.status.as_ref().and_then(|s| s.conditions.as_deref());
    conditions::is_true(conditions.unwrap_or_default(), type_)
}
