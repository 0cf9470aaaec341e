//! Create: from a decoded object to a stored one.
//!
//! Order: namespace → system fields → defaults → admission → defaults → name → kind's preparation → allocation →
//! validation → admission → quotas and store.

use super::{Call, Outcome, Registry, Stored, allocate::Reservation, key};
use crate::{
    admission::Operation,
    custom::CustomKind,
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject, shared::object_meta},
};
use api::field;
use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::Time};
use storage::{Change, Revision};

/// What random suffixes are made of: Kubernetes' letters without vowels and look-alikes, so that no words arise.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// A generated name fits a label value.
const MAX_GENERATED: usize = 63;
/// How often a generated name that is taken is drawn again.
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// # Errors
    /// `Invalid` with every fault, `AlreadyExists`, or what admission says.
    pub async fn create(&self, call: &Call<'_>, mut object: Box<dyn AnyObject>) -> Result<Outcome> {
        match_namespace(call.kind, call.namespace, object.as_mut())?;
        if object.meta().resource_version.as_deref().is_some_and(|v| !v.is_empty()) {
            return Err(ApiError::BadRequest(
                "resourceVersion should not be set on objects to be created".to_owned(),
            ));
        }
        let kind = call.kind;
        // Held until the object is there or refused: who takes a definition's objects along must not miss one.
        let _making = match kind.custom().map(CustomKind::making) {
            Some(None) => {
                let name = object.meta().name.clone().unwrap_or_default();
                let text = "create not allowed while custom resource definition is terminating";
                return Err(call.attributes(Operation::Create, &name).forbidden(text));
            }
            leave => leave,
        };
        fill_system_fields(object.as_mut());
        kind.default(object.as_mut());
        {
            let name = object.meta().name.clone().unwrap_or_default();
            let attributes = call.attributes(Operation::Create, &name);
            self.chain().mutate(&attributes, object.as_mut(), None, self).await?;
        }
        kind.default(object.as_mut());
        let generate = object.meta().name.as_deref().unwrap_or_default().is_empty()
            && object.meta().generate_name.as_deref().is_some_and(|g| !g.is_empty());
        if generate {
            draw_name(object.as_mut());
        }
        kind.prepare_create(object.as_mut());
        if kind.generation_changed(object.as_ref(), object.as_ref()).is_some() {
            object.meta_mut().generation = Some(1);
        }
        let mut reservation = self.reserve(call, object.as_mut(), None)?;

        let name = object.meta().name.clone().unwrap_or_default();
        let mut errors = validate_metadata(kind, object.as_ref());
        errors.extend(kind.validate(object.as_ref()));
        call.invalid(&name, errors)?;
        let attributes = call.attributes(Operation::Create, &name);
        self.chain().validate(&attributes, Some(object.as_ref()), None, self).await?;
        let mut warnings = kind.warnings(object.as_ref());
        warnings.extend(crate::kinds::caveat(kind));
        warnings.extend(self.chain().remark(&attributes, object.as_ref(), None, self).await?);

        if call.dry_run {
            object.meta_mut().resource_version = None;
            // What a dry run may not say: that the name is free when it is not.
            if let Some(there) = self.find(call, &key(kind, call.namespace, &name)?).await? {
                return Err(taken(call, &name, Some(&there)));
            }
            self.charge(call, Operation::Create, object.as_ref(), None).await?;
            return Ok(Outcome { object: kind.to_stored(object.as_ref()).into(), created: true, warnings });
        }
        let mut attempt = 1;
        loop {
            let key = key(kind, call.namespace, object.meta().name.as_deref().unwrap_or_default())?;
            let create = |value| Change::Create { value };
            let written =
                self.store_counted(call, key, object.as_mut(), None, create, &mut reservation).await?;
            match written {
                Ok(kv) => return Ok(Outcome { object: kv.value, created: true, warnings }),
                Err(storage::Error::AlreadyExists(_)) if generate && attempt < NAME_ATTEMPTS => {
                    attempt += 1;
                    draw_name(object.as_mut());
                }
                Err(storage::Error::AlreadyExists(_)) => {
                    let name = object.meta().name.as_deref().unwrap_or_default();
                    let there = self.find(call, &super::key(kind, call.namespace, name)?).await?;
                    return Err(taken(call, name, there.as_ref()));
                }
                Err(e) => return Err(call.storage(e)),
            }
        }
    }

    /// Services hold addresses and ports; nothing else is allocated.
    pub(crate) fn reserve(
        &self,
        call: &Call<'_>,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
    ) -> Result<Option<Reservation>> {
        let Some(service) = object.as_any_mut().downcast_mut::<Service>() else { return Ok(None) };
        if call.subresource.is_some() {
            return Ok(None);
        }
        let old = old.and_then(|o| o.as_any().downcast_ref::<Service>());
        self.allocator().prepare(service, old).map(Some)
    }
}

