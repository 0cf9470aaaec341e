//! HorizontalPodAutoscaler: replicas by load, in both of its versions. Stored (as autoscaling/v2) and served; nothing
//! scales by it yet.
//!
//! autoscaling/v1 knows only a target for the CPU. What it does not know of a v2 object travels in annotations, as in
//! Kubernetes, so that a client of v1 that reads and writes loses nothing; see `typed.rs` for how two versions share
//! one store.

use super::shared::{cells, pod_template};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::{v1, v2};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

mod validate;

use validate::{has_group, validate_metric, validate_reference, validate_rules};

const DEFAULT_UTILIZATION: i32 = 80;
const MAX_PERIOD_SECONDS: i32 = 1800;
const MAX_WINDOW_SECONDS: i32 = 3600;
/// What the scaling policies are where none are given: double, or four more, each quarter of a minute; down at once.
const PERIOD_SECONDS: i32 = 15;
const UP_PODS: i32 = 4;
const ALL_PERCENT: i32 = 100;
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const SHOWN_METRICS: usize = 2;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Reference", "string", 0, "What is scaled."),
    Column::new("Targets", "string", 0, "Current and wanted metrics."),
    Column::new("MinPods", "string", 0, "Least number of replicas."),
    Column::new("MaxPods", "string", 0, "Greatest number of replicas."),
    Column::new("Replicas", "string", 0, "Current number of replicas."),
    Column::age(),
];

pub(super) struct Autoscalers;

impl Kind for Autoscalers {
    type Object = v2::HorizontalPodAutoscaler;
    const PLURAL: &'static str = "horizontalpodautoscalers";
    const SINGULAR: &'static str = "horizontalpodautoscaler";
    const SHORT_NAMES: &'static [&'static str] = &["hpa"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = COLUMNS;

    fn default(object: &mut v2::HorizontalPodAutoscaler) {
        let spec = &mut object.spec;
        spec.min_replicas.get_or_insert(1);
        if spec.metrics.as_ref().is_none_or(|m| m.is_empty()) {
            spec.metrics = Some(vec![cpu_metric(DEFAULT_UTILIZATION)]);
        }
        let Some(behavior) = &mut spec.behavior else { return };
        let policy = |type_: &str, value| v2::HPAScalingPolicy {
            type_: type_.to_owned(),
            value,
            period_seconds: PERIOD_SECONDS,
        };
        let up = behavior.scale_up.get_or_insert_default();
        up.stabilization_window_seconds.get_or_insert(0);
        up.select_policy.get_or_insert_with(|| "Max".to_owned());
        up.policies.get_or_insert_with(|| vec![policy("Pods", UP_PODS), policy("Percent", ALL_PERCENT)]);
        let down = behavior.scale_down.get_or_insert_default();
        down.select_policy.get_or_insert_with(|| "Max".to_owned());
        down.policies.get_or_insert_with(|| vec![policy("Percent", ALL_PERCENT)]);
    }

    fn prepare_create(object: &mut v2::HorizontalPodAutoscaler) {
        object.status = Some(Default::default());
    }
    fn prepare_update(new: &mut v2::HorizontalPodAutoscaler, old: &v2::HorizontalPodAutoscaler) {
        new.status = old.status.clone();
    }
    fn prepare_status_update(new: &mut v2::HorizontalPodAutoscaler, old: &v2::HorizontalPodAutoscaler) {
        new.spec = old.spec.clone();
    }

    fn validate(object: &v2::HorizontalPodAutoscaler) -> Errors {
        let reference = &object.spec.scale_target_ref;
        validate_spec(&object.spec, reference.kind != "ReplicationController")
    }

    fn validate_update(new: &v2::HorizontalPodAutoscaler, old: &v2::HorizontalPodAutoscaler) -> Errors {
        // What was made without a group may stay so.
        let reference = &new.spec.scale_target_ref;
        let needed = reference.kind != "ReplicationController" && has_group(&old.spec.scale_target_ref);
        validate_spec(&new.spec, needed)
    }

    fn validate_status_update(new: &v2::HorizontalPodAutoscaler, _: &v2::HorizontalPodAutoscaler) -> Errors {
        let mut errors = Errors::default();
        let status = new.status.clone().unwrap_or_default();
        let counts = [
            ("currentReplicas", status.current_replicas),
            ("desiredReplicas", Some(status.desired_replicas)),
        ];
        pod_template::not_negative(counts, &Path::new("status"), &mut errors);
        errors
    }

    fn row(object: &v2::HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&object.spec, object.status.clone().unwrap_or_default());
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let current = status.current_metrics.unwrap_or_default();
        vec![
            cells::name(&object.metadata),
            format!("{}/{}", spec.scale_target_ref.kind, spec.scale_target_ref.name).into(),
            targets(metrics, &current).into(),
            spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |n| n.to_string()).into(),
            spec.max_replicas.into(),
            status.current_replicas.unwrap_or(0).into(),
            cells::age(&object.metadata, now),
        ]
    }
}

