//! What objects use of their namespace's quotas: the arithmetic that admission (which refuses) and the controller
//! (which counts anew) have in common.
//!
//! A quota counts under names: `pods`, `requests.cpu`, `gold.storageclass.storage.k8s.io/requests.storage`,
//! `count/deployments.apps`. Each sort of object has names of its own, and may use some of each.

use crate::{
    pod::{self, Resources},
    quantity::{self, Quantity},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Affinity, Container, PersistentVolumeClaim, Pod, PodAffinityTerm, ResourceQuotaSpec, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use std::collections::{BTreeMap, BTreeSet};

const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// What a pod uses beside extended resources and huge pages.
const OF_PODS: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// Where a quota names one of these, every container of a pod has to say how much.
const DEMANDED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const OF_SERVICES: [&str; 4] = ["count/services", "services", "services.nodeports", "services.loadbalancers"];
const OF_CLAIMS: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
/// Kinds of the core group that can be counted by their bare name.
const BARE: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// Something that quotas count.
#[derive(Debug, Clone, Copy)]
pub enum Counted<'a> {
    Pod(&'a Pod),
    Service(&'a Service),
    Claim(&'a PersistentVolumeClaim),
    /// Anything else: only its existence counts.
    Other {
        group: &'a str,
        plural: &'a str,
    },
}

/// `count/deployments.apps`, `count/secrets`.
pub fn object_count(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// The (group, plural) behind `count/…` or a bare name.
pub fn counted_kind(name: &str) -> Option<(&str, &str)> {
    if BARE.contains(&name) {
        return Some(("", name));
    }
    let kind = name.strip_prefix("count/")?;
    let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
    Some((group, plural))
}

impl Counted<'_> {
    /// Whether a quota that names `resource` may concern objects of this sort.
    pub fn is_counted_as(&self, resource: &str) -> bool {
        match self {
            Self::Pod(_) => {
                OF_PODS.contains(&resource)
                    || resource.starts_with("hugepages-")
                    || resource
                        .strip_prefix("requests.")
                        .is_some_and(|r| r.starts_with("hugepages-") || is_extended(r))
            }
            Self::Service(_) => OF_SERVICES.contains(&resource),
            Self::Claim(_) => {
                resource == "count/persistentvolumeclaims"
                    || OF_CLAIMS.contains(&resource)
                    || resource.split_once(CLASS_SUFFIX).is_some_and(|(_, what)| OF_CLAIMS.contains(&what))
            }
            Self::Other { group, plural } => counted_kind(resource) == Some((*group, *plural)),
        }
    }

    /// How much the object uses, under every name that it could be counted by.
    pub fn usage(&self, now: Timestamp) -> Resources {
        match self {
            Self::Pod(pod) => of_pod(pod, now),
            Self::Service(service) => of_service(service),
            Self::Claim(claim) => of_claim(claim),
            Self::Other { group, plural } => {
                let mut usage = one(&object_count(group, plural));
                if group.is_empty() && BARE.contains(plural) {
                    usage.append(&mut one(plural));
                }
                usage
            }
        }
    }

    /// Whether the object is within all scopes of the quota. Only pods and claims are ever within one.
    pub fn is_in_scopes_of(&self, quota: &ResourceQuotaSpec) -> bool {
        let simple = quota.scopes.iter().flatten().all(|scope| self.is_in(scope, "Exists", &[]));
        let mut selected = quota.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten());
        simple
            && selected.all(|term| {
                self.is_in(&term.scope_name, &term.operator, term.values.as_deref().unwrap_or_default())
            })
    }

    fn is_in(&self, scope: &str, operator: &str, values: &[String]) -> bool {
        match self {
            Self::Pod(pod) => {
                let Some(spec) = &pod.spec else { return false };
                match scope {
                    "Terminating" => is_bounded(pod),
                    "NotTerminating" => !is_bounded(pod),
                    "BestEffort" => pod::qos_class(spec) == "BestEffort",
                    "NotBestEffort" => pod::qos_class(spec) != "BestEffort",
                    "PriorityClass" => selects(operator, values, spec.priority_class_name.as_deref()),
                    "CrossNamespacePodAffinity" => spec.affinity.as_ref().is_some_and(looks_abroad),
                    _ => false,
                }
            }
            Self::Claim(claim) if scope == "VolumeAttributesClass" => {
                let class = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
                selects(operator, values, class)
            }
            _ => false,
        }
    }

    /// Why a pod may not be made under a quota of these resources: containers that do not say how much they need.
    pub fn undemanded<'n>(&self, hard: impl Iterator<Item = &'n str>) -> Option<String> {
        let Self::Pod(pod) = self else { return None };
        let spec = pod.spec.as_ref()?;
        if spec.resources.as_ref().is_some_and(|r| r.requests.is_some() || r.limits.is_some()) {
            return None;
        }
        let demanded: Vec<&str> = hard.filter(|name| DEMANDED.contains(name)).collect();
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            for &name in demanded.iter().filter(|name| !says(container, name)) {
                missing.entry(name).or_default().insert(&container.name);
            }
        }
        if missing.is_empty() {
            return None;
        }
        let list = missing.into_iter().map(|(name, containers)| {
            format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
        });
        Some(format!("must specify {}", list.collect::<Vec<_>>().join("; ")))
    }
}

