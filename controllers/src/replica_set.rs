//! The controller of ReplicaSets and ReplicationControllers: as many pods as wanted, all alike.
//!
//! One loop serves both kinds; [`Replicated`] says how a ReplicationController reads as a ReplicaSet. As with
//! StatefulSets, idle runs look at the caches alone, and before pods are made or deleted the set and its pods are read
//! again from the API server and the plan is made anew: pods have no fixed names here that would stop a second one.

pub mod plan;
mod rank;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod plan_tests;

use crate::{
    context::{
        BY_CONTROLLER, Ctx, by_controller, delete_as_seen, name, namespace, orphans_of,
        patch_metadata_as_seen, reference, uid,
    },
    error::{
        Error, Result, api_message, ignore_not_found, is_conflict, is_namespace_terminating, is_not_found,
    },
    run::{Controller, Next, ObjectKey},
};
use api::{owner, selector::Selector};
use async_trait::async_trait;
use client::{Change, Queue, Recorder, Store};
use futures::future::join_all;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
};
use kube::api::{ListParams, PostParams};
use plan::{Ownership, Plan, View};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use std::{fmt::Debug, sync::Arc, time::Duration};

/// Pods deleted at the same time: enough to fill the store's group commits, few enough to leave room for others.
const DELETES_AT_ONCE: usize = 32;

/// A kind that this controller looks after.
pub trait Replicated:
    client::Cached
    + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
{
    /// Name in logs and metrics.
    const NAME: &'static str;
    /// The source that events name.
    const COMPONENT: &'static str;
    /// Whether the status counts terminating pods.
    const COUNTS_TERMINATING: bool;

    fn as_set(&self) -> ReplicaSet;
    fn set_status(&mut self, status: ReplicaSetStatus);
    /// That of [`Self::as_set`].
    fn selector(&self) -> Result<Selector, String>;
}

impl Replicated for ReplicaSet {
    const NAME: &'static str = "replicaset";
    const COMPONENT: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn as_set(&self) -> ReplicaSet {
        self.clone()
    }
    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
    fn selector(&self) -> Result<Selector, String> {
        plan::selector(self)
    }
}

impl Replicated for ReplicationController {
    const NAME: &'static str = "replicationcontroller";
    const COMPONENT: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;

    fn as_set(&self) -> ReplicaSet {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
            last_transition_time: c.last_transition_time,
            message: c.message,
            reason: c.reason,
            status: c.status,
            type_: c.type_,
        };
        ReplicaSet {
            metadata: self.metadata.clone(),
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
                template: spec.template,
            }),
            status: Some(ReplicaSetStatus {
                available_replicas: status.available_replicas,
                conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
                fully_labeled_replicas: status.fully_labeled_replicas,
                observed_generation: status.observed_generation,
                ready_replicas: status.ready_replicas,
                replicas: status.replicas,
                terminating_replicas: None,
            }),
        }
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            last_transition_time: c.last_transition_time,
            message: c.message,
            reason: c.reason,
            status: c.status,
            type_: c.type_,
        };
        self.status = Some(ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        });
    }

    fn selector(&self) -> Result<Selector, String> {
        let labels = self.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|l| !l.is_empty());
        labels.map(Selector::from_map).ok_or_else(|| plan::NO_SELECTOR.to_owned())
    }
}

pub struct Sets<K> {
    ctx: Arc<Ctx>,
    sets: Store<K>,
    pods: Store<Pod>,
    recorder: Recorder,
}

/// What a plan is made from, from caches or freshly read.
struct Seen<K> {
    object: Arc<K>,
    set: ReplicaSet,
    pods: Vec<Arc<Pod>>,
}

