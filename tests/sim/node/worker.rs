//! As a worker of one pod: asks the real `step`, performs operations, each when the schedule says, writes the status.

use super::{Kubelet, MAIN};
use crate::{
    oracle::{Live, name},
    process::lock,
    server::Server,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, PodStatus};
use kubelet::{
    pure::{
        self, Claims,
        machine::{self, Effect, Object, Op, Stage, World},
        plan::Health,
        status::{self, Facts},
    },
    runtime::{Container, SANDBOX_NAME},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(super) struct Worker {
    pub(super) pod: Arc<Pod>,
    pub(super) vanished: bool,
    pub(super) state: machine::State,
    pub(super) running: BTreeSet<Op>,
    pub(super) effects: BTreeMap<Op, Effect>,
    /// (name of the claim, its uid, path) for each volume.
    pub(super) volumes: Option<Vec<(String, String, String)>>,
    pub(super) published: bool,
    pub(super) released: bool,
    /// Something has changed since `step` was asked last, or will have at this time.
    pub(super) stale: bool,
    pub(super) wake: Option<Timestamp>,
    /// State of the machine that was looked at last.
    pub(super) seen: u64,
}

impl Worker {
    pub(super) fn new(pod: Arc<Pod>, vanished: bool) -> Self {
        Self {
            pod,
            vanished,
            state: machine::State::default(),
            running: BTreeSet::new(),
            effects: BTreeMap::new(),
            volumes: None,
            published: false,
            released: false,
            stale: true,
            wake: None,
            seen: 0,
        }
    }
}

impl Kubelet {
    pub(super) fn work(&mut self, uid: &str, rng: &mut fastrand::Rng) -> bool {
        let Some(worker) = self.workers.get(uid) else { return false };
        // Operations take their time: whatever else happens, happens between.
        let mut ops: Vec<Op> = worker.running.iter().cloned().collect();
        rng.shuffle(&mut ops);
        ops.retain(|_| rng.u8(..4) >= self.slow);
        let think_first = rng.u8(..4) == 0;
        (think_first && self.turn(uid)) || ops.iter().any(|op| self.complete(uid, op)) || self.turn(uid)
    }

    /// Asks `step` and begins what it says. `false` if nothing changed.
    pub(super) fn turn(&mut self, uid: &str) -> bool {
        let now = lock(&self.server).now;
        let Some(worker) = self.workers.get_mut(uid) else { return false };
        if !worker.stale && worker.seen == self.machine.changes && worker.wake.is_none_or(|at| at > now) {
            return false;
        }
        (worker.stale, worker.wake, worker.seen) = (false, None, self.machine.changes);
        let containers = self.machine.of(uid);
        let health = self.machine.health(&containers);
        let (images, held) = (BTreeSet::from([MAIN.to_owned()]), BTreeMap::new());
        let world = World {
            pod: &worker.pod,
            object: Object::of(&worker.pod, worker.vanished),
            containers: &containers,
            health: &health,
            running: &worker.running,
            volumes_ready: worker.volumes.is_some(),
            images_ready: &images,
            held: &held,
            rejected: None,
            published: worker.published,
            released: worker.released,
        };
        let (state, effects) = machine::step(worker.state.clone(), &world, now);
        let mut worked = state != worker.state;
        worker.state = state;
        for effect in effects {
            let op = match &effect {
                Effect::PrepareVolumes => Op::Volumes,
                Effect::EnsureSandbox { .. } => Op::Sandbox,
                Effect::StartContainer { container, .. } => Op::Start(container.clone()),
                Effect::KillContainer { id, deadline, .. } => {
                    Op::Kill { id: id.clone(), deadline: *deadline }
                }
                Effect::RemoveContainer { id } => Op::Remove(id.clone()),
                Effect::DeleteObject => Op::Delete,
                Effect::Release => Op::Release,
                Effect::WakeAt(at) => {
                    worker.wake = Some(worker.wake.map_or(*at, |w| w.min(*at)));
                    continue;
                }
                Effect::EnsureImage { .. } | Effect::ResizeContainer { .. } => continue,
            };
            worked |= worker.running.insert(op.clone());
            worker.effects.insert(op, effect);
        }
        if worker.state.stage == Stage::Gone {
            let key = name(&worker.pod).to_owned();
            self.workers.remove(uid);
            self.gone.insert(uid.to_owned());
            self.changed.add(key);
            return true;
        }
        let worker = self.workers.get_mut(uid).unwrap();
        if !worker.vanished && !worker.running.contains(&Op::Publish) {
            let new = compute(worker, &containers, &health, now);
            let differs = worker.pod.status.as_ref() != Some(&new);
            if differs {
                worker.published = false;
                worked |= worker.running.insert(Op::Publish);
            } else {
                worked |= !std::mem::replace(&mut worker.published, true);
            }
        }
        worker.stale = worked;
        worked
    }

    /// An operation ends. `false` if it cannot, now.
    pub(super) fn complete(&mut self, uid: &str, op: &Op) -> bool {
        let shared = self.server.clone();
        let mut server = lock(&shared);
        let now = server.now;
        let containers = self.machine.of(uid);
        let health = self.machine.health(&containers);
        let Some(worker) = self.workers.get_mut(uid) else { return false };
        if matches!(op, Op::Volumes | Op::Publish | Op::Delete) && !self.linked {
            return false;
        }
        if matches!(op, Op::Kill { deadline, .. } if self.stubborn && now < *deadline) {
            return false;
        }
        worker.running.remove(op);
        worker.stale = true;
        let pod = worker.pod.clone();
        match op {
            Op::Volumes => match mount(&server, &pod) {
                Ok(volumes) => worker.volumes = Some(volumes),
                Err(_) => {
                    // Tried again, the operation goes on.
                    worker.running.insert(Op::Volumes);
                    return false;
                }
            },
            Op::Sandbox => {
                let Some(Effect::EnsureSandbox { attempt }) = worker.effects.get(op).cloned() else {
                    return false;
                };
                self.machine.run(&pod, SANDBOX_NAME, attempt, "", now);
            }
            Op::Start(container) => {
                let Some(Effect::StartContainer { attempt, .. }) = worker.effects.get(op).cloned() else {
                    return false;
                };
                let Some(sandbox) = containers.iter().find(|c| c.is_sandbox() && c.is_running()) else {
                    return false;
                };
                let volumes = worker.volumes.clone().unwrap_or_default();
                if let Some(id) = self.machine.run(&pod, container, attempt, &sandbox.id, now) {
                    server.say(|| format!("{}: {} ({uid}) runs as {id}", self.node, name(&pod)));
                    let first = volumes.first();
                    let live = Live {
                        uid: uid.to_owned(),
                        identity: name(&pod).to_owned(),
                        node: self.node.clone(),
                        path: first.map(|(_, _, path)| path.clone()),
                    };
                    let claim = first.map(|(claim, uid, _)| (claim.as_str(), uid.as_str()));
                    server.oracle.started(&id, live, claim);
                    if was_removed(&server, self.listed_at, uid) {
                        let what = format!("{} starts {id}, which was gone when it looked", self.node);
                        server.oracle.violated(what);
                    }
                }
            }
            Op::Kill { id, .. } | Op::Remove(id) => {
                let remove = matches!(op, Op::Remove(_));
                server.say(|| {
                    format!(
                        "{}: {} {id} of {}",
                        self.node,
                        if remove { "removes" } else { "kills" },
                        name(&pod)
                    )
                });
                server.oracle.ended(id);
                self.machine.stop(id, remove, now);
            }
            Op::Delete => {
                let params = pure::last_word(uid);
                server.say(|| format!("{}: last word on {} ({uid})", self.node, name(&pod)));
                // Gone already, or another's: as good as deleted.
                let _ = server.delete("Pod", name(&pod), &params);
                worker.vanished = true;
            }
            Op::Publish => {
                let new = compute(worker, &containers, &health, now);
                let old = pod.status.clone().unwrap_or_default();
                match server.write_status(name(&pod), status::only_of(uid), &old, &new) {
                    Some(written) if version(&written) >= version(&pod) => {
                        let pod = Arc::make_mut(&mut worker.pod);
                        pod.metadata.resource_version = written.metadata.resource_version.clone();
                        pod.status = written.status.clone();
                    }
                    Some(_) => {}
                    None => worker.published = true,
                }
            }
            Op::Release => worker.released = true,
            _ => {}
        }
        true
    }
}

/// Whether the pod's object had been removed when there was so much of the log.
fn was_removed(server: &Server, at: usize, uid: &str) -> bool {
    server.log[..at].iter().any(|e| e.deleted && e.object.meta().uid.as_deref() == Some(uid))
}

/// A newer object, with the newest status that is known.
pub(super) fn wish(worker: &mut Worker, pod: Arc<Pod>) {
    if version(&pod) < version(&worker.pod) {
        let status = worker.pod.status.clone();
        worker.pod = Arc::new(Pod { status, ..Pod::clone(&pod) });
    } else {
        worker.pod = pod;
    }
    worker.published = false;
    worker.stale = true;
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn compute(
    worker: &Worker,
    containers: &[Container],
    health: &BTreeMap<String, Health>,
    now: Timestamp,
) -> PodStatus {
    status::compute(&Facts {
        pod: &worker.pod,
        containers,
        health,
        stage: &worker.state.stage,
        waiting: &BTreeMap::new(),
        messages: &BTreeMap::new(),
        hooking: &BTreeSet::new(),
        resize: None,
        resize_error: None,
        pod_ip: None,
        host_ip: None,
        now,
    })
}

/// What the pod's claims lead to, read afresh as kubelets do.
fn mount(server: &Server, pod: &Pod) -> Result<Vec<(String, String, String)>, String> {
    let mut claims = Claims::new();
    for name in pure::claim_names(pod) {
        let Some(claim) = server.get::<PersistentVolumeClaim>(&name) else { continue };
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
        let volume =
            volume.and_then(|v| server.get::<PersistentVolume>(v)).map(|v| PersistentVolume::clone(v));
        claims.insert(name, (PersistentVolumeClaim::clone(claim), volume));
    }
    pure::claim_names(pod)
        .into_iter()
        .map(|name| {
            let volume = pure::bound_volume(&claims, &name)?;
            let path = volume.spec.as_ref().and_then(|s| s.host_path.as_ref()).map(|h| h.path.clone());
            let uid = claims[&name].0.metadata.uid.clone().unwrap_or_default();
            Ok((name, uid, path.unwrap_or_default()))
        })
        .collect()
}
