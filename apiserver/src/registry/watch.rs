//! Watch: the store's events as a client wants to see them.
//!
//! A stored object's bytes go into the event as they are; the frame around them is put on while they are copied into
//! the chunk that is sent. Events that are queued already go out in one chunk. A client that does not read is not
//! waited for: its store queue overflows and the watch ends; it comes back with the revision it last saw.

use super::{PageOptions, Registry, Selection, prefix, selection::names, storage_error, table};
use crate::{
    error::{ApiError, Result},
    kinds::AnyKind,
    request::{
        negotiate::Form,
        options::{ListOptions, ResourceVersion},
    },
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, stream};
use std::{ops::Range, sync::Arc, time::Duration};
use storage::{Event, EventKind, Revision, Store};
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

/// A watch that names no timeout ends after this, and up to as much again: clients come back, and the load spreads.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// Events are gathered into a chunk up to about this size.
const CHUNK: usize = 64 * 1024;
/// On the bookmark that ends the initial events of a watch-list.
const INITIAL_EVENTS_END: &str = r#""annotations":{"k8s.io/initial-events-end":"true"},"#;

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
        }
    }
}

/// What a watch is about and how it is to be answered.
pub struct Request {
    pub kind: &'static dyn AnyKind,
    pub namespace: String,
    pub selection: Selection,
    pub options: ListOptions,
    pub form: Form,
    /// About how often bookmarks are sent, if they are asked for.
    pub bookmark: Duration,
    pub stop: CancellationToken,
}

impl Registry {
    /// The chunks of the answer's body: newline-delimited JSON.
    ///
    /// # Errors
    /// What keeps the watch from starting at all. A revision that is too old is told inside the stream, as an ERROR
    /// event with a `Status` of code 410, as Kubernetes does.
    pub async fn watch(&self, request: Request) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let prefix = prefix(request.kind, &request.namespace)?;
        let options = &request.options;
        let list_first = match (options.send_initial_events, options.resource_version) {
            (Some(wanted), _) => wanted,
            (None, ResourceVersion::Unset | ResourceVersion::Any) => true,
            (None, ResourceVersion::At(_)) => false,
        };
        let mut out = Frames::new(request.kind, request.form);
        let mut first = BytesMut::new();
        let after = if list_first {
            let not_before = match options.resource_version {
                ResourceVersion::At(rv) => Some(Revision(rv)),
                _ => None,
            };
            let page = PageOptions { not_before, ..PageOptions::default() };
            let page = self.list(request.kind, &request.namespace, &request.selection, &page).await?;
            for kv in &page.items {
                out.push(&mut first, Type::Added, &kv.value);
            }
            if options.send_initial_events == Some(true) && options.allow_watch_bookmarks {
                out.bookmark(&mut first, page.revision, INITIAL_EVENTS_END);
            }
            page.revision
        } else {
            match options.resource_version {
                ResourceVersion::At(rv) => Revision(rv),
                _ => self.0.store.revision(),
            }
        };
        let watch = match self.0.store.watch(prefix, after).await {
            Ok(watch) => Some(watch),
            Err(storage::Error::Compacted { requested, oldest }) => {
                first.clear();
                out.error(&mut first, &too_old(requested, oldest));
                None
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
        let live = watch.map(|watch| Live {
            watch,
            store: self.0.store.clone(),
            kind: request.kind,
            selection: request.selection,
            out,
            seen: after,
            ticks,
            end: Box::pin(tokio::time::sleep(timeout)),
            stop: request.stop,
        });
        let head = stream::iter((!first.is_empty()).then(|| Ok(first.freeze())));
        let tail = stream::unfold(live, |live| async move {
            let mut live = live?;
            let (chunk, goes_on) = live.next().await;
            (goes_on || !chunk.is_empty()).then(|| (Ok(chunk), goes_on.then_some(live)))
        });
        Ok(futures::StreamExt::chain(head, tail))
    }
}

fn too_old(requested: Revision, oldest: Revision) -> ApiError {
    ApiError::Expired { message: format!("too old resource version: {requested} ({oldest})"), fresh: None }
}

/// A watch that follows the store.
struct Live {
    watch: storage::Watch,
    store: Arc<dyn Store>,
    kind: &'static dyn AnyKind,
    selection: Selection,
    out: Frames,
    /// Everything up to here was sent or was of no concern.
    seen: Revision,
    ticks: Option<Interval>,
    end: std::pin::Pin<Box<tokio::time::Sleep>>,
    stop: CancellationToken,
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
        loop {
            let wake = tokio::select! {
                biased;
                () = self.stop.cancelled() => Wake::End,
                event = self.watch.next() => Wake::Event(event),
                () = &mut self.end => Wake::End,
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
                if let Some(kind) = transition(self.kind, &self.selection, &event) {
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
fn transition(kind: &dyn AnyKind, selection: &Selection, event: &Event) -> Option<Type> {
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
    let was = event.previous.as_ref().is_some_and(|old| selection.matches(kind, &event.key, old));
    if event.kind == EventKind::Deleted {
        return was.then_some(Type::Deleted);
    }
    let is = selection.matches(kind, &event.key, &event.value);
    match (was, is) {
        (false, true) => Some(Type::Added),
        (true, true) => Some(Type::Modified),
        (true, false) => Some(Type::Deleted),
        (false, false) => None,
    }
}

/// Stored bytes with another `metadata.resourceVersion`.
fn at_revision(bytes: &Bytes, revision: Revision) -> Bytes {
    let Some(span) = revision_span(bytes) else { return bytes.clone() };
    let mut out = Vec::with_capacity(bytes.len() + 20);
    out.extend_from_slice(&bytes[..span.start]);
    out.extend_from_slice(format!("\"{revision}\"").as_bytes());
    out.extend_from_slice(&bytes[span.end..]);
    out.into()
}

/// Where `metadata.resourceVersion`'s value stands, quotes included.
fn revision_span(bytes: &[u8]) -> Option<Range<usize>> {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a serde_json::value::RawValue,
    }
    #[derive(serde::Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, rename = "resourceVersion")]
        resource_version: &'a serde_json::value::RawValue,
    }
    let head: Head<'_> = serde_json::from_slice(bytes).ok()?;
    let meta: Meta<'_> = serde_json::from_str(head.metadata.get()).ok()?;
    let value = meta.resource_version.get();
    let start = value.as_ptr() as usize - bytes.as_ptr() as usize;
    Some(start..start + value.len())
}

/// Writes events in the form the client asked for.
struct Frames {
    kind: &'static dyn AnyKind,
    form: Form,
    /// A table names its columns once.
    columns_sent: bool,
}

impl Frames {
    fn new(kind: &'static dyn AnyKind, form: Form) -> Self {
        Self { kind, form, columns_sent: false }
    }

    fn push(&mut self, out: &mut BytesMut, kind: Type, object: &Bytes) {
        match self.form {
            Form::Object => frame(out, kind.name(), object),
            Form::Partial => frame(out, kind.name(), &table::partial(object)),
            Form::Table(include) => {
                // An object that can no longer be decoded has no row to show.
                let Ok(typed) = self.kind.decode_stored(object) else { return };
                let meta = table::ListMeta {
                    resource_version: typed.meta().resource_version.clone().unwrap_or_default(),
                    ..table::ListMeta::default()
                };
                let rows = [(typed, object.clone())];
                let now = jiff::Timestamp::now();
                let body = table::render(self.kind, &rows, include, &meta, !self.columns_sent, now);
                self.columns_sent = true;
                frame(out, kind.name(), &body);
            }
        }
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: Revision, annotations: &str) {
        let r = self.kind.resource();
        let (kind, version) = match self.form {
            Form::Object => (r.kind, r.api_version()),
            Form::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            // A table's bookmark has one row of no cells, whose object carries the revision.
            Form::Table(_) => {
                let body = format!(
                    r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"{revision}"}},"columnDefinitions":null,"rows":[{{"cells":[],"object":{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{{{annotations}"resourceVersion":"{revision}"}}}}}}]}}"#
                );
                return frame(out, Type::Bookmark.name(), body.as_bytes());
            }
        };
        let body = format!(
            r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{{{annotations}"resourceVersion":"{revision}"}}}}"#
        );
        frame(out, Type::Bookmark.name(), body.as_bytes());
    }

    fn error(&mut self, out: &mut BytesMut, error: &ApiError) {
        frame(out, "ERROR", error.status().to_string().as_bytes());
    }
}

