//! Re-pricing: what sums that were priced by one book cost by another.
//!
//! Invariant: the answer is what folding the events again under the new book would sum to, or there
//! is none. Sums do not tell single events apart, so it is given only where all events that the sums
//! can be made of agree. Deliberately absent: where sums come from, and posting the difference.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::fold::Sums;
use crate::meter::{Meter, Quantities};
use crate::price::{PricedModel, RateSet, RateSetId};
use crate::time::{QUARTER_MS, Quarter, UnixMs};

/// Sums of one series and rate set in one quarter-hour.
#[derive(Debug, Clone, Copy)]
pub struct Holding<'h> {
    /// The quarter-hour in which the requests started.
    pub quarter: Quarter,
    /// What they are priced by now.
    pub rate_set: &'h RateSet,
    /// Its key.
    pub rate_set_id: RateSetId,
    /// What they sum to.
    pub sums: Sums,
}

/// What sums cost by another book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repriced {
    /// The same, and as many requests have a rate.
    Same,
    /// Something else.
    Other {
        /// What they are priced by then.
        rate_set: Arc<RateSet>,
        /// Its key.
        rate_set_id: RateSetId,
        /// The same quantities with their other amount.
        sums: Sums,
    },
    /// The sums do not say.
    Unclear(Unclear),
}

/// Why sums cannot be priced anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unclear {
    /// The new book prices their events by more than one rate set: by the size of each request's
    /// input, or by its time within the quarter-hour.
    Rates,
    /// How many of the requests have a rate, or have none, depends on the single events.
    Requests,
    /// The amount does not fit into the ledger.
    Overflow,
}

/// Prices sums anew. `old` are the model's rates in the books that the sums were priced by: they say
/// which events the rate set can stand for.
#[must_use]
pub fn reprice(holding: &Holding<'_>, old: &[&PricedModel], new: &PricedModel) -> Repriced {
    let Some((rate_set_id, rate_set)) = target(holding, old, new) else {
        return Repriced::Unclear(Unclear::Rates);
    };
    if rate_set_id == holding.rate_set_id {
        return Repriced::Same;
    }
    let sums = &holding.sums;
    let Some(priced) = rate_set.price(&sums.quantities) else {
        return Repriced::Unclear(Unclear::Overflow);
    };
    let Some((priced_requests, unpriced_requests)) = requests(holding, rate_set) else {
        return Repriced::Unclear(Unclear::Requests);
    };
    let repriced = Sums {
        priced_requests,
        unpriced_requests,
        amount: priced.amount,
        ..*sums
    };
    if repriced == *sums {
        return Repriced::Same;
    }
    Repriced::Other {
        rate_set: Arc::clone(rate_set),
        rate_set_id,
        sums: repriced,
    }
}

/// Returns the one rate set by which the new book prices every event that the sums can be made of.
fn target<'n>(
    holding: &Holding<'_>,
    old: &[&PricedModel],
    new: &'n PricedModel,
) -> Option<(RateSetId, &'n Arc<RateSet>)> {
    let models = || old.iter().copied().chain(std::iter::once(new));
    let start = holding.quarter.start();
    let end = start.saturating_add_ms(QUARTER_MS);
    let mut instants = BTreeSet::from([start]);
    instants
        .extend(models().flat_map(|model| model.starts().filter(|at| (start..end).contains(at))));
    let (least, most) = input_of_one(holding);
    let mut inputs = BTreeSet::from([least]);
    inputs.extend(
        models()
            .flat_map(PricedModel::sizes)
            .filter(|size| (least..most).contains(size))
            .map(|size| size.saturating_add(1)),
    );
    let cells: Vec<(UnixMs, u64)> = instants
        .iter()
        .flat_map(|at| inputs.iter().map(|input| (*at, *input)))
        .collect();
    // By the old books, the rate set stands only for events of these times and sizes.
    let is_held = |(at, input): &&(UnixMs, u64)| {
        let of = |model: &&PricedModel| model.rate_set(*at, *input).0 == holding.rate_set_id;
        old.iter().any(of)
    };
    let mut explained: Vec<(UnixMs, u64)> = cells.iter().filter(is_held).copied().collect();
    if explained.is_empty() {
        explained = cells;
    }
    let mut targets = explained
        .iter()
        .map(|(at, input)| new.rate_set(*at, *input));
    let first = targets.next()?;
    targets.all(|(id, _)| id == first.0).then_some(first)
}

