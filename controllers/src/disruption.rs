//! Disruption budgets: how many of a budget's pods are healthy, how many there should be, and so how many may be evicted
//! now. The API server takes from what is written here with each eviction (`pods/NAME/eviction`), and this controller
//! counts anew when it sees what became of it.

use crate::{
    context::{Ctx, find_at, name, namespace, uid},
    error::{Error, Result, is_not_found},
    run::{Controller, Next, ObjectKey},
};
use api::{conditions, owner, pod, selector::Selector};
use async_trait::async_trait;
use client::{Change, Queue, Store};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        autoscaling::v1::Scale,
        core::v1::{Pod, ReplicationController},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{APIResourceList, Condition, ObjectMeta, OwnerReference, Time},
        util::intstr::IntOrString,
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::api::PostParams;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// How long an evicted pod may take to begin to go; after that it counts again. Kubernetes' own.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(2 * 60);
/// Pods become ready by the dozen: one count after this long serves them all.
const GATHER: Duration = Duration::from_millis(20);

pub struct Disruptions {
    ctx: Arc<Ctx>,
    budgets: Store<PodDisruptionBudget>,
    pods: Store<Pod>,
    deployments: Store<Deployment>,
    replica_sets: Store<ReplicaSet>,
    stateful_sets: Store<StatefulSet>,
    controllers: Store<ReplicationController>,
}

impl Disruptions {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self {
            budgets: ctx.informers.store(),
            pods: ctx.informers.store(),
            deployments: ctx.informers.store(),
            replica_sets: ctx.informers.store(),
            stateful_sets: ctx.informers.store(),
            controllers: ctx.informers.store(),
            ctx,
        }
    }

    /// How many pods those who made these want: each maker counts once. `Err` says why that is not known.
    async fn wanted(&self, pods: &[Arc<Pod>]) -> Result<std::result::Result<i32, String>> {
        let (mut seen, mut sum) = (BTreeSet::new(), 0_i32);
        for pod in pods {
            let Some(maker) = owner::controller_of(&pod.metadata) else { continue };
            if seen.insert(maker.uid.clone()) {
                match self.scale_of(namespace(&pod.metadata), maker).await? {
                    Ok(replicas) => sum = sum.saturating_add(replicas),
                    Err(why) => return Ok(Err(why)),
                }
            }
        }
        Ok(Ok(sum))
    }

    async fn scale_of(&self, ns: &str, maker: &OwnerReference) -> Result<std::result::Result<i32, String>> {
        let group = maker.api_version.split_once('/').map_or("", |(group, _)| group);
        let is = |meta: &ObjectMeta| uid(meta) == maker.uid;
        let known = match (group, maker.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let set = self.replica_sets.get(ns, &maker.name).filter(|s| is(&s.metadata));
                set.map(|set| self.of_set(ns, &set))
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.get(ns, &maker.name).filter(|s| is(&s.metadata));
                set.map(|set| set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
            }
            ("", "ReplicationController") => {
                let found = self.controllers.get(ns, &maker.name).filter(|c| is(&c.metadata));
                found.map(|c| c.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
            }
            _ => return self.by_subresource(ns, maker).await,
        };
        Ok(known.ok_or_else(|| format!("found no controller ref for pod controlled by {}", maker.name)))
    }

    /// A Deployment knows better than its set how many there shall be: in a roll-out it has two.
    fn of_set(&self, ns: &str, set: &ReplicaSet) -> i32 {
        let own = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let Some(maker) = owner::controller_of(&set.metadata).filter(|o| o.kind == "Deployment") else {
            return own;
        };
        let deployment = self.deployments.get(ns, &maker.name).filter(|d| uid(&d.metadata) == maker.uid);
        deployment.map_or(own, |d| d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
    }

    /// Makers of other kinds say it through their `/scale`, if they have one.
    async fn by_subresource(
        &self,
        ns: &str,
        maker: &OwnerReference,
    ) -> Result<std::result::Result<i32, String>> {
        let root = match maker.api_version.as_str() {
            "v1" => "/api/v1".to_owned(),
            version => format!("/apis/{version}"),
        };
        let served: Option<APIResourceList> = find_at(&self.ctx.client, &root).await?;
        let served = served.map(|list| list.resources).unwrap_or_default();
        let plural = served.iter().find(|r| r.kind == maker.kind && !r.name.contains('/')).map(|r| &r.name);
        let scaled = plural.filter(|p| served.iter().any(|r| r.name == format!("{p}/scale")));
        let Some(plural) = scaled else {
            let text = format!("{} does not implement the scale subresource", maker.kind);
            return Ok(Err(text));
        };
        let path = format!("{root}/namespaces/{ns}/{plural}/{}/scale", maker.name);
        let scale: Option<Scale> = find_at(&self.ctx.client, &path).await?;
        let replicas = scale.map(|s| s.spec.and_then(|s| s.replicas).unwrap_or(0));
        Ok(replicas.ok_or_else(|| format!("no {} {} was found", maker.kind, maker.name)))
    }
}

/// What the budget's status should say, and when to look again though nothing changed. `wanted`: how many pods their
/// makers want, or why that is not known; asked only where the budget is a share of it. Pure.
fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    wanted: &std::result::Result<i32, String>,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<SignedDuration>) {
    let spec = budget.spec.clone().unwrap_or_default();
    let mut status = budget.status.clone().unwrap_or_default();
    let present = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let counted = match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => wanted.clone().map(|all| (all, all.saturating_sub(share(max, all)).max(0))),
        (None, Some(IntOrString::Int(min))) => Ok((present, *min)),
        (None, Some(min)) => wanted.clone().map(|all| (all, share(min, all))),
        (None, None) => Ok((0, 0)),
    };
    let generation = budget.metadata.generation;
    let told = |status: &str, reason: &str, message: String| Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    let (expected, desired) = match counted {
        Ok(counted) => counted,
        Err(why) => {
            // What is not known allows nothing.
            status.disruptions_allowed = Some(0);
            status.observed_generation = generation;
            let conditions = status.conditions.get_or_insert_default();
            conditions::set(conditions, told("False", "SyncFailed", why), now);
            return (status, None);
        }
    };
    let (disrupted, again) = still_going(status.disrupted_pods.as_ref(), pods, now);
    let healthy = pods.iter().filter(|p| {
        p.metadata.deletion_timestamp.is_none()
            && !disrupted.contains_key(name(&p.metadata))
            && pod::is_ready(p)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { healthy.saturating_sub(desired).max(0) } else { 0 };
    let condition = if allowed > 0 {
        told("True", "SufficientPods", String::new())
    } else {
        told("False", "InsufficientPods", String::new())
    };
    conditions::set(status.conditions.get_or_insert_default(), condition, now);
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
        observed_generation: generation,
        conditions: status.conditions,
    };
    (status, again)
}