/// A pod with a deadline: scope `Terminating`, whether or not it is being deleted.
pub fn is_bounded(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).is_some_and(|s| s >= 0)
}

fn says(container: &Container, name: &str) -> bool {
    let Some(resources) = &container.resources else { return false };
    let (list, name) = match name.split_once('.') {
        Some(("limits", name)) => (&resources.limits, name),
        Some((_, name)) => (&resources.requests, name),
        None => (&resources.requests, name),
    };
    list.as_ref().is_some_and(|l| l.contains_key(name))
}

fn selects(operator: &str, values: &[String], class: Option<&str>) -> bool {
    let class = class.filter(|c| !c.is_empty());
    let listed = class.is_some_and(|c| values.iter().any(|v| v == c));
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "DoesNotExist" => class.is_none(),
        _ => class.is_some(),
    }
}

/// Whether it asks for pods of other namespaces, or not.
fn looks_abroad(affinity: &Affinity) -> bool {
    let abroad = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || term.namespace_selector.is_some()
    };
    let near = affinity.pod_affinity.as_ref();
    let far = affinity.pod_anti_affinity.as_ref();
    let required = [
        near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
        far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let preferred = [
        near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
        far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
    ];
    required.into_iter().flatten().flatten().any(abroad)
        || preferred.into_iter().flatten().flatten().any(|t| abroad(&t.pod_affinity_term))
}

fn one(name: &str) -> Resources {
    Resources::from([(name.to_owned(), Quantity::from_units(1))])
}

/// Neither a domain-less name nor one of Kubernetes' own: `example.com/dongle`.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| {
        domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io")
            || domain == "deviceclass.resource.kubernetes.io"
    })
}

fn of_pod(pod: &Pod, now: Timestamp) -> Resources {
    let mut usage = one("count/pods");
    if !uses_resources(pod, now) {
        return usage;
    }
    usage.append(&mut one("pods"));
    for (name, amount) in pod::requests_of(pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount);
        } else if !is_extended(&name) {
            continue;
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod::limits_of(pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
    usage
}

/// A pod that has ended, or should have long since, uses nothing but its place in the store.
fn uses_resources(pod: &Pod, now: Timestamp) -> bool {
    let marked = pod.metadata.deletion_timestamp.as_ref().map(|t| t.0);
    let overdue = marked.zip(pod.metadata.deletion_grace_period_seconds).is_some_and(|(at, grace)| {
        at.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end)
    });
    !pod::is_terminal(pod) && !overdue
}

