//! The StatefulSet controller: reads the caches, asks [`plan`](plan::plan), performs it, writes the status.
//!
//! Idle runs look at the caches alone. Before anything is changed, the set, its pods and its revisions are read again
//! from the API server and the plan is made anew from that, so that a lagging cache can delay a decision but not make
//! a wrong one. What remains between that read and a write is guarded by fixed names on creation and by UID and
//! resourceVersion on deletion and change.

pub mod identity;
pub mod plan;
pub mod revisions;
pub mod status;

mod effects;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod plan_tests;

use crate::{
    context::{BY_CONTROLLER, Ctx, by_controller, name, namespace, orphans_of, uid},
    error::{Error, Result, is_not_found},
    run::{Controller, Next, ObjectKey},
};
use api::owner;
use async_trait::async_trait;
use client::{Change, Guard, Queue, Recorder, Store};
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, StatefulSet},
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::api::{ListParams, PostParams};
use plan::{Plan, View};
use std::{sync::Arc, time::Duration};

/// How often a name collision of a new revision is worked around in one run. The hash includes the number of
/// collisions, so that even a second in a row is next to impossible.
const MAX_COLLISIONS: usize = 5;

pub struct StatefulSets {
    ctx: Arc<Ctx>,
    sets: Store<StatefulSet>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    revisions: Store<ControllerRevision>,
    recorder: Recorder,
}

/// What a plan is made from, from caches or freshly read.
#[derive(Clone)]
struct Seen {
    set: Arc<StatefulSet>,
    pods: Vec<Arc<Pod>>,
    revisions: Vec<Arc<ControllerRevision>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
}

impl StatefulSets {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        let (pods, revisions) = (ctx.informers.store::<Pod>(), ctx.informers.store::<ControllerRevision>());
        pods.add_index(BY_CONTROLLER, by_controller);
        revisions.add_index(BY_CONTROLLER, by_controller);
        Self {
            sets: ctx.informers.store(),
            claims: ctx.informers.store(),
            recorder: ctx.recorder("statefulset-controller"),
            pods,
            revisions,
            ctx,
        }
    }

    /// The claims of the identities that the set has or wants.
    fn claims_of(&self, set: &StatefulSet) -> Vec<Arc<PersistentVolumeClaim>> {
        let has_templates =
            set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_ref()).is_some_and(|t| !t.is_empty());
        if has_templates { self.claims.in_namespace(namespace(&set.metadata)) } else { Vec::new() }
    }

    fn cached(&self, set: Arc<StatefulSet>) -> Seen {
        let orphans = orphans_of(namespace(&set.metadata));
        let mut pods = self.pods.by_index(BY_CONTROLLER, uid(&set.metadata));
        pods.extend(self.pods.by_index(BY_CONTROLLER, &orphans));
        let mut revisions = self.revisions.by_index(BY_CONTROLLER, uid(&set.metadata));
        revisions.extend(self.revisions.by_index(BY_CONTROLLER, &orphans));
        Seen { claims: self.claims_of(&set), set, pods, revisions }
    }

    /// The same from the API server. `None` if the set is gone or another one has its name.
    async fn live(&self, set: &StatefulSet) -> Result<Option<Seen>> {
        let ns = namespace(&set.metadata);
        let fresh = match self.ctx.api::<StatefulSet>(ns).get(name(&set.metadata)).await {
            Ok(fresh) if fresh.metadata.uid == set.metadata.uid => fresh,
            Ok(_) => return Ok(None),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let selector = plan::selector(&fresh).map_err(|e| Error::Object(e.to_string()))?;
        let params = ListParams::default().labels(&selector.to_string());
        let (pods_api, revisions_api) = (self.ctx.api::<Pod>(ns), self.ctx.api::<ControllerRevision>(ns));
        let (pods, revisions) = futures::try_join!(pods_api.list(&params), revisions_api.list(&params))?;
        Ok(Some(Seen {
            claims: self.claims_of(&fresh),
            set: Arc::new(fresh),
            pods: pods.items.into_iter().map(Arc::new).collect(),
            revisions: revisions.items.into_iter().map(Arc::new).collect(),
        }))
    }

    fn plan(&self, seen: &Seen) -> Result<Plan> {
        let view =
            View { set: &seen.set, pods: &seen.pods, claims: &seen.claims, revisions: &seen.revisions };
        plan::plan(&view, self.ctx.clock.now()).map_err(|e| Error::Object(e.to_string()))
    }

    /// Performs a plan up to its status; the status may learn of collisions on the way.
    async fn perform(&self, seen: &Seen, mut plan: Plan) -> Result<Plan> {
        let mut seen = seen.clone();
        for _ in 0..MAX_COLLISIONS {
            if self.write_revision(&seen.set, &plan.revision).await? {
                effects::pods(self, &seen.set, &plan).await?;
                self.delete_expired(&plan).await?;
                return Ok(plan);
            }
            let mut set = StatefulSet::clone(&seen.set);
            let status = set.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            seen.set = Arc::new(set);
            plan = self.plan(&seen)?;
        }
        Err(Error::NotYet(format!("no free name for a revision after {MAX_COLLISIONS} attempts")))
    }

    async fn write_status(&self, set: &StatefulSet, plan: &Plan) -> Result<()> {
        if !status::differs(set.status.as_ref(), &plan.status) {
            return Ok(());
        }
        let mut set = set.clone();
        set.status = Some(plan.status.clone());
        let api = self.ctx.api::<StatefulSet>(namespace(&set.metadata));
        api.replace_status(name(&set.metadata), &PostParams::default(), &set).await?;
        Ok(())
    }
}

