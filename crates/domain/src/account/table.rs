//! The slots of one counter: own ones, or those of all others together.
//!
//! Invariant: slots ascend, each once, at most as many as the algorithm can need; where there would
//! be more, the oldest is dropped, or that farthest from the one that is charged, as the table was
//! made. The newest lies inline and the sum of the older ones is kept, so
//! that almost every decision reads one cache line, and one in a new slot three. Deliberately absent:
//! which slots count; the caller says a cut.

use std::collections::VecDeque;

use super::SlotSum;
use crate::time::UnixMs;
use crate::units::Units;

/// The use of one slot. Packed, as all that counters hold: there are millions, and each decision waits
/// for the memory of some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(8))]
pub(super) struct Slot {
    /// Its first instant, in milliseconds since 1970.
    pub(super) start: i64,
    /// The use in it.
    pub(super) sum: i128,
}

/// Stands for no slot: older than any.
const NONE: Slot = Slot {
    start: i64::MIN,
    sum: 0,
};

/// The sum of the older slots from an index on, and for which cuts it holds: `from <= cut < until`. Packed
/// so that what a bucket's decision reads, behind it, begins a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(2))]
struct OlderSum {
    from: i64,
    until: i64,
    sum: i128,
    first_live: u16,
}

impl OlderSum {
    /// Holds for no cut.
    const STALE: Self = Self {
        from: i64::MAX,
        until: i64::MIN,
        first_live: 0,
        sum: 0,
    };

    fn is_stale(&self) -> bool {
        // A sum that saturated once cannot be gone on with.
        self.until == i64::MIN || matches!(self.sum, i128::MIN | i128::MAX)
    }
}

/// Which slot goes where there would be too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drops {
    /// The oldest; one that is charged, too, where it is older than all others.
    Oldest,
    /// The farthest from the one that is charged, which stays: where one slot is looked at alone, as
    /// a clock that was set back must find what is charged by it.
    Farthest,
}

/// Slots of one counter.
#[derive(Debug, Clone)]
#[repr(C)]
pub(super) struct SlotTable {
    newest: Slot,
    slots_max: u16,
    drops: Drops,
    older_sum: OlderSum,
    older: Older,
}

/// The slots before the newest, ascending; most counters have none.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::box_collection,
    reason = "a third of the memory where there are none, as mostly"
)]
struct Older(Option<Box<VecDeque<Slot>>>);

impl Older {
    fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter().flat_map(|slots| slots.iter())
    }

    fn get(&self, index: usize) -> Option<&Slot> {
        self.0.as_deref()?.get(index)
    }

    fn len(&self) -> usize {
        self.0.as_deref().map_or(0, VecDeque::len)
    }

    fn find(&self, start: i64) -> Result<usize, usize> {
        let slots = self.0.as_deref();
        slots.map_or(Err(0), |slots| {
            slots.binary_search_by_key(&start, |slot| slot.start)
        })
    }

    fn slots(&mut self) -> &mut VecDeque<Slot> {
        self.0.get_or_insert_default()
    }
}

impl SlotTable {
    /// Begins with no slots, of which there will be at most `slots_max`, at least 2.
    pub(super) const fn new(slots_max: u16, drops: Drops) -> Self {
        Self {
            slots_max,
            drops,
            newest: NONE,
            older: Older(None),
            older_sum: OlderSum::STALE,
        }
    }

    /// Returns the start of the newest slot; `i64::MIN` where there is none.
    pub(super) const fn newest_start(&self) -> i64 {
        self.newest.start
    }

    /// Returns the sum of one slot.
    pub(super) fn sum_at(&self, start: UnixMs) -> i128 {
        if self.newest.start == start.get() {
            return self.newest.sum;
        }
        if self.newest.start < start.get() {
            return 0;
        }
        let found = self.find(start.get()).ok();
        let slot = found.and_then(|index| self.older.get(index));
        slot.map_or(0, |slot| slot.sum)
    }

    /// Returns the sum of the slots that start after `cut`.
    pub(super) fn sum_after(&mut self, cut: i64) -> i128 {
        let newest = if self.newest.start > cut {
            self.newest.sum
        } else {
            0
        };
        let cached = self.older_sum;
        if cut < cached.from || cut >= cached.until {
            self.older_sum = if cached.is_stale() || cut < cached.from {
                self.sum_from(
                    OlderSum {
                        from: i64::MIN,
                        until: i64::MIN,
                        first_live: 0,
                        sum: saturating_sum(self.older.iter()),
                    },
                    cut,
                )
            } else {
                self.sum_from(cached, cut)
            };
        }
        newest.saturating_add(self.older_sum.sum)
    }

