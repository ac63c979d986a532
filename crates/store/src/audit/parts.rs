//! Chains, their parts, and the rows of parts.
//!
//! Invariant: a page is bounded by rows, whatever a part holds, but for one part that is larger than
//! the bound by itself. Deliberately absent: whether a part's hash is right.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::event::Identity;
use domain::fold::{Posting, PostingKey, Sums};
use domain::hash::{Hash128, Hash256};
use domain::ids::{ChainId, Epoch, Offset, PartNumber, PartRef, Place, Version};
use domain::meter::PerMeter;
use domain::money::Amount;
use domain::part::{Counts, Duplicate, PartHeader, RejectedEvent, Skipped};
use domain::price::RateSetId;
use domain::reject::{Reason, Rejection};
use domain::series::SeriesId;
use domain::time::{Quarter, UnixMs};
use uuid::Uuid;

use super::{Unreadable, unsigned};
use crate::claim::Fingerprint;
use crate::connect::Database;
use crate::error::StoreError;

/// How much one page of parts may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// The most parts of a page.
    pub parts_max: u32,
    /// The most postings, rejected events and duplicates of a page's parts together, but for one
    /// part.
    pub rows_max: u32,
}

/// A chain as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its number.
    pub id: ChainId,
    /// The name of its source; `None` for adjustments.
    pub source: Option<String>,
    /// The topic; empty for adjustments.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The incarnation of the partition's log, from 1.
    pub incarnation: i32,
    /// Below this instant the source's ids are gone; `None` for a new source.
    pub floor: Option<UnixMs>,
    /// The part up to which it is rolled up.
    pub rolled_up: PartNumber,
    /// An operator has yet to accept a gap.
    pub has_open_gap: bool,
    /// Where it stands; `None` where that row is missing.
    pub position: Option<ChainPosition>,
}

/// Where a chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainPosition {
    /// Of the last claim.
    pub epoch: Epoch,
    /// The next offset to read; `None` where it has not begun.
    pub position: Option<Offset>,
    /// The number of the last part.
    pub last_part: PartNumber,
    /// Where the last part ended.
    pub part_end: Option<Offset>,
    /// `open`, `stopped`, `ended` or `retired`.
    pub state: String,
    /// The last folded record.
    pub tail: Option<Fingerprint>,
    /// A folded record that was read again and matched.
    pub anchor: Option<Fingerprint>,
}

/// A part as it is stored, without its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// Its place in the chain.
    pub number: PartNumber,
    /// The transaction that wrote it.
    pub batch: i64,
    /// The version of what its hash covers.
    pub hash_version: i16,
    /// The hash that it claims.
    pub hash: Hash256,
    /// How many postings it claims.
    pub postings: i32,
    /// What its hash covers besides its rows.
    pub header: Result<PartHeader, Unreadable>,
}

/// The rows of one part, in the order in which its hash covers them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredRows {
    /// What it posted.
    pub postings: Vec<Posting>,
    /// What it rejected.
    pub rejected: Vec<RejectedEvent>,
    /// What had been counted before.
    pub duplicates: Vec<Duplicate>,
    /// Rows that the ledger never writes; they are in none of the other lists.
    pub unreadable: Vec<Unreadable>,
}

/// Rows that lead to nothing. All numbers are zero in a ledger that nobody tampered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orphans {
    /// Postings whose part is missing.
    pub postings_without_part: u64,
    /// Postings whose series is missing.
    pub postings_without_series: u64,
    /// Postings whose rate set is missing.
    pub postings_without_rate_set: u64,
    /// Rejected events whose part is missing.
    pub rejected_without_part: u64,
    /// Duplicates whose part is missing.
    pub duplicates_without_part: u64,
    /// Ids that were taken by a part that is missing.
    pub ids_without_part: u64,
}

