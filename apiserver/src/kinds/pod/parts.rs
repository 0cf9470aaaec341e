//! What the subresources change of a pod that runs already: `/ephemeralcontainers` adds containers to look at the others
//! with, `/resize` changes how much CPU and memory its containers may use. Everything else stays what it was.

use super::validate_spec;
use crate::kinds::shared::diff::diff;
use api::{
    field::{Errors, Path},
    pod,
};
use k8s_openapi::{
    api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

/// Neither subresource touches metadata or status.
fn keep_the_rest(new: &mut Pod, old: &Pod) {
    new.metadata.labels.clone_from(&old.metadata.labels);
    new.metadata.annotations.clone_from(&old.metadata.annotations);
    new.metadata.finalizers.clone_from(&old.metadata.finalizers);
    new.metadata.owner_references.clone_from(&old.metadata.owner_references);
    new.status.clone_from(&old.status);
}

pub(super) fn prepare_ephemeral(new: &mut Pod, old: &Pod) {
    keep_the_rest(new, old);
    let given = new.spec.take().and_then(|spec| spec.ephemeral_containers);
    let mut spec = old.spec.clone().unwrap_or_default();
    spec.ephemeral_containers = given.filter(|all| !all.is_empty());
    new.spec = Some(spec);
}

/// What is there stays as it is; only more may come.
pub(super) fn validate_ephemeral(new: &Pod, old: &Pod) -> Errors {
    let mut errors = Errors::default();
    if super::update::is_mirror(old) {
        errors.forbidden(&Path::default(), "static pods do not support ephemeral containers");
        return errors;
    }
    errors.extend(validate_spec(new));
    let path = Path::new("spec").child("ephemeralContainers");
    let all = |pod: &Pod| -> Vec<EphemeralContainer> {
        pod.spec.as_ref().and_then(|s| s.ephemeral_containers.clone()).unwrap_or_default()
    };
    let given = all(new);
    for old in all(old) {
        // A patch does not keep their order.
        match given.iter().find(|new| new.name == old.name) {
            None => {
                let text = format!("existing ephemeral containers {:?} may not be removed\n", old.name);
                errors.forbidden(&path, text);
            }
            Some(new) if *new != old => {
                let (name, changes) = (&old.name, diff(&old, new));
                let text = format!("existing ephemeral containers {name:?} may not be changed\n{changes}");
                errors.forbidden(&path, text);
            }
            Some(_) => {}
        }
    }
    errors
}

pub(super) fn prepare_resize(new: &mut Pod, old: &Pod) {
    let given = new.spec.take().unwrap_or_default();
    keep_the_rest(new, old);
    let mut spec = old.spec.clone().unwrap_or_default();
    spec.containers = resized(given.containers, spec.containers);
    if let Some(before) = spec.init_containers.take() {
        let after = resized(given.init_containers.unwrap_or_default(), before);
        spec.init_containers = Some(after);
    } else {
        spec.init_containers = given.init_containers.filter(|all| !all.is_empty());
    }
    spec.resources = given.resources;
    new.spec = Some(spec);
}

/// The old containers with the resources of the new ones; the new ones themselves if they are others: then validation
/// says so.
fn resized(new: Vec<Container>, old: Vec<Container>) -> Vec<Container> {
    if !new.iter().map(|c| &c.name).eq(old.iter().map(|c| &c.name)) {
        return new;
    }
    let take = |(new, old): (Container, Container)| Container {
        resources: new.resources,
        resize_policy: new.resize_policy,
        ..old
    };
    new.into_iter().zip(old).map(take).collect()
}

pub(super) fn validate_resize(new: &Pod, old: &Pod) -> Errors {
    let (mut errors, path) = (Errors::default(), Path::new("spec"));
    if super::update::is_mirror(old) {
        errors.forbidden(&Path::default(), "static pods cannot be resized");
        return errors;
    }
    let none = (PodSpec::default(), PodSpec::default());
    let (spec, before) = (new.spec.as_ref().unwrap_or(&none.0), old.spec.as_ref().unwrap_or(&none.1));
    if before.os.as_ref().is_some_and(|os| os.name == "windows") {
        errors.forbidden(&Path::default(), "windows pods cannot be resized");
        return errors;
    }
    errors.extend(validate_spec(new));
    let class = old.status.as_ref().and_then(|s| s.qos_class.as_deref());
    if class.unwrap_or(pod::qos_class(before)) != pod::qos_class(spec) {
        let class = class.unwrap_or_default();
        errors.invalid(&path, class, "Pod QOS Class may not change as a result of resizing");
    }
    let of_pod = |spec: &PodSpec| {
        let given = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().is_some_and(|l| !l.is_empty());
        spec.resources.as_ref().is_some_and(|r| given(&r.requests) || given(&r.limits))
    };
    if of_pod(spec) || of_pod(before) {
        let detail = "pods with resources of their own, beside those of their containers, cannot be resized";
        errors.forbidden(&path.child("resources"), detail);
        return errors;
    }
    let init = |spec: &PodSpec| spec.init_containers.clone().unwrap_or_default();
    let (inits, inits_before) = (init(spec), init(before));
    let regular = same_containers(&spec.containers, &before.containers, "containers", &path, &mut errors);
    if !same_containers(&inits, &inits_before, "initContainers", &path, &mut errors) || !regular {
        return errors;
    }
    for (i, (new, old)) in inits.iter().zip(&inits_before).enumerate() {
        if pod::is_sidecar(old) {
            let path = path.child("initContainers").index(i);
            kept(new, old, &path.child("resources"), &mut errors);
            if !only_cpu_and_memory(new, old) {
                let detail = "only cpu and memory resources for init or sidecar containers are mutable";
                errors.forbidden(&path, detail);
            }
        } else if new != old {
            errors.forbidden(&path, "resources for non-sidecar init containers are immutable");
        }
    }
    for (i, (new, old)) in spec.containers.iter().zip(&before.containers).enumerate() {
        kept(new, old, &path.child("containers").index(i).child("resources"), &mut errors);
        if !only_cpu_and_memory(new, old) {
            errors.forbidden(&path, "only cpu and memory resources are mutable");
        }
    }
    errors
}

/// Whether they are the same ones, in the same order.
fn same_containers(
    new: &[Container],
    old: &[Container],
    field: &str,
    path: &Path,
    errors: &mut Errors,
) -> bool {
    let path = path.child(field);
    if new.len() != old.len() {
        errors.forbidden(&path, format!("{field} may not be added or removed on resize"));
        return false;
    }
    let mut same = true;
    for (i, _) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new.name != old.name) {
        same = false;
        let detail = format!("{field} may not be renamed or reordered on resize");
        errors.forbidden(&path.index(i).child("name"), detail);
    }
    same
}