    /// Takes the slots out of a sum that no longer start after `cut`.
    fn sum_from(&self, mut older: OlderSum, cut: i64) -> OlderSum {
        older.until = i64::MAX;
        while let Some(slot) = self.older.get(usize::from(older.first_live)) {
            if slot.start > cut {
                older.until = slot.start;
                break;
            }
            older.from = slot.start;
            older.first_live = older.first_live.saturating_add(1);
            older.sum = older.sum.saturating_sub(slot.sum);
        }
        if matches!(older.sum, i128::MIN | i128::MAX) {
            older.sum = saturating_sum(self.older.iter().skip(usize::from(older.first_live)));
        }
        older
    }

    /// Adds use to a slot; none where the table is full, the slot older than all, and the oldest goes.
    pub(super) fn add(&mut self, start: UnixMs, units: Units) {
        let start = start.get();
        let made = Slot {
            start,
            sum: units.get(),
        };
        if start == self.newest.start {
            self.newest.sum = self.newest.sum.saturating_add(made.sum);
        } else if start > self.newest.start {
            let passed = std::mem::replace(&mut self.newest, made);
            if passed != NONE {
                self.pass(passed);
            }
        } else {
            self.add_older(made);
        }
    }

    /// Puts the slot that was the newest behind the older ones.
    fn pass(&mut self, passed: Slot) {
        if self.is_full() {
            self.older.slots().pop_front();
            match self.older_sum.first_live.checked_sub(1) {
                Some(first_live) => self.older_sum.first_live = first_live,
                None => self.older_sum = OlderSum::STALE,
            }
        }
        self.older.slots().push_back(passed);
        if !self.older_sum.is_stale() {
            self.older_sum.until = self.older_sum.until.min(passed.start);
            self.older_sum.sum = self.older_sum.sum.saturating_add(passed.sum);
        }
    }

    fn add_older(&mut self, made: Slot) {
        self.older_sum = OlderSum::STALE;
        match self.find(made.start) {
            Ok(index) => {
                if let Some(slot) = self.older.slots().get_mut(index) {
                    slot.sum = slot.sum.saturating_add(made.sum);
                }
            }
            Err(0) if self.is_full() && self.drops == Drops::Oldest => {}
            Err(index) => {
                let is_full = self.is_full();
                self.older.slots().insert(index, made);
                if is_full {
                    self.drop_one(made.start);
                }
            }
        }
    }

    /// Drops the slot that goes where one that is not the newest was charged.
    fn drop_one(&mut self, charged: i64) {
        let oldest = self.older.get(0).map_or(charged, |slot| slot.start);
        let behind = charged.saturating_sub(oldest);
        let ahead = self.newest.start.saturating_sub(charged);
        if self.drops == Drops::Farthest && ahead > behind {
            // The newest lies beside the older ones, of which the last takes its place.
            self.newest = self.older.slots().pop_back().unwrap_or(NONE);
        } else {
            self.older.slots().pop_front();
        }
    }

    /// Drops the slots that start before an instant.
    pub(super) fn drop_before(&mut self, start: UnixMs) {
        if let Some(older) = &mut self.older.0 {
            older.retain(|slot| slot.start >= start.get());
        }
        if self.newest.start < start.get() {
            self.newest = NONE;
        }
        self.older_sum = OlderSum::STALE;
    }

    /// Returns all slots, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> {
        let newest = (self.newest != NONE).then_some(self.newest);
        self.older.iter().copied().chain(newest)
    }

    /// Returns the slots to send, ascending, without those of nothing.
    pub(super) fn sums(&self) -> Vec<SlotSum> {
        let used = self.iter().filter(|slot| slot.sum != 0);
        let used = used.filter_map(|slot| {
            let (start, sum) = (UnixMs::new(slot.start)?, Units::new(slot.sum));
            Some(SlotSum { start, sum })
        });
        used.collect()
    }

    fn is_full(&self) -> bool {
        self.older.len() >= usize::from(self.slots_max.saturating_sub(1))
    }

    fn find(&self, start: i64) -> Result<usize, usize> {
        self.older.find(start)
    }
}

fn saturating_sum<'a>(slots: impl Iterator<Item = &'a Slot>) -> i128 {
    slots.fold(0, |sum, slot| sum.saturating_add(slot.sum))
}
