//! ReplicationController: the ReplicaSet of old, with a plain map as its selector.

use super::shared::replicas::{self, Counts};
use super::shared::spec_and_status::spec_and_status;
use super::shared::{cells, pod_template};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerSpec};
use serde_json::Value;

pub(super) struct ReplicationControllers;

impl Kind for ReplicationControllers {
    type Object = ReplicationController;
    const PLURAL: &'static str = "replicationcontrollers";
    const SINGULAR: &'static str = "replicationcontroller";
    const SHORT_NAMES: &'static [&'static str] = &["rc"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Scale];
    const COLUMNS: &'static [Column] = replicas::COLUMNS;
    const SELECTABLE: &'static [&'static str] = replicas::SELECTABLE;
    const ORPHANS_BY_DEFAULT: bool = true;

    fn default(object: &mut ReplicationController) {
        let spec = object.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let Some(template) = &mut spec.template else { return };
        pod_template::default(template);
        // What says nothing of its own goes by the labels of the template.
        let Some(labels) = template.metadata.as_ref().and_then(|m| m.labels.as_ref()) else { return };
        for map in [&mut spec.selector, &mut object.metadata.labels] {
            if map.as_ref().is_none_or(|m| m.is_empty()) {
                *map = Some(labels.clone());
            }
        }
    }

    spec_and_status!(ReplicationController);

    fn validate(object: &ReplicationController) -> Errors {
        let (mut errors, none) = (Errors::default(), ReplicationControllerSpec::default());
        let spec = object.spec.as_ref().unwrap_or(&none);
        let path = Path::new("spec");
        pod_template::not_negative([("minReadySeconds", spec.min_ready_seconds)], &path, &mut errors);
        let labels = spec.selector.clone().unwrap_or_default();
        if labels.is_empty() {
            errors.required(&path.child("selector"), "");
        }
        pod_template::not_negative([("replicas", spec.replicas)], &path, &mut errors);
        let path = path.child("template");
        match &spec.template {
            None => errors.required(&path, ""),
            Some(template) => pod_template::validate_selected(
                template,
                Some(&Selector::from_map(&labels)),
                "ReplicationController",
                &path,
                &mut errors,
            ),
        }
        errors
    }

    fn validate_update(new: &ReplicationController, _: &ReplicationController) -> Errors {
        Self::validate(new)
    }

    fn validate_status_update(new: &ReplicationController, _: &ReplicationController) -> Errors {
        Counts::from(new.status.as_ref()).validate()
    }

    fn warnings(object: &ReplicationController) -> Vec<String> {
        replicas::warnings(&object.metadata, object.spec.as_ref().and_then(|s| s.template.as_ref()))
    }

    fn row(object: &ReplicationController, now: Timestamp) -> Vec<Value> {
        let none = ReplicationControllerSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let (counts, selector) =
            (Counts::from(object.status.as_ref()), cells::labels(spec.selector.as_ref()).into());
        replicas::row(&object.metadata, spec.replicas, counts, spec.template.as_ref(), selector, now)
    }

    fn selectable_fields(object: &ReplicationController) -> Vec<(&'static str, String)> {
        Counts::from(object.status.as_ref()).selectable_fields()
    }

    fn scale(object: &ReplicationController) -> Option<(i32, i32, String)> {
        let spec = object.spec.as_ref()?;
        let current = object.status.as_ref().map_or(0, |s| s.replicas);
        let selector = Selector::from_map(&spec.selector.clone().unwrap_or_default());
        Some((spec.replicas.unwrap_or(0), current, selector.to_string()))
    }

    fn set_scale(object: &mut ReplicationController, replicas: i32) {
        object.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    fn controller(spec: Value) -> ReplicationController {
        let mut rc = object(json!({"metadata": {"name": "kubia", "creationTimestamp": at(0)}, "spec": spec}));
        ReplicationControllers::default(&mut rc);
        ReplicationControllers::prepare_create(&mut rc);
        rc
    }

    #[test]
    fn the_template_gives_labels_and_selector() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut rc = controller(json!({"template": template, "replicas": 2}));
        assert!(texts(ReplicationControllers::validate(&rc)).is_empty());
        assert_eq!(json!(rc.metadata.labels), json!({"a": "b"}));
        let row = ReplicationControllers::row(&rc, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["kubia", 2, 0, 0, "7s", "c", "i", "a=b"]));
        ReplicationControllers::set_scale(&mut rc, 0);
        assert_eq!(ReplicationControllers::scale(&rc), Some((0, 0, "a=b".to_owned())));
        let other = controller(json!({"template": template, "selector": {"a": "c"}}));
        assert_eq!(
            texts(ReplicationControllers::validate(&other)),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
            ]
        );
        assert!(
            texts(ReplicationControllers::validate_update(&rc, &other)).is_empty(),
            "the selector may change"
        );
    }

    #[test]
    fn what_it_needs() {
        let errors = texts(ReplicationControllers::validate(&controller(json!({"replicas": -1}))));
        assert_eq!(
            errors,
            [
                "spec.selector: Required value",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template: Required value",
            ]
        );
    }
}
