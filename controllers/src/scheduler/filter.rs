//! Which nodes can take a pod, and why the others cannot, in Kubernetes' words. Pure.

use super::{
    affinity::{self, PodAffinity},
    cache::{NodeInfo, PodInfo, ready},
    queue::Events,
};
use k8s_openapi::api::core::v1::{NodeSelector, Taint};
use std::{borrow::Cow, collections::BTreeMap};

type Reason = Cow<'static, str>;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What a pod asks of its node, gathered once.
pub struct Wanted<'a> {
    pub pod: &'a PodInfo,
    /// Where its volumes can be reached: all of these must match.
    pub volumes: Vec<NodeSelector>,
    pub affinity: PodAffinity,
}

/// Why a node was refused, and what could change that.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reasons: Vec<Reason>,
    pub helped_by: Events,
}

fn refuse(reason: &'static str, helped_by: Events) -> Result<(), Refusal> {
    Err(Refusal { reasons: vec![reason.into()], helped_by })
}

/// The filters in Kubernetes' order; the first that refuses gives the reasons.
pub fn filter(wanted: &Wanted<'_>, node: &NodeInfo) -> Result<(), Refusal> {
    schedulable(wanted.pod, node)?;
    taints(wanted.pod, node)?;
    node_affinity(wanted.pod, node)?;
    ports(wanted.pod, node)?;
    resources(wanted.pod, node)?;
    if !wanted.volumes.iter().all(|s| affinity::node_selector_matches(s, node)) {
        return refuse(
            "node(s) didn't match PersistentVolume's node affinity",
            Events::NODE.and(Events::VOLUME),
        );
    }
    match wanted.affinity.refuses(node) {
        Some(reason) => refuse(reason, Events::NODE.and(Events::POD_GONE).and(Events::POD_PLACED)),
        None => Ok(()),
    }
}

fn taint(key: &str, effect: &str) -> Taint {
    Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() }
}

fn tolerated(pod: &PodInfo, taint: &Taint) -> bool {
    affinity::tolerations(&pod.pod).iter().any(|t| affinity::tolerates(t, taint))
}

fn schedulable(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let cordoned = node.node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
    if cordoned && !tolerated(pod, &taint(UNSCHEDULABLE, "NoSchedule")) {
        return refuse("node(s) were unschedulable", Events::NODE);
    }
    Ok(())
}

/// A node that is not Ready counts as tainted also before the node controller has written the taint.
fn taints(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let implied = match ready(&node.node) {
        Some("True") => None,
        Some("Unknown") => Some(taint(UNREACHABLE, "NoSchedule")),
        _ => Some(taint(NOT_READY, "NoSchedule")),
    };
    let mut keeping_out = node.taints().iter().chain(&implied).filter(|t| t.effect != "PreferNoSchedule");
    if keeping_out.all(|t| tolerated(pod, t)) {
        return Ok(());
    }
    refuse("node(s) had untolerated taint(s)", Events::NODE)
}

fn node_affinity(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let spec = pod.pod.spec.as_ref();
    let labels = spec.and_then(|s| s.node_selector.as_ref());
    let required = spec
        .and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let matches = labels.into_iter().flatten().all(|(key, value)| node.label(key) == Some(value))
        && required.is_none_or(|r| affinity::node_selector_matches(r, node));
    if matches { Ok(()) } else { refuse("node(s) didn't match Pod's node affinity/selector", Events::NODE) }
}

fn ports(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let taken = |port| node.pods.values().any(|p| p.ports.iter().any(|t| t.conflicts(port)));
    if pod.ports.iter().any(taken) {
        return refuse(
            "node(s) didn't have free ports for the requested pod ports",
            Events::NODE.and(Events::POD_GONE),
        );
    }
    Ok(())
}

fn resources(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let (wants, has, used) = (&pod.requests, &node.allocatable, &node.requested);
    let lacks = |wants: i64, has: i64, used: i64| wants > 0 && wants > has - used;
    let mut reasons: Vec<Reason> = Vec::new();
    if used.pods + 1 > has.pods {
        reasons.push("Too many pods".into());
    }
    for (reason, wants, has, used) in [
        ("Insufficient cpu", wants.milli_cpu, has.milli_cpu, used.milli_cpu),
        ("Insufficient memory", wants.memory, has.memory, used.memory),
        (
            "Insufficient ephemeral-storage",
            wants.ephemeral_storage,
            has.ephemeral_storage,
            used.ephemeral_storage,
        ),
    ] {
        if lacks(wants, has, used) {
            reasons.push(reason.into());
        }
    }
    let amount = |of: &BTreeMap<String, i64>, name: &String| of.get(name).copied().unwrap_or(0);
    for (name, wants) in &wants.extended {
        if lacks(*wants, amount(&has.extended, name), amount(&used.extended, name)) {
            reasons.push(format!("Insufficient {name}").into());
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Refusal { reasons, helped_by: Events::NODE.and(Events::POD_GONE) })
}

/// The one sentence that people see: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
pub fn message<'a>(nodes: usize, refusals: impl IntoIterator<Item = &'a Refusal>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in refusals.into_iter().flat_map(|r| &r.reasons) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

/// When no node was looked at, because something about the pod itself is missing.
pub fn message_for_pod(nodes: usize, reason: &str) -> String {
    if nodes == 0 {
        return message(0, []);
    }
    format!("0/{nodes} nodes are available: {reason}.")
}
