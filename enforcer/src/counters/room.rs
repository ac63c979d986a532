//! How many counters there may be, so that whoever chooses keys does not choose our memory.
//!
//! Invariant: never more than the bound. What is there stays and counts on: only new ones find no
//! room, until old ones are forgotten. Deliberately absent: what is decided without a counter, which
//! the policy says.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The room for counters.
#[derive(Debug)]
pub(super) struct Room {
    max: usize,
    count: AtomicUsize,
    /// How many found none.
    refused: AtomicU64,
    /// Whether one of them was told by others, who will not tell it again.
    has_missed: AtomicBool,
}

impl Room {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            max,
            count: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            has_missed: AtomicBool::new(false),
        }
    }

    /// Takes room for one; false where there is none.
    pub(super) fn take(&self) -> bool {
        let taken = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < self.max).then(|| count.saturating_add(1))
            });
        if taken.is_err() {
            self.refuse();
        }
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
        self.has_missed.store(true, Ordering::Relaxed);
    }

    /// Says, once there is room again, whether some were missed meanwhile.
    pub(super) fn take_missed(&self) -> bool {
        !self.is_full() && self.has_missed.swap(false, Ordering::Relaxed)
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