fn of_service(service: &Service) -> Resources {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let count = |n: usize| Quantity::from_units(i64::try_from(n).unwrap_or(i64::MAX));
    let (node_ports, balancers) = match spec.and_then(|s| s.type_.as_deref()) {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec.is_some_and(|s| s.allocate_load_balancer_node_ports == Some(false)) => {
            (ports.iter().filter(|p| p.node_port.is_some_and(|n| n != 0)).count(), 1)
        }
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let mut usage = one("services");
    usage.append(&mut one("count/services"));
    usage.insert("services.nodeports".to_owned(), count(node_ports));
    usage.insert("services.loadbalancers".to_owned(), count(balancers));
    usage
}

fn of_claim(claim: &PersistentVolumeClaim) -> Resources {
    let mut usage = one("persistentvolumeclaims");
    usage.append(&mut one("count/persistentvolumeclaims"));
    let spec = claim.spec.as_ref();
    let annotated = claim.metadata.annotations.as_ref().and_then(|a| a.get(OLD_CLASS)).map(String::as_str);
    let class = annotated.or(spec.and_then(|s| s.storage_class_name.as_deref())).filter(|c| !c.is_empty());
    let storage = |list: Option<&BTreeMap<String, Text>>| {
        // Whole bytes.
        list.and_then(|l| l.get("storage")).map(|text| {
            let amount = quantity::of(Some(text));
            if amount.is_integer() { amount } else { Quantity::from_units(amount.value()) }
        })
    };
    let asked = storage(spec.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref()));
    let given = storage(claim.status.as_ref().and_then(|s| s.allocated_resources.as_ref()));
    let size = asked.map(|asked| given.filter(|given| *given > asked).unwrap_or(asked));
    if let Some(class) = class {
        usage.append(&mut one(&format!("{class}{CLASS_SUFFIX}persistentvolumeclaims")));
        if let Some(size) = size {
            usage.insert(format!("{class}{CLASS_SUFFIX}requests.storage"), size);
        }
    }
    if let Some(size) = size {
        usage.insert("requests.storage".to_owned(), size);
    }
    usage
}

/// The amounts of a quota's `hard` or `used`.
pub fn amounts(list: Option<&BTreeMap<String, Text>>) -> Resources {
    list.into_iter().flatten().map(|(name, text)| (name.clone(), quantity::of(Some(text)))).collect()
}

