//! The rules that a part was folded by, from the versions that it names.
//!
//! Invariant: a part is refolded by its own versions or not at all; what is in force now does not
//! matter. Deliberately absent: whether the stored versions are what they claim, see `contents`.

use std::sync::Arc;

use domain::event::IdentitySecret;
use domain::fold::Folder;
use domain::ids::Version;
use domain::part::PartHeader;
use domain::price::PriceBook;
use store::audit;
use store::in_force::identity_secret;

use super::{Places, VerifyError};
use crate::decode::Decoder;
use crate::folding::drawn_key;
use crate::source_config::from_canonical;

/// How a source's records were decoded and priced under two versions.
pub(super) struct PartRules {
    prices: Version,
    sources: Version,
    pub(super) decoder: Decoder,
    pub(super) folder: Folder,
}

impl PartRules {
    /// Says whether a part was folded by these.
    pub(super) fn are_of(&self, header: &PartHeader) -> bool {
        (self.prices, self.sources) == (header.prices, header.sources)
    }

    /// Reads the rules of a part of this source; in words, why there are none.
    ///
    /// # Errors
    ///
    /// A [`VerifyError`] where Postgres cannot be read.
    pub(super) async fn read(
        places: &Places,
        source: &str,
        header: &PartHeader,
    ) -> Result<Result<Self, String>, VerifyError> {
        let (prices, sources) = (header.prices, header.sources);
        let Some(book) = audit::price_book(&places.db, prices).await? else {
            return Ok(Err(format!("price book {} is missing", prices.0)));
        };
        let Some(config) = audit::source_config(&places.db, sources).await? else {
            return Ok(Err(format!(
                "source configuration {} is missing",
                sources.0
            )));
        };
        let secret = identity_secret(&places.db).await?;
        Ok(Self::parse(
            (source, secret),
            (prices, &book.content),
            (sources, &config.content),
        ))
    }

    fn parse(
        (source, secret): (&str, IdentitySecret),
        (prices, book): (Version, &str),
        (sources, configs): (Version, &str),
    ) -> Result<Self, String> {
        let book = PriceBook::from_canonical(book)
            .map_err(|error| format!("price book {} cannot be read: {error}", prices.0))?;
        let of_sources = |problem| format!("source configuration {} {problem}", sources.0);
        let configs = from_canonical(configs).map_err(|error| of_sources(error.to_string()))?;
        let config = configs
            .iter()
            .find(|config| config.name() == source)
            .ok_or_else(|| of_sources(format!("has no source named {source:?}")))?;
        let book = Arc::new(book);
        let decoder = Decoder::new(config, Arc::clone(&book), secret)
            .map_err(|error| of_sources(error.to_string()))?;
        Ok(Self {
            prices,
            sources,
            decoder,
            folder: Folder::new(book, drawn_key()),
        })
    }
}
