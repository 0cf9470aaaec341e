//! Waiting for a condition.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Between two looks: short enough not to slow a test down, long enough not to starve what it waits for.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks until `check` says `Ok`, and returns what it gave; panics after `deadline` with the last `Err`.
#[track_caller]
pub fn wait_for<T, E: Display>(what: &str, deadline: Duration, mut check: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > deadline => {
                panic!("{what}: not within {} s; last seen: {last}", deadline.as_secs())
            }
            Err(_) => std::thread::park_timeout(INTERVAL),
        }
    }
}

/// `Ok` if true, else the text.
pub fn ensure(holds: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}
