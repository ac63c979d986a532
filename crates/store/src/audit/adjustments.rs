//! The parts of the adjustment chain with their rows, and the rejected events that they resolve.
//!
//! Invariant: rows come in the order in which the part's hash covers them, signed as they are stored.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::adjustment::{Adjustment, Resolution, SignedPosting, SignedSums};
use domain::fold::PostingKey;
use domain::hash::Hash128;
use domain::ids::{ChainId, Offset, PartNumber, PartRef};
use domain::meter::PerMeter;
use domain::money::Amount;
use domain::part::Duplicate;
use domain::price::RateSetId;
use domain::series::SeriesId;
use domain::time::Quarter;
use uuid::Uuid;

use super::parts::exact;
use super::rows::{place, read_duplicates};
use super::{Unreadable, unsigned};
use crate::connect::Database;
use crate::error::StoreError;

/// What one part of the adjustment chain put into the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredAdjustment {
    /// Who corrected what; `None` where that row is missing.
    pub adjustment: Option<Adjustment>,
    /// What it resolves, ascending by its place in the chain.
    pub resolutions: Vec<Resolution>,
    /// Up to which parts it looked, ascending by chain.
    pub bounds: Vec<PartRef>,
    /// What it posts, ascending.
    pub postings: Vec<SignedPosting>,
    /// What had been counted before, ascending by place.
    pub duplicates: Vec<Duplicate>,
    /// Rows that the ledger never writes; they are in none of the other lists.
    pub unreadable: Vec<Unreadable>,
}

type Parts = HashMap<PartNumber, StoredAdjustment>;

/// Returns the rows of the adjustment chain's parts from one to another, both included.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn adjustments(
    db: &Database,
    chain: ChainId,
    first: PartNumber,
    last: PartNumber,
) -> Result<Parts, StoreError> {
    let mut parts = Parts::new();
    read_adjustments(db, chain, first, last, &mut parts).await?;
    read_resolutions(db, chain, first, last, &mut parts).await?;
    read_bounds(db, chain, first, last, &mut parts).await?;
    read_postings(db, chain, first, last, &mut parts).await?;
    let mut others = HashMap::new();
    read_duplicates(db, chain, first, last, &mut others).await?;
    for (part, rows) in others {
        let stored = parts.entry(part).or_default();
        stored.duplicates = rows.duplicates;
        stored.unreadable.extend(rows.unreadable);
    }
    for stored in parts.values_mut() {
        stored.resolutions.sort_unstable();
        stored.bounds.sort_unstable();
        stored.postings.sort_unstable();
        stored.duplicates.sort_unstable();
    }
    Ok(parts)
}

async fn read_adjustments(
    db: &Database,
    chain: ChainId,
    first: PartNumber,
    last: PartNumber,
    parts: &mut Parts,
) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        "-- read_adjustments
        select part, kind, made_at, made_by, because, arguments, accepts_duplicates
        from adjustment where chain = $1 and part between $2 and $3",
        chain.0,
        first.0,
        last.0,
    )
    .fetch_all(db.pool())
    .await?;
    for row in rows {
        let stored = parts.entry(PartNumber(row.part)).or_default();
        let kind = row.kind.parse();
        let kind = kind.map_err(|error| Unreadable(format!("{:?} {error}", row.kind)));
        match kind.and_then(|kind| Ok((kind, exact("made_at", row.made_at)?))) {
            Ok((kind, made_at)) => {
                stored.adjustment = Some(Adjustment {
                    kind,
                    made_at,
                    made_by: row.made_by,
                    because: row.because,
                    arguments: row.arguments,
                    accepts_duplicates: row.accepts_duplicates,
                });
            }
            Err(unreadable) => stored.unreadable.push(unreadable),
        }
    }
    Ok(())
}

async fn read_resolutions(
    db: &Database,
    chain: ChainId,
    first: PartNumber,
    last: PartNumber,
    parts: &mut Parts,
) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        "-- read_resolutions
        select adjustment_part, adjustment_offset, chain, record_offset, index, accepted,
            duplicates, ignored
        from rejection_resolved
        where adjustment_chain = $1 and adjustment_part between $2 and $3",
        chain.0,
        first.0,
        last.0,
    )
    .fetch_all(db.pool())
    .await?;
    for row in rows {
        let stored = parts.entry(PartNumber(row.adjustment_part)).or_default();
        let read = || {
            Ok(Resolution {
                at: Offset(row.adjustment_offset),
                chain: ChainId(row.chain),
                place: place(row.record_offset, row.index)?,
                accepted: unsigned("accepted", row.accepted)?,
                duplicates: unsigned("duplicates", row.duplicates)?,
                ignored: unsigned("ignored", row.ignored)?,
            })
        };
        match read() {
            Ok(resolution) => stored.resolutions.push(resolution),
            Err(unreadable) => stored.unreadable.push(unreadable),
        }
    }
    Ok(())
}

