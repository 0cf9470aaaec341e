//! The life of one pod on this node, as a pure function: `step(State, World, now) -> (State, Vec<Effect>)`.
//!
//! ```text
//!            pod bound to this node
//!                     │
//!                     ▼
//!   ┌────────────  Syncing ◄───────────────┐ images, volumes, sandbox, containers: whatever is missing
//!   │                 │  └─────────────────┘
//!   │ marked for      │ its containers ended for good, its deadline passed, or this node refuses it
//!   │ deletion,       ▼
//!   │ or gone    Terminating { deadline }  containers stopped (regular ones, then sidecars backwards);
//!   └────────────►    │                    the deadline only ever comes nearer
//!                     │ every container dead, sandbox removed
//!                     ▼
//!                Terminated                final status published; if marked for deletion: DELETE the object
//!                     │ object gone
//!                     ▼
//!                    Gone                  containers and files removed; the worker ends
//! ```
//!
//! A pod never goes back: what has begun to stop is never started again. An effect is asked for as long as what it
//! would bring about is missing and no such operation is running, so a failed or lost one is simply asked for again.

use crate::{
    backoff::Backoff,
    container_plan::{self, Health, Inputs, KillReason, Outcome, Plan},
    runtime::Container,
};
use client::Guard;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What the worker remembers of a pod between steps. All of it can be lost: facts win.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub stage: Stage,
    pub backoff: Backoff,
    /// Ids of containers killed in order to be replaced.
    pub replacing: BTreeSet<String>,
    /// Containers that wait for their next try: name → until when.
    pub backing_off: BTreeMap<String, Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stage {
    #[default]
    Syncing,
    Terminating {
        deadline: Timestamp,
        why: Why,
    },
    Terminated {
        why: Why,
    },
    Gone,
}

impl Stage {
    pub fn why(&self) -> Option<&Why> {
        match self {
            Stage::Terminating { why, .. } | Stage::Terminated { why } => Some(why),
            Stage::Syncing | Stage::Gone => None,
        }
    }
}

/// Why a pod ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Somebody deleted it, or its object is gone.
    Deleted,
    /// Its containers ran to their end.
    Finished(Outcome),
    /// `activeDeadlineSeconds` passed.
    DeadlineExceeded,
    /// This node cannot run it: (reason, message).
    Rejected(String, String),
}

/// What the API says of the pod's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    Present,
    /// Marked for deletion: when, and how long its containers may take.
    Deleting {
        since: Timestamp,
        grace: SignedDuration,
    },
    /// Not there any more: it was removed by force, or while this kubelet was away.
    Vanished,
}

impl Object {
    /// `vanished` says that the pod is the last that was seen of an object that is gone.
    pub fn of(pod: &Pod, vanished: bool) -> Self {
        if vanished {
            return Self::Vanished;
        }
        match &pod.metadata.deletion_timestamp {
            None => Self::Present,
            Some(end) => {
                let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(0).max(0);
                let grace = SignedDuration::from_secs(seconds);
                // The timestamp is the end of the grace period.
                Self::Deleting { since: end.0.checked_sub(grace).unwrap_or(end.0), grace }
            }
        }
    }
}

/// A running operation, so that none is started twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Volumes,
    Image(String),
    Sandbox,
    /// Create and start a container.
    Start(String),
    /// A container's postStart hook: it is not Running for anybody until this has succeeded.
    Hook(String),
    /// With the deadline it works towards: a nearer one needs another operation. [`Op::any_kill`] stands for all of one
    /// container's in `World::held`.
    Kill {
        id: String,
        deadline: Timestamp,
    },
    Remove(String),
    /// Change what a running container may use.
    Resize(String),
    Publish,
    Delete,
    Release,
    /// List the pod's containers.
    Look,
    /// Read what a container left as its last words.
    Message(String),
}

impl Op {
    /// The key under which a container's kills are held back after a failure.
    pub fn any_kill(id: &str) -> Self {
        Op::Kill { id: id.to_owned(), deadline: Timestamp::UNIX_EPOCH }
    }
}

