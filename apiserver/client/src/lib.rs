//! How a component follows the cluster: shared informers and a work queue over `kube::Client`.

pub mod informer;
pub mod queue;

pub use informer::{Change, Informers, Store};
pub use queue::Queue;
