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
//! `MINIK8S_SIM_SCHEDULES` says how many schedules are tried, `MINIK8S_SIM_FIRST` from which on; `MINIK8S_SIM_SEED` runs one and tells its story, with
//! `MINIK8S_SIM_FOCUS` (`FreedDisks`, …) one of those that searches look at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod node;
mod oracle;
mod process;
mod server;
mod world;

use client::Guard;
use server::Promise;
use std::time::Instant;
use world::Focus;

/// How many schedules one run tries where nobody says otherwise, and in how many tests.
const SCHEDULES: u64 = 500;
const PARTS: u64 = 4;
/// In so many schedules a missing guard must be found.
const SEARCH: u64 = 20_000;
/// How many schedules of each search's kind are tried with all rules in place.
const FOCUSED: u64 = 20;
/// How much of the story is told when a schedule fails.
const TOLD: usize = 120;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// How a schedule ended, and its story if it was asked for.
type Outcome = (Result<(), String>, Vec<String>);

/// Runs one schedule. A runtime is there because the components' caches want one; it never drives anything.
fn schedule(seed: u64, focus: Focus, broken: Option<Promise>, listen: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let client = client::testing::Fake::default().client();
    match world::World::of_seed(seed, focus, broken, &client, listen) {
        Ok(mut world) => (world.run(), world.history()),
        Err(what) => (Err(format!("before anything happened: {what}")), Vec::new()),
    }
}

/// Fails with the story of a schedule.
fn tell(seed: u64, what: &str, history: &[String]) -> ! {
    let from = history.len().saturating_sub(TOLD);
    panic!(
        "{}\nseed {seed}: {what}\nMINIK8S_SIM_SEED={seed} cargo test --workspace --test sim story tells it all",
        history[from..].join("\n")
    );
}

/// The schedules of one part of the seeds, of so many parts. A runner that gives each test a process works on several.
#[track_caller]
fn no_schedule_breaks_a_promise(part: u64) {
    let (schedules, began) = (setting("MINIK8S_SIM_SCHEDULES").unwrap_or(SCHEDULES), Instant::now());
    let first = setting("MINIK8S_SIM_FIRST").unwrap_or(0);
    let seeds = (first..first + schedules).skip(part as usize).step_by(PARTS as usize);
    for seed in seeds {
        if let (Err(what), _) = schedule(seed, Focus::Everywhere, None, false) {
            tell(seed, &what, &schedule(seed, Focus::Everywhere, None, true).1);
        }
    }
    let tried = schedules / PARTS;
    println!("{tried} schedules, {:.0} a second", tried as f64 / began.elapsed().as_secs_f64());
}

mod no_schedule_breaks_a_promise {
    macro_rules! parts {
        ($($test:ident: $part:literal),*) => {$(
            #[test]
            fn $test() {
                super::no_schedule_breaks_a_promise($part);
            }
        )*};
    }
    parts!(part_0: 0, part_1: 1, part_2: 2, part_3: 3);
}

/// Tells the story of the schedule that somebody asks for; without that, of the first.
#[test]
fn story() {
    let named = std::env::var("MINIK8S_SIM_FOCUS");
    let focus = Focus::ALL.into_iter().find(|f| named.as_ref().is_ok_and(|n| *n == format!("{f:?}")));
    let seed = setting("MINIK8S_SIM_SEED").unwrap_or(0);
    let (result, history) = schedule(seed, focus.unwrap_or(Focus::Everywhere), None, true);
    println!("{}", history.join("\n"));
    assert_eq!(result, Ok(()));
}

#[test]
fn a_seed_reproduces_a_run() {
    for seed in 0..5 {
        assert_eq!(
            schedule(seed, Focus::Everywhere, None, true),
            schedule(seed, Focus::Everywhere, None, true)
        );
    }
}

/// The first seed whose schedule goes wrong, and how.
fn found(focus: Focus, broken: Option<Promise>) -> Option<(u64, String)> {
    (0..SEARCH).find_map(|seed| schedule(seed, focus, broken, false).0.err().map(|what| (seed, what)))
}

#[track_caller]
fn is_needed(guard: Guard, focus: Focus) {
    match guard.without(|| found(focus, None)) {
        Some((seed, what)) => println!("without {guard:?}, seed {seed}: {what}"),
        None => panic!("nothing goes wrong without {guard:?} in {SEARCH} schedules"),
    }
}

#[track_caller]
fn is_relied_on(promise: Promise, focus: Focus) {
    match found(focus, Some(promise)) {
        Some((seed, what)) => println!("without {promise:?}, seed {seed}: {what}"),
        None => panic!("nothing goes wrong without {promise:?} in {SEARCH} schedules"),
    }
}

macro_rules! guards {
    ($($test:ident: $guard:ident in $focus:ident),* $(,)?) => {$(
        #[test]
        fn $test() {
            is_needed(Guard::$guard, Focus::$focus);
        }
    )*
        /// A rule without a test would be one that nobody has shown to be needed.
        #[test]
        fn every_guard_has_a_test() {
            let tested = [$(Guard::$guard),*];
            let untested: Vec<_> = Guard::ALL.iter().filter(|g| !tested.contains(g)).collect();
            assert!(untested.is_empty(), "{untested:?}");
        }
    };
}

mod guards {
    use super::*;
    guards!(
        seen_once: SeenOnce in RepeatedWatches,
        live_read: LiveRead in Everywhere,
        predecessor_ready: PredecessorReady in Everywhere,
        scale_down_healthy: ScaleDownHealthy in Everywhere,
        claim_stays: ClaimStays in Everywhere,
        toleration: Toleration in Everywhere,
        all_silent: AllSilent in Everywhere,
        graceful_eviction: GracefulEviction in Everywhere,
        dead_first: DeadFirst in Everywhere,
        return_first: ReturnFirst in Everywhere,
        caught_up: CaughtUp in Everywhere,
        gone_before: GoneBefore in LateWatches,
        reserve_as_seen: ReserveAsSeen in Reservations,
        claim_held: ClaimHeld in Everywhere,
        as_seen: AsSeen in Everywhere,
        node_asked: NodeAsked in Everywhere,
        node_asked_about_service: NodeAsked in NodesBackInService,
        garbage_uid: GarbageUid in Everywhere,
        name_waits: NameWaits in Everywhere,
        delete_uid: DeleteUid in Everywhere,
        status_uid: StatusUid in Everywhere,
        volume_names_claim: VolumeNamesClaim in FreedDisks,
        give_back: GiveBack in HalfReservations,
        reclaim_asked: ReclaimAsked in Everywhere,
    );
}

macro_rules! promises {
    ($($test:ident: $promise:ident in $focus:ident),* $(,)?) => {$(
        #[test]
        fn $test() {
            is_relied_on(Promise::$promise, Focus::$focus);
        }
    )*};
}

mod promises {
    use super::*;
    promises!(
        one_name: OneName in Everywhere,
        graceful: Graceful in Everywhere,
        bound_once: BoundOnce in Bindings,
        preconditions: Preconditions in Everywhere,
    );
}

/// Where a search for a missing rule looks, all is well with the rules in place.
#[test]
fn no_schedule_in_focus_breaks_a_promise() {
    for focus in Focus::ALL {
        for seed in 0..FOCUSED {
            if let (Err(what), _) = schedule(seed, focus, None, false) {
                tell(seed, &format!("{focus:?}: {what}"), &schedule(seed, focus, None, true).1);
            }
        }
    }
}