fn validate_spec(spec: &v2::HorizontalPodAutoscalerSpec, needs_group: bool) -> Errors {
    let (mut errors, path) = (Errors::default(), Path::new("spec"));
    if let Some(min) = spec.min_replicas.filter(|m| *m < 1) {
        errors.invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1");
    }
    let max = path.child("maxReplicas");
    match spec.max_replicas {
        0 => errors.required(&max, "must be set and greater than 0"),
        n if n < 0 => errors.invalid(&max, n, "must be greater than or equal to 1"),
        _ => {}
    }
    if spec.min_replicas.is_some_and(|min| spec.max_replicas < min) {
        errors.invalid(&max, spec.max_replicas, "must be greater than or equal to `minReplicas`");
    }
    validate_reference(&spec.scale_target_ref, needs_group, &path.child("scaleTargetRef"), &mut errors);
    for (i, metric) in spec.metrics.iter().flatten().enumerate() {
        validate_metric(metric, &path.child("metrics").index(i), &mut errors);
    }
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
            if let Some(rules) = rules {
                validate_rules(rules, &path.child(field), &mut errors);
            }
        }
    }
    errors
}

fn cpu_metric(percent: i32) -> v2::MetricSpec {
    v2::MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(v2::ResourceMetricSource {
            name: "cpu".to_owned(),
            target: v2::MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..Default::default()
            },
        }),
        ..Default::default()
    }
}

/// The target and what it is called, and its current value.
fn target<'a>(
    spec: &'a v2::MetricSpec,
    status: Option<&'a v2::MetricStatus>,
) -> Option<(Option<&'a str>, &'a v2::MetricTarget, Option<&'a v2::MetricValueStatus>)> {
    Some(match spec.type_.as_str() {
        "Resource" => {
            let source = spec.resource.as_ref()?;
            let current = status.and_then(|s| s.resource.as_ref()).map(|s| &s.current);
            (Some(source.name.as_str()), &source.target, current)
        }
        "ContainerResource" => {
            let source = spec.container_resource.as_ref()?;
            let current = status.and_then(|s| s.container_resource.as_ref()).map(|s| &s.current);
            (Some(source.name.as_str()), &source.target, current)
        }
        "Pods" => {
            (None, &spec.pods.as_ref()?.target, status.and_then(|s| s.pods.as_ref()).map(|s| &s.current))
        }
        "Object" => {
            (None, &spec.object.as_ref()?.target, status.and_then(|s| s.object.as_ref()).map(|s| &s.current))
        }
        "External" => (
            None,
            &spec.external.as_ref()?.target,
            status.and_then(|s| s.external.as_ref()).map(|s| &s.current),
        ),
        _ => return None,
    })
}

