//! Plots about what is bound to what: pods to nodes, claims to volumes.

use super::super::{
    BURST, NODES, World,
    people::{free, free_disk, idle_disks, scale},
};
use crate::{
    oracle::{name, uid},
    process::lock,
    server::{Actor, Typed},
};
use jiff::SignedDuration;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::DeleteParams;
use std::{collections::BTreeSet, sync::Arc};

/// As many pods as a set has at most here.
const MOST: i32 = 4;

impl World {
    fn process_of(&self, actor: Actor) -> usize {
        self.processes.iter().position(|p| p.actor == actor).unwrap_or(0)
    }

    /// All kubelets and all processes but these go about their work for a while.
    fn work_without(&mut self, resting: &[Actor]) {
        for _ in 0..4 {
            for at in 0..self.processes.len() {
                if !resting.contains(&self.processes[at].actor) {
                    self.processes[at].catch_up();
                    self.burst(at);
                }
            }
            for node in &mut self.nodes {
                node.watch(usize::MAX, 0);
                for _ in 0..BURST {
                    if !node.step(&mut self.rng) {
                        break;
                    }
                }
            }
            self.advance(SignedDuration::from_secs(5));
        }
    }

    /// A pod is deleted, and its successor is there and has no node yet.
    fn a_pod_anew(&mut self) -> Option<String> {
        let pods: Vec<Arc<Pod>> = lock(&self.server).all::<Pod>().cloned().collect();
        let pod = self.rng.choice(&pods)?;
        {
            let mut server = lock(&self.server);
            server.say(|| format!("person: delete {}", uid(pod)));
            let _ = server.delete("Pod", name(pod), &DeleteParams::default());
        }
        self.work_without(&[Actor::Scheduler]);
        let server = lock(&self.server);
        let new = server.get::<Pod>(name(pod))?;
        api::pod::node_name(new).is_none().then(|| name(new).to_owned())
    }

    /// The scheduler ends with a binding on its way; its successor binds the pod to another node; then that arrives.
    pub(in crate::world) fn late_binding(&mut self) {
        if self.a_pod_anew().is_none() {
            return;
        }
        let at = self.process_of(Actor::Scheduler);
        self.processes[at].catch_up();
        for _ in 0..60 {
            if lock(&self.server).is_writing(Actor::Scheduler) {
                break;
            }
            if !self.processes[at].step(&mut self.rng) {
                return;
            }
        }
        self.crash(at, true);
        let only = self.rng.choice(NODES).unwrap();
        self.cordon_all_but(Some(only));
        self.others_work("", true);
        self.cordon_all_but(None);
        lock(&self.server).deliver_late();
        self.others_work("", true);
    }

    /// People want one pod only for a while, and give up what the others had stored.
    fn forget_others(&mut self) {
        scale(&mut lock(&self.server), 1);
        self.work_without(&[]);
        let mut server = lock(&self.server);
        let used: Vec<String> = server.all::<Pod>().map(|p| format!("data-{}", name(p))).collect();
        let idle: Vec<ObjectMeta> = server
            .all::<PersistentVolumeClaim>()
            .map(|c| c.metadata.clone())
            .filter(|c| c.name.as_ref().is_some_and(|n| !used.contains(n)))
            .collect();
        for claim in idle {
            let claim_name = claim.name.unwrap_or_default();
            server.say(|| format!("person: delete claim {claim_name}"));
            server.oracle.deleted_claims.insert(claim.uid.unwrap_or_default());
            let _ = server.delete("PersistentVolumeClaim", &claim_name, &DeleteParams::default());
        }
        drop(server);
        self.work_without(&[]);
        // Their volumes are wiped, and free again.
        let mut server = lock(&self.server);
        let held: BTreeSet<String> =
            server.all::<PersistentVolumeClaim>().filter_map(|c| c.metadata.uid.clone()).collect();
        let claim_of = |v: &PersistentVolume| v.spec.as_ref()?.claim_ref.as_ref()?.uid.clone();
        let released: Vec<String> = server
            .all::<PersistentVolume>()
            .filter(|v| claim_of(v).is_some_and(|uid| !held.contains(&uid)))
            .filter(|v| v.metadata.name.as_ref().is_some_and(|n| n.starts_with("disk-")))
            .filter(|v| {
                let path = v.spec.as_ref().and_then(|s| Some(s.host_path.as_ref()?.path.as_str()));
                !server.oracle.live.values().any(|l| l.path.as_deref() == path)
            })
            .filter_map(|v| v.metadata.name.clone())
            .collect();
        for volume in released {
            server.change::<PersistentVolume>(&volume, |v| v.spec.get_or_insert_default().claim_ref = None);
        }
    }

