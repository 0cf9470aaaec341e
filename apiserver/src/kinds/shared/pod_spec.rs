//! The pod spec, in pods and in templates: what is filled in, and what is wrong.

use super::{network, object_meta};
use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::core::v1::PodSpec;
use std::collections::BTreeMap;

mod claims;
mod containers;
mod defaults;
mod disks;
mod probes;
mod resources;
mod restart;
mod scheduling;
mod security;
mod volumes;
mod warnings;

pub(in crate::kinds) use defaults::{default_pod, default_spec};
pub(in crate::kinds) use resources::validate_quantities;
pub(in crate::kinds) use scheduling::validate_tolerations;
pub(in crate::kinds) use volumes::validate_host_path;
pub(in crate::kinds) use warnings::{fractional, warnings};

/// Limits of the resolver (glibc's, with room), as Kubernetes sets them.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LIST_MAX_BYTES: usize = 2048;

/// Who holds the spec: some rules are for pods only, or for templates only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kinds) enum Holder {
    Pod,
    Template,
}

pub(in crate::kinds) fn validate(spec: &PodSpec, holder: Holder, path: &Path, errors: &mut Errors) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let sound =
        volumes::validate(spec.volumes.as_deref().unwrap_or_default(), &path.child("volumes"), errors);
    containers::validate(spec, &sound, holder, path, errors);
    resources::validate_pod(spec, path, errors);
    claims::validate(spec, path, errors);
    enumerated(
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
        &path.child("restartPolicy"),
        errors,
    );
    enumerated(
        spec.dns_policy.as_deref(),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        &path.child("dnsPolicy"),
        errors,
    );
    object_meta::labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
    security::validate_pod(spec, &path.child("securityContext"), errors);
    scheduling::validate(spec, path, errors);
    validate_dns_config(spec, &path.child("dnsConfig"), errors);
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(i).child("conditionType");
        errors.invalid_each(&path, &gate.condition_type, names::qualified_name(&gate.condition_type));
    }
    validate_names(spec, path, errors);
    if let Some(seconds) = spec.active_deadline_seconds {
        let faults = names::in_range(seconds, 1, i64::from(i32::MAX));
        errors.invalid_each(&path.child("activeDeadlineSeconds"), seconds, faults);
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.child("hostAliases").index(i);
        network::ip(&alias.ip, &path.child("ip"), errors);
        for (j, host) in alias.hostnames.iter().flatten().enumerate() {
            errors.invalid_each(&path.child("hostnames").index(j), host, names::dns_subdomain(host));
        }
    }
    match spec.preemption_policy.as_deref() {
        None | Some("PreemptLowerPriority" | "Never") => {}
        Some(other) => {
            errors.not_supported(&path.child("preemptionPolicy"), other, &["PreemptLowerPriority", "Never"]);
        }
    }
    if let Some(os) = &spec.os {
        let name = path.child("os").child("name");
        enumerated(Some(&os.name), &["linux", "windows"], &name, errors);
    }
}

fn validate_names(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    type Check = fn(&str) -> Vec<String>;
    let checked: [(&str, &Option<String>, Check); 6] = [
        ("serviceAccountName", &spec.service_account_name, names::dns_subdomain),
        ("nodeName", &spec.node_name, names::dns_subdomain),
        ("hostname", &spec.hostname, names::dns_label),
        ("subdomain", &spec.subdomain, names::dns_label),
        ("priorityClassName", &spec.priority_class_name, names::dns_subdomain),
        ("runtimeClassName", &spec.runtime_class_name, names::dns_subdomain),
    ];
    for (field, name, check) in checked {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            errors.invalid_each(&path.child(field), name, check(name));
        }
    }
    if let Some(name) = &spec.hostname_override {
        errors.invalid_each(&path.child("hostnameOverride"), name, names::dns_subdomain(name));
    }
}

fn validate_dns_config(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let nameservers = spec.dns_config.as_ref().and_then(|c| c.nameservers.as_deref()).unwrap_or_default();
    if spec.dns_policy.as_deref() == Some("None") {
        if spec.dns_config.is_none() {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if nameservers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&path.child("nameservers"), detail);
        }
    }
    let Some(config) = &spec.dns_config else { return };
    if nameservers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(&path.child("nameservers"), nameservers, detail);
    }
    for (i, server) in nameservers.iter().enumerate() {
        network::ip(server, &path.child("nameservers").index(i), errors);
    }
    let (searches, path_of) = (config.searches.as_deref().unwrap_or_default(), path.child("searches"));
    if searches.len() > SEARCHES_MAX {
        errors.invalid(&path_of, searches, format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if searches.join(" ").len() > SEARCH_LIST_MAX_BYTES {
        let detail = format!(
            "must not have more than {SEARCH_LIST_MAX_BYTES} characters (including spaces) in the search list"
        );
        errors.invalid(&path_of, searches, detail);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        // Underscores are allowed here, as in `_sip._tcp.example.com`.
        let plain = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
        errors.invalid_each(&path_of.index(i), search, names::dns_subdomain(&plain));
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or("").is_empty() {
            errors.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

/// A required value out of a few.
pub(in crate::kinds) fn enumerated(value: Option<&str>, allowed: &[&str], path: &Path, errors: &mut Errors) {
    match value.unwrap_or("") {
        "" => errors.required(path, ""),
        value if allowed.contains(&value) => {}
        other => errors.not_supported(path, other, allowed),
    }
}

/// [`enumerated`], or nothing.
fn optionally(value: Option<&String>, allowed: &[&str], path: &Path, errors: &mut Errors) {
    if let Some(value) = value.filter(|v| !allowed.contains(&v.as_str())) {
        errors.not_supported(path, value, allowed);
    }
}

/// The volumes that mounts may name, and whether they can be used as block devices.
type SoundVolumes<'a> = BTreeMap<&'a str, bool>;

#[cfg(test)]
mod tests;