/// Returns all chains, ascending by number.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn chains(db: &Database) -> Result<Vec<Chain>, StoreError> {
    let rows = sqlx::query!(
        r#"-- chains
        select c.id, s.name as "source?", c.topic, c.partition, c.incarnation,
            s.floor_at as "floor_at?", coalesce(m.part, 0) as "rolled_up!",
            exists (select from ingest_gap g where g.chain = c.id and g.accepted_at is null)
                as "has_open_gap!",
            p.epoch as "epoch?", p.position as "position?", p.part as "part?",
            p.part_end as "part_end?", p.state as "state?",
            p.tail_offset, p.tail_fingerprint, p.anchor_offset, p.anchor_fingerprint
        from chain c
        left join source s on s.id = c.source
        left join source_position p on p.chain = c.id
        left join rollup_mark m on m.chain = c.id
        order by c.id"#
    )
    .fetch_all(db.pool())
    .await?;
    let chains = rows.into_iter().map(|row| {
        let position = match (row.epoch, row.position, row.part, row.part_end, row.state) {
            (Some(epoch), Some(position), Some(part), Some(part_end), Some(state)) => {
                Some(ChainPosition {
                    epoch: Epoch(epoch),
                    position: begun(position),
                    last_part: PartNumber(part),
                    part_end: begun(part_end),
                    state,
                    tail: fingerprint(row.tail_offset, row.tail_fingerprint),
                    anchor: fingerprint(row.anchor_offset, row.anchor_fingerprint),
                })
            }
            _ => None,
        };
        Chain {
            id: ChainId(row.id),
            source: row.source,
            topic: row.topic,
            partition: row.partition,
            incarnation: row.incarnation,
            floor: row.floor_at.and_then(UnixMs::from_utc),
            rolled_up: PartNumber(row.rolled_up),
            has_open_gap: row.has_open_gap,
            position,
        }
    });
    Ok(chains.collect())
}

fn begun(offset: i64) -> Option<Offset> {
    (offset >= 0).then_some(Offset(offset))
}

fn fingerprint(offset: Option<i64>, hash: Option<Uuid>) -> Option<Fingerprint> {
    Some(Fingerprint {
        offset: Offset(offset?),
        hash: Hash128::from_bytes(hash?.into_bytes()),
    })
}

/// Returns the next parts of a chain after one, ascending: at least one where there is one, and as
/// many as the page's bounds allow.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn parts(
    db: &Database,
    chain: ChainId,
    after: PartNumber,
    page: Pages,
) -> Result<Vec<StoredPart>, StoreError> {
    let rows = sqlx::query_as!(
        PartRow,
        r#"-- parts
        select chain as "chain!", number as "number!", batch as "batch!", epoch as "epoch!",
            from_offset as "from_offset!", to_offset as "to_offset!", records as "records!",
            accepted as "accepted!", duplicates as "duplicates!", rejected as "rejected!",
            ignored as "ignored!", postings as "postings!", hash_version as "hash_version!",
            fold_version as "fold_version!", floor_at, prices as "prices!", sources as "sources!",
            skipped_from, skipped_to, previous_hash as "previous_hash!", hash as "hash!"
        from (
            select *, sum(postings + rejected + duplicates) over (order by number) as rows
            from (
                select * from part where chain = $1 and number > $2 order by number limit $3
            ) bounded
        ) summed
        where rows <= $4 or number = (
            select min(number) from part where chain = $1 and number > $2
        )
        order by number"#,
        chain.0,
        after.0,
        i64::from(page.parts_max.max(1)),
        // A sum of bigint is numeric; comparing with bigint keeps the driver's types small.
        i64::from(page.rows_max) as _,
    )
    .fetch_all(db.pool())
    .await?;
    rows.into_iter().map(PartRow::read).collect()
}

struct PartRow {
    chain: i32,
    number: i64,
    batch: i64,
    epoch: i64,
    from_offset: i64,
    to_offset: i64,
    records: i64,
    accepted: i64,
    duplicates: i64,
    rejected: i64,
    ignored: i64,
    postings: i32,
    hash_version: i16,
    fold_version: i16,
    floor_at: Option<DateTime<Utc>>,
    prices: i64,
    sources: i64,
    skipped_from: Option<i64>,
    skipped_to: Option<i64>,
    previous_hash: Vec<u8>,
    hash: Vec<u8>,
}

