//! One watch per kind and process: objects are decoded once and shared as `Arc`s.
//!
//! ```text
//!  API server ─watch─► follow (HTTP, lines, resumption) ─JSON─► store (decode, batch) ─► readers, indexes
//!                                                                          └─► on_change callbacks
//! ```
//! A store starts with a watch-list (KEP-3157), or a paged list where the server has none, resumes a broken watch
//! at the revision it has seen, and lists again when that has expired. Whatever happens in between, subscribers
//! see every object's latest state and every delete, in an order in which each object's states only move on.

mod follow;
mod lines;
mod partial;
mod store;
#[cfg(test)]
mod tests;

pub use partial::PartialObject;
pub use store::Store;

use crate::lock;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A kind that can be followed.
pub trait Cached:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + serde::de::DeserializeOwned
    + Send
    + Sync
    + 'static
{
}
impl<K> Cached for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// What happened to one object, as told to `Store::on_change` callbacks. Deletes are always delivered,
/// also those found missing by a re-list (with the last state known).
#[derive(Debug)]
pub enum Change<K> {
    Applied { old: Option<Arc<K>>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest state known.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Applied { new, .. } => new,
            Change::Deleted(last) => last,
        }
    }
}

/// The process's informers: at most one watch for each kind, started when first asked for.
#[derive(Clone)]
pub struct Informers {
    shared: Arc<Shared>,
}

struct Shared {
    client: kube::Client,
    token: CancellationToken,
    tracker: TaskTracker,
    stores: Mutex<HashMap<(TypeId, String), Running>>,
}

struct Running {
    /// A `Store<K>` of the key's type.
    store: Box<dyn Any + Send + Sync>,
    synced: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Informers {
    /// Watches end when `token` is cancelled.
    pub fn new(client: kube::Client, token: CancellationToken) -> Self {
        let shared = Shared { client, token, tracker: TaskTracker::new(), stores: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The shared store of a kind (all namespaces). Idempotent. Must be called within a tokio runtime.
    pub fn store<K: Cached>(&self) -> Store<K> {
        self.store_at(Store::<K>::path())
    }

    /// The shared store of the metadata of a collection, whatever its kind: `/apis/apps/v1/statefulsets`.
    /// Idempotent. Must be called within a tokio runtime.
    pub fn metadata(&self, path: &str) -> Store<PartialObject> {
        self.store_at(path.to_owned())
    }

    fn store_at<K: Cached>(&self, path: String) -> Store<K> {
        let mut stores = lock(&self.shared.stores);
        let key = (TypeId::of::<K>(), path.clone());
        if let Some(store) = stores.get(&key).and_then(|r| r.store.downcast_ref::<Store<K>>()) {
            return store.clone();
        }
        let stop = self.shared.token.child_token();
        let store = Store { inner: Arc::new(store::Inner::<K>::new(stop.clone())) };
        let running = Running {
            store: Box::new(store.clone()),
            synced: store.inner.subscribe_synced(),
            stop: stop.clone(),
        };
        stores.insert(key, running);
        drop(stores);
        let (inner, client) = (store.inner.clone(), self.shared.client.clone());
        self.shared.tracker.spawn(async move {
            let follower = follow::Follower { client, path, sink: &*inner };
            stop.run_until_cancelled(follower.run()).await;
        });
        store
    }

    /// Ends the watch that [`Self::metadata`] began, for a collection that is no longer served.
    pub fn forget_metadata(&self, path: &str) {
        let key = (TypeId::of::<PartialObject>(), path.to_owned());
        if let Some(running) = lock(&self.shared.stores).remove(&key) {
            running.stop.cancel();
        }
    }

    /// Waits until every store asked for so far has its first full list, or the informers were told to end.
    pub async fn synced(&self) {
        let waits: Vec<_> = lock(&self.shared.stores).values().map(|r| r.synced.clone()).collect();
        for mut synced in waits {
            tokio::select! {
                // An error means that the store is gone with its informers.
                _ = synced.wait_for(|synced| *synced) => {}
                () = self.shared.token.cancelled() => return,
            }
        }
    }

    /// Waits for the watch tasks to end after the token was cancelled.
    pub async fn stopped(&self) {
        self.shared.token.cancelled().await;
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
    }
}
