//! The fold: usage events into postings, one per series, rate set and quarter-hour of a part.
//!
//! Invariant: the postings of a batch are the sums of its accepted events, exactly; whether a batch
//! is large or small, and how events are spread over batches, changes no total. Deliberately absent:
//! which events were counted before; the store finds that out and tells it here.

mod accepted;
mod accounts;
mod closed;
mod folder;
mod posting;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::event::{Identity, PayloadDigest};
use crate::ids::PartRef;
use crate::part::{Counts, Duplicate, RejectedEvent};
use crate::price::{RateSet, RateSetId};
use crate::series::{Series, SeriesId, UsedSeries};
use crate::time::Quarter;

use accepted::{Accepted, AcceptedEvents};
use accounts::{BatchAccounts, PartAccounts};
pub use closed::{ClosedBatch, ClosedPart};
pub use folder::Folder;
use folder::Waiting;
pub use posting::{Posting, PostingKey, Sums};

/// One partition's share of a batch while it is folded.
pub struct PartFold {
    part: PartRef,
    counts: Counts,
    accepted: AcceptedEvents,
    /// What the accepted events say whose producers own their ids; ascending by their index.
    payloads: Vec<(u32, PayloadDigest)>,
    rejected: Vec<RejectedEvent>,
    kept_bytes: usize,
    duplicates: Vec<Duplicate>,
    postings: Vec<Posting>,
    open: HashMap<PostingKey, u32, RandomState>,
    /// `None` where no limit counts from the log.
    accounts: Option<PartAccounts>,
}

impl PartFold {
    fn new(part: PartRef, accounts: Option<PartAccounts>) -> Self {
        Self {
            part,
            counts: Counts::default(),
            accepted: AcceptedEvents::default(),
            payloads: Vec::new(),
            rejected: Vec::new(),
            kept_bytes: 0,
            duplicates: Vec::new(),
            postings: Vec::new(),
            open: HashMap::default(),
            accounts,
        }
    }

    /// Returns which part this is.
    #[must_use]
    pub const fn part(&self) -> PartRef {
        self.part
    }

    /// Returns what the part's records held so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns what is known to have been counted before, in no order.
    #[must_use]
    pub fn duplicates(&self) -> &[Duplicate] {
        &self.duplicates
    }

    /// Returns how many bytes are kept of the rejected events.
    #[must_use]
    pub const fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Returns how many postings its events have so far.
    #[must_use]
    pub const fn postings(&self) -> usize {
        self.postings.len()
    }

    /// Makes room for so many postings.
    pub fn reserve(&mut self, postings: usize) {
        self.postings.reserve(postings);
        self.open.reserve(postings);
    }

    /// Counts a Kafka record, before its events are told.
    pub const fn count_record(&mut self) {
        self.counts.records = self.counts.records.saturating_add(1);
    }

    /// Counts an event that its source's rule does not meter.
    pub const fn ignore(&mut self) {
        self.counts.ignored = self.counts.ignored.saturating_add(1);
    }

    /// Keeps an event that cannot become usage.
    pub fn reject(&mut self, event: RejectedEvent) {
        self.counts.rejected = self.counts.rejected.saturating_add(1);
        self.kept_bytes = self.kept_bytes.saturating_add(event.payload.len());
        self.rejected.push(event);
    }

    /// Accepts an event, whose posting is likely the one of the hint, and returns its posting.
    fn accept(&mut self, event: &Waiting, key: PostingKey, hint: Option<u32>) -> u32 {
        if let Some(payload) = event.payload {
            self.payloads.push((self.accepted.len(), payload));
        }
        self.counts.accepted = self.counts.accepted.saturating_add(1);
        let posting = self.post(key, &event.sums, hint);
        self.accepted.push(&Accepted {
            place: event.place,
            identity: event.identity,
            posting,
            sums: event.sums,
        });
        posting
    }

    /// Reads what [`Self::accept`] will read.
    fn look_ahead(&self, key: &PostingKey, hint: Option<u32>) {
        if let Some(index) = hint {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            if let Some(Posting { key, sums }) = self.postings.get(index) {
                // It is as long as three lines of memory: fields that are likely to lie on each.
                black_box(key.quarter);
                black_box(sums.failed_requests);
                black_box(sums.amount);
            }
        } else {
            black_box(self.open.get(key));
        }
    }

