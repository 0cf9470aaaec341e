//! The one writer: takes what is queued, validates it, makes it durable in one go, publishes, acknowledges.

use crate::{
    engine::Shared,
    error::{Error, Result},
    history::Entry,
    state::{Slot, State},
    types::{Change, Event, EventKind, Key, KeyValue, Revision},
};
use bytes::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot};

/// Writes in one group: more gain nothing (the flush is spread thin already) and make the first wait longer.
const GROUP_WRITES: usize = 256;
/// Bytes in one group, for the same reason where values are large.
const GROUP_BYTES: usize = 4 << 20;
/// How long a group waits for the writers that the last one served: they come back within this if they come at all,
/// and each that does saves a flush (a millisecond or two) to itself and to those behind it.
const GATHER: Duration = Duration::from_micros(600);
const GATHER_STEP: Duration = Duration::from_micros(60);
/// Forgotten records removed from disk at a time, with a group or when idle: a few milliseconds' work.
const GARBAGE_CHUNK: usize = 256;

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

#[derive(Debug)]
pub(crate) enum Op {
    /// All of them or none.
    Write {
        writes: Vec<(Key, Change)>,
        reply: Reply<Vec<KeyValue>>,
    },
    Compact {
        revision: Revision,
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

/// What one append makes durable, all or nothing.
pub(crate) struct Group<'a> {
    pub(crate) entries: &'a [Entry],
    /// The floor to remember: history up to here is gone.
    pub(crate) floor: Option<Revision>,
    /// Records that nobody can ask for any more.
    pub(crate) garbage: &'a [Revision],
}

/// Where writes become durable.
pub(crate) trait Log: Send + 'static {
    /// Returns when the group would survive a power cut. After an error the log is not used again.
    fn append(&mut self, group: &Group<'_>) -> Result<()>;
    /// Flushes and lets go of everything.
    fn close(self: Box<Self>) -> Result<()>;
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    ops: mpsc::Receiver<Op>,
    log: Option<Box<dyn Log>>,
    /// Records on disk that nobody can ask for any more, oldest first.
    garbage: VecDeque<Revision>,
    /// The newest record, where it is garbage: it goes with the next write.
    held: Option<Revision>,
    /// Writes in the last group: one client alone never waits for others.
    last_group: usize,
}

/// Whatever ends the writer, a panic included, closes the store.
impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.shut();
    }
}

type Request = (Vec<(Key, Change)>, Reply<Vec<KeyValue>>);

struct Accepted {
    reply: Reply<Vec<KeyValue>>,
    answer: Vec<KeyValue>,
}

/// A group being put together: later writes see earlier ones of the same group.
struct Draft<'a> {
    state: &'a State,
    pending: HashMap<Key, Option<Slot>>,
    revision: Revision,
    now_ms: u64,
    entries: Vec<Entry>,
}