impl PartRow {
    fn read(self) -> Result<StoredPart, StoreError> {
        let hash = hash256(&self.hash).ok_or_else(|| {
            StoreError::corrupt_chain(
                ChainId(self.chain),
                &format!("the hash of part {} does not have 32 bytes", self.number),
            )
        })?;
        Ok(StoredPart {
            number: PartNumber(self.number),
            batch: self.batch,
            hash_version: self.hash_version,
            hash,
            postings: self.postings,
            header: self.header(),
        })
    }

    fn header(&self) -> Result<PartHeader, Unreadable> {
        let skipped = match (self.skipped_from, self.skipped_to) {
            (None, None) => None,
            (Some(from), Some(to)) => Some(Skipped {
                from: Offset(from),
                to: Offset(to),
            }),
            (from, to) => {
                return Err(Unreadable(format!(
                    "half of a gap is stored: {from:?} to {to:?}"
                )));
            }
        };
        Ok(PartHeader {
            part: PartRef {
                chain: ChainId(self.chain),
                number: PartNumber(self.number),
            },
            epoch: Epoch(self.epoch),
            from: Offset(self.from_offset),
            to: Offset(self.to_offset),
            counts: Counts {
                records: unsigned("records", self.records)?,
                accepted: unsigned("accepted", self.accepted)?,
                duplicates: unsigned("duplicates", self.duplicates)?,
                rejected: unsigned("rejected", self.rejected)?,
                ignored: unsigned("ignored", self.ignored)?,
            },
            fold_version: self.fold_version,
            floor: self
                .floor_at
                .map(|floor| exact("floor_at", floor))
                .transpose()?,
            prices: Version(self.prices),
            sources: Version(self.sources),
            skipped,
            previous: hash256(&self.previous_hash)
                .ok_or_else(|| Unreadable("previous_hash does not have 32 bytes".to_owned()))?,
        })
    }
}

fn hash256(bytes: &[u8]) -> Option<Hash256> {
    bytes.try_into().ok().map(Hash256::from_bytes)
}

/// Takes an instant that is stored to the microsecond and was written to the millisecond.
fn exact(what: &str, stored: DateTime<Utc>) -> Result<UnixMs, Unreadable> {
    UnixMs::from_utc(stored)
        .filter(|instant| instant.to_utc() == stored)
        .ok_or_else(|| Unreadable(format!("{what} is {stored}, which is no whole millisecond")))
}

/// Returns the rows of a chain's parts from one to another, both included; a part without rows is
/// absent.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn rows(
    db: &Database,
    chain: ChainId,
    first: PartNumber,
    last: PartNumber,
) -> Result<HashMap<PartNumber, StoredRows>, StoreError> {
    let mut parts = HashMap::new();
    read_postings(db, chain, first, last, &mut parts).await?;
    read_rejected(db, chain, first, last, &mut parts).await?;
    read_duplicates(db, chain, first, last, &mut parts).await?;
    for rows in parts.values_mut() {
        let rows: &mut StoredRows = rows;
        rows.postings.sort_unstable();
        rows.rejected.sort_by_key(|rejected| rejected.place);
        rows.duplicates.sort_unstable();
    }
    Ok(parts)
}

type Parts = HashMap<PartNumber, StoredRows>;

fn keep<T>(
    parts: &mut Parts,
    part: i64,
    row: Result<T, Unreadable>,
    list: impl FnOnce(&mut StoredRows) -> &mut Vec<T>,
) {
    let rows = parts.entry(PartNumber(part)).or_default();
    match row {
        Ok(row) => list(rows).push(row),
        Err(unreadable) => rows.unreadable.push(unreadable),
    }
}