async fn read_bounds(
    db: &Database,
    chain: ChainId,
    first: PartNumber,
    last: PartNumber,
    parts: &mut Parts,
) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        "-- read_bounds
        select adjustment_part, chain, part from adjustment_bound
        where adjustment_chain = $1 and adjustment_part between $2 and $3",
        chain.0,
        first.0,
        last.0,
    )
    .fetch_all(db.pool())
    .await?;
    for row in rows {
        let stored = parts.entry(PartNumber(row.adjustment_part)).or_default();
        stored.bounds.push(PartRef {
            chain: ChainId(row.chain),
            number: PartNumber(row.part),
        });
    }
    Ok(())
}

async fn read_postings(
    db: &Database,
    chain: ChainId,
    first: PartNumber,
    last: PartNumber,
    parts: &mut Parts,
) -> Result<(), StoreError> {
    let rows = sqlx::query_as!(
        SignedRow,
        r#"-- read_signed_postings
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
        let stored = parts.entry(PartNumber(row.part)).or_default();
        match row.read() {
            Ok(posting) => stored.postings.push(posting),
            Err(unreadable) => stored.unreadable.push(unreadable),
        }
    }
    Ok(())
}

struct SignedRow {
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

impl SignedRow {
    fn read(&self) -> Result<SignedPosting, Unreadable> {
        let quarter = exact("quarter", self.quarter)?;
        let quarter = Quarter::starting_at(quarter)
            .ok_or_else(|| Unreadable("the quarter is no start of a quarter-hour".to_owned()))?;
        let mut quantities = [0; domain::meter::METERS];
        for (quantity, stored) in quantities.iter_mut().zip(&self.quantities) {
            *quantity = *stored;
        }
        let mut sums = SignedSums {
            quantities: PerMeter::from_array(quantities),
            failed_requests: self.failed_requests,
            unmeasured_requests: self.unmeasured_requests,
            priced_requests: self.priced_requests,
            unpriced_requests: self.unpriced_requests,
            amount: Amount::ZERO,
        };
        sums.amount = match (&self.amount, sums.has_no_amount()) {
            (None, true) => Amount::ZERO,
            (Some(text), false) => text
                .parse()
                .map_err(|error| Unreadable(format!("the amount {text} {error}")))?,
            (Some(text), true) => {
                let what = format!("the amount is {text} where none has a rate");
                return Err(Unreadable(what));
            }
            (None, false) => {
                let what = "the amount is absent where there is one".to_owned();
                return Err(Unreadable(what));
            }
        };
        Ok(SignedPosting {
            key: PostingKey {
                series: SeriesId(Hash128::from_bytes(self.series.into_bytes())),
                rate_set: RateSetId(Hash128::from_bytes(self.rate_set.into_bytes())),
                quarter,
            },
            sums,
        })
    }
}

/// Rows of adjustments that lead to nothing. All are zero where nobody tampered with the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdjustmentOrphans {
    /// Adjustments whose part is missing.
    pub adjustments_without_part: u64,
    /// Resolutions and bounds whose adjustment is missing.
    pub rows_without_adjustment: u64,
    /// Resolutions of rejected events that are missing.
    pub resolutions_without_event: u64,
}

/// Counts the rows of adjustments that lead to nothing.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn adjustment_orphans(db: &Database) -> Result<AdjustmentOrphans, StoreError> {
    let found = sqlx::query!(
        r#"-- adjustment_orphans
        select
            (select count(*) from adjustment a where not exists (
                select from part where chain = a.chain and number = a.part)) as "adjustments!",
            (select count(*) from rejection_resolved r where not exists (
                select from adjustment a
                where a.chain = r.adjustment_chain and a.part = r.adjustment_part))
                as "resolutions!",
            (select count(*) from adjustment_bound b where not exists (
                select from adjustment a
                where a.chain = b.adjustment_chain and a.part = b.adjustment_part)) as "bounds!",
            (select count(*) from rejection_resolved r where not exists (
                select from rejected_event e where e.chain = r.chain
                  and e.record_offset = r.record_offset and e.index = r.index)) as "events!""#
    )
    .fetch_one(db.pool())
    .await?;
    let count = |rows: i64| u64::try_from(rows).unwrap_or(0);
    Ok(AdjustmentOrphans {
        adjustments_without_part: count(found.adjustments),
        rows_without_adjustment: count(found.resolutions).saturating_add(count(found.bounds)),
        resolutions_without_event: count(found.events),
    })
}
