//! Plots: what chance alone would bring together too rarely.

mod binding;

use super::{
    BURST, NODES, TURN, World,
    people::{out_of_service, update},
};
use crate::{
    oracle::{name, uid},
    process::lock,
    server::Actor,
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::DeleteParams;
use std::{collections::BTreeSet, sync::Arc};

impl World {
    /// Everybody but one node goes about their work for a while.
    pub(super) fn others_work(&mut self, but: &str, become_ready: bool) {
        for _ in 0..8 {
            for process in &mut self.processes {
                process.catch_up();
                for _ in 0..BURST {
                    if !process.step(&mut self.rng) {
                        break;
                    }
                    process.catch_up();
                }
            }
            for node in self.nodes.iter_mut().filter(|n| n.node != but) {
                node.watch(usize::MAX, 0);
                for _ in 0..BURST {
                    if !node.step(&mut self.rng) {
                        break;
                    }
                }
                if become_ready {
                    node.flip(&mut self.rng, true);
                }
            }
            if self.rng.bool() {
                self.advance(SignedDuration::from_secs(2));
            }
        }
    }

    /// A pod is taken away by force from a node that is cut off, and comes up elsewhere; then the node is back, and knows
    /// nothing or all of it at once.
    pub(super) fn takeover(&mut self, at: usize) {
        let node = self.nodes[at].node.clone();
        let pods: Vec<Arc<Pod>> = {
            let server = lock(&self.server);
            server.all::<Pod>().filter(|p| api::pod::node_name(p) == Some(node.as_str())).cloned().collect()
        };
        let Some(pod) = self.rng.choice(&pods) else { return };
        self.say(|| format!("takeover of {}", uid(pod)));
        // Sometimes it is about to say that it is ready.
        let about_to_speak = self.rng.bool();
        if about_to_speak {
            self.nodes[at].all_unready();
            for _ in 0..BURST {
                if !self.nodes[at].step(&mut self.rng) {
                    break;
                }
            }
        }
        let of = |grace| DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        if self.rng.bool() {
            let _ = lock(&self.server).delete("Pod", name(pod), &of(None));
            self.nodes[at].watch(usize::MAX, 0);
            let most = self.rng.usize(..16);
            for _ in 0..most {
                self.nodes[at].step(&mut self.rng);
            }
            let seconds = self.rng.i64(0..12);
            self.advance(SignedDuration::from_secs(seconds));
        }
        self.cut(at);
        if about_to_speak {
            self.nodes[at].all_ready(&BTreeSet::new());
            for _ in 0..4 {
                self.nodes[at].step(&mut self.rng);
            }
        }
        if self.rng.bool() {
            self.long_wait();
        }
        {
            let mut server = lock(&self.server);
            let same = server.get::<Pod>(name(pod)).is_some_and(|p| uid(p) == uid(pod));
            if same {
                server.oracle.released.insert(uid(pod).to_owned());
                let _ = server.delete("Pod", name(pod), &of(Some(0)));
            }
        }
        self.others_work(&node, !about_to_speak);
        if self.rng.u8(..3) == 0 {
            self.link(at);
        } else {
            self.say(|| format!("{node}: linked again, as it was"));
            self.back_in_service(at);
            self.nodes[at].linked = true;
            if self.rng.bool() {
                self.nodes[at].watch(usize::MAX, 0);
            }
        }
        let most = self.rng.usize(..24);
        for _ in 0..most {
            self.nodes[at].step(&mut self.rng);
        }
        self.advance(SignedDuration::from_secs(1));
        self.processes[0].catch_up();
        self.burst(0);
    }

    /// A node is deleted and registers anew, while whoever removes what nobody will finish looks at an old cache.
    pub(super) fn node_made_anew(&mut self, at: usize) {
        let node = self.nodes[at].node.clone();
        self.cut(at);
        {
            let mut server = lock(&self.server);
            server.say(|| format!("person: delete node {node}"));
            let _ = server.delete("Node", &node, &DeleteParams::default());
        }
        let garbage = self.processes.iter().position(|p| p.actor == Actor::PodGarbage).unwrap_or(0);
        self.processes[garbage].catch_up();
        self.burst(garbage);
        if self.rng.bool() {
            return self.late_garbage(garbage, &node);
        }
        self.link(at);
        self.nodes[at].watch(usize::MAX, 0);
        for _ in 0..BURST {
            if !self.nodes[at].step(&mut self.rng) {
                break;
            }
        }
        for _ in 0..12 {
            self.advance(SignedDuration::from_secs(TURN));
            self.burst(garbage);
        }
    }

    /// A lost node is declared out of service, and is taken back into service before whoever removes its pods has acted.
    pub(super) fn out_of_service_and_back(&mut self, at: usize) {
        let node = self.nodes[at].node.clone();
        self.cut(at);
        self.long_wait();
        out_of_service(&mut lock(&self.server), &node);
        let garbage = self.processes.iter().position(|p| p.actor == Actor::PodGarbage).unwrap_or(0);
        self.processes[garbage].catch_up();
        self.link(at);
        self.nodes[at].watch(usize::MAX, 0);
        let most = self.rng.usize(..8);
        for _ in 0..most {
            self.nodes[at].step(&mut self.rng);
        }
        self.advance(SignedDuration::from_secs(1));
        self.burst(garbage);
    }

    /// What removes the pods of a lost node ends in the middle of it; what it had asked for comes when others are in place.
    pub(super) fn late_garbage(&mut self, garbage: usize, node: &str) {
        for _ in 0..12 {
            self.advance(SignedDuration::from_secs(TURN));
            while self.processes[garbage].step(&mut self.rng) {
                if lock(&self.server).is_writing(Actor::PodGarbage) && self.rng.u8(..4) == 0 {
                    self.crash(garbage, true);
                    self.others_work(node, true);
                    return lock(&self.server).deliver_late();
                }
            }
        }
    }

    /// A pod is replaced on its own node; then that node's watch begins again before that.
    pub(super) fn replaced_and_repeated(&mut self, at: usize) {
        let node = self.nodes[at].node.clone();
        let pods: Vec<Arc<Pod>> = {
            let server = lock(&self.server);
            server.all::<Pod>().filter(|p| api::pod::node_name(p) == Some(node.as_str())).cloned().collect()
        };
        let Some(pod) = self.rng.choice(&pods) else { return };
        let before = {
            let mut server = lock(&self.server);
            server.say(|| format!("person: delete {}", uid(pod)));
            let _ = server.delete("Pod", name(pod), &DeleteParams::default());
            server.log.len()
        };
        self.cordon_all_but(Some(&node));
        self.others_work("", true);
        self.cordon_all_but(None);
        self.say(|| format!("{node}: its watch begins again"));
        self.nodes[at].rewind(before);
        let portions = self.rng.usize(1..8);
        for _ in 0..portions {
            let most = self.rng.usize(1..16);
            self.nodes[at].watch(most, 0);
            self.nodes[at].step(&mut self.rng);
        }
    }

    /// While a node has no kubelet a pod is bound to it, taken away by force, and comes up elsewhere. Then a kubelet starts
    /// there whose watch begins before all that.
    pub(super) fn came_and_went(&mut self, at: usize) {
        let node = self.nodes[at].node.clone();
        let elsewhere: Vec<Arc<Pod>> = {
            let server = lock(&self.server);
            let other = |p: &&Arc<Pod>| api::pod::node_name(p).is_some_and(|n| n != node);
            server.all::<Pod>().filter(other).cloned().collect()
        };
        let Some(pod) = self.rng.choice(&elsewhere).filter(|_| self.nodes[at].linked) else { return };
        self.say(|| format!("{node}: kubelet ends"));
        self.nodes[at].crash(&mut self.rng);
        let before = {
            let mut server = lock(&self.server);
            server.say(|| format!("person: delete {}", uid(pod)));
            let _ = server.delete("Pod", name(pod), &DeleteParams::default());
            server.log.len()
        };
        self.cordon(|other| other != node);
        self.others_work(&node, true);
        {
            let mut server = lock(&self.server);
            let new = server.get::<Pod>(name(pod)).map(|p| uid(p).to_owned());
            if let Some(new) = new.filter(|new| new != uid(pod)) {
                server.say(|| format!("person: delete {new} --force"));
                server.oracle.released.insert(new);
                let force = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                let _ = server.delete("Pod", name(pod), &force);
            }
        }
        self.cordon(|other| other == node);
        self.others_work(&node, true);
        self.cordon_all_but(None);
        self.up(at);
        let stale = lock(&self.server).log.len() - before;
        self.nodes[at].watch(usize::MAX, stale);
        self.nodes[at].step(&mut self.rng);
        let portions = self.rng.usize(1..60);
        for _ in 0..portions {
            let (events, steps) = (self.rng.usize(1..6), self.rng.usize(..8));
            self.nodes[at].watch(events, 0);
            for _ in 0..steps {
                self.nodes[at].step(&mut self.rng);
            }
        }
    }

    /// A process ends when it has just sent something. Its successor does the same work, and more; then that arrives.
    pub(super) fn late_twin(&mut self) {
        if self.rng.bool() {
            let image = self.rng.choice(["v0", "v1", "v2"]).unwrap();
            update(&mut lock(&self.server), image);
        } else {
            self.person();
        }
        let at = if self.rng.bool() { 0 } else { self.rng.usize(..self.processes.len()) };
        let actor = self.processes[at].actor;
        self.processes[at].catch_up();
        for _ in 0..60 {
            if lock(&self.server).is_writing(actor) && self.rng.u8(..3) == 0 {
                break;
            }
            if !self.processes[at].step(&mut self.rng) {
                return;
            }
        }
        self.crash(at, true);
        let only = self.rng.choice(NODES).unwrap();
        let cordon = actor == Actor::Scheduler;
        if cordon {
            self.cordon_all_but(Some(only));
        }
        self.others_work("", true);
        if cordon {
            self.cordon_all_but(None);
        }
        lock(&self.server).deliver_late();
    }

    pub(super) fn cordon_all_but(&mut self, only: Option<&str>) {
        self.cordon(|node| only.is_some_and(|only| only != node));
    }

    fn cordon(&mut self, closed: impl Fn(&str) -> bool) {
        for node in NODES {
            let closed = closed(node);
            let change = |n: &mut Node| n.spec.get_or_insert_default().unschedulable = Some(closed);
            lock(&self.server).change::<Node>(node, change);
        }
    }

    /// The volume controllers start with an old list of claims and a new one of volumes.
    pub(super) fn stale_claims(&mut self) {
        let at = self.processes.iter().position(|p| p.actor == Actor::Volumes).unwrap_or(0);
        self.crash(at, false);
        let stale = self.rng.usize(..120);
        self.processes[at].begin_with("PersistentVolumeClaim", stale);
        self.burst(at);
    }
}