async fn read_postings(
    db: &Database,
    chain: ChainId,
    first: PartNumber,
    last: PartNumber,
    parts: &mut Parts,
) -> Result<(), StoreError> {
    let rows = sqlx::query_as!(
        PostingRow,
        r#"-- read_postings
        select part, series, rate_set, quarter,
            array[requests, input_uncached_tokens, input_cache_read_tokens,
                input_cache_write_tokens, input_cache_write_1h_tokens, input_audio_tokens,
                output_text_tokens, output_reasoning_tokens, output_audio_tokens, images]
                as "quantities!",
            failed_requests, unmeasured_requests, priced_requests, unpriced_requests,
            amount::text as amount
        from posting
        where chain = $1 and part between $2 and $3"#,
        chain.0,
        first.0,
        last.0,
    )
    .fetch_all(db.pool())
    .await?;
    for row in rows {
        keep(parts, row.part, row.read(), |rows| &mut rows.postings);
    }
    Ok(())
}

struct PostingRow {
    part: i64,
    series: Uuid,
    rate_set: Uuid,
    quarter: DateTime<Utc>,
    quantities: Vec<i64>,
    failed_requests: i64,
    unmeasured_requests: i64,
    priced_requests: i64,
    unpriced_requests: i64,
    amount: Option<String>,
}

impl PostingRow {
    fn read(&self) -> Result<Posting, Unreadable> {
        self.try_read().map_err(|what| {
            let series = self.series.simple();
            Unreadable(format!(
                "a posting of series {series} at {}: {what}",
                self.quarter
            ))
        })
    }

    fn try_read(&self) -> Result<Posting, Unreadable> {
        let quarter = exact("quarter", self.quarter)?;
        let quarter = Quarter::starting_at(quarter)
            .ok_or_else(|| Unreadable("the quarter is no start of a quarter-hour".to_owned()))?;
        let mut quantities = [0; domain::meter::METERS];
        for (quantity, stored) in quantities.iter_mut().zip(&self.quantities) {
            *quantity = unsigned("a quantity", *stored)?;
        }
        Ok(Posting {
            key: PostingKey {
                series: SeriesId(Hash128::from_bytes(self.series.into_bytes())),
                rate_set: RateSetId(Hash128::from_bytes(self.rate_set.into_bytes())),
                quarter,
            },
            sums: Sums {
                quantities: PerMeter::from_array(quantities),
                failed_requests: unsigned("failed_requests", self.failed_requests)?,
                unmeasured_requests: unsigned("unmeasured_requests", self.unmeasured_requests)?,
                priced_requests: unsigned("priced_requests", self.priced_requests)?,
                unpriced_requests: unsigned("unpriced_requests", self.unpriced_requests)?,
                amount: self.amount()?,
            },
        })
    }

    /// The hash covers 0 where no amount is stored, so that difference must show here.
    fn amount(&self) -> Result<Amount, Unreadable> {
        let has_none = self.unpriced_requests > 0 && self.priced_requests == 0;
        match &self.amount {
            None if has_none => Ok(Amount::ZERO),
            Some(text) if !has_none => text
                .parse()
                .map_err(|error| Unreadable(format!("the amount {text} {error}"))),
            Some(text) => Err(Unreadable(format!(
                "the amount is {text} where none has a rate"
            ))),
            None => Err(Unreadable(
                "the amount is absent where there is one".to_owned(),
            )),
        }
    }
}

async fn read_rejected(
    db: &Database,
    chain: ChainId,
    first: PartNumber,
    last: PartNumber,
    parts: &mut Parts,
) -> Result<(), StoreError> {
    let rows = sqlx::query_as!(
        RejectedRow,
        r#"-- read_rejected
        select part, record_offset, index, reason, field, detail, record_at, payload,
            payload_bytes, payload_digest
        from rejected_event
        where chain = $1 and part between $2 and $3"#,
        chain.0,
        first.0,
        last.0,
    )
    .fetch_all(db.pool())
    .await?;
    for row in rows {
        keep(parts, row.part, row.read(), |rows| &mut rows.rejected);
    }
    Ok(())
}

