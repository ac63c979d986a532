//! The difference between two price books.
//!
//! Invariant: a rate is told apart by provider, model, meter, tier and start; each that differs is in
//! exactly one change.

use std::collections::BTreeMap;

use crate::meter::Meter;
use crate::money::Rate;
use crate::time::UnixMs;

use super::book::{BookRate, PriceBook};

/// A rate that one book has and another has not, or has otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriceChange<'b> {
    /// Who sets the price.
    pub provider: &'b str,
    /// The model's name, or a pattern `name*`.
    pub model: &'b str,
    /// What is priced.
    pub meter: Meter,
    /// The size of the whole request's input above which the rate holds, in tokens.
    pub above_input_tokens: u64,
    /// From when on it holds; `None`: from the beginning of time.
    pub start: Option<UnixMs>,
    /// The rate in the old book; `None`: it is added.
    pub old: Option<Rate>,
    /// The rate in the new book; `None`: it is removed.
    pub new: Option<Rate>,
}

/// What a new book changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceDiff<'b> {
    /// The rates that differ: ascending by provider, model, meter, tier and start.
    pub changes: Vec<PriceChange<'b>>,
    /// How many rates are the same in both, whatever their source.
    pub unchanged: usize,
    /// How many aliases differ.
    pub aliases: usize,
}

type Place<'b> = (&'b str, &'b str, Meter, u64, Option<UnixMs>);

impl<'b> PriceDiff<'b> {
    /// Compares two books.
    #[must_use]
    pub fn between(old: &'b PriceBook, new: &'b PriceBook) -> Self {
        let mut places: BTreeMap<Place<'b>, (Option<Rate>, Option<Rate>)> = BTreeMap::new();
        for rate in old.rates() {
            places.entry(place_of(&rate)).or_default().0 = Some(rate.rate);
        }
        for rate in new.rates() {
            places.entry(place_of(&rate)).or_default().1 = Some(rate.rate);
        }
        let mut diff = Self {
            aliases: aliases_that_differ(old, new),
            ..Self::default()
        };
        for ((provider, model, meter, above_input_tokens, start), (old, new)) in places {
            if old == new {
                diff.unchanged = diff.unchanged.saturating_add(1);
                continue;
            }
            diff.changes.push(PriceChange {
                provider,
                model,
                meter,
                above_input_tokens,
                start,
                old,
                new,
            });
        }
        diff
    }
}

fn place_of<'b>(rate: &BookRate<'b>) -> Place<'b> {
    (
        rate.provider,
        rate.model,
        rate.meter,
        rate.above_input_tokens,
        rate.start,
    )
}

/// Counts the names that point elsewhere, or only in one of the books.
fn aliases_that_differ(old: &PriceBook, new: &PriceBook) -> usize {
    let mut targets: BTreeMap<_, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for alias in old.aliases() {
        targets.entry((alias.provider, alias.name)).or_default().0 = Some(alias.model);
    }
    for alias in new.aliases() {
        targets.entry((alias.provider, alias.name)).or_default().1 = Some(alias.model);
    }
    targets.values().filter(|(old, new)| old != new).count()
}
