//! The usage behind a denial, series by series: what was known when it was made, and what came since.
//!
//! Invariant: a series is taken, and its usage counted, by the code that folds; what was known is all that
//! the ledger holds less what came since, so that both always sum to all of it. Deliberately absent: SQL.

use std::collections::BTreeMap;

use domain::counting::{LogLimits, SeriesUse};
use domain::meter::{Meter, PerMeter};
use domain::policy::CounterKey;
use domain::policy::model::LimitId;
use domain::time::{QUARTER_MS, UnixMs};
use domain::units::Units;
use domain::window::Span;
use store::explain::{Behind, SeriesBehind};

/// What requests of the same names used; sessions are summed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Use {
    pub(super) app: String,
    pub(super) user: String,
    pub(super) route: String,
    pub(super) provider: String,
    pub(super) model: String,
    /// Requests.
    pub(super) events: i128,
    /// All tokens.
    pub(super) tokens: i128,
    /// What of it has a rate costs, in 10⁻¹⁸ of the currency.
    pub(super) cost: i128,
    /// What the limit counts of it.
    pub(super) counted: Units,
}

/// Usage by names, biggest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Uses(Vec<Use>);

/// What the ledger holds of a counter's usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ledger {
    /// The quarter-hours that were summed.
    pub(super) span: Span,
    /// Whether they are the limit's window, and tell what it counts.
    pub(super) is_exact: bool,
    /// What was known.
    pub(super) known: Uses,
    /// What came since.
    pub(super) since: Uses,
}

/// Returns the quarter-hours that a span touches.
pub(super) fn quarters(span: Span) -> Option<Span> {
    let start = span.start().quarter().start();
    let last = span.end().saturating_add_ms(-1).quarter().start();
    Span::new(start, last.saturating_add_ms(QUARTER_MS))
}

impl Ledger {
    /// Takes the series that a counter counts; `None` where the policies have no such limit from the log.
    pub(super) fn of(
        limits: &LogLimits,
        id: LimitId,
        counter: CounterKey,
        behind: &Behind,
        span: Span,
    ) -> Option<Self> {
        let limit = limits.iter().find(|limit| limit.id == id)?;
        let mut known = ByName::default();
        let mut since = ByName::default();
        for series in &behind.series {
            let Some(counted) = counted(limits, counter, series, span.start()) else {
                continue;
            };
            let used = Use::of(series, counted);
            if series.is_since {
                // It is part of all that the ledger holds.
                known.take(&used, -1);
                since.take(&used, 1);
            } else {
                known.take(&used, 1);
            }
        }
        Some(Self {
            span,
            is_exact: limit.is_told_by_ledger(),
            known: known.into_uses(),
            since: since.into_uses(),
        })
    }

    /// Returns what the limit counts of all that the ledger holds now.
    pub(super) fn now(&self) -> Units {
        let (known, since) = (self.known.total(), self.since.total());
        known.counted.saturating_add(since.counted)
    }
}

fn counted(
    limits: &LogLimits,
    counter: CounterKey,
    series: &SeriesBehind,
    start: UnixMs,
) -> Option<Units> {
    let used = SeriesUse {
        series: &series.series,
        start,
        quantities: &series.quantities,
        amount: series.amount,
        unpriced: series.unpriced,
    };
    limits.units_of(counter, &used)
}

impl Use {
    fn of(behind: &SeriesBehind, counted: Units) -> Self {
        let series = &behind.series;
        Self {
            app: series.app.clone(),
            user: series.user.clone(),
            route: series.route.clone(),
            provider: series.provider.clone(),
            model: series.model.clone(),
            events: behind.quantities.get(Meter::Requests),
            tokens: tokens(&behind.quantities),
            cost: behind.amount,
            counted,
        }
    }

    fn add(&mut self, other: &Self, times: i128) {
        let plus = |own: i128, others: i128| own.saturating_add(others.saturating_mul(times));
        self.events = plus(self.events, other.events);
        self.tokens = plus(self.tokens, other.tokens);
        self.cost = plus(self.cost, other.cost);
        self.counted = Units::new(plus(self.counted.get(), other.counted.get()));
    }

    const fn is_nothing(&self) -> bool {
        self.events == 0 && self.tokens == 0 && self.cost == 0 && self.counted.is_zero()
    }
}

fn tokens(quantities: &PerMeter<i128>) -> i128 {
    let parts = quantities.iter();
    let parts = parts.filter(|(meter, _)| meter.is_input() || meter.is_output());
    parts.fold(0, |sum, (_, quantity)| sum.saturating_add(quantity))
}

/// Application, user, route, provider and model.
type Names = [String; 5];

#[derive(Default)]
struct ByName(BTreeMap<Names, Use>);

impl ByName {
    fn take(&mut self, used: &Use, times: i128) {
        let names = [
            &used.app,
            &used.user,
            &used.route,
            &used.provider,
            &used.model,
        ];
        let known = self
            .0
            .entry(names.map(String::clone))
            .or_insert_with(|| Use {
                events: 0,
                tokens: 0,
                cost: 0,
                counted: Units::ZERO,
                ..used.clone()
            });
        known.add(used, times);
    }

    fn into_uses(self) -> Uses {
        let mut uses: Vec<Use> = self.0.into_values().collect();
        uses.retain(|used| !used.is_nothing());
        // Equal ones stay in the order of their names.
        uses.sort_by_key(|used| std::cmp::Reverse((used.counted, used.cost, used.events)));
        Uses(uses)
    }
}

impl Uses {
    /// Returns the sum of all.
    pub(super) fn total(&self) -> Use {
        sum(&self.0)
    }

    /// Returns the biggest, at most so many, and the sum and number of the others where there are any.
    pub(super) fn biggest(&self, max: usize) -> (&[Use], Option<(usize, Use)>) {
        let (listed, others) = self.0.split_at(max.min(self.0.len()));
        let rest = (!others.is_empty()).then(|| (others.len(), sum(others)));
        (listed, rest)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn sum(uses: &[Use]) -> Use {
    let mut total = Use::default();
    uses.iter().for_each(|used| total.add(used, 1));
    total
}

#[cfg(test)]
mod tests;
