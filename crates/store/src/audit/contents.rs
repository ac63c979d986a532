//! What is keyed by its content: series, rate sets, price books, source configurations; and when parts
//! were committed.
//!
//! Invariant: contents come with the key they are stored under, which the caller compares with the
//! hash of the content.

use std::collections::HashMap;
use std::str::FromStr;

use domain::hash::Hash128;
use domain::ids::{ChainId, PartNumber, PartRef, Version};
use domain::meter::{METERS, Meter, PerMeter};
use domain::price::{RateSet, RateSetId};
use domain::series::{Series, SeriesId};
use domain::time::UnixMs;
use uuid::Uuid;

use super::{Unreadable, unsigned};
use crate::connect::Database;
use crate::cost::set_tenant;
use crate::error::StoreError;

/// A series as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSeries {
    /// The key it is stored under.
    pub key: SeriesId,
    /// Its dimensions.
    pub series: Series,
}

/// A rate set as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRateSet {
    /// The key it is stored under.
    pub key: RateSetId,
    /// Its content.
    pub rate_set: Result<RateSet, Unreadable>,
}

/// A stored text with the hash it is stored under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredText {
    /// The whole text.
    pub content: String,
    /// The hash that it claims.
    pub content_hash: Hash128,
}

/// Returns the next series after a key, ascending by key, at most `rows_max`.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn series_after(
    db: &Database,
    after: Option<SeriesId>,
    rows_max: u32,
) -> Result<Vec<StoredSeries>, StoreError> {
    let mut tx = db.pool().begin().await?;
    set_tenant(&mut tx, "*").await?;
    let rows = sqlx::query!(
        r#"-- series_after
        select key, tenant, app, user_id, session, route, provider, model
        from series where $1::uuid is null or key > $1
        order by key limit $2"#,
        after.map(|after| Uuid::from_bytes(after.0.to_bytes())),
        i64::from(rows_max),
    )
    .fetch_all(&mut *tx)
    .await?;
    let stored = rows.into_iter().map(|row| StoredSeries {
        key: SeriesId(Hash128::from_bytes(row.key.into_bytes())),
        series: Series {
            tenant: row.tenant,
            app: row.app,
            user: row.user_id,
            session: row.session,
            route: row.route,
            provider: row.provider,
            model: row.model,
        },
    });
    Ok(stored.collect())
}

/// Returns the next rate sets after a key, ascending by key, at most `rows_max`.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn rate_sets_after(
    db: &Database,
    after: Option<RateSetId>,
    rows_max: u32,
) -> Result<Vec<StoredRateSet>, StoreError> {
    let rows = sqlx::query_as!(
        RateSetRow,
        r#"-- rate_sets_after
        select key, provider, priced_model, book_model, above_input_tokens, rate_of,
            array[requests, input_uncached_tokens, input_cache_read_tokens,
                input_cache_write_tokens, input_cache_write_1h_tokens, input_audio_tokens,
                output_text_tokens, output_reasoning_tokens, output_audio_tokens, images]::text[]
                as "rates!: Vec<Option<String>>"
        from rate_set where $1::uuid is null or key > $1
        order by key limit $2"#,
        after.map(|after| Uuid::from_bytes(after.0.to_bytes())),
        i64::from(rows_max),
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows.into_iter().map(RateSetRow::read).collect())
}

struct RateSetRow {
    key: Uuid,
    provider: String,
    priced_model: String,
    book_model: String,
    above_input_tokens: i64,
    rate_of: Vec<String>,
    rates: Vec<Option<String>>,
}

impl RateSetRow {
    fn read(self) -> StoredRateSet {
        let key = RateSetId(Hash128::from_bytes(self.key.into_bytes()));
        StoredRateSet {
            key,
            rate_set: self.rate_set(),
        }
    }

    fn rate_set(self) -> Result<RateSet, Unreadable> {
        if self.rates.len() != METERS || self.rate_of.len() != METERS {
            return Err(Unreadable(format!(
                "rates of {} meters are stored",
                self.rate_of.len()
            )));
        }
        let mut rates = PerMeter::default();
        for (meter, (rate, of)) in Meter::ALL
            .into_iter()
            .zip(self.rates.iter().zip(&self.rate_of))
        {
            let rate = match (rate, of.as_str()) {
                (None, "") => None,
                (Some(rate), of) => Some((read_text(meter, rate)?, read_text(meter, of)?)),
                (None, of) => {
                    return Err(Unreadable(format!(
                        "{meter} has the rate of {of}, but none"
                    )));
                }
            };
            rates.set(meter, rate);
        }
        Ok(RateSet {
            provider: self.provider,
            priced_model: self.priced_model,
            book_model: self.book_model,
            above_input_tokens: unsigned("above_input_tokens", self.above_input_tokens)?,
            rates,
        })
    }
}

fn read_text<T: FromStr>(meter: Meter, text: &str) -> Result<T, Unreadable>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| Unreadable(format!("the rate of {meter}: {text:?} {error}")))
}

/// Returns a price book by its version; `None` where that is missing.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn price_book(db: &Database, version: Version) -> Result<Option<StoredText>, StoreError> {
    let found = sqlx::query!(
        "-- price_book
        select content, content_hash from price_book where version = $1",
        version.0
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(found.map(|row| StoredText {
        content: row.content,
        content_hash: Hash128::from_bytes(row.content_hash.into_bytes()),
    }))
}

/// Returns a source configuration by its version; `None` where that is missing.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn source_config(
    db: &Database,
    version: Version,
) -> Result<Option<StoredText>, StoreError> {
    let found = sqlx::query!(
        "-- source_config
        select content, content_hash from source_config where version = $1",
        version.0
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(found.map(|row| StoredText {
        content: row.content,
        content_hash: Hash128::from_bytes(row.content_hash.into_bytes()),
    }))
}

/// Returns when these parts were committed; those that are missing are absent.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn committed_at(
    db: &Database,
    parts: &[PartRef],
) -> Result<HashMap<PartRef, UnixMs>, StoreError> {
    let chains: Vec<i32> = parts.iter().map(|part| part.chain.0).collect();
    let numbers: Vec<i64> = parts.iter().map(|part| part.number.0).collect();
    let rows = sqlx::query!(
        r#"-- committed_at
        select distinct p.chain, p.number, b.committed_at
        from unnest($1::integer[], $2::bigint[]) as wanted (chain, number)
        join part p on p.chain = wanted.chain and p.number = wanted.number
        join batch b on b.id = p.batch"#,
        &chains,
        &numbers
    )
    .fetch_all(db.pool())
    .await?;
    let committed = rows.into_iter().filter_map(|row| {
        let part = PartRef {
            chain: ChainId(row.chain),
            number: PartNumber(row.number),
        };
        Some((part, UnixMs::from_utc(row.committed_at)?))
    });
    Ok(committed.collect())
}
