//! Buckets by the generic cell rate algorithm, counted in whole numbers, and the base that old slots
//! fold into.
//!
//! Invariant: levels are kept times the refill's interval in milliseconds, so that draining divides
//! nothing and loses nothing: a level falls by `amount` per millisecond. Deliberately absent:
//! capacity, which only a verdict compares with.

use std::collections::BTreeMap;

use super::Origin;
use crate::limit::Refill;
use crate::time::UnixMs;
use crate::units::Units;
use crate::window::SlotLength;

/// Bases stand on every 16th slot since the Unix epoch, so that replicas fold at the same instants.
pub const BASE_SLOTS_GRID: i64 = 16;

/// Slots younger than this many slot lengths are not folded: that long a replica's numbers may take
/// to arrive and still count where they belong.
pub const BASE_SLOTS_AGE: i64 = 32;

/// What a bucket's older slots folded into. Ordered by instant, then level: the greater wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Base {
    at: UnixMs,
    level: i128,
    included: BTreeMap<Origin, Units>,
}

impl Base {
    /// Takes a base as it was sent: the instant, the level times the interval in milliseconds (0 or
    /// more; else 0), and how much of each origin's use it holds.
    #[must_use]
    pub fn new(at: UnixMs, level: i128, included: BTreeMap<Origin, Units>) -> Self {
        let level = level.max(0);
        Self {
            at,
            level,
            included,
        }
    }

    /// Returns the instant; all slots that start before it are folded.
    #[must_use]
    pub const fn at(&self) -> UnixMs {
        self.at
    }

    /// Returns the level at that instant, in units times the interval in milliseconds.
    #[must_use]
    pub const fn level(&self) -> i128 {
        self.level
    }

    /// Returns how much of each origin's use it holds.
    #[must_use]
    pub const fn included(&self) -> &BTreeMap<Origin, Units> {
        &self.included
    }
}

/// Returns how much of an origin's use before the base's instant the base does not hold.
pub(super) fn late(base: Option<&Base>, origin: Origin, before: Units) -> Units {
    let included = base.and_then(|base| base.included.get(&origin));
    let included = included.copied().unwrap_or(Units::ZERO);
    before.saturating_sub(included).or_zero()
}

/// Returns the latest grid instant that slots may fold up to.
pub(super) fn fold_instant(slot_ms: i64, now: UnixMs) -> UnixMs {
    let step = slot_ms.saturating_mul(BASE_SLOTS_GRID);
    let age = slot_ms.saturating_mul(BASE_SLOTS_AGE);
    let latest = now.saturating_add_ms(age.saturating_neg());
    let past = latest.get().checked_rem(step).unwrap_or(0);
    latest.saturating_add_ms(past.saturating_neg())
}

/// How a level is scaled, drained and cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    amount: i128,
    every_ms: i128,
    slot_ms: i64,
}

impl Walk {
    pub(super) fn of(refill: Refill) -> Self {
        Self {
            amount: refill.amount.get(),
            every_ms: refill.every.ms().into(),
            slot_ms: SlotLength::of(refill.every.ms()).ms(),
        }
    }

    /// Returns the length of a slot in milliseconds.
    pub(super) const fn slot_ms(self) -> i64 {
        self.slot_ms
    }

    /// Returns when a slot that starts then must be folded at the latest.
    pub(super) const fn fold_due(self, start: i64) -> i64 {
        let slots = BASE_SLOTS_AGE.saturating_add(BASE_SLOTS_GRID);
        start.saturating_add(self.slot_ms.saturating_mul(slots))
    }

    pub(super) fn scaled(self, units: Units) -> i128 {
        units.get().saturating_mul(self.every_ms)
    }

    /// Returns whole units, rounded up: what is partly used is used.
    pub(super) fn units(self, level: i128) -> Units {
        Units::new(divided_up(level, self.every_ms))
    }

    /// Returns how many milliseconds it takes until a level has fallen by this much, rounded up.
    pub(super) fn ms_to_drain(self, level: i128) -> i64 {
        i64::try_from(divided_up(level.max(0), self.amount)).unwrap_or(i64::MAX)
    }
}

/// Divides, and rounds up; both are zero or more. Most fit into 64 bits, where it takes a tenth of
/// the time.
fn divided_up(number: i128, by: i128) -> i128 {
    if let (Ok(number), Ok(by)) = (u64::try_from(number), u64::try_from(by)) {
        return number.checked_div(by).map_or(i128::MAX, |whole| {
            let is_cut = whole.saturating_mul(by) != number;
            i128::from(whole).saturating_add(i128::from(is_cut))
        });
    }
    let up = number.saturating_add(by.saturating_sub(1));
    up.checked_div(by).unwrap_or(i128::MAX)
}

/// A level that falls evenly: what it was at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(8))]
pub(super) struct Fluid {
    level: i128,
    at: UnixMs,
}

impl Fluid {
    /// Nothing, since the beginning of time.
    pub(super) const EMPTY: Self = Self {
        level: 0,
        at: UnixMs::FIRST,
    };

    /// Takes a level (0 or more; else 0) and the instant that it holds for.
    pub(super) fn standing_at(level: i128, at: UnixMs) -> Self {
        let level = level.max(0);
        Self { level, at }
    }

    /// Returns the level at [`Fluid::at`], in units times the interval in milliseconds.
    pub(super) const fn level(self) -> i128 {
        self.level
    }

    /// Returns the base's level, or an empty bucket.
    pub(super) fn standing_on(base: Option<&Base>) -> Self {
        base.map_or(Self::EMPTY, |base| Self {
            level: base.level,
            at: base.at,
        })
    }

    /// Returns the instant that the level holds for.
    pub(super) const fn at(self) -> UnixMs {
        self.at
    }

    /// Returns the level at an instant; before [`Fluid::at`] nothing has fallen.
    pub(super) fn level_at(self, walk: Walk, now: UnixMs) -> i128 {
        let passed = now.get().saturating_sub(self.at.get()).max(0);
        let drained = walk.amount.saturating_mul(passed.into());
        self.level.saturating_sub(drained).max(0)
    }

    /// Adds use at an instant; at the level's own where that is later, so that no clock that is set
    /// back frees use.
    pub(super) fn charge(&mut self, walk: Walk, at: UnixMs, units: Units) {
        self.level = self.level_at(walk, at).saturating_add(walk.scaled(units));
        self.level = self.level.max(0);
        self.at = self.at.max(at);
    }
}
