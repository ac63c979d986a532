//! The rows of parts, and rows that lead to no part.
//!
//! Invariant: a part's rows come in the order in which its hash covers them; a row that the ledger
//! never writes comes as its description, never as something that would hash like a right one.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::event::Identity;
use domain::fold::{Posting, PostingKey, Sums};
use domain::hash::Hash128;
use domain::ids::{ChainId, Offset, PartNumber, PartRef, Place};
use domain::meter::PerMeter;
use domain::money::Amount;
use domain::part::{Duplicate, RejectedEvent};
use domain::price::RateSetId;
use domain::reject::{Reason, Rejection};
use domain::series::SeriesId;
use domain::time::Quarter;
use uuid::Uuid;

use super::parts::exact;
use super::{Unreadable, unsigned};
use crate::connect::Database;
use crate::cost::set_tenant;
use crate::error::StoreError;

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

pub(super) type Parts = HashMap<PartNumber, StoredRows>;

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

pub(super) fn place(offset: i64, index: i32) -> Result<Place, Unreadable> {
    let index = u32::try_from(index)
        .map_err(|_| Unreadable(format!("the index is {index}, below zero")))?;
    Ok(Place {
        offset: Offset(offset),
        index,
    })
}

pub(super) async fn read_duplicates(
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
    set_tenant(&mut tx, "*").await?;
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
            (select coalesce(sum(length(ids) / 16), 0) from event_seen e where not exists (
                select from part where chain = e.chain and number = e.part))
            + (select count(*) from event_seen_by_id e where not exists (
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
