//! `/scale`: the number of replicas of anything that has one, as an autoscaling/v1 Scale.

use super::{call, method_not_allowed, respond};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject, Subresource},
    registry::{Call, Stored, update::Change},
    request::{
        Incoming, body,
        negotiate::{Accepted, Form},
        options::WriteOptions,
    },
    state::App,
};
use api::field;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::{
    api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

pub async fn scale(app: &App, kind: &dyn AnyKind, mut incoming: Incoming) -> Result<Response> {
    let accepted = Accepted { form: Form::Object, ..incoming.accepted()? };
    let verb = incoming.info.verb;
    if verb == "get" {
        let call = call(kind, Some(Subresource::Scale), &incoming, false);
        let kv = app.registry.get(&call).await?;
        let object = crate::registry::decode(kind, &kv)?;
        if let Some(path) = kind.custom().and_then(|k| k.lacks_replicas(object.as_ref())) {
            return Err(ApiError::Internal(format!("the spec replicas field {path:?} does not exist")));
        }
        return answer(accepted, &scale_of(&call, object.as_ref())?);
    }
    if !matches!(verb, "update" | "patch") {
        return Err(method_not_allowed());
    }
    let options = WriteOptions::parse(&incoming.query, "UpdateOptions")?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let content_type = incoming.content_type().map(str::to_owned);
    let call = call(kind, Some(Subresource::Scale), &incoming, options.dry_run);
    let mut make = |stored: Option<&Stored>| {
        let stored = stored.ok_or_else(|| call.not_found())?;
        let current = scale_of(&call, stored.object.as_ref())?;
        let wanted = match verb {
            "update" => body::parse(content_type.as_deref(), &bytes, "Scale")?.value,
            _ => patched(content_type.as_deref(), &current, &bytes)?,
        };
        let wanted = read(wanted, call.name)?;
        let mut object = stored.object.clone_box();
        let meta = object.meta_mut();
        // Without one the write is at whatever is there, also of kinds that else want to be told.
        if let Some(version) = wanted.metadata.resource_version.filter(|v| !v.is_empty()) {
            meta.resource_version = Some(version);
        }
        if let Some(uid) = wanted.metadata.uid.filter(|u| !u.is_empty()) {
            meta.uid = Some(uid);
        }
        kind.set_scale(object.as_mut(), wanted.spec.and_then(|s| s.replicas).unwrap_or(0));
        Ok(object)
    };
    let outcome = app.registry.update(&call, Change { apply: false, retry: true, make: &mut make }).await?;
    let object = kind.decode_stored(&outcome.object).map_err(ApiError::Internal)?;
    answer(accepted, &scale_of(&call, object.as_ref())?)
}

fn scale_of(call: &Call<'_>, object: &dyn AnyObject) -> Result<Scale> {
    let (replicas, current, selector) = call.kind.scale(object).ok_or(ApiError::NoSuchPath)?;
    let meta = object.meta();
    Ok(Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: Some(replicas) }),
        status: Some(ScaleStatus { replicas: current, selector: Some(selector).filter(|s| !s.is_empty()) }),
    })
}

/// A Scale has no lists: all three patch formats but JSON patch are merges.
fn patched(content_type: Option<&str>, current: &Scale, bytes: &[u8]) -> Result<Value> {
    use crate::registry::patch::PatchType;
    let mut value = serde_json::to_value(current).map_err(|e| ApiError::Internal(e.to_string()))?;
    let patch = body::parse_json(bytes)?.value;
    match PatchType::from_content_type(content_type)? {
        PatchType::Json => {
            let patch: json_patch::Patch = serde_json::from_value(patch)
                .map_err(|e| ApiError::BadRequest(format!("error decoding patch: {e}")))?;
            json_patch::patch(&mut value, &patch).map_err(|e| ApiError::Unprocessable(e.to_string()))?;
        }
        PatchType::Merge | PatchType::StrategicMerge => json_patch::merge(&mut value, &patch),
        PatchType::Apply => {
            return Err(ApiError::NotImplemented("server-side apply on scale: not built yet".to_owned()));
        }
    }
    Ok(value)
}

fn read(value: Value, name: &str) -> Result<Scale> {
    super::check_type(&value, "Scale", "autoscaling/v1")?;
    let scale: Scale = serde_json::from_value(value)
        .map_err(|e| body::cannot_be_handled("Scale", "v1", "Scale", &e.to_string()))?;
    let own = scale.metadata.name.as_deref().unwrap_or_default();
    if !own.is_empty() && own != name {
        return Err(ApiError::BadRequest(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        )));
    }
    let replicas = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
    if replicas < 0 {
        let mut errors = field::Errors::default();
        let path = field::Path::new("spec").child("replicas");
        errors.invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(ApiError::Invalid {
            group: "autoscaling".to_owned(),
            kind: "Scale".to_owned(),
            name: name.to_owned(),
            errors,
        });
    }
    Ok(scale)
}

fn answer(accepted: Accepted, scale: &Scale) -> Result<Response> {
    let bytes = serde_json::to_vec(scale).map_err(|e| ApiError::Internal(e.to_string()))?;
    Ok(respond::json(accepted, StatusCode::OK, Bytes::from(bytes)))
}
