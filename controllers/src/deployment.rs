//! The Deployment controller: one ReplicaSet for each template there has been, scaled so that the newest takes the
//! place of the others.
//!
//! It only ever makes, scales, marks and deletes ReplicaSets, all guarded by fixed names and by resourceVersion; pods are
//! the ReplicaSets' business. A lagging cache therefore delays a step but cannot make a wrong one: a set that changed
//! since the look refuses the write, and the next run plans again.

mod conditions;
pub mod plan;
mod rollout;
mod sets;

#[cfg(test)]
mod plan_tests;

use crate::{
    context::{
        BY_CONTROLLER, Ctx, by_controller, delete_as_seen, name, namespace, orphans_of,
        patch_metadata_as_seen, reference, uid,
    },
    error::{
        Error, Result, api_message, ignore_not_found, is_already_exists, is_namespace_terminating,
        is_not_found,
    },
    run::{Controller, Next, ObjectKey},
};
use api::owner;
use async_trait::async_trait;
use client::{Change, Queue, Recorder, Store};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::PostParams;
use plan::{Ownership, Plan, Step, View};
use serde_json::json;
use std::{sync::Arc, time::Duration};

pub struct Deployments {
    ctx: Arc<Ctx>,
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    recorder: Recorder,
}

impl Deployments {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        let (sets, pods) = (ctx.informers.store::<ReplicaSet>(), ctx.informers.store::<Pod>());
        sets.add_index(BY_CONTROLLER, by_controller);
        pods.add_index(BY_CONTROLLER, by_controller);
        Self {
            recorder: ctx.recorder("deployment-controller"),
            deployments: ctx.informers.store(),
            sets,
            pods,
            ctx,
        }
    }

    fn plan(&self, deployment: &Deployment) -> Result<Plan> {
        let mut sets = self.sets.by_index(BY_CONTROLLER, uid(&deployment.metadata));
        sets.extend(self.sets.by_index(BY_CONTROLLER, &orphans_of(namespace(&deployment.metadata))));
        let pods: Vec<_> =
            sets.iter().flat_map(|s| self.pods.by_index(BY_CONTROLLER, uid(&s.metadata))).collect();
        let view = View { deployment, sets: &sets, pods: &pods };
        plan::plan(&view, self.ctx.clock.now()).map_err(Error::Object)
    }

    async fn step(&self, deployment: &Deployment, step: &Step) -> Result<()> {
        let api = self.ctx.api::<ReplicaSet>(namespace(&deployment.metadata));
        match step {
            Step::Create(set) => match api.create(&PostParams::default(), set).await {
                Ok(made) => {
                    let replicas = made.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
                    self.scaled(deployment, &made, 0, replicas);
                    Ok(())
                }
                Err(error) if is_already_exists(&error) => self.collided(deployment, set, error).await,
                Err(error) => {
                    if !is_namespace_terminating(&error) {
                        let text = format!(
                            "Failed to create new replica set {:?}: {}",
                            name(&set.metadata),
                            api_message(&error)
                        );
                        self.recorder.event(
                            &reference(deployment),
                            "Warning",
                            "ReplicaSetCreateError",
                            &text,
                        );
                    }
                    Err(error.into())
                }
            },
            Step::Update { seen, wanted } => {
                let replicas = |set: &ReplicaSet| set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
                api.replace(name(&seen.metadata), &PostParams::default(), wanted).await?;
                self.scaled(deployment, seen, replicas(seen), replicas(wanted));
                Ok(())
            }
            Step::Delete(set) => Ok(ignore_not_found(delete_as_seen(&api, &set.metadata).await)?),
        }
    }

    fn scaled(&self, deployment: &Deployment, set: &ReplicaSet, from: i32, to: i32) {
        if from == to {
            return;
        }
        let direction = if from < to { "up" } else { "down" };
        let text = format!("Scaled {direction} replica set {} from {from} to {to}", name(&set.metadata));
        self.recorder.event(&reference(deployment), "Normal", "ScalingReplicaSet", &text);
    }

    /// A set of that name is there: ours, which the cache does not show yet, or another template's with the same hash.
    async fn collided(&self, deployment: &Deployment, set: &ReplicaSet, error: kube::Error) -> Result<()> {
        let ns = namespace(&deployment.metadata);
        let there = self.ctx.api::<ReplicaSet>(ns).get(name(&set.metadata)).await?;
        if owner::is_controlled_by(&there.metadata, &deployment.metadata) && sets::same_template(&there, set)
        {
            return Err(Error::NotYet("the cache does not show the new set yet".to_owned()));
        }
        let mut counted = deployment.clone();
        let status = counted.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        let api = self.ctx.api::<Deployment>(ns);
        api.replace_status(name(&deployment.metadata), &PostParams::default(), &counted).await?;
        Err(error.into())
    }

    /// Adopts and releases. Adoption asks the API server first whether the deployment is still the same and stays.
    async fn change_owners(&self, deployment: &Deployment, changes: &[Ownership]) -> Result<()> {
        let ns = namespace(&deployment.metadata);
        if changes.iter().any(|c| matches!(c, Ownership::Adopt(_))) {
            let fresh = match self.ctx.api::<Deployment>(ns).get(name(&deployment.metadata)).await {
                Ok(fresh) => fresh,
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if fresh.metadata.uid != deployment.metadata.uid || fresh.metadata.deletion_timestamp.is_some() {
                return Ok(());
            }
        }
        for change in changes {
            let (Ownership::Adopt(set) | Ownership::Release(set)) = change;
            let mut owners = set.metadata.owner_references.clone().unwrap_or_default();
            match change {
                Ownership::Adopt(_) => owners.push(owner::controller_ref(deployment)),
                Ownership::Release(_) => owners.retain(|o| o.uid != uid(&deployment.metadata)),
            }
            let fields = json!({ "ownerReferences": owners });
            let api = self.ctx.api::<ReplicaSet>(ns);
            ignore_not_found(patch_metadata_as_seen(&api, &set.metadata, fields).await)?;
        }
        Ok(())
    }

    async fn write_status(&self, deployment: &Deployment, plan: &Plan) -> Result<()> {
        let mut wanted = deployment.clone();
        wanted.status = Some(plan.status.clone());
        if let Some(revision) = &plan.revision {
            let annotations = wanted.metadata.annotations.get_or_insert_default();
            annotations.insert(sets::REVISION.to_owned(), revision.clone());
        }
        if wanted == *deployment {
            return Ok(());
        }
        let api = self.ctx.api::<Deployment>(namespace(&deployment.metadata));
        match api.replace_status(name(&deployment.metadata), &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(error) => Ok(ignore_not_found::<()>(Err(error))?),
        }
    }
}

