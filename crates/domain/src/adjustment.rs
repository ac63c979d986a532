//! Adjustments: corrections of the ledger, as parts of a chain of their own.
//!
//! Invariant: a correction only adds. What it takes back it posts with negative quantities, so that
//! `amount = Σ quantity × rate` holds for it as for every posting, and its part's hash covers who
//! made it, why, and what it corrects. Deliberately absent: which rates are right (see `reprice`).

use std::fmt;
use std::str::FromStr;

use crate::fold::{Posting, PostingKey, Sums};
use crate::hash::{Canonical, Hash256};
use crate::ids::{ChainId, Offset, PartRef, Place};
use crate::meter::PerMeter;
use crate::money::Amount;
use crate::part::{Duplicate, PartHeader, add_duplicates, add_header, add_length};
use crate::time::UnixMs;

/// What kind of correction an adjustment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AdjustmentKind {
    /// Rejected events were decoded again, and counted.
    Retry,
    /// Rejected events were given up.
    Drop,
    /// Usage was priced anew.
    Reprice,
}

/// A text that names no kind of adjustment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no kind of adjustment")]
pub struct UnknownKind;

impl AdjustmentKind {
    /// Returns the name used in SQL and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Drop => "drop",
            Self::Reprice => "reprice",
        }
    }
}

impl FromStr for AdjustmentKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        [Self::Retry, Self::Drop, Self::Reprice]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(UnknownKind)
    }
}

impl fmt::Display for AdjustmentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who corrected what, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustment {
    /// What kind of correction it is.
    pub kind: AdjustmentKind,
    /// When, by the database's clock.
    pub made_at: UnixMs,
    /// Who takes responsibility.
    pub made_by: String,
    /// Why; empty where nobody said.
    pub because: String,
    /// What was asked, as JSON.
    pub arguments: String,
    /// Events too old to be known again were taken, repeats or not.
    pub accepts_duplicates: bool,
}

/// What became of a rejected event, and of the events that were found in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resolution {
    /// Its place in the adjustment chain, where duplicates of it stand as well.
    pub at: Offset,
    /// The log's chain that rejected it.
    pub chain: ChainId,
    /// Where it stands in that log.
    pub place: Place,
    /// Events posted.
    pub accepted: u64,
    /// Events that had been counted before.
    pub duplicates: u64,
    /// Events that their source's rule does not meter.
    pub ignored: u64,
}

/// [`Sums`] with a sign: what a correction adds or takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SignedSums {
    /// Usage, meter by meter.
    pub quantities: PerMeter<i64>,
    /// Requests that did not succeed.
    pub failed_requests: i64,
    /// Requests that succeeded and whose log has no token counts.
    pub unmeasured_requests: i64,
    /// Requests with a positive quantity of a billable meter that has a rate.
    pub priced_requests: i64,
    /// Requests with a positive quantity of a billable meter that has no rate.
    pub unpriced_requests: i64,
    /// Σ quantity × rate over the meters that have a rate.
    pub amount: Amount,
}

impl SignedSums {
    /// Takes sums as they are; `None` beyond `i64::MAX`, which no column holds.
    #[must_use]
    pub fn of(sums: &Sums) -> Option<Self> {
        let mut quantities = [0; crate::meter::METERS];
        for (signed, quantity) in quantities.iter_mut().zip(sums.quantities.as_array()) {
            *signed = i64::try_from(*quantity).ok()?;
        }
        Some(Self {
            quantities: PerMeter::from_array(quantities),
            failed_requests: i64::try_from(sums.failed_requests).ok()?,
            unmeasured_requests: i64::try_from(sums.unmeasured_requests).ok()?,
            priced_requests: i64::try_from(sums.priced_requests).ok()?,
            unpriced_requests: i64::try_from(sums.unpriced_requests).ok()?,
            amount: sums.amount,
        })
    }

