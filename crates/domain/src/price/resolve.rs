//! Resolving: which rates of the book a provider's model is priced by, at which time and tier.
//!
//! Invariant: the answer is a function of the book, the names, the instant and the size of the
//! input; a model without rates has an empty rate set, never another model's. Deliberately absent:
//! remembering answers (see `cache`).

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::NaiveDate;

use crate::ids::{ModelId, ProviderId};
use crate::meter::{Meter, PerMeter};
use crate::money::Rate;
use crate::time::UnixMs;

use super::book::{ModelRates, PriceBook, ProviderPrices};
use super::rate_set::{RateSet, RateSetId};

/// The rate sets of one model: by time, then by tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedModel {
    /// What holds before the first start.
    first: Period,
    /// What holds from each start on, ascending.
    later: Vec<(UnixMs, Period)>,
}

/// The tiers of a model while no rate of it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Period {
    base: Tier,
    /// Tiers above some input, ascending by it.
    above: Vec<Tier>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tier {
    id: RateSetId,
    rate_set: Arc<RateSet>,
}

impl PriceBook {
    /// Finds the rates of the model that answered or, where it has none, of the model that was asked
    /// for; without any, the answer's rate sets are empty.
    ///
    /// A name finds the book's model by, in this order: the exact name; an alias; both again without
    /// a dated suffix (`-2024-07-18`, `-20240718`); the longest pattern (`gpt-4o*`).
    #[must_use]
    pub fn price_model(
        &self,
        provider: Option<&ProviderId<'_>>,
        answered: Option<&ModelId<'_>>,
        asked: &ModelId<'_>,
    ) -> PricedModel {
        let provider = provider.map_or("", ProviderId::as_str);
        let mut candidates = Vec::new();
        if let Some(prices) = self.providers.get(provider) {
            if let Some(answered) = answered {
                prices.add_candidates(answered.as_str(), &mut candidates);
            }
            prices.add_candidates(asked.as_str(), &mut candidates);
        }
        let priced_model = answered.unwrap_or(asked).as_str();
        PricedModel::of(provider, priced_model, &candidates)
    }
}

/// A model of the book that a name may be priced by.
type Candidate<'b> = (&'b str, &'b ModelRates);

impl ProviderPrices {
    /// Adds the book's models that a name means, the first choice first.
    fn add_candidates<'b>(&'b self, name: &str, candidates: &mut Vec<Candidate<'b>>) {
        self.add_named(name, candidates);
        if let Some(undated) = without_date(name) {
            self.add_named(undated, candidates);
        }
        let mut patterns: Vec<_> = self
            .models
            .iter()
            .filter_map(|(model, rates)| Some((model.strip_suffix('*')?, model, rates)))
            .filter(|(prefix, ..)| name.starts_with(prefix))
            .collect();
        patterns.sort_by_key(|(prefix, ..)| std::cmp::Reverse(prefix.len()));
        candidates.extend(
            patterns
                .iter()
                .map(|(_, model, rates)| (model.as_str(), *rates)),
        );
    }

    fn add_named<'b>(&'b self, name: &str, candidates: &mut Vec<Candidate<'b>>) {
        let target = self.aliases.get(name).map(String::as_str);
        for name in [Some(name), target].into_iter().flatten() {
            if let Some((model, rates)) = self.models.get_key_value(name) {
                candidates.push((model, rates));
            }
        }
    }
}

/// Returns a model's name without its dated suffix, where it has one.
///
/// | name | without |
/// | --- | --- |
/// | `gpt-4o-2024-07-18` | `gpt-4o` |
/// | `claude-haiku-4-5-20250929` | `claude-haiku-4-5` |
/// | `mistral-small-2603`, `gpt-4o-2024-13-01` | none: no date |
fn without_date(name: &str) -> Option<&str> {
    let suffixes = [("-%Y-%m-%d", 11), ("-%Y%m%d", 9)];
    suffixes.into_iter().find_map(|(format, length)| {
        let (model, suffix) = name.split_at_checked(name.len().checked_sub(length)?)?;
        let is_spelled_out = suffix
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_digit());
        let is_date = is_spelled_out && NaiveDate::parse_from_str(suffix, format).is_ok();
        (is_date && !model.is_empty()).then_some(model)
    })
}

