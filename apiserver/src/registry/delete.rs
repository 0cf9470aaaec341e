//! Delete: at once, by marking (grace, finalizers), and whole collections.
//!
//! An object goes from the store only when nothing holds it: no finalizer, no grace left, and nothing of the kind's
//! own (`Kind::held`). Until then it carries a deletionTimestamp, and whoever takes the last hold away removes it.

use super::{Call, Registry, Selection, Stored, create::now, key, list::PageOptions};
use crate::{
    admission::Operation,
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject, Deletion},
    request::options::{DeleteOptions, Propagation},
};
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::{
    api::{core::v1::Service, networking::v1::IPAddress},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::SignedDuration,
    jiff::Timestamp,
};
use storage::{Change, Key, KeyValue, Payload, Revision};

/// The dependents go first; the garbage collector takes the finalizer off.
const FOREGROUND: &str = "foregroundDeletion";
/// The dependents stay; the garbage collector cuts them loose and takes the finalizer off.
const ORPHAN: &str = "orphan";
/// How often a delete that lost a race is tried again.
const ATTEMPTS: usize = 32;
/// Objects of a collection deleted at once: enough to fill one group commit, few enough to leave room for others.
const COLLECTION_WORKERS: usize = 32;

/// What became of the object.
#[derive(Debug)]
pub enum Deleted {
    /// Gone; its last state.
    Gone(Bytes),
    /// Still there, marked; its new state.
    Marked(Bytes),
}

/// What one attempt decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Remove,
    Mark,
    /// Deletion is under way already and this request changes nothing about it.
    Nothing,
}

impl Registry {
    /// # Errors
    /// `NotFound`, `Conflict` if a precondition fails, or what admission says.
    pub async fn delete(&self, call: &Call<'_>, options: &DeleteOptions) -> Result<Deleted> {
        let key = key(call.kind, call.namespace, call.name)?;
        for _ in 0..ATTEMPTS {
            let old = self.find(call, &key).await?.ok_or_else(|| call.not_found())?;
            check_preconditions(call, options, &old)?;
            let attributes = call.attributes(Operation::Delete, call.name);
            self.chain().validate(&attributes, None, Some(old.object.as_ref()), self).await?;
            let mut object = old.object.clone_box();
            let step = decide(call, options, object.as_mut(), now());
            if step == Step::Nothing {
                return Ok(Deleted::Marked(old.bytes));
            }
            let payload = self.encode(call.kind, object.as_mut())?;
            let unchanged = payload.finish(old.revision);
            if call.dry_run || options.dry_run {
                return Ok(if step == Step::Mark {
                    Deleted::Marked(unchanged)
                } else {
                    Deleted::Gone(unchanged)
                });
            }
            let done = match step {
                Step::Mark if unchanged == old.bytes => return Ok(Deleted::Marked(unchanged)),
                Step::Mark => self
                    .0
                    .store
                    .update(key.clone(), old.revision, payload)
                    .await
                    .map(|kv| Deleted::Marked(kv.value)),
                _ => self
                    .remove(&key, old.revision, payload, old.object.as_ref())
                    .await?
                    .map(|kv| Deleted::Gone(kv.value)),
            };
            match done {
                Ok(done) => return Ok(done),
                Err(storage::Error::Conflict { .. }) => {}
                Err(e) => return Err(call.storage(e)),
            }
        }
        Err(call.conflict(super::MODIFIED))
    }

