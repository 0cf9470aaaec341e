//! A cache filled by hand: for simulations, which decide themselves what a watch has shown so far.

use super::{Cached, Inner, Store};
use std::{mem, sync::Arc};
use tokio_util::sync::CancellationToken;

impl<K: Cached> Store<K> {
    /// A cache that no informer fills.
    pub fn by_hand() -> Self {
        Self { inner: Arc::new(Inner::new(CancellationToken::new())) }
    }

    pub fn feed(&self, deleted: bool, object: Arc<K>) {
        self.inner.publish(|state, changes| state.take(deleted, object, changes));
    }

    /// Nobody is told of anything any more. Callbacks hold stores, each other's too: this breaks the circle.
    pub fn close(&self) {
        let subscribers = mem::take(&mut *crate::lock(&self.inner.subscribers));
        drop(subscribers);
    }

    /// What a list shows is all there is, as of `revision`.
    pub fn feed_list(&self, listed: Vec<Arc<K>>, revision: u64) {
        self.inner.publish(|state, changes| state.replace(listed, Some(revision), changes));
        self.inner.synced.send_if_modified(|synced| !mem::replace(synced, true));
    }
}
