//! The rules in force: which sources there are, how each is decoded, and what is priced by.
//!
//! Invariant: rules are made from one version each of price book and source configuration, as
//! Postgres holds them; never from files alone, so that all processes fold alike.

use std::sync::Arc;

use domain::ids::Version;
use domain::price::PriceBook;
use store::in_force::InForce;

use crate::decode::Decoder;
use crate::source_config::{SourceConfig, from_canonical};

/// The rules of one state of what is in force.
pub struct Rules {
    /// The price book's version.
    pub prices: Version,
    /// The source configuration's version.
    pub sources: Version,
    /// The price book.
    pub book: Arc<PriceBook>,
    /// The sources, in the order of their configuration.
    pub configs: Vec<SourceConfig>,
    /// One decoder per source, in the same order.
    pub decoders: Vec<Decoder>,
}

/// What is in force cannot be used by this version of the program.
#[derive(Debug, thiserror::Error)]
#[error(
    "the {what} in force cannot be read by this version: {problem}; run the version that applied it, or apply another"
)]
pub struct UnusableRules {
    what: &'static str,
    problem: String,
}

impl Rules {
    /// Reads what is in force.
    ///
    /// # Errors
    ///
    /// [`UnusableRules`] where a newer program applied what this one cannot read; the caller stops.
    pub fn read(in_force: &InForce) -> Result<Self, UnusableRules> {
        let book = PriceBook::from_canonical(&in_force.price_book)
            .map_err(|error| unusable("price book", &error))?;
        let book = Arc::new(book);
        let configs = from_canonical(&in_force.source_config)
            .map_err(|error| unusable("source configuration", &error))?;
        let decoders = configs
            .iter()
            .map(|config| Decoder::new(config, Arc::clone(&book), in_force.identity_secret))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable("source configuration", &error))?;
        Ok(Self {
            prices: in_force.prices,
            sources: in_force.sources,
            book,
            configs,
            decoders,
        })
    }
}

fn unusable(what: &'static str, error: &dyn std::fmt::Display) -> UnusableRules {
    UnusableRules {
        what,
        problem: error.to_string(),
    }
}
