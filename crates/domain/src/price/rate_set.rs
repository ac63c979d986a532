//! Rate sets: the rates of one model and tier that one event is priced by.
//!
//! Invariant: a rate set never changes; its key is the hash of its content.

use crate::hash::{Canonical, Hash128};
use crate::meter::{Meter, PerMeter, Quantities};
use crate::money::{Amount, Rate};

/// The key of a rate set: the hash of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RateSetId(pub Hash128);

/// The rates of one provider's model and tier, fallbacks resolved; also of a model without any rate,
/// so that its usage can be priced later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateSet {
    /// Who answered, or empty where the log does not say.
    pub provider: String,
    /// The model that answered (the asked one where none did): what chose the rates.
    pub priced_model: String,
    /// The price book's model whose rates these are; empty where none matched.
    pub book_model: String,
    /// The size of the whole request's input above which this tier holds for all of it, in tokens; 0
    /// for the base tier.
    pub above_input_tokens: u64,
    /// The rate of each meter, and the meter in the book that it comes from: the meter itself, or
    /// the one it falls back to.
    pub rates: PerMeter<Option<(Rate, Meter)>>,
}

/// What an event costs by one rate set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priced {
    /// Σ quantity × rate over the meters that have a rate.
    pub amount: Amount,
    /// Some positive quantity of a billable meter has a rate.
    pub is_priced: bool,
    /// Some positive quantity of a billable meter has none.
    pub is_unpriced: bool,
}

impl RateSet {
    /// Returns the key: the hash of the content.
    #[must_use]
    pub fn id(&self) -> RateSetId {
        let mut canonical = Canonical::new("rate-set/1");
        canonical
            .text(&self.provider)
            .text(&self.priced_model)
            .text(&self.book_model)
            .unsigned(self.above_input_tokens);
        for (_, rate) in self.rates.iter() {
            canonical.present(rate.is_some());
            if let Some((rate, from)) = rate {
                canonical.wide(rate.units()).text(from.name());
            }
        }
        RateSetId(canonical.finish128())
    }

    /// Prices quantities; `None` where the amount does not fit into `NUMERIC(38,18)`.
    ///
    /// `requests` without a rate cost nothing by statement: they are neither priced nor unpriced.
    #[must_use]
    pub fn price(&self, quantities: &Quantities) -> Option<Priced> {
        let mut priced = Priced {
            amount: Amount::ZERO,
            is_priced: false,
            is_unpriced: false,
        };
        for (meter, quantity) in quantities.iter() {
            if quantity == 0 {
                continue;
            }
            match self.rates.get(meter) {
                Some((rate, _)) => {
                    priced.amount = priced.amount.checked_add(rate.checked_times(quantity)?)?;
                    priced.is_priced = true;
                }
                None => priced.is_unpriced |= meter.is_billable_unlisted(),
            }
        }
        Some(priced)
    }
}
