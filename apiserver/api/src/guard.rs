//! Panics: a part that can go on after one says so by running inside [`caught`] or [`contained`].
//!
//! A task that dies of a panic is otherwise gone without a word, and with it whatever it was there for. So the process
//! installs a hook (`cli`) that ends it in good order, unless [`is_caught`] says that somebody stands ready: a request
//! is answered with an error, a reconciliation is tried again, a pod gets a new worker, a stream breaks off.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

thread_local! {
    static CATCHERS: Cell<u32> = const { Cell::new(0) };
}

/// What a caught panic said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(pub String);

impl Panicked {
    /// From what `catch_unwind`, a `JoinError` or a panic hook gives.
    pub fn of(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
        Self(
            text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into()),
        )
    }
}

impl std::fmt::Display for Panicked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "panicked: {}", self.0)
    }
}

/// Whether a panic on this thread, now, would be caught. For the process's panic hook.
pub fn is_caught() -> bool {
    CATCHERS.get() > 0
}

/// Runs `future`; a panic inside ends it with an error. Whoever calls knows how to go on without it.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        let _inside = Inside::enter();
        // What a panic leaves half-done is dropped with the future; what it shares is behind locks that are taken
        // again whole.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(Panicked::of(&*payload))),
        }
    })
    .await
}

/// As [`caught`], for tasks that nobody misses: one client's connection or stream.
pub async fn contained(future: impl Future<Output = ()>) {
    // The hook has told.
    let _ = caught(future).await;
}

struct Inside;

impl Inside {
    fn enter() -> Self {
        CATCHERS.set(CATCHERS.get() + 1);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        CATCHERS.set(CATCHERS.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};

    fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_panic_becomes_an_error_and_others_are_not_caught() {
        assert!(!is_caught());
        let seen = poll_once(caught(async { is_caught() }));
        assert_eq!(seen, Poll::Ready(Ok(true)));
        let pending = pin!(caught(std::future::pending::<()>()));
        assert!(pending.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(!is_caught(), "only while it is polled");
        let died = poll_once(caught(async { panic!("no {}", "tea") }));
        assert_eq!(died, Poll::Ready(Err::<(), _>(Panicked("no tea".into()))));
        assert_eq!(poll_once(contained(async { panic!("static") })), Poll::Ready(()));
        assert!(!is_caught(), "also after a panic");
    }
}
