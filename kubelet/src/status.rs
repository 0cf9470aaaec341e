//! A pod's status from what the runtime reports, never from what was asked for. Pure.
//!
//! What others may write (foreign conditions, `nominatedNodeName`, a user's `message`) is kept from the status before.

mod resized;

pub(crate) use resized::is_resizing;

use crate::{
    container_plan::{Health, KillReason, Outcome, live_sandbox, restart_policy},
    pod_machine::{Stage, Why},
    resize::Pending,
    runtime::{Container, State},
};
use api::pod::is_sidecar;
use client::Guard;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Everything a status is made from.
pub struct Facts<'a> {
    /// With the newest status known: conditions keep their times, ended pods their address.
    pub pod: &'a Pod,
    pub containers: &'a [Container],
    pub health: &'a BTreeMap<String, Health>,
    pub stage: &'a Stage,
    /// Why a container is not there (yet, or again): name → reason and message.
    pub waiting: &'a BTreeMap<String, (String, String)>,
    /// Termination messages by container id.
    pub messages: &'a BTreeMap<String, String>,
    /// Ids of containers whose postStart hook has not succeeded yet.
    pub hooking: &'a BTreeSet<String>,
    /// The spec asks for more than was allocated: why it has to wait.
    pub resize: Option<&'a Pending>,
    /// Why the last try to change what a container may use failed.
    pub resize_error: Option<&'a str>,
    /// Address of the pod when its sandbox runs.
    pub pod_ip: Option<IpAddr>,
    pub host_ip: Option<IpAddr>,
    pub now: Timestamp,
}

pub fn compute(facts: &Facts<'_>) -> PodStatus {
    let old = facts.pod.status.clone().unwrap_or_default();
    let Some(spec) = &facts.pod.spec else { return old };
    let mut status = old.clone();
    status.observed_generation = facts.pod.metadata.generation;
    status.start_time = old.start_time.clone().or(Some(Time(facts.now)));
    status.qos_class = old.qos_class.clone().or_else(|| Some(api::pod::qos_class(spec).to_owned()));
    if let Some(host) = facts.host_ip {
        status.host_ip = Some(host.to_string());
        status.host_ips = Some(vec![HostIP { ip: host.to_string() }]);
    }
    if let Some(Why::Rejected(reason, message)) = facts.stage.why() {
        status.phase = Some("Failed".to_owned());
        status.reason = Some(reason.clone());
        status.message = Some(message.clone());
        return status;
    }
    if let Some(ip) = facts.pod_ip {
        status.pod_ip = Some(ip.to_string());
        status.pod_ips = Some(vec![PodIP { ip: ip.to_string() }]);
    }
    let init_specs = spec.init_containers.as_deref().unwrap_or_default();
    let waiting_reason = if init_specs.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let one = |spec: &Spec, previous: Option<&Vec<ContainerStatus>>| {
        let previous = previous.iter().flat_map(|all| all.iter()).find(|status| status.name == spec.name);
        container_status(facts, spec, previous, waiting_reason)
    };
    let init: Vec<_> = init_specs.iter().map(|c| one(c, old.init_container_statuses.as_ref())).collect();
    let regular: Vec<_> = spec.containers.iter().map(|c| one(c, old.container_statuses.as_ref())).collect();
    let ephemeral: Vec<_> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|c| one(&api::pod::ephemeral_as_container(c), old.ephemeral_container_statuses.as_ref()))
        // Nothing waits for them, and they promise nothing.
        .map(|told| ContainerStatus {
            ready: false,
            started: None,
            resources: None,
            allocated_resources: None,
            ..told
        })
        .collect();
    let initialized = Initialized::of(init_specs, &init, &regular);
    let phase = phase(facts, spec, &initialized, &regular);
    if let (Stage::Terminated { .. }, Some(Why::DeadlineExceeded)) = (facts.stage, facts.stage.why()) {
        status.reason = Some("DeadlineExceeded".to_owned());
        status.message = Some("Pod was active on the node longer than the specified deadline".to_owned());
    }
    let mut conditions = old.conditions.clone().unwrap_or_default();
    for condition in own_conditions(facts, spec, &initialized, &init, &regular, phase) {
        let mut condition = condition;
        condition.observed_generation = facts.pod.metadata.generation;
        api::conditions::set(&mut conditions, condition, facts.now);
    }
    resized::tell(facts, spec, &mut conditions);
    let gates = readiness(facts, spec, &conditions);
    api::conditions::set(&mut conditions, gates, facts.now);
    status.conditions = Some(conditions);
    status.phase = Some(phase.to_owned());
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = Some(regular);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status
}

