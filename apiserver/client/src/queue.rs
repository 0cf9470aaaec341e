//! A work queue with the semantics of client-go's: a key is never handed out twice at once, repeated adds
//! collapse, failures back off. Its memory is bounded by the number of distinct keys.
//!
//! There is no timer task: a worker that waits in `next` sleeps until the nearest deadline. Whoever leaves with
//! a key wakes another waiter when there is more to do, so that no deadline is left without a sleeper.

mod state;

use crate::lock;
use state::State;
use std::{
    hash::Hash,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Cheap to clone; all clones are one queue.
pub struct Queue<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Hash + Eq + Clone + Send + 'static> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Hash + Eq + Clone + Send + 'static> Queue<T> {
    pub fn new() -> Self {
        Self { inner: Arc::new(Inner { state: Mutex::new(State::new()), changed: Notify::new() }) }
    }

    /// Now; a key being processed is handed out again after `done`.
    pub fn add(&self, key: T) {
        lock(&self.inner.state).add(key);
        self.inner.changed.notify_one();
    }

    /// After `delay`; a key that already waits keeps the earlier time.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        lock(&self.inner.state).add_at(key, Instant::now() + delay);
        self.inner.changed.notify_one();
    }

    /// After an exponential back-off of this key's failures (5 ms doubling to 1000 s, as client-go).
    pub fn add_rate_limited(&self, key: T) {
        let mut state = lock(&self.inner.state);
        let delay = state.failed(&key);
        state.add_at(key, Instant::now() + delay);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// Clears the key's failure count.
    pub fn forget(&self, key: &T) {
        lock(&self.inner.state).forget(key);
    }

    /// How often the key was added rate-limited since it was last forgotten.
    pub fn failures(&self, key: &T) -> u32 {
        lock(&self.inner.state).failures(key)
    }

    /// The next key; `None` once shut down and empty. Call `done` when finished with it.
    pub async fn next(&self) -> Option<T> {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that an add between looking and waiting is not missed.
            changed.as_mut().enable();
            let deadline = {
                let mut state = lock(&self.inner.state);
                if let Some(key) = state.take(Instant::now()) {
                    let more = state.has_more();
                    drop(state);
                    if more {
                        self.inner.changed.notify_one();
                    }
                    return Some(key);
                }
                if state.shut_down {
                    return None;
                }
                state.next_deadline()
            };
            match deadline {
                Some(at) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} },
                None => changed.await,
            }
        }
    }

    pub fn done(&self, key: &T) {
        lock(&self.inner.state).done(key);
        self.inner.changed.notify_one();
    }

    /// Keys ready to be handed out, for metrics.
    pub fn len(&self) -> usize {
        lock(&self.inner.state).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// No more adds; what is ready is still handed out, then every `next` gets `None`.
    pub fn shut_down(&self) {
        lock(&self.inner.state).shut_down();
        self.inner.changed.notify_waiters();
        // For a worker that is between looking and waiting.
        self.inner.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::HashSet,
        sync::atomic::{AtomicUsize, Ordering},
    };
    use tokio_util::task::TaskTracker;

    #[tokio::test]
    async fn a_waiting_worker_gets_adds_delayed_adds_and_the_end() {
        let queue = Queue::new();
        let worker = queue.clone();
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(key) = worker.next().await {
                worker.done(&key);
                seen.push(key);
                match key {
                    "now" => worker.add_after("later", Duration::from_millis(2)),
                    "later" => worker.add_rate_limited("failed"),
                    "failed" => worker.shut_down(),
                    _ => {}
                }
            }
            seen
        });
        queue.add("now");
        assert_eq!(seen.await.unwrap(), ["now", "later", "failed"]);
        assert_eq!(queue.failures(&"failed"), 1);
    }

    /// The worker with the nearest deadline leaves with another key and is busy: somebody else must take over.
    #[tokio::test]
    async fn a_deadline_is_not_lost_with_the_worker_that_slept_on_it() {
        let queue = Queue::new();
        queue.add_after("later", Duration::from_millis(5));
        let take = |queue: Queue<&'static str>| async move { queue.next().await };
        let (first, second) = (tokio::spawn(take(queue.clone())), tokio::spawn(take(queue.clone())));
        tokio::task::yield_now().await;
        queue.add("now");
        let mut got = [first.await.unwrap(), second.await.unwrap()];
        got.sort();
        assert_eq!(got, [Some("later"), Some("now")]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_workers_never_share_a_key_and_lose_none() {
        let queue: Queue<usize> = Queue::new();
        let (tracker, active, runs) =
            (TaskTracker::new(), Arc::new(Mutex::new(HashSet::new())), Arc::new(AtomicUsize::new(0)));
        for _ in 0..4 {
            let (queue, active, runs) = (queue.clone(), active.clone(), runs.clone());
            tracker.spawn(async move {
                while let Some(key) = queue.next().await {
                    assert!(active.lock().unwrap().insert(key), "{key} is processed twice at once");
                    tokio::task::yield_now().await;
                    active.lock().unwrap().remove(&key);
                    runs.fetch_add(1, Ordering::Relaxed);
                    queue.done(&key);
                }
            });
        }
        for i in 0..2000 {
            queue.add(i % 7);
            if i % 13 == 0 {
                tokio::task::yield_now().await;
            }
        }
        queue.add(1000);
        queue.shut_down();
        tracker.close();
        tracker.wait().await;
        assert!(queue.is_empty());
        assert!(runs.load(Ordering::Relaxed) >= 8, "7 keys and the last one");
    }
}