/// Everything the decision depends on, as of now.
pub struct World<'a> {
    pub pod: &'a Pod,
    pub object: Object,
    pub containers: &'a [Container],
    pub health: &'a BTreeMap<String, Health>,
    pub running: &'a BTreeSet<Op>,
    /// All volumes are there.
    pub volumes_ready: bool,
    /// Containers whose image is known to be local.
    pub images_ready: &'a BTreeSet<String>,
    /// Operations that failed and may not be tried again before a time.
    pub held: &'a BTreeMap<Op, Timestamp>,
    /// The node refuses the pod: (reason, message).
    pub rejected: Option<&'a (String, String)>,
    /// The API has the status that these facts make.
    pub published: bool,
    /// The worker has given back address and files.
    pub released: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    PrepareVolumes,
    EnsureImage {
        container: String,
    },
    EnsureSandbox {
        attempt: u32,
    },
    StartContainer {
        container: String,
        attempt: u32,
    },
    KillContainer {
        id: String,
        name: String,
        deadline: Timestamp,
        why: KillReason,
    },
    RemoveContainer {
        id: String,
    },
    ResizeContainer {
        id: String,
        name: String,
    },
    DeleteObject,
    /// Give back the pod's address and files: nothing of it runs any more.
    Release,
    /// Look again at this time, if nothing happens before.
    WakeAt(Timestamp),
}

/// `terminationGracePeriodSeconds` when the spec says nothing.
const DEFAULT_GRACE: i64 = 30;
/// What a pod's containers get when their object has vanished: the real kubelet's minimum.
const MINIMAL_GRACE: SignedDuration = SignedDuration::from_secs(1);
/// Dead instances of a container kept for `kubectl logs -p` and `lastState`.
const DEAD_INSTANCES_KEPT: usize = 1;

pub fn step(mut state: State, world: &World<'_>, now: Timestamp) -> (State, Vec<Effect>) {
    let mut effects = Vec::new();
    // Each pass either leaves the stage alone or moves it forward; four stages, so this ends.
    loop {
        let before = state.stage.clone();
        effects.clear();
        match &state.stage {
            Stage::Syncing => syncing(&mut state, world, now, &mut effects),
            Stage::Terminating { .. } => terminating(&mut state, world, now, &mut effects),
            Stage::Terminated { .. } => terminated(&mut state, world, now, &mut effects),
            Stage::Gone => {}
        }
        if state.stage == before {
            break;
        }
    }
    (state, effects)
}

fn spec_grace(pod: &Pod) -> SignedDuration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    SignedDuration::from_secs(seconds.unwrap_or(DEFAULT_GRACE).max(0))
}

/// `terminationGracePeriodSeconds` of the probe that gave the container up, where it has one of its own.
fn probe_grace(pod: &Pod, container: &str, probe: &str) -> Option<SignedDuration> {
    let spec = api::pod::container(pod.spec.as_ref()?, container)?;
    let probe = if probe == "startup" { spec.startup_probe.as_ref() } else { spec.liveness_probe.as_ref() };
    probe?.termination_grace_period_seconds.map(|seconds| SignedDuration::from_secs(seconds.max(0)))
}

fn after(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// When a pod's containers have to be dead, as its object asks for it.
fn deadline(object: Object, now: Timestamp) -> Option<Timestamp> {
    match object {
        Object::Present => None,
        Object::Deleting { since, grace } => Some(after(since.min(now), grace.max(MINIMAL_GRACE))),
        Object::Vanished => Some(after(now, MINIMAL_GRACE)),
    }
}

fn syncing(state: &mut State, world: &World<'_>, now: Timestamp, effects: &mut Vec<Effect>) {
    if let Some(deadline) = deadline(world.object, now) {
        state.stage = Stage::Terminating { deadline, why: Why::Deleted };
        return;
    }
    if let Some((reason, message)) = world.rejected {
        state.stage =
            Stage::Terminating { deadline: now, why: Why::Rejected(reason.clone(), message.clone()) };
        return;
    }
    if api::pod::is_terminal(world.pod) {
        let good = api::pod::phase(world.pod) == "Succeeded";
        let why = Why::Finished(if good { Outcome::Succeeded } else { Outcome::Failed });
        state.stage = Stage::Terminating { deadline: after(now, spec_grace(world.pod)), why };
        return;
    }
    if let Some(end) = active_deadline(world.pod) {
        if end <= now {
            let deadline = after(now, spec_grace(world.pod));
            state.stage = Stage::Terminating { deadline, why: Why::DeadlineExceeded };
            return;
        }
        effects.push(Effect::WakeAt(end));
    }
    state.replacing.retain(|id| world.containers.iter().any(|c| c.id == *id));
    let plan = container_plan::plan(&Inputs {
        pod: world.pod,
        containers: world.containers,
        health: world.health,
        backoff: &state.backoff,
        replacing: &state.replacing,
        now,
    });
    if let Some(outcome) = plan.finished
        && plan.kill.is_empty()
    {
        let deadline = after(now, spec_grace(world.pod));
        state.stage = Stage::Terminating { deadline, why: Why::Finished(outcome) };
        return;
    }
    perform(state, world, plan, now, effects);
    remove_old_instances(world, now, effects);
}

fn active_deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    Some(after(started, SignedDuration::from_secs(seconds)))
}

