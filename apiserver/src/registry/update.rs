//! Update: PUT, every patch, and the subresources that change an object. One loop for all: read, make the new object,
//! check, write if the object is still what was read; else again.

use super::{
    Call, Outcome, Registry, Stored,
    create::{match_namespace, revision_of, validate_metadata},
    key, managed_fields,
};
use crate::{
    admission::Operation,
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject, Subresource},
};
use api::field;
use storage::Change as Write;

/// How often a write that lost a race is made again. Each round some writer wins, so this many rivals in a row means
/// something is wrong, and the client should know.
const ATTEMPTS: usize = 32;

/// Makes the new object from the stored one; `None` when there is none and the kind may be created by an update.
/// Called once for each attempt.
pub type Make<'m> = dyn FnMut(Option<&Stored>) -> Result<Box<dyn AnyObject>> + Send + 'm;

/// Which rules hold for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// The main endpoint: all but status.
    Main,
    /// `/status`: nothing but status, and what of the metadata may go along.
    Status,
    /// A subresource through which one part of the object is changed: what an approver says, the ephemeral containers
    /// of a pod, what its containers may use.
    Part(Subresource),
    /// The server's own change of single fields (binding, finalize): nothing is put back.
    Own,
}

impl Rules {
    pub fn of(subresource: Option<Subresource>) -> Self {
        match subresource {
            None | Some(Subresource::Scale) => Self::Main,
            Some(Subresource::Status) => Self::Status,
            Some(part @ (Subresource::Approval | Subresource::EphemeralContainers | Subresource::Resize)) => {
                Self::Part(part)
            }
            Some(_) => Self::Own,
        }
    }
}

/// A change to be made.
pub struct Change<'m, 'f> {
    /// Server-side apply: a missing object is made even if the kind does not allow it for PUT, and `make` has seen to
    /// `managedFields` itself.
    pub apply: bool,
    /// Make it again on whatever is there when another write came between; else that is a conflict.
    pub retry: bool,
    pub make: &'m mut Make<'f>,
}

enum Attempt {
    Done(Outcome),
    /// Another write came between.
    Lost,
}

