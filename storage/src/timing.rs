//! How long something took, counted in buckets.

use std::time::Duration;

/// A histogram of durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// Of each bucket alone; what was longer than the last bound is only in `count`.
    pub counts: [u64; Self::BOUNDS.len()],
    pub count: u64,
    sum_ns: u64,
}

impl Timing {
    /// From a write to memory to a disk that struggles.
    pub const BOUNDS: [Duration; 13] = [
        Duration::from_micros(100),
        Duration::from_micros(250),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_millis(2),
        Duration::from_millis(4),
        Duration::from_millis(8),
        Duration::from_millis(16),
        Duration::from_millis(32),
        Duration::from_millis(64),
        Duration::from_millis(128),
        Duration::from_millis(512),
        Duration::from_secs(4),
    ];

    pub fn note(&mut self, time: Duration) {
        if let Some(bucket) = Self::BOUNDS.iter().position(|bound| time <= *bound) {
            self.counts[bucket] += 1;
        }
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_one_bucket() {
        let mut timing = Timing::default();
        for time in
            [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(3), Duration::from_secs(9)]
        {
            timing.note(time);
        }
        assert_eq!((timing.counts[0], timing.counts[3], timing.counts[5]), (1, 1, 1));
        assert_eq!((timing.counts.iter().sum::<u64>(), timing.count), (3, 4));
        assert_eq!(timing.sum(), Duration::from_millis(9004));
    }
}
