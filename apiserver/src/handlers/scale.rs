//! `/scale`: the number of replicas of anything that has one, as an autoscaling/v1 Scale.

use super::{call, method_not_allowed, respond};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject, Subresource},
    registry::{
        Call, Stored, apply,
        patch::PatchType,
        update::{Change, check_uid},
    },
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
use serde_json::{Value, json};

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
    let options = if verb == "patch" { "PatchOptions" } else { "UpdateOptions" };
    let options = WriteOptions::parse(&incoming.query, options)?;
    let patch_type = match verb {
        "patch" => Some(PatchType::from_content_type(incoming.content_type())?),
        _ => None,
    };
    if let Some(patch_type) = patch_type {
        super::patch::check_options(patch_type, &options)?;
    }
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let content_type = incoming.content_type().map(str::to_owned);
    let call = call(kind, Some(Subresource::Scale), &incoming, options.dry_run);
    let force = options.force == Some(true);
    let mut make = |stored: Option<&Stored>| {
        let stored = stored.ok_or_else(|| call.not_found())?;
        let current = || scale_of(&call, stored.object.as_ref());
        let wanted = match patch_type {
            None => body::parse(content_type.as_deref(), &bytes, "Scale")?.value,
            Some(PatchType::Apply) => body::parse_yaml(&bytes)?.value,
            Some(patch_type) => patched(patch_type, &current()?, &bytes)?,
        };
        let wanted = read(wanted, call.name)?;
        check_uid(&call, wanted.metadata.uid.as_deref(), stored)?;
        let replicas = wanted.spec.as_ref().and_then(|s| s.replicas);
        let mut object = match patch_type {
            Some(PatchType::Apply) => applied(&call, stored, replicas, force)?,
            _ => stored.object.clone_box(),
        };
        let meta = object.meta_mut();
        // Without one the write is at whatever is there, also of kinds that else want to be told.
        if let Some(version) = wanted.metadata.resource_version.filter(|v| !v.is_empty()) {
            meta.resource_version = Some(version);
        }
        if patch_type != Some(PatchType::Apply) {
            kind.set_scale(object.as_mut(), replicas.unwrap_or(0));
        }
        Ok(object)
    };
    // What is not there has no scale: unlike an apply of the whole object this makes none.
    let apply = patch_type == Some(PatchType::Apply);
    let outcome = app.registry.update(&call, Change { apply, retry: true, make: &mut make }).await?;
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

/// The object after a manager applied a Scale of so many replicas: it owns that field then, and nothing else. Conflicts
/// are told as the client sees them, in terms of the Scale.
fn applied(
    call: &Call<'_>,
    stored: &Stored,
    replicas: Option<i32>,
    force: bool,
) -> Result<Box<dyn AnyObject>> {
    let kind = call.kind;
    let r = kind.resource();
    let live = serde_json::from_slice::<Value>(&kind.show(&stored.bytes))
        .map_err(|e| ApiError::Internal(format!("a stored object cannot be read: {e}")))?;
    let mut config = json!({
        "apiVersion": r.api_version(), "kind": r.kind, "metadata": {"name": call.name, "namespace": call.namespace},
    });
    match (replicas, kind.custom()) {
        (None, _) => {}
        (Some(replicas), None) => config["spec"] = json!({"replicas": replicas}),
        (Some(replicas), Some(_)) => {
            let mut object = kind.decode(config).map_err(ApiError::Internal)?.object;
            kind.set_scale(object.as_mut(), replicas);
            config = object.to_value();
        }
    }
    let now = jiff::Timestamp::now();
    let value = apply::apply(kind, Some(&live), config, &call.writer, force, now).map_err(|e| match e {
        ApiError::ApplyConflict { message, causes } => {
            let (own, scale) = (format!("using {}", r.api_version()), "using autoscaling/v1");
            let causes: Vec<_> = causes
                .into_iter()
                .map(|(message, path)| (message.replace(&own, scale), (path, ".spec.replicas".to_owned())))
                .collect();
            let message = causes.iter().fold(message.replace(&own, scale), |message, (_, (path, shown))| {
                message.replace(path.as_str(), shown)
            });
            let causes = causes.into_iter().map(|(message, (_, shown))| (message, shown)).collect();
            ApiError::ApplyConflict { message, causes }
        }
        other => other,
    })?;
    Ok(kind.decode(value).map_err(ApiError::Internal)?.object)
}

/// A Scale has no lists: all patch formats but JSON patch are merges.
fn patched(patch_type: PatchType, current: &Scale, bytes: &[u8]) -> Result<Value> {
    let mut value = serde_json::to_value(current).map_err(|e| ApiError::Internal(e.to_string()))?;
    let patch = body::parse_json(bytes)?.value;
    match patch_type {
        PatchType::Json => value = crate::registry::patch::json_patch(&value, patch)?,
        PatchType::Merge | PatchType::StrategicMerge => json_patch::merge(&mut value, &patch),
        PatchType::Apply => {
            return Err(ApiError::Internal("an apply configuration was handed to a patch".to_owned()));
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
