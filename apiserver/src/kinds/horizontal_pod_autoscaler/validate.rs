//! Rules of HorizontalPodAutoscalers' parts: what is scaled, by which metrics, how fast.

use super::{MAX_PERIOD_SECONDS, MAX_WINDOW_SECONDS, target};
use crate::kinds::limit_range;
use crate::kinds::shared::{pod_spec, pod_template};
use api::field::{Errors, Path};
use api::{names, quantity};
use k8s_openapi::api::autoscaling::v2;

/// Whether what is scaled is told by its group too. The core group has no name, and one kind that scales.
pub(super) fn has_group(reference: &v2::CrossVersionObjectReference) -> bool {
    let group =
        reference.api_version.as_deref().and_then(|v| v.split_once('/')).map_or("", |(group, _)| group);
    !group.is_empty() || reference.kind == "ReplicationController"
}

pub(super) fn validate_reference(
    reference: &v2::CrossVersionObjectReference,
    needs_group: bool,
    path: &Path,
    errors: &mut Errors,
) {
    for (field, text) in [("kind", &reference.kind), ("name", &reference.name)] {
        match text.as_str() {
            "" => errors.required(&path.child(field), ""),
            text => errors.invalid_each(&path.child(field), text, names::path_segment(text)),
        }
    }
    let (at, version) = (path.child("apiVersion"), reference.api_version.as_deref().unwrap_or_default());
    match version.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            errors.invalid(&at, version, format!("unexpected GroupVersion string: {version}"));
        }
        None | Some(("", _)) if needs_group => {
            errors.invalid(&at, version, "apiVersion must specify API group");
        }
        _ => {}
    }
}

/// A metric names one source, that of its type. Of several only the first is looked into, in Kubernetes' order.
pub(super) fn validate_metric(spec: &v2::MetricSpec, path: &Path, errors: &mut Errors) {
    let sources = [
        ("Object", "object", spec.object.is_some()),
        ("External", "external", spec.external.is_some()),
        ("Pods", "pods", spec.pods.is_some()),
        ("Resource", "resource", spec.resource.is_some()),
        ("ContainerResource", "containerResource", spec.container_resource.is_some()),
    ];
    let mut types = sources.map(|(type_, _, _)| type_);
    types.sort_unstable();
    let type_path = path.child("type");
    let known = types.contains(&spec.type_.as_str());
    if spec.type_.is_empty() {
        errors.required(&type_path, "must specify a metric source type");
    }
    if !known {
        errors.not_supported(&type_path, &spec.type_, &types);
    }
    let there: Vec<_> = sources.iter().filter(|(_, _, there)| *there).collect();
    if let Some((type_, field, _)) = there.first() {
        validate_source(spec, type_, &path.child(field), errors);
    }
    if let Some((_, field, false)) = sources.iter().find(|(type_, _, _)| *type_ == spec.type_) {
        errors.required(&path.child(field), "must populate information for the given metric source");
    }
    if !known {
        // Twice, as Kubernetes does.
        errors.not_supported(&type_path, &spec.type_, &types);
    }
    if there.len() != 1 {
        for (_, field, _) in there.iter().filter(|(type_, _, _)| *type_ != spec.type_) {
            errors.forbidden(&path.child(field), "must populate the given metric source only");
        }
    }
}

