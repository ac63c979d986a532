//! Sums by counter and slot, and what sums of the ledger add to them.
//!
//! Invariant: only slots that still count at the horizon, or later, have a sum. Deliberately absent:
//! whose sums they are (a chain's, an adjustment's, an opening's).

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{CounterName, CounterOf, LogLimit, LogLimits, ceiling_of, is_quarter, sum_of};
use crate::limit::MeterSelector;
use crate::meter::{Meter, PerMeter};
use crate::policy::CounterKey;
use crate::series::Series;
use crate::time::UnixMs;
use crate::units::Units;

/// The sum of one counter's slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSum {
    /// The counter.
    pub counter: CounterKey,
    /// Whose use it counts.
    pub name: Arc<CounterName>,
    /// The slot's first instant, which names it.
    pub slot: UnixMs,
    /// The instant from which the slot no longer counts.
    pub counts_until: UnixMs,
    /// What was added; below zero where a correction took more back.
    pub sum: Units,
}

#[derive(Debug)]
struct Cell {
    name: Arc<CounterName>,
    counts_until: UnixMs,
    sum: Units,
}

/// Sums by counter and slot.
#[derive(Debug)]
pub struct AccountSums {
    horizon: UnixMs,
    cells: HashMap<(CounterKey, UnixMs), Cell, RandomState>,
}

impl AccountSums {
    /// Begins with none. Slots that no longer count at the horizon get none.
    #[must_use]
    pub fn after(horizon: UnixMs) -> Self {
        Self {
            horizon,
            cells: HashMap::default(),
        }
    }

    /// Returns the sum of a slot; `None` where it no longer counts.
    #[inline]
    pub(super) fn open(
        &mut self,
        counter: &CounterOf,
        slot: UnixMs,
        counts_until: UnixMs,
    ) -> Option<&mut Units> {
        if counts_until <= self.horizon {
            return None;
        }
        let cell = self
            .cells
            .entry((counter.key, slot))
            .or_insert_with(|| Cell {
                name: Arc::clone(&counter.name),
                counts_until,
                sum: Units::ZERO,
            });
        Some(&mut cell.sum)
    }

    /// Adds what sums of the ledger used to the counters of limits that `is_wanted` names. Exact for
    /// slots whose edges are quarter-hours; of others use counts in the slot that holds the
    /// quarter-hour's start. What expressions count is not told by sums and not added.
    pub fn add_use(
        &mut self,
        limits: &LogLimits,
        used: &SeriesUse<'_>,
        is_wanted: impl Fn(&LogLimit) -> bool,
    ) {
        debug_assert!(is_quarter(used.start), "sums are of quarter-hours");
        for counter in limits.counters_of(used.series) {
            let Some(limit) = limits.limit_of(&counter).filter(|limit| is_wanted(limit)) else {
                continue;
            };
            let slot = limit.slots.slot_at(used.start);
            let until = limit.counts_until(slot);
            let units = used.units(limit);
            if units.is_zero() {
                continue;
            }
            if let Some(sum) = self.open(&counter, slot.start(), until) {
                *sum = sum.saturating_add(units);
            }
        }
    }

    /// Returns the sums, ascending by counter and slot, without those of nothing.
    #[must_use]
    pub fn into_sums(self) -> Vec<AccountSum> {
        let cells = self.cells.into_iter();
        let mut sums: Vec<_> = cells
            .filter(|(_, cell)| !cell.sum.is_zero())
            .map(|((counter, slot), cell)| AccountSum {
                counter,
                name: cell.name,
                slot,
                counts_until: cell.counts_until,
                sum: cell.sum,
            })
            .collect();
        sums.sort_unstable_by_key(|sum| (sum.counter, sum.slot));
        sums
    }
}

/// What requests of one series used that started in one quarter-hour, or in whole ones of one slot.
#[derive(Debug, Clone, Copy)]
pub struct SeriesUse<'u> {
    /// The series.
    pub series: &'u Series,
    /// The start of the quarter-hour, or of the first.
    pub start: UnixMs,
    /// Quantities; below zero where a correction takes them back.
    pub quantities: &'u PerMeter<i128>,
    /// What of it has a rate costs, in 10⁻¹⁸ of the currency.
    pub amount: i128,
    /// Billable units without a rate.
    pub unpriced: i128,
}

impl SeriesUse<'_> {
    pub(super) fn units(&self, limit: &LogLimit) -> Units {
        match limit.meter {
            MeterSelector::Cost => {
                let rate = limit.unpriced_rate;
                let unpriced = rate.map_or(Units::ZERO, |rate| ceiling_of(rate, self.unpriced));
                Units::new(self.amount).saturating_add(unpriced)
            }
            MeterSelector::Computed => Units::ZERO,
            meter @ (MeterSelector::Standard(_)
            | MeterSelector::InputTokens
            | MeterSelector::OutputTokens
            | MeterSelector::TotalTokens) => sum_of(meter, |part: Meter| self.quantities.get(part)),
        }
    }
}