#[async_trait]
impl Controller for Deployments {
    type Key = ObjectKey;
    const NAME: &'static str = "deployment";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let q = queue.clone();
        self.deployments.on_change(move |change| q.add(ObjectKey::of(&change.object().metadata)));
        let (q, deployments) = (queue.clone(), self.deployments.clone());
        self.sets.on_change(move |change| {
            if let Change::Applied { old: Some(old), .. } = change {
                wake(&q, &deployments, &old.metadata);
            }
            wake(&q, &deployments, &change.object().metadata);
        });
        // Recreate waits for the last old pod to go; no set's status tells when a terminating pod has.
        let (q, deployments, sets) = (queue.clone(), self.deployments.clone(), self.sets.clone());
        self.pods.on_change(move |change| {
            if let Change::Deleted(pod) = change
                && let Some(owner) = owner::controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet")
                && let Some(set) = sets.get(namespace(&pod.metadata), &owner.name)
            {
                wake(&q, &deployments, &set.metadata);
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        let plan = self.plan(&deployment)?;
        if !plan.ownership.is_empty() {
            // The next run sees which sets there are.
            self.change_owners(&deployment, &plan.ownership).await?;
            return Ok(Next::Wait);
        }
        for step in &plan.steps {
            self.step(&deployment, step).await?;
        }
        self.write_status(&deployment, &plan).await?;
        Ok(match plan.check_after.and_then(|wait| Duration::try_from(wait).ok()) {
            Some(wait) => Next::After(wait),
            None => Next::Wait,
        })
    }
}

/// Wakes the deployment that controls a set, or, for one without a controller, those of its namespace that select it.
fn wake(queue: &Queue<ObjectKey>, deployments: &Store<Deployment>, set: &ObjectMeta) {
    let ns = namespace(set);
    match owner::controller_of(set) {
        Some(owner) if owner.kind == "Deployment" => queue.add(ObjectKey::new(ns, &owner.name)),
        Some(_) => {}
        None => {
            for deployment in deployments.in_namespace(ns) {
                if plan::selector(&deployment).is_ok_and(|s| s.matches_labels(set.labels.as_ref())) {
                    queue.add(ObjectKey::of(&deployment.metadata));
                }
            }
        }
    }
}
