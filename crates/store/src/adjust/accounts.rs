//! What a correction adds to accounts.
//!
//! Invariant: the accounts of the adjustment chain hold what its postings changed. Retried events count
//! as a batch's do. Of usage that is priced anew, only its cost changes; it counts in the slot that
//! holds its quarter-hour's start, so in windows whose edges lie between quarter-hours it leaves up to a
//! quarter-hour before the usage itself. What expressions count never changes by a price.

use std::collections::{BTreeSet, HashMap};

use domain::adjustment::SignedPosting;
use domain::counting::{AccountSum, AccountSums, LogLimits, SeriesUse};
use domain::hash::Hash128;
use domain::meter::{Meter, PerMeter};
use domain::part::PartHeader;
use domain::price::RateSetId;
use domain::series::{Series, SeriesId};
use domain::time::UnixMs;
use sqlx::PgConnection;
use uuid::Uuid;

use super::content::Content;
use crate::accounts::{AccountWriter, LIVE_MS, Row, write};
use crate::error::StoreError;
use crate::in_force::uuid_of;

/// Adds what the correction's events or postings change.
pub(super) async fn add(
    tx: &mut PgConnection,
    part: &PartHeader,
    now: UnixMs,
    limits: Option<&LogLimits>,
    content: &Content,
) -> Result<(), StoreError> {
    let retried = content.closed.parts.iter().flat_map(|part| &part.accounts);
    let mut sums: Vec<AccountSum> = retried.cloned().collect();
    if let Some(limits) = limits
        && !content.bounds.is_empty()
    {
        let horizon = now.saturating_add_ms(LIVE_MS.saturating_neg());
        sums = repriced(tx, limits, horizon, &content.postings).await?;
    }
    let rows = sums.iter().map(|sum| Row {
        sum,
        chain: part.part.chain.0,
        epoch: part.epoch.0,
        part: part.part.number.0,
    });
    write(tx, AccountWriter::Adjustment, rows.collect()).await
}

async fn repriced(
    tx: &mut PgConnection,
    limits: &LogLimits,
    horizon: UnixMs,
    postings: &[SignedPosting],
) -> Result<Vec<AccountSum>, StoreError> {
    let counts = |posting: &&SignedPosting| {
        let start = posting.key.quarter.start();
        limits
            .iter()
            .any(|limit| limit.counts_until_at(start) > horizon)
    };
    let postings: Vec<&SignedPosting> = postings.iter().filter(counts).collect();
    let series = read_series(tx, postings.iter().map(|posting| posting.key.series)).await?;
    let rates = postings.iter().map(|posting| posting.key.rate_set);
    let unpriced = read_unpriced(tx, rates).await?;
    let mut sums = AccountSums::after(horizon);
    for posting in postings {
        let missing = || StoreError::Corrupt("a correction names no series or rate set".to_owned());
        let key = posting.key;
        let series = series.get(&key.series).ok_or_else(missing)?;
        let unpriced = unpriced.get(&key.rate_set).ok_or_else(missing)?;
        let quantities = PerMeter::from_fn(|meter| i128::from(posting.sums.quantities.get(meter)));
        let without_rate = unpriced.iter().map(|meter| quantities.get(*meter));
        let used = SeriesUse {
            series,
            start: key.quarter.start(),
            quantities: &quantities,
            amount: posting.sums.amount.units(),
            unpriced: without_rate.sum(),
        };
        sums.add_use(limits, &used, |_| true);
    }
    Ok(sums.into_sums())
}

async fn read_series(
    tx: &mut PgConnection,
    ids: impl Iterator<Item = SeriesId>,
) -> Result<HashMap<SeriesId, Series>, StoreError> {
    let ids: BTreeSet<Uuid> = ids.map(|id| uuid_of(id.0)).collect();
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let rows = sqlx::query!(
        "/* series_of_correction */
        select key, tenant, app, user_id, session, route, provider, model
        from series where key = any($1)",
        &ids
    )
    .fetch_all(tx)
    .await?;
    let read = rows.into_iter().map(|row| {
        let series = Series {
            tenant: row.tenant,
            app: row.app,
            user: row.user_id,
            session: row.session,
            route: row.route,
            provider: row.provider,
            model: row.model,
        };
        (SeriesId(hash_of(row.key)), series)
    });
    Ok(read.collect())
}

/// Returns the billable meters that have no rate.
async fn read_unpriced(
    tx: &mut PgConnection,
    ids: impl Iterator<Item = RateSetId>,
) -> Result<HashMap<RateSetId, Vec<Meter>>, StoreError> {
    let ids: BTreeSet<Uuid> = ids.map(|id| uuid_of(id.0)).collect();
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let rows = sqlx::query!(
        r#"/* rates_of_correction */
        select key, array[requests is null, input_uncached_tokens is null,
            input_cache_read_tokens is null, input_cache_write_tokens is null,
            input_cache_write_1h_tokens is null, input_audio_tokens is null,
            output_text_tokens is null, output_reasoning_tokens is null,
            output_audio_tokens is null, images is null] as "lacks!"
        from rate_set where key = any($1)"#,
        &ids
    )
    .fetch_all(tx)
    .await?;
    let read = rows.into_iter().map(|row| {
        let meters = Meter::ALL.into_iter().zip(row.lacks);
        let unpriced = meters.filter(|(meter, lacks)| *lacks && meter.is_billable_unlisted());
        let unpriced = unpriced.map(|(meter, _)| meter).collect();
        (RateSetId(hash_of(row.key)), unpriced)
    });
    Ok(read.collect())
}

fn hash_of(stored: Uuid) -> Hash128 {
    Hash128::from_bytes(stored.into_bytes())
}
