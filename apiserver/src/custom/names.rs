//! Names that live as long as the process.
//!
//! Everything that speaks of a resource (keys, errors, metrics, discovery) holds its names as `&'static str`, since those
//! of our own kinds are constants. The few words that name a custom kind join them, each kept once for good: there are as
//! many as an administrator ever thought of. Schemas and descriptions are owned by their kind and go with it.

use std::{
    collections::HashSet,
    sync::{LazyLock, Mutex, PoisonError},
};

static NAMES: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);

pub(super) fn intern(name: &str) -> &'static str {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    kept
}

pub(super) fn intern_all(names: Option<&Vec<String>>) -> Vec<&'static str> {
    names.into_iter().flatten().map(|n| intern(n)).collect()
}
