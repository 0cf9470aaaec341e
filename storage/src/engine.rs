//! The store's front: reads from memory, hands writes to the writer thread.

use crate::{
    error::{Error, Result},
    state::State,
    store::{List, ListOptions, Stats, Store, Watch},
    timing::Timing,
    types::{Change, Key, KeyValue, Payload, Prefix, Revision},
    writer::{Log, Op, Writer},
};
use async_trait::async_trait;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::sync::{mpsc, oneshot};

/// Writes that may wait for the writer; more callers wait at the door. Some groups' worth, so that it never starves.
const QUEUE: usize = 1024;

/// What readers and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: RwLock<State>,
    /// `State::revision`, readable without the lock; set after every watcher has the event in its queue.
    revision: AtomicU64,
    closed: AtomicBool,
    work: Mutex<Work>,
}

/// What the writer did since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    pub(crate) writes: u64,
    pub(crate) commits: Timing,
    pub(crate) flushes: Timing,
}

impl Shared {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        // Poisoned only if the writer panicked, which closes the store.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
    /// The writer alone holds it for longer than a copy takes, and not for long.
    pub(crate) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// To be called with the state's lock held.
    pub(crate) fn advance(&self, revision: Revision) {
        self.revision.store(revision.0, Ordering::Release);
    }
    /// Ends every watch and refuses every later call.
    pub(crate) fn shut(&self) {
        // Under the lock, so that no watch can be registered after the watchers were ended.
        let mut state = self.write();
        self.closed.store(true, Ordering::Release);
        state.watchers.close();
    }
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
    fn open(&self) -> Result<()> {
        if self.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }
}

#[derive(Debug)]
pub(crate) struct Engine {
    shared: Arc<Shared>,
    ops: mpsc::Sender<Op>,
}

impl Engine {
    /// Starts the writer thread over `log`. `garbage` are records that may be forgotten on disk.
    pub(crate) fn start(state: State, log: Box<dyn Log>, garbage: Vec<Revision>) -> Result<Self> {
        let revision = AtomicU64::new(state.revision.0);
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            revision,
            closed: AtomicBool::new(false),
            work: Mutex::default(),
        });
        let (ops, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(shared.clone(), queue, log, garbage);
        std::thread::Builder::new()
            .name("storage-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| Error::Backend(format!("cannot start the writer thread: {error}")))?;
        Ok(Self { shared, ops })
    }

    async fn submit<T>(&self, op: impl FnOnce(oneshot::Sender<Result<T>>) -> Op) -> Result<T> {
        self.shared.open()?;
        let (reply, answer) = oneshot::channel();
        self.ops.send(op(reply)).await.map_err(|_| Error::Closed)?;
        // No answer means that the writer ended before it came to this operation.
        answer.await.unwrap_or(Err(Error::Closed))
    }

    async fn write(&self, key: Key, change: Change) -> Result<KeyValue> {
        let answers = self.submit(|reply| Op::Write { writes: vec![(key, change)], reply }).await?;
        // One answer a write.
        answers.into_iter().next().ok_or(Error::Closed)
    }

    fn stats(&self) -> Stats {
        let work = *self.shared.work();
        let state = self.shared.read();
        Stats {
            revision: state.revision,
            oldest: state.history.floor(),
            keys: state.live.len() as u64,
            value_bytes: state.live_bytes,
            history_events: state.history.len() as u64,
            history_bytes: state.history.bytes(),
            watchers: state.watchers.len() as u64,
            slow_watchers: state.watchers.cut(),
            writes: work.writes,
            commits: work.commits,
            flushes: work.flushes,
            disk_bytes: None,
        }
    }
}

/// The backends that are this engine over a log of their own.
pub(crate) trait Backed: Send + Sync + 'static {
    fn engine(&self) -> &Engine;
    fn disk_bytes(&self) -> Option<u64> {
        None
    }
}

#[async_trait]
impl<T: Backed> Store for T {
    fn revision(&self) -> Revision {
        Revision(self.engine().shared.revision.load(Ordering::Acquire))
    }

    async fn get(&self, key: &Key) -> Result<Option<KeyValue>> {
        let shared = &self.engine().shared;
        shared.open()?;
        let state = shared.read();
        Ok(state.live.get_key_value(key).map(|(key, slot)| slot.with(key)))
    }

    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<List> {
        let shared = &self.engine().shared;
        shared.open()?;
        shared.read().list(prefix, &options)
    }

    async fn create(&self, key: Key, value: Payload) -> Result<KeyValue> {
        self.engine().write(key, Change::Create { value }).await
    }

    async fn update(&self, key: Key, expected: Revision, value: Payload) -> Result<KeyValue> {
        self.engine().write(key, Change::Update { expected, value }).await
    }

    async fn delete(&self, key: Key, expected: Revision, last: Payload) -> Result<KeyValue> {
        self.engine().write(key, Change::Delete { expected, last }).await
    }

