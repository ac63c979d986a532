//! Chains and their parts.
//!
//! Invariant: a page is bounded by rows, whatever a part holds, but for one part that is larger than
//! the bound by itself. Deliberately absent: whether a part's hash is right.

use chrono::{DateTime, Utc};
use domain::hash::{Hash128, Hash256};
use domain::ids::{ChainId, Epoch, Offset, PartNumber, PartRef, Version};
use domain::part::{Counts, PartHeader, Skipped};
use domain::time::UnixMs;
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
pub(super) fn exact(what: &str, stored: DateTime<Utc>) -> Result<UnixMs, Unreadable> {
    UnixMs::from_utc(stored)
        .filter(|instant| instant.to_utc() == stored)
        .ok_or_else(|| Unreadable(format!("{what} is {stored}, which is no whole millisecond")))
}
