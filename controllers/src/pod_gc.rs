//! Removes the objects of pods that no kubelet will ever finish: those bound to a node whose object is gone, those
//! marked for deletion without ever having had a node, and those on a node that a person declared out of service.
//!
//! This is the only place that deletes without a kubelet's word, and it does so on a person's word alone: somebody has
//! deleted the node's object or tainted it. It is slow on purpose: a node must have been missing for a while, and the API
//! server itself is asked about it once more.

use crate::{
    context::{Ctx, name, namespace, uid},
    error::{Result, ignore_not_found, is_not_found},
    node_lifecycle::{index_by_node, monitor, pods_on},
    run::{Controller, Next, ObjectKey},
};
use api::{conditions, pod as pods};
use async_trait::async_trait;
use client::{Change, Guard, Queue, Store};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub struct PodGc {
    ctx: Arc<Ctx>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    missing: Missing,
}

/// Since when each node has been missing: from when it went last, or from when it was first asked for.
#[derive(Clone, Default)]
struct Missing(Arc<Mutex<BTreeMap<String, Timestamp>>>);

impl Missing {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a pod's object may go without its kubelet's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Garbage {
    /// Its node does not exist, as far as the cache knows.
    Orphaned { node: String },
    /// It was to be deleted before it had a node.
    NeverScheduled,
    /// Its node is not Ready and tainted `out-of-service`, and it is to be deleted.
    OutOfService,
}

/// Whether a pod is garbage, given its node if that exists. Pure.
pub fn judge(pod: &Pod, node: Option<&Node>) -> Option<Garbage> {
    let Some(node_name) = pods::node_name(pod) else {
        return pods::is_terminating(pod).then_some(Garbage::NeverScheduled);
    };
    let Some(node) = node else { return Some(Garbage::Orphaned { node: node_name.to_owned() }) };
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let out_of_service =
        taints.iter().any(|t| t.key == monitor::OUT_OF_SERVICE) && monitor::ready(node) != Some("True");
    (out_of_service && pods::is_terminating(pod)).then_some(Garbage::OutOfService)
}

impl PodGc {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        let pods = ctx.informers.store();
        index_by_node(&pods);
        Self { nodes: ctx.informers.store(), missing: Missing::default(), pods, ctx }
    }

    /// How much longer the node must be missing; `None` when it has been long enough: as long as a silent node is waited
    /// for (40 s in Kubernetes, both). It may be on its way, or our cache late.
    fn quarantine_left(&self, node: &str) -> Option<Duration> {
        let quarantine = SignedDuration::try_from(self.ctx.config.node_monitor_grace_period)
            .unwrap_or(SignedDuration::from_secs(40));
        let mut missing = self.missing.lock();
        let now = self.ctx.clock.now();
        // Nobody asks for the others any more.
        missing.retain(|name, _| name == node || !pods_on(&self.pods, name).is_empty());
        let since = *missing.entry(node.to_owned()).or_insert(now);
        Duration::try_from(quarantine - now.duration_since(since)).ok().filter(|left| !left.is_zero())
    }

    /// Only if the API server says so too: the node may have been taken back into service, and run the pod, while our cache
    /// was late.
    async fn remove_if_still_out_of_service(&self, pod: &Pod) -> Result<()> {
        let name = pods::node_name(pod).unwrap_or_default();
        let node = self.ctx.all::<Node>().get_opt(name).await?;
        let still = node.is_some_and(|node| judge(pod, Some(&node)) == Some(Garbage::OutOfService));
        if still || !Guard::NodeAsked.holds() {
            self.remove(pod, "DeletionByPodGC", "PodGC: node is out of service").await?;
        }
        Ok(())
    }

    async fn remove(&self, pod: &Pod, reason: &str, message: &str) -> Result<()> {
        let api = self.ctx.api::<Pod>(namespace(&pod.metadata));
        if !pods::is_terminal(pod) {
            let mut all = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            let target = PodCondition {
                type_: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                ..PodCondition::default()
            };
            conditions::set(&mut all, target, self.ctx.clock.now());
            let patch = json!({
                "metadata": { "uid": uid(&pod.metadata), "resourceVersion": pod.metadata.resource_version },
                "status": { "phase": "Failed", "conditions": all },
            });
            match api.patch_status(name(&pod.metadata), &PatchParams::default(), &Patch::Merge(&patch)).await
            {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Guard::GarbageUid.holds().then_some(preconditions),
            ..DeleteParams::default()
        };
        tracing::info!(pod = %ObjectKey::of(&pod.metadata), reason, "removing a pod that no kubelet will finish");
        Ok(ignore_not_found(api.delete(name(&pod.metadata), &params).await)?)
    }
}

#[async_trait]
impl Controller for PodGc {
    type Key = ObjectKey;
    const NAME: &'static str = "pod-gc";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let (q, nodes) = (queue.clone(), self.nodes.clone());
        self.pods.on_change(move |change| {
            if let Change::Applied { new, .. } = change
                && judge(new, pods::node_name(new).and_then(|n| nodes.get("", n)).as_deref()).is_some()
            {
                q.add(ObjectKey::of(&new.metadata));
            }
        });
        let (q, pods) = (queue.clone(), self.pods.clone());
        let (missing, clock) = (self.missing.clone(), self.ctx.clock.clone());
        self.nodes.on_change(move |change| {
            let node = change.object();
            let concerns = match change {
                Change::Deleted(node) => {
                    missing.lock().insert(name(&node.metadata).to_owned(), clock.now());
                    true
                }
                // However short it is back, it is missing anew when it goes again.
                Change::Applied { new, .. } => {
                    missing.lock().remove(name(&new.metadata));
                    judge_node(new)
                }
            };
            if concerns {
                pods_on(&pods, name(&node.metadata)).iter().for_each(|p| q.add(ObjectKey::of(&p.metadata)));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        let node = pods::node_name(&pod).and_then(|n| self.nodes.get("", n));
        match judge(&pod, node.as_deref()) {
            None => {}
            Some(Garbage::NeverScheduled) => {
                self.remove(&pod, "DeletionByPodGC", "PodGC: unscheduled pod was marked for deletion")
                    .await?;
            }
            Some(Garbage::OutOfService) => self.remove_if_still_out_of_service(&pod).await?,
            Some(Garbage::Orphaned { node }) => {
                if let Some(left) = self.quarantine_left(&node) {
                    return Ok(Next::After(left));
                }
                let exists = self.ctx.all::<Node>().get_opt(&node).await?.is_some();
                if !exists || !Guard::NodeAsked.holds() {
                    self.remove(&pod, "DeletionByPodGC", "PodGC: node no longer exists").await?;
                }
            }
        }
        Ok(Next::Wait)
    }
}

fn judge_node(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|t| t.key == monitor::OUT_OF_SERVICE)
}

#[cfg(test)]
mod tests;
