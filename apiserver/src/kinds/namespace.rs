//! Namespace: it goes only when `spec.finalizers` is empty, which the namespace controller sees to by `/finalize`.

use super::shared::cells;
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use serde_json::Value;

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) struct Namespaces;

impl Kind for Namespaces {
    type Object = Namespace;
    const PLURAL: &'static str = "namespaces";
    const SINGULAR: &'static str = "namespace";
    const NAMESPACED: bool = false;
    const SHORT_NAMES: &'static [&'static str] = &["ns"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Finalize];
    const COLUMNS: &'static [Column] =
        &[Column::name(), Column::new("Status", "string", 0, "The status of the namespace"), Column::age()];
    const SELECTABLE: &'static [&'static str] = &["status.phase"];
    const RETURNS_DELETED: bool = true;

    fn check_name(name: &str) -> Vec<String> {
        names::dns_label(name)
    }

    fn default(object: &mut Namespace) {
        label_with_name(object);
        let status = object.status.get_or_insert_default();
        if status.phase.as_deref().unwrap_or("").is_empty() {
            status.phase = Some("Active".to_owned());
        }
    }

    fn prepare_create(object: &mut Namespace) {
        // A generated name was not there yet when defaults were filled in.
        label_with_name(object);
        object.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), ..Default::default() });
        let finalizers = object.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    fn prepare_update(new: &mut Namespace, old: &Namespace) {
        new.spec = old.spec.clone();
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut Namespace, old: &Namespace) {
        new.spec = old.spec.clone();
    }

    fn validate(object: &Namespace) -> Errors {
        let mut errors = Errors::default();
        let finalizers = object.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
        for finalizer in finalizers {
            let path = Path::new("spec.finalizers");
            errors.invalid_each(&path, finalizer, names::qualified_name(finalizer));
            if !finalizer.contains('/') && finalizer != FINALIZER {
                errors.invalid(
                    &path,
                    finalizer,
                    "name is neither a standard finalizer name nor is it fully qualified",
                );
            }
        }
        errors
    }

    fn validate_update(new: &Namespace, _old: &Namespace) -> Errors {
        Self::validate(new)
    }

    fn validate_status_update(new: &Namespace, old: &Namespace) -> Errors {
        let mut errors = Errors::default();
        let (phase, old_phase) = (phase(new), phase(old));
        let path = Path::new("status.Phase");
        if new.metadata.deletion_timestamp.is_none() {
            if phase != "Active" {
                errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
            }
        } else if phase != "Terminating" {
            errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
        } else if old_phase == "Terminating" && phase != old_phase {
            errors.invalid(&path, phase, "field is immutable");
        }
        errors
    }

    fn row(object: &Namespace, now: Timestamp) -> Vec<Value> {
        vec![cells::name(&object.metadata), phase(object).into(), cells::age(&object.metadata, now)]
    }

    fn selectable_fields(object: &Namespace) -> Vec<(&'static str, String)> {
        vec![("status.phase", phase(object).to_owned())]
    }

    fn held(object: &Namespace) -> bool {
        object.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_some_and(|f| !f.is_empty())
    }

    fn prepare_deletion(object: &mut Namespace) {
        object.status.get_or_insert_default().phase = Some("Terminating".to_owned());
        // Kubernetes tells of no grace here.
        object.metadata.deletion_grace_period_seconds = None;
    }
}

fn label_with_name(object: &mut Namespace) {
    if let Some(name) = object.metadata.name.clone().filter(|n| !n.is_empty()) {
        object.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    }
}

fn phase(object: &Namespace) -> &str {
    object.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn created_active_and_held() {
        let mut namespace =
            object::<Namespace>(json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}}));
        Namespaces::prepare_create(&mut namespace);
        Namespaces::default(&mut namespace);
        let value = serde_json::to_value(&namespace).unwrap();
        assert_eq!(value["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(value["status"]["phase"], "Active");
        assert_eq!(value["metadata"]["labels"][NAME_LABEL], "a");
        assert!(Namespaces::held(&namespace));
        Namespaces::prepare_deletion(&mut namespace);
        assert_eq!(phase(&namespace), "Terminating");
        let mut update = object::<Namespace>(json!({"metadata": {"name": "a"}, "spec": {"finalizers": []}}));
        Namespaces::prepare_update(&mut update, &namespace);
        assert!(Namespaces::held(&update), "only /finalize lets go");
    }

    #[test]
    fn finalizers_are_checked() {
        let namespace =
            object::<Namespace>(json!({"spec": {"finalizers": ["kubernetes", "a.io/b", "mine"]}}));
        assert_eq!(
            texts(Namespaces::validate(&namespace)),
            [
                "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully \
              qualified"
            ]
        );
    }
}