type Amounts = BTreeMap<String, Quantity>;

fn requests_of(container: &Container) -> Amounts {
    container.resources.as_ref().and_then(|r| r.requests.clone()).unwrap_or_default()
}

fn limits_of(container: &Container) -> Amounts {
    container.resources.as_ref().and_then(|r| r.limits.clone()).unwrap_or_default()
}

/// What was asked for or limited once stays so, by whatever amount.
fn kept(new: &Container, old: &Container, path: &Path, errors: &mut Errors) {
    let removed = |new: &Amounts, old: &Amounts| old.keys().any(|name| !new.contains_key(name));
    if removed(&requests_of(new), &requests_of(old)) {
        errors.forbidden(&path.child("requests"), "resource requests cannot be removed");
    }
    if removed(&limits_of(new), &limits_of(old)) {
        errors.forbidden(&path.child("limits"), "resource limits cannot be removed");
    }
}

/// Whether two containers differ in nothing but how much CPU and memory they ask for and may use.
fn only_cpu_and_memory(new: &Container, old: &Container) -> bool {
    let rest = |container: &Container| {
        let others = |mut all: Amounts| {
            all.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
            Some(all)
        };
        Container {
            resources: Some(ResourceRequirements {
                requests: others(requests_of(container)),
                limits: others(limits_of(container)),
                claims: container.resources.as_ref().and_then(|r| r.claims.clone()),
            }),
            resize_policy: Some(container.resize_policy.clone().unwrap_or_default()),
            ..container.clone()
        }
    };
    rest(new) == rest(old)
}

#[cfg(test)]
mod tests;
