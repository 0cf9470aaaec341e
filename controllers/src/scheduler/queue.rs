//! Pods that wait for a node: which is next, which wait for what. Plain data, with the time as an argument.
//!
//! ```text
//!   add ─► active ─pop─► in flight ─► remove
//!            ▲              │ did not fit
//!            │              ▼
//!        back-off ◄─wake─ parked (for the events that could help it)
//! ```

use crate::run::ObjectKey;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

/// What happened, as far as it can help a pod that did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events(u8);

impl Events {
    pub const NONE: Self = Self(0);
    /// A node came, or changed in a way that matters.
    pub const NODE: Self = Self(1);
    /// A pod left its node.
    pub const POD_GONE: Self = Self(2);
    /// A pod got a node.
    pub const POD_PLACED: Self = Self(4);
    /// A claim, a volume or a storage class changed.
    pub const VOLUME: Self = Self(8);

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The first pause between two attempts. Short, because the first wake is mostly the one that helps (a claim was
/// bound); it doubles, so that a pod that never fits costs next to nothing in a busy cluster.
const BACK_OFF: Duration = Duration::from_millis(10);
/// Kubernetes' longest pause.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(10);

/// Higher priority first, then first come.
type Rank = (Reverse<i32>, u64);

#[derive(Debug, Default)]
pub struct Pending {
    pods: HashMap<ObjectKey, Entry>,
    /// Those in flight or parked: whom an event may concern. Few, where `pods` may be many.
    listening: HashSet<ObjectKey>,
    active: BTreeMap<Rank, ObjectKey>,
    back_off: BTreeMap<(Instant, Rank), ObjectKey>,
    arrivals: u64,
}

#[derive(Debug)]
struct Entry {
    rank: Rank,
    attempts: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    /// Being decided about; what happened meanwhile, and whether the pod itself changed.
    InFlight {
        happened: Events,
        changed: bool,
    },
    Parked(Events),
    BackOff(Instant),
}

impl Pending {
    /// A new pod, or one that itself changed: it is tried at once.
    pub fn add(&mut self, key: ObjectKey, priority: i32) {
        self.arrivals += 1;
        let rank = (Reverse(priority), self.arrivals);
        let new = Entry { rank, attempts: 0, state: State::Parked(Events::NONE) };
        let entry = self.pods.entry(key.clone()).or_insert(new);
        match &mut entry.state {
            State::Active => return,
            State::InFlight { changed, .. } => {
                *changed = true;
                return;
            }
            State::BackOff(until) => drop(self.back_off.remove(&(*until, entry.rank))),
            State::Parked(_) => {}
        }
        entry.state = State::Active;
        self.listening.remove(&key);
        self.active.insert(entry.rank, key);
    }

    /// It has a node, or is gone.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.pods.remove(key) {
            self.listening.remove(key);
            match entry.state {
                State::Active => drop(self.active.remove(&entry.rank)),
                State::BackOff(until) => drop(self.back_off.remove(&(until, entry.rank))),
                State::InFlight { .. } | State::Parked(_) => {}
            }
        }
    }

    pub fn pop(&mut self, now: Instant) -> Option<ObjectKey> {
        while let Some(first) = self.back_off.first_entry()
            && first.key().0 <= now
        {
            let ((_, rank), key) = first.remove_entry();
            if let Some(entry) = self.pods.get_mut(&key) {
                entry.state = State::Active;
                self.active.insert(rank, key);
            }
        }
        let (_, key) = self.active.pop_first()?;
        let entry = self.pods.get_mut(&key)?;
        entry.state = State::InFlight { happened: Events::NONE, changed: false };
        entry.attempts = entry.attempts.saturating_add(1);
        self.listening.insert(key.clone());
        Some(key)
    }

