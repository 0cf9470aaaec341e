//! Where a pod may run: tolerations, affinity, spread, gates.

use super::optionally;
use crate::kinds::node::TAINT_EFFECTS;
use crate::kinds::shared::{label_selector, repeats};
use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, PodSpec, Toleration, WeightedPodAffinityTerm};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn validate(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    if let Some(affinity) = &spec.affinity {
        validate_affinity(affinity, &path.child("affinity"), errors);
    }
    validate_tolerations(spec.tolerations.as_deref().unwrap_or_default(), &path.child("tolerations"), errors);
    validate_spread(spec, &path.child("topologySpreadConstraints"), errors);
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    let repeated = repeats(gates.iter().map(|g| &g.name));
    for (i, gate) in gates.iter().enumerate() {
        let path = path.child("schedulingGates").index(i);
        errors.invalid_each(&path, &gate.name, names::qualified_name(&gate.name));
        if repeated[i] {
            errors.duplicate(&path, &gate.name);
        }
    }
}

pub(in crate::kinds) fn validate_tolerations(all: &[Toleration], path: &Path, errors: &mut Errors) {
    for (i, toleration) in all.iter().enumerate() {
        let path = path.index(i);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (key, operator, value, effect) = (
            text(&toleration.key),
            text(&toleration.operator),
            text(&toleration.value),
            text(&toleration.effect),
        );
        if !key.is_empty() {
            errors.invalid_each(&path.child("key"), &key, names::qualified_name(&key));
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&path.child("operator"), &operator, detail);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.child("effect"), &effect, detail);
        }
        match operator.as_str() {
            "" | "Equal" => {
                let faults = names::label_value(&value);
                if !faults.is_empty() {
                    errors.invalid(&path.child("operator"), &value, faults.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.invalid(&path.child("operator"), &value, detail);
            }
            "Exists" => {}
            other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !TAINT_EFFECTS.contains(&effect.as_str()) {
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            errors.not_supported(&path.child("effect"), &effect, &effects);
        }
    }
}

fn validate_affinity(affinity: &Affinity, path: &Path, errors: &mut Errors) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            label_selector::validate_node_selector(required, &path.child(REQUIRED), errors);
        }
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (i, term) in preferred.enumerate() {
            let path = path.child(PREFERRED).index(i);
            weight(term.weight, &path, errors);
            label_selector::validate_node_selector_term(&term.preference, &path.child("preference"), errors);
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        let (required, preferred) = (
            &pod.required_during_scheduling_ignored_during_execution,
            &pod.preferred_during_scheduling_ignored_during_execution,
        );
        pod_terms(required.as_deref(), preferred.as_deref(), &path.child("podAffinity"), errors);
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let (required, preferred) = (
            &pod.required_during_scheduling_ignored_during_execution,
            &pod.preferred_during_scheduling_ignored_during_execution,
        );
        pod_terms(required.as_deref(), preferred.as_deref(), &path.child("podAntiAffinity"), errors);
    }
}

fn weight(weight: i32, path: &Path, errors: &mut Errors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

fn pod_terms(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    path: &Path,
    errors: &mut Errors,
) {
    for (i, term) in required.unwrap_or_default().iter().enumerate() {
        pod_term(term, &path.child(REQUIRED).index(i), errors);
    }
    for (i, term) in preferred.unwrap_or_default().iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        weight(term.weight, &path, errors);
        pod_term(&term.pod_affinity_term, &path.child("podAffinityTerm"), errors);
    }
}

/// Keys whose values the pod's own labels give to a selector.
fn label_keys(keys: Option<&[String]>, selected: bool, path: &Path, errors: &mut Errors) {
    let keys = keys.unwrap_or_default();
    if !keys.is_empty() && !selected {
        errors.forbidden(path, "must not be specified when labelSelector is not set");
    }
    for (i, key) in keys.iter().enumerate() {
        errors.invalid_each(&path.index(i), key, names::qualified_name(key));
    }
}

fn pod_term(term: &PodAffinityTerm, path: &Path, errors: &mut Errors) {
    if let Some(selector) = &term.label_selector {
        label_selector::validate(selector, &path.child("labelSelector"), errors);
    }
    if let Some(selector) = &term.namespace_selector {
        label_selector::validate(selector, &path.child("namespaceSelector"), errors);
    }
    let selected = term.label_selector.is_some();
    label_keys(term.match_label_keys.as_deref(), selected, &path.child("matchLabelKeys"), errors);
    label_keys(term.mismatch_label_keys.as_deref(), selected, &path.child("mismatchLabelKeys"), errors);
    for name in term.namespaces.iter().flatten() {
        errors.invalid_each(&path.child("namespace"), name, names::dns_label(name));
    }
    let key = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&key, "can not be empty");
    }
    errors.invalid_each(&key, &term.topology_key, names::qualified_name(&term.topology_key));
}

fn validate_spread(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let all = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    // The earlier one is told.
    let again = repeats(all.iter().rev().map(|c| (&c.topology_key, &c.when_unsatisfiable)));
    for (i, (constraint, again)) in all.iter().zip(again.into_iter().rev()).enumerate() {
        let path = path.index(i);
        if constraint.max_skew <= 0 {
            errors.invalid(&path.child("maxSkew"), constraint.max_skew, "must be greater than zero");
        }
        if constraint.topology_key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        if !ACTIONS.contains(&constraint.when_unsatisfiable.as_str()) {
            errors.not_supported(&path.child("whenUnsatisfiable"), &constraint.when_unsatisfiable, &ACTIONS);
        }
        if again {
            let pair = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair);
        }
        if let Some(domains) = constraint.min_domains {
            let path = path.child("minDomains");
            if domains <= 0 {
                errors.invalid(&path, domains, "must be greater than zero");
            }
            if constraint.when_unsatisfiable != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    constraint.when_unsatisfiable
                );
                errors.invalid(&path, domains, detail);
            }
        }
        let selected = constraint.label_selector.is_some();
        label_keys(constraint.match_label_keys.as_deref(), selected, &path.child("matchLabelKeys"), errors);
        let policies = ["Honor", "Ignore"];
        let affinity = path.child("nodeAffinityPolicy");
        optionally(constraint.node_affinity_policy.as_ref(), &policies, &affinity, errors);
        let taints = path.child("nodeTaintsPolicy");
        optionally(constraint.node_taints_policy.as_ref(), &policies, &taints, errors);
        if let Some(selector) = &constraint.label_selector {
            label_selector::validate(selector, &path.child("labelSelector"), errors);
        }
    }
}
