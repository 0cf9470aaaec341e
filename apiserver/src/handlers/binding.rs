//! `pods/NAME/binding`: the scheduler's one write, which gives a pod its node.

use super::{call, respond};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, Subresource},
    registry::{Call, Stored, update::Change},
    request::{Incoming, body, options::WriteOptions},
    state::App,
};
use api::{conditions, field};
use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::core::v1::{Binding, Pod, PodCondition};
use serde_json::json;

pub async fn create(app: &App, pods: &dyn AnyKind, mut incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let options = WriteOptions::parse(&incoming.query, "CreateOptions")?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let parsed = body::parse(incoming.content_type(), &bytes, "Binding")?;
    super::check_type(&parsed.value, "Binding", "v1")?;
    let binding: Binding = serde_json::from_value(parsed.value)
        .map_err(|e| body::cannot_be_handled("Binding", "v1", "Binding", &e.to_string()))?;
    // The old `bindings` resource names the pod in the body only.
    let named = binding.metadata.name.as_deref().unwrap_or_default();
    if incoming.info.name.is_empty() {
        incoming.info.name = named.to_owned();
    } else if !named.is_empty() && incoming.info.name != named {
        return Err(ApiError::BadRequest("name in URL does not match name in Binding object".to_owned()));
    }
    let call = call(pods, Some(Subresource::Binding), &incoming, options.dry_run);
    validate(&binding, call.name)?;
    let mut make = |stored: Option<&Stored>| {
        let stored = stored.ok_or_else(|| call.not_found())?;
        let mut object = stored.object.clone_box();
        let pod = object
            .as_any_mut()
            .downcast_mut::<Pod>()
            .ok_or_else(|| ApiError::Internal("a binding of something that is no pod".to_owned()))?;
        bind(&call, pod, &binding)?;
        Ok(object)
    };
    app.registry.update(&call, Change { apply: false, retry: true, make: &mut make }).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::json(accepted, StatusCode::CREATED, status.to_string().into()))
}

fn validate(binding: &Binding, name: &str) -> Result<()> {
    let mut errors = field::Errors::default();
    let target = field::Path::new("target");
    if let Some(kind) = binding.target.kind.as_deref().filter(|k| !matches!(*k, "" | "Node")) {
        errors.not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
    }
    if binding.target.name.as_deref().unwrap_or_default().is_empty() {
        errors.required(&target.child("name"), "");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid { group: String::new(), kind: "Binding".to_owned(), name: name.to_owned(), errors })
}

/// Gives `pod` its node, once.
fn bind(call: &Call<'_>, pod: &mut Pod, binding: &Binding) -> Result<()> {
    let wanted = binding.metadata.uid.as_deref().filter(|u| !u.is_empty());
    if wanted.is_some_and(|u| Some(u) != pod.metadata.uid.as_deref()) {
        return Err(call.conflict(format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            wanted.unwrap_or_default(),
            pod.metadata.uid.as_deref().unwrap_or_default()
        )));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(
            call.conflict(format!("pod {} is being deleted, cannot be assigned to a host", call.name))
        );
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Err(call.conflict(format!("pod {} is already assigned to node {node:?}", call.name)));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        return Err(call.conflict(format!("pod {} has non-empty .spec.schedulingGates", call.name)));
    }
    spec.node_name.clone_from(&binding.target.name);
    if let Some(annotations) = &binding.metadata.annotations {
        pod.metadata.annotations.get_or_insert_default().extend(annotations.clone());
    }
    let scheduled = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    let now = crate::registry::create::now();
    conditions::set(pod.status.get_or_insert_default().conditions.get_or_insert_default(), scheduled, now);
    Ok(())
}
