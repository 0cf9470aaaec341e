//! DaemonSet: one pod on every node that fits.

use super::shared::label_selector::Needed;
use super::shared::{cells, int_or_percent, label_selector, object_meta, pod_template};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

const REVISION_HISTORY_LIMIT: i32 = 10;
/// Counts the templates there have been; of the API's older versions, and still what some clients look at.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) struct DaemonSets;

impl Kind for DaemonSets {
    type Object = DaemonSet;
    const PLURAL: &'static str = "daemonsets";
    const SINGULAR: &'static str = "daemonset";
    const SHORT_NAMES: &'static [&'static str] = &["ds"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Desired", "integer", 0, "Number of nodes that should run the pod."),
        Column::new("Current", "integer", 0, "Number of nodes that run the pod and should."),
        Column::new("Ready", "integer", 0, "Number of nodes whose pod is ready."),
        Column::new("Up-to-date", "integer", 0, "Number of nodes whose pod is of the current template."),
        Column::new(
            "Available",
            "integer",
            0,
            "Number of nodes whose pod has been ready for minReadySeconds.",
        ),
        Column::new("Node Selector", "string", 0, "Labels of the nodes the pods may run on."),
        Column::age(),
        Column::new("Containers", "string", 1, "Names of each container in the template."),
        Column::new("Images", "string", 1, "Images referenced by each container in the template."),
        Column::new("Selector", "string", 1, "Label query that the pods match."),
    ];

    fn default(object: &mut DaemonSet) {
        let spec = object.spec.get_or_insert_default();
        spec.revision_history_limit.get_or_insert(REVISION_HISTORY_LIMIT);
        let strategy = spec.update_strategy.get_or_insert_default();
        let type_ = strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned());
        if type_ == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        pod_template::default(&mut spec.template);
    }

    fn prepare_create(object: &mut DaemonSet) {
        object.status = Some(DaemonSetStatus::default());
        set_template_generation(object, 1);
    }

    fn prepare_update(new: &mut DaemonSet, old: &DaemonSet) {
        new.status = old.status.clone();
        let template = |set: &DaemonSet| set.spec.as_ref().map(|s| s.template.clone());
        let before = template_generation(old);
        let changed = template(new) != template(old);
        set_template_generation(new, before + i64::from(changed));
    }

    fn prepare_status_update(new: &mut DaemonSet, old: &DaemonSet) {
        new.spec = old.spec.clone();
    }

    fn generation_changed(new: &DaemonSet, old: &DaemonSet) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &DaemonSet) -> Errors {
        let (mut errors, none) = (Errors::default(), DaemonSetSpec::default());
        let spec = object.spec.as_ref().unwrap_or(&none);
        let path = Path::new("spec");
        let found =
            match label_selector::validate_needed(&spec.selector, &path.child("selector"), &mut errors) {
                Needed::Missing => None,
                // Named already; whether the template fits nobody can say.
                Needed::Faulty => Some(Selector::default()),
                Needed::Good(selector) => Some(selector),
            };
        let template_path = path.child("template");
        pod_template::validate_selected(
            &spec.template,
            found.as_ref(),
            "DaemonSet",
            &template_path,
            &mut errors,
        );
        let none = DaemonSetUpdateStrategy::default();
        let strategy = spec.update_strategy.as_ref().unwrap_or(&none);
        validate_strategy(strategy, &path.child("updateStrategy"), &mut errors);
        let counts = [
            ("minReadySeconds", spec.min_ready_seconds),
            ("revisionHistoryLimit", spec.revision_history_limit),
        ];
        pod_template::not_negative(counts, &path, &mut errors);
        errors
    }

    fn validate_update(new: &DaemonSet, old: &DaemonSet) -> Errors {
        let mut errors = Self::validate(new);
        let selector = |d: &DaemonSet| d.spec.as_ref().map(|s| s.selector.clone());
        let path = Path::new("spec").child("selector");
        object_meta::immutable(selector(new), selector(old), &path, &mut errors);
        errors
    }

    fn validate_status_update(new: &DaemonSet, old: &DaemonSet) -> Errors {
        let mut errors = Errors::default();
        let (none, path) = (DaemonSetStatus::default(), Path::new("status"));
        let status = new.status.as_ref().unwrap_or(&none);
        let counts = [
            ("currentNumberScheduled", Some(status.current_number_scheduled)),
            ("numberMisscheduled", Some(status.number_misscheduled)),
            ("desiredNumberScheduled", Some(status.desired_number_scheduled)),
            ("numberReady", Some(status.number_ready)),
            ("updatedNumberScheduled", status.updated_number_scheduled),
            ("numberAvailable", status.number_available),
            ("numberUnavailable", status.number_unavailable),
            ("collisionCount", status.collision_count),
        ];
        pod_template::not_negative(counts, &path, &mut errors);
        pod_template::not_negative([("observedGeneration", status.observed_generation)], &path, &mut errors);
        let collisions = |d: &DaemonSet| d.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        if collisions(new) < collisions(old) {
            errors.invalid(&path.child("collisionCount"), collisions(new), "cannot be decremented");
        }
        errors
    }

    fn warnings(object: &DaemonSet) -> Vec<String> {
        let template = object.spec.as_ref().map(|s| &s.template);
        pod_template::warnings(template, &Path::new("spec").child("template"))
    }

    fn row(object: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let none = (DaemonSetSpec::default(), DaemonSetStatus::default());
        let (spec, status) =
            (object.spec.as_ref().unwrap_or(&none.0), object.status.as_ref().unwrap_or(&none.1));
        let [containers, images] = pod_template::container_cells(Some(&spec.template));
        let nodes = spec.template.spec.as_ref().and_then(|s| s.node_selector.as_ref());
        vec![
            cells::name(&object.metadata),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or(0).into(),
            status.number_available.unwrap_or(0).into(),
            cells::labels(nodes).into(),
            cells::age(&object.metadata, now),
            containers,
            images,
            pod_template::selector_cell(&spec.selector),
        ]
    }
}