    /// People want more pods, and the set has made their claims.
    fn more_claims(&mut self) {
        scale(&mut lock(&self.server), MOST);
        let sets = self.process_of(Actor::StatefulSets);
        self.processes[sets].catch_up();
        self.burst(sets);
    }

    /// The volume controller ends with reservations on their way; its successor does that work; then they arrive.
    pub(in crate::world) fn late_reservation(&mut self) {
        if self.rng.bool() {
            self.forget_others();
        }
        self.more_claims();
        let at = self.process_of(Actor::Volumes);
        self.processes[at].catch_up();
        for _ in 0..60 {
            let reserving = lock(&self.server).writes(Actor::Volumes, "PersistentVolume");
            if reserving > 1 || (reserving == 1 && self.rng.u8(..16) == 0) {
                break;
            }
            if !self.processes[at].step(&mut self.rng) {
                return;
            }
        }
        self.crash(at, true);
        self.others_work("", true);
        lock(&self.server).deliver_late();
        lock(&self.server).deliver_late();
    }

    /// Volumes that got a claim since then, the first one first.
    fn reserved_since(&self, event: usize) -> Vec<String> {
        let server = lock(&self.server);
        let reserved = server.log[event..].iter().filter_map(|e| PersistentVolume::of(&e.object));
        let mut names: Vec<String> = Vec::new();
        for volume in reserved.filter(|v| v.spec.as_ref().is_some_and(|s| s.claim_ref.is_some())) {
            names.extend(volume.metadata.name.clone().filter(|name| !names.contains(name)));
        }
        names
    }

    /// The volume controller ends between reserving a volume and telling the claim. A person takes another volume back
    /// then, which had been free when its successor's cache of volumes was new.
    pub(in crate::world) fn half_reserved(&mut self) {
        self.forget_others();
        self.more_claims();
        let at = self.process_of(Actor::Volumes);
        self.processes[at].catch_up();
        let before = lock(&self.server).log.len();
        for _ in 0..120 {
            // At the second it reserves, or a later one.
            let telling = lock(&self.server).writes(Actor::Volumes, "PersistentVolumeClaim") > 0;
            if telling && self.reserved_since(before).len() > 1 && self.rng.bool() {
                break;
            }
            // It sees what it has reserved, and takes the next one for the next claim.
            self.processes[at].show("PersistentVolume");
            if !self.processes[at].step(&mut self.rng) {
                return;
            }
        }
        self.crash(at, false);
        let stale = lock(&self.server).log.len() - before;
        let reserved = self.reserved_since(before);
        {
            let mut server = lock(&self.server);
            let idle = idle_disks(&server);
            // The first one, which the successor would choose for whoever comes first.
            match reserved.iter().find(|volume| idle.contains(volume)) {
                Some(first) => free(&mut server, first),
                None => free_disk(&mut server, &mut self.rng),
            }
        }
        self.processes[at].begin_with("PersistentVolume", stale + 1);
        self.burst(at);
    }

    /// A person takes the volume of a pod back that is about to get a node; another claim gets that volume before a
    /// kubelet asks for it.
    pub(in crate::world) fn freed_disk(&mut self) {
        let Some(pod) = self.a_pod_anew() else { return };
        let (scheduler, volumes) = (self.process_of(Actor::Scheduler), self.process_of(Actor::Volumes));
        self.processes[scheduler].catch_up();
        self.processes[volumes].catch_up();
        self.burst(volumes);
        free_disk(&mut lock(&self.server), &mut self.rng);
        self.burst(scheduler);
        let node =
            lock(&self.server).get::<Pod>(&pod).and_then(|p| api::pod::node_name(p).map(str::to_owned));
        self.more_claims();
        // What becomes of pods it has not heard yet.
        self.processes[volumes].show("PersistentVolumeClaim");
        self.processes[volumes].show("PersistentVolume");
        self.burst(volumes);
        if let Some(node) = self.nodes.iter_mut().find(|n| Some(&n.node) == node.as_ref()) {
            node.watch(usize::MAX, 0);
            for _ in 0..BURST {
                if !node.step(&mut self.rng) {
                    break;
                }
            }
        }
        self.others_work("", true);
    }
}
