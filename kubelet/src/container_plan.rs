//! Which containers of a pod to start, keep, restart or kill: a pure function of the spec and of what is there.
//!
//! Rules (KEP-753 for sidecars, the Pod lifecycle page for the rest):
//! * without a running sandbox nothing of the pod may run; a new sandbox means every container anew, init included;
//! * init containers run one after another to success, before any other container; a sidecar (an init container with
//!   restartPolicy Always) only has to have started, and is restarted for ever;
//! * a container is restarted after the pod's restartPolicy, with back-off; a failed probe or another image kills it
//!   first; a container replaced because of its image comes back whatever the policy;
//! * an ephemeral container is started once, when there is a sandbox;
//! * when all regular containers have ended for good the pod is finished, sidecars or not.

use crate::{
    backoff::Backoff,
    container_spec, resize,
    runtime::{Container, State},
};
use api::pod::is_sidecar;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, ContainerState, Pod, PodSpec};
use std::collections::{BTreeMap, BTreeSet};

/// What probes say about one running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    pub ready: bool,
    /// Which probe (liveness or startup) has given the container up, in words for the event.
    pub failed: Option<String>,
}

impl Health {
    /// Of a running container whose probes (if any) have said nothing yet.
    pub fn initial(spec: &Spec) -> Self {
        let started = spec.startup_probe.is_none();
        Self { started, ready: started && spec.readiness_probe.is_none(), failed: None }
    }
}

/// What the plan is made from.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    /// The pod's containers and sandboxes, newest first.
    pub containers: &'a [Container],
    /// By container id; a running container without an entry has its initial health.
    pub health: &'a BTreeMap<String, Health>,
    pub backoff: &'a Backoff,
    /// Ids of containers killed to be replaced: they come back whatever the restart policy.
    pub replacing: &'a BTreeSet<String>,
    pub now: Timestamp,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Create a sandbox, counted so.
    pub create_sandbox: Option<u32>,
    pub start: Vec<Start>,
    pub kill: Vec<Kill>,
    /// Running containers that may use more or less from now on: (id, name).
    pub resize: Vec<(String, String)>,
    /// Containers waiting out a back-off: name → until when.
    pub backing_off: BTreeMap<String, Timestamp>,
    /// All regular containers have ended for good.
    pub finished: Option<Outcome>,
    /// Every plain init container has completed (or never has to run again).
    pub initialized: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub name: String,
    pub attempt: u32,
    /// The instance that ended and is being restarted, for the back-off's count: (hash, when it ended).
    pub after: Option<(String, Timestamp)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    pub why: KillReason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillReason {
    /// The pod is being stopped.
    Terminating,
    /// Its sandbox died: it has no network any more.
    SandboxGone,
    /// The image in the spec is another one.
    Changed,
    /// What it may use has changed, and it has to be restarted to learn of it.
    Resized,
    /// A liveness or startup probe gave up; in words.
    Unhealthy(String),
    /// Its postStart hook failed.
    HookFailed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
}

/// The identity of a container's spec: name and image, as the real kubelet counts it. Other fields cannot change.
pub fn spec_hash(spec: &Spec) -> String {
    // FNV-1a: stable across versions of ours and of the standard library, which the label needs.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in spec.name.bytes().chain([0]).chain(spec.image.iter().flat_map(|image| image.bytes())) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// Whether the engine lets a running container use something else than its spec says.
pub fn is_to_resize(pod: &PodSpec, spec: &Spec, current: &Container) -> bool {
    let wanted = container_spec::resources(pod, spec, 0);
    current.resources.as_ref().is_some_and(|actual| !actual.lets_use_as(&wanted))
}

/// The newest instance of a container.
pub fn newest<'a>(containers: &'a [Container], name: &str) -> Option<&'a Container> {
    containers.iter().filter(|c| c.name == name).max_by_key(|c| (c.attempt, c.created))
}

/// Restart count and exit code of a container's last instance as the pod's status has it. One that was running when
/// last heard of counts as killed.
fn recorded(pod: &Pod, name: &str) -> Option<(u32, i32)> {
    let status = api::pod::container_status(pod, name)?;
    status.container_id.as_deref().filter(|id| !id.is_empty())?;
    let ended = |state: &Option<ContainerState>| Some(state.as_ref()?.terminated.as_ref()?.exit_code);
    let code = ended(&status.state).or(ended(&status.last_state)).unwrap_or(KILLED);
    Some((status.restart_count.try_into().unwrap_or(0), code))
}

