//! What a pod's status tells of its resize: that it waits, that it is under way, what its containers may use meanwhile.

use super::{Facts, condition};
use crate::{container_plan, container_spec, runtime::Container};
use api::pod::is_sidecar;
use k8s_openapi::{
    api::core::v1::{Container as Spec, PodCondition, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// Whether the pod waits for what its spec asks for, and whether it is being given.
pub(super) fn tell(facts: &Facts<'_>, spec: &PodSpec, conditions: &mut Vec<PodCondition>) {
    let pending = facts.resize.map(|p| condition(PENDING, true, Some(p.reason), Some(p.message.clone())));
    let error = facts.resize_error.map(str::to_owned);
    let reason = error.is_some().then_some("Error");
    let under_way = is_resizing(spec, facts.containers);
    let progress = under_way.then(|| condition(IN_PROGRESS, true, reason, error));
    for (type_, told) in [(PENDING, pending), (IN_PROGRESS, progress)] {
        match told {
            Some(mut told) => {
                told.observed_generation = facts.pod.metadata.generation;
                api::conditions::set(conditions, told, facts.now);
            }
            None => conditions.retain(|c| c.type_ != type_),
        }
    }
}

/// Whether a running container may use something else than was allocated to it.
pub(crate) fn is_resizing(spec: &PodSpec, containers: &[Container]) -> bool {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    spec.containers.iter().chain(sidecars).any(|c| {
        let running = container_plan::newest(containers, &c.name).filter(|found| found.is_running());
        running.is_some_and(|found| container_plan::is_to_resize(spec, c, found))
    })
}

/// What a running container may use: what was allocated, but where the engine has something else yet.
pub(super) fn actual(pod: &PodSpec, spec: &Spec, container: &Container) -> Option<ResourceRequirements> {
    let mut told = spec.resources.clone()?;
    let Some(actual) = &container.resources else { return Some(told) };
    let wanted = container_spec::resources(pod, spec, 0);
    let milli = |milli: i64| Quantity(format!("{milli}m"));
    if actual.cpu_shares != wanted.cpu_shares
        && let (Some(shares), Some(cpu)) = (actual.cpu_shares, entry(&mut told.requests, "cpu"))
    {
        // Rounded up, as shares are rounded down.
        *cpu = milli((shares * 1000 + 1023) / 1024);
    }
    if actual.cpu_quota_us != wanted.cpu_quota_us
        && let (Some(quota), Some(period)) = (actual.cpu_quota_us, actual.cpu_period_us.filter(|p| *p > 0))
        && let Some(cpu) = entry(&mut told.limits, "cpu")
    {
        *cpu = milli(quota * 1000 / period);
    }
    if actual.memory_bytes != wanted.memory_bytes
        && let (Some(bytes), Some(memory)) = (actual.memory_bytes, entry(&mut told.limits, "memory"))
    {
        *memory = Quantity(bytes.to_string());
    }
    Some(told)
}

fn entry<'a>(list: &'a mut Option<BTreeMap<String, Quantity>>, name: &str) -> Option<&'a mut Quantity> {
    list.as_mut()?.get_mut(name)
}
