//! Parts: one partition's share of a batch, hash-chained.
//!
//! Invariant: a part's hash covers everything that the part put into the ledger and the hash of the
//! part before it, so that any later change of a row shows.

use crate::event::Identity;
use crate::fold::Posting;
use crate::hash::{Canonical, Hash128, Hash256};
use crate::ids::{Epoch, Offset, PartRef, Place, Version};
use crate::meter::Meter;
use crate::reject::Rejection;
use crate::time::UnixMs;

/// The version of what a part's hash covers and in which order.
pub const HASH_VERSION: i16 = 1;

/// The version of decoding, pricing and folding; raised whenever the same bytes would fold to other
/// postings. `verify` refolds only parts of its own fold version.
pub const FOLD_VERSION: i16 = 1;

/// The most bytes of a rejected event's payload that are kept.
pub const PAYLOAD_KEPT_MAX: usize = 64 * 1024;

/// How many events a part's records held, and what became of them.
/// `accepted + duplicates + rejected + ignored = events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Kafka records.
    pub records: u64,
    /// Events posted.
    pub accepted: u64,
    /// Events that had been counted before.
    pub duplicates: u64,
    /// Events kept as rejected.
    pub rejected: u64,
    /// Events that their source's rule does not meter.
    pub ignored: u64,
}

impl Counts {
    /// Returns the number of events in the records.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.accepted
            .saturating_add(self.duplicates)
            .saturating_add(self.rejected)
            .saturating_add(self.ignored)
    }
}

/// A record or event that cannot become usage, kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedEvent {
    /// Where it stands.
    pub place: Place,
    /// Why.
    pub rejection: Rejection,
    /// When the broker says the record was written.
    pub record_time: UnixMs,
    /// The event's bytes, at most [`PAYLOAD_KEPT_MAX`] of them.
    pub payload: Vec<u8>,
    /// The event's full length in bytes.
    pub payload_bytes: u64,
    /// The hash of all of the event's bytes.
    pub payload_digest: Hash128,
}

impl RejectedEvent {
    /// Keeps an event with the reason; the payload is cut to [`PAYLOAD_KEPT_MAX`].
    #[must_use]
    pub fn new(place: Place, rejection: Rejection, record_time: UnixMs, payload: &[u8]) -> Self {
        let kept = payload.get(..PAYLOAD_KEPT_MAX).unwrap_or(payload);
        Self {
            place,
            rejection,
            record_time,
            payload: kept.to_vec(),
            payload_bytes: u64::try_from(payload.len()).unwrap_or(u64::MAX),
            payload_digest: Hash128::of(payload),
        }
    }
}

/// An event that had been counted before, and the part that counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duplicate {
    /// Where the repeat stands.
    pub place: Place,
    /// By what it is known.
    pub identity: Identity,
    /// The part that counted it first; may be the same part.
    pub first: PartRef,
}

/// Offsets that were lost before this part, as an operator accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// The first offset that was not folded.
    pub from: Offset,
    /// The first offset that is folded again.
    pub to: Offset,
}

/// What a part is, besides its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHeader {
    /// Its chain and number.
    pub part: PartRef,
    /// The epoch of the owner that folded it.
    pub epoch: Epoch,
    /// Where the part before it ended (or the chain begins, or an accepted gap ended).
    pub from: Offset,
    /// The offset after the last that it covers; transaction markers included.
    pub to: Offset,
    /// What it held.
    pub counts: Counts,
    /// [`FOLD_VERSION`] of the process that folded it.
    pub fold_version: i16,
    /// The source's floor that it was folded under.
    pub floor: Option<UnixMs>,
    /// The price book that it was priced by.
    pub prices: Version,
    /// The source configuration that it was decoded by.
    pub sources: Version,
    /// The accepted gap before it, if any.
    pub skipped: Option<Skipped>,
    /// The hash of the part before it; [`Hash256::ZERO`] for the first.
    pub previous: Hash256,
}

/// A part's rows, each slice in ascending order: postings by all their fields, the others by place.
#[derive(Debug, Clone, Copy)]
pub struct PartRows<'r> {
    /// What it posted.
    pub postings: &'r [Posting],
    /// What it rejected.
    pub rejected: &'r [RejectedEvent],
    /// What it had counted before.
    pub duplicates: &'r [Duplicate],
}

/// Returns the hash that the next part names.
#[must_use]
pub fn part_hash(header: &PartHeader, rows: &PartRows<'_>) -> Hash256 {
    let mut canonical = Canonical::new("part");
    add_header(&mut canonical, header);
    add_length(&mut canonical, rows.postings.len());
    for posting in rows.postings {
        add_posting(&mut canonical, posting);
    }
    add_length(&mut canonical, rows.rejected.len());
    for rejected in rows.rejected {
        canonical
            .signed(rejected.place.offset.0)
            .unsigned(u64::from(rejected.place.index))
            .text(rejected.rejection.reason.name())
            .text(&rejected.rejection.field)
            .text(&rejected.rejection.detail)
            .signed(rejected.record_time.get())
            .bytes(&rejected.payload)
            .unsigned(rejected.payload_bytes)
            .bytes(&rejected.payload_digest.to_bytes());
    }
    add_duplicates(&mut canonical, rows.duplicates);
    canonical.finish256()
}

/// Adds what every part's hash covers besides its rows, log's and adjustments' alike.
pub(crate) fn add_header(canonical: &mut Canonical, header: &PartHeader) {
    canonical
        .signed(i64::from(HASH_VERSION))
        .signed(i64::from(header.part.chain.0))
        .signed(header.part.number.0)
        .signed(header.epoch.0)
        .signed(header.from.0)
        .signed(header.to.0)
        .unsigned(header.counts.records)
        .unsigned(header.counts.accepted)
        .unsigned(header.counts.duplicates)
        .unsigned(header.counts.rejected)
        .unsigned(header.counts.ignored)
        .signed(i64::from(header.fold_version))
        .signed(header.floor.map_or(-1, UnixMs::get))
        .signed(header.prices.0)
        .signed(header.sources.0)
        .signed(header.skipped.map_or(-1, |skipped| skipped.from.0))
        .signed(header.skipped.map_or(-1, |skipped| skipped.to.0))
        .bytes(&header.previous.to_bytes());
}

/// Adds duplicates, ascending by place.
pub(crate) fn add_duplicates(canonical: &mut Canonical, duplicates: &[Duplicate]) {
    add_length(canonical, duplicates.len());
    for duplicate in duplicates {
        canonical
            .signed(duplicate.place.offset.0)
            .unsigned(u64::from(duplicate.place.index))
            .bytes(&duplicate.identity.to_bits().to_be_bytes())
            .signed(i64::from(duplicate.first.chain.0))
            .signed(duplicate.first.number.0);
    }
}

fn add_posting(canonical: &mut Canonical, posting: &Posting) {
    canonical
        .bytes(&posting.key.series.0.to_bytes())
        .bytes(&posting.key.rate_set.0.to_bytes())
        .signed(posting.key.quarter.start().get());
    for meter in Meter::ALL {
        canonical.unsigned(posting.sums.quantities.get(meter));
    }
    canonical
        .unsigned(posting.sums.failed_requests)
        .unsigned(posting.sums.unmeasured_requests)
        .unsigned(posting.sums.priced_requests)
        .unsigned(posting.sums.unpriced_requests)
        .wide(posting.sums.amount.units());
}

pub(crate) fn add_length(canonical: &mut Canonical, length: usize) {
    canonical.unsigned(u64::try_from(length).unwrap_or(u64::MAX));
}
