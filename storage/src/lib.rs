//! Keys, bytes and revisions, durable: what the API server keeps its objects in.
//!
//! The rules are etcd's: one revision counter for the whole store, +1 a write, never reused, also across
//! restarts; reads are linearizable and never return what is not yet durable; watches are ordered, unique,
//! without gaps and can be resumed after a restart. Nothing here knows Kubernetes or HTTP.

pub mod error;
pub mod store;
pub mod types;

pub use error::{Error, Result};
pub use store::{List, ListOptions, Store, Watch};
pub use types::{Event, EventKind, Key, KeyValue, Payload, Prefix, Revision};
