//! Which nodes are heard of, and what a node's conditions and taints should say. Pure: beats and times come in.
//!
//! A node is heard of when its lease is renewed or its kubelet writes its status. What counts is when *we* saw that,
//! by our own clock: clocks of nodes may differ, and after a restart every node gets a whole grace period.
//!
//! If no node at all is heard of, it is more likely that we are the ones who were away (a laptop that slept, a server
//! that was stopped): then nobody is evicted, and when the first node comes back all get a grace period anew. Whoever
//! notices that it was asleep waits for the first beat before it gives any node up.

use api::conditions;
use client::Guard;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{collections::BTreeMap, time::Duration};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that keep new pods away: condition, its bad status, taint.
const PRESSURE: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The conditions that only a kubelet can know, and nobody knows when it is silent.
const KUBELET_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// A node that never reported gets longer: its kubelet may just be starting (Kubernetes' figure).
pub const STARTUP_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// How much later than planned a run may come before we take it that we were asleep, and that beats were missed. More
/// than a busy machine delays a timer.
const OVERSLEPT: SignedDuration = SignedDuration::from_secs(5);

/// What is remembered of the nodes between runs.
#[derive(Debug)]
pub struct Monitor {
    grace: SignedDuration,
    heard: BTreeMap<String, Timestamp>,
    /// When the next run was to come.
    planned: Option<Timestamp>,
    /// No node was heard of at the last run.
    all_silent: bool,
    /// Some node was heard of since all periods began (anew).
    anyone_heard: bool,
    /// Nobody is evicted for a taint that was there before this plus the pod's toleration.
    evict_from: Timestamp,
    /// When each node's `NoExecute` taints were first seen: people add them without a time.
    taints: BTreeMap<String, Vec<(Taint, Timestamp)>>,
}

/// What the monitor says about the nodes at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Nodes not heard of for too long.
    pub silent: Vec<String>,
    /// None is heard of (yet), or none is Ready: nobody is evicted.
    pub hold_evictions: bool,
    /// When to judge again, if nothing is heard.
    pub next: Option<Duration>,
}

impl Monitor {
    pub fn new(grace: Duration, now: Timestamp) -> Self {
        let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::from_secs(40));
        Self {
            grace,
            heard: BTreeMap::new(),
            planned: None,
            all_silent: false,
            anyone_heard: false,
            evict_from: now,
            taints: BTreeMap::new(),
        }
    }

    /// Gives whether it is the first since all periods began (anew): a reason to judge again.
    pub fn heard(&mut self, node: &str, now: Timestamp) -> bool {
        self.heard.insert(node.to_owned(), now);
        !std::mem::replace(&mut self.anyone_heard, true)
    }

    pub fn forget(&mut self, node: &str) {
        self.heard.remove(node);
        self.taints.remove(node);
    }

    /// Notes which taints a node has now.
    pub fn see_taints(&mut self, node: &Node, now: Timestamp) {
        let has = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let known = self.taints.entry(name(node).to_owned()).or_default();
        known.retain(|(taint, _)| has.contains(taint));
        for taint in has.iter().filter(|t| t.effect == "NoExecute") {
            if !known.iter().any(|(k, _)| k == taint) {
                known.push((taint.clone(), now));
            }
        }
    }

    /// Since when a pod's toleration of a taint counts: from when the taint was added, or from when it was first seen
    /// if it does not say, but not from before `evict_from`.
    pub fn tainted_since(&self, node: &str, taint: &Taint, now: Timestamp) -> Timestamp {
        let seen = || self.taints.get(node)?.iter().find(|(t, _)| t == taint).map(|(_, at)| *at);
        let since = taint.time_added.as_ref().map(|t| t.0).or_else(seen).unwrap_or(now);
        since.max(self.evict_from)
    }

    pub fn judge(&mut self, nodes: &[&Node], now: Timestamp) -> Verdict {
        if self.planned.is_some_and(|planned| now.duration_since(planned) > OVERSLEPT) {
            self.start_anew(now);
        }
        for node in nodes {
            self.heard.entry(name(node).to_owned()).or_insert(now);
        }
        let left = |node: &Node| {
            let grace = if ready(node).is_some() { self.grace } else { self.grace.max(STARTUP_GRACE) };
            let since = self.heard.get(name(node)).copied().unwrap_or(now);
            grace - now.duration_since(since)
        };
        let silent: Vec<String> =
            nodes.iter().filter(|n| left(n) < SignedDuration::ZERO).map(|n| name(n).to_owned()).collect();
        let next = nodes.iter().map(|n| left(n)).filter(|l| *l >= SignedDuration::ZERO).min();
        let all_silent = !nodes.is_empty() && silent.len() == nodes.len();
        if self.all_silent && !all_silent {
            // The first is back: the others may be on their way. Their conditions stay until they are heard.
            self.start_anew(now);
            self.anyone_heard = true;
        }
        self.all_silent = all_silent;
        let none_ready = !nodes.is_empty()
            && nodes.iter().all(|n| ready(n) != Some("True") || silent.contains(&name(n).to_owned()));
        // A little late rather than a little early, which would only mean another run.
        let next = next.map(|left| Duration::try_from(left).unwrap_or_default() + Duration::from_millis(100));
        self.planned = next.and_then(|next| now.checked_add(next).ok());
        let hold_evictions = (all_silent || none_ready || !self.anyone_heard) && Guard::AllSilent.holds();
        Verdict { silent, hold_evictions, next }
    }

    fn start_anew(&mut self, now: Timestamp) {
        self.heard.values_mut().for_each(|heard| *heard = now);
        self.anyone_heard = false;
        self.evict_from = now;
    }
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