    async fn write(&self, writes: Vec<(Key, Change)>) -> Result<Vec<KeyValue>> {
        self.engine().submit(|reply| Op::Write { writes, reply }).await
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch> {
        let mut state = self.engine().shared.write();
        self.engine().shared.open()?;
        state.watch(prefix, after)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.engine().submit(|reply| Op::Compact { revision, reply }).await
    }

    fn stats(&self) -> Stats {
        Stats { disk_bytes: self.disk_bytes(), ..self.engine().stats() }
    }

    async fn close(&self) -> Result<()> {
        match self.engine().submit(|reply| Op::Close { reply }).await {
            Err(Error::Closed) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::Limits, writer::Group};
    use std::sync::mpsc as std_mpsc;

    /// A disk under the test's control: tells when a group arrives, then does as it is told.
    struct Disk {
        arrived: mpsc::UnboundedSender<usize>,
        verdict: std_mpsc::Receiver<Result<()>>,
    }

    impl Log for Disk {
        fn append(&mut self, group: &Group<'_>) -> Result<()> {
            self.arrived.send(group.entries.len()).unwrap();
            self.verdict.recv().unwrap_or(Err(Error::Backend("gone".into())))
        }
        fn close(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }

    struct OnDisk(Engine);
    impl Backed for OnDisk {
        fn engine(&self) -> &Engine {
            &self.0
        }
    }

    fn store() -> (Arc<OnDisk>, mpsc::UnboundedReceiver<usize>, std_mpsc::Sender<Result<()>>) {
        let (arrived, groups) = mpsc::unbounded_channel();
        let (disk, verdict) = std_mpsc::channel();
        let log = Box::new(Disk { arrived, verdict });
        let state = State::new(Limits::default(), Revision(0));
        (Arc::new(OnDisk(Engine::start(state, log, Vec::new()).unwrap())), groups, disk)
    }

    fn create(store: &Arc<OnDisk>, key: &'static str) -> tokio::task::JoinHandle<Result<KeyValue>> {
        let store = store.clone();
        tokio::spawn(async move { store.create(Key::new(key), Payload::plain("")).await })
    }

    #[tokio::test]
    async fn nothing_shows_before_it_is_durable() {
        let (store, mut groups, disk) = store();
        let mut watch = store.watch(Prefix::new(""), Revision(0)).await.unwrap();
        let first = create(&store, "/a");
        assert_eq!(groups.recv().await, Some(1));
        // The flush is under way: readers neither wait nor see.
        assert_eq!(store.get(&Key::new("/a")).await.unwrap(), None);
        assert_eq!(store.list(&Prefix::new(""), ListOptions::default()).await.unwrap().items.len(), 0);
        assert_eq!(store.revision(), Revision(0));
        assert!(watch.try_next().is_none());
        assert!(!first.is_finished());
        disk.send(Ok(())).unwrap();
        assert_eq!(first.await.unwrap().unwrap().modified, Revision(1));
        assert_eq!(store.revision(), Revision(1));
        assert!(watch.try_next().is_some());
    }

    #[tokio::test]
    async fn what_waits_goes_in_one_group() {
        let (store, mut groups, disk) = store();
        let first = create(&store, "/a");
        assert_eq!(groups.recv().await, Some(1));
        let rest: Vec<_> = ["/b", "/c", "/b", "/d"].map(|key| create(&store, key)).into();
        // They are in the queue once each task has run up to its wait.
        while store.0.ops.capacity() != QUEUE - rest.len() {
            tokio::task::yield_now().await;
        }
        disk.send(Ok(())).unwrap();
        disk.send(Ok(())).unwrap();
        assert!(first.await.unwrap().is_ok());
        // The second create of /b is judged by the first, in the same group.
        assert_eq!(groups.recv().await, Some(3));
        let mut results = Vec::new();
        for task in rest {
            results.push(task.await.unwrap());
        }
        assert!(matches!(&results[..], [Ok(_), Ok(_), Err(Error::AlreadyExists(_)), Ok(_)]), "{results:?}");
        assert_eq!(store.revision(), Revision(4));
    }

    #[tokio::test]
    async fn a_failed_write_closes_the_store() {
        let (store, _groups, disk) = store();
        let mut watch = store.watch(Prefix::new(""), Revision(0)).await.unwrap();
        disk.send(Err(Error::Backend("no space left".into()))).unwrap();
        let error = create(&store, "/a").await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Backend(what) if what == "no space left"), "{error}");
        assert!(matches!(create(&store, "/b").await.unwrap(), Err(Error::Closed)));
        assert!(matches!(store.get(&Key::new("/a")).await, Err(Error::Closed)));
        assert!(watch.next().await.is_none());
        assert_eq!(store.revision(), Revision(0));
    }

    #[tokio::test]
    async fn a_panic_in_the_writer_closes_the_store() {
        let (store, groups, disk) = store();
        // The disk double cannot report to anyone and panics.
        drop(groups);
        let mut watch = store.watch(Prefix::new(""), Revision(0)).await.unwrap();
        assert!(matches!(create(&store, "/a").await.unwrap(), Err(Error::Closed)));
        // Ends when the unwinding has come to the writer itself.
        assert!(watch.next().await.is_none());
        assert!(matches!(store.get(&Key::new("/a")).await, Err(Error::Closed)));
        drop(disk);
    }
}
