//! Prices: the price book, and the rate sets that events are priced by.
//!
//! Invariant: an event's amount is Σ quantity × rate over the meters that have a rate, exact to the
//! last of 18 digits. Deliberately absent: reading files; a price file arrives as its text.

mod book;
mod cache;
mod rate_set;

pub use book::{PriceBook, PricedModel};
pub use cache::PriceCache;
pub use rate_set::{Priced, RateSet, RateSetId};
