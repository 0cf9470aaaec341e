//! What a user of the release binary gets, measured over TLS against a real server: `make bench`.
//!
//! Prints figures beside the budgets of the design and beside references taken in the same run; judges nothing. A name as
//! argument (`ready`, `idle`, `pods`, `load`, `machinery`) runs that part alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints and may panic"
)]

mod connection;
mod load;
mod machinery;
mod nodes;
mod reference;

use std::time::Duration;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let run = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let size = std::fs::metadata(tests::cluster::binary("minik8s")).expect("the binary is built").len();
    println!("binary                                  {:8.1} MB    (budget 30)", size as f64 / 1e6);
    if run("ready") {
        nodes::ready();
    }
    if run("idle") {
        nodes::idle();
    }
    if run("pods") {
        nodes::pods();
    }
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    };
    if run("load") {
        runtime().block_on(load::run());
    }
    if run("machinery") {
        runtime().block_on(machinery::run());
    }
}

/// The value below which the given part of the samples lies.
fn percentile(samples: &mut [Duration], part: f64) -> Duration {
    samples.sort();
    samples[((samples.len() - 1) as f64 * part) as usize]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
