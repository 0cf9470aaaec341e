//! A set of keys to look at again, for a component that handles all it has at once (a `Queue` is for one that
//! handles key by key).

use crate::lock;
use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Mutex},
};
use tokio::sync::Notify;

/// Cheap to clone; all clones are one set. Bounded by the number of distinct keys.
pub struct Marks<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    keys: Mutex<HashSet<T>>,
    added: Notify,
}

impl<T> Clone for Marks<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Hash + Eq> Default for Marks<T> {
    fn default() -> Self {
        Self { inner: Arc::new(Inner { keys: Mutex::default(), added: Notify::new() }) }
    }
}

impl<T: Hash + Eq> Marks<T> {
    pub fn mark(&self, key: T) {
        lock(&self.inner.keys).insert(key);
        self.inner.added.notify_one();
    }

    /// All keys marked since the last call, perhaps none.
    pub fn take_now(&self) -> HashSet<T> {
        std::mem::take(&mut *lock(&self.inner.keys))
    }

    /// All keys marked since the last call, at once; waits until there is one. For one caller at a time. Nothing
    /// is lost when the future is dropped.
    pub async fn take(&self) -> HashSet<T> {
        loop {
            let keys = self.take_now();
            if !keys.is_empty() {
                return keys;
            }
            // A mark made since the look has left a permit.
            self.inner.added.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn marks_collapse_and_wake() {
        let marks = Marks::default();
        marks.mark(1);
        marks.mark(2);
        marks.mark(1);
        assert_eq!(marks.take().await, HashSet::from([1, 2]));
        let other = marks.clone();
        let waiter = tokio::spawn(async move { other.take().await });
        tokio::task::yield_now().await;
        marks.mark(3);
        assert_eq!(waiter.await.unwrap(), HashSet::from([3]));
    }
}
