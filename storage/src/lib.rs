//! Keys, bytes and revisions, durable: what the API server keeps its objects in.
//!
//! The rules are etcd's: one revision counter for the whole store, +1 a write, never reused, also across
//! restarts; reads are linearizable and never return what is not yet durable; watches are ordered, unique,
//! without gaps and can be resumed after a restart. Nothing here knows Kubernetes or HTTP.
//!
//! ```text
//!  create, update, delete ─► queue ─► writer thread: validate, append to the Log, flush ─► publish ─► acknowledge
//!                                                                                            │
//!  get, list ◄── State in memory: newest values, recent history ◄────────────────────────────┤
//!  watch     ◄── replay from the history, then a bounded queue  ◄────────────────────────────┘
//! ```
//!
//! [`MemoryStore`] and [`SledStore`] are the same engine over another `Log`.

mod engine;
pub mod error;
mod history;
mod limits;
mod memory;
mod sled_store;
mod state;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod timing;
pub mod types;
mod watchers;
mod writer;

pub use error::{Error, Result};
pub use limits::Limits;
pub use memory::MemoryStore;
pub use sled_store::{Options, SledStore};
pub use store::{List, ListOptions, Stats, Store, Watch};
pub use timing::Timing;
pub use types::{Change, Event, EventKind, Key, KeyValue, Payload, Prefix, Revision};
