//! Which of the nodes that can take a pod is best. Pure, and the same for the same cluster.
//!
//! Weights follow Kubernetes' default plugins: room (1), balance of room (1), spreading (2), preferred node affinity
//! (2), preferred pod affinity (2), taints that are only preferences (3).

use super::{
    affinity::{self, PodAffinity},
    cache::{NodeInfo, PodInfo},
};

/// Pods that ask for nothing count as this much, or a node could take any number of them.
const LEAST_MILLI_CPU: i64 = 100;
const LEAST_MEMORY: i64 = 200 << 20;

/// What one node is worth, before it is compared with the others.
struct Raw {
    room: i64,
    balance: i64,
    siblings: i64,
    node_affinity: i64,
    pod_affinity: i64,
    soft_taints: i64,
}

/// The best node: the highest score, then the fewest pods, then the name.
pub fn best<'a>(pod: &PodInfo, pods: &PodAffinity, nodes: &[&'a NodeInfo]) -> Option<&'a NodeInfo> {
    if let [only] = nodes {
        return Some(only);
    }
    let raw: Vec<Raw> = nodes.iter().map(|node| raw(pod, pods, node)).collect();
    let most = |of: fn(&Raw) -> i64| raw.iter().map(of).max().unwrap_or(0);
    let least = |of: fn(&Raw) -> i64| raw.iter().map(of).min().unwrap_or(0);
    // 100 for the most, in proportion for the others.
    let share = |value: i64, most: i64| if most > 0 { value * 100 / most } else { 0 };
    let siblings = most(|r| r.siblings);
    let soft_taints = most(|r| r.soft_taints);
    let node_affinity = most(|r| r.node_affinity);
    let (low, high) = (least(|r| r.pod_affinity), most(|r| r.pod_affinity));
    let score = |r: &Raw| {
        r.room
            + r.balance
            + 2 * (100 - share(r.siblings, siblings))
            + 2 * share(r.node_affinity, node_affinity)
            + 2 * share(r.pod_affinity - low, high - low)
            + 3 * (100 - share(r.soft_taints, soft_taints))
    };
    let key = |(node, raw): &(&&'a NodeInfo, &Raw)| {
        (score(raw), std::cmp::Reverse(node.requested.pods), std::cmp::Reverse(node.name().to_owned()))
    };
    nodes.iter().zip(&raw).max_by_key(key).map(|(node, _)| *node)
}

fn raw(pod: &PodInfo, pods: &PodAffinity, node: &NodeInfo) -> Raw {
    let used =
        |pod: &PodInfo| (pod.requests.milli_cpu.max(LEAST_MILLI_CPU), pod.requests.memory.max(LEAST_MEMORY));
    let (mut cpu, mut memory) = used(pod);
    for (c, m) in node.pods.values().map(|p| used(p)) {
        cpu += c;
        memory += m;
    }
    let percent = |used: i64, of: i64| if of > 0 { (used * 100 / of).min(100) } else { 100 };
    let (cpu, memory) =
        (percent(cpu, node.allocatable.milli_cpu), percent(memory / 1024, node.allocatable.memory / 1024));
    let of_owner = |p: &PodInfo| p.owner.is_some() && p.owner == pod.owner;
    let siblings = node.pods.values().filter(|p| of_owner(p)).count();
    let preferred = pod
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    let tolerations = affinity::tolerations(&pod.pod);
    let soft = node.taints().iter().filter(|t| t.effect == "PreferNoSchedule");
    Raw {
        room: 100 - (cpu + memory) / 2,
        balance: 100 - (cpu - memory).abs(),
        siblings: i64::try_from(siblings).unwrap_or(i64::MAX),
        node_affinity: preferred
            .iter()
            .filter(|p| affinity::term_matches(&p.preference, node))
            .map(|p| i64::from(p.weight))
            .sum(),
        pod_affinity: pods.preference(node),
        soft_taints: soft
            .filter(|t| !tolerations.iter().any(|o| affinity::tolerates(o, t)))
            .count()
            .try_into()
            .unwrap_or(0),
    }
}
