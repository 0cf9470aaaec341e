//! What must have happened once before `/readyz` is ok: each part of the server holds a named latch and opens it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// One named thing that must have happened. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Latch(Arc<AtomicBool>);

impl Latch {
    pub fn ready(&self) {
        self.0.store(true, Ordering::Release);
    }
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// All latches of a server, in the order they were asked for. Cheap to clone; all clones are one set.
#[derive(Debug, Clone, Default)]
pub struct Latches(Arc<Mutex<Vec<(String, Latch)>>>);

impl Latches {
    /// The latch of this name, closed if it is new.
    pub fn latch(&self, name: &str) -> Latch {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, latch)) = all.iter().find(|(n, _)| n == name) {
            return latch.clone();
        }
        let latch = Latch(Arc::new(AtomicBool::new(false)));
        all.push((name.to_owned(), latch.clone()));
        latch
    }

    /// Name and state of each, as `/readyz?verbose` lists them.
    pub fn states(&self) -> Vec<(String, bool)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, latch)| (name.clone(), latch.is_ready())).collect()
    }

    pub fn all_ready(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|(_, latch)| latch.is_ready())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_ready_when_every_latch_was_opened() {
        let latches = Latches::default();
        assert!(latches.all_ready());
        let etcd = latches.latch("etcd");
        let informers = latches.latch("informers");
        etcd.ready();
        assert_eq!(latches.states(), [("etcd".to_owned(), true), ("informers".to_owned(), false)]);
        assert!(!latches.all_ready());
        latches.clone().latch("informers").ready();
        assert!(informers.is_ready() && latches.all_ready());
    }
}
