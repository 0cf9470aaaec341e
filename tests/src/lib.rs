//! What the suite drives the cluster with: a real server of its own for each test, real kubectl, real containers.
//!
//! A test never sleeps: it waits for a condition with [`wait_for`], which reports the last state it saw.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on ends by panicking")]

pub mod cluster;
pub mod docker;
pub mod kubectl;
pub mod manifest;
pub mod process;
pub mod wait;

pub use cluster::{Options, TestCluster};
pub use docker::docker;
pub use kubectl::{DEADLINE, Output, Version};
pub use manifest::busybox;
pub use process::Background;
pub use wait::wait_for;