fn container_status(
    facts: &Facts<'_>,
    spec: &Spec,
    previous: Option<&ContainerStatus>,
    default_reason: &str,
) -> ContainerStatus {
    let mut instances: Vec<&Container> =
        facts.containers.iter().filter(|c| c.name == spec.name && c.state != State::Created).collect();
    instances.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created)));
    let newest = instances.first().copied();
    let waiting = facts.waiting.get(&spec.name);
    let wait = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    };
    let waiting_state = || match waiting {
        Some((reason, message)) => wait(reason, Some(message.clone()).filter(|m| !m.is_empty())),
        None => wait(default_reason, None),
    };
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        restart_count: previous.map_or(0, |p| p.restart_count),
        last_state: previous.and_then(|p| p.last_state.clone()),
        resources: spec.resources.clone(),
        allocated_resources: spec.resources.as_ref().and_then(|r| r.requests.clone()),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let Some(newest) = newest else {
        // Whatever ran before has been removed from the engine; its end, if known, stays visible.
        let ended = previous.and_then(|p| p.state.clone()).filter(|state| state.terminated.is_some());
        match ended {
            Some(ended) if facts.stage.why().is_some() => {
                status.state = Some(ended);
                status.container_id = previous.and_then(|p| p.container_id.clone());
                status.image_id = previous.map(|p| p.image_id.clone()).unwrap_or_default();
            }
            _ => status.state = Some(waiting_state()),
        }
        return status;
    };
    status.container_id = Some(container_id(&newest.id));
    status.image_id = newest.image_id.clone();
    status.restart_count = newest.attempt.try_into().unwrap_or(i32::MAX);
    if let Some(before) = instances.get(1).filter(|c| c.is_exited()) {
        status.last_state = Some(terminated(facts, before));
    }
    match &newest.state {
        State::Running { .. } if facts.hooking.contains(&newest.id) => {
            status.state = Some(wait(default_reason, None))
        }
        State::Running { started } => {
            status.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(*started)) }),
                ..ContainerState::default()
            });
            let initial = Health::initial(spec);
            let health = facts.health.get(&newest.id).unwrap_or(&initial);
            if let Some(pod) = &facts.pod.spec {
                status.resources = resized::actual(pod, spec, newest);
            }
            status.started = Some(health.started);
            status.ready = health.started && health.ready;
        }
        State::Exited { code, .. } => {
            // What is going to be tried again, and cannot yet, is waiting.
            if waiting.is_some() && facts.stage.why().is_none() {
                status.state = Some(waiting_state());
                status.last_state = Some(terminated(facts, newest));
            } else {
                status.state = Some(terminated(facts, newest));
            }
            // A plain init container that has done its work is ready.
            status.ready = *code == 0
                && facts
                    .pod
                    .spec
                    .iter()
                    .flat_map(|s| s.init_containers.iter().flatten())
                    .any(|c| c.name == spec.name && !is_sidecar(c));
        }
        State::Created => {}
    }
    status
}

pub fn container_id(id: &str) -> String {
    format!("docker://{id}")
}

