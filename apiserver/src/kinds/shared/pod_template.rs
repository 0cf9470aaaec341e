//! Pod templates and what the kinds that hold one share: their rules, their warnings, counts of replicas, cells.

use super::label_selector::{self, Needed};
use super::{cells, object_meta, pod_spec};
use api::field::{Errors, Path};
use api::names;
use api::selector::Selector;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::Value;
use std::collections::BTreeMap;

pub(in crate::kinds) const NEGATIVE: &str = "must be greater than or equal to 0";

pub(in crate::kinds) fn default(template: &mut PodTemplateSpec) {
    // Kubernetes shows it even if there is nothing in it.
    template.metadata.get_or_insert_default();
    pod_spec::default_spec(template.spec.get_or_insert_default());
}

/// Labels, annotations and the spec of a template.
pub(in crate::kinds) fn validate(template: &PodTemplateSpec, path: &Path, errors: &mut Errors) {
    let none = ObjectMeta::default();
    let meta = template.metadata.as_ref().unwrap_or(&none);
    object_meta::labels(meta.labels.as_ref(), &path.child("labels"), errors);
    object_meta::annotations(meta.annotations.as_ref(), &path.child("annotations"), errors);
    let spec = template.spec.clone().unwrap_or_default();
    pod_spec::validate(&spec, pod_spec::Holder::Template, &path.child("spec"), errors);
    if spec.ephemeral_containers.is_some_and(|all| !all.is_empty()) {
        let path = path.child("spec").child("ephemeralContainers");
        errors.forbidden(&path, "ephemeral containers not allowed in pod template");
    }
}

/// The selector and the template of a kind whose pods run for ever. What Kubernetes says of a faulty selector differs
/// by kind: `fault`.
pub(in crate::kinds) fn validate_with_selector(
    selector: &LabelSelector,
    fault: &str,
    template: &PodTemplateSpec,
    kind: &str,
    path: &Path,
    errors: &mut Errors,
) {
    let (selector_path, template_path) = (path.child("selector"), path.child("template"));
    match label_selector::validate_needed(selector, &selector_path, errors) {
        Needed::Missing => {
            errors.required(&selector_path, "");
            validate_selected(template, None, kind, &template_path, errors);
        }
        // Whether the template fits nobody can say.
        Needed::Faulty => errors.invalid(&selector_path, selector, fault),
        Needed::Good(selector) => validate_selected(template, Some(&selector), kind, &template_path, errors),
    }
}

/// [`validate`] for a kind whose pods run for ever: they are found again by `selector` (`None` finds nothing) and always
/// restarted.
pub(in crate::kinds) fn validate_selected(
    template: &PodTemplateSpec,
    selector: Option<&Selector>,
    kind: &str,
    path: &Path,
    errors: &mut Errors,
) {
    let (labels, none) = (template.metadata.as_ref().and_then(|m| m.labels.as_ref()), BTreeMap::new());
    if selector.is_none_or(|s| !s.is_everything() && !s.matches(labels.unwrap_or(&none))) {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&path.child("metadata").child("labels"), labels, detail);
    }
    validate(template, path, errors);
    let (path, spec) = (path.child("spec"), template.spec.as_ref());
    let policy = spec.and_then(|s| s.restart_policy.as_deref()).unwrap_or("");
    if policy != "Always" {
        errors.not_supported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    if spec.is_some_and(|s| s.active_deadline_seconds.is_some()) {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.child("activeDeadlineSeconds"), detail);
    }
}

/// Warnings about the template at `path`.
pub(in crate::kinds) fn warnings(template: Option<&PodTemplateSpec>, path: &Path) -> Vec<String> {
    let spec = template.and_then(|t| t.spec.as_ref());
    spec.map(|s| pod_spec::warnings(s, &path.child("spec"))).unwrap_or_default()
}

/// A warning about a name that is allowed and yet no DNS label, as the names of pods made from it should be.
pub(in crate::kinds) fn name_warning(meta: &ObjectMeta) -> Option<String> {
    let faults = names::dns_label(meta.name.as_deref().unwrap_or_default());
    (!faults.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS \
             label is recommended: [{}]",
            faults.join(" ")
        )
    })
}

/// Fields that hold a count.
pub(in crate::kinds) fn not_negative<'a, N: Into<i64>>(
    counts: impl IntoIterator<Item = (&'a str, Option<N>)>,
    path: &Path,
    errors: &mut Errors,
) {
    for (field, count) in counts {
        if let Some(count) = count.map(Into::into).filter(|c: &i64| *c < 0) {
            errors.invalid(&path.child(field), count, NEGATIVE);
        }
    }
}

/// Counts of a status that are each a part of its replicas, the available ones a part of the ready ones.
pub(in crate::kinds) fn within_replicas(
    replicas: i32,
    parts: &[(&str, Option<i32>)],
    path: &Path,
    errors: &mut Errors,
) {
    let of = |name: &str| parts.iter().find(|(field, _)| *field == name).and_then(|p| p.1).unwrap_or(0);
    not_negative([("replicas", Some(replicas))], path, errors);
    not_negative(parts.iter().copied(), path, errors);
    for (field, part) in parts {
        if let Some(part) = part.filter(|p| *p > replicas) {
            errors.invalid(&path.child(field), part, "cannot be greater than status.replicas");
        }
    }
    if of("availableReplicas") > of("readyReplicas") {
        let available = of("availableReplicas");
        errors.invalid(&path.child("availableReplicas"), available, "cannot be greater than readyReplicas");
    }
}

/// The wide columns that all kinds with a template have: containers, images.
pub(in crate::kinds) fn container_cells(template: Option<&PodTemplateSpec>) -> [Value; 2] {
    let containers: &[Container] = template.and_then(|t| t.spec.as_ref()).map_or(&[], |s| &s.containers);
    let (names, images) = cells::containers(containers);
    [names.into(), images.into()]
}

/// `app=web,tier in (a,b)`.
pub(in crate::kinds) fn selector_cell(selector: &LabelSelector) -> Value {
    match Selector::from_label_selector(Some(selector)) {
        Ok(selector) if selector.is_everything() => "<none>".into(),
        Ok(selector) => selector.to_string().into(),
        Err(_) => "<error>".into(),
    }
}

/// The selector as `/scale` shows it.
pub(in crate::kinds) fn scale_selector(selector: &LabelSelector) -> String {
    Selector::from_label_selector(Some(selector)).unwrap_or_default().to_string()
}
