//! Matching of nodes against node selectors, of taints against tolerations, of pods against affinity terms. Pure.

use super::cache::{Cache, NodeInfo, PodInfo};
use crate::context::namespace;
use api::selector::Selector;
use k8s_openapi::{
    api::core::v1::{
        NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, Taint, Toleration,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use std::collections::{BTreeMap, HashSet};

/// Labels of a namespace by its name.
pub type NamespaceLabels<'a> = &'a dyn Fn(&str) -> Option<BTreeMap<String, String>>;

/// Any term suffices; a term without requirements matches nothing.
pub fn node_selector_matches(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

pub fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| requirement_matches(r, node.label(&r.key)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement_matches(r, Some(node.name())))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|v| v == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || values.first().and_then(|v| number(v));
    match (requirement.operator.as_str(), value) {
        ("In", Some(value)) => listed(value),
        ("NotIn", Some(value)) => !listed(value),
        ("NotIn" | "DoesNotExist", None) | ("Exists", Some(_)) => true,
        ("Gt", Some(value)) => number(value).zip(bound()).is_some_and(|(v, b)| v > b),
        ("Lt", Some(value)) => number(value).zip(bound()).is_some_and(|(v, b)| v < b),
        _ => false,
    }
}

/// Whether `toleration` accepts `taint`: <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |field: &Option<String>| field.as_deref().unwrap_or_default().to_owned();
    let (effect, key) = (set(&toleration.effect), set(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let value = || set(&taint.value);
    let numbers = || set(&toleration.value).parse::<i64>().ok().zip(value().parse::<i64>().ok());
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && set(&toleration.value) == value(),
        "Exists" => true,
        "Lt" => numbers().is_some_and(|(bound, v)| v < bound),
        "Gt" => numbers().is_some_and(|(bound, v)| v > bound),
        _ => false,
    }
}

pub fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// Whether `pod` is one that `term` of a pod in namespace `of` speaks about.
pub fn selects(term: &PodAffinityTerm, of: &str, pod: &Pod, labels: NamespaceLabels<'_>) -> bool {
    let ns = namespace(&pod.metadata);
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let in_scope = match &term.namespace_selector {
        None if listed.is_empty() => ns == of,
        None => listed.iter().any(|n| n == ns),
        Some(selector) => {
            listed.iter().any(|n| n == ns) || (labels(ns).is_some_and(|l| label_matches(selector, &l)))
        }
    };
    in_scope
        && Selector::from_label_selector(term.label_selector.as_ref())
            .is_ok_and(|s| s.matches_labels(pod.metadata.labels.as_ref()))
}

fn label_matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::from_label_selector(Some(selector)).is_ok_and(|s| s.matches(labels))
}

/// A part of the cluster: topology key and value, as in (`kubernetes.io/hostname`, `node-1`).
type Domain = (String, String);

/// What the affinities of a pod and of those already placed say about the nodes, computed once per pod.
#[derive(Debug, Default)]
pub struct PodAffinity {
    /// For each required term: its topology key and where matching pods are; `None` if the pod itself is the first.
    wanted: Vec<(String, Option<HashSet<String>>)>,
    /// Where the pod must not go because of its own anti-affinity.
    unwanted: HashSet<Domain>,
    /// Where pods are that keep it away.
    kept_away: HashSet<Domain>,
    /// Weight by domain, from preferred terms.
    preferred: Vec<(Domain, i64)>,
}

impl PodAffinity {
    pub fn new(pod: &PodInfo, cache: &Cache, labels: NamespaceLabels<'_>) -> Self {
        let own_namespace = namespace(&pod.pod.metadata);
        let affinity = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let (towards, away) = (
            affinity.and_then(|a| a.pod_affinity.as_ref()),
            affinity.and_then(|a| a.pod_anti_affinity.as_ref()),
        );
        let values = |term: &PodAffinityTerm| -> HashSet<String> {
            let with = cache
                .nodes
                .values()
                .filter(|node| node.pods.values().any(|p| selects(term, own_namespace, &p.pod, labels)));
            with.filter_map(|n| n.label(&term.topology_key)).map(str::to_owned).collect()
        };
        let mut this = Self::default();
        let required = towards.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        for term in required.into_iter().flatten() {
            let found = values(term);
            let first = found.is_empty() && selects(term, own_namespace, &pod.pod, labels);
            this.wanted.push((term.topology_key.clone(), (!first).then_some(found)));
        }
        for term in pod.anti_affinity() {
            this.unwanted.extend(values(term).into_iter().map(|v| (term.topology_key.clone(), v)));
        }
        for (other, node) in cache.keeping_away() {
            for term in other.anti_affinity() {
                if let Some(value) = node.label(&term.topology_key)
                    && selects(term, namespace(&other.pod.metadata), &pod.pod, labels)
                {
                    this.kept_away.insert((term.topology_key.clone(), value.to_owned()));
                }
            }
        }
        let preferred =
            |sign: i64, terms: Option<&Vec<k8s_openapi::api::core::v1::WeightedPodAffinityTerm>>| {
                let mut weights = Vec::new();
                for weighted in terms.into_iter().flatten() {
                    let (term, weight) = (&weighted.pod_affinity_term, sign * i64::from(weighted.weight));
                    weights
                        .extend(values(term).into_iter().map(|v| ((term.topology_key.clone(), v), weight)));
                }
                weights
            };
        this.preferred = preferred(
            1,
            towards.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
        );
        this.preferred.extend(preferred(
            -1,
            away.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
        ));
        this
    }

    /// Kubernetes' reason why the pod may not go to this node.
    pub fn refuses(&self, node: &NodeInfo) -> Option<&'static str> {
        let wanted = self.wanted.iter().all(|(key, values)| {
            node.label(key).is_some_and(|v| values.as_ref().is_none_or(|values| values.contains(v)))
        });
        if !wanted {
            return Some("node(s) didn't match pod affinity rules");
        }
        let within = |domains: &HashSet<Domain>| domains.iter().any(|(k, v)| node.label(k) == Some(v));
        if within(&self.unwanted) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        within(&self.kept_away).then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }

    pub fn preference(&self, node: &NodeInfo) -> i64 {
        self.preferred.iter().filter(|((k, v), _)| node.label(k) == Some(v)).map(|(_, weight)| weight).sum()
    }
}
