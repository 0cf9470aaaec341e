//! Rules of `metav1.LabelSelector` and of node selectors.

use super::object_meta;
use api::field::{Errors, Path};
use api::names;
use api::selector::Selector;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

const VALUES_NEEDED: &str = "must be specified when `operator` is 'In' or 'NotIn'";
const VALUES_FORBIDDEN: &str = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";

pub(in crate::kinds) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|l| l.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|e| e.is_empty())
}

/// What became of the selector by which a kind finds its pods again.
pub(in crate::kinds) enum Needed {
    /// It selects nothing.
    Missing,
    /// What is wrong with it has been said.
    Faulty,
    Good(Selector),
}

/// A selector that must not be empty.
pub(in crate::kinds) fn validate_needed(
    selector: &LabelSelector,
    path: &Path,
    errors: &mut Errors,
) -> Needed {
    if is_empty(selector) {
        return Needed::Missing;
    }
    let mut faults = Errors::default();
    validate(selector, path, &mut faults);
    let good = faults.is_empty();
    errors.extend(faults);
    match Selector::from_label_selector(Some(selector)) {
        Ok(selector) if good => Needed::Good(selector),
        _ => Needed::Faulty,
    }
}

pub(in crate::kinds) fn validate(selector: &LabelSelector, path: &Path, errors: &mut Errors) {
    object_meta::labels(selector.match_labels.as_ref(), &path.child("matchLabels"), errors);
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.required(&path.child("values"), VALUES_NEEDED),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(&path.child("values"), VALUES_FORBIDDEN);
            }
            "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        key_and_values(&expression.key, values, &path, errors);
    }
}

fn key_and_values(key: &str, values: &[String], path: &Path, errors: &mut Errors) {
    errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    for (j, value) in values.iter().enumerate() {
        errors.invalid_each(&path.child("values").index(j), value, names::label_value(value));
    }
}

pub(in crate::kinds) fn validate_node_selector(selector: &NodeSelector, path: &Path, errors: &mut Errors) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        validate_node_selector_term(term, &path.index(i), errors);
    }
}

pub(in crate::kinds) fn validate_node_selector_term(
    term: &NodeSelectorTerm,
    path: &Path,
    errors: &mut Errors,
) {
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        node_requirement(requirement, &path.child("matchExpressions").index(i), errors);
    }
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = path.child("matchFields").index(i);
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.len() != 1 => errors.required(
                &path.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            "In" | "NotIn" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        if requirement.key == "metadata.name" {
            for (j, value) in values.iter().enumerate() {
                errors.invalid_each(&path.child("values").index(j), value, names::dns_subdomain(value));
            }
        } else {
            errors.invalid(&path.child("key"), &requirement.key, "not a valid field selector key");
        }
    }
}

fn node_requirement(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut Errors) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => errors.required(&path.child("values"), VALUES_NEEDED),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&path.child("values"), VALUES_FORBIDDEN);
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(&path.child("values"), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    key_and_values(&requirement.key, values, path, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn operators_and_values() {
        let selector: LabelSelector = object(json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "b", "operator": "Exists", "values": ["x"]},
            {"key": "c", "operator": "Is"}, {"key": "d", "operator": "NotIn", "values": ["x"]}]}));
        let mut errors = Errors::default();
        validate(&selector, &Path::new("spec.selector"), &mut errors);
        assert_eq!(
            texts(errors),
            [
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or \
                 'NotIn'",
                "spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or \
                 'DoesNotExist'",
                "spec.selector.matchExpressions[2].operator: Invalid value: \"Is\": not a valid selector operator",
            ]
        );
        let selector: NodeSelector = object(json!({"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "Gt", "values": []}],
             "matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["x"]}]}]}));
        let mut errors = Errors::default();
        validate_node_selector(&selector, &Path::new("n"), &mut errors);
        assert_eq!(
            texts(errors),
            [
                "n.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified single value when \
                 `operator` is 'Lt' or 'Gt'",
                "n.nodeSelectorTerms[0].matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector \
                 key",
            ]
        );
    }
}
