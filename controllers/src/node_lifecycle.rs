//! What becomes of nodes that are not heard of, and of the pods on them.
//!
//! [`Nodes`] marks a silent node's conditions Unknown, keeps the taints that go with conditions, and marks the pods on
//! a node that is not Ready as not Ready, so that services drop them. [`Evictions`] deletes pods from nodes with
//! `NoExecute` taints once their tolerations run out. It deletes gracefully and with that marks only: the object stays
//! until the node's kubelet has confirmed that the containers are dead, so that a StatefulSet's pod is not replaced
//! while its old self may be running somewhere.

pub mod eviction;
pub mod monitor;

use crate::{
    context::{Ctx, name, namespace, reference, uid},
    error::{Result, ignore_not_found, is_not_found},
    run::{Controller, Next, ObjectKey},
};
use api::{conditions, pod as pods};
use async_trait::async_trait;
use client::{Change, Guard, Queue, Recorder, Store};
use eviction::Eviction;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, ObjectReference, Pod, PodCondition},
};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use monitor::Monitor;
use serde_json::json;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Where kubelets renew their leases.
const LEASES: &str = "kube-node-lease";

const BY_NODE: &str = "node";

/// Why a pod on a lost node is not Ready: nobody knows. The server's tables show such a pod as `Unknown`.
const NODE_LOST: &str = "NodeLost";

/// Index of pods by the node they are bound to.
pub(crate) fn index_by_node(store: &Store<Pod>) {
    store.add_index(BY_NODE, |pod| pods::node_name(pod).map(str::to_owned).into_iter().collect());
}

pub(crate) fn pods_on(store: &Store<Pod>, node: &str) -> Vec<Arc<Pod>> {
    store.by_index(BY_NODE, node)
}

/// The memory both controllers share.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Monitor>>);

impl Shared {
    pub fn new(ctx: &Ctx) -> Self {
        Self(Arc::new(Mutex::new(Monitor::new(ctx.config.node_monitor_grace_period, ctx.clock.now()))))
    }

    fn lock(&self) -> MutexGuard<'_, Monitor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs both controllers of this file.
pub async fn run(ctx: Arc<Ctx>) {
    let shared = Shared::new(&ctx);
    let nodes = Nodes::new(ctx.clone(), shared.clone());
    let evictions = Evictions::new(ctx.clone(), shared);
    futures::join!(crate::run::run(ctx.clone(), nodes), crate::run::run(ctx, evictions));
}

pub struct Nodes {
    ctx: Arc<Ctx>,
    nodes: Store<Node>,
    leases: Store<Lease>,
    pods: Store<Pod>,
    recorder: Recorder,
    shared: Shared,
}

impl Nodes {
    pub fn new(ctx: Arc<Ctx>, shared: Shared) -> Self {
        let pods = ctx.informers.store();
        index_by_node(&pods);
        Self {
            nodes: ctx.informers.store(),
            leases: ctx.informers.store(),
            recorder: ctx.recorder("node-controller"),
            pods,
            shared,
            ctx,
        }
    }