/// As the API writes them.
pub fn texts(amounts: &Resources) -> BTreeMap<String, Text> {
    amounts.iter().map(|(name, amount)| (name.clone(), Text::from(*amount))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn shown(usage: &Resources) -> Value {
        json!(
            usage.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect::<BTreeMap<_, _>>()
        )
    }

    #[test]
    fn what_a_pod_uses() {
        let spec = json!({"containers": [{"name": "a", "resources": {
            "requests": {"cpu": "100m", "memory": "64Mi", "example.com/dongle": "2", "kubernetes.io/odd": "1"},
            "limits": {"cpu": "1", "example.com/dongle": "2"}}}]});
        let usage = Counted::Pod(&pod(json!({"metadata": {}, "spec": spec}))).usage(now());
        assert_eq!(
            shown(&usage),
            json!({"count/pods": "1", "pods": "1", "cpu": "100m", "requests.cpu": "100m", "limits.cpu": "1",
                   "memory": "64Mi", "requests.memory": "64Mi", "requests.example.com/dongle": "2"})
        );
        // What has ended, or should have, is only counted as an object.
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:50Z", "deletionGracePeriodSeconds": 30});
        let overdue = json!({"deletionTimestamp": "2026-01-01T00:00:20Z", "deletionGracePeriodSeconds": 1});
        for (metadata, phase, uses) in [
            (json!({}), "Running", true),
            (json!({}), "Succeeded", false),
            (json!({}), "Failed", false),
            (deleted, "Running", true),
            (overdue, "Running", false),
        ] {
            let pod = pod(json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}}));
            let usage = Counted::Pod(&pod).usage(now());
            assert_eq!(usage.contains_key("pods"), uses, "{phase} {:?}", pod.metadata);
            assert!(usage.contains_key("count/pods"));
        }
    }

    #[test]
    fn what_services_and_claims_use() {
        let ports = |n: usize| (0..n).map(|i| json!({"port": 80 + i})).collect::<Vec<_>>();
        for (spec, node_ports, balancers) in [
            (json!({"type": "ClusterIP", "ports": ports(2)}), "0", "0"),
            (json!({"type": "NodePort", "ports": ports(2)}), "2", "0"),
            (json!({"type": "LoadBalancer", "ports": ports(3)}), "3", "1"),
            (
                json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [
                {"port": 1, "nodePort": 30001}, {"port": 2}]}),
                "1",
                "1",
            ),
        ] {
            let service: Service = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            assert_eq!(
                shown(&Counted::Service(&service).usage(now())),
                json!({"services": "1", "count/services": "1", "services.nodeports": node_ports,
                       "services.loadbalancers": balancers})
            );
        }
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {}, "spec": {
            "storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}))
        .unwrap();
        assert_eq!(
            shown(&Counted::Claim(&claim).usage(now())),
            json!({"persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1", "requests.storage": "1Gi",
                   "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
                   "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"})
        );
    }

    #[test]
    fn names_and_those_they_are_of() {
        let (pod, service, claim) = (Pod::default(), Service::default(), PersistentVolumeClaim::default());
        let sorts = [
            Counted::Pod(&pod),
            Counted::Service(&service),
            Counted::Claim(&claim),
            Counted::Other { group: "", plural: "secrets" },
            Counted::Other { group: "apps", plural: "deployments" },
        ];
        for (name, of) in [
            ("pods", 0),
            ("count/pods", 0),
            ("limits.memory", 0),
            ("requests.example.com/dongle", 0),
            ("hugepages-2Mi", 0),
            ("requests.hugepages-2Mi", 0),
            ("services.nodeports", 1),
            ("count/services", 1),
            ("requests.storage", 2),
            ("a.b.storageclass.storage.k8s.io/requests.storage", 2),
            ("count/persistentvolumeclaims", 2),
            ("secrets", 3),
            ("count/secrets", 3),
            ("count/deployments.apps", 4),
        ] {
            for (i, sort) in sorts.iter().enumerate() {
                assert_eq!(sort.is_counted_as(name), i == of, "{name} {sort:?}");
            }
        }
        assert_eq!(counted_kind("count/deployments.apps"), Some(("apps", "deployments")));
        assert_eq!(counted_kind("count/widgets.example.com"), Some(("example.com", "widgets")));
        assert_eq!((counted_kind("configmaps"), counted_kind("pods")), (Some(("", "configmaps")), None));
    }

    #[test]
    fn scopes() {
        let plain = json!({"containers": [{"name": "a"}]});
        let asks = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]});
        let with = |mut spec: Value, key: &str, value: Value| {
            spec[key] = value;
            spec
        };
        let abroad = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "a", "namespaces": ["b"]}]}});
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        let high = with(plain.clone(), "priorityClassName", json!("high"));
        for (spec, quota, within) in [
            (&plain, json!({}), true),
            (&plain, json!({"scopes": ["BestEffort"]}), true),
            (&asks, json!({"scopes": ["BestEffort"]}), false),
            (&asks, json!({"scopes": ["NotBestEffort", "NotTerminating"]}), true),
            (
                &with(asks.clone(), "activeDeadlineSeconds", json!(5)),
                json!({"scopes": ["NotTerminating"]}),
                false,
            ),
            (
                &with(asks.clone(), "activeDeadlineSeconds", json!(5)),
                json!({"scopes": ["Terminating"]}),
                true,
            ),
            (&plain, json!({"scopes": ["PriorityClass"]}), false),
            (&high, json!({"scopes": ["PriorityClass"]}), true),
            (&high, class("In", json!(["high", "low"])), true),
            (&high, class("In", json!(["low"])), false),
            (&high, class("NotIn", json!(["low"])), true),
            (&high, class("DoesNotExist", Value::Null), false),
            (&plain, class("DoesNotExist", Value::Null), true),
            (&plain, class("NotIn", json!(["low"])), true),
            (&plain, json!({"scopes": ["CrossNamespacePodAffinity"]}), false),
            (
                &with(plain.clone(), "affinity", abroad),
                json!({"scopes": ["CrossNamespacePodAffinity"]}),
                true,
            ),
        ] {
            let quota: ResourceQuotaSpec = serde_json::from_value(quota).unwrap();
            let pod = pod(json!({"metadata": {}, "spec": spec}));
            assert_eq!(Counted::Pod(&pod).is_in_scopes_of(&quota), within, "{spec} {quota:?}");
        }
        let best_effort: ResourceQuotaSpec =
            serde_json::from_value(json!({"scopes": ["BestEffort"]})).unwrap();
        assert!(!Counted::Service(&Service::default()).is_in_scopes_of(&best_effort));
    }

    #[test]
    fn containers_have_to_say_what_is_counted() {
        let pod = pod(json!({"metadata": {}, "spec": {
            "containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"memory": "1"}}}],
            "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1"}}}]}}));
        let missing = |hard: &[&'static str]| Counted::Pod(&pod).undemanded(hard.iter().copied());
        assert_eq!(missing(&["pods", "requests.ephemeral-storage", "services"]), None);
        assert_eq!(
            missing(&["pods", "requests.memory", "limits.cpu"]).unwrap(),
            "must specify limits.cpu for: a,b; requests.memory for: b"
        );
    }
}
