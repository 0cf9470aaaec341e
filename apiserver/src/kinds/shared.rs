//! Rules that several kinds share.

pub(super) mod cells;
pub(crate) mod diff;
pub(super) mod int_or_percent;
pub(super) mod label_selector;
pub(super) mod network;
pub mod object_meta;
pub(super) mod pod_spec;
pub(super) mod pod_template;
pub(super) mod rbac;
pub(super) mod replicas;
pub(super) mod spec_and_status;
#[cfg(test)]
pub(super) mod testing;
