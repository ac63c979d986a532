//! Accounts: one limit's use by one key, as each origin counted it, and how such numbers merge.
//!
//! Invariant: what is exchanged is each origin's own absolute numbers with a revision. Merging keeps
//! the newest per origin, so any order, repetition or loss of messages ends in the same account, and
//! a level is a pure function of the merged numbers and the time. Deliberately absent: who sends,
//! stores or asks; and leases.
//!
//! # Slots
//!
//! Use is kept as (slot, sum), where `window` says how time is cut. Of a calendar or fixed window the
//! slot is the window. A slot of a sliding window counts until its end leaves the window, so the
//! level is never below the exact one, and above it by at most what one slot length (a sixtieth of
//! the window, at least a second) took before the window began.
//!
//! # Buckets
//!
//! A bucket's history has no end, so its older slots fold into a *base*: an instant on a fixed grid
//! and the level that all origins known by then made. A slot's use counts at its start; so the level
//! is never above the exact one, and below it by at most what one slot length refills (and the time
//! that a clock was set back). The replica that counts repairs that for its own use, which it follows
//! exactly (see `counter`). Bases merge
//! too: the later instant wins, at equal instants the greater level. A base says how much of each
//! origin's use it holds, and each origin says how much it used in all; the difference is use that
//! arrived late for its slot, and counts at the base's instant. So late use counts once, however the
//! messages crossed, and its error is on the safe side.

mod bucket;
mod counter;
mod table;

use std::collections::BTreeMap;

pub use bucket::{BASE_SLOTS_AGE, BASE_SLOTS_GRID, Base};
pub use counter::Counter;
pub use counter::grounds::{Grounds, Level, Levels, ORIGINS_MAX, OriginSum, Unnamed};

use crate::ids::ChainId;
use crate::limit::{Algorithm, LimitSpec};
use crate::time::UnixMs;
use crate::units::Units;
use crate::window::{SlotRule, WindowSpec};
use bucket::{Fluid, Walk};

/// The most slots that one origin's use of one account has: 61 of a sliding window can be live, and
/// three may be ahead, by other clocks. More are cut, oldest first.
pub const SLOTS_MAX: usize = 64;

/// One incarnation of an enforcer replica: every process start draws another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The chain of a source partition.
    Chain(ChainId),
    /// One incarnation of an enforcer replica.
    Replica(ReplicaId),
    /// What the ledger held when the limit came to be.
    Opening,
    /// Corrections.
    Adjustment,
}

/// How new one origin's numbers are: the greater one replaces the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The epoch of who counted; 0 where an origin never has two.
    pub epoch: i64,
    /// The part, or the message, in that epoch.
    pub number: i64,
}

/// The use of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotSum {
    /// The slot's first instant, which names it.
    pub start: UnixMs,
    /// The sum of all use in it.
    pub sum: Units,
}

/// One origin's use of one account: absolute numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginUse {
    revision: Revision,
    total: Units,
    slots: Vec<SlotSum>,
}

impl OriginUse {
    /// Takes what an origin says of itself. Of equal slots the last stays; of more than
    /// [`SLOTS_MAX`] the newest.
    ///
    /// `total` is all use that the origin ever counted, older slots included; only buckets look at
    /// it.
    #[must_use]
    pub fn new(revision: Revision, total: Units, mut slots: Vec<SlotSum>) -> Self {
        // Mostly they ascend already.
        if !slots.is_sorted_by(|one, other| one.start < other.start) {
            slots.sort_by_key(|slot| slot.start);
        }
        slots.reverse();
        // The sort is stable, so that the last of equals comes first now.
        slots.dedup_by_key(|slot| slot.start);
        slots.truncate(SLOTS_MAX);
        slots.reverse();
        Self {
            revision,
            total,
            slots,
        }
    }

    /// Returns how new it is.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns all use that the origin ever counted.
    #[must_use]
    pub const fn total(&self) -> Units {
        self.total
    }

    /// Returns the slots, ascending by start, each once, at most [`SLOTS_MAX`].
    #[must_use]
    pub fn slots(&self) -> &[SlotSum] {
        &self.slots
    }

    /// Returns the use before an instant that begins a slot: older slots included.
    fn before(&self, at: UnixMs) -> Units {
        let since = self.slots.iter().filter(|slot| slot.start >= at);
        since.fold(self.total, |rest, slot| rest.saturating_sub(slot.sum))
    }
}

