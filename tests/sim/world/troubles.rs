//! What goes wrong, and how it is put right.

use super::{World, pick, temper::Trouble};
use crate::process::{Process, lock};
use controllers::node_lifecycle::monitor;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::api::DeleteParams;
use std::{collections::BTreeSet, sync::Arc};

impl World {
    pub(super) fn trouble(&mut self) {
        let (at, process) = (self.rng.usize(..self.nodes.len()), self.rng.usize(..self.processes.len()));
        let name = self.nodes[at].node.clone();
        match pick(&mut self.rng, &self.temper.troubles) {
            Some(Trouble::Crash) => {
                // Best in the middle of something.
                let busy = lock(&self.server).busy();
                let at = self.processes.iter().position(|p| Some(p.actor) == busy);
                self.crash(at.unwrap_or(process), false);
            }
            Some(Trouble::Repeat) => self.processes[process].repeat(&mut self.rng),
            Some(Trouble::Cut) => {
                let busy = self.nodes.iter().position(|n| n.linked && n.is_speaking());
                self.cut(busy.unwrap_or(at));
            }
            Some(Trouble::Link) => {
                self.say(|| format!("{name}: linked again, as it was"));
                self.back_in_service(at);
                self.nodes[at].linked = true;
            }
            Some(Trouble::Return) => self.link(at),
            Some(Trouble::KubeletEnds) => {
                self.say(|| format!("{name}: kubelet ends"));
                self.nodes[at].crash(&mut self.rng);
            }
            Some(Trouble::KubeletStarts) => self.up(at),
            Some(Trouble::Power) => {
                self.say(|| format!("{name}: loses power"));
                self.nodes[at].kill(&mut self.rng);
            }
            Some(Trouble::RepeatToKubelet) => self.nodes[at].repeat(&mut self.rng),
            Some(Trouble::Relist) => self.nodes[at].relist(),
            Some(Trouble::LongWait) => self.long_wait(),
            Some(Trouble::AllSilent) => {
                (0..self.nodes.len()).for_each(|at| self.cut(at));
                self.long_wait();
                self.link(at);
            }
            Some(Trouble::Late) => lock(&self.server).deliver_late(),
            Some(Trouble::Takeover) => self.takeover(at),
            Some(Trouble::NodeMadeAnew) => self.node_made_anew(at),
            Some(Trouble::LateTwin) => self.late_twin(),
            Some(Trouble::StaleClaims) => self.stale_claims(),
            Some(Trouble::LateBinding) => self.late_binding(),
            Some(Trouble::LateReservation) => self.late_reservation(),
            Some(Trouble::HalfReserved) => self.half_reserved(),
            Some(Trouble::FreedDisk) => self.freed_disk(),
            Some(Trouble::BackInService) => self.out_of_service_and_back(at),
            Some(Trouble::ReplacedAndRepeated) => self.replaced_and_repeated(at),
            Some(Trouble::CameAndWent) => self.came_and_went(at),
            None => {}
        }
        self.collect_garbage();
    }

    pub(super) fn cut(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        lock(&self.server).say(|| format!("{}: cut off", node.node));
        node.linked = false;
    }

    pub(super) fn crash(&mut self, at: usize, surely_late: bool) {
        let actor = self.processes[at].actor;
        self.say(|| format!("{actor:?} crashes"));
        let fresh = Process::start(actor, &self.server, &self.client);
        drop(std::mem::replace(&mut self.processes[at], fresh));
        lock(&self.server).crashed(actor, surely_late);
    }

    pub(super) fn up(&mut self, at: usize) {
        if !self.nodes[at].up {
            let name = self.nodes[at].node.clone();
            self.say(|| format!("{name}: kubelet starts"));
            self.back_in_service(at);
            self.nodes[at].start();
        }
    }

    pub(super) fn link(&mut self, at: usize) {
        if !self.nodes[at].linked {
            let name = self.nodes[at].node.clone();
            self.say(|| format!("{name}: linked again"));
            self.back_in_service(at);
            // A node that was stopped comes back with a kubelet that starts.
            self.nodes[at].crash(&mut self.rng);
            self.nodes[at].linked = true;
            self.nodes[at].start();
        }
    }

    /// A person takes the out-of-service taint away before the node comes back.
    pub(super) fn back_in_service(&mut self, at: usize) {
        let mut server = lock(&self.server);
        let name = &self.nodes[at].node;
        let tainted = server.get::<Node>(name).is_some();
        if tainted {
            server.change::<Node>(name, |node| {
                if let Some(taints) = &mut node.spec.get_or_insert_default().taints {
                    taints.retain(|t| t.key != monitor::OUT_OF_SERVICE);
                }
            });
        }
    }

    /// Claims whose owners are gone go.
    pub(super) fn collect_garbage(&mut self) {
        let mut server = lock(&self.server);
        let owned = |c: &&Arc<PersistentVolumeClaim>| {
            c.metadata.owner_references.as_ref().is_some_and(|o| !o.is_empty())
        };
        if !server.all::<PersistentVolumeClaim>().any(|c| owned(&c)) {
            return;
        }
        let there: BTreeSet<&str> = server.objects.values().filter_map(|o| o.meta().uid.as_deref()).collect();
        let orphans: Vec<String> = server
            .all::<PersistentVolumeClaim>()
            .filter(owned)
            .filter(|c| c.metadata.owner_references.iter().flatten().all(|o| !there.contains(o.uid.as_str())))
            .filter_map(|c| c.metadata.name.clone())
            .collect();
        for claim in orphans {
            server.say(|| format!("garbage: {claim}"));
            let _ = server.delete("PersistentVolumeClaim", &claim, &DeleteParams::default());
        }
    }
}
