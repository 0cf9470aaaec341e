//! The queue's rules as plain data: no clock, no waiting.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    hash::Hash,
    time::Duration,
};
use tokio::time::Instant;

/// First delay of a failing key; doubles with each failure (client-go's default rate limiter).
const BASE_DELAY: Duration = Duration::from_millis(5);
/// Longest delay of a failing key (client-go's default rate limiter).
const MAX_DELAY: Duration = Duration::from_secs(1000);

/// A key that waits for its time. Ordered by deadline, then by arrival.
struct Delayed<T> {
    at: Instant,
    order: u64,
    key: T,
}

impl<T> PartialEq for Delayed<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl<T> Eq for Delayed<T> {}
impl<T> PartialOrd for Delayed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Delayed<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Every collection here is bounded by the number of distinct keys, but for `delayed`, which may also hold
/// superseded deadlines; `compact` keeps those below the live ones.
pub(super) struct State<T> {
    ready: VecDeque<T>,
    /// Keys that must be handed out: those in `ready` and those added again while being processed.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    delayed: BinaryHeap<Reverse<Delayed<T>>>,
    /// The deadline that counts for each waiting key; heap entries that differ are stale.
    deadlines: HashMap<T, Instant>,
    failures: HashMap<T, u32>,
    order: u64,
    pub(super) shut_down: bool,
}

impl<T: Hash + Eq + Clone> State<T> {
    pub(super) fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            delayed: BinaryHeap::new(),
            deadlines: HashMap::new(),
            failures: HashMap::new(),
            order: 0,
            shut_down: false,
        }
    }

    pub(super) fn add(&mut self, key: T) {
        if self.shut_down || !self.dirty.insert(key.clone()) {
            return;
        }
        if !self.processing.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// A key that already waits keeps the earlier of its two deadlines.
    pub(super) fn add_at(&mut self, key: T, at: Instant) {
        if self.shut_down {
            return;
        }
        match self.deadlines.get_mut(&key) {
            Some(known) if *known <= at => return,
            Some(known) => *known = at,
            None => {
                self.deadlines.insert(key.clone(), at);
            }
        }
        self.order += 1;
        self.delayed.push(Reverse(Delayed { at, order: self.order, key }));
        self.compact();
    }

    /// Drops superseded entries when they outnumber the live ones.
    fn compact(&mut self) {
        if self.delayed.len() > 64 && self.delayed.len() > 2 * self.deadlines.len() {
            let deadlines = &self.deadlines;
            self.delayed.retain(|Reverse(d)| deadlines.get(&d.key) == Some(&d.at));
        }
    }

    /// Counts a failure of the key and says how long it has to wait.
    pub(super) fn failed(&mut self, key: &T) -> Duration {
        let count = self.failures.entry(key.clone()).or_insert(0);
        let delay = BASE_DELAY.saturating_mul(1u32.checked_shl(*count).unwrap_or(u32::MAX)).min(MAX_DELAY);
        *count = count.saturating_add(1).min(31);
        delay
    }

    pub(super) fn failures(&self, key: &T) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    pub(super) fn forget(&mut self, key: &T) {
        self.failures.remove(key);
    }

    /// The next key that may be processed now.
    pub(super) fn take(&mut self, now: Instant) -> Option<T> {
        self.release(now);
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.processing.insert(key.clone());
        Some(key)
    }

    /// Moves keys whose time has come to the ready ones.
    fn release(&mut self, now: Instant) {
        while self.delayed.peek().is_some_and(|Reverse(d)| d.at <= now) {
            let Some(Reverse(d)) = self.delayed.pop() else { return };
            if self.deadlines.get(&d.key) == Some(&d.at) {
                self.deadlines.remove(&d.key);
                self.add(d.key);
            }
        }
    }

    pub(super) fn done(&mut self, key: &T) {
        if self.processing.remove(key) && self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.delayed.peek().map(|Reverse(d)| d.at)
    }

    /// Whether another worker has something to take or a time to wait for.
    pub(super) fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.delayed.is_empty()
    }

    /// What is ready is still handed out; what waits is dropped.
    pub(super) fn shut_down(&mut self) {
        self.shut_down = true;
        self.delayed.clear();
        self.deadlines.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(state: &mut State<&'static str>, now: Instant) -> Vec<&'static str> {
        std::iter::from_fn(|| state.take(now)).collect()
    }

    #[test]
    fn repeated_adds_collapse_and_keep_their_order() {
        let mut s = State::new();
        for key in ["b", "a", "b", "a", "c"] {
            s.add(key);
        }
        assert_eq!(drain(&mut s, Instant::now()), ["b", "a", "c"]);
    }

    #[test]
    fn a_key_is_not_handed_out_twice_at_once_but_again_after_done() {
        let (mut s, now) = (State::new(), Instant::now());
        s.add("a");
        assert_eq!(s.take(now), Some("a"));
        s.add("a");
        s.add("a");
        assert_eq!(s.take(now), None);
        s.done(&"a");
        assert_eq!(s.take(now), Some("a"));
        s.done(&"a");
        assert_eq!(s.take(now), None);
    }

    #[test]
    fn done_of_a_key_nobody_holds_changes_nothing() {
        let (mut s, now) = (State::new(), Instant::now());
        s.add("a");
        s.done(&"a");
        assert_eq!(drain(&mut s, now), ["a"]);
    }

    #[test]
    fn delayed_keys_come_at_their_earliest_deadline_only() {
        let (mut s, now) = (State::new(), Instant::now());
        let at = |secs| now + Duration::from_secs(secs);
        s.add_at("a", at(10));
        s.add_at("b", at(5));
        s.add_at("a", at(3)); // earlier: moves
        s.add_at("b", at(9)); // later: ignored
        assert_eq!(s.next_deadline(), Some(at(3)));
        assert_eq!(s.take(at(2)), None);
        assert_eq!(s.take(at(3)), Some("a"));
        s.done(&"a");
        assert_eq!(s.take(at(5)), Some("b"));
        s.done(&"b");
        assert_eq!(drain(&mut s, at(100)), Vec::<&str>::new(), "superseded deadlines do not fire");
    }

    #[test]
    fn superseded_deadlines_do_not_pile_up() {
        let (mut s, now) = (State::new(), Instant::now());
        for i in (0..10_000u64).rev() {
            s.add_at("a", now + Duration::from_millis(i));
        }
        assert!(s.delayed.len() <= 65, "{}", s.delayed.len());
        assert_eq!(s.take(now), Some("a"));
    }

    #[test]
    fn failures_back_off_exponentially_to_a_ceiling_and_are_forgotten() {
        let mut s = State::new();
        let delays: Vec<_> = (0..4).map(|_| s.failed(&"a").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        assert_eq!((s.failures(&"a"), s.failures(&"b")), (4, 0));
        for _ in 0..1000 {
            s.failed(&"a");
        }
        assert_eq!(s.failed(&"a"), MAX_DELAY);
        s.forget(&"a");
        assert_eq!(s.failed(&"a"), BASE_DELAY);
    }

    #[test]
    fn shutting_down_hands_out_what_is_ready_and_takes_nothing_new() {
        let (mut s, now) = (State::new(), Instant::now());
        s.add("a");
        s.add_at("b", now);
        s.shut_down();
        s.add("c");
        s.add_at("d", now);
        assert_eq!(drain(&mut s, now + Duration::from_secs(1)), ["a"]);
        assert!(!s.has_more());
    }
}