    /// When the next back-off ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.back_off.first_key_value().map(|((until, _), _)| *until)
    }

    /// It did not fit; `waits_for` could help it.
    pub fn park(&mut self, key: &ObjectKey, waits_for: Events, now: Instant) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        let State::InFlight { happened, changed } = entry.state else { return };
        entry.state = State::Parked(waits_for);
        if changed || happened.intersects(waits_for) {
            self.pause(key, now);
        }
    }

    /// The attempt failed for a reason that is not the pod's: again after a pause.
    pub fn retry(&mut self, key: &ObjectKey, now: Instant) {
        if self.pods.get(key).is_some_and(|e| matches!(e.state, State::InFlight { .. })) {
            self.pause(key, now);
        }
    }

    /// Something happened: the pods that it could help are tried again after their pause.
    pub fn wake(&mut self, event: Events, now: Instant) {
        let mut helped = Vec::new();
        for key in &self.listening {
            match self.pods.get_mut(key).map(|e| &mut e.state) {
                Some(State::InFlight { happened, .. }) => *happened = happened.and(event),
                Some(State::Parked(waits_for)) if waits_for.intersects(event) => helped.push(key.clone()),
                _ => {}
            }
        }
        helped.iter().for_each(|key| self.pause(key, now));
    }

    fn pause(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(entry) = self.pods.get_mut(key) {
            let doublings = entry.attempts.saturating_sub(1).min(16);
            let until = now + BACK_OFF.saturating_mul(1 << doublings).min(LONGEST_BACK_OFF);
            entry.state = State::BackOff(until);
            self.listening.remove(key);
            self.back_off.insert((until, entry.rank), key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    #[test]
    fn priority_then_order_of_arrival() {
        let (mut queue, now) = (Pending::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 5), ("a", 0)] {
            queue.add(key(name), priority);
        }
        for expected in ["b", "c", "a"] {
            assert_eq!(queue.pop(now), Some(key(expected)));
        }
        assert_eq!(queue.pop(now), None);
    }

    #[test]
    fn a_parked_pod_is_woken_only_by_what_helps_it() {
        let (mut queue, now) = (Pending::default(), Instant::now());
        queue.add(key("a"), 0);
        queue.pop(now);
        queue.park(&key("a"), Events::VOLUME, now);
        queue.wake(Events::NODE, now);
        assert_eq!(queue.deadline(), None);
        queue.wake(Events::VOLUME, now);
        assert_eq!(queue.pop(now), None, "not before its pause is over");
        let until = queue.deadline().unwrap();
        assert_eq!(queue.pop(until), Some(key("a")));
    }

    #[test]
    fn what_happens_during_the_attempt_is_not_missed() {
        let (mut queue, now) = (Pending::default(), Instant::now());
        queue.add(key("a"), 0);
        queue.pop(now);
        queue.wake(Events::NODE, now);
        queue.park(&key("a"), Events::NODE, now);
        assert!(queue.deadline().is_some());
        let later = now + LONGEST_BACK_OFF;
        queue.pop(later);
        queue.add(key("a"), 0);
        queue.park(&key("a"), Events::NODE, later);
        assert!(queue.deadline().is_some(), "the pod itself changed");
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let (mut queue, mut now) = (Pending::default(), Instant::now());
        queue.add(key("a"), 0);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            assert!(queue.pop(now).is_some());
            queue.retry(&key("a"), now);
            let until = queue.deadline().unwrap();
            pauses.push(until - now);
            now = until;
        }
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[19]), (BACK_OFF, LONGEST_BACK_OFF));
    }

    #[test]
    fn removed_pods_are_forgotten_in_every_state() {
        let (mut queue, now) = (Pending::default(), Instant::now());
        queue.add(key("active"), 0);
        queue.remove(&key("active"));
        queue.add(key("pausing"), 0);
        queue.pop(now);
        queue.retry(&key("pausing"), now);
        queue.remove(&key("pausing"));
        assert_eq!((queue.deadline(), queue.pop(now + LONGEST_BACK_OFF)), (None, None));
        assert!(queue.pods.is_empty());
    }
}
