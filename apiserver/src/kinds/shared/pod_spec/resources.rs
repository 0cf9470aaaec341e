//! Requests and limits.

use api::field::{Errors, Path};
use api::names;
use api::quantity;
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// May be requested beyond what is there: the standard resources, not devices and huge pages.
fn overcommits(name: &str) -> bool {
    !name.contains('/') && !is_huge(name) || name.contains("kubernetes.io/") && !is_huge(name)
}

pub(super) fn validate(resources: Option<&ResourceRequirements>, path: &Path, errors: &mut Errors) {
    let Some(resources) = resources else { return };
    let none = BTreeMap::new();
    let limits = resources.limits.as_ref().unwrap_or(&none);
    let requests = resources.requests.as_ref().unwrap_or(&none);
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    for (name, amount) in limits {
        validate_amount(name, amount, &limits_path.key(name), errors);
    }
    for (name, amount) in requests {
        validate_amount(name, amount, &requests_path.key(name), errors);
        let request = quantity::of(Some(amount));
        match limits.get(name).map(|l| quantity::of(Some(l))) {
            Some(limit) if request != limit && !overcommits(name) => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), detail);
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), detail);
            }
            Some(_) => {}
            None if !overcommits(name) => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
    }
    let all = || limits.keys().chain(requests.keys());
    if all().any(|n| is_huge(n)) && !all().any(|n| n == "cpu" || n == "memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn validate_amount(name: &str, amount: &Quantity, path: &Path, errors: &mut Errors) {
    let faults = names::qualified_name(name);
    if !faults.is_empty() {
        errors.invalid_each(path, name, faults);
    } else if !name.contains('/') && !STANDARD.contains(&name) && !is_huge(name) {
        errors.invalid(path, name, "must be a standard resource for containers");
    } else if name.contains('/') && !name.contains("kubernetes.io/") && name.starts_with("requests.") {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
    let amount = quantity::of(Some(amount));
    if amount.is_negative() {
        errors.invalid(path, amount.to_string(), "must be greater than or equal to 0");
    }
    if name.contains('/') && !name.contains("kubernetes.io/") && !amount.is_integer() {
        errors.invalid(path, amount.to_string(), "must be an integer");
    }
}

/// Amounts of a volume or claim: not negative, `storage` positive.
pub(in crate::kinds) fn validate_quantities(
    all: &BTreeMap<String, Quantity>,
    path: &Path,
    errors: &mut Errors,
) {
    for (name, amount) in all {
        let amount = quantity::of(Some(amount));
        if !amount.is_positive() {
            errors.invalid(&path.key(name), amount.to_string(), "must be greater than zero");
        }
    }
}

/// Pod-level resources and overhead.
pub(super) fn validate_pod(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    validate(spec.resources.as_ref(), &path.child("resources"), errors);
    for (name, amount) in spec.overhead.iter().flatten() {
        validate_amount(name, amount, &path.child("overhead").child("limits").key(name), errors);
    }
}