fn targets(metrics: &[v2::MetricSpec], current: &[v2::MetricStatus]) -> String {
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let text = |q: Option<&Quantity>| q.map_or("<unknown>", |q| q.0.as_str()).to_owned();
    let percent = |n: Option<i32>, none: &str| n.map_or_else(|| none.to_owned(), |n| format!("{n}%"));
    let shown = metrics.iter().enumerate().take(SHOWN_METRICS).map(|(i, spec)| {
        let Some((name, target, now)) = target(spec, current.get(i)) else {
            return "<unknown type>".to_owned();
        };
        let prefix = name.map(|n| format!("{n}: ")).unwrap_or_default();
        if let Some(average) = &target.average_value {
            let now = text(now.and_then(|n| n.average_value.as_ref()));
            let per_pod = if name.is_none() && spec.type_ != "Pods" { " (avg)" } else { "" };
            return format!("{prefix}{now}/{}{per_pod}", average.0);
        }
        if name.is_some() {
            let now = percent(now.and_then(|n| n.average_utilization), "<unknown>");
            return format!("{prefix}{now}/{}", percent(target.average_utilization, "<auto>"));
        }
        format!("{}/{}", text(now.and_then(|n| n.value.as_ref())), text(target.value.as_ref()))
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match metrics.len() {
        n if n > SHOWN_METRICS => format!("{shown} + {} more...", n - SHOWN_METRICS),
        _ => shown,
    }
}

/// autoscaling/v1: the same objects, as clients of the first version see them.
pub(super) struct AutoscalersV1;

impl Kind for AutoscalersV1 {
    type Object = v1::HorizontalPodAutoscaler;
    const PLURAL: &'static str = Autoscalers::PLURAL;
    const SINGULAR: &'static str = Autoscalers::SINGULAR;
    const SHORT_NAMES: &'static [&'static str] = Autoscalers::SHORT_NAMES;
    const CATEGORIES: &'static [&'static str] = Autoscalers::CATEGORIES;
    const SUBRESOURCES: &'static [Subresource] = Autoscalers::SUBRESOURCES;
    const COLUMNS: &'static [Column] = COLUMNS;
    const IS_VIEW: bool = true;

    fn to_stored(object: &v1::HorizontalPodAutoscaler) -> Vec<u8> {
        serde_json::to_vec(&to_v2(object)).unwrap_or_default()
    }
    fn from_stored(bytes: &[u8]) -> Result<v1::HorizontalPodAutoscaler, String> {
        serde_json::from_slice(bytes).map(|stored| to_v1(&stored)).map_err(|e| e.to_string())
    }

    fn default(object: &mut v1::HorizontalPodAutoscaler) {
        object.spec.min_replicas.get_or_insert(1);
        // What the CPU is to be, unless something else is to be looked at.
        if annotated::<v2::MetricSpec>(object, METRICS).is_empty() {
            object.spec.target_cpu_utilization_percentage.get_or_insert(DEFAULT_UTILIZATION);
        }
    }
    fn prepare_create(object: &mut v1::HorizontalPodAutoscaler) {
        object.status = Some(Default::default());
    }
    fn prepare_update(new: &mut v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler) {
        new.status = old.status.clone();
        keep(new, old, &[CURRENT_METRICS, CONDITIONS]);
    }
    fn prepare_status_update(new: &mut v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler) {
        new.spec = old.spec.clone();
        keep(new, old, &[METRICS, BEHAVIOR]);
    }
    fn validate(object: &v1::HorizontalPodAutoscaler) -> Errors {
        Autoscalers::validate(&to_v2(object))
    }
    fn validate_update(new: &v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler) -> Errors {
        Autoscalers::validate_update(&to_v2(new), &to_v2(old))
    }
    fn validate_status_update(
        new: &v1::HorizontalPodAutoscaler,
        old: &v1::HorizontalPodAutoscaler,
    ) -> Errors {
        Autoscalers::validate_status_update(&to_v2(new), &to_v2(old))
    }
    fn row(object: &v1::HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        Autoscalers::row(&to_v2(object), now)
    }
}

/// A list kept in an annotation; what cannot be read counts as nothing.
fn annotated<T: DeserializeOwned>(object: &v1::HorizontalPodAutoscaler, key: &str) -> Vec<T> {
    let text = object.metadata.annotations.as_ref().and_then(|a| a.get(key));
    text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default()
}

fn keep(new: &mut v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler, keys: &[&str]) {
    for key in keys {
        let before = old.metadata.annotations.as_ref().and_then(|a| a.get(*key));
        let annotations = new.metadata.annotations.get_or_insert_default();
        match before {
            Some(before) => annotations.insert((*key).to_owned(), before.clone()),
            None => annotations.remove(*key),
        };
    }
    new.metadata.annotations = new.metadata.annotations.take().filter(|a| !a.is_empty());
}

/// A metric that v1 has a field for: the utilization of the CPU.
fn cpu(metric: &v2::MetricSpec) -> Option<i32> {
    let source = metric.resource.as_ref().filter(|r| r.name == "cpu" && metric.type_ == "Resource")?;
    source.target.average_utilization
}

