//! Events as bytes: the stored object as it is, or in the form the client asked for, in its frame.

use crate::{error::ApiError, kinds::KindRef, protobuf, registry::table, request::negotiate::Form};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;
use storage::Revision;

/// On the bookmark that ends the initial events of a watch-list.
pub(super) const INITIAL_EVENTS_END: &str = r#""annotations":{"k8s.io/initial-events-end":"true"},"#;

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
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

/// Stored bytes with another `metadata.resourceVersion`.
pub(super) fn at_revision(bytes: &Bytes, revision: Revision) -> Bytes {
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
pub(super) struct Frames {
    kind: KindRef,
    form: Form,
    protobuf: bool,
    /// A table names its columns once.
    columns_sent: bool,
}

impl Frames {
    pub(super) fn new(kind: KindRef, form: Form, protobuf: bool) -> Self {
        Self { kind, form, protobuf, columns_sent: false }
    }

    pub(super) fn push(&mut self, out: &mut BytesMut, kind: Type, object: &Bytes) {
        match self.form {
            Form::Object => self.frame(out, kind.name(), &self.kind.show(object)),
            Form::Partial => self.frame(out, kind.name(), &table::partial(object)),
            Form::Table(include) => {
                // An object that can no longer be decoded has no row to show.
                let Ok(typed) = self.kind.decode_stored(object) else { return };
                let meta = table::ListMeta {
                    resource_version: typed.meta().resource_version.clone().unwrap_or_default(),
                    ..table::ListMeta::default()
                };
                let rows = [(typed, self.kind.show(object))];
                let now = jiff::Timestamp::now();
                let body = table::render(&*self.kind, &rows, include, &meta, !self.columns_sent, now);
                self.columns_sent = true;
                self.frame(out, kind.name(), &body);
            }
        }
    }

    pub(super) fn bookmark(&mut self, out: &mut BytesMut, revision: Revision, annotations: &str) {
        let r = self.kind.resource();
        let (kind, version) = match self.form {
            Form::Object => (r.kind, r.api_version()),
            Form::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            // A table's bookmark has one row of no cells, whose object carries the revision.
            Form::Table(_) => {
                let body = format!(
                    r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"{revision}"}},"columnDefinitions":null,"rows":[{{"cells":[],"object":{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{{{annotations}"resourceVersion":"{revision}"}}}}}}]}}"#
                );
                return self.frame(out, Type::Bookmark.name(), body.as_bytes());
            }
        };
        let body = format!(
            r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{{{annotations}"resourceVersion":"{revision}"}}}}"#
        );
        self.frame(out, Type::Bookmark.name(), body.as_bytes());
    }

    pub(super) fn error(&mut self, out: &mut BytesMut, error: &ApiError) {
        self.frame(out, "ERROR", error.status().to_string().as_bytes());
    }

    fn frame(&self, out: &mut BytesMut, kind: &str, object: &[u8]) {
        if !self.protobuf {
            return line(out, kind, object);
        }
        match protobuf::watch_event(kind, object) {
            Some(frame) => out.put_slice(&frame),
            None => tracing::error!(kind, "an event has no protobuf form; its watcher misses it"),
        }
    }
}

/// `type` comes before `object`: readers that decode as they go then know what the object is.
fn line(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.put_slice(br#"{"type":""#);
    out.put_slice(kind.as_bytes());
    out.put_slice(br#"","object":"#);
    out.put_slice(object);
    out.put_slice(b"}\n");
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
    fn lines_name_the_type_first() {
        let mut out = BytesMut::new();
        line(&mut out, "ADDED", b"{}");
        assert_eq!(&out[..], b"{\"type\":\"ADDED\",\"object\":{}}\n");
    }
}
