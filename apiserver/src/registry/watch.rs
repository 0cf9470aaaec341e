//! Watch: the store's events as a client wants to see them.
//!
//! A stored object's bytes go into the event as they are; the frame around them is put on while they are copied into
//! the chunk that is sent. Events that are queued already go out in one chunk. A client that does not read is not
//! waited for: its store queue overflows and the watch ends; it comes back with the revision it last saw.

mod frames;

use super::{PageOptions, Registry, Selection, facts::FactsCache, prefix, selection::names, storage_error};
use crate::{
    custom::CustomKind,
    error::{ApiError, Result},
    kinds::{AnyKind, KindRef},
    request::{
        negotiate::Form,
        options::{ListOptions, ResourceVersion},
    },
};
use bytes::{Bytes, BytesMut};
use frames::{Frames, INITIAL_EVENTS_END, Type, at_revision};
use futures::{Stream, StreamExt, stream};
use std::{pin::Pin, sync::Arc, time::Duration, vec};
use storage::{Event, EventKind, KeyValue, Revision, Store};
use tokio::time::{Instant, Interval, Sleep};
use tokio_util::sync::CancellationToken;

/// A watch that names no timeout ends after this, and up to as much again: clients come back, and the load spreads.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// Events are gathered into a chunk up to about this size.
const CHUNK: usize = 64 * 1024;
/// What a watch is about and how it is to be answered.
pub struct Request {
    pub kind: KindRef,
    pub namespace: String,
    pub selection: Selection,
    pub options: ListOptions,
    pub form: Form,
    /// Frames of protobuf, not lines of JSON. Only for kinds that have it.
    pub protobuf: bool,
    /// About how often bookmarks are sent, if they are asked for.
    pub bookmark: Duration,
    pub stop: CancellationToken,
}

impl Registry {
    /// The chunks of the answer's body: newline-delimited JSON, or protobuf frames.
    ///
    /// # Errors
    /// What keeps the watch from starting at all. A revision that is too old is told inside the stream, as an ERROR
    /// event with a `Status` of code 410, as Kubernetes does.
    pub async fn watch(&self, request: Request) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let prefix = prefix(&*request.kind, &request.namespace)?;
        let options = &request.options;
        let list_first = match (options.send_initial_events, options.resource_version) {
            (Some(wanted), _) => wanted,
            (None, ResourceVersion::Unset | ResourceVersion::Any) => true,
            (None, ResourceVersion::At(_)) => false,
        };
        let (initial, after) = if list_first {
            let not_before = match options.resource_version {
                ResourceVersion::At(rv) => Some(Revision(rv)),
                _ => None,
            };
            let page = PageOptions { not_before, ..PageOptions::default() };
            let page = self.list(&*request.kind, &request.namespace, &request.selection, &page).await?;
            (page.items, page.revision)
        } else {
            let after = match options.resource_version {
                ResourceVersion::At(rv) => Revision(rv),
                _ => self.0.store.revision(),
            };
            (Vec::new(), after)
        };
        let mut out = Frames::new(request.kind.clone(), request.form, request.protobuf);
        let watch = match self.0.store.watch(prefix, after).await {
            Ok(watch) => watch,
            Err(storage::Error::Compacted { requested, oldest }) => {
                let mut chunk = BytesMut::new();
                out.error(&mut chunk, &too_old(requested, oldest));
                return Ok(stream::iter([Ok(chunk.freeze())]).left_stream());
            }
            Err(e) => return Err(storage_error(e)),
        };
        let timeout = match options.timeout_seconds {
            Some(seconds) => Duration::from_secs(seconds),
            None => DEFAULT_TIMEOUT.mul_f64(1.0 + fastrand::f64()),
        };
        let ticks = options.allow_watch_bookmarks.then(|| {
            let mut ticks = tokio::time::interval_at(Instant::now() + request.bookmark, request.bookmark);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            ticks
        });
        // Boxed: it is handed over with every event.
        let live = Box::new(Live {
            watch,
            store: self.0.store.clone(),
            facts: self.0.facts.clone(),
            gone: request.kind.custom().map(CustomKind::gone).unwrap_or_default(),
            kind: request.kind,
            initial: initial.into_iter(),
            initial_end: options.send_initial_events == Some(true) && options.allow_watch_bookmarks,
            selection: request.selection,
            out,
            seen: after,
            ticks,
            end: Box::pin(tokio::time::sleep(timeout)),
            stop: request.stop,
        });
        let events = stream::unfold(Some(live), |live| async move {
            let mut live = live?;
            let (chunk, goes_on) = live.next().await;
            (goes_on || !chunk.is_empty()).then(|| (Ok(chunk), goes_on.then_some(live)))
        });
        Ok(events.right_stream())
    }
}

fn too_old(requested: Revision, oldest: Revision) -> ApiError {
    ApiError::Expired { message: format!("too old resource version: {requested} ({oldest})"), fresh: None }
}