/// The pods whose eviction was let in and which have not begun to go yet; and how long the first of them is waited for.
fn still_going(
    evicted: Option<&BTreeMap<String, Time>>,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<SignedDuration>) {
    let waits = |at: &Time| DELETION_TIMEOUT - now.duration_since(at.0);
    let going: BTreeMap<String, Time> = evicted
        .into_iter()
        .flatten()
        .filter(|(evicted, at)| {
            let there = pods
                .iter()
                .any(|p| name(&p.metadata) == evicted.as_str() && p.metadata.deletion_timestamp.is_none());
            there && waits(at) > SignedDuration::ZERO
        })
        .map(|(name, at)| (name.clone(), at.clone()))
        .collect();
    let again = going.values().map(waits).min();
    (going, again)
}

/// `2` or `30%` of so many, upwards.
fn share(value: &IntOrString, of: i32) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            i32::try_from((percent * i64::from(of) + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    namespace(&budget.metadata) == namespace(&pod.metadata)
        && Selector::from_label_selector(selector)
            .is_ok_and(|s| s.matches_labels(pod.metadata.labels.as_ref()))
}

#[async_trait]
impl Controller for Disruptions {
    type Key = ObjectKey;
    const NAME: &'static str = "disruption";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let q = queue.clone();
        self.budgets.on_change(move |change| {
            if let Change::Applied { new, .. } = change {
                q.add(ObjectKey::of(&new.metadata));
            }
        });
        let (q, budgets) = (queue.clone(), self.budgets.clone());
        self.pods.on_change(move |change| {
            let states: [Option<&Pod>; 2] = match change {
                Change::Applied { old, new } => [old.as_deref(), Some(new)],
                Change::Deleted(last) => [Some(last), None],
            };
            let ns = states.iter().flatten().next().map(|p| namespace(&p.metadata)).unwrap_or_default();
            for budget in budgets.in_namespace(ns) {
                if states.iter().flatten().any(|pod| covers(&budget, pod)) {
                    q.add_after(ObjectKey::of(&budget.metadata), GATHER);
                }
            }
        });
        // How many there shall be changes seldom: all budgets of the namespace are asked.
        fn scaled<K>(store: &Store<K>, budgets: &Store<PodDisruptionBudget>, queue: &Queue<ObjectKey>)
        where
            K: client::Cached + k8s_openapi::Metadata<Ty = ObjectMeta>,
        {
            let (q, budgets) = (queue.clone(), budgets.clone());
            store.on_change(move |change| {
                if let Change::Applied { old, new } = change
                    && old.as_ref().is_none_or(|o| o.metadata().generation != new.metadata().generation)
                {
                    for budget in budgets.in_namespace(namespace(new.metadata())) {
                        q.add_after(ObjectKey::of(&budget.metadata), GATHER);
                    }
                }
            });
        }
        scaled(&self.deployments, &self.budgets, queue);
        scaled(&self.replica_sets, &self.budgets, queue);
        scaled(&self.stateful_sets, &self.budgets, queue);
        scaled(&self.controllers, &self.budgets, queue);
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        if budget.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Wait);
        }
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| covers(&budget, pod));
        let wanted = self.wanted(&pods).await?;
        let (status, again) = plan(&budget, &pods, &wanted, self.ctx.clock.now());
        let next = again.map_or(Next::Wait, |wait| Next::After(Duration::try_from(wait).unwrap_or(GATHER)));
        if budget.status.as_ref() == Some(&status) {
            return Ok(next);
        }
        // At the revision that was counted from: an eviction in between makes it count again.
        let counted = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
        let api = self.ctx.api::<PodDisruptionBudget>(&key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &counted).await.map_err(Error::from) {
            Ok(_) => Ok(next),
            Err(error) if error.is_conflict() => Ok(Next::After(GATHER)),
            Err(Error::Api(error)) if is_not_found(&error) => Ok(Next::Wait),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn pods(list: &[(&str, bool)]) -> Vec<Arc<Pod>> {
        let one = |(name, ready): &(&str, bool)| {
            let condition = json!({"type": "Ready", "status": if *ready { "True" } else { "False" }});
            let pod = json!({"metadata": {"name": name}, "status": {"conditions": [condition]}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        list.iter().map(one).collect()
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let value = json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status});
        serde_json::from_value(value).unwrap()
    }

    /// (healthy, desired, expected, allowed)
    fn counts(spec: Value, pods: &[Arc<Pod>], wanted: i32) -> (i32, i32, i32, i32) {
        let (s, _) = plan(&budget(spec, json!({})), pods, &Ok(wanted), NOW.parse().unwrap());
        assert_eq!(s.observed_generation, Some(3));
        let allowed = s.disruptions_allowed.unwrap();
        let condition = &s.conditions.unwrap()[0];
        let expected = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), expected);
        (s.current_healthy.unwrap(), s.desired_healthy.unwrap(), s.expected_pods.unwrap(), allowed)
    }

    #[test]
    fn what_a_budget_allows() {
        let three = pods(&[("a", true), ("b", true), ("c", false)]);
        for (spec, expected) in [
            (json!({"minAvailable": 2}), (2, 2, 3, 0)),
            (json!({"minAvailable": 1}), (2, 1, 3, 1)),
            (json!({"minAvailable": "1%"}), (2, 1, 3, 1)),
            (json!({"minAvailable": "50%"}), (2, 2, 3, 0)),
            (json!({"maxUnavailable": 1}), (2, 2, 3, 0)),
            (json!({"maxUnavailable": "34%"}), (2, 1, 3, 1)),
            (json!({"maxUnavailable": 9}), (2, 0, 3, 2)),
            (json!({}), (2, 0, 0, 0)),
        ] {
            assert_eq!(counts(spec.clone(), &three, 3), expected, "{spec}");
        }
        assert_eq!(counts(json!({"minAvailable": 0}), &[], 0), (0, 0, 0, 0), "no pods, nothing to evict");
    }

    #[test]
    fn evicted_pods_count_as_gone_for_a_while() {
        let three = pods(&[("a", true), ("b", true), ("c", true)]);
        let status = json!({"disruptedPods": {"a": "2026-01-01T00:09:00Z", "b": "2026-01-01T00:07:00Z",
                                              "gone": "2026-01-01T00:09:59Z"}});
        let budget = budget(json!({"minAvailable": 1}), status);
        let (status, again) = plan(&budget, &three, &Ok(3), NOW.parse().unwrap());
        let left: Vec<&String> = status.disrupted_pods.iter().flatten().map(|(name, _)| name).collect();
        assert_eq!((left, status.current_healthy), (vec![&"a".to_owned()], Some(2)));
        assert_eq!(again, Some(SignedDuration::from_secs(60)));
    }

    #[test]
    fn what_is_not_known_allows_nothing() {
        let old = json!({"disruptionsAllowed": 4, "currentHealthy": 5});
        let budget = budget(json!({"maxUnavailable": 1}), old);
        let wanted = Err("Job does not implement the scale subresource".to_owned());
        let (status, _) = plan(&budget, &pods(&[("a", true)]), &wanted, NOW.parse().unwrap());
        assert_eq!((status.disruptions_allowed, status.current_healthy), (Some(0), Some(5)));
        assert_eq!(status.conditions.unwrap()[0].reason, "SyncFailed");
    }
}
