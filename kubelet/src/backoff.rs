//! Crash back-off, as the real kubelet counts it: the first restart is immediate, then 10 s doubling to 5 minutes;
//! a container that ran for 10 minutes starts afresh, and so does one whose spec changed.

use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

const INITIAL: SignedDuration = SignedDuration::from_secs(10);
const MAX: SignedDuration = SignedDuration::from_secs(300);

/// Delays by key (a container's or an image's name). Kept by its user, never global.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Hash of what failed: another one is another thing.
    hash: String,
    delay: SignedDuration,
    updated: Timestamp,
}

impl Entry {
    fn is_expired(&self, event: Timestamp) -> bool {
        event.duration_since(self.updated) > MAX * 2
    }
}

impl Backoff {
    /// Until when to wait after an end at `event`; `None` when there is nothing (more) to wait for.
    pub fn until(&self, key: &str, hash: &str, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = self.entries.get(key).filter(|entry| entry.hash == hash && !entry.is_expired(event))?;
        let until = event.checked_add(entry.delay).unwrap_or(Timestamp::MAX);
        (until > now).then_some(until)
    }

    /// Counts one more try, made now because of an end at `event`.
    pub fn next(&mut self, key: &str, hash: &str, event: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(old) if old.hash == hash && !old.is_expired(event) => (old.delay * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { hash: hash.to_owned(), delay, updated: now });
    }

    /// The delay in force, for messages.
    pub fn delay(&self, key: &str) -> SignedDuration {
        self.entries.get(key).map_or(SignedDuration::ZERO, |entry| entry.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    /// (second of the end, expected delay after it) with a restart as soon as allowed.
    #[test]
    fn delays_double_to_five_minutes_and_reset_after_a_long_run() {
        let mut backoff = Backoff::default();
        let mut died = at(0);
        assert_eq!(backoff.until("c", "h", died, died), None, "the first restart is immediate");
        backoff.next("c", "h", died, died);
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            died = died.checked_add(SignedDuration::from_secs(1)).unwrap();
            let until = backoff.until("c", "h", died, died).unwrap();
            assert_eq!(until.duration_since(died).as_secs(), expected);
            assert_eq!(backoff.until("c", "h", died, until), None);
            backoff.next("c", "h", died, until);
            died = until;
        }
        let later = died.checked_add(SignedDuration::from_secs(601)).unwrap();
        assert_eq!(backoff.until("c", "h", later, later), None, "ran for ten minutes");
        backoff.next("c", "h", later, later);
        assert_eq!(backoff.delay("c").as_secs(), 10);
    }

    #[test]
    fn another_spec_does_not_wait() {
        let mut backoff = Backoff::default();
        backoff.next("c", "old", at(0), at(0));
        assert!(backoff.until("c", "old", at(1), at(1)).is_some());
        assert_eq!(backoff.until("c", "new", at(1), at(1)), None);
    }
}