impl PricedModel {
    /// Returns the rate set at an instant for a request of this many input tokens.
    #[must_use]
    pub fn rate_set(&self, at: UnixMs, input_tokens: u64) -> (RateSetId, &Arc<RateSet>) {
        let later = self.later.iter().rev().find(|(start, _)| *start <= at);
        let period = later.map_or(&self.first, |(_, period)| period);
        let mut above = period.above.iter().rev();
        let tier = above.find(|tier| tier.rate_set.above_input_tokens < input_tokens);
        let tier = tier.unwrap_or(&period.base);
        (tier.id, &tier.rate_set)
    }

    /// Returns the instants at which its rates change, ascending.
    pub(crate) fn starts(&self) -> impl Iterator<Item = UnixMs> + '_ {
        self.later.iter().map(|(start, _)| *start)
    }

    /// Returns the sizes of input above which its tiers hold, in no order, with repeats.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> + '_ {
        let periods = std::iter::once(&self.first).chain(self.later.iter().map(|(_, later)| later));
        periods.flat_map(|period| {
            let tiers = period.above.iter();
            tiers.map(|tier| tier.rate_set.above_input_tokens)
        })
    }

    fn of(provider: &str, priced_model: &str, candidates: &[Candidate<'_>]) -> Self {
        let keys = candidates.iter().flat_map(|(_, rates)| rates.keys());
        let starts: BTreeSet<UnixMs> = keys.filter_map(|key| key.start).collect();
        let period = |at| Period::of(provider, priced_model, candidates, at);
        Self {
            first: period(None),
            later: starts
                .into_iter()
                .map(|start| (start, period(Some(start))))
                .collect(),
        }
    }
}

/// A rate that holds at some instant: its meter, its tier, itself.
pub(super) type Holding = (Meter, u64, Rate);

impl Period {
    /// Builds what holds from `at` on; `None`: from the beginning of time.
    fn of(
        provider: &str,
        priced_model: &str,
        candidates: &[Candidate<'_>],
        at: Option<UnixMs>,
    ) -> Self {
        let holding = candidates
            .iter()
            .map(|(model, rates)| (*model, holding_at(rates, at)));
        let (book_model, rates) = holding
            .into_iter()
            .find(|(_, rates)| !rates.is_empty())
            .unwrap_or_default();
        let tier = |above_input_tokens| {
            let rate_set = RateSet {
                provider: provider.to_owned(),
                priced_model: priced_model.to_owned(),
                book_model: book_model.to_owned(),
                above_input_tokens,
                rates: rates_of_tier(&rates, above_input_tokens),
            };
            Tier {
                id: rate_set.id(),
                rate_set: Arc::new(rate_set),
            }
        };
        let sizes: BTreeSet<u64> = rates.iter().map(|(_, above, _)| *above).collect();
        Self {
            base: tier(0),
            above: sizes
                .into_iter()
                .filter(|above| *above > 0)
                .map(tier)
                .collect(),
        }
    }
}

/// Returns the rates that hold at an instant: of each meter and tier the one that started last.
pub(super) fn holding_at(rates: &ModelRates, at: Option<UnixMs>) -> Vec<Holding> {
    let mut holding: Vec<Holding> = Vec::new();
    // Keys ascend by meter, tier, start, and no start comes before any.
    for (key, value) in rates.iter().filter(|(key, _)| key.start <= at) {
        let same = |last: &&mut Holding| (last.0, last.1) == (key.meter, key.above_input_tokens);
        match holding.last_mut().filter(same) {
            Some(last) => last.2 = value.rate,
            None => holding.push((key.meter, key.above_input_tokens, value.rate)),
        }
    }
    holding
}

/// Returns the rate of each meter in one tier and the meter it comes from: the meter's own of this
/// tier, else of the next lower one that has it; else the same for the meter it falls back to.
pub(super) fn rates_of_tier(
    rates: &[Holding],
    above_input_tokens: u64,
) -> PerMeter<Option<(Rate, Meter)>> {
    let own = |wanted: Meter| {
        let of_meter = rates
            .iter()
            .filter(|(meter, above, _)| *meter == wanted && *above <= above_input_tokens);
        of_meter
            .max_by_key(|(_, above, _)| *above)
            .map(|(meter, _, rate)| (*rate, *meter))
    };
    PerMeter::from_fn(|meter| {
        let mut chain = std::iter::successors(Some(meter), |meter| meter.fallback());
        chain.find_map(own)
    })
}
