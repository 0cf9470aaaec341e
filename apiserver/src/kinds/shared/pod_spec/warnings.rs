//! What is allowed and yet hardly meant: texts for `Warning:` headers.

use crate::kinds::shared::repeats;
use api::field::Path;
use api::quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec, ProjectedVolumeSource};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::{BTreeMap, HashMap};

pub(in crate::kinds) fn warnings(spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for (key, _) in spec.node_selector.iter().flatten() {
        if let Some(now) = renamed(key) {
            let path = path.child("nodeSelector").key(key);
            texts.push(format!("{path}: deprecated since v1.14; use {now:?} instead"));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        let nothing = |p: &ProjectedVolumeSource| p.sources.as_ref().is_none_or(Vec::is_empty);
        if volume.projected.as_ref().is_some_and(nothing) {
            texts.push(format!("volume {:?} (Projected) has no sources provided", volume.name));
        }
    }
    for (field, all) in [
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", &spec.containers),
    ] {
        for (i, container) in all.iter().enumerate() {
            of_container(container, &path.child(field).index(i), &mut texts);
        }
    }
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        let path = path.child("terminationGracePeriodSeconds");
        texts.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    texts
}

fn renamed(label: &str) -> Option<&'static str> {
    Some(match label {
        "beta.kubernetes.io/arch" => "kubernetes.io/arch",
        "beta.kubernetes.io/os" => "kubernetes.io/os",
        "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
        "beta.kubernetes.io/instance-type" => "node.kubernetes.io/instance-type",
        _ => return None,
    })
}

fn of_container(container: &Container, path: &Path, texts: &mut Vec<String>) {
    if let Some(resources) = &container.resources {
        let path = path.child("resources");
        fractional(resources.limits.as_ref(), &["memory", "ephemeral-storage"], &path.child("limits"), texts);
        fractional(
            resources.requests.as_ref(),
            &["memory", "ephemeral-storage"],
            &path.child("requests"),
            texts,
        );
    }
    let env = container.env.as_deref().unwrap_or_default();
    let earlier = repeats(env.iter().map(|e| &e.name));
    for (i, (variable, earlier)) in env.iter().zip(earlier).enumerate() {
        // Building on the earlier value of the name is what one may repeat it for.
        let reference = format!("$({})", variable.name);
        if earlier && !variable.value.as_deref().unwrap_or("").contains(&reference) {
            let path = path.child("env").index(i);
            let name = &variable.name;
            texts.push(format!(
                "{path}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
    let ports = container.ports.as_deref().unwrap_or_default();
    let mut first = HashMap::new();
    for (i, port) in ports.iter().enumerate() {
        let same = (port.container_port, &port.protocol, port.host_port, &port.host_ip);
        let other = *first.entry(same).or_insert(i);
        if other != i {
            let all = path.child("ports");
            texts.push(format!("{}: duplicate port definition with {}", all.index(i), all.index(other)));
        }
    }
}

/// Bytes come whole.
pub(in crate::kinds) fn fractional(
    amounts: Option<&BTreeMap<String, Quantity>>,
    names: &[&str],
    path: &Path,
    texts: &mut Vec<String>,
) {
    for (name, amount) in amounts.into_iter().flatten().filter(|(n, _)| names.contains(&n.as_str())) {
        if !quantity::of(Some(amount)).is_integer() {
            let (path, amount) = (path.key(name), &amount.0);
            texts.push(format!("{path}: fractional byte value {amount:?} is invalid, must be an integer"));
        }
    }
}
