//! Being written.

pub mod allocate;
pub mod patch;
pub mod table;
