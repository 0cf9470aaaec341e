//! Deployment: ReplicaSets that follow one another.

use super::shared::spec_and_status::spec_and_status;
use super::shared::{cells, int_or_percent, object_meta, pod_template};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

const REVISION_HISTORY_LIMIT: i32 = 10;
const PROGRESS_DEADLINE_SECONDS: i32 = 600;
/// How many pods may be missing, and how many too many, while one set replaces another.
const MAX_UNAVAILABLE: &str = "25%";
const MAX_SURGE: &str = "25%";

pub(super) struct Deployments;

impl Kind for Deployments {
    type Object = Deployment;
    const PLURAL: &'static str = "deployments";
    const SINGULAR: &'static str = "deployment";
    const SHORT_NAMES: &'static [&'static str] = &["deploy"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Scale];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Ready", "string", 0, "Number of the pod with ready state"),
        Column::new("Up-to-date", "string", 0, "Number of pods of the current template."),
        Column::new("Available", "string", 0, "Number of pods that have been ready for minReadySeconds."),
        Column::age(),
        Column::new("Containers", "string", 1, "Names of each container in the template."),
        Column::new("Images", "string", 1, "Images referenced by each container in the template."),
        Column::new("Selector", "string", 1, "Label query that the pods match."),
    ];

    fn default(object: &mut Deployment) {
        let spec = object.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(REVISION_HISTORY_LIMIT);
        spec.progress_deadline_seconds.get_or_insert(PROGRESS_DEADLINE_SECONDS);
        let strategy = spec.strategy.get_or_insert_default();
        let type_ = strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned());
        if type_ == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert_with(|| IntOrString::String(MAX_UNAVAILABLE.to_owned()));
            rolling.max_surge.get_or_insert_with(|| IntOrString::String(MAX_SURGE.to_owned()));
        }
        pod_template::default(&mut spec.template);
    }

    spec_and_status!(Deployment, no generation);

    /// Annotations count too: the controller copies them to its ReplicaSets.
    fn generation_changed(new: &Deployment, old: &Deployment) -> Option<bool> {
        Some(new.spec != old.spec || new.metadata.annotations != old.metadata.annotations)
    }

    fn validate(object: &Deployment) -> Errors {
        let (mut errors, none) = (Errors::default(), DeploymentSpec::default());
        let spec = object.spec.as_ref().unwrap_or(&none);
        let path = Path::new("spec");
        pod_template::not_negative([("replicas", spec.replicas)], &path, &mut errors);
        // The pods are a ReplicaSet's: so are the words.
        pod_template::validate_with_selector(
            &spec.selector,
            "invalid label selector",
            &spec.template,
            "ReplicaSet",
            &path,
            &mut errors,
        );
        let none = DeploymentStrategy::default();
        validate_strategy(spec.strategy.as_ref().unwrap_or(&none), &path.child("strategy"), &mut errors);
        let counts = [
            ("minReadySeconds", spec.min_ready_seconds),
            ("revisionHistoryLimit", spec.revision_history_limit),
            ("progressDeadlineSeconds", spec.progress_deadline_seconds),
        ];
        pod_template::not_negative(counts, &path, &mut errors);
        let ready = spec.min_ready_seconds.unwrap_or(0);
        if let Some(deadline) = spec.progress_deadline_seconds.filter(|d| *d <= ready) {
            let path = path.child("progressDeadlineSeconds");
            errors.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
        errors
    }

    fn validate_update(new: &Deployment, old: &Deployment) -> Errors {
        let mut errors = Self::validate(new);
        let selector = |d: &Deployment| d.spec.as_ref().map(|s| s.selector.clone());
        let path = Path::new("spec").child("selector");
        object_meta::immutable(selector(new), selector(old), &path, &mut errors);
        errors
    }

    fn validate_status_update(new: &Deployment, old: &Deployment) -> Errors {
        let mut errors = Errors::default();
        let (none, path) = (DeploymentStatus::default(), Path::new("status"));
        let status = new.status.as_ref().unwrap_or(&none);
        let parts = [
            ("updatedReplicas", status.updated_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
        ];
        pod_template::not_negative([("observedGeneration", status.observed_generation)], &path, &mut errors);
        pod_template::within_replicas(status.replicas.unwrap_or(0), &parts, &path, &mut errors);
        let others = [
            ("unavailableReplicas", status.unavailable_replicas),
            ("terminatingReplicas", status.terminating_replicas),
            ("collisionCount", status.collision_count),
        ];
        pod_template::not_negative(others, &path, &mut errors);
        let collisions = |d: &Deployment| d.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        if collisions(new) < collisions(old) {
            errors.invalid(&path.child("collisionCount"), collisions(new), "cannot be decremented");
        }
        errors
    }

    fn warnings(object: &Deployment) -> Vec<String> {
        let template = object.spec.as_ref().map(|s| &s.template);
        let mut texts = pod_template::warnings(template, &Path::new("spec").child("template"));
        texts.extend(pod_template::name_warning(&object.metadata));
        texts
    }

    fn row(object: &Deployment, now: Timestamp) -> Vec<Value> {
        let none = (DeploymentSpec::default(), DeploymentStatus::default());
        let (spec, status) =
            (object.spec.as_ref().unwrap_or(&none.0), object.status.as_ref().unwrap_or(&none.1));
        let [containers, images] = pod_template::container_cells(Some(&spec.template));
        vec![
            cells::name(&object.metadata),
            format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0)).into(),
            status.updated_replicas.unwrap_or(0).into(),
            status.available_replicas.unwrap_or(0).into(),
            cells::age(&object.metadata, now),
            containers,
            images,
            pod_template::scale_selector(&spec.selector).into(),
        ]
    }

    fn scale(object: &Deployment) -> Option<(i32, i32, String)> {
        let spec = object.spec.as_ref()?;
        let current = object.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        Some((spec.replicas.unwrap_or(0), current, pod_template::scale_selector(&spec.selector)))
    }

    fn set_scale(object: &mut Deployment, replicas: i32) {
        object.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path, errors: &mut Errors) {
    let rolling_path = path.child("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or(""), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            errors.forbidden(&rolling_path, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &rolling_path, errors),
        ("RollingUpdate", None) => {
            errors.required(&rolling_path, "this should be defaulted and never be nil");
        }
        (other, _) => errors.not_supported(path, other, &["Recreate", "RollingUpdate"]),
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path, errors: &mut Errors) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    int_or_percent::validate_share(unavailable, &path.child("maxUnavailable"), errors);
    int_or_percent::validate(surge, &path.child("maxSurge"), errors);
    if int_or_percent::is_zero(unavailable) && int_or_percent::is_zero(surge) {
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.invalid(&path.child("maxUnavailable"), unavailable, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    fn deployment(change: impl FnOnce(&mut Value)) -> Deployment {
        let mut spec = json!({
            "replicas": 3, "selector": {"matchLabels": {"app": "kubia"}},
            "template": {"metadata": {"labels": {"app": "kubia"}}, "spec": {"containers": [{"name": "c", "image": "i:v1"}]}}
        });
        change(&mut spec);
        let mut all =
            object(json!({"metadata": {"name": "kubia", "creationTimestamp": at(0)}, "spec": spec}));
        Deployments::default(&mut all);
        Deployments::prepare_create(&mut all);
        all
    }

    #[test]
    fn defaults_row_and_generation() {
        let made = deployment(|_| {});
        let value = serde_json::to_value(&made).unwrap();
        assert_eq!(
            value["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(value["spec"]["progressDeadlineSeconds"], 600);
        assert_eq!(value["status"], json!({}));
        let row = Deployments::row(&made, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["kubia", "0/3", 0, 0, "7s", "c", "i:v1", "app=kubia"]));
        let mut annotated = made.clone();
        annotated.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        assert_eq!(Deployments::generation_changed(&annotated, &made), Some(true));
    }

    #[test]
    fn rules() {
        assert_eq!(texts(Deployments::validate(&deployment(|_| {}))), Vec::<String>::new());
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 5] = [
            (
                |s| s["strategy"] = json!({"type": "Recreate", "rollingUpdate": {}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                |s| s["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ),
            (
                |s| s["strategy"] = json!({"rollingUpdate": {"maxUnavailable": "101%"}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ),
            (
                |s| s["strategy"] = json!({"type": "Blue"}),
                "spec.strategy: Unsupported value: \"Blue\": supported values: \"Recreate\", \"RollingUpdate\"",
            ),
            (
                |s| s["minReadySeconds"] = json!(700),
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(texts(Deployments::validate(&deployment(change))), [expected]);
        }
    }
}
