//! ReplicaSet: a number of pods that are all alike.

use super::shared::replicas::{self, Counts};
use super::shared::spec_and_status::spec_and_status;
use super::shared::{object_meta, pod_template};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

pub(super) struct ReplicaSets;

impl Kind for ReplicaSets {
    type Object = ReplicaSet;
    const PLURAL: &'static str = "replicasets";
    const SINGULAR: &'static str = "replicaset";
    const SHORT_NAMES: &'static [&'static str] = &["rs"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Scale];
    const COLUMNS: &'static [Column] = replicas::COLUMNS;
    const SELECTABLE: &'static [&'static str] = replicas::SELECTABLE;

    fn default(object: &mut ReplicaSet) {
        let spec = object.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        pod_template::default(spec.template.get_or_insert_default());
    }

    spec_and_status!(ReplicaSet);

    fn validate(object: &ReplicaSet) -> Errors {
        let (mut errors, none) = (Errors::default(), ReplicaSetSpec::default());
        let spec = object.spec.as_ref().unwrap_or(&none);
        let path = Path::new("spec");
        let counts = [("replicas", spec.replicas), ("minReadySeconds", spec.min_ready_seconds)];
        pod_template::not_negative(counts, &path, &mut errors);
        let none = PodTemplateSpec::default();
        pod_template::validate_with_selector(
            &spec.selector,
            "invalid label selector",
            spec.template.as_ref().unwrap_or(&none),
            "ReplicaSet",
            &path,
            &mut errors,
        );
        errors
    }

    fn validate_update(new: &ReplicaSet, old: &ReplicaSet) -> Errors {
        let mut errors = Self::validate(new);
        let selector = |set: &ReplicaSet| set.spec.as_ref().map(|s| s.selector.clone());
        let path = Path::new("spec").child("selector");
        object_meta::immutable(selector(new), selector(old), &path, &mut errors);
        errors
    }

    fn validate_status_update(new: &ReplicaSet, _: &ReplicaSet) -> Errors {
        Counts::from(new.status.as_ref()).validate()
    }

    fn warnings(object: &ReplicaSet) -> Vec<String> {
        replicas::warnings(&object.metadata, object.spec.as_ref().and_then(|s| s.template.as_ref()))
    }

    fn row(object: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        let none = ReplicaSetSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let (counts, selector) =
            (Counts::from(object.status.as_ref()), pod_template::selector_cell(&spec.selector));
        replicas::row(&object.metadata, spec.replicas, counts, spec.template.as_ref(), selector, now)
    }

    fn selectable_fields(object: &ReplicaSet) -> Vec<(&'static str, String)> {
        Counts::from(object.status.as_ref()).selectable_fields()
    }

    fn scale(object: &ReplicaSet) -> Option<(i32, i32, String)> {
        let spec = object.spec.as_ref()?;
        let current = object.status.as_ref().map_or(0, |s| s.replicas);
        Some((spec.replicas.unwrap_or(0), current, pod_template::scale_selector(&spec.selector)))
    }

    fn set_scale(object: &mut ReplicaSet, replicas: i32) {
        object.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    fn set(change: impl FnOnce(&mut Value)) -> ReplicaSet {
        let mut spec = json!({
            "selector": {"matchLabels": {"app": "kubia"}},
            "template": {"metadata": {"labels": {"app": "kubia"}}, "spec": {"containers": [{"name": "c", "image": "i:v1"}]}}
        });
        change(&mut spec);
        let mut set =
            object(json!({"metadata": {"name": "kubia", "creationTimestamp": at(0)}, "spec": spec}));
        ReplicaSets::default(&mut set);
        ReplicaSets::prepare_create(&mut set);
        set
    }

    #[test]
    fn defaults_row_and_scale() {
        let mut set = set(|_| {});
        assert_eq!(set.spec.as_ref().and_then(|s| s.replicas), Some(1));
        assert_eq!(serde_json::to_value(&set.status).unwrap(), json!({"replicas": 0}));
        let row = ReplicaSets::row(&set, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["kubia", 1, 0, 0, "7s", "c", "i:v1", "app=kubia"]));
        ReplicaSets::set_scale(&mut set, 3);
        assert_eq!(ReplicaSets::scale(&set), Some((3, 0, "app=kubia".to_owned())));
        assert_eq!(ReplicaSets::generation_changed(&set, &set), Some(false));
        set.metadata.name = Some("a.b".to_owned());
        assert!(ReplicaSets::warnings(&set)[0].starts_with("metadata.name: this is used in Pod names"));
    }

    #[test]
    fn creating_and_updating() {
        assert_eq!(texts(ReplicaSets::validate(&set(|_| {}))), Vec::<String>::new());
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 5] = [
            (
                |s| s["template"]["metadata"]["labels"] = json!({"app": "other"}),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`",
            ),
            (
                |s| s["replicas"] = json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                |s| s["template"]["spec"]["restartPolicy"] = json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                |s| s["template"]["spec"]["activeDeadlineSeconds"] = json!(3),
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ),
            (
                |s| s["template"]["spec"]["containers"] = json!([]),
                "spec.template.spec.containers: Required value",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(texts(ReplicaSets::validate(&set(change))), [expected]);
        }
        assert_eq!(
            texts(ReplicaSets::validate(&set(|s| s["selector"] = json!({})))),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"kubia\"}: `selector` does not match template \
                 `labels`",
            ]
        );
        // Of a template whose selector is faulty nothing can be said.
        let faulty = set(|s| {
            s["selector"] = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
            s["template"]["spec"]["containers"] = json!([]);
        });
        assert_eq!(
            texts(ReplicaSets::validate(&faulty)),
            [
                "spec.selector.matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator",
                "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Is\"}]}: invalid label \
                 selector",
            ]
        );
        let other = set(|s| {
            s["selector"]["matchLabels"] = json!({"a": "b"});
            s["template"]["metadata"]["labels"] = json!({"a": "b"});
        });
        let errors = texts(ReplicaSets::validate_update(&other, &set(|_| {})));
        assert_eq!(
            errors,
            ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: field is immutable"]
        );
    }

    #[test]
    fn status_counts_fit() {
        let faults = |status: Value| {
            let new = ReplicaSet { status: object(status), ..set(|_| {}) };
            texts(ReplicaSets::validate_status_update(&new, &set(|_| {})))
        };
        assert!(faults(json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1})).is_empty());
        assert_eq!(
            faults(
                json!({"replicas": 1, "readyReplicas": 0, "availableReplicas": 1, "fullyLabeledReplicas": 2})
            ),
            [
                "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
            ]
        );
    }
}