    /// Takes the object from the store, and back what it held: the object of a service's address goes in one commit with it.
    ///
    /// # Errors
    /// The inner one is about the object's own key.
    pub(crate) async fn remove(
        &self,
        key: &Key,
        expected: Revision,
        last: Payload,
        object: &dyn AnyObject,
    ) -> Result<storage::Result<KeyValue>> {
        for _ in 0..ATTEMPTS {
            let mut along = self.along(None, Some(object)).await?;
            let own = (key.clone(), Change::Delete { expected, last: last.clone() });
            let writes = [own].into_iter().chain(along.take_writes()).collect();
            match self.0.store.write(writes).await {
                Ok(written) => {
                    if let Some(service) = object.as_any().downcast_ref::<Service>() {
                        self.allocator().release(service, along.stays);
                    }
                    if let Some(address) = object.as_any().downcast_ref::<IPAddress>() {
                        self.vacated(address).await;
                    }
                    let missing = || ApiError::Internal("a write was not answered".to_owned());
                    return written.into_iter().next().ok_or_else(missing).map(Ok);
                }
                // The object of the address changed, or went: looked at anew.
                Err(storage::Error::Conflict { key: of, .. } | storage::Error::NotFound(of))
                    if of != *key => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Err(ApiError::Internal(format!("what {key} holds changes too fast for it to go")))
    }

    /// Deletes all that the selection matches, and returns what was there. An object that goes meanwhile is no error.
    pub async fn delete_collection(
        &self,
        call: &Call<'_>,
        selection: &Selection,
        options: &DeleteOptions,
        page: PageOptions,
    ) -> Result<super::Page> {
        let page = self.list(call.kind, call.namespace, selection, &page).await?;
        let mut running = FuturesUnordered::new();
        for kv in &page.items {
            if running.len() >= COLLECTION_WORKERS
                && let Some(done) = running.next().await
            {
                done?;
            }
            running.push(self.delete_member(call, options, &kv.key));
        }
        while let Some(done) = running.next().await {
            done?;
        }
        drop(running);
        Ok(page)
    }

    async fn delete_member(&self, call: &Call<'_>, options: &DeleteOptions, key: &Key) -> Result<()> {
        let (namespace, name) = super::selection::names(call.kind, key);
        match self.delete(&Call { namespace, name, ..*call }, options).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

pub(crate) fn check_preconditions(call: &Call<'_>, options: &DeleteOptions, old: &Stored) -> Result<()> {
    let uid = old.object.meta().uid.as_deref().unwrap_or_default();
    if let Some(wanted) = options.uid.as_deref().filter(|u| *u != uid) {
        return Err(of_kind(
            call,
            format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). \
             The object might have been deleted and then recreated"
            ),
        ));
    }
    let revision = old.revision.to_string();
    if let Some(wanted) = options.resource_version.as_deref().filter(|r| *r != revision) {
        return Err(of_kind(
            call,
            format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
             ({revision}). The object might have been modified"
            ),
        ));
    }
    Ok(())
}

/// Here Kubernetes names the kind where it names the resource elsewhere.
fn of_kind(call: &Call<'_>, detail: String) -> ApiError {
    match call.conflict(detail) {
        ApiError::Conflict { group, name, detail, .. } => {
            let kind = call.kind.resource().kind;
            let resource = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
            ApiError::Conflict { group, resource, name, detail }
        }
        other => other,
    }
}

/// Changes `object` to what a delete at `now` makes of it, and says what is to be done with it.
fn decide(call: &Call<'_>, options: &DeleteOptions, object: &mut dyn AnyObject, now: Timestamp) -> Step {
    let (kind, meta) = (call.kind, object.meta());
    let marked = meta.deletion_timestamp.clone();
    let graceful = match (marked, meta.deletion_grace_period_seconds.unwrap_or(0)) {
        (Some(marked), left) if left > 0 => match options.grace_period_seconds {
            // A second delete may only shorten the grace.
            Some(asked) if asked < left => {
                shorten(object, marked.0, left, asked, now);
                asked > 0
            }
            _ => return Step::Nothing,
        },
        (Some(_), _) => false,
        (None, _) => match kind.deletion(object, options.grace_period_seconds) {
            Deletion::Immediate => false,
            Deletion::Graceful { seconds } => {
                mark(kind, object, now, seconds);
                seconds > 0
            }
        },
    };
    set_collection_finalizers(call, options, object);
    let finalizers = object.meta().finalizers.as_ref().is_some_and(|f| !f.is_empty());
    if graceful {
        return Step::Mark;
    }
    if !finalizers && !kind.held(object) {
        return Step::Remove;
    }
    let fresh = object.meta().deletion_timestamp.is_none();
    if fresh {
        mark(kind, object, now, 0);
    } else {
        let grace = &mut object.meta_mut().deletion_grace_period_seconds;
        *grace = grace.map(|_| 0);
        if object.meta().deletion_timestamp.as_ref().is_some_and(|t| t.0 > now) {
            object.meta_mut().deletion_timestamp = Some(Time(now));
        }
    }
    Step::Mark
}

fn mark(kind: &dyn AnyKind, object: &mut dyn AnyObject, now: Timestamp, grace: i64) {
    let meta = object.meta_mut();
    meta.deletion_timestamp = Some(Time(later(now, grace)));
    meta.deletion_grace_period_seconds = Some(grace);
    if let Some(generation) = meta.generation.filter(|g| *g > 0) {
        meta.generation = Some(generation + 1);
    }
    kind.prepare_deletion(object);
}

/// Moves the deletionTimestamp to what it would be had `asked` been asked for at first, but not into the past.
fn shorten(object: &mut dyn AnyObject, marked: Timestamp, left: i64, asked: i64, now: Timestamp) {
    let mut at = later(marked, asked - left);
    let mut grace = asked;
    if at < now {
        at = now;
        // All grace is over, but whoever runs the object still has to be told: the shortest grace there is.
        grace = grace.min(1);
    }
    let meta = object.meta_mut();
    meta.deletion_timestamp = Some(Time(at));
    meta.deletion_grace_period_seconds = Some(grace);
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// Sets the finalizers by which the garbage collector learns what shall become of the dependents.
fn set_collection_finalizers(call: &Call<'_>, options: &DeleteOptions, object: &mut dyn AnyObject) {
    let finalizers = object.meta().finalizers.clone().unwrap_or_default();
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    let propagation = options.propagation.unwrap_or_else(|| {
        if has(ORPHAN) {
            Propagation::Orphan
        } else if has(FOREGROUND) {
            Propagation::Foreground
        } else if call.kind.orphans_by_default() {
            Propagation::Orphan
        } else {
            Propagation::Background
        }
    });
    let wanted = match propagation {
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Background => None,
    };
    let mut new: Vec<String> = finalizers
        .iter()
        .filter(|f| *f != ORPHAN && *f != FOREGROUND || Some(f.as_str()) == wanted)
        .cloned()
        .collect();
    if let Some(wanted) = wanted
        && !new.iter().any(|f| f == wanted)
    {
        new.push(wanted.to_owned());
    }
    if new != finalizers {
        object.meta_mut().finalizers = Some(new).filter(|f| !f.is_empty());
    }
}
