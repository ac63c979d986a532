//! How many events a batch holds at most: what is configured, or what Postgres commits in a few seconds.
//!
//! Invariant: from [`EVENTS_MIN`] (or what is configured, where that is less) up to what is configured.
//! Deliberately absent: time; whoever commits tells how long it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a commit should take at most: far below the 60 s after which Postgres ends a statement, so that
/// a slow disk makes batches small instead of endless tries, and a partition that moves to another process
/// seldom takes much work with it.
const COMMIT_GOAL: Duration = Duration::from_secs(5);

/// What the size never falls below: Postgres then takes longer than the goal for other reasons than size.
const EVENTS_MIN: u64 = 5_000;

/// The greatest number of events of a batch. Clones share it.
#[derive(Clone)]
pub(crate) struct BatchSize {
    configured: u64,
    now: Arc<AtomicU64>,
}

impl BatchSize {
    /// Begins with what is configured.
    pub(crate) fn new(configured: u64) -> Self {
        Self {
            configured,
            now: Arc::new(AtomicU64::new(configured)),
        }
    }

    /// Returns the size.
    pub(crate) fn get(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Learns how long a batch of so many events took: a large one too long, and the next ones hold as many as
    /// would have taken as long as they should; a full one not, and they hold twice as many.
    pub(crate) fn committed(&self, events: u64, took: Duration) {
        let now = self.get();
        // A small one waited for something else.
        if took > COMMIT_GOAL && events >= now / 2 {
            let share = u128::from(events) * COMMIT_GOAL.as_millis() / took.as_millis().max(1);
            self.set(u64::try_from(share).unwrap_or(now).min(now));
        } else if took <= COMMIT_GOAL && events >= now {
            self.set(now.saturating_mul(2));
        }
    }

    /// Learns that a commit failed for a reason that may pass, as a time-out: the next one is smaller.
    pub(crate) fn failed(&self) {
        self.set(self.get() / 2);
    }

    fn set(&self, events: u64) {
        let least = EVENTS_MIN.min(self.configured);
        self.now
            .store(events.clamp(least, self.configured), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::BatchSize;

    #[test]
    fn batches_are_as_large_as_commits_allow() {
        let size = BatchSize::new(100_000);
        size.committed(100_000, Duration::from_secs(10));
        assert_eq!(size.get(), 50_000, "as many as take five seconds");
        size.committed(20_000, Duration::from_secs(1));
        assert_eq!(size.get(), 50_000, "one that was not full tells nothing");
        size.committed(50_000, Duration::from_secs(5));
        assert_eq!(size.get(), 100_000, "grows again");
        size.committed(100_000, Duration::from_secs(1));
        assert_eq!(size.get(), 100_000, "never beyond what is configured");
        size.committed(1_000, Duration::from_secs(30));
        assert_eq!(size.get(), 100_000, "a small batch that waited for a lock");
        (0..20).for_each(|_| size.failed());
        assert_eq!(size.get(), 5_000, "never below the least");
        size.committed(1_000, Duration::from_secs(60));
        assert_eq!(size.get(), 5_000, "still the least");
    }

    #[test]
    fn a_small_configured_size_stays() {
        let size = BatchSize::new(10);
        size.failed();
        size.committed(10, Duration::from_secs(60));
        assert_eq!(size.get(), 10);
    }
}
