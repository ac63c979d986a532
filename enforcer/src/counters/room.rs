//! How many counters there may be, so that whoever chooses keys does not choose our memory.
//!
//! Invariant: never more than the bound. What is there stays and counts on: only new ones find no
//! room, until old ones are forgotten. Deliberately absent: what is decided without a counter, which
//! the policy says.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The room for counters.
#[derive(Debug)]
pub(super) struct Room {
    max: usize,
    count: AtomicUsize,
    /// How many found none.
    refused: AtomicU64,
    /// How many of them were told by others, who will not tell it again.
    missed: AtomicU64,
    /// How many of those were read again since.
    healed: AtomicU64,
}

impl Room {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            max,
            count: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            healed: AtomicU64::new(0),
        }
    }

    /// Takes room for one; false where there is none.
    pub(super) fn take(&self) -> bool {
        let taken = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < self.max).then(|| count.saturating_add(1))
            });
        taken.is_ok()
    }

    /// Gives back the room of so many.
    pub(super) fn give(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
    }

    /// Notes that one found no room.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that one found none of which others told.
    pub(super) fn miss(&self) {
        self.refuse();
        self.missed.fetch_add(1, Ordering::Release);
    }

    /// Returns how many were missed so far, once there is room again and not all were read again.
    pub(super) fn missed(&self) -> Option<u64> {
        (!self.is_full() && self.has_missed()).then(|| self.missed.load(Ordering::Acquire))
    }

    /// Notes that all was read again which was missed until then.
    pub(super) fn heal(&self, missed: u64) {
        self.healed.fetch_max(missed, Ordering::Release);
    }

    /// Says whether a counter that is not there may be one that found no room: then nobody knows what it
    /// would hold.
    pub(super) fn is_incomplete(&self) -> bool {
        self.is_full() || self.has_missed()
    }

    fn has_missed(&self) -> bool {
        self.healed.load(Ordering::Acquire) < self.missed.load(Ordering::Acquire)
    }

    pub(super) fn is_full(&self) -> bool {
        self.count() >= self.max
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