    /// Returns what takes these sums back.
    #[must_use]
    pub fn negated(&self) -> Option<Self> {
        let mut quantities = [0; crate::meter::METERS];
        for (negated, quantity) in quantities.iter_mut().zip(self.quantities.as_array()) {
            *negated = quantity.checked_neg()?;
        }
        Some(Self {
            quantities: PerMeter::from_array(quantities),
            failed_requests: self.failed_requests.checked_neg()?,
            unmeasured_requests: self.unmeasured_requests.checked_neg()?,
            priced_requests: self.priced_requests.checked_neg()?,
            unpriced_requests: self.unpriced_requests.checked_neg()?,
            amount: Amount::ZERO.checked_sub(self.amount)?,
        })
    }

    /// Says whether the posting of these sums has no amount: billable usage, none of it with a rate.
    /// What takes such usage back has the amount 0.
    #[must_use]
    pub const fn has_no_amount(&self) -> bool {
        self.unpriced_requests > 0 && self.priced_requests == 0
    }
}

/// One posting of an adjustment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignedPosting {
    /// What it sums separately by.
    pub key: PostingKey,
    /// What it adds or takes back.
    pub sums: SignedSums,
}

impl SignedPosting {
    /// Takes a posting as it is; `None` beyond `i64::MAX`.
    #[must_use]
    pub fn of(posting: &Posting) -> Option<Self> {
        Some(Self {
            key: posting.key,
            sums: SignedSums::of(&posting.sums)?,
        })
    }
}

/// What an adjustment's part put into the ledger, each slice ascending: resolutions by their place in
/// the chain, bounds by chain, postings by all their fields, duplicates by place.
#[derive(Debug, Clone, Copy)]
pub struct AdjustmentRows<'r> {
    /// Who, what and why.
    pub adjustment: &'r Adjustment,
    /// The rejected events that it resolves.
    pub resolutions: &'r [Resolution],
    /// Up to which part of each chain it looked.
    pub bounds: &'r [PartRef],
    /// What it posts.
    pub postings: &'r [SignedPosting],
    /// What had been counted before.
    pub duplicates: &'r [Duplicate],
}

/// Returns the hash that the next part of the adjustment chain names.
#[must_use]
pub fn adjustment_hash(header: &PartHeader, rows: &AdjustmentRows<'_>) -> Hash256 {
    let mut canonical = Canonical::new("adjustment");
    add_header(&mut canonical, header);
    let adjustment = rows.adjustment;
    canonical
        .text(adjustment.kind.name())
        .signed(adjustment.made_at.get())
        .text(&adjustment.made_by)
        .text(&adjustment.because)
        .text(&adjustment.arguments)
        .present(adjustment.accepts_duplicates);
    add_length(&mut canonical, rows.resolutions.len());
    for resolution in rows.resolutions {
        canonical
            .signed(resolution.at.0)
            .signed(i64::from(resolution.chain.0))
            .signed(resolution.place.offset.0)
            .unsigned(u64::from(resolution.place.index))
            .unsigned(resolution.accepted)
            .unsigned(resolution.duplicates)
            .unsigned(resolution.ignored);
    }
    add_length(&mut canonical, rows.bounds.len());
    for bound in rows.bounds {
        canonical
            .signed(i64::from(bound.chain.0))
            .signed(bound.number.0);
    }
    add_length(&mut canonical, rows.postings.len());
    for posting in rows.postings {
        add_posting(&mut canonical, posting);
    }
    add_duplicates(&mut canonical, rows.duplicates);
    canonical.finish256()
}

fn add_posting(canonical: &mut Canonical, posting: &SignedPosting) {
    canonical
        .bytes(&posting.key.series.0.to_bytes())
        .bytes(&posting.key.rate_set.0.to_bytes())
        .signed(posting.key.quarter.start().get());
    for quantity in posting.sums.quantities.as_array() {
        canonical.signed(*quantity);
    }
    canonical
        .signed(posting.sums.failed_requests)
        .signed(posting.sums.unmeasured_requests)
        .signed(posting.sums.priced_requests)
        .signed(posting.sums.unpriced_requests)
        .wide(posting.sums.amount.units());
}