/// A watch that follows the store.
struct Live {
    watch: storage::Watch,
    store: Arc<dyn Store>,
    facts: Arc<FactsCache>,
    kind: KindRef,
    /// What was there at first and is still to be sent.
    initial: vec::IntoIter<KeyValue>,
    /// Their end is still to be told.
    initial_end: bool,
    selection: Selection,
    out: Frames,
    /// Everything up to here was sent or was of no concern.
    seen: Revision,
    ticks: Option<Interval>,
    end: Pin<Box<Sleep>>,
    stop: CancellationToken,
    /// Of a custom kind: cancelled when its definition changed or went.
    gone: CancellationToken,
}

enum Wake {
    Event(Option<storage::Result<Arc<Event>>>),
    Tick,
    End,
}

impl Live {
    /// The next chunk, and whether the watch goes on after it.
    async fn next(&mut self) -> (Bytes, bool) {
        let mut chunk = BytesMut::new();
        self.begin(&mut chunk);
        if !chunk.is_empty() {
            return (chunk.freeze(), true);
        }
        loop {
            let wake = tokio::select! {
                biased;
                () = self.stop.cancelled() => Wake::End,
                () = self.gone.cancelled() => Wake::End,
                // Before the events: a busy watch ends in time too.
                () = &mut self.end => Wake::End,
                event = self.watch.next() => Wake::Event(event),
                () = tick(&mut self.ticks) => Wake::Tick,
            };
            let goes_on = match wake {
                Wake::Event(Some(event)) => self.take(&mut chunk, event) && self.drain(&mut chunk),
                Wake::Event(None) => false,
                Wake::Tick => self.bookmark(&mut chunk),
                Wake::End => {
                    // A last bookmark spares the client a replay of what was of no concern to it.
                    if self.ticks.is_some() && !self.stop.is_cancelled() {
                        self.bookmark(&mut chunk);
                    }
                    false
                }
            };
            if !goes_on || !chunk.is_empty() {
                return (chunk.freeze(), goes_on);
            }
        }
    }

    /// The initial state, up to a chunk.
    fn begin(&mut self, chunk: &mut BytesMut) {
        while chunk.len() < CHUNK {
            match self.initial.next() {
                Some(kv) => self.out.push(chunk, Type::Added, &kv.value),
                None => {
                    if std::mem::take(&mut self.initial_end) {
                        self.out.bookmark(chunk, self.seen, INITIAL_EVENTS_END);
                    }
                    return;
                }
            }
        }
    }

    /// Takes what is queued already, up to a chunk.
    fn drain(&mut self, chunk: &mut BytesMut) -> bool {
        while chunk.len() < CHUNK {
            let Some(event) = self.watch.try_next() else { break };
            if !self.take(chunk, event) {
                return false;
            }
        }
        true
    }

    /// Says how far the client has come. The revision is read first, then the queue is emptied: whatever concerns this
    /// watcher up to that revision was queued before the revision could be read (see `Store::revision`).
    fn bookmark(&mut self, chunk: &mut BytesMut) -> bool {
        let newest = self.store.revision();
        while let Some(event) = self.watch.try_next() {
            if !self.take(chunk, event) {
                return false;
            }
        }
        self.seen = self.seen.max(newest);
        self.out.bookmark(chunk, self.seen, "");
        true
    }

    /// One event; false ends the watch.
    fn take(&mut self, chunk: &mut BytesMut, event: storage::Result<Arc<Event>>) -> bool {
        match event {
            Ok(event) => {
                self.seen = self.seen.max(event.revision);
                if let Some(kind) = transition(&*self.kind, &self.selection, &self.facts, &event) {
                    let left_view = kind == Type::Deleted && event.kind == EventKind::Updated;
                    match &event.previous {
                        // It left the selection: the client gets the state it knew, at the revision of the change.
                        Some(previous) if left_view => {
                            self.out.push(chunk, kind, &at_revision(previous, event.revision));
                        }
                        _ => self.out.push(chunk, kind, &event.value),
                    }
                }
                true
            }
            Err(storage::Error::Compacted { requested, oldest }) => {
                self.out.error(chunk, &too_old(requested, oldest));
                false
            }
            Err(storage::Error::TooSlow | storage::Error::Closed) => false,
            Err(e) => {
                tracing::error!(error = %e, "a watch failed");
                self.out.error(chunk, &storage_error(e));
                false
            }
        }
    }
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// What an event means to a watcher with this selection; nothing, if the object was and is outside it.
fn transition(kind: &dyn AnyKind, selection: &Selection, facts: &FactsCache, event: &Event) -> Option<Type> {
    if selection.is_everything() {
        return Some(match event.kind {
            EventKind::Created => Type::Added,
            EventKind::Updated => Type::Modified,
            EventKind::Deleted => Type::Deleted,
        });
    }
    // Names never change: an object of another name is dismissed by its key.
    if selection.name().is_some_and(|name| names(kind, &event.key).1 != name) {
        return None;
    }
    let matches = |value: &Bytes| selection.matches(kind, &event.key, &facts.of(value));
    let was = event.previous.as_ref().is_some_and(matches);
    if event.kind == EventKind::Deleted {
        return was.then_some(Type::Deleted);
    }
    let is = matches(&event.value);
    match (was, is) {
        (false, true) => Some(Type::Added),
        (true, true) => Some(Type::Modified),
        (true, false) => Some(Type::Deleted),
        (false, false) => None,
    }
}