/// Turns a plan into effects, minus what is already being done and what has to wait.
fn perform(state: &mut State, world: &World<'_>, mut plan: Plan, now: Timestamp, effects: &mut Vec<Effect>) {
    for kill in plan.kill {
        let already = |op: &Op| matches!(op, Op::Kill { id, .. } if *id == kill.id);
        if world.running.iter().any(already) || is_held(world, now, &Op::any_kill(&kill.id), effects) {
            continue;
        }
        if matches!(kill.why, KillReason::Changed | KillReason::Resized) {
            state.replacing.insert(kill.id.clone());
        }
        let grace = match &kill.why {
            KillReason::Unhealthy(probe) => probe_grace(world.pod, &kill.name, probe),
            _ => None,
        };
        let deadline = after(now, grace.unwrap_or_else(|| spec_grace(world.pod)));
        effects.push(Effect::KillContainer { id: kill.id, name: kill.name, deadline, why: kill.why });
    }
    for (id, name) in plan.resize {
        let effect = Effect::ResizeContainer { id: id.clone(), name };
        begin(world, now, Op::Resize(id), effect, effects);
    }
    if !world.volumes_ready {
        begin(world, now, Op::Volumes, Effect::PrepareVolumes, effects);
    }
    if let Some(attempt) = plan.create_sandbox {
        begin(world, now, Op::Sandbox, Effect::EnsureSandbox { attempt }, effects);
        // Images are looked for at the same time: the first containers to start need theirs.
        for container in first_containers(world.pod) {
            want_image(world, now, container, effects);
        }
    }
    for start in plan.start {
        if !world.images_ready.contains(&start.name) {
            want_image(world, now, &start.name, effects);
            continue;
        }
        if !world.volumes_ready || world.running.contains(&Op::Sandbox) {
            continue;
        }
        let op = Op::Start(start.name.clone());
        let effect = Effect::StartContainer { container: start.name.clone(), attempt: start.attempt };
        if begin(world, now, op, effect, effects)
            && let Some((hash, ended)) = start.after
        {
            state.backoff.next(&start.name, &hash, ended, now);
        }
    }
    // What is being started has waited; its end is still the newest that is known of it.
    plan.backing_off.retain(|name, _| !world.running.contains(&Op::Start(name.clone())));
    effects.extend(plan.backing_off.values().map(|until| Effect::WakeAt(*until)));
    state.backing_off = plan.backing_off;
}

fn want_image(world: &World<'_>, now: Timestamp, container: &str, effects: &mut Vec<Effect>) {
    if !world.images_ready.contains(container) {
        let effect = Effect::EnsureImage { container: container.to_owned() };
        begin(world, now, Op::Image(container.to_owned()), effect, effects);
    }
}

/// The containers that start first in a new sandbox.
fn first_containers(pod: &Pod) -> impl Iterator<Item = &str> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).and_then(|init| init.first());
    let regular = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let regular = if init.is_some() { &[] } else { regular };
    init.into_iter().chain(regular).map(|container| container.name.as_str())
}

/// Asks for an effect unless its operation is running or held back.
fn begin(world: &World<'_>, now: Timestamp, op: Op, effect: Effect, effects: &mut Vec<Effect>) -> bool {
    if world.running.contains(&op) || is_held(world, now, &op, effects) {
        return false;
    }
    effects.push(effect);
    true
}

/// Whether an operation that failed has to wait; then it is looked at again in time.
fn is_held(world: &World<'_>, now: Timestamp, op: &Op, effects: &mut Vec<Effect>) -> bool {
    let until = world.held.get(op).filter(|until| **until > now);
    effects.extend(until.map(|until| Effect::WakeAt(*until)));
    until.is_some()
}

