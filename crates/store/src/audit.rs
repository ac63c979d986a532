//! What `verify` reads: chains, parts with their rows, roll-ups against postings, keyed contents.
//!
//! Invariant: everything is read as it is stored. A value that cannot be what the ledger writes is
//! [`Unreadable`], which names it, and never an error that would end the verification. Deliberately
//! absent: verdicts; whoever refolds the log compares.

mod adjustments;
mod contents;
mod ids;
mod parts;
mod rollups;
mod rows;

pub use adjustments::{AdjustmentOrphans, StoredAdjustment, adjustment_orphans, adjustments};
pub use contents::{
    StoredRateSet, StoredSeries, StoredText, committed_at, price_book, rate_sets_after,
    series_after, source_config,
};
pub use ids::{HeldOnce, held_once, seen};
pub use parts::{Chain, ChainPosition, Pages, StoredPart, chains, parts};
pub use rollups::{RollupDifference, RollupGrain, amount_difference, rollup_differences};
pub use rows::{Orphans, StoredRows, orphans, rows};

/// A stored value that the ledger never writes: which, where, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// Takes a stored number where only zero and above are written.
fn unsigned(what: &str, stored: i64) -> Result<u64, Unreadable> {
    u64::try_from(stored).map_err(|_| Unreadable(format!("{what} is {stored}, below zero")))
}