impl Registry {
    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid` with every fault, or what `make` or admission says.
    pub async fn update(&self, call: &Call<'_>, mut change: Change<'_, '_>) -> Result<Outcome> {
        for _ in 0..ATTEMPTS {
            match self.try_update(call, &mut change).await? {
                Attempt::Done(outcome) => return Ok(outcome),
                Attempt::Lost => {}
            }
        }
        Err(call.conflict(super::MODIFIED))
    }

    async fn try_update(&self, call: &Call<'_>, change: &mut Change<'_, '_>) -> Result<Attempt> {
        let (kind, rules) = (call.kind, Rules::of(call.subresource));
        let key = key(kind, call.namespace, call.name)?;
        let Some(old) = self.find(call, &key).await? else {
            if !(change.apply || kind.create_on_update() && rules == Rules::Main) {
                return Err(call.not_found());
            }
            let mut object = (change.make)(None)?;
            check_name(call, object.as_mut())?;
            object.meta_mut().resource_version = None;
            return match self.create(call, object).await {
                Err(ApiError::AlreadyExists { .. }) => Ok(Attempt::Lost),
                other => other.map(Attempt::Done),
            };
        };
        let mut new = (change.make)(Some(&old))?;
        check_name(call, new.as_mut())?;
        check_revision(call, new.as_ref(), &old)?;
        let current = old.object.as_ref();

        if rules != Rules::Own {
            kind.default(new.as_mut());
        }
        {
            let attributes = call.attributes(Operation::Update, call.name);
            self.chain().mutate(&attributes, new.as_mut(), Some(current), self).await?;
        }
        if rules != Rules::Own {
            kind.default(new.as_mut());
        }
        carry_metadata(new.as_mut(), current);
        match rules {
            Rules::Main => kind.prepare_update(new.as_mut(), current),
            Rules::Status => kind.prepare_status_update(new.as_mut(), current),
            Rules::Part(part) => kind.prepare_part_update(part, new.as_mut(), current),
            Rules::Own => {}
        }
        // Neither a status nor the binding of a pod to its node is a change of what the owner wants.
        let wanted = matches!(rules, Rules::Main | Rules::Part(_));
        let changed = wanted && kind.generation_changed(new.as_ref(), current) == Some(true);
        new.meta_mut().generation = current.meta().generation.map(|g| g + i64::from(changed));
        let mut reservation = self.reserve(call, new.as_mut(), Some(current))?;
        call.invalid(call.name, validate(kind, rules, new.as_ref(), current))?;
        let attributes = call.attributes(Operation::Update, call.name);
        self.chain().validate(&attributes, Some(new.as_ref()), Some(current), self).await?;
        let mut warnings = if rules == Rules::Main { kind.warnings(new.as_ref()) } else { Vec::new() };
        warnings.extend(self.chain().remark(&attributes, new.as_ref(), Some(current), self).await?);

        if !change.apply {
            track(call, new.as_mut(), current)?;
        }
        let payload = self.encode(kind, new.as_mut())?;
        let unchanged = payload.finish(old.revision);
        let gone = is_let_go(kind, new.as_ref(), current);
        if call.dry_run && !gone {
            self.charge(call, Operation::Update, new.as_ref(), Some(current)).await?;
        }
        if call.dry_run || (!gone && unchanged == old.bytes) {
            // A write that changes nothing is none: no revision, no event.
            return Ok(Attempt::Done(Outcome { object: unchanged, created: false, warnings }));
        }
        let written = if gone {
            // What goes keeps nothing: a reservation that is dropped gives back what it held.
            self.remove(&key, old.revision, payload, current).await?
        } else {
            let update = |value| Write::Update { expected: old.revision, value };
            self.store_counted(call, key, new.as_mut(), Some(current), update, &mut reservation).await?
        };
        match written {
            Ok(kv) => Ok(Attempt::Done(Outcome { object: kv.value, created: false, warnings })),
            Err(storage::Error::Conflict { .. } | storage::Error::NotFound(_)) if change.retry => {
                Ok(Attempt::Lost)
            }
            Err(e) => Err(call.storage(e)),
        }
    }
}

/// An object may leave out its name and namespace, but not contradict the path.
pub(crate) fn check_name(call: &Call<'_>, object: &mut dyn AnyObject) -> Result<()> {
    match_namespace(call.kind, call.namespace, object)?;
    let meta = object.meta_mut();
    match meta.name.as_deref() {
        None | Some("") => meta.name = Some(call.name.to_owned()),
        Some(name) if name != call.name => {
            return Err(ApiError::BadRequest(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.name
            )));
        }
        Some(_) => {}
    }
    Ok(())
}

/// The uid that a client's whole object carries must be that of the stored one. (A patch that changes it is refused as
/// any change of what is immutable.)
pub(crate) fn check_uid(call: &Call<'_>, wanted: Option<&str>, stored: &Stored) -> Result<()> {
    let uid = stored.object.meta().uid.as_deref();
    if wanted.is_some_and(|u| !u.is_empty()) && wanted != uid {
        return Err(call.conflict(format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            wanted.unwrap_or_default(),
            uid.unwrap_or_default()
        )));
    }
    Ok(())
}

/// The resourceVersion that the client's object carries must be that of the stored one.
fn check_revision(call: &Call<'_>, new: &dyn AnyObject, old: &Stored) -> Result<()> {
    match revision_of(new)? {
        Some(revision) if revision != old.revision => Err(call.conflict(super::MODIFIED)),
        None if !call.kind.unconditional_update() && Rules::of(call.subresource) == Rules::Main => {
            let mut errors = field::Errors::default();
            let path = field::Path::new("metadata").child("resourceVersion");
            errors.invalid(&path, 0, "must be specified for an update");
            call.invalid(call.name, errors)
        }
        _ => Ok(()),
    }
}

/// Records who changed what, if the object was ever applied.
fn track(call: &Call<'_>, new: &mut dyn AnyObject, old: &dyn AnyObject) -> Result<()> {
    if !managed_fields::tracked(new.meta()) && !managed_fields::tracked(old.meta()) {
        new.meta_mut().managed_fields = None;
        return Ok(());
    }
    let mut value = new.to_value();
    managed_fields::update(
        call.kind,
        Some(&old.to_value()),
        &mut value,
        &call.writer,
        jiff::Timestamp::now(),
    );
    let entries = value["metadata"]["managedFields"].take();
    new.meta_mut().managed_fields = serde_json::from_value(entries)
        .map_err(|e| ApiError::Internal(format!("managedFields cannot be read back: {e}")))?;
    Ok(())
}

/// What an update cannot take away from an object, wherever it comes from.
fn carry_metadata(new: &mut dyn AnyObject, old: &dyn AnyObject) {
    let (meta, old) = (new.meta_mut(), old.meta());
    if meta.uid.as_deref().is_none_or(str::is_empty) {
        meta.uid.clone_from(&old.uid);
    }
    if meta.creation_timestamp.is_none() {
        meta.creation_timestamp.clone_from(&old.creation_timestamp);
    }
    if old.deletion_timestamp.is_some() {
        meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if old.deletion_grace_period_seconds.is_some() {
        meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    if meta.managed_fields.is_none() {
        meta.managed_fields.clone_from(&old.managed_fields);
    }
    meta.self_link = None;
}

fn validate(kind: &dyn AnyKind, rules: Rules, new: &dyn AnyObject, old: &dyn AnyObject) -> field::Errors {
    let mut errors = validate_metadata(kind, new);
    errors.extend(super::create::validate_metadata_update(new, old));
    match rules {
        Rules::Main => errors.extend(kind.validate_update(new, old)),
        Rules::Status => errors.extend(kind.validate_status_update(new, old)),
        Rules::Part(part) => errors.extend(kind.validate_part_update(part, new, old)),
        Rules::Own => {}
    }
    errors
}

/// Whether this update takes the last thing away that kept a deleted object: then it goes.
fn is_let_go(kind: &dyn AnyKind, new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
    new.meta().finalizers.as_ref().is_none_or(Vec::is_empty)
        && old.meta().deletion_timestamp.is_some()
        && old.meta().deletion_grace_period_seconds.unwrap_or(0) == 0
        && !kind.held(new)
}
