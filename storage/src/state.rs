//! What is true and durable now: newest values, recent history, open watches. Readers share it, the writer changes it.

use crate::{
    error::Result,
    history::{Entry, History},
    limits::Limits,
    store::{List, ListOptions, Watch},
    types::{EventKind, Key, KeyValue, Prefix, Revision},
    watchers::Watchers,
};
use bytes::Bytes;
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

/// A live value without its key.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) value: Bytes,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
}

impl Slot {
    pub(crate) fn with(&self, key: &Key) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value: self.value.clone(),
            created: self.created,
            modified: self.modified,
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) live: BTreeMap<Key, Slot>,
    pub(crate) live_bytes: u64,
    pub(crate) history: History,
    pub(crate) watchers: Watchers,
    pub(crate) revision: Revision,
}

impl State {
    pub(crate) fn new(limits: Limits, floor: Revision) -> Self {
        let watchers = Watchers::new(limits.watch_queue);
        let history = History::new(limits, floor);
        Self { live: BTreeMap::new(), live_bytes: 0, history, watchers, revision: floor }
    }

    /// Sets one key without a trace in the history.
    pub(crate) fn set(&mut self, key: &Key, slot: Option<Slot>) -> Option<Slot> {
        self.live_bytes += slot.as_ref().map_or(0, |slot| slot.value.len() as u64);
        let old = match slot {
            // Entry-less, so that a key that is there keeps its allocation.
            Some(slot) => match self.live.get_mut(key) {
                Some(place) => Some(std::mem::replace(place, slot)),
                None => self.live.insert(key.clone(), slot),
            },
            None => self.live.remove(key),
        };
        self.live_bytes -= old.as_ref().map_or(0, |slot| slot.value.len() as u64);
        old
    }

    /// Makes one durable write visible to readers. Watchers are told by [`State::publish`].
    pub(crate) fn apply(&mut self, entry: Entry) {
        let event = &entry.event;
        let slot = (event.kind != EventKind::Deleted).then(|| Slot {
            value: event.value.clone(),
            created: entry.created,
            modified: event.revision,
        });
        self.set(&event.key, slot);
        self.revision = event.revision;
        self.history.push(entry);
    }

    pub(crate) fn publish(&mut self, entry: Entry) {
        self.watchers.publish(&entry.event);
        self.apply(entry);
    }

    pub(crate) fn list(&self, prefix: &Prefix, options: &ListOptions) -> Result<List> {
        let revision = options.at.unwrap_or(self.revision);
        // Keys that changed since, as they were then: the first event after the revision knows what it replaced.
        let mut then: BTreeMap<&Key, Option<Slot>> = BTreeMap::new();
        for entry in self.history.since(revision, self.revision)? {
            let key = &entry.event.key;
            if prefix.covers(key) && options.after.as_ref().is_none_or(|after| key > after) {
                then.entry(key).or_insert_with(|| entry.before());
            }
        }
        let limit = options.limit.unwrap_or(usize::MAX);
        let mut found = Collector { items: Vec::new(), limit, total: 0 };
        let mut then = then.into_iter().peekable();
        for (key, slot) in self.under(prefix, options.after.as_ref()) {
            // Keys deleted since come in between; for a key in both, what it was then wins.
            while let Some((old_key, old)) = then.next_if(|(old_key, _)| *old_key < key) {
                found.add(old_key, old.as_ref());
            }
            match then.next_if(|(old_key, _)| *old_key == key) {
                Some((_, old)) => found.add(key, old.as_ref()),
                None => found.add(key, Some(slot)),
            }
        }
        for (old_key, old) in then {
            found.add(old_key, old.as_ref());
        }
        let remaining = found.total - found.items.len();
        Ok(List { revision, items: found.items, remaining })
    }

    fn under<'a>(
        &'a self,
        prefix: &'a Prefix,
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Slot)> {
        let start = match after {
            Some(after) if after.as_str() >= prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix.as_str()),
        };
        self.live.range::<str, _>((start, Bound::Unbounded)).take_while(|(key, _)| prefix.covers(key))
    }

    pub(crate) fn watch(&mut self, prefix: Prefix, after: Revision) -> Result<Watch> {
        let replay = self
            .history
            .since(after, self.revision)?
            .filter(|entry| prefix.covers(&entry.event.key))
            .map(|entry| Arc::clone(&entry.event))
            .collect();
        Ok(Watch::with_replay(replay, self.watchers.register(prefix)))
    }
}

struct Collector {
    items: Vec<KeyValue>,
    limit: usize,
    total: usize,
}

impl Collector {
    fn add(&mut self, key: &Key, slot: Option<&Slot>) {
        let Some(slot) = slot else { return };
        self.total += 1;
        if self.items.len() < self.limit {
            self.items.push(slot.with(key));
        }
    }
}
