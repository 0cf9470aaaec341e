//! How a component follows the cluster and tells about itself: shared informers, a work queue and an event
//! recorder, all over `kube::Client`; and the names of the rules that components keep.

pub mod events;
pub mod guard;
pub mod indexes;
pub mod informer;
pub mod marks;
pub mod queue;

pub use events::Recorder;
pub use guard::Guard;
pub use informer::{Cached, Change, Informers, PartialObject, Store};
pub use marks::Marks;
pub use queue::Queue;

#[cfg(feature = "testing")]
pub mod stage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// Typed access to one kind. In tests a simulation can stand in the API server's place.
#[cfg(not(feature = "testing"))]
pub use kube::Api;
#[cfg(feature = "testing")]
pub use stage::Api;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks even after a panic elsewhere: what these locks guard is never left half-written.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
