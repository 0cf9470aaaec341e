//! How much of the past is kept, and how far a watcher may fall behind.

use std::time::Duration;

/// Bounds of the history and of the watchers' queues. The history is trimmed as soon as one of its three is passed.
#[derive(Debug, Clone)]
pub struct Limits {
    pub history_age: Duration,
    pub history_bytes: u64,
    pub history_events: usize,
    pub watch_queue: usize,
}

impl Limits {
    /// kube-apiserver compacts every 5 minutes, so clients expect a token to live 5 to 10. The lower end: the conformance
    /// suite waits no longer than 10 for one to expire, and the window is trimmed in strides.
    pub const HISTORY_AGE: Duration = Duration::from_secs(5 * 60);
    /// Holds about 10,000 pod-sized events: a burst that a relisting client would otherwise repeat in full.
    pub const HISTORY_BYTES: u64 = 32 << 20;
    /// Bounds the bookkeeping (some 200 bytes an event) where values are tiny.
    pub const HISTORY_EVENTS: usize = 50_000;
    /// One burst of 10,000 pods fits. The events themselves are shared, a slot costs a pointer.
    pub const WATCH_QUEUE: usize = 16_384;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            history_age: Self::HISTORY_AGE,
            history_bytes: Self::HISTORY_BYTES,
            history_events: Self::HISTORY_EVENTS,
            watch_queue: Self::WATCH_QUEUE,
        }
    }
}