/// Returns the least and the greatest input, in tokens, that one of the requests can have: all of
/// them lie above the tier's size, and the rest takes that much at least.
fn input_of_one(holding: &Holding<'_>) -> (u64, u64) {
    let total = u64::try_from(holding.sums.quantities.input_tokens()).unwrap_or(u64::MAX);
    let requests = holding.sums.quantities.get(Meter::Requests);
    if requests == 1 {
        return (total, total);
    }
    let least = match holding.rate_set.above_input_tokens {
        0 => 0,
        above => above.saturating_add(1),
    };
    let others = least.saturating_mul(requests.saturating_sub(1));
    (least, total.saturating_sub(others).max(least))
}

/// What is known of the meters that were used and need a rate: with one under both rate sets or not.
struct Used {
    /// Which of them have a rate.
    rated: Vec<bool>,
    /// Every request has a price, since requests themselves have one.
    is_each_priced: bool,
}

impl Used {
    fn of(quantities: &Quantities, rate_set: &RateSet) -> Self {
        let is_used =
            |(meter, quantity): &(Meter, u64)| *quantity > 0 && meter.is_billable_unlisted();
        Self {
            rated: quantities
                .iter()
                .filter(is_used)
                .map(|(meter, _)| rate_set.rates.get(meter).is_some())
                .collect(),
            is_each_priced: rate_set.rates.get(Meter::Requests).is_some(),
        }
    }

    fn all(&self) -> bool {
        self.rated.iter().all(|rated| *rated)
    }

    fn none(&self) -> bool {
        self.rated.iter().all(|rated| !rated)
    }

    fn is_opposite_of(&self, other: &Self) -> bool {
        self.rated.iter().zip(&other.rated).all(|(a, b)| a != b)
    }
}

/// Counts the requests that have a rate, and those that have none, under the new rate set; `None`
/// where the sums do not tell.
///
/// With M the used meters that need a rate, R those of M with a rate, B the requests that used any
/// of M (known from the old counts where R was all of M or nothing of it):
///
/// | new R | priced | unpriced |
/// | --- | --- | --- |
/// | all of M | B | 0 |
/// | none of M | 0 | B |
/// | as before | as before | as before |
/// | M without the old R | old unpriced | old priced |
///
/// Where requests themselves have a rate, each one is priced.
fn requests(holding: &Holding<'_>, new: &RateSet) -> Option<(u64, u64)> {
    let sums = &holding.sums;
    let all = sums.quantities.get(Meter::Requests);
    let was = Used::of(&sums.quantities, holding.rate_set);
    let is = Used::of(&sums.quantities, new);
    // The requests with a rate for anything but themselves: hidden where each one is priced.
    let was_rated = match (was.is_each_priced, was.none()) {
        (_, true) => Some(0),
        (false, false) => Some(sums.priced_requests),
        (true, false) => None,
    };
    let any = requests_with_any(sums, all, &was, was_rated);
    let rated = if is.none() {
        Some(0)
    } else if is.all() {
        any
    } else if is.rated == was.rated {
        was_rated
    } else if is.is_opposite_of(&was) {
        Some(sums.unpriced_requests)
    } else {
        None
    };
    let unpriced = if is.all() {
        Some(0)
    } else if is.none() {
        any
    } else if is.rated == was.rated {
        Some(sums.unpriced_requests)
    } else if is.is_opposite_of(&was) {
        was_rated
    } else {
        None
    };
    let priced = if is.is_each_priced { Some(all) } else { rated };
    if all == 1 {
        let priced = is.is_each_priced || is.rated.contains(&true);
        return Some((u64::from(priced), u64::from(is.rated.contains(&false))));
    }
    priced.zip(unpriced)
}

/// Returns how many requests used anything that needs a rate, where the sums tell.
fn requests_with_any(sums: &Sums, all: u64, was: &Used, was_rated: Option<u64>) -> Option<u64> {
    if was.rated.is_empty() {
        return Some(0);
    }
    if was.none() {
        return Some(sums.unpriced_requests);
    }
    if was.all() {
        return was_rated;
    }
    let is_all = sums.unpriced_requests == all || was_rated == Some(all);
    is_all.then_some(all)
}