/// Exit code of a process ended by SIGKILL.
const KILLED: i32 = 137;

/// The newest sandbox that runs.
pub fn live_sandbox(containers: &[Container]) -> Option<&Container> {
    containers.iter().filter(|c| c.is_sandbox() && c.is_running()).max_by_key(|c| (c.attempt, c.created))
}

pub fn plan(inputs: &Inputs<'_>) -> Plan {
    let Some(spec) = &inputs.pod.spec else { return Plan::default() };
    match live_sandbox(inputs.containers) {
        Some(sandbox) => Planner { inputs, spec, sandbox: &sandbox.id, plan: Plan::default() }.with_sandbox(),
        None => without_sandbox(inputs, spec),
    }
}

/// The pod has no sandbox, or a dead one: everything left of it dies, then it is made anew if it has to run (again).
fn without_sandbox(inputs: &Inputs<'_>, spec: &PodSpec) -> Plan {
    let mut plan = Plan::default();
    for container in inputs.containers.iter().filter(|c| !c.is_sandbox() && c.is_running()) {
        plan.kill.push(Kill {
            id: container.id.clone(),
            name: container.name.clone(),
            why: KillReason::SandboxGone,
        });
    }
    if !plan.kill.is_empty() {
        return plan;
    }
    let sandboxes = inputs.containers.iter().filter(|c| c.is_sandbox());
    let attempt = sandboxes.map(|c| c.attempt + 1).max().unwrap_or(0);
    let newest = |c: &Spec| newest(inputs.containers, &c.name);
    let ended: Vec<Option<i32>> =
        spec.containers.iter().map(|c| newest(c).and_then(Container::exit_code)).collect();
    // An init container that failed under Never has ended the pod too.
    let init_failed = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| !is_sidecar(c))
        .any(|c| newest(c).and_then(Container::exit_code).is_some_and(|code| code != 0));
    let started = ended.iter().any(Option::is_some);
    let finished = match restart_policy(spec) {
        "Never" => started || init_failed,
        "OnFailure" => !ended.is_empty() && ended.iter().all(|code| *code == Some(0)),
        _ => false,
    };
    if finished {
        let good = !init_failed && ended.iter().all(|code| *code == Some(0));
        plan.finished = Some(if good { Outcome::Succeeded } else { Outcome::Failed });
        plan.initialized = started;
    } else {
        plan.create_sandbox = Some(attempt);
    }
    plan
}

struct Planner<'a> {
    inputs: &'a Inputs<'a>,
    spec: &'a PodSpec,
    sandbox: &'a str,
    plan: Plan,
}

/// What became of one container in the plan.
enum Verdict {
    /// Runs and has started.
    Up,
    /// Is being started, is starting, or waits for its next try.
    Pending,
    /// Ended for good, with this code.
    Ended(i32),
}

impl<'a> Planner<'a> {
    fn with_sandbox(mut self) -> Plan {
        let spec = self.spec;
        for ephemeral in spec.ephemeral_containers.iter().flatten() {
            // Started once, never restarted, and of no weight for the pod's end. It need not wait for init containers:
            // they may be what is to be looked at.
            let begun = match newest(self.inputs.containers, &ephemeral.name) {
                Some(container) => container.state != State::Created,
                None => recorded(self.inputs.pod, &ephemeral.name).is_some(),
            };
            if !begun {
                self.plan.start.push(Start { name: ephemeral.name.clone(), attempt: 0, after: None });
            }
        }
        let regular_created = spec.containers.iter().any(|c| self.current(c).is_some());
        let mut blocked = false;
        let mut failed = false;
        for init in spec.init_containers.iter().flatten() {
            if is_sidecar(init) {
                let verdict = self.keep(init, "Always");
                blocked |= !regular_created && !matches!(verdict, Verdict::Up);
            } else if !regular_created {
                let policy = if restart_policy(spec) == "Never" { "Never" } else { "OnFailure" };
                match self.keep(init, policy) {
                    Verdict::Ended(0) => {}
                    Verdict::Ended(_) => failed = true,
                    Verdict::Up | Verdict::Pending => blocked = true,
                }
            }
            if blocked || failed {
                break;
            }
        }
        if failed {
            self.plan.finished = Some(Outcome::Failed);
            return self.plan;
        }
        if blocked {
            return self.plan;
        }
        self.plan.initialized = true;
        let mut ended = Vec::with_capacity(spec.containers.len());
        for container in &spec.containers {
            if let Verdict::Ended(code) = self.keep(container, restart_policy(spec)) {
                ended.push(code);
            }
        }
        if ended.len() == spec.containers.len() {
            let good = ended.iter().all(|code| *code == 0);
            self.plan.finished = Some(if good { Outcome::Succeeded } else { Outcome::Failed });
            self.plan.start.clear();
        }
        self.plan
    }

