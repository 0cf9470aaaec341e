//! ResourceQuota: what a namespace may have and ask for in all. Admission refuses, a controller counts.

use super::shared::cells;
use super::shared::spec_and_status::spec_and_status;
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use api::quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What can be counted without a prefix.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const COMPUTE: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

pub(super) struct ResourceQuotas;

impl Kind for ResourceQuotas {
    type Object = ResourceQuota;
    const PLURAL: &'static str = "resourcequotas";
    const SINGULAR: &'static str = "resourcequota";
    const SHORT_NAMES: &'static [&'static str] = &["quota"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Request", "string", 0, "Used and allowed requests and counts."),
        Column::new("Limit", "string", 0, "Used and allowed limits."),
        Column::age(),
    ];
    const RETURNS_DELETED: bool = true;

    fn default(object: &mut ResourceQuota) {
        object.spec.get_or_insert_default();
    }

    spec_and_status!(ResourceQuota, no generation);

    fn validate(object: &ResourceQuota) -> Errors {
        let (mut errors, none) = (Errors::default(), ResourceQuotaSpec::default());
        let (spec, path) = (object.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        amounts(spec.hard.as_ref(), &path.child("hard"), &mut errors);
        validate_scopes(spec, &path, &mut errors);
        errors
    }

    fn validate_update(new: &ResourceQuota, old: &ResourceQuota) -> Errors {
        let mut errors = Self::validate(new);
        let scopes = |quota: &ResourceQuota| -> BTreeSet<String> {
            quota.spec.iter().flat_map(|s| s.scopes.iter().flatten()).cloned().collect()
        };
        if scopes(new) != scopes(old) {
            let path = Path::new("spec").child("scopes");
            errors.invalid(&path, scopes(new), "field is immutable");
        }
        errors
    }

    fn validate_status_update(new: &ResourceQuota, _: &ResourceQuota) -> Errors {
        let (mut errors, none) = (Errors::default(), ResourceQuotaStatus::default());
        let (status, path) = (new.status.as_ref().unwrap_or(&none), Path::new("status"));
        amounts(status.hard.as_ref(), &path.child("hard"), &mut errors);
        amounts(status.used.as_ref(), &path.child("used"), &mut errors);
        errors
    }

    fn row(object: &ResourceQuota, now: Timestamp) -> Vec<Value> {
        let none = ResourceQuotaStatus::default();
        let status = object.status.as_ref().unwrap_or(&none);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in status.hard.iter().flatten() {
            let used = status.used.as_ref().and_then(|u| u.get(name)).map_or("0", |q| q.0.as_str());
            let list = if name.starts_with("limits.") { &mut limits } else { &mut requests };
            list.push(format!("{name}: {used}/{}", hard.0));
        }
        vec![
            cells::name(&object.metadata),
            requests.join(", ").into(),
            limits.join(", ").into(),
            cells::age(&object.metadata, now),
        ]
    }
}

fn amounts(all: Option<&BTreeMap<String, Quantity>>, path: &Path, errors: &mut Errors) {
    for (name, amount) in all.into_iter().flatten() {
        let path = path.key(name);
        errors.invalid_each(&path, name, names::qualified_name(name));
        let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
        if !name.contains('/')
            && !huge
            && !COUNTED.contains(&name.as_str())
            && !COMPUTE.contains(&name.as_str())
        {
            errors.invalid(&path, name, "must be a standard resource for quota");
        }
        let value = quantity::of(Some(amount));
        if value.is_negative() {
            errors.invalid(&path, &amount.0, "must be greater than or equal to 0");
        }
        if (COUNTED.contains(&name.as_str()) || name.starts_with("count/")) && !value.is_integer() {
            errors.invalid(&path, &amount.0, "must be an integer");
        }
    }
}

/// Scopes that a pod is in or not: there is nothing to compare.
const WITHOUT_VALUES: [&str; 5] =
    ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];

pub(super) fn is_standard(resource: &str) -> bool {
    COUNTED.contains(&resource)
        || COMPUTE.contains(&resource)
        || resource.starts_with("hugepages-")
        || resource.starts_with("requests.hugepages-")
}

/// Whether a quota of such a scope can limit the resource.
fn counts_in(scope: &str, resource: &str) -> bool {
    const OF_PODS: [&str; 6] =
        ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        known if SCOPES.contains(&known) => resource == "pods" || OF_PODS.contains(&resource),
        _ => true,
    }
}

fn validate_scopes(spec: &ResourceQuotaSpec, path: &Path, errors: &mut Errors) {
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    let at = path.child("scopes");
    let hard: Vec<&str> = spec.hard.iter().flat_map(|h| h.keys()).map(String::as_str).collect();
    // Of the standard resources, those that the scope says nothing about.
    let strangers = |scope: &str| hard.iter().filter(|r| is_standard(r) && !counts_in(scope, r)).count();
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errors.invalid(&at, scopes, "unsupported scope");
        }
        for _ in 0..strangers(scope) {
            errors.invalid(&at, scopes, "unsupported scope applied to resource");
        }
    }
    let expressions = spec.scope_selector.as_ref().and_then(|s| s.match_expressions.as_deref());
    let path = path.child("scopeSelector").child("matchExpressions");
    let mut all: BTreeSet<&str> = scopes.iter().map(String::as_str).collect();
    for expression in expressions.unwrap_or_default() {
        let scope = expression.scope_name.as_str();
        if !SCOPES.contains(&scope) {
            errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in 0..strangers(scope) {
            errors.invalid(&path, &spec.scope_selector, "unsupported scope applied to resource");
        }
        let operator = expression.operator.as_str();
        if WITHOUT_VALUES.contains(&scope) && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                          ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                          ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid(&path.child("operator"), operator, detail);
        }
        if !["In", "NotIn", "Exists", "DoesNotExist"].contains(&operator) {
            errors.invalid(&path.child("operator"), operator, "not a valid selector operator");
        }
        let any = expression.values.as_ref().is_some_and(|v| !v.is_empty());
        match (expression.operator.as_str(), any) {
            ("In" | "NotIn", false) => {
                let detail =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&path.child("values"), detail);
            }
            ("Exists" | "DoesNotExist", true) => {
                let detail =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&path.child("values"), &expression.values, detail);
            }
            _ => {}
        }
        all.insert(scope);
    }
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| all.contains(scope)) {
            errors.invalid(&at, scopes, "conflicting scopes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn rules_and_row() {
        let quota = |spec: Value| -> ResourceQuota {
            object(json!({"metadata": {"name": "q", "creationTimestamp": at(0)}, "spec": spec,
                          "status": {"hard": {"pods": "3", "limits.cpu": "2"}, "used": {"pods": "1"}}}))
        };
        let faults = |spec| texts(ResourceQuotas::validate(&quota(spec)));
        assert!(
            faults(json!({"hard": {"pods": "3", "count/jobs.batch": "2", "requests.cpu": "1500m"}}))
                .is_empty()
        );
        assert_eq!(
            faults(json!({"hard": {"dogs": "3", "pods": "-1"}})),
            [
                "spec.hard[dogs]: Invalid value: \"dogs\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
        assert_eq!(
            faults(json!({"hard": {"pods": "3"}, "scopes": ["BestEffort", "NotBestEffort"]})),
            ["spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes"]
        );
        let row = ResourceQuotas::row(&quota(json!({})), "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["q", "pods: 1/3", "limits.cpu: 0/2", "7s"]));
    }
}
