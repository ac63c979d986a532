//! Counting from the log: what usage adds to the accounts of the limits that hold for it.
//!
//! Invariant: what an event adds depends on its series, its start, its quantities and its price alone,
//! so that what was added can be taken out again, and sums of the ledger add what their events did.
//! A limit without counters costs an event nothing. Deliberately absent: the level (see `account`), and
//! which events count (the fold's).
//!
//! Events tell when their request started, not when it ended; so all windows go by the start.

mod sums;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::limit::{Algorithm, MeterSelector, Used};
use crate::meter::{Meter, Quantities};
use crate::money::{Amount, Rate};
use crate::policy::cel::Cel;
use crate::policy::model::{CountedFrom, Limit, LimitId};
use crate::policy::{CompiledSet, CounterKey, Keyed};
use crate::price::RateSet;
use crate::request::Request;
use crate::series::{Series, SeriesId};
use crate::time::{QUARTER_MS, UnixMs};
use crate::units::Units;
use crate::window::{Period, SlotCursor, SlotRule, Span, WindowSpec};

pub use sums::{AccountSum, AccountSums, SeriesUse};

/// Counters of series that are remembered at most; about 300 bytes each, and a series has one for each
/// limit that holds for it.
const COUNTERS_MAX: usize = 200_000;

/// Whose use a counter counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterName {
    /// The limit's identity.
    pub limit: LimitId,
    /// The tenant.
    pub tenant: String,
    /// The values of the limit's keys, in their order; `None`: missing.
    pub values: Vec<Option<String>>,
}

/// A counter of a limit from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterOf {
    /// The limit's place in its [`LogLimits`].
    limit: usize,
    /// The counter.
    pub key: CounterKey,
    /// Whose use it counts.
    pub name: Arc<CounterName>,
}

/// A limit that counts from the log.
#[derive(Debug, Clone)]
pub struct LogLimit {
    /// The identity of its counters.
    pub id: LimitId,
    meter: MeterSelector,
    amount: Option<Cel>,
    unpriced_rate: Option<Rate>,
    slots: SlotRule,
    /// How long a slot counts after its end, in ms: a sliding window's length.
    after_ms: i64,
}

impl LogLimit {
    fn of(id: LimitId, limit: &Limit) -> Option<Self> {
        let Algorithm::Window(window) = limit.spec.algorithm() else {
            // Policies with a bucket that counts from the log are refused.
            return None;
        };
        Some(Self {
            id,
            meter: limit.spec.meter(),
            amount: limit.amount.clone(),
            unpriced_rate: limit.unpriced_rate,
            slots: window.slots(),
            after_ms: match window {
                WindowSpec::Calendar(_) | WindowSpec::Fixed(_) => 0,
                WindowSpec::Sliding(length) => length.ms(),
            },
        })
    }

    /// Returns how its use is cut into slots.
    #[must_use]
    pub const fn slots(&self) -> &SlotRule {
        &self.slots
    }

    /// Says whether the ledger tells what it counted: its slots' edges are quarter-hours, and what it
    /// counts of an event is a sum over meters, not an expression's value.
    #[must_use]
    pub fn is_told_by_ledger(&self) -> bool {
        let has_quarter_edges = match &self.slots {
            SlotRule::Calendar(calendar) => calendar.period != Period::Minute,
            SlotRule::Every(_) => false,
        };
        has_quarter_edges && self.meter != MeterSelector::Computed
    }

    /// Returns from when on it counts all of its use where it begins to count at `now`: from the
    /// window that holds `now` if the ledger tells what was used before; else once a whole window has
    /// passed.
    #[must_use]
    pub fn whole_from(&self, now: UnixMs) -> UnixMs {
        let slot = self.slots.slot_at(now);
        if self.is_told_by_ledger() {
            slot.start()
        } else if self.after_ms > 0 {
            now.saturating_add_ms(self.after_ms)
        } else {
            slot.end()
        }
    }

    /// Returns the instant from which use that began at an instant no longer counts.
    #[must_use]
    pub fn counts_until_at(&self, start: UnixMs) -> UnixMs {
        self.counts_until(self.slots.slot_at(start))
    }

