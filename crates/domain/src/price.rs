//! Prices: the price book, and the rate sets that events are priced by.
//!
//! Invariant: an event's amount is Σ quantity × rate over the meters that have a rate, exact to the
//! last of 18 digits. Deliberately absent: reading files; a price file arrives as its text.

mod book;
mod cache;
mod csv_file;
mod diff;
mod entry;
mod file;
mod layer;
mod lines;
mod litellm;
mod rate_set;
mod resolve;
mod rows_file;
mod toml_file;
mod tree;

#[cfg(test)]
mod book_tests;
#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod import_tests;

pub use book::{BookAlias, BookRate, PriceBook};
pub use cache::PriceCache;
pub use diff::{PriceChange, PriceDiff};
pub use entry::{PriceFileError, parse_instant};
pub use file::{Findings, Layout, NotExpressed, PriceFile};
pub use layer::{LayeredBook, PriceLayer};
pub use rate_set::{Priced, RateSet, RateSetId};
pub use resolve::PricedModel;
