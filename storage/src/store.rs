//! The trait every backend keeps, each rule on its method.

use crate::{
    error::{Error, Result},
    timing::Timing,
    types::{Change, Event, Key, KeyValue, Payload, Prefix, Revision},
};
use async_trait::async_trait;
use std::{collections::VecDeque, sync::Arc};
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

    /// Several writes, all or none: of different keys, in order, one revision each, durable and visible together.
    /// The error is that of the first that cannot be; then nothing is written.
    async fn write(&self, writes: Vec<(Key, Change)>) -> Result<Vec<KeyValue>>;

    /// Every event under the prefix with a revision greater than `after`, in order, each once, then live.
    /// `Compacted` if the history no longer reaches back to `after`, `Future` if `after` is ahead.
    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch>;

    /// Forgets history up to and including `revision`; live values stay.
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// Figures for metrics and for people. Cheap; touches the disk only to ask for a file's size.
    fn stats(&self) -> Stats {
        Stats { revision: self.revision(), ..Stats::default() }
    }

    /// Flushes and closes; every call after it is `Closed`. Idempotent.
    async fn close(&self) -> Result<()>;
}

/// What a store holds just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub revision: Revision,
    /// The oldest revision that a list or a watch can still start from.
    pub oldest: Revision,
    /// Live keys, and the bytes of their values.
    pub keys: u64,
    pub value_bytes: u64,
    /// Events kept for watches and older lists, and their bytes.
    pub history_events: u64,
    pub history_bytes: u64,
    pub watchers: u64,
    /// Watches cut because they did not keep up, since the start.
    pub slow_watchers: u64,
    /// Writes made durable since the start, the groups they came in from end to end, and the part of it in which the log
    /// was appended to and flushed.
    pub writes: u64,
    pub commits: Timing,
    pub flushes: Timing,
    /// Bytes used on disk; `None` for a store without one.
    pub disk_bytes: Option<u64>,
}

type Item = std::result::Result<Arc<Event>, Error>;

/// A running watch. Dropping it ends it. The queue is bounded: a watcher that does not keep up gets
/// `TooSlow` after the events that were queued, then the end.
#[derive(Debug)]
pub struct Watch {
    /// What had happened before the watch began; bounded by the history, so the live queue stays free for what comes.
    replay: VecDeque<Arc<Event>>,
    events: mpsc::Receiver<Item>,
}

impl Watch {
    pub fn new(events: mpsc::Receiver<Item>) -> Self {
        Self::with_replay(VecDeque::new(), events)
    }
    /// Gives `replay` first, then `events`.
    pub fn with_replay(replay: VecDeque<Arc<Event>>, events: mpsc::Receiver<Item>) -> Self {
        Self { replay, events }
    }
    /// The next event; `None` at the end (closed or cut).
    pub async fn next(&mut self) -> Option<Result<Arc<Event>>> {
        match self.replay.pop_front() {
            Some(event) => Some(Ok(event)),
            None => self.events.recv().await,
        }
    }
    /// The next event if one is queued already.
    pub fn try_next(&mut self) -> Option<Result<Arc<Event>>> {
        match self.replay.pop_front() {
            Some(event) => Some(Ok(event)),
            None => self.events.try_recv().ok(),
        }
    }
}