    /// Adds to the open posting of the key; where its sums are full, another one is opened.
    fn post(&mut self, key: PostingKey, sums: &Sums, hint: Option<u32>) -> u32 {
        if let Some(index) = hint
            && let Some(posting) = posting_mut(&mut self.postings, index)
            && posting.key == key
            && let Some(grown) = posting.sums.checked_add(sums)
        {
            posting.sums = grown;
            return index;
        }
        if let Some(index) = self.open.get(&key).copied()
            && let Some(posting) = posting_mut(&mut self.postings, index)
            && let Some(grown) = posting.sums.checked_add(sums)
        {
            posting.sums = grown;
            return index;
        }
        // A batch holds far fewer events than 2^32.
        let index = u32::try_from(self.postings.len()).unwrap_or(u32::MAX);
        self.postings.push(Posting { key, sums: *sums });
        self.open.insert(key, index);
        index
    }

    fn payload_of(&self, accepted: u32) -> Option<PayloadDigest> {
        let found = self
            .payloads
            .binary_search_by_key(&accepted, |(index, _)| *index);
        self.payloads.get(found.ok()?).map(|(_, payload)| *payload)
    }

    /// Takes an accepted event out again: it had been counted before.
    fn withdraw(&mut self, accepted: u32, first: PartRef) {
        let Some(event) = self.accepted.get(accepted) else {
            return;
        };
        let Some(identity) = event.identity else {
            return;
        };
        if let Some(posting) = posting_mut(&mut self.postings, event.posting) {
            // What was added can be taken away: sums only ever hold what their events brought.
            posting.sums = posting.sums.checked_sub(&event.sums).unwrap_or_default();
        }
        self.counts.accepted = self.counts.accepted.saturating_sub(1);
        self.counts.duplicates = self.counts.duplicates.saturating_add(1);
        self.duplicates.push(Duplicate {
            place: event.place,
            identity,
            first,
        });
    }
}

fn posting_mut(postings: &mut [Posting], index: u32) -> Option<&mut Posting> {
    postings.get_mut(usize::try_from(index).ok()?)
}

/// An id to be taken in the batch's transaction, and the part that takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenId {
    /// By what the event is known.
    pub identity: Identity,
    /// The index of the part within the batch; 32 bits, since a batch has very many ids to sort.
    part_index: u32,
    /// The index of the event among the part's accepted ones.
    accepted: u32,
}

impl SeenId {
    /// Returns the index of the part that takes it, within the batch.
    #[must_use]
    pub fn part_index(&self) -> usize {
        usize::try_from(self.part_index).unwrap_or(usize::MAX)
    }
}

/// Events whose producers gave an id twice, with another payload the second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conflicts {
    /// How many: each a duplicate, charged as the first that was committed.
    pub count: u64,
    /// One of them: the id that was given twice, the part that counted it, and the part that did not.
    pub sample: Option<(Identity, PartRef, PartRef)>,
}

impl Conflicts {
    /// Counts one: an id that `first` had counted when `again` gave it another payload.
    pub const fn add(&mut self, identity: Identity, first: PartRef, again: PartRef) {
        self.count = self.count.saturating_add(1);
        if self.sample.is_none() {
            self.sample = Some((identity, first, again));
        }
    }
}

/// A batch while it is folded: one part per partition that has records in it.
#[derive(Default)]
pub struct BatchFold {
    parts: Vec<PartFold>,
    ids: Vec<SeenId>,
    series: UsedSeries,
    conflicts: Conflicts,
    accounts: Option<BatchAccounts>,
    /// The rate sets that the batch's postings name.
    pub rate_sets: HashMap<RateSetId, Arc<RateSet>, RandomState>,
}

impl BatchFold {
    /// Opens the part of one more partition and returns its index in the batch.
    pub fn open_part(&mut self, part: PartRef) -> usize {
        let accounts = self.accounts.as_ref().map(BatchAccounts::begin);
        self.parts.push(PartFold::new(part, accounts));
        self.parts.len().saturating_sub(1)
    }

