//! Pricing and posting.
//!
//! Invariant: an event is posted under what it was priced by, in the order in which events were priced.
//! Deliberately absent: what a batch holds.

use std::sync::Arc;

use super::{BatchFold, PostingKey, Sums};
use crate::counting::{EventUse, LogCounter, LogLimits};
use crate::event::{Identity, Outcome, PayloadDigest, Provenance, UsageEvent};
use crate::hash::HashKey;
use crate::ids::Place;
use crate::price::{PriceBook, PriceCache, RateSet, RateSetId};
use crate::reject::{Reason, Rejection};
use crate::series::{Content, SeriesCache};
use crate::time::UnixMs;

/// Series and priced models that a [`Folder`] remembers at most; about 300 bytes each.
const CACHE_ENTRIES_MAX: usize = 200_000;

/// How many events are posted together: a few times as many as a processor fetches from memory at once, and few
/// enough that what they read is still in a cache when it is needed.
const EVENTS_TOGETHER: usize = 64;

/// Prices and posts events; lives across batches and remembers what recurs.
pub struct Folder {
    prices: PriceCache,
    series: SeriesCache,
    counter: Option<LogCounter>,
    /// Events that are priced, in their order.
    waiting: Vec<Waiting>,
}

/// An event that is priced and waits to be posted.
pub(super) struct Waiting {
    part_index: usize,
    pub(super) place: Place,
    pub(super) identity: Option<Identity>,
    pub(super) payload: Option<PayloadDigest>,
    pub(super) sums: Sums,
    start: UnixMs,
    series: Content,
    rate_set_id: RateSetId,
    rate_set: Arc<RateSet>,
}

impl Folder {
    /// Makes a folder that prices by one book, and tells series apart under a key that no other
    /// folder has.
    #[must_use]
    pub fn new(book: Arc<PriceBook>, key: HashKey) -> Self {
        Self {
            prices: PriceCache::new(book, CACHE_ENTRIES_MAX),
            series: SeriesCache::new(CACHE_ENTRIES_MAX, key),
            counter: None,
            waiting: Vec::with_capacity(EVENTS_TOGETHER),
        }
    }

    /// Counts by these limits as well, in batches that do ([`BatchFold::count_by`]).
    #[must_use]
    pub fn counting_by(mut self, limits: Option<Arc<LogLimits>>) -> Self {
        self.counter = limits.map(LogCounter::new);
        self
    }

    /// Folds one event into a part of the batch.
    ///
    /// # Errors
    ///
    /// [`Reason::Overflow`] where the event's amount does not fit into the ledger; nothing was
    /// posted, and the caller keeps the event as rejected.
    pub fn fold(
        &mut self,
        batch: &mut BatchFold,
        part_index: usize,
        place: Place,
        event: &UsageEvent<'_>,
    ) -> Result<(), Rejection> {
        let folded = self.fold_soon(batch, part_index, place, event);
        self.post(batch);
        folded
    }

    /// Folds one event as [`Self::fold`] does, but posts it together with others, which takes less time where
    /// series are many (see `benches`): the caller calls [`Self::post`] with
    /// the same batch after the last one.
    ///
    /// # Errors
    ///
    /// As of [`Self::fold`].
    pub fn fold_soon(
        &mut self,
        batch: &mut BatchFold,
        part_index: usize,
        place: Place,
        event: &UsageEvent<'_>,
    ) -> Result<(), Rejection> {
        let input = u64::try_from(event.quantities.input_tokens()).unwrap_or(u64::MAX);
        let (rate_set_id, rate_set) = self.prices.rate_set(event, input);
        let priced = rate_set.price(&event.quantities).ok_or_else(|| {
            Rejection::new(
                Reason::Overflow,
                "",
                "the event's amount does not fit into the ledger",
            )
        })?;
        let sums = Sums {
            quantities: event.quantities,
            failed_requests: u64::from(event.outcome != Outcome::Succeeded),
            unmeasured_requests: u64::from(
                event.outcome == Outcome::Succeeded && event.provenance == Provenance::Missing,
            ),
            priced_requests: u64::from(priced.is_priced),
            unpriced_requests: u64::from(priced.is_unpriced),
            amount: priced.amount,
        };
        self.waiting.push(Waiting {
            part_index,
            place,
            identity: event.identity,
            payload: event.payload,
            sums,
            start: event.start,
            series: self.series.keep(&event.dimensions),
            rate_set_id,
            rate_set: Arc::clone(rate_set),
        });
        if self.waiting.len() >= EVENTS_TOGETHER {
            self.post(batch);
        }
        Ok(())
    }

    /// Posts the events that wait.
    pub fn post(&mut self, batch: &mut BatchFold) {
        if self.waiting.len() > 1 {
            self.look_ahead(batch);
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        for event in waiting.drain(..) {
            self.post_one(batch, &event);
        }
        self.waiting = waiting;
        self.series.forget();
    }

    /// Reads what posting the events will read: memory that is in no cache mostly. Look-ups that do not wait
    /// for each other have it fetched side by side; event by event each would wait for its own.
    fn look_ahead(&self, batch: &BatchFold) {
        let mut found = [None; EVENTS_TOGETHER];
        for (found, event) in found.iter_mut().zip(&self.waiting) {
            *found = self.series.look_ahead(&event.series, &batch.series);
        }
        for (found, event) in found.iter().zip(&self.waiting) {
            if let Some((series, last)) = *found
                && let Some(part) = batch.parts.get(event.part_index)
            {
                let key = PostingKey {
                    series,
                    rate_set: event.rate_set_id,
                    quarter: event.start.quarter(),
                };
                part.look_ahead(&key, hint_of(last, event.part_index));
            }
        }
    }

    fn post_one(&mut self, batch: &mut BatchFold, event: &Waiting) {
        let series = self.series.find(&event.series, &mut batch.series);
        let key = PostingKey {
            series: series.id,
            rate_set: event.rate_set_id,
            quarter: event.start.quarter(),
        };
        let Some(part) = batch.parts.get_mut(event.part_index) else {
            return;
        };
        let hint = hint_of(*series.posting, event.part_index);
        let posting = part.accept(event, key, hint);
        *series.posting = (u32::try_from(event.part_index).unwrap_or(u32::MAX), posting);
        // The posting's first event brought its rate set.
        if hint != Some(posting) {
            batch
                .rate_sets
                .entry(event.rate_set_id)
                .or_insert_with(|| Arc::clone(&event.rate_set));
        }
        if let Some(accounts) = &mut part.accounts
            && let Some(counter) = &mut self.counter
            && let Some(of) = batch.series.by_id.get(&series.id)
        {
            let used = EventUse {
                series: of,
                start: event.start,
                quantities: &event.sums.quantities,
                amount: event.sums.amount,
                is_unpriced: event.sums.unpriced_requests > 0,
                rate_set: &event.rate_set,
            };
            accounts.add(counter, series.id, &used);
        }
    }
}

/// Returns the posting that took a series' last event, where that is of this part.
fn hint_of((last_part, last_posting): (u32, u32), part_index: usize) -> Option<u32> {
    (usize::try_from(last_part) == Ok(part_index)).then_some(last_posting)
}
