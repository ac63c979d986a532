//! Rejected events that nobody resolved yet, with what a retry needs of them.
//!
//! Invariant: a page never repeats or skips an event that was there when the first page was read.
//! Deliberately absent: showing them, see `rejected`.

use domain::hash::Hash128;
use domain::ids::{ChainId, Offset, PartNumber, PartRef, Place};
use domain::part::RejectedEvent;
use domain::reject::{Reason, Rejection};
use uuid::Uuid;

use crate::connect::Database;
use crate::cost::instant;
use crate::error::StoreError;
use crate::rejected::Address;
use crate::source::SourceId;

/// Which rejected events are meant; all conditions together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RejectionFilter {
    /// At one of these places; of any where there is none.
    pub places: Vec<Address>,
    /// Of the source by this name.
    pub source: Option<String>,
    /// With this reason.
    pub reason: Option<Reason>,
}

/// The key of a rejected event, by which pages follow each other.
pub type RejectionKey = (ChainId, Place);

/// A rejected event with what a retry needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRejection {
    /// The chain that rejected it.
    pub chain: ChainId,
    /// The chain's part that keeps it.
    pub part: PartNumber,
    /// Where it stands, as a person names it.
    pub address: Address,
    /// Its source.
    pub source: SourceId,
    /// The source's name.
    pub source_name: String,
    /// The event as it is kept.
    pub event: RejectedEvent,
}

impl OpenRejection {
    /// Returns its key.
    #[must_use]
    pub const fn key(&self) -> RejectionKey {
        (self.chain, self.event.place)
    }

    /// Says whether its payload was cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        u64::try_from(self.event.payload.len()).unwrap_or(u64::MAX) < self.event.payload_bytes
    }
}

/// Returns the next events after a key, ascending by chain, offset and index, at most `rows_max`; 64
/// KiB each at most.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn open_rejections(
    db: &Database,
    filter: &RejectionFilter,
    after: Option<RejectionKey>,
    rows_max: u32,
) -> Result<Vec<OpenRejection>, StoreError> {
    let places = &filter.places;
    let topics: Vec<String> = places.iter().map(|place| place.topic.clone()).collect();
    let partitions: Vec<i32> = places.iter().map(|place| place.partition).collect();
    let offsets: Vec<i64> = places.iter().map(|place| place.offset.0).collect();
    let indexes: Vec<Option<i32>> = places
        .iter()
        .map(|place| place.index.map(|index| i32::try_from(index).unwrap_or(-1)))
        .collect();
    let rows = sqlx::query_as!(
        OpenRow,
        r#"-- open_rejections
        -- $1 to $4: topic, partition, offset, index or null for all, of each place; $5: source;
        -- $6: reason; $7 to $9: the key of the last one before; $10: rows
        select c.topic, c.partition, s.id as source, s.name as source_name, e.chain, e.part,
            e.record_offset, e.index, e.reason, e.field, e.detail, e.record_at, e.payload,
            e.payload_bytes, e.payload_digest
        from rejected_event e
        join chain c on c.id = e.chain
        join source s on s.id = c.source
        where (cardinality($1::text[]) = 0 or exists (
                select from unnest($1::text[], $2::integer[], $3::bigint[], $4::integer[])
                    as wanted (topic, partition, record_offset, index)
                where wanted.topic = c.topic and wanted.partition = c.partition
                  and wanted.record_offset = e.record_offset
                  and coalesce(wanted.index, e.index) = e.index))
          and ($5::text is null or s.name = $5)
          and ($6::text is null or e.reason = $6)
          and (e.chain, e.record_offset, e.index) > ($7::integer, $8::bigint, $9::integer)
          and not exists (
                select from rejection_resolved r
                where r.chain = e.chain and r.record_offset = e.record_offset
                  and r.index = e.index)
        order by e.chain, e.record_offset, e.index
        limit $10"#,
        &topics,
        &partitions,
        &offsets,
        &indexes as &[Option<i32>],
        filter.source.as_deref(),
        filter.reason.map(Reason::name),
        after.map_or(0, |(chain, _)| chain.0),
        after.map_or(-1, |(_, place)| place.offset.0),
        after.map_or(-1, |(_, place)| i32::try_from(place.index)
            .unwrap_or(i32::MAX)),
        i64::from(rows_max),
    )
    .fetch_all(db.pool())
    .await?;
    rows.into_iter().map(OpenRow::read).collect()
}

/// Returns the events that a part of the adjustment chain resolved, in the order of their places in
/// that chain; what is missing is absent.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn resolved_by(db: &Database, part: PartRef) -> Result<Vec<OpenRejection>, StoreError> {
    let rows = sqlx::query_as!(
        OpenRow,
        r#"-- resolved_by
        select c.topic, c.partition, s.id as source, s.name as source_name, e.chain, e.part,
            e.record_offset, e.index, e.reason, e.field, e.detail, e.record_at, e.payload,
            e.payload_bytes, e.payload_digest
        from rejection_resolved r
        join rejected_event e
            on (e.chain, e.record_offset, e.index) = (r.chain, r.record_offset, r.index)
        join chain c on c.id = e.chain
        join source s on s.id = c.source
        where r.adjustment_chain = $1 and r.adjustment_part = $2
        order by r.adjustment_offset"#,
        part.chain.0,
        part.number.0,
    )
    .fetch_all(db.pool())
    .await?;
    rows.into_iter().map(OpenRow::read).collect()
}

struct OpenRow {
    topic: String,
    partition: i32,
    source: i32,
    source_name: String,
    chain: i32,
    part: i64,
    record_offset: i64,
    index: i32,
    reason: String,
    field: String,
    detail: String,
    record_at: chrono::DateTime<chrono::Utc>,
    payload: Vec<u8>,
    payload_bytes: i64,
    payload_digest: Uuid,
}

impl OpenRow {
    fn read(self) -> Result<OpenRejection, StoreError> {
        let (topic, partition, offset) = (&self.topic, self.partition, self.record_offset);
        let corrupt = |what: &str| {
            StoreError::Corrupt(format!(
                "the rejected event at {topic}/{partition}/{offset} has {what}; run `tollbook verify`"
            ))
        };
        let place = Place {
            offset: Offset(self.record_offset),
            index: u32::try_from(self.index).map_err(|_| corrupt("an index below zero"))?,
        };
        let reason = self
            .reason
            .parse()
            .map_err(|_| corrupt("an unknown reason"))?;
        let payload_bytes =
            u64::try_from(self.payload_bytes).map_err(|_| corrupt("a length below zero"))?;
        Ok(OpenRejection {
            chain: ChainId(self.chain),
            part: PartNumber(self.part),
            address: Address {
                topic: self.topic.clone(),
                partition: self.partition,
                offset: place.offset,
                index: Some(place.index),
            },
            source: SourceId(self.source),
            source_name: self.source_name,
            event: RejectedEvent {
                place,
                rejection: Rejection {
                    reason,
                    field: self.field,
                    detail: self.detail,
                },
                record_time: instant(self.record_at)?,
                payload: self.payload,
                payload_bytes,
                payload_digest: Hash128::from_bytes(self.payload_digest.into_bytes()),
            },
        })
    }
}