struct RejectedRow {
    part: i64,
    record_offset: i64,
    index: i32,
    reason: String,
    field: String,
    detail: String,
    record_at: DateTime<Utc>,
    payload: Vec<u8>,
    payload_bytes: i64,
    payload_digest: Uuid,
}

impl RejectedRow {
    fn read(self) -> Result<RejectedEvent, Unreadable> {
        let offset = self.record_offset;
        self.try_read()
            .map_err(|what| Unreadable(format!("the rejected event at offset {offset}: {what}")))
    }

    fn try_read(self) -> Result<RejectedEvent, Unreadable> {
        let reason: Reason = self
            .reason
            .parse()
            .map_err(|_| Unreadable(format!("{:?} is no reason", self.reason)))?;
        Ok(RejectedEvent {
            place: place(self.record_offset, self.index)?,
            rejection: Rejection {
                reason,
                field: self.field,
                detail: self.detail,
            },
            record_time: exact("record_at", self.record_at)?,
            payload: self.payload,
            payload_bytes: unsigned("payload_bytes", self.payload_bytes)?,
            payload_digest: Hash128::from_bytes(self.payload_digest.into_bytes()),
        })
    }
}

fn place(offset: i64, index: i32) -> Result<Place, Unreadable> {
    let index = u32::try_from(index)
        .map_err(|_| Unreadable(format!("the index is {index}, below zero")))?;
    Ok(Place {
        offset: Offset(offset),
        index,
    })
}

async fn read_duplicates(
    db: &Database,
    chain: ChainId,
    first: PartNumber,
    last: PartNumber,
    parts: &mut Parts,
) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        r#"-- read_duplicates
        select part, record_offset, index, identity, first_chain, first_part
        from duplicate
        where chain = $1 and part between $2 and $3"#,
        chain.0,
        first.0,
        last.0,
    )
    .fetch_all(db.pool())
    .await?;
    for row in rows {
        let duplicate = place(row.record_offset, row.index).map(|place| Duplicate {
            place,
            identity: Identity::from_bits(row.identity.as_u128()),
            first: PartRef {
                chain: ChainId(row.first_chain),
                number: PartNumber(row.first_part),
            },
        });
        keep(parts, row.part, duplicate, |rows| &mut rows.duplicates);
    }
    Ok(())
}

/// Counts the rows that lead to nothing, which no part's hash covers. Reads the whole journal.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn orphans(db: &Database) -> Result<Orphans, StoreError> {
    let mut tx = db.pool().begin().await?;
    crate::cost::set_tenant(&mut tx, "*").await?;
    let found = sqlx::query!(
        r#"-- orphans
        select
            (select count(*) from posting p where not exists (
                select from part where chain = p.chain and number = p.part)) as "postings!",
            (select count(*) from posting p where not exists (
                select from series where key = p.series)) as "series!",
            (select count(*) from posting p where not exists (
                select from rate_set where key = p.rate_set)) as "rate_sets!",
            (select count(*) from rejected_event e where not exists (
                select from part where chain = e.chain and number = e.part)) as "rejected!",
            (select count(*) from duplicate d where not exists (
                select from part where chain = d.chain and number = d.part)) as "duplicates!",
            (select count(*) from event_seen e where not exists (
                select from part where chain = e.chain and number = e.part)) as "ids!""#
    )
    .fetch_one(&mut *tx)
    .await?;
    let count = |rows: i64| u64::try_from(rows).unwrap_or(0);
    Ok(Orphans {
        postings_without_part: count(found.postings),
        postings_without_series: count(found.series),
        postings_without_rate_set: count(found.rate_sets),
        rejected_without_part: count(found.rejected),
        duplicates_without_part: count(found.duplicates),
        ids_without_part: count(found.ids),
    })
}
