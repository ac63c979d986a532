//! The accounts of a batch: what its accepted events add to limits that count from the log.
//!
//! Invariant: a part's sums are those of its accepted events; one that turns out to be a duplicate is
//! taken out by the same rules that added it. A batch without limits keeps nothing.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::{Accepted, BatchFold, PartFold, SeenId, posting_mut};
use crate::counting::{AccountSums, EventUse, LogCounter, LogLimits};
use crate::ids::PartRef;
use crate::price::{RateSet, RateSetId};
use crate::series::{Series, SeriesId};
use crate::time::UnixMs;

/// What a part counts.
pub(super) struct PartAccounts {
    pub(super) sums: AccountSums,
    /// When the accepted events started, in their order.
    starts: Vec<UnixMs>,
}

/// What a batch counts by.
pub(super) struct BatchAccounts {
    counter: LogCounter,
    horizon: UnixMs,
}

impl BatchAccounts {
    pub(super) fn begin(&self) -> PartAccounts {
        PartAccounts {
            sums: AccountSums::after(self.horizon),
            starts: Vec::new(),
        }
    }

    /// Takes a part's event out of its accounts.
    fn take_out(
        &mut self,
        part: &mut PartFold,
        accepted: u32,
        series: &HashMap<SeriesId, Arc<Series>, RandomState>,
        rate_sets: &HashMap<RateSetId, Arc<RateSet>, RandomState>,
    ) -> Option<()> {
        let Accepted { posting, sums, .. } = part.accepted.get(accepted)?;
        let accounts = part.accounts.as_mut()?;
        let key = posting_mut(&mut part.postings, posting)?.key;
        let used = EventUse {
            series: series.get(&key.series)?,
            start: accounts
                .starts
                .get(usize::try_from(accepted).ok()?)
                .copied()?,
            quantities: &sums.quantities,
            amount: sums.amount,
            is_unpriced: sums.unpriced_requests > 0,
            rate_set: rate_sets.get(&key.rate_set)?,
        };
        self.counter.take_out(key.series, &used, &mut accounts.sums);
        Some(())
    }
}

impl PartAccounts {
    /// Adds an accepted event.
    pub(super) fn add(&mut self, counter: &mut LogCounter, series: SeriesId, used: &EventUse<'_>) {
        self.starts.push(used.start);
        counter.add(series, used, &mut self.sums);
    }
}

impl BatchFold {
    /// Counts by these limits in all parts that are opened from now on; of slots that no longer count
    /// at the horizon nothing is kept. The events must be folded by a folder of the same limits.
    pub fn count_by(&mut self, limits: Arc<LogLimits>, horizon: UnixMs) {
        let counter = LogCounter::new(limits);
        self.accounts = Some(BatchAccounts { counter, horizon });
    }

    /// Takes an accepted event out of its part: `first` had counted it before.
    pub(super) fn withdraw(&mut self, id: &SeenId, first: PartRef) {
        let part_index = usize::try_from(id.part_index).unwrap_or(usize::MAX);
        let accepted = id.accepted;
        let Some(part) = self.parts.get_mut(part_index) else {
            return;
        };
        let is_identified = part
            .accepted
            .get(accepted)
            .is_some_and(|event| event.identity.is_some());
        if let (Some(accounts), true) = (&mut self.accounts, is_identified) {
            let taken = accounts.take_out(part, accepted, &self.series.by_id, &self.rate_sets);
            debug_assert!(taken.is_some(), "what was accepted was counted");
        }
        part.withdraw(accepted, first);
    }
}
