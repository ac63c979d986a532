//! The rows of a batch but for ids: series, rate sets, parts, postings, rejections, duplicates.
//!
//! Invariant: rows that other processes may write too arrive in the order of their keys, so that two
//! batches never wait for each other in a circle. Deliberately absent: positions.

use std::collections::HashSet;

use domain::fold::{ClosedBatch, ClosedPart, Posting};
use domain::hash::Hash256;
use domain::ids::PartRef;
use domain::meter::Meter;
use domain::money::Rate;
use domain::part::{FOLD_VERSION, HASH_VERSION, PartHeader};
use domain::price::{RateSet, RateSetId};
use domain::series::SeriesId;
use sqlx::PgConnection;
use uuid::Uuid;

use super::PartWrite;
use crate::accounts::{self, AccountWriter};
use crate::copy::{CopyError, Rows, copy_each};
use crate::error::StoreError;
use crate::in_force::{Versions, uuid_of};

/// Holds what is in force until the transaction ends, and says whether it is what was folded by.
pub(crate) async fn is_in_force(
    tx: &mut PgConnection,
    versions: Versions,
) -> Result<bool, StoreError> {
    let row =
        sqlx::query!("/* is_in_force */ select prices, sources, policies from in_force for share")
            .fetch_one(tx)
            .await?;
    Ok(row.prices == Some(versions.prices.0)
        && row.sources == Some(versions.sources.0)
        && row.policies == versions.policies.map(|version| version.0))
}

/// Describes the parts as their hashes cover them.
pub(super) fn headers(
    closed: &ClosedBatch,
    parts: &[PartWrite],
    versions: Versions,
) -> Vec<PartHeader> {
    let header = |(part, write): (&ClosedPart, &PartWrite)| PartHeader {
        part: part.part,
        epoch: write.epoch,
        from: write.from,
        to: write.to,
        counts: part.counts,
        fold_version: FOLD_VERSION,
        floor: write.floor,
        prices: versions.prices,
        sources: versions.sources,
        skipped: write.skipped,
        previous: write.previous,
    };
    closed.parts.iter().zip(parts).map(header).collect()
}

/// Inserts the series that are not known to be stored; returns them.
pub(crate) async fn insert_series(
    tx: &mut PgConnection,
    closed: &ClosedBatch,
    known: &HashSet<SeriesId>,
) -> Result<Vec<SeriesId>, StoreError> {
    let new: Vec<_> = closed
        .series
        .iter()
        .filter(|(id, _)| !known.contains(id))
        .collect();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<Uuid> = new.iter().map(|(id, _)| uuid_of(id.0)).collect();
    let column = |text: fn(&domain::series::Series) -> &str| -> Vec<String> {
        new.iter()
            .map(|(_, series)| text(series).to_owned())
            .collect()
    };
    sqlx::query!(
        "/* insert_series */
        insert into series (key, tenant, app, user_id, session, route, provider, model)
        select key, tenant, app, user_id, session, route, provider, model
        from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
            $7::text[], $8::text[])
            as new (key, tenant, app, user_id, session, route, provider, model)
        order by key
        on conflict do nothing",
        &keys,
        &column(|series| &series.tenant),
        &column(|series| &series.app),
        &column(|series| &series.user),
        &column(|series| &series.session),
        &column(|series| &series.route),
        &column(|series| &series.provider),
        &column(|series| &series.model)
    )
    .execute(tx)
    .await?;
    Ok(new.into_iter().map(|(id, _)| *id).collect())
}

