//! Whether the node controller may evict a pod. It decides by its caches and its clock, as Kubernetes' does, so it is judged
//! by exactly what they showed when it looked: no later, and not by chance.

use super::{GRACE, Oracle, TOLERATION};
use crate::server::{Actor, Server, Typed};
use api::pod;
use client::stage::{Call, Verb};
use controllers::node_lifecycle::monitor;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

/// What the node controller knew when it asked for something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// So many events.
    events: usize,
    at: Timestamp,
}

impl Oracle {
    /// A request is sent. It rests on what is known now, or on what was known when the first of a pair was sent: an eviction
    /// marks the pod, then deletes it as it was marked.
    pub(crate) fn asked(&mut self, actor: Actor, call: &Call, now: Timestamp) -> Vec<Look> {
        if actor != Actor::Nodes || call.kind != "Pod" {
            return Vec::new();
        }
        let look = Look { events: self.nodes_seen, at: now };
        match &call.verb {
            Verb::PatchStatus(patch) if is_marking(patch) => {
                self.evicting.insert(call.name.clone(), look);
                Vec::new()
            }
            Verb::Delete(_) => self.evicting.remove(&call.name).into_iter().chain([look]).collect(),
            _ => Vec::new(),
        }
    }

    /// The node controller starts: it has seen nothing and is about nothing.
    pub(crate) fn nodes_anew(&mut self) {
        self.nodes_seen = 0;
        self.evicting.clear();
    }

    pub(crate) fn beat(&mut self, node: &str, now: Timestamp) {
        let beats = self.beats.entry(node.to_owned()).or_default();
        if beats.last() != Some(&now) {
            beats.push(now);
        }
    }
}

fn is_marking(patch: &serde_json::Value) -> bool {
    let all = patch["status"]["conditions"].as_array();
    all.is_some_and(|all| all.iter().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True"))
}

fn is_lost(taint: &&Taint) -> bool {
    [monitor::UNREACHABLE, monitor::NOT_READY].contains(&taint.key.as_str())
}

/// What is wrong with deleting the pod: it is right if one of the looks says so.
pub(super) fn wrong(server: &Server, victim: &str, looks: &[Look]) -> Option<String> {
    let pod = server.get::<Pod>(victim)?;
    if pod::is_terminating(pod) {
        return None;
    }
    let mut wrong = None;
    for look in looks {
        wrong = Some(judged(server, pod, *look)?);
    }
    wrong
}

fn judged(server: &Server, pod: &Pod, look: Look) -> Option<String> {
    let (victim, name) = (super::name(pod), pod::node_name(pod)?);
    let seen = server.log[..look.events].iter().rev();
    let node = seen.filter_map(|e| Some((e.deleted, Node::of(&e.object)?)));
    let Some((false, node)) = node.into_iter().find(|(_, n)| n.metadata.name.as_deref() == Some(name)) else {
        return Some(format!("{victim} evicted from {name}, which was not there"));
    };
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let evicting = || taints.iter().filter(|t| t.effect == "NoExecute");
    if evicting().any(|t| !is_lost(&t)) {
        return None; // A person's, which the pod does not tolerate.
    }
    let since = evicting().filter_map(|t| t.time_added.as_ref()).map(|t| t.0).min();
    let Some(since) =
        since.max(pod.metadata.creation_timestamp.as_ref().map(|t| t.0)).filter(|_| since.is_some())
    else {
        return Some(format!("{victim} evicted from {name}, which was not lost"));
    };
    if look.at.duration_since(since) < SignedDuration::from_secs(TOLERATION) {
        return Some(format!("{victim} evicted from {name} before its toleration ran out: {taints:?}"));
    }
    // A node that says itself that it is not ready is another matter.
    let unreachable = evicting().find(|t| t.key == monitor::UNREACHABLE)?.time_added.as_ref()?.0;
    let last = |beats: &Vec<Timestamp>| beats.iter().rev().find(|beat| **beat <= unreachable).copied();
    let silent = |beat: Timestamp| unreachable.duration_since(beat) > SignedDuration::from_secs(GRACE + 5);
    // Of all nodes there ever were: one that has been deleted since may have been heard of then.
    if server.oracle.beats.values().filter_map(last).all(silent) {
        return Some(format!("{victim} evicted although no node was heard of"));
    }
    None
}