/// What one origin sends of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who counted.
    pub origin: Origin,
    /// What it counted.
    pub use_: OriginUse,
    /// The base that its slots stand on; buckets only, and not before the first fold.
    pub base: Option<Base>,
}

/// One limit's use by one key: the newest numbers of each origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    origins: BTreeMap<Origin, OriginUse>,
    base: Option<Base>,
}

impl Account {
    /// Merges what an origin says; says whether that changed anything.
    pub fn merge(&mut self, message: Message) -> bool {
        let Message { origin, use_, base } = message;
        let is_later = base > self.base;
        if is_later {
            self.base = base;
        }
        let known = self.origins.get(&origin).map(OriginUse::revision);
        let is_newer = known.is_none_or(|known| known < use_.revision);
        if is_newer {
            self.origins.insert(origin, use_);
        }
        is_later || is_newer
    }

    /// Returns the newest numbers by origin.
    pub fn origins(&self) -> impl Iterator<Item = (Origin, &OriginUse)> {
        self.origins.iter().map(|(origin, use_)| (*origin, use_))
    }

    /// Returns the latest base of a bucket.
    #[must_use]
    pub const fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// Forgets the origins that are not to be kept; says whether there were any.
    fn retain(&mut self, mut is_kept: impl FnMut(Origin, &OriginUse) -> bool) -> bool {
        let before = self.origins.len();
        self.origins.retain(|origin, use_| is_kept(*origin, use_));
        self.origins.len() < before
    }

    /// Returns the level of a limit: how much of it is used at an instant.
    ///
    /// It depends on what was merged and on the time alone. Slots that lie ahead of `now` (other
    /// clocks, or our own before it was set back) count, but for calendar and fixed windows, of which
    /// only the present one does.
    #[must_use]
    pub fn level(&self, limit: &LimitSpec, now: UnixMs) -> Units {
        let slots = limit.algorithm().slots();
        match limit.algorithm() {
            Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => {
                let window = slots.slot_at(now).start();
                self.sum_of(|slot| slot.start == window)
            }
            Algorithm::Window(WindowSpec::Sliding(length)) => {
                let cut = sliding_cut(now, length.ms(), slots.slot_ms(now));
                self.sum_of(|slot| slot.start.get() > cut)
            }
            Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
                let fluid = self.walk(Walk::of(*refill), UnixMs::LAST);
                Walk::of(*refill).units(fluid.level_at(Walk::of(*refill), now))
            }
        }
    }

    fn sum_of(&self, is_live: impl Fn(&SlotSum) -> bool) -> Units {
        let slots = self.origins.values().flat_map(OriginUse::slots);
        let live = slots.filter(|slot| is_live(slot));
        live.fold(Units::ZERO, |sum, slot| sum.saturating_add(slot.sum))
    }

    /// Walks a bucket from its base over all slots that start before `end`.
    fn walk(&self, walk: Walk, end: UnixMs) -> Fluid {
        let mut fluid = Fluid::standing_on(self.base());
        let since = fluid.at();
        let late = self.origins.iter().map(|(origin, use_)| {
            let before = use_.before(since);
            bucket::late(self.base(), *origin, before)
        });
        late.for_each(|late| fluid.charge(walk, since, late));
        let slots = self.origins.values().flat_map(OriginUse::slots);
        let mut slots: Vec<_> = slots
            .filter(|slot| since <= slot.start && slot.start < end)
            .copied()
            .collect();
        slots.sort_unstable_by_key(|slot| slot.start);
        for slot in slots {
            fluid.charge(walk, slot.start, slot.sum);
        }
        fluid
    }
}

impl SlotRule {
    /// Returns the length of the slot that holds an instant, in milliseconds.
    pub(crate) fn slot_ms(&self, now: UnixMs) -> i64 {
        match self {
            Self::Every(length) => length.ms(),
            Self::Calendar(_) => {
                let slot = self.slot_at(now);
                slot.end().get().saturating_sub(slot.start().get())
            }
        }
    }
}

/// Returns the instant after which a slot must start to count: its end must not have left the
/// window that ends now.
pub(crate) fn sliding_cut(now: UnixMs, window_ms: i64, slot_ms: i64) -> i64 {
    let window_start = now.get().saturating_sub(window_ms);
    window_start.saturating_sub(slot_ms)
}

#[cfg(test)]
mod tests;