/// The source of the given type.
fn validate_source(spec: &v2::MetricSpec, type_: &str, path: &Path, errors: &mut Errors) {
    let typed = v2::MetricSpec { type_: type_.to_owned(), ..spec.clone() };
    let Some((name, target, _)) = target(&typed, None) else { return };
    if name == Some("") {
        errors.required(&path.child("name"), "must specify a resource name");
    }
    if let Some(source) = spec.container_resource.as_ref().filter(|_| type_ == "ContainerResource") {
        if !source.name.is_empty() {
            limit_range::resource_name(&source.name, true, &path.child("name"), errors);
        }
        let at = path.child("container");
        match source.container.as_str() {
            "" => errors.required(&at, "must specify a container"),
            name => errors.invalid_each(&at, name, names::dns_label(name)),
        }
    }
    if let Some(object) = spec.object.as_ref().filter(|_| type_ == "Object") {
        validate_reference(&object.described_object, false, &path.child("describedObject"), errors);
    }
    let metric = match type_ {
        "Object" => spec.object.as_ref().map(|s| &s.metric),
        "External" => spec.external.as_ref().map(|s| &s.metric),
        "Pods" => spec.pods.as_ref().map(|s| &s.metric),
        _ => None,
    };
    if let Some(metric) = metric {
        let at = path.child("metric").child("name");
        match metric.name.as_str() {
            "" => errors.required(&at, "must specify a metric name"),
            name => errors.invalid_each(&at, name, names::path_segment(name)),
        }
    }
    validate_target(type_, target, &path.child("target"), errors);
}

fn validate_target(source: &str, target: &v2::MetricTarget, path: &Path, errors: &mut Errors) {
    let at = path.child("type");
    if target.type_.is_empty() {
        errors.required(&at, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&target.type_.as_str()) {
        errors.invalid(&at, &target.type_, "must be either Utilization, Value, or AverageValue");
    }
    for (field, amount) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(amount) = amount.as_ref().filter(|a| !quantity::of(Some(a)).is_positive()) {
            errors.invalid(&path.child(field), &amount.0, "must be positive");
        }
    }
    if let Some(percent) = target.average_utilization.filter(|p| *p < 1) {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
    let (value, average) = (target.value.is_some(), target.average_value.is_some());
    let percent = target.average_utilization.is_some();
    match source {
        "Resource" | "ContainerResource" if !percent && !average => {
            let detail = "must set either a target raw value or a target utilization";
            errors.required(&path.child("averageUtilization"), detail);
        }
        "Resource" | "ContainerResource" if percent && average => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.forbidden(&path.child("averageValue"), detail);
        }
        "Pods" if !average => {
            errors.required(&path.child("averageValue"), "must specify a positive target averageValue");
        }
        "Object" if !value && !average => {
            errors.required(&path.child("averageValue"), "must set either a target value or averageValue");
        }
        "External" if !value && !average => {
            let detail = "must set either a target value for metric or a per-pod target";
            errors.required(&path.child("averageValue"), detail);
        }
        "External" if value && average => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(&path.child("value"), detail);
        }
        _ => {}
    }
}

pub(super) fn validate_rules(rules: &v2::HPAScalingRules, path: &Path, errors: &mut Errors) {
    let window = path.child("stabilizationWindowSeconds");
    match rules.stabilization_window_seconds {
        Some(seconds) if seconds < 0 => {
            errors.invalid(&window, seconds, "must be greater than or equal to zero");
        }
        Some(seconds) if seconds > MAX_WINDOW_SECONDS => {
            errors.invalid(&window, seconds, format!("must be less than or equal to {MAX_WINDOW_SECONDS}"));
        }
        _ => {}
    }
    let selects = ["Disabled", "Max", "Min"];
    if let Some(other) = rules.select_policy.as_deref().filter(|p| !selects.contains(p)) {
        errors.not_supported(&path.child("selectPolicy"), other, &selects);
    }
    let policies = rules.policies.as_deref().unwrap_or_default();
    let at = path.child("policies");
    if policies.is_empty() {
        errors.required(&at, "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = at.index(i);
        pod_spec::enumerated(Some(&policy.type_), &["Percent", "Pods"], &path.child("type"), errors);
        for (field, number) in [("value", policy.value), ("periodSeconds", policy.period_seconds)] {
            if number <= 0 {
                errors.invalid(&path.child(field), number, "must be greater than zero");
            }
        }
        if policy.period_seconds > MAX_PERIOD_SECONDS {
            let detail = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
            errors.invalid(&path.child("periodSeconds"), policy.period_seconds, detail);
        }
    }
    if let Some(tolerance) = rules.tolerance.as_ref().filter(|t| quantity::of(Some(t)).is_negative()) {
        errors.invalid(&path.child("tolerance"), &tolerance.0, pod_template::NEGATIVE);
    }
}