fn node_conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// The status of condition Ready; none if the kubelet never reported.
pub fn ready(node: &Node) -> Option<&str> {
    conditions::find(node_conditions(node), "Ready").map(|c| c.status.as_str())
}

/// When the kubelet last wrote the node's status.
pub fn status_beat(node: &Node) -> Option<Timestamp> {
    conditions::find(node_conditions(node), "Ready")?.last_heartbeat_time.as_ref().map(|t| t.0)
}

/// The conditions of a silent node, if they do not say so yet.
pub fn silent_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut all = node_conditions(node).to_vec();
    let mut changed = false;
    for type_ in KUBELET_CONDITIONS {
        let (reason, message, beat) = match conditions::find(&all, type_) {
            Some(known) if known.status == "Unknown" => continue,
            Some(known) => (
                "NodeStatusUnknown",
                "Kubelet stopped posting node status.",
                known.last_heartbeat_time.clone(),
            ),
            None => {
                let created = node.metadata.creation_timestamp.clone();
                ("NodeStatusNeverUpdated", "Kubelet never posted node status.", created)
            }
        };
        let unknown = NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: beat,
            last_transition_time: None,
        };
        changed |= conditions::set(&mut all, unknown, now);
    }
    changed.then_some(all)
}

/// The taints a node should have for its conditions, if they differ from those it has. Other people's taints stay.
pub fn taints(node: &Node, hold_evictions: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let has = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let lost = match ready(node) {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    if let Some(key) = lost {
        wanted.push((key, "NoSchedule"));
        if !hold_evictions {
            wanted.push((key, "NoExecute"));
        }
    }
    for (condition, key) in PRESSURE {
        if conditions::is_true(node_conditions(node), condition) {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let of = |taint: &Taint| (taint.key.clone(), taint.effect.clone());
    let is_ours = |taint: &Taint| {
        let key = taint.key.as_str();
        let by_condition = PRESSURE.iter().any(|(_, k)| *k == key) || key == UNSCHEDULABLE;
        (by_condition && taint.effect == "NoSchedule") || key == NOT_READY || key == UNREACHABLE
    };
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut new: Vec<Taint> = has.iter().filter(|t| !is_ours(t) || is_wanted(t)).cloned().collect();
    for (key, effect) in &wanted {
        if !new.iter().any(|t| t.key == *key && t.effect == *effect) {
            let added = Some(Time(now));
            new.push(Taint { key: (*key).into(), effect: (*effect).into(), value: None, time_added: added });
        }
    }
    (new.iter().map(of).ne(has.iter().map(of))).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn node(name: &str, ready: Option<&str>) -> Node {
        let conditions: Vec<_> = ready.iter().map(|r| json!({"type": "Ready", "status": r})).collect();
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": conditions}}))
            .unwrap()
    }

    fn monitor() -> Monitor {
        Monitor::new(Duration::from_secs(40), at(0))
    }

    #[test]
    fn a_node_is_silent_after_the_grace_period() {
        let (a, b) = (node("a", Some("True")), node("b", Some("True")));
        let mut monitor = monitor();
        assert_eq!(monitor.judge(&[&a, &b], at(0)).silent, Vec::<String>::new());
        monitor.heard("a", at(30));
        assert_eq!(monitor.judge(&[&a, &b], at(40)).silent, Vec::<String>::new());
        let verdict = monitor.judge(&[&a, &b], at(41));
        assert_eq!((verdict.silent, verdict.hold_evictions), (vec!["b".to_owned()], false));
        assert_eq!(verdict.next, Some(Duration::from_millis(29_100)), "when a would be silent");
        monitor.heard("b", at(45));
        assert_eq!(monitor.judge(&[&a, &b], at(46)).silent, Vec::<String>::new());
    }

    #[test]
    fn a_node_that_never_reported_gets_longer() {
        let (new, old) = (node("new", None), node("old", Some("True")));
        let mut monitor = monitor();
        monitor.judge(&[&new, &old], at(0));
        monitor.heard("old", at(30));
        assert!(monitor.judge(&[&new, &old], at(41)).silent.is_empty());
        assert_eq!(monitor.judge(&[&new, &old], at(61)).silent, ["new"]);
    }

    #[test]
    fn if_all_are_silent_nobody_is_evicted() {
        let (a, b) = (node("a", Some("True")), node("b", Some("True")));
        let mut monitor = monitor();
        monitor.judge(&[&a, &b], at(0));
        let verdict = monitor.judge(&[&a, &b], at(41));
        assert_eq!((verdict.silent.len(), verdict.hold_evictions), (2, true));
        // One is back: evictions may go on, but every toleration starts from here.
        monitor.heard("a", at(100));
        let verdict = monitor.judge(&[&a, &b], at(101));
        assert_eq!((verdict.silent, verdict.hold_evictions), (vec!["b".to_owned()], false));
        assert_eq!(monitor.evict_from, at(101));
    }

    #[test]
    fn whoever_overslept_judges_nobody() {
        let (a, b) = (node("a", Some("True")), node("b", Some("True")));
        let mut monitor = monitor();
        monitor.judge(&[&a, &b], at(0));
        let verdict = monitor.judge(&[&a, &b], at(3600));
        assert!(verdict.silent.is_empty());
        assert_eq!(monitor.evict_from, at(3600));
        assert_eq!(monitor.judge(&[&a, &b], at(3641)).silent.len(), 2, "but once they had their chance");
    }

    #[test]
    fn whoever_overslept_evicts_nobody_before_the_first_beat() {
        let (lost, well) = (node("a", Some("Unknown")), node("b", Some("True")));
        let mut monitor = monitor();
        assert!(monitor.heard("b", at(0)), "the first");
        assert!(!monitor.heard("b", at(5)));
        assert!(!monitor.judge(&[&lost, &well], at(5)).hold_evictions);
        let verdict = monitor.judge(&[&lost, &well], at(3600));
        assert!(verdict.hold_evictions, "b may be as silent as a: nobody has listened");
        assert!(monitor.judge(&[&lost, &well], at(3604)).hold_evictions);
        assert!(monitor.heard("b", at(3605)), "the first again, so that a's evictions go on");
        assert!(!monitor.judge(&[&lost, &well], at(3605)).hold_evictions);
    }

    #[test]
    fn the_only_node_is_never_evicted_from() {
        let lost = node("a", Some("Unknown"));
        let verdict = monitor().judge(&[&lost], at(0));
        assert!(verdict.hold_evictions);
    }

    #[test]
    fn taints_count_from_when_they_were_added_or_seen() {
        let mut monitor = Monitor::new(Duration::from_secs(40), at(10));
        let tainted = |taints: serde_json::Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"taints": taints}})).unwrap()
        };
        let by_hand = tainted(json!([{"key": "k", "effect": "NoExecute"}]));
        let taint = by_hand.spec.as_ref().unwrap().taints.as_ref().unwrap()[0].clone();
        assert_eq!(monitor.tainted_since("a", &taint, at(50)), at(50));
        monitor.see_taints(&by_hand, at(60));
        monitor.see_taints(&by_hand, at(70));
        assert_eq!(monitor.tainted_since("a", &taint, at(80)), at(60));
        monitor.see_taints(&tainted(json!([])), at(90));
        monitor.see_taints(&by_hand, at(100));
        assert_eq!(monitor.tainted_since("a", &taint, at(110)), at(100), "it was gone in between");
        let dated = |added| Taint { time_added: Some(Time(at(added))), ..taint.clone() };
        assert_eq!(monitor.tainted_since("a", &dated(30), at(110)), at(30));
        assert_eq!(monitor.tainted_since("a", &dated(5), at(110)), at(10), "before we watched");
    }

    #[test]
    fn conditions_of_a_silent_node() {
        let mut known = node("a", Some("True"));
        let all = silent_conditions(&known, at(5)).unwrap();
        let ready = conditions::find(&all, "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
        assert_eq!(ready.last_transition_time, Some(Time(at(5))));
        let memory = conditions::find(&all, "MemoryPressure").unwrap();
        assert_eq!(memory.reason.as_deref(), Some("NodeStatusNeverUpdated"));
        known.status.as_mut().unwrap().conditions = Some(all);
        assert_eq!(silent_conditions(&known, at(9)), None, "said once");
    }

    #[test]
    fn taints_follow_conditions() {
        let keys = |node: &Node, hold: bool| -> Option<String> {
            let taints = taints(node, hold, at(5))?;
            Some(
                taints
                    .iter()
                    .map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap(), t.effect))
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        };
        assert_eq!(keys(&node("a", Some("True")), false), None);
        assert_eq!(
            keys(&node("a", Some("Unknown")), false).unwrap(),
            "unreachable:NoSchedule unreachable:NoExecute"
        );
        assert_eq!(keys(&node("a", Some("Unknown")), true).unwrap(), "unreachable:NoSchedule");
        assert_eq!(
            keys(&node("a", Some("False")), false).unwrap(),
            "not-ready:NoSchedule not-ready:NoExecute"
        );
        assert_eq!(keys(&node("a", None), false).unwrap(), "not-ready:NoSchedule not-ready:NoExecute");
        let mut node = node("a", Some("True"));
        node.spec = Some(
            serde_json::from_value(json!({"unschedulable": true, "taints": [
            {"key": "mine", "effect": "NoExecute"},
            {"key": UNREACHABLE, "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"}]}))
            .unwrap(),
        );
        assert_eq!(keys(&node, false).unwrap(), "mine:NoExecute unschedulable:NoSchedule");
    }
}
