//! The Docker command, for looking at what a cluster made.

use crate::kubectl::{self, DEADLINE};
use std::process::Command;

/// `docker` with these arguments; panics unless it succeeds. Returns its standard output.
#[track_caller]
pub fn docker(args: &[&str]) -> String {
    let mut command = Command::new("docker");
    command.args(args);
    kubectl::run(command, b"", DEADLINE).ok()
}
