//! The nouns of the store.

use bytes::Bytes;
use std::{borrow::Borrow, fmt, sync::Arc};

/// One write's number. 0 is "before every write"; the first write is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a value: `/pods/default/web-0`. The caller has checked what it was built from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets maps of keys be searched by a plain string (same order and hash).
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a list or a watch covers: every key that starts with it. Ends in `/`, or is empty for everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    pub fn new(prefix: impl Into<Arc<str>>) -> Self {
        Self(prefix.into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn covers(&self, key: &Key) -> bool {
        key.0.starts_with(&*self.0)
    }
}

/// Bytes to be written, with an optional hole where the store writes the new revision in decimal.
///
/// The object carries its own revision (`metadata.resourceVersion`), which is known only at the commit.
/// A hole lets the writer finish the bytes once, so that every reader and watcher shares them.
#[derive(Debug, Clone)]
pub struct Payload {
    pub bytes: Bytes,
    /// Offset in `bytes` at which the revision's decimal digits are inserted.
    pub revision_at: Option<usize>,
}

impl Payload {
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), revision_at: None }
    }
    pub fn with_revision_at(bytes: impl Into<Bytes>, offset: usize) -> Self {
        Self { bytes: bytes.into(), revision_at: Some(offset) }
    }
    /// The bytes as they are stored and sent at `revision`.
    pub fn finish(&self, revision: Revision) -> Bytes {
        match self.revision_at {
            None => self.bytes.clone(),
            Some(at) => {
                let digits = revision.0.to_string();
                let at = at.min(self.bytes.len());
                let mut out = Vec::with_capacity(self.bytes.len() + digits.len());
                out.extend_from_slice(&self.bytes[..at]);
                out.extend_from_slice(digits.as_bytes());
                out.extend_from_slice(&self.bytes[at..]);
                out.into()
            }
        }
    }
}

/// A live value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Key,
    pub value: Bytes,
    /// The write that made the key.
    pub created: Revision,
    /// The write that gave it this value.
    pub modified: Revision,
}

/// What a write is to do to its key; the rules are those of the store's calls of the same names.
#[derive(Debug, Clone)]
pub enum Change {
    Create { value: Payload },
    Update { expected: Revision, value: Payload },
    Delete { expected: Revision, last: Payload },
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Created,
    Updated,
    Deleted,
}

/// One committed, durable write, as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub kind: EventKind,
    pub key: Key,
    /// The new value; for `Deleted` the last state, carrying the deletion's revision.
    pub value: Bytes,
    /// The value before this write; `None` for `Created`.
    pub previous: Option<Bytes>,
}
