//! What the scheduler writes: bindings, the condition of pods that do not fit, and events about both.

use crate::{
    context::{Ctx, name, namespace, patch_metadata_as_seen, reference, uid},
    error::{Result, api_message, is_not_found},
};
use api::conditions;
use client::{Api, Recorder};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolumeClaim, Pod, PodCondition};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use std::sync::Arc;

use super::volumes::SELECTED_NODE;

/// What became of a binding.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Yes,
    /// The pod is gone, or someone else gave it a node: the watch tells.
    NotOurs,
}

/// Binds the pod, by UID, to the node.
pub(super) async fn bind(ctx: &Ctx, recorder: &Recorder, pod: &Pod, node: &str) -> Result<Bound> {
    let (ns, pod_name) = (namespace(&pod.metadata), name(&pod.metadata));
    let mut binding = Binding {
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
        ..Binding::default()
    };
    binding.metadata.name = pod.metadata.name.clone();
    binding.metadata.namespace = pod.metadata.namespace.clone();
    binding.metadata.uid = pod.metadata.uid.clone();
    let pods: Api<Pod> = ctx.api(ns);
    let reply: Result<serde_json::Value, _> =
        pods.create_subresource("binding", pod_name, &PostParams::default(), &binding).await;
    match reply {
        Ok(_) => {
            let text = format!("Successfully assigned {ns}/{pod_name} to {node}");
            recorder.event(&reference(pod), "Normal", "Scheduled", &text);
            Ok(Bound::Yes)
        }
        Err(error) if is_not_found(&error) => Ok(Bound::NotOurs),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Bound::NotOurs),
        Err(error) => {
            let text = format!("binding rejected: {}", api_message(&error));
            recorder.event(&reference(pod), "Warning", "FailedScheduling", &text);
            Err(error.into())
        }
    }
}

/// Tells the provisioner where the consumer of a claim will be.
pub(super) async fn select_node(ctx: &Ctx, claim: &PersistentVolumeClaim, node: &str) -> Result<()> {
    let claims: Api<PersistentVolumeClaim> = ctx.api(namespace(&claim.metadata));
    let fields = json!({ "annotations": { SELECTED_NODE: node } });
    patch_metadata_as_seen(&claims, &claim.metadata, fields).await?;
    Ok(())
}

/// Says in status and event why the pod has no node. Nothing is written if that was said already.
pub(super) async fn report_unschedulable(
    ctx: &Ctx,
    recorder: &Recorder,
    pod: &Arc<Pod>,
    message: &str,
) -> Result<()> {
    let mut all = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message.to_owned()),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    if !conditions::set(&mut all, condition, ctx.clock.now()) {
        return Ok(());
    }
    recorder.event(&reference(pod.as_ref()), "Warning", "FailedScheduling", message);
    let patch = json!({
        "metadata": { "uid": uid(&pod.metadata), "resourceVersion": pod.metadata.resource_version },
        "status": { "conditions": all },
    });
    let pods: Api<Pod> = ctx.api(namespace(&pod.metadata));
    match pods.patch_status(name(&pod.metadata), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
