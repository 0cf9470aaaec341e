//! A work queue: a key is never handed out twice at once, repeated adds collapse, failures back off.
//! (signatures; the implementation follows)

use std::{hash::Hash, marker::PhantomData, time::Duration};

/// Cheap to clone; all clones are one queue.
pub struct Queue<T> {
    _t: PhantomData<fn() -> T>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { _t: PhantomData }
    }
}

impl<T: Hash + Eq + Clone + Send + 'static> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Hash + Eq + Clone + Send + 'static> Queue<T> {
    pub fn new() -> Self {
        Self { _t: PhantomData }
    }
    /// Now; a key being processed is handed out again after `done`.
    pub fn add(&self, key: T) {
        let _ = key;
    }
    pub fn add_after(&self, key: T, delay: Duration) {
        let _ = (key, delay);
    }
    /// After an exponential back-off of this key's failures (5 ms doubling to 1000 s, as client-go).
    pub fn add_rate_limited(&self, key: T) {
        let _ = key;
    }
    /// Clears the key's failure count.
    pub fn forget(&self, key: &T) {
        let _ = key;
    }
    /// The next key; `None` once shut down and empty. Call `done` when finished with it.
    pub async fn next(&self) -> Option<T> {
        None
    }
    pub fn done(&self, key: &T) {
        let _ = key;
    }
    pub fn shut_down(&self) {}
}
