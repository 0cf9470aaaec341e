//! A deterministic simulation: the real controllers, the kubelet's real `step`, and everything else made of plain data.
//!
//! ```text
//!  seed ─► schedule ─► StatefulSet, scheduler, node, pod-garbage and volume controllers, each a process
//!             │              │ requests, one step each          ▲ caches that lag, repeat and start anew
//!             │              ▼                                   │
//!             ├──────►  virtual API server ── one log of events ─┤
//!             │              ▲                                   ▼
//!             └──────►  three kubelets (`step`) on machines whose containers outlive them
//! ```
//!
//! A schedule decides who moves next and what goes wrong: processes and kubelets crash between any two requests, and what
//! they had sent arrives late or never; nodes are cut off or lose power; caches lag; people scale, update, delete and use
//! force. After every step the oracle looks at the world as it truly is. Afterwards all faults end, and the set must come
//! to rest as it is wanted.
//!
//! `MINIK8S_SIM_SCHEDULES` says how many schedules are tried; `MINIK8S_SIM_SEED` runs one and tells its story.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod node;
mod oracle;
mod process;
mod server;
mod world;

use client::Guard;
use server::Promise;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// How many schedules one run tries where nobody says otherwise.
const SCHEDULES: u64 = 500;
/// In so many schedules a missing guard must be found.
const SEARCH: u64 = 20_000;
/// How much of the story is told when a schedule fails.
const TOLD: usize = 120;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Runs one schedule. A runtime is there because the components' caches want one; it never drives anything.
fn schedule(seed: u64, broken: Option<Promise>, listen: bool) -> (Result<(), String>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let client = client::testing::Fake::default().client();
    match world::World::of_seed(seed, broken, &client, listen) {
        Ok(mut world) => (world.run(), world.history()),
        Err(what) => (Err(format!("before anything happened: {what}")), Vec::new()),
    }
}

/// Fails with the story of a schedule.
fn tell(seed: u64, what: &str, history: &[String]) -> ! {
    let from = history.len().saturating_sub(TOLD);
    panic!("{}\nseed {seed}: {what}\nMINIK8S_SIM_SEED={seed} tells it all", history[from..].join("\n"));
}

#[test]
fn no_schedule_breaks_a_promise() {
    if let Some(seed) = setting("MINIK8S_SIM_SEED") {
        let (result, history) = schedule(seed, None, true);
        println!("{}", history.join("\n"));
        return assert_eq!(result, Ok(()));
    }
    let (next, schedules) = (AtomicU64::new(0), setting("MINIK8S_SIM_SCHEDULES").unwrap_or(SCHEDULES));
    let began = Instant::now();
    let worker = || loop {
        let seed = next.fetch_add(1, Relaxed);
        if seed >= schedules {
            return None;
        }
        if let (Err(what), _) = schedule(seed, None, false) {
            next.store(schedules, Relaxed);
            return Some((seed, what));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().filter_map(|w| w.join().unwrap()).min()
    });
    if let Some((seed, what)) = failed {
        tell(seed, &what, &schedule(seed, None, true).1);
    }
    println!("{schedules} schedules, {:.0} a second", schedules as f64 / began.elapsed().as_secs_f64());
}

#[test]
fn a_seed_reproduces_a_run() {
    for seed in 0..5 {
        assert_eq!(schedule(seed, None, true), schedule(seed, None, true));
    }
}

/// The first seed whose schedule goes wrong, and how.
fn found(broken: Option<Promise>) -> Option<(u64, String)> {
    (0..SEARCH).find_map(|seed| schedule(seed, broken, false).0.err().map(|what| (seed, what)))
}

#[track_caller]
fn is_needed(guard: Guard) {
    match guard.without(|| found(None)) {
        Some((seed, what)) => println!("without {guard:?}, seed {seed}: {what}"),
        None => panic!("nothing goes wrong without {guard:?} in {SEARCH} schedules"),
    }
}

#[track_caller]
fn is_relied_on(promise: Promise) {
    match found(Some(promise)) {
        Some((seed, what)) => println!("without {promise:?}, seed {seed}: {what}"),
        None => panic!("nothing goes wrong without {promise:?} in {SEARCH} schedules"),
    }
}

macro_rules! guards {
    ($($(#[$attribute:meta])* $test:ident: $guard:ident),* $(,)?) => {$(
        #[test]
        $(#[$attribute])*
        fn $test() {
            is_needed(Guard::$guard);
        }
    )*};
}

mod guards {
    use super::*;
    guards!(
        live_read: LiveRead,
        predecessor_ready: PredecessorReady,
        scale_down_healthy: ScaleDownHealthy,
        claim_stays: ClaimStays,
        toleration: Toleration,
        all_silent: AllSilent,
        graceful_eviction: GracefulEviction,
        dead_first: DeadFirst,
        return_first: ReturnFirst,
        #[ignore = "a rare schedule: minutes"]
        reserve_as_seen: ReserveAsSeen,
        claim_held: ClaimHeld,
        as_seen: AsSeen,
        node_asked: NodeAsked,
        garbage_uid: GarbageUid,
        name_waits: NameWaits,
        delete_uid: DeleteUid,
        status_uid: StatusUid,
        #[ignore = "a rare schedule: minutes"]
        volume_names_claim: VolumeNamesClaim,
        #[ignore = "a rare schedule: minutes"]
        reserve_afresh: ReserveAfresh,
        reclaim_asked: ReclaimAsked,
    );
}

mod promises {
    use super::*;

    #[test]
    fn one_name() {
        is_relied_on(Promise::OneName);
    }

    #[test]
    fn graceful() {
        is_relied_on(Promise::Graceful);
    }

    #[test]
    #[ignore = "a rare schedule: minutes"]
    fn bound_once() {
        is_relied_on(Promise::BoundOnce);
    }

    #[test]
    fn preconditions() {
        is_relied_on(Promise::Preconditions);
    }
}