/// Keeps the newest instance of each container and one dead one before it; older ones, and dead sandboxes that were
/// replaced, go.
fn remove_old_instances(world: &World<'_>, now: Timestamp, effects: &mut Vec<Effect>) {
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    let mut newest_first: Vec<&Container> = world.containers.iter().collect();
    newest_first.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created)));
    for container in newest_first {
        let count = kept.entry(&container.name).or_default();
        *count += 1;
        let limit = if container.is_sandbox() { 1 } else { 1 + DEAD_INSTANCES_KEPT };
        if *count > limit && !container.is_running() {
            remove(world, now, &container.id, effects);
        }
    }
}

fn remove(world: &World<'_>, now: Timestamp, id: &str, effects: &mut Vec<Effect>) {
    let effect = Effect::RemoveContainer { id: id.to_owned() };
    begin(world, now, Op::Remove(id.to_owned()), effect, effects);
}

fn terminating(state: &mut State, world: &World<'_>, now: Timestamp, effects: &mut Vec<Effect>) {
    let Stage::Terminating { deadline, why } = &mut state.stage else { return };
    if let Some(asked) = self::deadline(world.object, now) {
        // Grace only shrinks, whoever asks again.
        *deadline = (*deadline).min(asked);
        if !matches!(why, Why::Finished(_) | Why::DeadlineExceeded | Why::Rejected(..)) {
            *why = Why::Deleted;
        }
    }
    let deadline = *deadline;
    if world.running.iter().any(|op| matches!(op, Op::Start(_) | Op::Sandbox)) {
        return; // What is being started must be known before it can be stopped.
    }
    let alive: Vec<&Container> =
        world.containers.iter().filter(|c| c.is_running() && !c.is_sandbox()).collect();
    if !alive.is_empty() {
        for container in next_to_stop(world.pod, &alive) {
            let near_enough = |op: &Op| matches!(op, Op::Kill { id, deadline: running } if *id == container.id && *running <= deadline);
            let held = |effects: &mut Vec<Effect>| is_held(world, now, &Op::any_kill(&container.id), effects);
            if !world.running.iter().any(near_enough) && !held(effects) {
                effects.push(Effect::KillContainer {
                    id: container.id.clone(),
                    name: container.name.clone(),
                    deadline,
                    why: KillReason::Terminating,
                });
            }
        }
        if Guard::DeadFirst.holds() {
            return;
        }
    }
    let sandboxes: Vec<&Container> = world.containers.iter().filter(|c| c.is_sandbox()).collect();
    for sandbox in &sandboxes {
        remove(world, now, &sandbox.id, effects);
    }
    if sandboxes.is_empty() {
        state.stage = Stage::Terminated { why: why.clone() };
    }
}

/// Regular containers first; when none of them runs, the last sidecar that still does (KEP-753).
fn next_to_stop<'a>(pod: &Pod, alive: &[&'a Container]) -> Vec<&'a Container> {
    let init: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|c| api::pod::is_sidecar(c))
        .map(|c| c.name.as_str())
        .collect();
    let (sidecars, regular): (Vec<_>, Vec<_>) = alive.iter().partition(|c| init.contains(&c.name.as_str()));
    if !regular.is_empty() {
        return regular;
    }
    sidecars.into_iter().max_by_key(|c| init.iter().position(|name| *name == c.name)).into_iter().collect()
}

fn terminated(state: &mut State, world: &World<'_>, now: Timestamp, effects: &mut Vec<Effect>) {
    match world.object {
        // The object stays until somebody deletes it, and so do the dead containers, for their logs.
        Object::Present => {}
        Object::Deleting { .. } => {
            if world.published {
                begin(world, now, Op::Delete, Effect::DeleteObject, effects);
            }
        }
        Object::Vanished => {
            for container in world.containers {
                remove(world, now, &container.id, effects);
            }
            if !world.containers.is_empty() {
                return;
            }
            if world.released {
                state.stage = Stage::Gone;
            } else if !world.running.contains(&Op::Release) {
                effects.push(Effect::Release);
            }
        }
    }
}

/// How long is left until `deadline`, for the runtime.
pub fn remaining(deadline: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(deadline.duration_since(now)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests;