    /// Returns the instant from which use of a slot no longer counts.
    fn counts_until(&self, slot: Span) -> UnixMs {
        slot.end().saturating_add_ms(self.after_ms)
    }

    /// Returns what an event counts; nothing where its expression has no value.
    fn units(&self, used: &EventUse<'_>) -> Units {
        match self.meter {
            MeterSelector::Cost => {
                let ceiling = self.unpriced_rate.filter(|_| used.is_unpriced);
                let unpriced = ceiling.map_or(Units::ZERO, |rate| {
                    ceiling_of(rate, unpriced_quantity(used.rate_set, used.quantities))
                });
                Units::from(used.amount).saturating_add(unpriced)
            }
            MeterSelector::Computed => {
                let request = Request::of_series(used.series);
                let amount = self.amount.as_ref();
                let amount = amount.and_then(|cel| cel.amount(&request, used.quantities).ok());
                amount.map_or(Units::ZERO, Units::from)
            }
            meter @ (MeterSelector::Standard(_)
            | MeterSelector::InputTokens
            | MeterSelector::OutputTokens
            | MeterSelector::TotalTokens) => {
                let used = Used {
                    quantities: used.quantities,
                    cost: None,
                    computed: None,
                };
                meter.used(&used).unwrap_or(Units::ZERO)
            }
        }
    }
}

/// Returns how many billable units have no rate.
#[must_use]
pub fn unpriced_quantity(rate_set: &RateSet, quantities: &Quantities) -> i128 {
    let unpriced = quantities
        .iter()
        .filter(|(meter, _)| meter.is_billable_unlisted() && rate_set.rates.get(*meter).is_none());
    unpriced.fold(0, |sum: i128, (_, quantity)| {
        sum.saturating_add(i128::from(quantity))
    })
}

/// What so many units without a price count as.
const fn ceiling_of(rate: Rate, units: i128) -> Units {
    Units::new(rate.units().saturating_mul(units))
}

/// What one event used.
#[derive(Debug, Clone, Copy)]
pub struct EventUse<'e> {
    /// Its series.
    pub series: &'e Series,
    /// When its request started.
    pub start: UnixMs,
    /// What it used.
    pub quantities: &'e Quantities,
    /// What of it has a rate costs.
    pub amount: Amount,
    /// Some of it has no rate.
    pub is_unpriced: bool,
    /// What it is priced by.
    pub rate_set: &'e RateSet,
}

/// The limits of a policy set that count from the log.
#[derive(Debug)]
pub struct LogLimits {
    set: Arc<CompiledSet>,
    /// By their place in the set; `None` for those that count decisions.
    limits: Vec<Option<LogLimit>>,
}

impl LogLimits {
    /// Takes the limits from a set; `None` where none counts from the log, so that nobody counts.
    #[must_use]
    pub fn of(set: Arc<CompiledSet>) -> Option<Self> {
        let limits: Vec<_> = set
            .limits()
            .map(|(id, _, _, limit)| match limit.from {
                CountedFrom::Log => LogLimit::of(id, limit),
                CountedFrom::Decision => None,
            })
            .collect();
        let has_any = limits.iter().any(Option::is_some);
        has_any.then_some(Self { set, limits })
    }

    /// Returns the set that they are of.
    #[must_use]
    pub const fn set(&self) -> &Arc<CompiledSet> {
        &self.set
    }

    /// Returns the limits in the order of the set.
    pub fn iter(&self) -> impl Iterator<Item = &LogLimit> {
        self.limits.iter().flatten()
    }

    /// Returns the limit of a counter.
    #[must_use]
    pub fn limit_of(&self, counter: &CounterOf) -> Option<&LogLimit> {
        self.limits.get(counter.limit)?.as_ref()
    }

    /// Returns how much a counter counts of what sums of the ledger used; `None` where their series does
    /// not count by it.
    #[must_use]
    pub fn units_of(&self, counter: CounterKey, used: &SeriesUse<'_>) -> Option<Units> {
        let mut counters = self.counters_of(used.series).into_iter();
        let named = counters.find(|named| named.key == counter)?;
        Some(used.units(self.limit_of(&named)?))
    }

