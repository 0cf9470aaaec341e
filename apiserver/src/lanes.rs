//! How many requests are served at once, and who waits for whom.
//!
//! Three lanes, so that a flood in one leaves the others free: what users read, what users write, and the cluster's own
//! (nodes, and components that speak to us from other processes). A request that finds its lane full waits for its turn,
//! in a bounded queue and for a bounded time; then it is told to come back (429, `Retry-After`). Watches, streams and
//! health take no place, and neither do the components of this process: they are few, and a flood from outside must not
//! keep a node from saying that it is alive.

use crate::{
    auth::User,
    error::{ApiError, Result},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Seconds after which a client that found the server full should come back.
const RETRY_AFTER: u32 = 1;

/// Bounds that tests make small.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Kubernetes' defaults for reading and for mutating requests (`--max-requests-inflight` and its sister).
    pub reading: usize,
    pub mutating: usize,
    /// A kubelet and its probes make a few at a time; a hundred nodes fit.
    pub system: usize,
    /// Requests that wait in each lane: a burst of a script with a thousand objects passes; each waiting one costs a
    /// few KiB.
    pub queue: usize,
    /// A quarter of a request's time, as in Kubernetes.
    pub wait: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { reading: 400, mutating: 200, system: 200, queue: 1000, wait: Duration::from_secs(15) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Reading,
    Mutating,
    System,
}

impl Lane {
    /// Users in groups and with names that only the cluster's CA and controllers give out are the system's own.
    pub fn of(user: &User, verb: &str) -> Self {
        let own = user.is_in("system:nodes")
            || user.is_in("system:serviceaccounts:kube-system")
            || user.name.starts_with("system:kube-");
        match verb {
            _ if own => Self::System,
            "get" | "list" | "head" | "options" => Self::Reading,
            _ => Self::Mutating,
        }
    }

    /// As metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reading => "readOnly",
            Self::Mutating => "mutating",
            Self::System => "system",
        }
    }
}

/// What a lane looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub lane: Lane,
    pub served: usize,
    pub waiting: usize,
    /// Since the start.
    pub refused: u64,
}

#[derive(Debug)]
struct Track {
    lane: Lane,
    size: usize,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    refused: AtomicU64,
}

#[derive(Debug)]
pub struct Lanes {
    tracks: [Track; 3],
    bounds: Bounds,
}

/// Counts one that waits, however its waiting ends.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    pub fn new(bounds: Bounds) -> Self {
        let track = |lane, size| Track {
            lane,
            size,
            places: Arc::new(Semaphore::new(size)),
            waiting: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        };
        let tracks = [
            track(Lane::Reading, bounds.reading),
            track(Lane::Mutating, bounds.mutating),
            track(Lane::System, bounds.system),
        ];
        Self { tracks, bounds }
    }

    /// A place in the lane, held until dropped.
    ///
    /// # Errors
    /// 429 when the queue is full or the time is over.
    pub async fn enter(&self, lane: Lane) -> Result<OwnedSemaphorePermit> {
        let track = &self.tracks[lane as usize];
        if let Ok(place) = track.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        if let Some(_waiting) = Waiting::enter(&track.waiting, self.bounds.queue)
            && let Ok(Ok(place)) = timeout(self.bounds.wait, track.places.clone().acquire_owned()).await
        {
            return Ok(place);
        }
        track.refused.fetch_add(1, Ordering::Relaxed);
        Err(ApiError::TooManyRequests {
            message: "too many requests, please try again later".to_owned(),
            retry_after: RETRY_AFTER,
        })
    }

    pub fn states(&self) -> [State; 3] {
        self.tracks.each_ref().map(|track| State {
            lane: track.lane,
            served: track.size.saturating_sub(track.places.available_permits()),
            waiting: track.waiting.load(Ordering::Relaxed),
            refused: track.refused.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests;
