//! What a store can refuse, and why.

use crate::types::{Key, Revision};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("key {0} not found")]
    NotFound(Key),
    #[error("key {0} already exists")]
    AlreadyExists(Key),
    /// The key is at another revision than the caller expected.
    #[error("key {key} is at revision {actual}, not {expected}")]
    Conflict { key: Key, expected: Revision, actual: Revision },
    /// The history before `oldest` is gone.
    #[error("revision {requested} is compacted, the oldest kept is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    /// The revision lies ahead of the newest write.
    #[error("revision {requested} is in the future, the newest is {newest}")]
    Future { requested: Revision, newest: Revision },
    /// What is on disk cannot be read; says where and what.
    #[error("data in {place} is damaged: {what}")]
    Corrupt { place: String, what: String },
    /// The backend failed; nothing was acknowledged.
    #[error("storage failed: {0}")]
    Backend(String),
    /// The store is shutting down or has failed for good.
    #[error("storage is closed")]
    Closed,
    /// A watcher did not keep up and was cut; list again.
    #[error("the watcher was too slow and was cut off")]
    TooSlow,
}
