//! Rules that several kinds share.

pub(super) mod cells;
pub(super) mod network;
pub mod object_meta;
#[cfg(test)]
pub(super) mod testing;
