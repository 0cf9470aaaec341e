//! What the four kinds of `rbac.authorization.k8s.io` share: rules of policy, references to roles, subjects.

use crate::kinds::{
    Column,
    shared::{cells, label_selector},
};
use api::{
    field::{Errors, Path},
    names,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::rbac::v1::{AggregationRule, PolicyRule, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

pub(in crate::kinds) const GROUP: &str = "rbac.authorization.k8s.io";
pub(in crate::kinds) const CLUSTER_ROLE: &str = "ClusterRole";
pub(in crate::kinds) const BINDING_COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Role", "string", 0, "What is granted"),
    Column::age(),
    Column::new("Users", "string", 1, "Users it is granted to"),
    Column::new("Groups", "string", 1, "Groups it is granted to"),
    Column::new("ServiceAccounts", "string", 1, "Service accounts it is granted to"),
];

pub(in crate::kinds) fn default_binding(reference: &mut RoleRef, subjects: &mut Option<Vec<Subject>>) {
    default_role_ref(reference);
    default_subjects(subjects);
}

/// `kinds`: what a binding of this sort may refer to.
pub(in crate::kinds) fn validate_binding(
    reference: &RoleRef,
    kinds: &[&str],
    subjects: Option<&[Subject]>,
    namespaced: bool,
) -> Errors {
    let mut errors = Errors::default();
    validate_role_ref(reference, kinds, &mut errors);
    validate_subjects(subjects, namespaced, &mut errors);
    errors
}

pub(in crate::kinds) fn binding_row(
    meta: &ObjectMeta,
    reference: &RoleRef,
    subjects: Option<&[Subject]>,
    now: Timestamp,
) -> Vec<Value> {
    let (role, who) = binding_cells(reference, subjects);
    let mut row = vec![cells::name(meta), role.into(), cells::age(meta, now)];
    row.extend(who.map(Value::from));
    row
}

fn default_role_ref(reference: &mut RoleRef) {
    if reference.api_group.as_deref().unwrap_or_default().is_empty() {
        reference.api_group = Some(GROUP.to_owned());
    }
}

fn default_subjects(subjects: &mut Option<Vec<Subject>>) {
    for subject in subjects.iter_mut().flatten() {
        let unset = subject.api_group.as_deref().unwrap_or_default().is_empty();
        if unset && matches!(subject.kind.as_str(), "User" | "Group") {
            subject.api_group = Some(GROUP.to_owned());
        }
    }
}

pub(in crate::kinds) fn validate_rules(rules: Option<&[PolicyRule]>, namespaced: bool, errors: &mut Errors) {
    for (i, rule) in rules.unwrap_or_default().iter().enumerate() {
        let path = Path::new("rules").index(i);
        let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
        if rule.verbs.is_empty() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if !empty(&rule.non_resource_urls) {
            let urls = path.child("nonResourceURLs");
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&urls, &rule.non_resource_urls, detail);
            }
            if !(empty(&rule.api_groups) && empty(&rule.resources) && empty(&rule.resource_names)) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&urls, &rule.non_resource_urls, detail);
            }
            continue;
        }
        if empty(&rule.api_groups) {
            let detail = "resource rules must supply at least one api group";
            errors.required(&path.child("apiGroups"), detail);
        }
        if empty(&rule.resources) {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

pub(in crate::kinds) fn validate_aggregation(rule: Option<&AggregationRule>, errors: &mut Errors) {
    let Some(rule) = rule else { return };
    let path = Path::new("aggregationRule").child("clusterRoleSelectors");
    let selectors = rule.cluster_role_selectors.as_deref().unwrap_or_default();
    if selectors.is_empty() {
        errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, selector) in selectors.iter().enumerate() {
        let mut faults = Errors::default();
        label_selector::validate(selector, &path.index(i), &mut faults);
        if !faults.is_empty() {
            faults.invalid(&path.index(i), (), "invalid label selector.");
        }
        errors.extend(faults);
    }
}

fn validate_role_ref(reference: &RoleRef, kinds: &[&str], errors: &mut Errors) {
    let path = Path::new("roleRef");
    let group = reference.api_group.as_deref().unwrap_or_default();
    if group != GROUP {
        errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
    }
    if !kinds.contains(&reference.kind.as_str()) {
        errors.not_supported(&path.child("kind"), &reference.kind, kinds);
    }
    let name = path.child("name");
    if reference.name.is_empty() {
        errors.required(&name, "");
    } else {
        errors.invalid_each(&name, &reference.name, names::path_segment(&reference.name));
    }
}

fn validate_subjects(subjects: Option<&[Subject]>, namespaced: bool, errors: &mut Errors) {
    for (i, subject) in subjects.unwrap_or_default().iter().enumerate() {
        let path = Path::new("subjects").index(i);
        let group = subject.api_group.as_deref().unwrap_or_default();
        if subject.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    let faults = names::dns_subdomain(&subject.name);
                    errors.invalid_each(&path.child("name"), &subject.name, faults);
                }
                if !group.is_empty() {
                    errors.not_supported(&path.child("apiGroup"), group, &[""]);
                }
                if !namespaced && subject.namespace.as_deref().unwrap_or_default().is_empty() {
                    errors.required(&path.child("namespace"), "");
                }
            }
            "User" | "Group" if group != GROUP => {
                errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
            "User" | "Group" => {}
            other => {
                errors.not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]);
            }
        }
    }
}

/// A binding says for good what it grants; who is granted it may change.
pub(in crate::kinds) fn same_role_ref(new: &RoleRef, old: &RoleRef, errors: &mut Errors) {
    if new != old {
        errors.invalid(&Path::new("roleRef"), new, "cannot change roleRef");
    }
}

/// Cells: role; users, groups and service accounts, each joined.
fn binding_cells(reference: &RoleRef, subjects: Option<&[Subject]>) -> (String, [String; 3]) {
    let of = |kind: &str| -> String {
        let found = subjects.unwrap_or_default().iter().filter(|s| s.kind == kind);
        let names = found.map(|s| match (kind, s.namespace.as_deref()) {
            ("ServiceAccount", namespace) => format!("{}/{}", namespace.unwrap_or_default(), s.name),
            _ => s.name.clone(),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    (format!("{}/{}", reference.kind, reference.name), [of("User"), of("Group"), of("ServiceAccount")])
}