fn to_v2(object: &v1::HorizontalPodAutoscaler) -> v2::HorizontalPodAutoscaler {
    let mut metrics: Vec<v2::MetricSpec> = annotated(object, METRICS);
    metrics.extend(object.spec.target_cpu_utilization_percentage.map(cpu_metric));
    let behavior = object.metadata.annotations.as_ref().and_then(|a| a.get(BEHAVIOR));
    let mut metadata = object.metadata.clone();
    if let Some(annotations) = &mut metadata.annotations {
        annotations
            .retain(|key, _| ![METRICS, CURRENT_METRICS, BEHAVIOR, CONDITIONS].contains(&key.as_str()));
    }
    metadata.annotations = metadata.annotations.take().filter(|a| !a.is_empty());
    let some = |list: Vec<_>| Some(list).filter(|l: &Vec<v2::MetricSpec>| !l.is_empty());
    let reference = &object.spec.scale_target_ref;
    v2::HorizontalPodAutoscaler {
        spec: v2::HorizontalPodAutoscalerSpec {
            behavior: behavior.and_then(|b| serde_json::from_str(b).ok()),
            max_replicas: object.spec.max_replicas,
            metrics: some(metrics),
            min_replicas: object.spec.min_replicas,
            scale_target_ref: v2::CrossVersionObjectReference {
                api_version: reference.api_version.clone(),
                kind: reference.kind.clone(),
                name: reference.name.clone(),
            },
        },
        status: object.status.as_ref().map(|status| {
            let current: Vec<v2::MetricStatus> = annotated(object, CURRENT_METRICS);
            let conditions: Vec<v2::HorizontalPodAutoscalerCondition> = annotated(object, CONDITIONS);
            v2::HorizontalPodAutoscalerStatus {
                conditions: Some(conditions).filter(|c| !c.is_empty()),
                current_metrics: Some(current).filter(|c| !c.is_empty()),
                current_replicas: Some(status.current_replicas),
                desired_replicas: status.desired_replicas,
                last_scale_time: status.last_scale_time.clone(),
                observed_generation: status.observed_generation,
            }
        }),
        metadata,
    }
}

fn to_v1(object: &v2::HorizontalPodAutoscaler) -> v1::HorizontalPodAutoscaler {
    let mut metadata = object.metadata.clone();
    let mut annotate = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_string());
        }
    };
    let metrics = object.spec.metrics.as_deref().unwrap_or_default();
    let first = metrics.iter().position(|m| cpu(m).is_some());
    let others: Vec<_> =
        metrics.iter().enumerate().filter(|(i, _)| Some(*i) != first).map(|(_, m)| m).collect();
    annotate(METRICS, list(&others));
    annotate(BEHAVIOR, object.spec.behavior.as_ref().and_then(|b| serde_json::to_value(b).ok()));
    let status = object.status.clone().unwrap_or_default();
    annotate(CURRENT_METRICS, list(status.current_metrics.as_deref().unwrap_or_default()));
    annotate(CONDITIONS, list(status.conditions.as_deref().unwrap_or_default()));
    let current = status.current_metrics.iter().flatten().filter_map(|m| m.resource.as_ref());
    let reference = &object.spec.scale_target_ref;
    v1::HorizontalPodAutoscaler {
        spec: v1::HorizontalPodAutoscalerSpec {
            max_replicas: object.spec.max_replicas,
            min_replicas: object.spec.min_replicas,
            scale_target_ref: v1::CrossVersionObjectReference {
                api_version: reference.api_version.clone(),
                kind: reference.kind.clone(),
                name: reference.name.clone(),
            },
            target_cpu_utilization_percentage: first.and_then(|i| metrics.get(i)).and_then(cpu),
        },
        status: object.status.as_ref().map(|_| v1::HorizontalPodAutoscalerStatus {
            current_cpu_utilization_percentage: current
                .filter(|r| r.name == "cpu")
                .find_map(|r| r.current.average_utilization),
            current_replicas: status.current_replicas.unwrap_or(0),
            desired_replicas: status.desired_replicas,
            last_scale_time: status.last_scale_time,
            observed_generation: status.observed_generation,
        }),
        metadata,
    }
}

