//! Rules that several kinds share.

pub(super) mod cells;
pub(super) mod diff;
pub(super) mod label_selector;
pub(super) mod network;
pub mod object_meta;
pub(super) mod pod_spec;
#[cfg(test)]
pub(super) mod testing;
