//! The audit log: who asked for what, when, and what became of it, as a line of JSON for each answer.
//!
//! Events are Kubernetes' `audit.k8s.io/v1` at level Metadata: nothing of a request's or an answer's body is told.
//! Stages are ResponseComplete, and for what goes on for long ResponseStarted before it. Requests never wait for the
//! log: what the queue cannot take is counted as lost.

mod event;
mod file;

pub use event::{Event, Identity, Stage};

use crate::request::RequestInfo;
use axum::extract::Request;
use http::HeaderMap;
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Lines that wait to be written: some seconds of a busy server, a few MiB.
const QUEUE: usize = 8192;
/// Longer ids of clients are not taken over, as in Kubernetes.
const MAX_ID: usize = 64;
const ID_HEADER: &str = "audit-id";

/// The id of a request: the client's own, if it sent a usable one. Ours need only differ from each other, so they cost no
/// system call.
pub fn id_of(headers: &HeaderMap) -> String {
    let sent = headers.get(ID_HEADER).and_then(|v| v.to_str().ok());
    match sent.filter(|id| !id.is_empty() && id.len() <= MAX_ID) {
        Some(id) => id.to_owned(),
        None => {
            let random = fastrand::u128(..).to_ne_bytes();
            uuid::Builder::from_random_bytes(random).into_uuid().to_string()
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    taken: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub taken: u64,
    pub lost: u64,
}

/// Where events go. Cheap to clone; does nothing if no log was asked for.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    queue: Option<mpsc::Sender<Vec<u8>>>,
    counters: Arc<Counters>,
}

/// The other end: writes until told to stop.
pub struct Writer {
    queue: mpsc::Receiver<Vec<u8>>,
    file: file::Rotating,
    counters: Arc<Counters>,
}

impl Audit {
    /// # Errors
    /// When the file can be neither made nor appended to.
    pub fn open(path: &Path) -> io::Result<(Self, Writer)> {
        let file = file::Rotating::open(path, file::MAX_BYTES)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let audit = Self { queue: Some(sender), counters: Arc::default() };
        let writer = Writer { queue: receiver, file, counters: audit.counters.clone() };
        Ok((audit, writer))
    }

    /// What is known when a request comes in; `None` if nobody wants to know.
    pub fn begin(&self, id: &str, request: &Request) -> Option<Record> {
        let queue = self.queue.clone()?;
        let counters = self.counters.clone();
        Some(Record { queue, counters, event: Event::begin(id, request) })
    }

    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { taken: read(&self.counters.taken), lost: read(&self.counters.lost) }
    }
}

/// A request on its way to the log.
#[derive(Debug)]
pub struct Record {
    queue: mpsc::Sender<Vec<u8>>,
    counters: Arc<Counters>,
    event: Event,
}

impl Record {
    pub fn about(&mut self, info: &RequestInfo) {
        self.event.about(info);
    }

    pub fn answered(&mut self, identity: &Identity, code: u16, failure: Option<(&str, String)>) {
        self.event.answered(identity, code, failure);
    }

    /// What was noted about the request on its way.
    pub fn annotated(&mut self, notes: &Notes) {
        self.event.annotated(std::mem::take(&mut notes.0.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    /// Puts the event of this stage into the queue.
    pub fn log(&mut self, stage: Stage) {
        let count = match self.queue.try_send(self.event.line(stage)) {
            Ok(()) => &self.counters.taken,
            Err(_) => &self.counters.lost,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// What plugins have to say about a request to whoever reads the log.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<BTreeMap<&'static str, String>>>);

tokio::task_local! {
    /// Those of the request that this task works for; `None` if nobody will read them.
    static NOTES: Option<Notes>;
}

/// Notes something about the request that this task works for.
pub fn annotate(key: &'static str, value: impl FnOnce() -> String) {
    let notes = NOTES.try_with(Clone::clone).ok().flatten();
    if let Some(notes) = notes {
        notes.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value());
    }
}

/// Work for a request, noted there.
pub fn noted<F: Future>(notes: Option<Notes>, work: F) -> impl Future<Output = F::Output> {
    NOTES.scope(notes, work)
}

/// The same for a task that does a part of the work.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    noted(NOTES.try_with(Clone::clone).ok().flatten(), work)
}

/// Logs the end when dropped: for answers that go on after their head.
#[derive(Debug)]
pub struct Ending(pub Record);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.log(Stage::ResponseComplete);
    }
}

impl Writer {
    /// Writes what comes until `stop`, then what is queued still.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut lines = Vec::new();
        loop {
            let more = tokio::select! {
                biased;
                count = self.queue.recv_many(&mut lines, QUEUE) => count > 0,
                () = stop.cancelled() => false,
            };
            if !more {
                return;
            }
            let count = lines.len() as u64;
            let bytes = lines.concat();
            lines.clear();
            // A disk that hangs must not hold a worker of the runtime.
            let (file, written) = match tokio::task::spawn_blocking(move || {
                let written = self.file.append(&bytes);
                (self.file, written)
            })
            .await
            {
                Ok(done) => done,
                Err(error) => {
                    tracing::error!(%error, "the audit log ends");
                    return;
                }
            };
            self.file = file;
            if let Err(error) = written {
                self.counters.lost.fetch_add(count, Ordering::Relaxed);
                tracing::error!(%error, "the audit log cannot be written");
            }
        }
    }
}

#[cfg(test)]
mod tests;