/// Inserts the rate sets that are not known to be stored; returns them. The rates of one set travel
/// as one text, in the order of the meters, since arrays of arrays cannot be unnested.
pub(crate) async fn insert_rate_sets(
    tx: &mut PgConnection,
    closed: &ClosedBatch,
    known: &HashSet<RateSetId>,
) -> Result<Vec<RateSetId>, StoreError> {
    let new: Vec<(&RateSetId, &RateSet)> = closed
        .rate_sets
        .iter()
        .filter(|(id, _)| !known.contains(id))
        .map(|(id, set)| (id, set.as_ref()))
        .collect();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<Uuid> = new.iter().map(|(id, _)| uuid_of(id.0)).collect();
    let column = |text: fn(&RateSet) -> String| -> Vec<String> {
        new.iter().map(|(_, set)| text(set)).collect()
    };
    let above: Vec<i64> = new
        .iter()
        .map(|(_, set)| i64::try_from(set.above_input_tokens).unwrap_or(i64::MAX))
        .collect();
    sqlx::query!(
        "/* insert_rate_sets */
        insert into rate_set (key, provider, priced_model, book_model, above_input_tokens, requests,
            input_uncached_tokens, input_cache_read_tokens, input_cache_write_tokens,
            input_cache_write_1h_tokens, input_audio_tokens, output_text_tokens,
            output_reasoning_tokens, output_audio_tokens, images, rate_of)
        select key, provider, priced_model, book_model, above, nullif(rates[1], '')::numeric,
            nullif(rates[2], '')::numeric, nullif(rates[3], '')::numeric,
            nullif(rates[4], '')::numeric, nullif(rates[5], '')::numeric,
            nullif(rates[6], '')::numeric, nullif(rates[7], '')::numeric,
            nullif(rates[8], '')::numeric, nullif(rates[9], '')::numeric,
            nullif(rates[10], '')::numeric, rate_of
        from (
            select key, provider, priced_model, book_model, above,
                string_to_array(rates, ',') as rates, string_to_array(rate_of, ',') as rate_of
            from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
                $7::text[])
                as one (key, provider, priced_model, book_model, above, rates, rate_of)
        ) as new
        order by key
        on conflict do nothing",
        &keys,
        &column(|set| set.provider.clone()),
        &column(|set| set.priced_model.clone()),
        &column(|set| set.book_model.clone()),
        &above,
        &column(|set| joined(set, |rate, _| rate.to_string())),
        &column(|set| joined(set, |_, from| from.name().to_owned()))
    )
    .execute(tx)
    .await?;
    Ok(new.into_iter().map(|(id, _)| *id).collect())
}

/// Writes one word per meter, empty where it has no rate.
fn joined(set: &RateSet, word: impl Fn(Rate, Meter) -> String) -> String {
    let words: Vec<String> = set
        .rates
        .iter()
        .map(|(_, rate)| rate.map_or_else(String::new, |(rate, from)| word(rate, from)))
        .collect();
    words.join(",")
}

/// Inserts the batch and its parts; returns the batch's number.
pub(super) async fn insert_parts(
    tx: &mut PgConnection,
    process: Uuid,
    closed: &ClosedBatch,
    headers: &[PartHeader],
    heads: &[(PartRef, Hash256)],
) -> Result<i64, StoreError> {
    let batch = sqlx::query_scalar!(
        "/* insert_batch */ insert into batch (process) values ($1) returning id",
        process
    )
    .fetch_one(&mut *tx)
    .await?;
    let mut rows = Rows::with_capacity(headers.len(), 400);
    for ((header, part), (_, hash)) in headers.iter().zip(&closed.parts).zip(heads) {
        rows.row(21)
            .int4(header.part.chain.0)
            .int8(header.part.number.0)
            .int8(batch)
            .int8(header.epoch.0)
            .int8(header.from.0)
            .int8(header.to.0)
            .count(header.counts.records)
            .count(header.counts.accepted)
            .count(header.counts.duplicates)
            .count(header.counts.rejected)
            .count(header.counts.ignored)
            .length(part.postings.len())
            .int2(HASH_VERSION)
            .int2(header.fold_version);
        match header.floor {
            Some(floor) => rows.timestamp(floor),
            None => rows.null(),
        };
        rows.int8(header.prices.0).int8(header.sources.0);
        match header.skipped {
            Some(skipped) => rows.int8(skipped.from.0).int8(skipped.to.0),
            None => rows.null().null(),
        };
        rows.bytea(&header.previous.to_bytes())
            .bytea(&hash.to_bytes());
    }
    rows.send(
        tx,
        "copy part (chain, number, batch, epoch, from_offset, to_offset, records, accepted, \
         duplicates, rejected, ignored, postings, hash_version, fold_version, floor_at, prices, \
         sources, skipped_from, skipped_to, previous_hash, hash) from stdin (format binary)",
    )
    .await
    .map_err(|error| error.into_store_error("part"))?;
    Ok(batch)
}

/// Copies postings, rejected events and duplicates.
pub(super) async fn copy_rows(
    tx: &mut PgConnection,
    closed: &ClosedBatch,
) -> Result<(), StoreError> {
    copy_postings(tx, closed)
        .await
        .map_err(|error| error.into_store_error("posting"))?;
    copy_rejected(tx, closed)
        .await
        .map_err(|error| error.into_store_error("rejected_event"))?;
    copy_duplicates(tx, closed)
        .await
        .map_err(|error| error.into_store_error("duplicate"))
}