    /// The instance made in the live sandbox.
    fn current(&self, spec: &Spec) -> Option<&'a Container> {
        newest(self.inputs.containers, &spec.name).filter(|c| c.sandbox_id == self.sandbox)
    }

    fn keep(&mut self, spec: &Spec, policy: &str) -> Verdict {
        let inputs = self.inputs;
        let Some(current) = self.current(spec) else {
            let old = newest(inputs.containers, &spec.name);
            if let (Some(0), "OnFailure", false) =
                (old.and_then(Container::exit_code), policy, self.is_init(&spec.name))
            {
                return Verdict::Ended(0);
            }
            // Without any trace in the engine the last status tells: somebody removed the container meanwhile.
            let recorded = recorded(inputs.pod, &spec.name).filter(|_| old.is_none());
            if let Some((_, code)) = recorded
                && (policy == "Never" || (policy == "OnFailure" && code == 0))
            {
                return Verdict::Ended(code);
            }
            let attempt = old.map(|old| old.attempt).or(recorded.map(|(attempt, _)| attempt));
            let attempt = attempt.map_or(0, |attempt| attempt + 1);
            self.plan.start.push(Start { name: spec.name.clone(), attempt, after: None });
            return Verdict::Pending;
        };
        match &current.state {
            State::Created => {
                let start = Start { name: spec.name.clone(), attempt: current.attempt, after: None };
                self.plan.start.push(start);
                Verdict::Pending
            }
            State::Running { .. } => self.keep_running(spec, current),
            State::Exited { code, finished, .. } => {
                let restart = match policy {
                    _ if inputs.replacing.contains(&current.id) => true,
                    "Always" => true,
                    "OnFailure" => *code != 0,
                    _ => false,
                };
                if !restart {
                    return Verdict::Ended(*code);
                }
                let hash = spec_hash(spec);
                match inputs.backoff.until(&spec.name, &hash, *finished, inputs.now) {
                    Some(until) => {
                        self.plan.backing_off.insert(spec.name.clone(), until);
                    }
                    None => self.plan.start.push(Start {
                        name: spec.name.clone(),
                        attempt: current.attempt + 1,
                        after: Some((hash, *finished)),
                    }),
                }
                Verdict::Pending
            }
        }
    }

    fn keep_running(&mut self, spec: &Spec, current: &Container) -> Verdict {
        let plain_init = self.is_init(&spec.name) && !is_sidecar(spec);
        if plain_init {
            return Verdict::Pending;
        }
        let initial = Health::initial(spec);
        let health = self.inputs.health.get(&current.id).unwrap_or(&initial);
        let why = if current.hash != spec_hash(spec) {
            Some(KillReason::Changed)
        } else if resize::restarts(spec, &current.made_with) {
            Some(KillReason::Resized)
        } else {
            health.failed.clone().map(KillReason::Unhealthy)
        };
        if let Some(why) = why {
            self.plan.kill.push(Kill { id: current.id.clone(), name: spec.name.clone(), why });
            return Verdict::Pending;
        }
        if is_to_resize(self.spec, spec, current) {
            self.plan.resize.push((current.id.clone(), spec.name.clone()));
        }
        if health.started { Verdict::Up } else { Verdict::Pending }
    }

    fn is_init(&self, name: &str) -> bool {
        self.spec.init_containers.iter().flatten().any(|c| c.name == name)
    }
}

#[cfg(test)]
mod tests;
