//! A cache filled by hand: for simulations, which decide themselves what a watch has shown so far.

use super::{Cached, Store};
use std::{mem, sync::Arc};

impl<K: Cached> Store<K> {
    pub fn feed(&self, deleted: bool, object: Arc<K>) {
        self.inner.publish(|state, changes| match deleted {
            true => state.delete(object, changes),
            false => state.apply(object, changes),
        });
    }

    /// Nobody is told of anything any more. Callbacks hold stores, each other's too: this breaks the circle.
    pub fn close(&self) {
        let subscribers = mem::take(&mut *crate::lock(&self.inner.subscribers));
        drop(subscribers);
    }

    /// What a list shows is all there is.
    pub fn feed_list(&self, listed: Vec<Arc<K>>) {
        self.inner.publish(|state, changes| state.replace(listed, changes));
        self.inner.synced.send_if_modified(|synced| !mem::replace(synced, true));
    }
}
