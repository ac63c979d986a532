//! The rows of an adjustment: its part, who and why, what it resolves, and what it posts.
//!
//! Invariant: they are what the part's hash covers, in its order. Deliberately absent: positions, ids,
//! series and rate sets, which batches write alike.

use domain::adjustment::{Adjustment, Resolution, SignedPosting};
use domain::hash::Hash256;
use domain::ids::PartRef;
use domain::part::{HASH_VERSION, PartHeader};
use domain::time::UnixMs;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::batch::rows::COPY_POSTINGS;
use crate::copy::Rows;
use crate::error::StoreError;

/// Bytes of one posting as it is sent.
const POSTING_ROW_BYTES: usize = 268;

/// Inserts the batch and its one part.
pub(super) async fn insert_part(
    tx: &mut PgConnection,
    process: Uuid,
    header: &PartHeader,
    hash: Hash256,
    postings: usize,
) -> Result<(), StoreError> {
    let counts = header.counts;
    sqlx::query!(
        "/* insert_adjustment_part */
        with made as (insert into batch (process) values ($1) returning id)
        insert into part (chain, number, batch, epoch, from_offset, to_offset, records, accepted,
            duplicates, rejected, ignored, postings, hash_version, fold_version, floor_at, prices,
            sources, previous_hash, hash)
        select $2, $3, id, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19
        from made",
        process,
        header.part.chain.0,
        header.part.number.0,
        header.epoch.0,
        header.from.0,
        header.to.0,
        stored("records", counts.records)?,
        stored("accepted", counts.accepted)?,
        stored("duplicates", counts.duplicates)?,
        stored("rejected", counts.rejected)?,
        stored("ignored", counts.ignored)?,
        i32::try_from(postings).map_err(|_| too_large("postings"))?,
        HASH_VERSION,
        header.fold_version,
        header.floor.map(UnixMs::to_utc),
        header.prices.0,
        header.sources.0,
        &header.previous.to_bytes()[..],
        &hash.to_bytes()[..]
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Inserts who corrected what, and why.
pub(super) async fn insert_adjustment(
    tx: &mut PgConnection,
    part: PartRef,
    adjustment: &Adjustment,
) -> Result<(), StoreError> {
    sqlx::query!(
        "/* insert_adjustment */
        insert into adjustment (chain, part, kind, made_at, made_by, because, arguments,
            accepts_duplicates)
        values ($1, $2, $3, $4, $5, $6, $7, $8)",
        part.chain.0,
        part.number.0,
        adjustment.kind.name(),
        adjustment.made_at.to_utc(),
        adjustment.made_by,
        adjustment.because,
        adjustment.arguments,
        adjustment.accepts_duplicates
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Inserts what becomes of rejected events. An event that is resolved already breaks the key: the
/// caller read it before the chain stood where it stands.
pub(super) async fn insert_resolutions(
    tx: &mut PgConnection,
    part: PartRef,
    resolutions: &[Resolution],
) -> Result<(), StoreError> {
    if resolutions.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::with_capacity(resolutions.len(), 100);
    for resolution in resolutions {
        rows.row(9)
            .int4(resolution.chain.0)
            .int8(resolution.place.offset.0)
            .index(resolution.place.index)
            .int4(part.chain.0)
            .int8(part.number.0)
            .int8(resolution.at.0)
            .count(resolution.accepted)
            .count(resolution.duplicates)
            .count(resolution.ignored);
    }
    rows.send(
        tx,
        "copy rejection_resolved (chain, record_offset, index, adjustment_chain, adjustment_part, \
         adjustment_offset, accepted, duplicates, ignored) from stdin (format binary)",
    )
    .await
    .map_err(|error| error.into_store_error("rejection_resolved"))
}

/// Inserts up to which parts was looked.
pub(super) async fn insert_bounds(
    tx: &mut PgConnection,
    part: PartRef,
    bounds: &[PartRef],
) -> Result<(), StoreError> {
    let chains: Vec<i32> = bounds.iter().map(|bound| bound.chain.0).collect();
    let numbers: Vec<i64> = bounds.iter().map(|bound| bound.number.0).collect();
    sqlx::query!(
        "/* insert_bounds */
        insert into adjustment_bound (adjustment_chain, adjustment_part, chain, part)
        select $1, $2, chain, part from unnest($3::integer[], $4::bigint[]) as new (chain, part)",
        part.chain.0,
        part.number.0,
        &chains,
        &numbers
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Copies the postings, negative ones as they are.
pub(super) async fn copy_postings(
    tx: &mut PgConnection,
    part: PartRef,
    postings: &[SignedPosting],
) -> Result<(), StoreError> {
    if postings.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::with_capacity(postings.len(), POSTING_ROW_BYTES);
    for posting in postings {
        let sums = &posting.sums;
        rows.row(20)
            .int4(part.chain.0)
            .int8(part.number.0)
            .uuid(posting.key.series.0.to_bytes())
            .uuid(posting.key.rate_set.0.to_bytes())
            .timestamp(posting.key.quarter.start());
        for quantity in sums.quantities.as_array() {
            rows.int8(*quantity);
        }
        rows.int8(sums.failed_requests)
            .int8(sums.unmeasured_requests)
            .int8(sums.priced_requests)
            .int8(sums.unpriced_requests);
        if sums.has_no_amount() {
            rows.null();
        } else {
            rows.numeric(sums.amount.units());
        }
    }
    rows.send(tx, COPY_POSTINGS)
        .await
        .map_err(|error| error.into_store_error("posting"))
}

fn stored(what: &str, count: u64) -> Result<i64, StoreError> {
    i64::try_from(count).map_err(|_| too_large(what))
}

fn too_large(what: &str) -> StoreError {
    StoreError::Corrupt(format!("an adjustment has more {what} than a column holds"))
}
