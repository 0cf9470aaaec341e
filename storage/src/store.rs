//! The trait every backend keeps, each rule on its method.

use crate::{
    error::{Error, Result},
    types::{Event, Key, KeyValue, Payload, Prefix, Revision},
};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Read as of this revision; `None` is the newest. Older than the history is `Compacted`, ahead of it `Future`.
    pub at: Option<Revision>,
    /// Start strictly after this key.
    pub after: Option<Key>,
    /// At most this many; `None` is all.
    pub limit: Option<usize>,
}

/// A consistent list, in key order.
#[derive(Debug, Clone)]
pub struct List {
    /// The revision the whole list is true at.
    pub revision: Revision,
    pub items: Vec<KeyValue>,
    /// How many more keys under the prefix follow the last item.
    pub remaining: usize,
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest durable revision. An event is in the queue of every watcher it concerns before
    /// this returns its revision: so "queue empty after reading `revision()`" proves the watcher has seen all up to it.
    fn revision(&self) -> Revision;

    /// The newest durable value.
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>>;

    /// Every key under the prefix at one revision.
    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<List>;

    /// Writes a key that must not exist: else `AlreadyExists`. Returns when durable and published.
    async fn create(&self, key: Key, value: Payload) -> Result<KeyValue>;

    /// Replaces the value if the key is still at `expected`: else `NotFound` or `Conflict`.
    async fn update(&self, key: Key, expected: Revision, value: Payload) -> Result<KeyValue>;

    /// Removes the key if it is still at `expected`. `last` is the final state that watchers get,
    /// and that the returned `KeyValue` carries (`modified` is the deletion's revision).
    async fn delete(&self, key: Key, expected: Revision, last: Payload) -> Result<KeyValue>;

    /// Every event under the prefix with a revision greater than `after`, in order, each once, then live.
    /// `Compacted` if the history no longer reaches back to `after`, `Future` if `after` is ahead.
    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch>;

    /// Forgets history up to and including `revision`; live values stay.
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// Flushes and closes; every call after it is `Closed`. Idempotent.
    async fn close(&self) -> Result<()>;
}

/// A running watch. Dropping it ends it. The queue is bounded: a watcher that does not keep up gets
/// `TooSlow` after the events that were queued, then the end.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<std::result::Result<Arc<Event>, Error>>,
}

impl Watch {
    pub fn new(events: mpsc::Receiver<std::result::Result<Arc<Event>, Error>>) -> Self {
        Self { events }
    }
    /// The next event; `None` at the end (closed or cut).
    pub async fn next(&mut self) -> Option<Result<Arc<Event>>> {
        self.events.recv().await
    }
    /// The next event if one is queued already.
    pub fn try_next(&mut self) -> Option<Result<Arc<Event>>> {
        self.events.try_recv().ok()
    }
}