fn template_generation(set: &DaemonSet) -> i64 {
    let text = set.metadata.annotations.as_ref().and_then(|a| a.get(TEMPLATE_GENERATION));
    text.and_then(|t| t.parse().ok()).unwrap_or(1)
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

fn validate_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path, errors: &mut Errors) {
    let rolling_path = path.child("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or(""), &strategy.rolling_update) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.required(&rolling_path, ""),
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &rolling_path, errors),
        (other, _) => errors.not_supported(path, other, &["RollingUpdate", "OnDelete"]),
    }
}

fn validate_rolling(rolling: &RollingUpdateDaemonSet, path: &Path, errors: &mut Errors) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    int_or_percent::validate_share(unavailable, &path.child("maxUnavailable"), errors);
    int_or_percent::validate_share(surge, &path.child("maxSurge"), errors);
    match (int_or_percent::is_zero(unavailable), int_or_percent::is_zero(surge)) {
        (false, false) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&path.child("maxSurge"), surge, detail);
        }
        (true, true) => {
            errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    fn set(change: impl FnOnce(&mut Value)) -> DaemonSet {
        let mut spec = json!({
            "selector": {"matchLabels": {"app": "log"}},
            "template": {"metadata": {"labels": {"app": "log"}},
                         "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "i:v1"}]}}
        });
        change(&mut spec);
        let mut set = object(json!({"metadata": {"name": "log", "creationTimestamp": at(0)}, "spec": spec}));
        DaemonSets::default(&mut set);
        DaemonSets::prepare_create(&mut set);
        set
    }

    #[test]
    fn defaults_row_and_template_generation() {
        let made = set(|_| {});
        let value = serde_json::to_value(&made).unwrap();
        assert_eq!(
            value["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
        );
        assert_eq!(value["metadata"]["annotations"], json!({TEMPLATE_GENERATION: "1"}));
        let row = DaemonSets::row(&made, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["log", 0, 0, 0, 0, 0, "disk=ssd", "7s", "c", "i:v1", "app=log"]));
        let mut new = set(|s| s["template"]["spec"]["containers"][0]["image"] = json!("i:v2"));
        DaemonSets::prepare_update(&mut new, &made);
        assert_eq!(template_generation(&new), 2);
        let again = new.clone();
        DaemonSets::prepare_update(&mut new, &again);
        assert_eq!(template_generation(&new), 2);
    }

    #[test]
    fn rules() {
        assert_eq!(texts(DaemonSets::validate(&set(|_| {}))), Vec::<String>::new());
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 3] = [
            (
                |s| s["updateStrategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}),
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is \
                 non-zero",
            ),
            (
                |s| s["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": 0}}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
            ),
            (
                |s| s["template"]["spec"]["restartPolicy"] = json!("OnFailure"),
                "spec.template.spec.restartPolicy: Unsupported value: \"OnFailure\": supported values: \"Always\"",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(texts(DaemonSets::validate(&set(change))), [expected]);
        }
    }
}
