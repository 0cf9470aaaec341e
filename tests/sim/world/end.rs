//! The end of a schedule: all faults end, and it must come to rest as the set wants it.

use super::{
    BURST, World,
    people::{give_up_lost, update, wanted},
};
use crate::{
    node::Kubelet,
    oracle::{SET, name},
    process::{Process, lock},
    server::Actor,
};
use controllers::stateful_set::status;
use jiff::SignedDuration;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
};
use std::collections::{BTreeMap, BTreeSet};

impl World {
    pub(super) fn heal(&mut self) {
        self.say(|| "all is well from here".into());
        self.nodes.iter_mut().for_each(|n| n.slow = 0);
        lock(&self.server).faults = false;
        lock(&self.server).forget_late();
        for at in 0..self.nodes.len() {
            self.link(at);
            self.up(at);
        }
        update(&mut lock(&self.server), "v9");
    }

    /// Everybody does their work until nobody has any.
    pub(super) fn settle(&mut self, rounds: usize) -> Result<(), String> {
        let mut quiet = 0;
        for _ in 0..rounds {
            let before = lock(&self.server).revision();
            let mut worked = false;
            let wanted = wanted(lock(&self.server).get::<StatefulSet>(SET).unwrap());
            for node in &mut self.nodes {
                worked |= node.all_ready(&wanted);
                node.watch(usize::MAX, 0);
                for n in 0.. {
                    if !node.step(&mut self.rng) {
                        break;
                    }
                    worked = true;
                    if n > BURST {
                        return Err(format!("the kubelet of {} spins", node.node));
                    }
                }
                node.relist();
            }
            for process in &mut self.processes {
                process.catch_up();
                for n in 0.. {
                    if !process.step(&mut self.rng) {
                        break;
                    }
                    process.catch_up();
                    if n > BURST {
                        return Err(format!("{:?} spins", process.actor));
                    }
                }
            }
            self.collect_garbage();
            give_up_lost(&mut lock(&self.server));
            self.failed()?;
            let beats = self.advance_to_rest();
            let silent = lock(&self.server).revision() == before + beats;
            quiet = if silent && !worked { quiet + 1 } else { 0 };
            // The node controller always wants to look again; others want something.
            let wants = |p: &Process| p.actor != Actor::Nodes && p.due().is_some();
            if quiet > 1 && !self.processes.iter().any(wants) || quiet > 9 {
                return Ok(());
            }
        }
        Err(format!("no rest after {rounds} rounds"))
    }

    /// Lets some time pass; gives how many events that alone makes.
    pub(super) fn advance_to_rest(&mut self) -> u64 {
        let before = lock(&self.server).revision();
        self.advance(SignedDuration::from_secs(5));
        lock(&self.server).revision() - before
    }

    /// It is as the set wants it.
    pub(super) fn at_rest(&self) -> Result<(), String> {
        let server = lock(&self.server);
        let set = server.get::<StatefulSet>(SET).unwrap();
        let spec = set.spec.as_ref().unwrap();
        let wanted = wanted(set);
        let there: BTreeSet<String> = server.all::<Pod>().map(|p| name(p).to_owned()).collect();
        if wanted != there {
            return Err(format!("came to rest with {there:?} instead of {wanted:?}"));
        }
        // Of a claim that is gone they are Released: what was reserved for it and not yet given back is a person's to free.
        let claims: BTreeSet<_> =
            server.all::<PersistentVolumeClaim>().filter_map(|claim| claim.metadata.uid.clone()).collect();
        let mut owned = BTreeMap::new();
        for volume in server.all::<PersistentVolume>() {
            let claim = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()?.uid.clone());
            let name = volume.metadata.name.clone().unwrap_or_default();
            if let Some(claim) = claim.filter(|claim| claims.contains(claim))
                && let Some(other) = owned.insert(claim, name.clone())
            {
                return Err(format!("one claim holds both {other} and {name}"));
            }
        }
        let late = server.all::<Pod>().find(|p| {
            let image = p.spec.as_ref().unwrap().containers[0].image.as_deref();
            !status::is_healthy(p, 0, server.now) || image != Some("v9")
        });
        if let Some(pod) = late {
            return Err(format!(
                "{} is not healthy or not updated at rest: {:?}",
                name(pod),
                pod.status.as_ref().map(|s| (&s.phase, &s.conditions))
            ));
        }
        let counted = set.status.as_ref().map_or(0, |s| s.ready_replicas.unwrap_or(0));
        if counted != spec.replicas.unwrap() {
            return Err(format!("the status counts {counted} ready replicas at rest"));
        }
        drop(server);
        self.nodes.iter().find_map(Kubelet::leftovers).map_or(Ok(()), Err)
    }
}