fn list<T: Serialize>(items: &[T]) -> Option<Value> {
    (!items.is_empty()).then(|| serde_json::to_value(items).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    fn autoscaler(change: impl FnOnce(&mut Value)) -> v2::HorizontalPodAutoscaler {
        let mut spec = json!({"maxReplicas": 5, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}});
        change(&mut spec);
        let mut made = object(json!({"metadata": {"name": "web"}, "spec": spec}));
        Autoscalers::default(&mut made);
        Autoscalers::prepare_create(&mut made);
        made
    }

    fn of_container(resource: &str) -> Value {
        let target = json!({"type": "Utilization", "averageUtilization": 5});
        let source = json!({"container": "a", "name": resource, "target": target});
        json!([{"type": "ContainerResource", "containerResource": source}])
    }

    #[test]
    fn defaults_row_and_rules() {
        let made = autoscaler(|s| {
            s["behavior"] =
                json!({"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}})
        });
        assert!(texts(Autoscalers::validate(&made)).is_empty());
        let behavior = made.spec.behavior.clone().unwrap();
        assert_eq!(behavior.scale_up.unwrap().policies.unwrap().len(), 2);
        assert_eq!(behavior.scale_down.unwrap().policies.unwrap()[0].period_seconds, 60);
        let row = json!(Autoscalers::row(&made, Timestamp::UNIX_EPOCH)[1..6]);
        assert_eq!(row, json!(["Deployment/web", "cpu: <unknown>/80%", "1", 5, 0]));
        let faults = |change: fn(&mut Value)| texts(Autoscalers::validate(&autoscaler(change)));
        assert!(faults(|s| s["metrics"] = of_container("memory")).is_empty());
        let at = "spec.metrics[0].containerResource.name: Invalid value: \"disk\"";
        assert_eq!(
            faults(|s| s["metrics"] = of_container("disk")),
            [
                format!("{at}: must be a standard resource type or fully qualified"),
                format!("{at}: must be a standard resource for containers")
            ]
        );
        assert_eq!(
            faults(|s| s["minReplicas"] = json!(6)),
            ["spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`"]
        );
        assert_eq!(
            faults(|s| s["metrics"] = json!([{"type": "Pods"}])),
            ["spec.metrics[0].pods: Required value: must populate information for the given metric source"]
        );
        assert_eq!(
            faults(|s| s["scaleTargetRef"] = json!({"kind": "", "name": "x"})),
            [
                "spec.scaleTargetRef.kind: Required value",
                "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
            ]
        );
        // Several sources: the first is looked into, all but the named one are refused.
        assert_eq!(
            faults(|s| {
                let metric = json!({"metric": {"name": "a/b"}, "target": {"type": "Other"}});
                s["metrics"] = json!([{"type": "Pods", "pods": metric, "external": metric}]);
            }),
            [
                "spec.metrics[0].external.metric.name: Invalid value: \"a/b\": may not contain '/'",
                "spec.metrics[0].external.target.type: Invalid value: \"Other\": must be either Utilization, Value, or \
                 AverageValue",
                "spec.metrics[0].external.target.averageValue: Required value: must set either a target value for metric \
                 or a per-pod target",
                "spec.metrics[0].external: Forbidden: must populate the given metric source only",
            ]
        );
    }

    #[test]
    fn the_first_version_loses_nothing() {
        let mut rich = autoscaler(|s| {
            s["metrics"] = json!([
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
                {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}}]);
            s["behavior"] = json!({});
        });
        rich.status = object(
            json!({"currentReplicas": 2, "desiredReplicas": 3, "conditions": [{"type": "AbleToScale", "status": "True"}]}),
        );
        let seen = to_v1(&rich);
        assert_eq!(seen.spec.target_cpu_utilization_percentage, Some(70));
        assert_eq!(seen.metadata.annotations.as_ref().map(|a| a.len()), Some(3));
        let mut back = to_v2(&seen);
        // The CPU comes last: order says nothing.
        back.spec.metrics.as_mut().unwrap().reverse();
        assert_eq!(back, rich);
        let stored = AutoscalersV1::to_stored(&seen);
        assert!(String::from_utf8(stored.clone()).unwrap().contains("autoscaling/v2"));
        assert_eq!(AutoscalersV1::from_stored(&stored).unwrap().spec, seen.spec);
    }
}
