//! A write together with what it uses of its namespace's quotas: both are stored, or neither is.
//!
//! A quota is read, judged by `admission::resource_quota`, and written at the revision it was read at, in one write of the
//! store with the object itself. So no two writers can both take the last place, a write that fails for another reason
//! has used nothing, and a crash can come only before or after both.

use super::{Call, Registry, addresses::taken, allocate::Reservation, decode, prefix, storage_error};
use crate::{
    admission::{Operation, resource_quota, typed},
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject},
};
use api::quota;
use k8s_openapi::api::core::v1::ResourceQuota;
use std::hash::{DefaultHasher, Hash, Hasher};
use storage::{Change, Key, KeyValue, ListOptions, Payload};
use tokio::sync::{Mutex, MutexGuard};

/// Writers of one namespace with quotas go one after another, or each but one of them would judge in vain. Namespaces share
/// this many turns: enough that few meet by chance.
const TURNS: usize = 64;
/// How often a write is judged again because a quota changed under it: its controller writes now and then, a person rarely.
const ATTEMPTS: usize = 32;

pub(super) struct Turns([Mutex<()>; TURNS]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Turns {
    pub(super) async fn of(&self, what: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        let turn = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default();
        self.0[turn].lock().await
    }
}

/// What is to be written along.
pub(super) struct Charge<'r> {
    quotas: Vec<(Key, Change)>,
    turn: MutexGuard<'r, ()>,
}

impl Registry {
    /// Judges the write by the quotas of its namespace; `None` if there is nothing to count.
    pub(super) async fn charge(
        &self,
        call: &Call<'_>,
        operation: Operation,
        new: &dyn AnyObject,
        old: Option<&dyn AnyObject>,
    ) -> Result<Option<Charge<'_>>> {
        let name = new.meta().name.clone().unwrap_or_default();
        let attributes = call.attributes(operation, &name);
        let Some(counted) = resource_quota::counted(&attributes, new, old) else { return Ok(None) };
        let Some(kind) = self.kind_named("resourcequotas") else { return Ok(None) };
        let limit = Some(1);
        let any = self.quotas(kind, call.namespace, ListOptions { limit, ..ListOptions::default() }).await?;
        if any.is_empty() {
            return Ok(None);
        }
        let turn = self.0.turns.of(call.namespace).await;
        let stored = self.quotas(kind, call.namespace, ListOptions::default()).await?;
        let quotas = stored
            .iter()
            .map(|kv| decode(kind, kv).and_then(|object| typed::<ResourceQuota>(&*object).cloned()))
            .collect::<Result<Vec<_>>>()?;
        let changed = resource_quota::decide(&attributes, &quotas, &counted, old, jiff::Timestamp::now())?;
        let mut writes = Vec::with_capacity(changed.len());
        for (index, used) in changed {
            let (kv, mut quota) = (&stored[index], quotas[index].clone());
            quota.status.get_or_insert_default().used = Some(quota::texts(&used));
            let value = self.encode(kind, &mut quota)?;
            writes.push((kv.key.clone(), Change::Update { expected: kv.modified, value }));
        }
        Ok((!writes.is_empty()).then_some(Charge { quotas: writes, turn }))
    }

    async fn quotas(
        &self,
        kind: &dyn AnyKind,
        namespace: &str,
        options: ListOptions,
    ) -> Result<Vec<KeyValue>> {
        let list = self.0.store.list(&prefix(kind, namespace)?, options).await;
        Ok(list.map_err(storage_error)?.items)
    }

    /// Stores the object at `key`, what it uses of quotas, and the object of the address that it gets or gives up. `change`
    /// makes the write of the object's bytes; `reservation` is committed with it.
    ///
    /// # Errors
    /// The outer one is a quota's refusal; the inner one is about the object's own key.
    pub(super) async fn store_counted(
        &self,
        call: &Call<'_>,
        key: Key,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        change: impl Fn(Payload) -> Change,
        reservation: &mut Option<Reservation>,
    ) -> Result<storage::Result<KeyValue>> {
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        for _ in 0..ATTEMPTS {
            let charge = self.charge(call, operation, object, old).await?;
            let mut along = self.along(Some(object), old).await?;
            let own = (key.clone(), change(self.encode(call.kind, object)?));
            let (quotas, _turn) = charge.map(|c| (c.quotas, c.turn)).unzip();
            let writes =
                [own].into_iter().chain(quotas.unwrap_or_default()).chain(along.take_writes()).collect();
            match self.0.store.write(writes).await {
                Ok(written) => {
                    for reservation in [reservation.take(), along.reservation.take()].into_iter().flatten() {
                        reservation.commit(along.stays);
                    }
                    let missing = || ApiError::Internal("a write was not answered".to_owned());
                    return written.into_iter().next().ok_or_else(missing).map(Ok);
                }
                // A quota or an address's object changed, or went: judged anew.
                Err(storage::Error::Conflict { key: of, .. } | storage::Error::NotFound(of)) if of != key => {
                }
                Err(storage::Error::AlreadyExists(of)) if of != key => return Err(taken(object)),
                Err(error) => return Ok(Err(error)),
            }
        }
        Err(call.conflict("the quotas of its namespace change too fast"))
    }
}