    /// Returns the parts in the order in which they were opened.
    #[must_use]
    pub fn parts(&self) -> &[PartFold] {
        &self.parts
    }

    /// Returns the series that the batch's postings name.
    #[must_use]
    pub const fn series(&self) -> &HashMap<SeriesId, Arc<Series>, RandomState> {
        &self.series.by_id
    }

    /// Returns a part by its index.
    pub fn part_mut(&mut self, part_index: usize) -> Option<&mut PartFold> {
        self.parts.get_mut(part_index)
    }

    /// Counts repeats within the batch as duplicates of their first; what remains is to be taken
    /// ([`Self::ids`]). Called once, when all events are in.
    pub fn take_ids(&mut self) {
        let mut ids = {
            let count = self
                .parts
                .iter()
                .map(|part| part.accepted.len())
                .sum::<u32>();
            Vec::with_capacity(usize::try_from(count).unwrap_or(0))
        };
        for (part_index, part) in (0..).zip(&self.parts) {
            let identities = part.accepted.identities();
            ids.extend(identities.map(|(accepted, identity)| SeenId {
                identity,
                part_index,
                accepted,
            }));
        }
        ids.sort_unstable();
        let mut first: Option<SeenId> = None;
        let mut conflicts = Conflicts::default();
        ids.retain(|id| match first {
            Some(first) if first.identity == id.identity => {
                let counted = self.part_of(&first);
                if id.identity.is_of_producer() && self.payload_of(&first) != self.payload_of(id) {
                    conflicts.add(id.identity, counted, self.part_of(id));
                }
                self.withdraw(id, counted);
                false
            }
            Some(_) | None => {
                first = Some(*id);
                true
            }
        });
        self.ids = ids;
        self.conflicts = conflicts;
    }

    /// Returns the part that counts an id.
    ///
    /// # Panics
    ///
    /// Where the id is another batch's.
    #[must_use]
    pub fn part_of(&self, id: &SeenId) -> PartRef {
        let part = self.part_holding(id);
        part.expect("an id is asked for of the batch that took it")
            .part
    }

    fn part_holding(&self, id: &SeenId) -> Option<&PartFold> {
        self.parts.get(id.part_index())
    }

    /// Returns what an event says whose producer owns its id; `None` of a log line.
    #[must_use]
    pub fn payload_of(&self, id: &SeenId) -> Option<PayloadDigest> {
        self.part_holding(id)?.payload_of(id.accepted)
    }

    /// Returns the repeats within the batch that have another payload than their first.
    #[must_use]
    pub const fn conflicts(&self) -> Conflicts {
        self.conflicts
    }

    /// Returns the ids that the batch takes: ascending, each once; those that producers own behind
    /// all of log lines.
    #[must_use]
    pub fn ids(&self) -> &[SeenId] {
        &self.ids
    }

    /// Returns the quarter-hours of the postings, in no order, with repeats.
    pub fn quarters(&self) -> impl Iterator<Item = Quarter> + '_ {
        self.parts
            .iter()
            .flat_map(|part| part.postings.iter().map(|posting| posting.key.quarter))
    }

    /// Counts events whose ids were taken before as duplicates of the part that took them.
    pub fn withdraw_seen(&mut self, seen: &HashMap<Identity, PartRef>) {
        let mut ids = std::mem::take(&mut self.ids);
        ids.retain(|id| match seen.get(&id.identity) {
            Some(first) => {
                self.withdraw(id, *first);
                false
            }
            None => true,
        });
        self.ids = ids;
        // A repeat within the batch of an event that was itself counted before: first is that part.
        for duplicate in self.parts.iter_mut().flat_map(|part| &mut part.duplicates) {
            if let Some(first) = seen.get(&duplicate.identity) {
                duplicate.first = *first;
            }
        }
    }

    /// Ends the batch: sorts each part's rows and drops postings that duplicates emptied.
    #[must_use]
    pub fn close(self) -> ClosedBatch {
        let parts: Vec<ClosedPart> = self.parts.into_iter().map(ClosedPart::of).collect();
        let mut closed = ClosedBatch {
            parts,
            series: self.series.by_id,
            rate_sets: self.rate_sets,
        };
        closed.drop_unused();
        closed
    }
}