/// The name is taken; whether it may be free soon matters to whoever tries.
fn taken(call: &Call<'_>, name: &str, there: Option<&Stored>) -> ApiError {
    let deleting = there.is_some_and(|s| s.object.meta().deletion_timestamp.is_some());
    match call.already_exists(name) {
        ApiError::AlreadyExists { group, resource, name, .. } => {
            ApiError::AlreadyExists { group, resource, name, deleting }
        }
        other => other,
    }
}

/// The namespace of the object must be that of the path; an object that names none gets it.
pub(crate) fn match_namespace(kind: &dyn AnyKind, namespace: &str, object: &mut dyn AnyObject) -> Result<()> {
    let meta = object.meta_mut();
    let own = meta.namespace.as_deref().unwrap_or_default();
    if !kind.resource().namespaced {
        meta.namespace = None;
    } else if own.is_empty() {
        meta.namespace = Some(namespace.to_owned());
    } else if own != namespace {
        return Err(ApiError::BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request"
                .to_owned(),
        ));
    }
    Ok(())
}

/// What only the server may say about an object.
fn fill_system_fields(object: &mut dyn AnyObject) {
    let meta = object.meta_mut();
    meta.uid = Some(uuid::Uuid::new_v4().to_string());
    meta.creation_timestamp = Some(Time(now()));
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
}

/// Now, in whole seconds: what `Time` keeps.
pub(crate) fn now() -> k8s_openapi::jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn draw_name(object: &mut dyn AnyObject) {
    let meta = object.meta_mut();
    let base = meta.generate_name.as_deref().unwrap_or_default();
    let mut cut = base.len().min(MAX_GENERATED - SUFFIX_LENGTH);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let suffix: String = (0..SUFFIX_LENGTH)
        .map(|_| char::from(SUFFIX_ALPHABET[fastrand::usize(..SUFFIX_ALPHABET.len())]))
        .collect();
    meta.name = Some(format!("{}{suffix}", &base[..cut]));
}

pub(crate) fn validate_metadata(kind: &dyn AnyKind, object: &dyn AnyObject) -> field::Errors {
    let namespaced = kind.resource().namespaced;
    let own = kind.custom().is_none() && kind.resource().group != "apiextensions.k8s.io";
    object_meta::validate_meta(
        object.meta(),
        namespaced,
        own,
        |name| kind.check_name(name),
        &field::Path::new("metadata"),
    )
}

/// The revision an object carries; `None` if it carries none, or `0`.
pub(crate) fn revision_of(object: &dyn AnyObject) -> Result<Option<Revision>> {
    match object.meta().resource_version.as_deref() {
        None | Some("" | "0") => Ok(None),
        Some(text) => text
            .parse()
            .map(|r| Some(Revision(r)))
            .map_err(|_| ApiError::BadRequest(format!("invalid resource version {text:?}"))),
    }
}

/// What may not change between two states of one object.
pub(crate) fn validate_metadata_update(new: &dyn AnyObject, old: &dyn AnyObject) -> field::Errors {
    object_meta::validate_meta_update(new.meta(), old.meta(), &field::Path::new("metadata"))
}
