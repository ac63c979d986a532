//! The price book.

use std::sync::Arc;

use crate::ids::{ModelId, ProviderId};
use crate::meter::PerMeter;
use crate::time::UnixMs;

use super::rate_set::{RateSet, RateSetId};

/// All rates at provider cost.
pub struct PriceBook {}

/// The rate sets of one model: by time, then by tier.
pub struct PricedModel {
    none: Arc<RateSet>,
}

impl PriceBook {
    /// Returns the book that ships with the product.
    #[must_use]
    pub fn shipped() -> Self {
        Self {}
    }

    /// Says whether the book has rates of this provider.
    #[must_use]
    pub fn knows_provider(&self, _name: &str) -> bool {
        false
    }

    /// Finds the rates.
    #[must_use]
    pub fn price_model(
        &self,
        provider: Option<&ProviderId<'_>>,
        answered: Option<&ModelId<'_>>,
        asked: &ModelId<'_>,
    ) -> PricedModel {
        let provider = provider.map_or("", |provider| provider.as_str()).to_owned();
        let priced_model = answered.unwrap_or(asked).as_str().to_owned();
        PricedModel {
            none: Arc::new(RateSet {
                provider,
                priced_model,
                book_model: String::new(),
                above_input_tokens: 0,
                rates: PerMeter::default(),
            }),
        }
    }
}

impl PricedModel {
    /// Returns the rate set at an instant for a request of this many input tokens.
    #[must_use]
    pub fn rate_set(&self, _at: UnixMs, _input_tokens: u64) -> (RateSetId, &Arc<RateSet>) {
        (self.none.id(), &self.none)
    }
}