    /// Returns the counters that use of a series counts by. What lacks a key of a limit that refuses
    /// such requests counts nowhere: no request that it was for can be asked for.
    #[must_use]
    pub fn counters_of(&self, series: &Series) -> Vec<CounterOf> {
        let request = Request::of_series(series);
        let applies = self.set.matching(&request).counted_from(CountedFrom::Log);
        let counted = applies.filter_map(|applies| match applies.keyed {
            Keyed::Counts(key) => {
                let values = applies.values(&request);
                let name = CounterName {
                    limit: applies.id,
                    tenant: series.tenant.clone(),
                    values: values.into_iter().map(|(_, value)| value).collect(),
                };
                Some(CounterOf {
                    limit: applies.index,
                    key,
                    name: Arc::new(name),
                })
            }
            Keyed::Skipped | Keyed::Denied(_) => None,
        });
        counted.collect()
    }
}

/// Counts events; lives across batches and remembers the counters of series and the present slots.
#[derive(Debug)]
pub struct LogCounter {
    limits: Arc<LogLimits>,
    counters: HashMap<SeriesId, Arc<[CounterOf]>, RandomState>,
    /// How many counters are remembered.
    held: usize,
    slots: Vec<Option<SlotCursor>>,
}

impl LogCounter {
    /// Makes a counter that remembers nothing yet.
    #[must_use]
    pub fn new(limits: Arc<LogLimits>) -> Self {
        let begin = |limit: &LogLimit| SlotCursor::new(limit.slots, UnixMs::FIRST);
        let slots = limits.limits.iter();
        let slots = slots.map(|limit| limit.as_ref().map(begin)).collect();
        Self {
            limits,
            counters: HashMap::default(),
            held: 0,
            slots,
        }
    }

    /// Returns the limits that it counts by.
    #[must_use]
    pub const fn limits(&self) -> &Arc<LogLimits> {
        &self.limits
    }

    /// Adds an event to the accounts.
    pub fn add(&mut self, id: SeriesId, used: &EventUse<'_>, into: &mut AccountSums) {
        self.count(id, used, into, |sum, units| sum.saturating_add(units));
    }

    /// Takes an event that was added out again.
    pub fn take_out(&mut self, id: SeriesId, used: &EventUse<'_>, from: &mut AccountSums) {
        self.count(id, used, from, |sum, units| sum.saturating_sub(units));
    }

    fn count(
        &mut self,
        id: SeriesId,
        used: &EventUse<'_>,
        sums: &mut AccountSums,
        then: impl Fn(Units, Units) -> Units,
    ) {
        let Self {
            limits,
            counters,
            held,
            slots,
        } = self;
        if !counters.contains_key(&id) {
            let found = limits.counters_of(used.series);
            // A series without a limit is remembered as well.
            *held = held.saturating_add(found.len().max(1));
            if *held > COUNTERS_MAX {
                *held = found.len().max(1);
                counters.clear();
            }
            counters.insert(id, found.into());
        }
        let Some(counters) = counters.get(&id) else {
            return;
        };
        for counter in counters.iter() {
            let limit = limits.limits.get(counter.limit).and_then(Option::as_ref);
            let cursor = slots.get_mut(counter.limit).and_then(Option::as_mut);
            let (Some(limit), Some(cursor)) = (limit, cursor) else {
                continue;
            };
            let slot = cursor.slot_at(used.start);
            let until = limit.counts_until(slot);
            if let Some(sum) = sums.open(counter, slot.start(), until) {
                *sum = then(*sum, limit.units(used));
            }
        }
    }
}

/// Says whether an instant is the start of a quarter-hour.
const fn is_quarter(instant: UnixMs) -> bool {
    instant.get().rem_euclid(QUARTER_MS) == 0
}

/// The meters that a limit's units are a sum of.
fn sum_of(meter: MeterSelector, quantity: impl Fn(Meter) -> i128) -> Units {
    let parts = Meter::ALL.into_iter().filter(|part| meter.includes(*part));
    Units::new(parts.fold(0, |sum: i128, part| sum.saturating_add(quantity(part))))
}

#[cfg(test)]
mod tests;
