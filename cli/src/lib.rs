//! The composition root: reads flags, environment, files and signals, builds every component and starts them in order.
//!
//! Nothing else in the workspace reads a flag, an environment variable or a signal.

pub mod args;
pub mod certs;
pub mod cluster;
pub mod config;
pub mod ctl;
pub mod data_dir;
pub mod logging;
pub mod nodes;
pub mod panics;
pub mod reset;
pub mod shutdown;

/// What ends a program: one sentence that says what is wrong and what to do about it, and the exit code.
#[derive(Debug)]
pub struct Exit {
    pub message: String,
    pub code: u8,
}

impl Exit {
    /// The user's input or machine is at fault: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }
    /// Something failed while running: exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }
}
