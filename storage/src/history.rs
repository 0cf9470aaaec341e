//! The recent past: every event after the floor, so that watches resume and lists can be read as they were.

use crate::{
    error::{Error, Result},
    limits::Limits,
    state::Slot,
    types::{Event, EventKind, Revision},
};
use std::{collections::VecDeque, sync::Arc};

/// One write with what is needed to undo it and to forget it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) event: Arc<Event>,
    /// The write that made the key.
    pub(crate) created: Revision,
    /// The write this one superseded; 0 for `Created`.
    pub(crate) previous: Revision,
    /// Wall-clock milliseconds of the write; only ever used for trimming.
    pub(crate) time_ms: u64,
}

/// What an event costs besides its bytes: the entry, the `Arc`s and their headers.
const ENTRY_OVERHEAD: u64 = 200;

impl Entry {
    /// `previous` is not counted: it is the value of an older entry or the price of the window's first one.
    fn weight(&self) -> u64 {
        (self.event.key.as_str().len() + self.event.value.len()) as u64 + ENTRY_OVERHEAD
    }

    /// The key's state just before this write.
    pub(crate) fn before(&self) -> Option<Slot> {
        let value = self.event.previous.clone()?;
        Some(Slot { value, created: self.created, modified: self.previous })
    }

    /// The revisions nobody can ask for once this entry is forgotten: the record it superseded,
    /// and a deletion's own record.
    pub(crate) fn garbage(&self) -> impl Iterator<Item = Revision> {
        let superseded = (self.previous.0 != 0).then_some(self.previous);
        let tombstone = (self.event.kind == EventKind::Deleted).then_some(self.event.revision);
        superseded.into_iter().chain(tombstone)
    }
}

/// The window. Invariant: `entries[i]` is revision `floor + 1 + i`, without gaps.
#[derive(Debug)]
pub(crate) struct History {
    entries: VecDeque<Entry>,
    floor: Revision,
    bytes: u64,
    limits: Limits,
}

impl History {
    pub(crate) fn new(limits: Limits, floor: Revision) -> Self {
        Self { entries: VecDeque::new(), floor, bytes: 0, limits }
    }
    /// The oldest revision that can still be read or watched from.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.event.revision.0, self.floor.0 + self.entries.len() as u64 + 1);
        self.bytes += entry.weight();
        self.entries.push_back(entry);
    }

    /// Every entry after `after`, oldest first; `newest` is the store's revision.
    pub(crate) fn since(
        &self,
        after: Revision,
        newest: Revision,
    ) -> Result<impl DoubleEndedIterator<Item = &Entry>> {
        if after < self.floor {
            return Err(Error::Compacted { requested: after, oldest: self.floor });
        }
        if after > newest {
            return Err(Error::Future { requested: after, newest });
        }
        // Never more than the deque's length, since `after <= newest`.
        let skip = (after.0 - self.floor.0) as usize;
        Ok(self.entries.range(skip.min(self.entries.len())..))
    }

    /// The floor to move to, if a limit is passed by more than an eighth: so that trimming comes in
    /// strides and its mark on disk is not rewritten with every write.
    pub(crate) fn overdue(&self, now_ms: u64) -> Option<Revision> {
        let limits = &self.limits;
        let age_ms = u64::try_from(limits.history_age.as_millis()).unwrap_or(u64::MAX);
        let old = |entry: &Entry, age: u64| now_ms.saturating_sub(entry.time_ms) > age;
        let over = self.entries.len() > limits.history_events.saturating_add(limits.history_events / 8)
            || self.bytes > limits.history_bytes.saturating_add(limits.history_bytes / 8)
            || self.entries.front().is_some_and(|oldest| old(oldest, age_ms.saturating_add(age_ms / 8)));
        if !over {
            return None;
        }
        let (mut left, mut bytes, mut floor) = (self.entries.len(), self.bytes, self.floor);
        for entry in &self.entries {
            if left <= limits.history_events && bytes <= limits.history_bytes && !old(entry, age_ms) {
                break;
            }
            left -= 1;
            bytes -= entry.weight();
            floor = entry.event.revision;
        }
        (floor > self.floor).then_some(floor)
    }

    /// The entries up to and including `floor`.
    pub(crate) fn up_to(&self, floor: Revision) -> impl Iterator<Item = &Entry> {
        self.entries.iter().take_while(move |entry| entry.event.revision <= floor)
    }

    /// Forgets the entries up to and including `floor` and hands them over, to be dropped outside of any lock.
    pub(crate) fn trim(&mut self, floor: Revision) -> Vec<Entry> {
        let count = self.up_to(floor).count();
        let gone: Vec<Entry> = self.entries.drain(..count).collect();
        self.bytes -= gone.iter().map(Entry::weight).sum::<u64>();
        self.floor = self.floor.max(floor);
        gone
    }
}
