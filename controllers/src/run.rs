//! Runs a controller on a work queue: how often, how many at once, what happens after an error, what is counted.
//!
//! A controller says what to do for one key; everything else is here, once, for all of them.

use crate::{
    context::Ctx,
    error::{Error, Result},
};
use api::guard;
use async_trait::async_trait;
use client::Queue;
use std::{
    collections::BTreeMap,
    fmt::Display,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

/// The longest one run may take before it is cut and tried again. Everything a run does is idempotent, and a call
/// to the API server that takes this long will not come back.
pub const RUN_DEADLINE: Duration = Duration::from_secs(60);

/// What a controller works on; most use [`ObjectKey`].
pub trait Key: Hash + Eq + Clone + Display + Send + Sync + 'static {}
impl<T: Hash + Eq + Clone + Display + Send + Sync + 'static> Key for T {}

/// An object by namespace (empty for cluster-scoped kinds) and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Self {
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What comes after a run without error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Wait,
    /// Again after this long, whatever changes.
    After(Duration),
}

/// One control loop. The key says who, never what changed: `reconcile` looks for itself and may be run at any time.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    type Key: Key;
    /// Name in logs and metrics.
    const NAME: &'static str;
    /// How many keys are worked on at once.
    const WORKERS: usize = 2;

    /// Subscribes to what may need a run; the callbacks add keys to `queue`.
    fn watch(&self, queue: &Queue<Self::Key>);

    async fn reconcile(&self, key: &Self::Key) -> Result<Next>;
}

/// Runs `controller` until the server's token is cancelled. A run that is under way then is dropped: the next start decides anew.
pub async fn run<C: Controller>(ctx: Arc<Ctx>, controller: C) {
    let (queue, token) = (Queue::new(), ctx.token.clone());
    let metrics = ctx.metrics.of(C::NAME);
    controller.watch(&queue);
    tokio::select! {
        () = ctx.informers.synced() => {}
        () = token.cancelled() => return,
    }
    tracing::debug!(controller = C::NAME, "started");
    let controller = Arc::new(controller);
    let workers = TaskTracker::new();
    for _ in 0..C::WORKERS {
        workers.spawn(worker(controller.clone(), queue.clone(), metrics.clone(), token.clone()));
    }
    workers.close();
    token.cancelled().await;
    queue.shut_down();
    workers.wait().await;
}

async fn worker<C: Controller>(
    controller: Arc<C>,
    queue: Queue<C::Key>,
    metrics: Arc<ControllerMetrics>,
    token: CancellationToken,
) {
    while let Some(key) = queue.next().await {
        let started = Instant::now();
        let span = tracing::debug_span!("reconcile", controller = C::NAME, object.ref = %key);
        let run = async {
            match tokio::time::timeout(RUN_DEADLINE, guard::caught(controller.reconcile(&key))).await {
                Ok(Ok(result)) => result,
                // One bad object; the others still need this loop.
                Ok(Err(panic)) => Err(Error::Panicked(panic)),
                Err(_) => Err(Error::Deadline),
            }
        };
        let result = tokio::select! {
            biased;
            () = token.cancelled() => return,
            result = run.instrument(span.clone()) => result,
        };
        metrics.ran(started.elapsed());
        let _entered = span.enter();
        settle(&queue, &key, result, &metrics);
        queue.done(&key);
    }
}

/// The one place that decides about another run.
fn settle<K: Key>(queue: &Queue<K>, key: &K, result: Result<Next>, metrics: &ControllerMetrics) {
    match result {
        Ok(Next::Wait) => queue.forget(key),
        Ok(Next::After(delay)) => {
            queue.forget(key);
            queue.add_after(key.clone(), delay);
        }
        Err(error) => {
            if error.is_conflict() {
                metrics.conflicts.fetch_add(1, Relaxed);
                tracing::debug!(error = error.chain(), "someone was faster; trying again");
            } else {
                metrics.errors.fetch_add(1, Relaxed);
                tracing::warn!(error = error.chain(), "run failed; trying again");
            }
            queue.add_rate_limited(key.clone());
        }
    }
}

/// Counters of all controllers of one server.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<BTreeMap<&'static str, Arc<ControllerMetrics>>>);

impl Metrics {
    pub(crate) fn of(&self, name: &'static str) -> Arc<ControllerMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone()
    }

    /// Every controller that was started, by name.
    pub fn all(&self) -> Vec<(&'static str, Arc<ControllerMetrics>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(n, m)| (*n, m.clone())).collect()
    }
}

#[derive(Debug, Default)]
pub struct ControllerMetrics {
    pub runs: AtomicU64,
    pub errors: AtomicU64,
    pub conflicts: AtomicU64,
    /// Time spent in runs, in microseconds.
    pub busy_micros: AtomicU64,
}

impl ControllerMetrics {
    fn ran(&self, took: Duration) {
        self.runs.fetch_add(1, Relaxed);
        self.busy_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_back_off_and_success_forgets() {
        let (queue, metrics) = (Queue::new(), ControllerMetrics::default());
        let key = ObjectKey::new("ns", "a");
        settle(&queue, &key, Err(Error::NotYet("later".into())), &metrics);
        settle(&queue, &key, Err(Error::NotYet("later".into())), &metrics);
        assert_eq!((queue.failures(&key), metrics.errors.load(Relaxed)), (2, 2));
        settle(&queue, &key, Ok(Next::Wait), &metrics);
        assert_eq!(queue.failures(&key), 0);
    }

    #[test]
    fn a_conflict_is_no_error() {
        let (queue, metrics) = (Queue::new(), ControllerMetrics::default());
        let status = kube::core::Status::failure("changed", "Conflict").with_code(409);
        settle(&queue, &ObjectKey::new("", "a"), Err(kube::Error::Api(status.boxed()).into()), &metrics);
        assert_eq!((metrics.errors.load(Relaxed), metrics.conflicts.load(Relaxed)), (0, 1));
    }

    #[test]
    fn keys_print_as_references() {
        assert_eq!(ObjectKey::new("ns", "a").to_string(), "ns/a");
        assert_eq!(ObjectKey::new("", "a").to_string(), "a");
    }
}