/// `type` comes before `object`: readers that decode as they go then know what the object is.
fn frame(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.put_slice(br#"{"type":""#);
    out.put_slice(kind.as_bytes());
    out.put_slice(br#"","object":"#);
    out.put_slice(object);
    out.put_slice(b"}\n");
}

/// For tests of transitions without a store.
#[cfg(test)]
pub(crate) fn transition_name(
    kind: &dyn AnyKind,
    selection: &Selection,
    event: &Event,
) -> Option<&'static str> {
    transition(kind, selection, event).map(Type::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_objects_own_revision_is_replaced() {
        let bytes = Bytes::from_static(
            br#"{"apiVersion":"v1","data":{"resourceVersion":"1"},"metadata":{"labels":{"resourceVersion":"1"},"name":"a","resourceVersion":"1"},"spec":{"metadata":{"resourceVersion":"1"}}}"#,
        );
        let got = at_revision(&bytes, Revision(4711));
        let text = std::str::from_utf8(&got).unwrap();
        assert!(text.contains(r#""name":"a","resourceVersion":"4711"},"spec""#), "{text}");
        assert_eq!(text.matches("\"1\"").count(), 3);
        let none = Bytes::from_static(b"{}");
        assert_eq!(at_revision(&none, Revision(2)), none);
    }

    #[test]
    fn frames_name_the_type_first() {
        let mut out = BytesMut::new();
        frame(&mut out, "ADDED", b"{}");
        assert_eq!(&out[..], b"{\"type\":\"ADDED\",\"object\":{}}\n");
    }
}