impl Draft<'_> {
    /// Adds all of the writes, or leaves the draft as it was.
    fn add_all(&mut self, writes: Vec<(Key, Change)>) -> Result<Vec<KeyValue>> {
        let (entries, revision) = (self.entries.len(), self.revision);
        let mut before = Vec::with_capacity(writes.len());
        let mut answers = Vec::with_capacity(writes.len());
        for (key, change) in writes {
            before.push((key.clone(), self.pending.get(&key).cloned()));
            match self.add(key, change) {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    for (key, slot) in before.into_iter().rev() {
                        match slot {
                            Some(slot) => self.pending.insert(key, slot),
                            None => self.pending.remove(&key),
                        };
                    }
                    self.entries.truncate(entries);
                    self.revision = revision;
                    return Err(error);
                }
            }
        }
        Ok(answers)
    }

    fn add(&mut self, key: Key, change: Change) -> Result<KeyValue> {
        let (known, current) = match self.pending.get_key_value(&key) {
            Some((known, slot)) => (Some(known), slot.as_ref()),
            None => {
                self.state.live.get_key_value(&key).map_or((None, None), |(k, slot)| (Some(k), Some(slot)))
            }
        };
        // One allocation a key, however many events it has.
        let key = known.cloned().unwrap_or(key);
        let (kind, payload, current) = match (change, current) {
            (Change::Create { .. }, Some(_)) => return Err(Error::AlreadyExists(key)),
            (Change::Create { value }, None) => (EventKind::Created, value, None),
            (_, None) => return Err(Error::NotFound(key)),
            (Change::Update { expected, .. } | Change::Delete { expected, .. }, Some(slot))
                if slot.modified != expected =>
            {
                return Err(Error::Conflict { key, expected, actual: slot.modified });
            }
            (Change::Update { value, .. }, Some(slot)) => (EventKind::Updated, value, Some(slot)),
            (Change::Delete { last, .. }, Some(slot)) => (EventKind::Deleted, last, Some(slot)),
        };
        let revision = Revision(self.revision.0 + 1);
        let value = payload.finish(revision);
        let created = current.map_or(revision, |slot| slot.created);
        let previous: Option<(Revision, Bytes)> = current.map(|slot| (slot.modified, slot.value.clone()));
        let slot = Slot { value: value.clone(), created, modified: revision };
        self.pending.insert(key.clone(), (kind != EventKind::Deleted).then(|| slot.clone()));
        self.revision = revision;
        let answer = slot.with(&key);
        let (previous, previous_value) = previous.unzip();
        self.entries.push(Entry {
            event: Arc::new(Event { revision, kind, key, value, previous: previous_value }),
            created,
            previous: previous.unwrap_or_default(),
            time_ms: self.now_ms,
        });
        Ok(answer)
    }
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ops: mpsc::Receiver<Op>,
        log: Box<dyn Log>,
        garbage: Vec<Revision>,
    ) -> Self {
        Self { shared, ops, log: Some(log), garbage: garbage.into(), held: None, last_group: 0 }
    }

    /// Until closed, dropped by its owner, or failed by the disk.
    pub(crate) fn run(mut self) {
        let closing = self.serve();
        self.ops.close();
        self.shared.shut();
        // After a failed write nothing more is written: what the disk holds is for the next start to find out.
        let (Ok(reply), Some(log)) = (closing, self.log.take()) else { return };
        let closed = log.close().inspect_err(|error| tracing::error!(%error, "closing the store failed"));
        if let Some(reply) = reply {
            let _ = reply.send(closed);
        }
    }

    /// The reply of who asked to close; `None` if the store was dropped.
    fn serve(&mut self) -> Result<Option<Reply<()>>> {
        loop {
            let first = match self.ops.try_recv() {
                Ok(op) => op,
                Err(mpsc::error::TryRecvError::Disconnected) => return Ok(None),
                // Idle: clear away what is left over before going to sleep.
                Err(mpsc::error::TryRecvError::Empty) if !self.garbage.is_empty() => {
                    self.append(&[], None)?;
                    continue;
                }
                Err(mpsc::error::TryRecvError::Empty) => match self.ops.blocking_recv() {
                    Some(op) => op,
                    None => return Ok(None),
                },
            };
            let mut next = Some(first);
            while let Some(op) = next.take() {
                match op {
                    Op::Write { writes, reply } => next = self.group((writes, reply))?,
                    Op::Compact { revision, reply } => self.compact(revision, reply)?,
                    Op::Close { reply } => return Ok(Some(reply)),
                }
            }
        }
    }

    /// Waits for the writers of the last group: without it, the first to come back would have a flush of its own while
    /// all others queue behind it.
    fn gather(&self) {
        let begun = Instant::now();
        while self.ops.len() + 1 < self.last_group && begun.elapsed() < GATHER {
            thread::sleep(GATHER_STEP);
        }
    }

    /// Commits one write and as many as are queued behind it; returns an operation of another sort that came next.
    fn group(&mut self, first: Request) -> Result<Option<Op>> {
        self.gather();
        let begun = Instant::now();
        let shared = self.shared.clone();
        let (mut accepted, mut refused, mut next) = (Vec::new(), Vec::new(), None);
        let (entries, floor) = {
            let state = shared.read();
            let now_ms = now_ms();
            let (pending, entries) = (HashMap::new(), Vec::new());
            let mut draft = Draft { state: &state, pending, revision: state.revision, now_ms, entries };
            let (mut write, mut bytes) = (Some(first), 0);
            while let Some((writes, reply)) = write.take() {
                match draft.add_all(writes) {
                    Ok(answer) => {
                        bytes += answer.iter().map(|kv| kv.value.len()).sum::<usize>();
                        accepted.push(Accepted { reply, answer });
                    }
                    Err(error) => refused.push((reply, error)),
                }
                if accepted.len() + refused.len() < GROUP_WRITES && bytes < GROUP_BYTES {
                    match self.ops.try_recv() {
                        Ok(Op::Write { writes, reply }) => write = Some((writes, reply)),
                        Ok(other) => next = Some(other),
                        Err(_) => {}
                    }
                }
            }
            let floor = if draft.entries.is_empty() { None } else { state.history.overdue(now_ms) };
            self.garbage
                .extend(floor.iter().flat_map(|floor| state.history.up_to(*floor)).flat_map(Entry::garbage));
            (draft.entries, floor)
        };
        self.last_group = accepted.len() + refused.len();
        if !entries.is_empty()
            && let Err(error) = self.append(&entries, floor)
        {
            // Also those refused: they may have been judged by a write that is now lost.
            let replies =
                accepted.into_iter().map(|a| a.reply).chain(refused.into_iter().map(|(reply, _)| reply));
            // Closed first, so that nobody who learns of the failure finds the store still open.
            self.shared.shut();
            replies.for_each(|reply| drop(reply.send(Err(error.clone()))));
            return Err(error);
        }
        let writes = entries.len();
        self.publish(entries, floor);
        if writes > 0 {
            let mut work = self.shared.work();
            work.writes += writes as u64;
            work.commits.note(begun.elapsed());
        }
        for Accepted { reply, answer } in accepted {
            // A caller that went away has its write all the same.
            let _ = reply.send(Ok(answer));
        }
        for (reply, error) in refused {
            let _ = reply.send(Err(error));
        }
        Ok(next)
    }

    fn publish(&self, entries: Vec<Entry>, floor: Option<Revision>) {
        let mut state = self.shared.write();
        for entry in entries {
            state.publish(entry);
        }
        let gone = floor.map(|floor| state.history.trim(floor));
        self.shared.advance(state.revision);
        drop(state);
        drop(gone);
    }

    fn compact(&mut self, revision: Revision, reply: Reply<()>) -> Result<()> {
        let (floor, newest) = {
            let state = self.shared.read();
            (state.history.floor(), state.revision)
        };
        if revision > newest {
            let _ = reply.send(Err(Error::Future { requested: revision, newest }));
            return Ok(());
        }
        if revision > floor {
            self.garbage.extend(self.shared.read().history.up_to(revision).flat_map(Entry::garbage));
            if let Err(error) = self.append(&[], Some(revision)) {
                self.shared.shut();
                let _ = reply.send(Err(error.clone()));
                return Err(error);
            }
            self.publish(Vec::new(), Some(revision));
        }
        let _ = reply.send(Ok(()));
        Ok(())
    }

    /// Appends a group with a share of the garbage. The floor goes to disk no later than the first
    /// record it lets go, so a start-up never misses a record that it should have.
    fn append(&mut self, entries: &[Entry], floor: Option<Revision>) -> Result<()> {
        // The newest record stays whatever it is: it is how a restart knows which revisions were used.
        match entries.last() {
            Some(_) => self.garbage.extend(self.held.take()),
            None if self.garbage.back() == Some(&self.shared.read().revision) => {
                self.held = self.garbage.pop_back()
            }
            None => {}
        }
        let chunk = self.garbage.len().min(GARBAGE_CHUNK.max(2 * entries.len()));
        let garbage: Vec<Revision> = self.garbage.drain(..chunk).collect();
        let group = Group { entries, floor, garbage: &garbage };
        let log = self.log.as_mut().ok_or(Error::Closed)?;
        let begun = Instant::now();
        let appended = log.append(&group);
        self.shared.work().flushes.note(begun.elapsed());
        appended.inspect_err(|error| tracing::error!(%error, "a write to disk failed; the store closes"))
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