#[async_trait]
impl Controller for StatefulSets {
    type Key = ObjectKey;
    const NAME: &'static str = "statefulset";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let q = queue.clone();
        self.sets.on_change(move |change| q.add(ObjectKey::of(&change.object().metadata)));
        let (q, sets) = (queue.clone(), self.sets.clone());
        self.pods.on_change(move |change| {
            if let Change::Applied { old: Some(old), .. } = change {
                wake(&q, &sets, &old.metadata);
            }
            wake(&q, &sets, &change.object().metadata);
        });
        let (q, sets) = (queue.clone(), self.sets.clone());
        self.revisions.on_change(move |change| {
            // Our own come back as echoes of what the set was told already; a stranger's or a deletion matter.
            let echo = matches!(change, Change::Applied { old: None, new } if owner::controller_of(&new.metadata).is_some());
            if !echo {
                wake(&q, &sets, &change.object().metadata);
            }
        });
        let (q, sets) = (queue.clone(), self.sets.clone());
        self.claims.on_change(move |change| {
            if let Change::Deleted(claim) = change {
                let ns = namespace(&claim.metadata);
                sets.in_namespace(ns).iter().for_each(|set| q.add(ObjectKey::of(&set.metadata)));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        let mut seen = self.cached(set);
        let mut plan = self.plan(&seen)?;
        if let [first, ..] = plan.ownership.as_slice() {
            tracing::debug!(?first, more = plan.ownership.len() - 1, "changing owners");
            self.change_owners(&seen.set, &plan.ownership).await?;
            return Ok(Next::Wait);
        }
        if plan.acts() {
            if Guard::LiveRead.holds() {
                let Some(live) = self.live(&seen.set).await? else { return Ok(Next::Wait) };
                seen = live;
                plan = self.plan(&seen)?;
            }
            if !plan.ownership.is_empty() {
                self.change_owners(&seen.set, &plan.ownership).await?;
                return Ok(Next::Wait);
            }
            let status = plan.clone();
            plan = match self.perform(&seen, plan).await {
                Ok(plan) => plan,
                Err(error) => {
                    // The counters are true whatever could not be done.
                    self.write_status(&seen.set, &status).await?;
                    return Err(error);
                }
            };
        }
        self.write_status(&seen.set, &plan).await?;
        Ok(match plan.check_after.and_then(|wait| Duration::try_from(wait).ok()) {
            Some(wait) => Next::After(wait),
            None => Next::Wait,
        })
    }
}

/// Wakes the set that controls an object, or, for one without a controller, those of its namespace that select it.
fn wake(queue: &Queue<ObjectKey>, sets: &Store<StatefulSet>, object: &ObjectMeta) {
    let ns = namespace(object);
    match owner::controller_of(object) {
        Some(OwnerReference { kind, name, .. }) if kind == "StatefulSet" => {
            queue.add(ObjectKey::new(ns, name))
        }
        Some(_) => {}
        None => {
            for set in sets.in_namespace(ns) {
                if plan::selector(&set).is_ok_and(|s| s.matches_labels(object.labels.as_ref())) {
                    queue.add(ObjectKey::of(&set.metadata));
                }
            }
        }
    }
}