    /// Says in the node's status that it is not heard of.
    async fn mark_silent(&self, node: &Node) -> Result<()> {
        let Some(all) = monitor::silent_conditions(node, self.ctx.clock.now()) else { return Ok(()) };
        tracing::info!(node = name(&node.metadata), "node is not heard of");
        let patch = json!({
            "metadata": { "uid": uid(&node.metadata), "resourceVersion": node.metadata.resource_version },
            "status": { "conditions": all },
        });
        let api = self.ctx.all::<Node>();
        api.patch_status(name(&node.metadata), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        let text = format!("Node {} status is now: NodeNotReady", name(&node.metadata));
        // Events about nodes name them by their name, where others use the UID.
        let about = ObjectReference { uid: node.metadata.name.clone(), ..reference(node) };
        self.recorder.event(&about, "Normal", "NodeNotReady", &text);
        Ok(())
    }

    async fn set_taints(&self, node: &Node, hold_evictions: bool) -> Result<()> {
        let Some(taints) = monitor::taints(node, hold_evictions, self.ctx.clock.now()) else { return Ok(()) };
        let patch = json!({
            "metadata": { "uid": uid(&node.metadata), "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": taints },
        });
        let api = self.ctx.all::<Node>();
        api.patch(name(&node.metadata), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// The pods of a node that is not Ready are not Ready either, whatever their last status said.
    async fn mark_pods(&self, node: &str) -> Result<()> {
        for pod in pods_on(&self.pods, node).iter().filter(|p| pods::is_ready(p)) {
            let mut all = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            let Some(mut ready) = conditions::find(&all, "Ready").cloned() else { continue };
            ready.status = "False".to_owned();
            ready.reason = Some(NODE_LOST.to_owned());
            ready.message = Some(format!("Node {node}, which runs the pod, is not heard of"));
            conditions::set(&mut all, ready, self.ctx.clock.now());
            let patch = json!({
                "metadata": { "uid": uid(&pod.metadata), "resourceVersion": pod.metadata.resource_version },
                "status": { "conditions": all },
            });
            let api = self.ctx.api::<Pod>(namespace(&pod.metadata));
            let marked =
                api.patch_status(name(&pod.metadata), &PatchParams::default(), &Patch::Merge(&patch)).await;
            ignore_not_found(marked)?;
            self.recorder.event(&reference(pod.as_ref()), "Warning", "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    async fn settle(&self, node: &Node, silent: bool, hold_evictions: bool) -> Result<()> {
        if silent {
            // Its change comes back as an event, and the taints with it.
            self.mark_silent(node).await?;
        }
        self.set_taints(node, hold_evictions).await?;
        // A node that never was Ready has nothing to take back, and a kubelet that is starting will say for itself.
        if silent || monitor::ready(node) == Some("Unknown") {
            self.mark_pods(name(&node.metadata)).await?;
        }
        Ok(())
    }
}

/// All nodes are judged together, because what is true of one depends on the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct All;

impl std::fmt::Display for All {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nodes")
    }
}

#[async_trait]
impl Controller for Nodes {
    type Key = All;
    const NAME: &'static str = "node-lifecycle";
    const WORKERS: usize = 1;

    fn watch(&self, queue: &Queue<All>) {
        let (shared, clock, q) = (self.shared.clone(), self.ctx.clock.clone(), queue.clone());
        self.nodes.on_change(move |change| {
            match change {
                Change::Applied { old, new } => {
                    shared.lock().see_taints(new, clock.now());
                    let beat = monitor::status_beat(new);
                    let beats =
                        beat.is_some() && old.as_ref().is_none_or(|old| monitor::status_beat(old) != beat);
                    // A node that has just been made starts afresh, whatever an older lease of its name says.
                    let first =
                        (beats || old.is_none()) && shared.lock().heard(name(&new.metadata), clock.now());
                    if !first
                        && old.as_ref().is_some_and(|old| {
                            !crate::scheduler::cache::matters(old, new) && !pressure_moved(old, new)
                        })
                    {
                        return;
                    }
                }
                Change::Deleted(node) => shared.lock().forget(name(&node.metadata)),
            }
            q.add(All);
        });
        let (shared, clock, nodes, q) =
            (self.shared.clone(), self.ctx.clock.clone(), self.nodes.clone(), queue.clone());
        self.leases.on_change(move |change| {
            if let Change::Applied { new, .. } = change
                && namespace(&new.metadata) == LEASES
            {
                let node = name(&new.metadata);
                let first = shared.lock().heard(node, clock.now());
                // Only the first beat of all and one of a node that counts as lost change anything.
                if first || nodes.get("", node).is_some_and(|n| monitor::ready(&n) == Some("Unknown")) {
                    q.add(All);
                }
            }
        });
    }

    async fn reconcile(&self, _: &All) -> Result<Next> {
        let nodes = self.nodes.list();
        let refs: Vec<&Node> = nodes.iter().map(AsRef::as_ref).collect();
        let verdict = self.shared.lock().judge(&refs, self.ctx.clock.now());
        let mut failed = None;
        for node in &nodes {
            let silent = verdict.silent.iter().any(|s| s == name(&node.metadata));
            match self.settle(node, silent, verdict.hold_evictions).await {
                // One node's trouble is not the others'.
                Err(error) if failed.is_none() => failed = Some(error),
                _ => {}
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(verdict.next.map_or(Next::Wait, Next::After)),
        }
    }
}

/// Whether a condition that taints follow from changed.
fn pressure_moved(old: &Node, new: &Node) -> bool {
    let statuses = |node: &Node| -> Vec<(String, String)> {
        let all = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        all.iter().map(|c| (c.type_.clone(), c.status.clone())).collect()
    };
    statuses(old) != statuses(new)
}

pub struct Evictions {
    ctx: Arc<Ctx>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    recorder: Recorder,
    shared: Shared,
}

impl Evictions {
    pub fn new(ctx: Arc<Ctx>, shared: Shared) -> Self {
        let pods = ctx.informers.store();
        index_by_node(&pods);
        Self {
            nodes: ctx.informers.store(),
            recorder: ctx.recorder("taint-eviction-controller"),
            pods,
            shared,
            ctx,
        }
    }

    async fn evict(&self, pod: &Pod) -> Result<()> {
        let api = self.ctx.api::<Pod>(namespace(&pod.metadata));
        let text = format!("Marking for deletion Pod {}", ObjectKey::of(&pod.metadata));
        self.recorder.event(&reference(pod), "Normal", "TaintManagerEviction", &text);
        let mut all = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let target = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("DeletionByTaintManager".into()),
            message: Some("Taint manager: deleting due to NoExecute taint".into()),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        if conditions::set(&mut all, target, self.ctx.clock.now()) {
            let patch = json!({
                "metadata": { "uid": uid(&pod.metadata), "resourceVersion": pod.metadata.resource_version },
                "status": { "conditions": all },
            });
            match api.patch_status(name(&pod.metadata), &PatchParams::default(), &Patch::Merge(&patch)).await
            {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        // It only marks: the object stays until the kubelet has seen the containers dead.
        let grace_period_seconds = if Guard::GracefulEviction.holds() { None } else { Some(0) };
        let params = DeleteParams {
            grace_period_seconds,
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        Ok(ignore_not_found(api.delete(name(&pod.metadata), &params).await)?)
    }
}

#[async_trait]
impl Controller for Evictions {
    type Key = ObjectKey;
    const NAME: &'static str = "taint-eviction";
    const WORKERS: usize = 4;

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let (q, nodes) = (queue.clone(), self.nodes.clone());
        self.pods.on_change(move |change| {
            if let Change::Applied { new, old } = change
                && let Some(node) = pods::node_name(new)
                && old.as_ref().is_none_or(|old| old.spec != new.spec)
                && nodes.get("", node).is_some_and(|n| has_no_execute(&n))
            {
                q.add(ObjectKey::of(&new.metadata));
            }
        });
        let (q, pods) = (queue.clone(), self.pods.clone());
        self.nodes.on_change(move |change| {
            if let Change::Applied { new, old } = change
                && has_no_execute(new)
                && old.as_ref().is_none_or(|old| taints(old) != taints(new))
            {
                pods_on(&pods, name(&new.metadata)).iter().for_each(|p| q.add(ObjectKey::of(&p.metadata)));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        if pods::is_terminating(&pod) || pods::is_terminal(&pod) {
            return Ok(Next::Wait);
        }
        let node = pods::node_name(&pod).and_then(|node| self.nodes.get("", node));
        let Some(node) = node else { return Ok(Next::Wait) };
        let decision = {
            let (monitor, now) = (self.shared.lock(), self.ctx.clock.now());
            eviction::decide(&pod, taints(&node), |t| monitor.tainted_since(name(&node.metadata), t, now))
        };
        match decision {
            Eviction::Stay => Ok(Next::Wait),
            Eviction::At(at) => {
                let left = at.duration_since(self.ctx.clock.now());
                if let Ok(left) = Duration::try_from(left)
                    && !left.is_zero()
                {
                    return Ok(Next::After(left));
                }
                self.evict(&pod).await?;
                Ok(Next::Wait)
            }
        }
    }
}

fn taints(node: &Node) -> &[k8s_openapi::api::core::v1::Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

fn has_no_execute(node: &Node) -> bool {
    taints(node).iter().any(|t| t.effect == "NoExecute")
}
