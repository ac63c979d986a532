//! Grounds: what of a counter a verdict stands on, so that it can be worked out again elsewhere.
//!
//! Invariant: a counter that is made of grounds gives the verdict that the one they were taken from gave
//! at that moment, by the same code; and grounds have a bounded size, whoever counts. Deliberately
//! absent: what no longer counted at that moment.

use super::{Bucket, Counter, Fluid, SlotTable};
use crate::account::table::Drops;
use crate::account::{Origin, Revision, SlotSum, sliding_cut};
use crate::limit::{Algorithm, LimitSpec, Moment};
use crate::time::UnixMs;
use crate::units::Units;
use crate::window::WindowSpec;

/// The most origins that grounds name: those who counted most. The others are summed.
pub const ORIGINS_MAX: usize = 128;

/// What one origin counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginSum {
    /// Who counted.
    pub origin: Origin,
    /// How new its numbers were; of the counter's own process absent, as it is always up to date.
    pub revision: Option<Revision>,
    /// What of it counted; of a bucket all that it ever counted.
    pub sum: Units,
}

/// The sum of the origins that are not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unnamed {
    /// How many.
    pub origins: usize,
    /// What they counted together.
    pub sum: Units,
}

/// A level of a bucket at an instant, from which on it drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The instant of the last use.
    pub at: UnixMs,
    /// The level then: units times the refill's interval in milliseconds.
    pub level: i128,
}

/// The two levels of a bucket, of which the greater one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// Of all origins, by slots.
    pub merged: Level,
    /// Of the process that decided alone, at the very instants of its use.
    pub own: Level,
}

/// What of a counter a verdict stands on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grounds {
    /// Who counted, ascending, at most [`ORIGINS_MAX`].
    pub origins: Vec<OriginSum>,
    /// The others; absent where all are named.
    pub unnamed: Option<Unnamed>,
    /// Of windows: the slots that counted, ascending, each once, of all origins together. Of a calendar
    /// or fixed window at most one.
    pub slots: Vec<SlotSum>,
    /// Of buckets: the levels.
    pub levels: Option<Levels>,
}

impl Grounds {
    /// Says whether grounds that were taken at one moment are those of another, of a counter that was
    /// neither charged nor merged into meanwhile.
    #[must_use]
    pub fn hold(&self, limit: &LimitSpec, taken: Moment, moment: Moment) -> bool {
        let is_same = match limit.algorithm() {
            Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => {
                moment.slot == taken.slot
            }
            // Slots leave the oldest first.
            Algorithm::Window(WindowSpec::Sliding(_)) => {
                let counts = counting(limit, moment);
                let oldest = self.slots.first();
                oldest.is_none_or(|oldest| counts(oldest.start.get()))
            }
            // A level says itself from when on it drains.
            Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => true,
        };
        // What counts no longer may count again where the clock is set back.
        is_same && moment.now >= taken.now
    }

    /// Returns the sum over all origins: of windows what is used.
    #[must_use]
    pub fn sum(&self) -> Units {
        let named = self.origins.iter().map(|origin| origin.sum);
        let unnamed = self.unnamed.map(|unnamed| unnamed.sum);
        named
            .chain(unnamed)
            .fold(Units::ZERO, Units::saturating_add)
    }
}

