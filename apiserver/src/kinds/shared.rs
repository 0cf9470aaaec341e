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

use std::{collections::HashSet, hash::Hash};

/// For each item, whether an equal one comes before it. In one pass: a body has room for hundreds of thousands of items, and to
/// look through all that came before for each of them would take minutes.
pub(crate) fn repeats<T: Eq + Hash>(items: impl IntoIterator<Item = T>) -> Vec<bool> {
    let mut seen = HashSet::new();
    items.into_iter().map(|item| !seen.insert(item)).collect()
}
