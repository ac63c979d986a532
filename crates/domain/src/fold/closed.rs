//! A batch whose rows are final: sorted, and without what duplicates emptied.
//!
//! Invariant: the same fold closes to the same rows in the same order, so that its hash is one.
//! Deliberately absent: taking events out again; that ends with the fold.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::{PartFold, Posting, Sums};
use crate::counting::AccountSum;
use crate::hash::Hash256;
use crate::ids::PartRef;
use crate::part::{Counts, Duplicate, PartHeader, PartRows, RejectedEvent, part_hash};
use crate::price::{RateSet, RateSetId};
use crate::series::{Series, SeriesId};

/// A part whose rows are final and in order.
pub struct ClosedPart {
    /// Which part this is.
    pub part: PartRef,
    /// What its records held.
    pub counts: Counts,
    /// What it posts, ascending.
    pub postings: Vec<Posting>,
    /// What it rejects, ascending by place.
    pub rejected: Vec<RejectedEvent>,
    /// What had been counted before, ascending by place.
    pub duplicates: Vec<Duplicate>,
    /// What it adds to accounts, ascending by counter and slot; no part of its hash.
    pub accounts: Vec<AccountSum>,
}

impl ClosedPart {
    pub(super) fn of(mut part: PartFold) -> Self {
        part.postings
            .retain(|posting| posting.sums != Sums::default());
        part.postings.sort_unstable();
        part.rejected.sort_by_key(|rejected| rejected.place);
        part.duplicates.sort_unstable();
        Self {
            part: part.part,
            counts: part.counts,
            postings: part.postings,
            rejected: part.rejected,
            duplicates: part.duplicates,
            accounts: part
                .accounts
                .map_or_else(Vec::new, |accounts| accounts.sums.into_sums()),
        }
    }

    /// Returns the part's hash under its header.
    #[must_use]
    pub fn hash(&self, header: &PartHeader) -> Hash256 {
        let rows = PartRows {
            postings: &self.postings,
            rejected: &self.rejected,
            duplicates: &self.duplicates,
        };
        part_hash(header, &rows)
    }
}

/// A batch whose rows are final.
pub struct ClosedBatch {
    /// The parts, in the order in which they were opened.
    pub parts: Vec<ClosedPart>,
    /// The series that the postings name, each once.
    pub series: HashMap<SeriesId, Arc<Series>, RandomState>,
    /// The rate sets that the postings name, each once.
    pub rate_sets: HashMap<RateSetId, Arc<RateSet>, RandomState>,
}

impl ClosedBatch {
    /// Forgets series and rate sets that only duplicates named.
    pub(super) fn drop_unused(&mut self) {
        if self.parts.iter().all(|part| part.duplicates.is_empty()) {
            return;
        }
        let postings = || self.parts.iter().flat_map(|part| &part.postings);
        let series: std::collections::HashSet<_> = postings().map(|p| p.key.series).collect();
        let rate_sets: std::collections::HashSet<_> = postings().map(|p| p.key.rate_set).collect();
        self.series.retain(|id, _| series.contains(id));
        self.rate_sets.retain(|id, _| rate_sets.contains(id));
    }
}