fn terminated(facts: &Facts<'_>, container: &Container) -> ContainerState {
    let State::Exited { code, oom_killed, started, finished, error } = &container.state else {
        return ContainerState::default();
    };
    let reason = match (oom_killed, code, error) {
        (true, ..) => "OOMKilled",
        (_, _, Some(_)) => "ContainerCannotRun",
        (_, 0, _) => "Completed",
        _ => "Error",
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(&container.id)),
            exit_code: *code,
            reason: Some(reason.to_owned()),
            message: facts.messages.get(&container.id).cloned().or_else(|| error.clone()),
            started_at: started.map(Time),
            finished_at: Some(Time(*finished)),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

fn exit_code(status: &ContainerStatus) -> Option<i32> {
    Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// How far the init containers are.
enum Initialized {
    Yes,
    /// Names of those that have not done their part.
    No(Vec<String>),
    /// One failed; whether for good is the restart policy's word.
    Failed(Vec<String>),
}

impl Initialized {
    fn of(specs: &[Spec], init: &[ContainerStatus], regular: &[ContainerStatus]) -> Self {
        let regular_started =
            regular.iter().any(|s| is_running(s) || exit_code(s).is_some() || s.last_state.is_some());
        let mut open = Vec::new();
        let mut failed = false;
        for (spec, status) in specs.iter().zip(init) {
            let done = if is_sidecar(spec) {
                status.started == Some(true) || regular_started
            } else {
                exit_code(status) == Some(0) || regular_started
            };
            if !done {
                failed |= !is_sidecar(spec) && exit_code(status).is_some();
                open.push(spec.name.clone());
            }
        }
        match (open.is_empty(), failed) {
            (true, _) => Self::Yes,
            (_, true) => Self::Failed(open),
            _ => Self::No(open),
        }
    }
}

fn phase(
    facts: &Facts<'_>,
    spec: &PodSpec,
    initialized: &Initialized,
    regular: &[ContainerStatus],
) -> &'static str {
    let alive = facts.containers.iter().any(|c| !c.is_sandbox() && c.is_running());
    match (facts.stage, facts.stage.why()) {
        // An end is told only when nothing of the pod runs any more.
        (_, Some(Why::Finished(outcome))) if !alive => {
            return if *outcome == Outcome::Succeeded { "Succeeded" } else { "Failed" };
        }
        (Stage::Terminated { .. }, Some(Why::DeadlineExceeded)) => return "Failed",
        _ => {}
    }
    let ending = matches!(facts.stage, Stage::Terminated { .. });
    match initialized {
        Initialized::Failed(_) if ending || restart_policy(spec) == "Never" && !alive => return "Failed",
        Initialized::No(_) | Initialized::Failed(_) => return "Pending",
        Initialized::Yes => {}
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in regular {
        let ended = exit_code(status);
        let waits = status.state.as_ref().is_none_or(|state| state.waiting.is_some());
        match ended {
            Some(code) => {
                stopped += 1;
                succeeded += usize::from(code == 0);
            }
            None if waits && status.last_state.is_some() => stopped += 1,
            None if waits => waiting += 1,
            None => running += 1,
        }
    }
    let all_good = succeeded == regular.len();
    match restart_policy(spec) {
        _ if waiting > 0 => "Pending",
        _ if running > 0 => "Running",
        _ if stopped == 0 => "Pending",
        _ if ending && all_good => "Succeeded",
        _ if ending => "Failed",
        // Everything ended, but only a finished pod says so: a restart may be due.
        _ => "Running",
    }
}

fn condition(type_: &str, good: bool, reason: Option<&str>, message: Option<String>) -> PodCondition {
    PodCondition {
        type_: type_.to_owned(),
        status: if good { "True" } else { "False" }.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        ..PodCondition::default()
    }
}

fn own_conditions(
    facts: &Facts<'_>,
    spec: &PodSpec,
    initialized: &Initialized,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    phase: &str,
) -> Vec<PodCondition> {
    let sandbox = live_sandbox(facts.containers).is_some();
    let list = |names: &[String]| names.join(" ");
    let init_done = match initialized {
        _ if phase == "Succeeded" => condition("Initialized", true, Some("PodCompleted"), None),
        Initialized::Yes => condition("Initialized", true, None, None),
        Initialized::No(open) | Initialized::Failed(open) => condition(
            "Initialized",
            false,
            Some("ContainersNotInitialized"),
            Some(format!("containers with incomplete status: [{}]", list(open))),
        ),
    };
    let sidecars = spec.init_containers.iter().flatten().zip(init).filter(|(spec, _)| is_sidecar(spec));
    let unready: Vec<String> = sidecars
        .map(|(_, status)| status)
        .chain(regular)
        .filter(|status| !status.ready)
        .map(|status| status.name.clone())
        .collect();
    let containers_ready = match phase {
        "Succeeded" => condition("ContainersReady", false, Some("PodCompleted"), None),
        "Failed" => condition("ContainersReady", false, Some("PodFailed"), None),
        _ if unready.is_empty() => condition("ContainersReady", true, None, None),
        _ => condition(
            "ContainersReady",
            false,
            Some("ContainersNotReady"),
            Some(format!("containers with unready status: [{}]", list(&unready))),
        ),
    };
    vec![
        condition("PodReadyToStartContainers", sandbox, None, None),
        init_done,
        containers_ready,
        condition("PodScheduled", true, None, None),
    ]
}

/// Condition Ready: all containers, and every readiness gate (KEP-580).
fn readiness(facts: &Facts<'_>, spec: &PodSpec, conditions: &[PodCondition]) -> PodCondition {
    let mut ready = match api::conditions::find(conditions, "ContainersReady") {
        Some(containers) => {
            PodCondition { type_: "Ready".to_owned(), last_transition_time: None, ..containers.clone() }
        }
        None => condition("Ready", false, None, None),
    };
    if ready.status == "True" {
        let mut open = Vec::new();
        for gate in spec.readiness_gates.iter().flatten() {
            match api::conditions::find(conditions, &gate.condition_type) {
                None => open.push(format!(
                    "corresponding condition of pod readiness gate {:?} does not exist.",
                    gate.condition_type
                )),
                Some(found) if found.status != "True" => open.push(format!(
                    "the status of pod readiness gate {:?} is not \"True\", but {}",
                    gate.condition_type, found.status
                )),
                Some(_) => {}
            }
        }
        if !open.is_empty() {
            ready = condition("Ready", false, Some("ReadinessGatesNotReady"), Some(open.join(", ")));
        }
    }
    ready.observed_generation = facts.pod.metadata.generation;
    ready
}

/// Words for the event when a container is killed.
pub fn kill_message(container: &str, why: &KillReason) -> String {
    match why {
        KillReason::Terminating | KillReason::SandboxGone => format!("Stopping container {container}"),
        KillReason::Changed => format!("Container {container} definition changed, will be restarted"),
        KillReason::Resized => format!("Container {container} resize requires restart"),
        KillReason::HookFailed => "FailedPostStartHook".to_owned(),
        KillReason::Unhealthy(probe) => {
            format!("Container {container} failed {probe} probe, will be restarted")
        }
    }
}

/// A strategic merge patch of the status that turns `old` into `new`, tied to the pod's uid; `None` when they are equal.
/// Conditions merge by type, so those of others are left alone.
pub fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<serde_json::Value> {
    use serde_json::{Map, Value, json};
    let object = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (old, new) = (object(old), object(new));
    let mut changes = Map::new();
    for (key, value) in &new {
        let before = old.get(key);
        if before == Some(value) {
            continue;
        }
        let value = match (key.as_str(), value) {
            ("conditions", Value::Array(conditions)) => {
                let known = before.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                Value::Array(changed_conditions(known, conditions))
            }
            // Lists that would be merged by address: the old ones must go.
            ("podIPs" | "hostIPs", Value::Array(addresses)) if before.is_some() => {
                let mut all = addresses.clone();
                all.push(json!({"$patch": "replace"}));
                Value::Array(all)
            }
            _ => value.clone(),
        };
        changes.insert(key.clone(), value);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changes.insert(key.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| match only_of(uid) {
        Some(uid) => json!({"metadata": {"uid": uid}, "status": changes}),
        None => json!({"status": changes}),
    })
}

/// The uid that a status is written with: the API server refuses it for another pod of the name.
pub fn only_of(uid: &str) -> Option<&str> {
    Guard::StatusUid.holds().then_some(uid)
}

/// The conditions that differ, with explicit nulls for fields they have lost, and those that are no more.
fn changed_conditions(old: &[serde_json::Value], new: &[serde_json::Value]) -> Vec<serde_json::Value> {
    let mut changed = Vec::new();
    for condition in new.iter().filter(|condition| !old.contains(condition)) {
        let mut condition = condition.clone();
        let before = old.iter().find(|before| before["type"] == condition["type"]);
        if let (Some(before), Some(fields)) = (before.and_then(|b| b.as_object()), condition.as_object_mut())
        {
            for key in before.keys() {
                fields.entry(key.clone()).or_insert(serde_json::Value::Null);
            }
        }
        changed.push(condition);
    }
    for gone in old.iter().filter(|before| new.iter().all(|condition| condition["type"] != before["type"])) {
        changed.push(serde_json::json!({"type": gone["type"], "$patch": "delete"}));
    }
    changed
}

#[cfg(test)]
mod tests;