impl<K: Replicated> Sets<K> {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        let (sets, pods) = (ctx.informers.store::<K>(), ctx.informers.store::<Pod>());
        sets.add_index(BY_CONTROLLER, by_controller);
        pods.add_index(BY_CONTROLLER, by_controller);
        Self { recorder: ctx.recorder(K::COMPONENT), sets, pods, ctx }
    }

    fn cached(&self, object: Arc<K>) -> Seen<K> {
        let set = object.as_set();
        let mut pods = self.pods.by_index(BY_CONTROLLER, uid(&set.metadata));
        pods.extend(self.pods.by_index(BY_CONTROLLER, &orphans_of(namespace(&set.metadata))));
        Seen { object, set, pods }
    }

    /// The same from the API server. `None` if the set is gone or another one has its name.
    async fn live(&self, set: &ReplicaSet) -> Result<Option<Seen<K>>> {
        let ns = namespace(&set.metadata);
        let Some(fresh) = self.fresh(set).await? else { return Ok(None) };
        let set = fresh.as_set();
        let selector = fresh.selector().map_err(Error::Object)?;
        let params = ListParams::default().labels(&selector.to_string());
        let pods = self.ctx.api::<Pod>(ns).list(&params).await?;
        Ok(Some(Seen { object: Arc::new(fresh), set, pods: pods.items.into_iter().map(Arc::new).collect() }))
    }

    async fn fresh(&self, set: &ReplicaSet) -> Result<Option<K>> {
        match self.ctx.api::<K>(namespace(&set.metadata)).get(name(&set.metadata)).await {
            Ok(fresh) if fresh.metadata().uid == set.metadata.uid => Ok(Some(fresh)),
            Ok(_) => Ok(None),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Pods of the sets that have the same controller (a Deployment's), by which pods to delete are spread.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let Some(owner) = owner::controller_of(&set.metadata) else { return Vec::new() };
        let sets = self.sets.by_index(BY_CONTROLLER, &owner.uid);
        sets.iter().flat_map(|s| self.pods.by_index(BY_CONTROLLER, uid(s.metadata()))).collect()
    }

    fn plan(&self, seen: &Seen<K>) -> Result<Plan> {
        let related = self.related(&seen.set);
        let view = View {
            set: &seen.set,
            pods: &seen.pods,
            related: &related,
            counts_terminating: K::COUNTS_TERMINATING,
        };
        plan::plan(&view, self.ctx.clock.now()).map_err(Error::Object)
    }

    /// Makes and deletes pods. What could not be done comes back as the first error.
    async fn perform(&self, seen: &Seen<K>, plan: &Plan) -> Result<()> {
        let pod = plan::new_pod(&seen.set, owner::controller_ref(seen.object.as_ref()));
        let (mut left, mut size) = (plan.create, 1);
        while left > 0 {
            // Batches start at one and double: where every pod is refused (a quota), one is asked for and not all.
            let batch = size.min(left);
            for result in join_all((0..batch).map(|_| self.create(seen, &pod))).await {
                result?;
            }
            left -= batch;
            size *= 2;
        }
        let mut first = Ok(());
        for batch in plan.delete.chunks(DELETES_AT_ONCE) {
            for result in join_all(batch.iter().map(|pod| self.delete(seen, pod))).await {
                first = first.and(result);
            }
        }
        first
    }

    async fn create(&self, seen: &Seen<K>, pod: &Pod) -> Result<()> {
        let api = self.ctx.api::<Pod>(namespace(&seen.set.metadata));
        match api.create(&PostParams::default(), pod).await {
            Ok(made) => {
                self.tell(
                    seen,
                    "Normal",
                    "SuccessfulCreate",
                    &format!("Created pod: {}", name(&made.metadata)),
                );
                Ok(())
            }
            // Nothing can be made here any more, and this set will go too.
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let text = format!("Error creating: {}", api_message(&error));
                self.tell(seen, "Warning", "FailedCreate", &text);
                Err(error.into())
            }
        }
    }

    async fn delete(&self, seen: &Seen<K>, pod: &Pod) -> Result<()> {
        let api = self.ctx.api::<Pod>(namespace(&pod.metadata));
        match delete_as_seen(&api, &pod.metadata).await {
            Ok(()) => {
                self.tell(
                    seen,
                    "Normal",
                    "SuccessfulDelete",
                    &format!("Deleted pod: {}", name(&pod.metadata)),
                );
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            // It changed since the look: the next run decides again.
            Err(error) if is_conflict(&error) => Err(error.into()),
            Err(error) => {
                let text = format!("Error deleting: {}", api_message(&error));
                self.tell(seen, "Warning", "FailedDelete", &text);
                Err(error.into())
            }
        }
    }

    fn tell(&self, seen: &Seen<K>, type_: &str, reason: &str, text: &str) {
        self.recorder.event(&reference(seen.object.as_ref()), type_, reason, text);
    }

    /// Adopts and releases. Adoption asks the API server first whether the set is still the same and stays: a pod
    /// adopted by a set that is being deleted would be deleted with it.
    async fn change_owners(&self, seen: &Seen<K>, changes: &[Ownership]) -> Result<()> {
        if changes.iter().any(|c| matches!(c, Ownership::Adopt(_))) {
            let Some(fresh) = self.fresh(&seen.set).await? else { return Ok(()) };
            if fresh.metadata().deletion_timestamp.is_some() {
                return Ok(());
            }
        }
        for change in changes {
            let (pod, owners) = match change {
                Ownership::Adopt(pod) => {
                    let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
                    owners.push(owner::controller_ref(seen.object.as_ref()));
                    (pod, owners)
                }
                Ownership::Release(pod) => {
                    let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
                    owners.retain(|o| o.uid != uid(&seen.set.metadata));
                    (pod, owners)
                }
            };
            let api = self.ctx.api::<Pod>(namespace(&pod.metadata));
            let fields = json!({ "ownerReferences": owners });
            ignore_not_found(patch_metadata_as_seen(&api, &pod.metadata, fields).await)?;
        }
        Ok(())
    }

    async fn write_status(&self, seen: &Seen<K>, status: ReplicaSetStatus) -> Result<()> {
        if !plan::differs(seen.set.status.as_ref(), &status) {
            return Ok(());
        }
        let mut object = K::clone(&seen.object);
        object.set_status(status);
        let api = self.ctx.api::<K>(namespace(&seen.set.metadata));
        match api.replace_status(name(&seen.set.metadata), &PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(error) => Ok(ignore_not_found::<()>(Err(error))?),
        }
    }
}

#[async_trait]
impl<K: Replicated> Controller for Sets<K> {
    type Key = ObjectKey;
    const NAME: &'static str = K::NAME;

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let q = queue.clone();
        self.sets.on_change(move |change| q.add(ObjectKey::of(change.object().metadata())));
        let (q, sets) = (queue.clone(), self.sets.clone());
        self.pods.on_change(move |change| {
            if let Change::Applied { old: Some(old), .. } = change {
                wake(&q, &sets, &old.metadata);
            }
            wake(&q, &sets, &change.object().metadata);
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(object) = self.sets.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        let mut seen = self.cached(object);
        let mut plan = self.plan(&seen)?;
        let mut outcome = Ok(());
        if plan.ownership.is_empty() && plan.acts() {
            let Some(live) = self.live(&seen.set).await? else { return Ok(Next::Wait) };
            seen = live;
            plan = self.plan(&seen)?;
            if plan.ownership.is_empty() {
                outcome = self.perform(&seen, &plan).await;
            }
        }
        if !plan.ownership.is_empty() {
            // The next run sees who belongs to the set.
            self.change_owners(&seen, &plan.ownership).await?;
            return Ok(Next::Wait);
        }
        let failure = outcome.as_ref().err().filter(|e| !e.is_conflict()).map(Error::chain);
        let status = plan.status_after(seen.set.status.as_ref(), failure.as_deref(), self.ctx.clock.now());
        self.write_status(&seen, status).await?;
        outcome?;
        Ok(match plan.check_after.and_then(|wait| Duration::try_from(wait).ok()) {
            Some(wait) => Next::After(wait),
            None => Next::Wait,
        })
    }
}

/// Wakes the set that controls a pod, or, for one without a controller, those of its namespace that select it.
fn wake<K: Replicated>(queue: &Queue<ObjectKey>, sets: &Store<K>, pod: &ObjectMeta) {
    let ns = namespace(pod);
    match owner::controller_of(pod) {
        Some(OwnerReference { kind, name, .. }) if kind == <K as k8s_openapi::Resource>::KIND => {
            queue.add(ObjectKey::new(ns, name));
        }
        Some(_) => {}
        None => {
            for set in sets.in_namespace(ns) {
                if set.selector().is_ok_and(|s| s.matches_labels(pod.labels.as_ref())) {
                    queue.add(ObjectKey::of(set.metadata()));
                }
            }
        }
    }
}
