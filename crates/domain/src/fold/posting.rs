//! A posting: what it sums by, and what it sums.
//!
//! Invariant: sums are exact or there are none. Deliberately absent: which events they are of.

use crate::meter::Quantities;
use crate::money::Amount;
use crate::price::RateSetId;
use crate::series::SeriesId;
use crate::time::Quarter;

/// What a posting sums separately by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostingKey {
    /// The combination of dimensions.
    pub series: SeriesId,
    /// What it is priced by.
    pub rate_set: RateSetId,
    /// The quarter-hour in which the requests started.
    pub quarter: Quarter,
}

/// What a posting sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Sums {
    /// Usage, meter by meter; `requests` counts the events.
    pub quantities: Quantities,
    /// Requests that did not succeed; part of `requests`.
    pub failed_requests: u64,
    /// Requests that succeeded and whose log has no token counts; part of `requests`.
    pub unmeasured_requests: u64,
    /// Requests with a positive quantity of a billable meter that has a rate.
    pub priced_requests: u64,
    /// Requests with a positive quantity of a billable meter that has no rate.
    pub unpriced_requests: u64,
    /// Σ quantity × rate over the meters that have a rate.
    pub amount: Amount,
}

impl Sums {
    pub(super) fn checked_add(&self, other: &Self) -> Option<Self> {
        Some(Self {
            quantities: self.quantities.checked_add(&other.quantities)?,
            failed_requests: self.failed_requests.checked_add(other.failed_requests)?,
            unmeasured_requests: self
                .unmeasured_requests
                .checked_add(other.unmeasured_requests)?,
            priced_requests: self.priced_requests.checked_add(other.priced_requests)?,
            unpriced_requests: self
                .unpriced_requests
                .checked_add(other.unpriced_requests)?,
            amount: self.amount.checked_add(other.amount)?,
        })
    }

    pub(super) fn checked_sub(&self, other: &Self) -> Option<Self> {
        Some(Self {
            quantities: self.quantities.checked_sub(&other.quantities)?,
            failed_requests: self.failed_requests.checked_sub(other.failed_requests)?,
            unmeasured_requests: self
                .unmeasured_requests
                .checked_sub(other.unmeasured_requests)?,
            priced_requests: self.priced_requests.checked_sub(other.priced_requests)?,
            unpriced_requests: self
                .unpriced_requests
                .checked_sub(other.unpriced_requests)?,
            amount: self.amount.checked_sub(other.amount)?,
        })
    }
}

/// One append-only row of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Posting {
    /// What it sums separately by.
    pub key: PostingKey,
    /// What it sums.
    pub sums: Sums,
}
