//! The slots of one counter, merged over all origins, beside what this process counted itself.
//!
//! Invariant: slots ascend, each once, at most as many as the algorithm can need; where there would
//! be more, the oldest is dropped. The newest lies inline and the sum of the older ones is kept, so that almost every
//! decision reads one cache line. Deliberately absent: which slots count; the caller says a cut.

use super::SlotSum;
use crate::time::UnixMs;
use crate::units::Units;

/// The use of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Its first instant, in milliseconds since 1970.
    pub(super) start: i64,
    /// All use in it.
    pub(super) sum: i128,
    /// What this process counted of it.
    pub(super) own: i128,
}

/// Stands for no slot: older than any.
const NONE: Slot = Slot {
    start: i64::MIN,
    sum: 0,
    own: 0,
};

/// A sum of the older slots, and for which cuts it holds: `from <= cut < until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OlderSum {
    from: i64,
    until: i64,
    sum: i128,
}

impl OlderSum {
    /// Holds for no cut.
    const STALE: Self = Self {
        from: i64::MAX,
        until: i64::MIN,
        sum: 0,
    };
}

/// Slots of one counter.
#[derive(Debug, Clone)]
pub(super) struct SlotTable {
    slots_max: usize,
    newest: Slot,
    older: Vec<Slot>,
    older_sum: OlderSum,
}

impl SlotTable {
    /// Begins with no slots, of which there will be at most `slots_max`, at least 1.
    pub(super) const fn new(slots_max: usize) -> Self {
        Self {
            slots_max,
            newest: NONE,
            older: Vec::new(),
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
        if cached.from <= cut && cut < cached.until {
            return newest.saturating_add(cached.sum);
        }
        let first_live = self.older.partition_point(|slot| slot.start <= cut);
        let (dead, live) = self.older.split_at(first_live);
        let sum = live
            .iter()
            .fold(0_i128, |sum, slot| sum.saturating_add(slot.sum));
        self.older_sum = OlderSum {
            from: dead.last().map_or(i64::MIN, |slot| slot.start),
            until: live.first().map_or(i64::MAX, |slot| slot.start),
            sum,
        };
        newest.saturating_add(sum)
    }

    /// Adds use of this process to a slot.
    pub(super) fn add_own(&mut self, start: UnixMs, units: Units) {
        let slot = self.slot_mut(start.get());
        if let Some(slot) = slot {
            slot.sum = slot.sum.saturating_add(units.get());
            slot.own = slot.own.saturating_add(units.get());
        }
    }

    /// Adds use of another origin to a slot.
    pub(super) fn add_other(&mut self, start: UnixMs, units: Units) {
        let slot = self.slot_mut(start.get());
        if let Some(slot) = slot {
            slot.sum = slot.sum.saturating_add(units.get());
        }
    }

    /// Takes all use of other origins away.
    pub(super) fn keep_own(&mut self) {
        let newest = (self.newest != NONE).then_some(self.newest);
        self.older.extend(newest);
        self.older.retain(|slot| slot.own != 0);
        for slot in &mut self.older {
            slot.sum = slot.own;
        }
        self.newest = self.older.pop().unwrap_or(NONE);
        self.older_sum = OlderSum::STALE;
    }

    /// Drops the slots that start before an instant.
    pub(super) fn drop_before(&mut self, start: UnixMs) {
        self.older.retain(|slot| slot.start >= start.get());
        if self.newest.start < start.get() {
            self.newest = NONE;
        }
        self.older_sum = OlderSum::STALE;
    }

    /// Returns all slots, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        let newest = (self.newest != NONE).then_some(&self.newest);
        self.older.iter().chain(newest)
    }

    /// Returns what this process counted, ascending, without slots of nothing.
    pub(super) fn own(&self) -> Vec<SlotSum> {
        let own = self.iter().filter(|slot| slot.own != 0);
        let own = own.filter_map(|slot| {
            let (start, sum) = (UnixMs::new(slot.start)?, Units::new(slot.own));
            Some(SlotSum { start, sum })
        });
        own.collect()
    }

    fn find(&self, start: i64) -> Result<usize, usize> {
        self.older.binary_search_by_key(&start, |slot| slot.start)
    }

    /// Returns a slot, made where it is missing; `None` where it is older than all of a full table.
    fn slot_mut(&mut self, start: i64) -> Option<&mut Slot> {
        if start == self.newest.start {
            return Some(&mut self.newest);
        }
        let made = Slot { start, ..NONE };
        self.older_sum = OlderSum::STALE;
        let is_full = self.older.len() >= self.slots_max.saturating_sub(1);
        if start > self.newest.start {
            let passed = std::mem::replace(&mut self.newest, made);
            if passed != NONE {
                if is_full {
                    self.older.remove(0);
                }
                self.older.push(passed);
            }
            return Some(&mut self.newest);
        }
        let index = match self.find(start) {
            Ok(index) => index,
            Err(0) if is_full => return None,
            Err(index) if is_full => {
                self.older.remove(0);
                let index = index.saturating_sub(1);
                self.older.insert(index, made);
                index
            }
            Err(index) => {
                self.older.insert(index, made);
                index
            }
        };
        self.older.get_mut(index)
    }
}