/// Adds what the parts used to the accounts of their chains.
pub(super) async fn write_accounts(
    tx: &mut PgConnection,
    closed: &ClosedBatch,
    parts: &[PartWrite],
) -> Result<(), StoreError> {
    let rows = closed.parts.iter().zip(parts).flat_map(|(part, write)| {
        part.accounts.iter().map(|sum| accounts::Row {
            sum,
            chain: part.part.chain.0,
            epoch: write.epoch.0,
            part: part.part.number.0,
        })
    });
    accounts::write(tx, AccountWriter::Chain, rows.collect()).await
}

/// The statement that takes postings, as [`Rows`] of 20 fields in this order.
pub(crate) const COPY_POSTINGS: &str = "copy posting (chain, part, series, rate_set, quarter, requests, input_uncached_tokens, \
     input_cache_read_tokens, input_cache_write_tokens, input_cache_write_1h_tokens, \
     input_audio_tokens, output_text_tokens, output_reasoning_tokens, output_audio_tokens, \
     images, failed_requests, unmeasured_requests, priced_requests, unpriced_requests, amount) \
     from stdin (format binary)";

async fn copy_postings(tx: &mut PgConnection, closed: &ClosedBatch) -> Result<(), CopyError> {
    let postings = closed.parts.iter().flat_map(|part| {
        let of_part = part.postings.iter();
        of_part.map(|posting| (part.part, posting))
    });
    // By its trait, since the compiler cannot tell of such an iterator's own type that it may be held
    // across an await.
    let mut postings: Box<dyn Iterator<Item = _> + Send> = Box::new(postings);
    copy_each(tx, COPY_POSTINGS, &mut |rows| {
        let next = postings.next();
        if let Some((part, posting)) = next {
            add_posting(rows, part, posting);
        }
        next.is_some()
    })
    .await
}

fn add_posting(rows: &mut Rows, part: PartRef, posting: &Posting) {
    let sums = &posting.sums;
    rows.row(20)
        .int4(part.chain.0)
        .int8(part.number.0)
        .uuid(posting.key.series.0.to_bytes())
        .uuid(posting.key.rate_set.0.to_bytes())
        .timestamp(posting.key.quarter.start());
    for quantity in sums.quantities.as_array() {
        rows.count(*quantity);
    }
    rows.count(sums.failed_requests)
        .count(sums.unmeasured_requests)
        .count(sums.priced_requests)
        .count(sums.unpriced_requests);
    if sums.unpriced_requests > 0 && sums.priced_requests == 0 {
        rows.null();
    } else {
        rows.numeric(sums.amount.units());
    }
}

async fn copy_rejected(tx: &mut PgConnection, closed: &ClosedBatch) -> Result<(), CopyError> {
    let bytes = closed.parts.iter().flat_map(|part| &part.rejected);
    let bytes = bytes
        .map(|rejected| rejected.payload.len().saturating_add(700))
        .sum();
    let mut rows = Rows::with_capacity(1, bytes);
    for part in &closed.parts {
        for rejected in &part.rejected {
            rows.row(11)
                .int4(part.part.chain.0)
                .int8(rejected.place.offset.0)
                .index(rejected.place.index)
                .int8(part.part.number.0)
                .text(rejected.rejection.reason.name())
                .text(&rejected.rejection.field)
                .text(&rejected.rejection.detail)
                .timestamp(rejected.record_time)
                .bytea(&rejected.payload)
                .count(rejected.payload_bytes)
                .uuid(rejected.payload_digest.to_bytes());
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    rows.send(
        tx,
        "copy rejected_event (chain, record_offset, index, part, reason, field, detail, record_at, \
         payload, payload_bytes, payload_digest) from stdin (format binary)",
    )
    .await
}

pub(crate) async fn copy_duplicates(
    tx: &mut PgConnection,
    closed: &ClosedBatch,
) -> Result<(), CopyError> {
    let count = closed.parts.iter().map(|part| part.duplicates.len()).sum();
    let mut rows = Rows::with_capacity(count, 80);
    for part in &closed.parts {
        for duplicate in &part.duplicates {
            rows.row(7)
                .int4(part.part.chain.0)
                .int8(duplicate.place.offset.0)
                .index(duplicate.place.index)
                .int8(part.part.number.0)
                .uuid(duplicate.identity.to_bits().to_be_bytes())
                .int4(duplicate.first.chain.0)
                .int8(duplicate.first.number.0);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    rows.send(
        tx,
        "copy duplicate (chain, record_offset, index, part, identity, first_chain, first_part) \
         from stdin (format binary)",
    )
    .await
}