impl Counter {
    /// Returns what a verdict at this moment stands on.
    #[must_use]
    pub fn grounds(&self, limit: &LimitSpec, moment: Moment) -> Grounds {
        let counts = counting(limit, moment);
        let own = match &self.bucket {
            Some(bucket) => bucket.own_total.get(),
            None => summed(
                self.own
                    .iter()
                    .filter_map(|slot| counts(slot.start).then_some(Units::new(slot.sum))),
            ),
        };
        let others = self
            .others
            .iter()
            .flat_map(|others| others.account.origins());
        let others = others.map(|(origin, use_)| OriginSum {
            origin,
            revision: Some(use_.revision()),
            sum: match &self.bucket {
                Some(_) => use_.total(),
                None => summed(
                    use_.slots()
                        .iter()
                        .filter_map(|slot| counts(slot.start.get()).then_some(slot.sum)),
                ),
            },
        });
        let mut origins: Vec<OriginSum> = others.collect();
        if !own.is_zero() {
            origins.push(OriginSum {
                origin: self.origin,
                revision: None,
                sum: own,
            });
        }
        let unnamed = bound(&mut origins);
        Grounds {
            origins,
            unnamed,
            slots: match &self.bucket {
                Some(_) => Vec::new(),
                None => self.live_slots(counts),
            },
            levels: self.bucket.as_ref().map(Bucket::levels),
        }
    }

    /// Makes the counter that grounds tell of: at their moment it says what the one said that they were
    /// taken from.
    #[must_use]
    pub fn from_grounds(limit: &LimitSpec, grounds: &Grounds) -> Self {
        // Whose use it was does not matter to a verdict.
        let mut counter = Self::new(limit, Origin::Opening);
        let slots_max = u16::try_from(grounds.slots.len()).unwrap_or(u16::MAX);
        counter.own = SlotTable::new(slots_max.max(2), Drops::Oldest);
        for slot in &grounds.slots {
            counter.own.add(slot.start, slot.sum);
        }
        if let (Some(bucket), Some(levels)) = (&mut counter.bucket, grounds.levels) {
            bucket.merged = Fluid::standing_at(levels.merged.level, levels.merged.at);
            bucket.exact = Fluid::standing_at(levels.own.level, levels.own.at);
        }
        counter
    }

    fn live_slots(&self, counts: impl Fn(i64) -> bool) -> Vec<SlotSum> {
        let mut live: Vec<SlotSum> = Vec::new();
        for slot in self.slots().filter(|slot| counts(slot.start)) {
            let Some(start) = UnixMs::new(slot.start) else {
                continue;
            };
            let sum = Units::new(slot.sum);
            match live.last_mut().filter(|last| last.start == start) {
                // Own use and the others' of the same slot.
                Some(last) => last.sum = last.sum.saturating_add(sum),
                None => live.push(SlotSum { start, sum }),
            }
        }
        live
    }
}

impl Bucket {
    fn levels(&self) -> Levels {
        let level = |fluid: Fluid| Level {
            at: fluid.at(),
            level: fluid.level(),
        };
        Levels {
            merged: level(self.merged),
            own: level(self.exact),
        }
    }
}

/// Says which slots count at a moment, by their starts.
fn counting(limit: &LimitSpec, moment: Moment) -> impl Fn(i64) -> bool + Copy {
    let (first, last) = match limit.algorithm() {
        Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => {
            let start = moment.slot.start().get();
            (start, start)
        }
        Algorithm::Window(WindowSpec::Sliding(length)) => {
            let slot_ms = limit.algorithm().slots().slot_ms(moment.now);
            let cut = sliding_cut(moment.now, length.ms(), slot_ms);
            (cut.saturating_add(1), i64::MAX)
        }
        Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => (i64::MIN, i64::MAX),
    };
    move |start| first <= start && start <= last
}

fn summed(units: impl Iterator<Item = Units>) -> Units {
    units.fold(Units::ZERO, Units::saturating_add)
}

/// Leaves those who counted most, ascending, and sums the others.
fn bound(origins: &mut Vec<OriginSum>) -> Option<Unnamed> {
    let unnamed = (origins.len() > ORIGINS_MAX).then(|| {
        origins.sort_by_key(|origin| std::cmp::Reverse(origin.sum.get().unsigned_abs()));
        let rest = origins.split_off(ORIGINS_MAX);
        Unnamed {
            origins: rest.len(),
            sum: summed(rest.iter().map(|origin| origin.sum)),
        }
    });
    origins.sort_by_key(|origin| origin.origin);
    unnamed
}
