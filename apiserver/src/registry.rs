//! Being written.

pub mod allocate;
