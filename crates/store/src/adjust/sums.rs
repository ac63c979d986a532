//! What the ledger holds under each series, rate set and quarter-hour, for pricing it anew.
//!
//! Invariant: one snapshot; sums are over all chains, adjustments included, up to a named part of
//! each, so that the same bounds always give the same sums. Deliberately absent: prices.

use domain::fold::{PostingKey, Sums};
use domain::hash::Hash128;
use domain::ids::{ChainId, PartNumber, PartRef, Version};
use domain::meter::PerMeter;
use domain::money::Amount;
use domain::price::RateSetId;
use domain::series::SeriesId;
use domain::time::{Quarter, UnixMs};
use futures_util::TryStreamExt;
use sqlx::{Postgres, Transaction};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::connect::Database;
use crate::cost::{instant, set_tenant};
use crate::error::StoreError;
use crate::in_force::Versions;

/// Which sums are meant; all conditions together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SumsFilter {
    /// Of quarter-hours that start at this instant or later.
    pub from: Option<UnixMs>,
    /// Of quarter-hours that start before this instant.
    pub to: Option<UnixMs>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this application.
    pub app: Option<String>,
    /// Of this provider, and of paths with a segment of this name: which provider a path means is for
    /// the caller's price book to say.
    pub provider: Option<String>,
    /// Of this model: asked for, or answered.
    pub model: Option<String>,
    /// Under these keys only; any where there is none.
    pub keys: Vec<PostingKey>,
}

/// What the ledger held when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// What was in force.
    pub versions: Versions,
    /// The last part of each chain that has any, ascending by chain.
    pub bounds: Vec<PartRef>,
}

/// The sums of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Series, rate set and quarter-hour.
    pub key: PostingKey,
    /// The series' application.
    pub app: String,
    /// The series' provider; empty where the log names none.
    pub provider: String,
    /// The model that was asked for.
    pub model: String,
    /// The sums; never all zero.
    pub sums: Sums,
    /// The price books that the parts behind the sums name, ascending.
    pub prices: Vec<Version>,
}

/// One snapshot of the journal.
pub struct Journal {
    tx: Transaction<'static, Postgres>,
}

impl Journal {
    /// Takes a snapshot.
    ///
    /// # Errors
    ///
    /// A [`StoreError`]; retry as its kind says.
    pub async fn open(db: &Database) -> Result<Self, StoreError> {
        let mut tx = db
            .pool()
            .begin_with("begin transaction isolation level repeatable read, read only")
            .await?;
        // It reads the whole range once, which holds no lock and may take longer than a batch may.
        sqlx::raw_sql("set local statement_timeout = '30min'")
            .execute(&mut *tx)
            .await?;
        set_tenant(&mut tx, "*").await?;
        Ok(Self { tx })
    }

    /// Returns what is in force and up to where each chain is posted, in the snapshot. Every batch
    /// that was folded by an earlier price book lies before these bounds, since a change of prices
    /// waits for all of them.
    ///
    /// # Errors
    ///
    /// [`StoreError::NothingInForce`] before the first start of an ingest; each of a statement.
    pub async fn horizon(&mut self) -> Result<Horizon, StoreError> {
        let in_force = sqlx::query!("/* horizon */ select prices, sources, policies from in_force")
            .fetch_one(&mut *self.tx)
            .await?;
        let (Some(prices), Some(sources)) = (in_force.prices, in_force.sources) else {
            return Err(StoreError::NothingInForce);
        };
        let rows = sqlx::query!(
            "/* horizon */ select chain, part from source_position where part > 0 order by chain"
        )
        .fetch_all(&mut *self.tx)
        .await?;
        let bounds = rows.into_iter().map(|row| PartRef {
            chain: ChainId(row.chain),
            number: PartNumber(row.part),
        });
        Ok(Horizon {
            versions: Versions {
                prices: Version(prices),
                sources: Version(sources),
                policies: in_force.policies.map(Version),
            },
            bounds: bounds.collect(),
        })
    }

    /// Sends the sums up to the bounds, ascending by quarter-hour, until there are no more or nobody
    /// takes them any longer.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] where sums are below zero; else as its kind says.
    pub async fn sums(
        &mut self,
        bounds: &[PartRef],
        filter: &SumsFilter,
        taker: mpsc::Sender<Held>,
    ) -> Result<(), StoreError> {
        let chains: Vec<i32> = bounds.iter().map(|bound| bound.chain.0).collect();
        let parts: Vec<i64> = bounds.iter().map(|bound| bound.number.0).collect();
        let keys = &filter.keys;
        let uuid = |hash: Hash128| Uuid::from_bytes(hash.to_bytes());
        let series: Vec<Uuid> = keys.iter().map(|key| uuid(key.series.0)).collect();
        let rate_sets: Vec<Uuid> = keys.iter().map(|key| uuid(key.rate_set.0)).collect();
        let quarters: Vec<_> = keys
            .iter()
            .map(|key| key.quarter.start().to_utc())
            .collect();
        let mut rows = sqlx::query_as!(
            HeldRow,
            r#"-- journal_sums
            -- $1, $2: the last part of each chain; $3, $4: the range, half-open; $5: app;
            -- $6: provider; $7: model; $8 to $10: keys; $11: tenant
            select p.quarter, p.series, p.rate_set, s.app, s.provider, s.model,
                array[sum(p.requests), sum(p.input_uncached_tokens),
                    sum(p.input_cache_read_tokens), sum(p.input_cache_write_tokens),
                    sum(p.input_cache_write_1h_tokens), sum(p.input_audio_tokens),
                    sum(p.output_text_tokens), sum(p.output_reasoning_tokens),
                    sum(p.output_audio_tokens), sum(p.images), sum(p.failed_requests),
                    sum(p.unmeasured_requests), sum(p.priced_requests),
                    sum(p.unpriced_requests)]::bigint[] as "counts!",
                coalesce(sum(p.amount), 0)::text as "amount!",
                array_agg(distinct t.prices) as "prices!"
            from unnest($1::integer[], $2::bigint[]) as b (chain, part)
            join posting p on p.chain = b.chain and p.part <= b.part
            join part t on t.chain = p.chain and t.number = p.part
            join series s on s.key = p.series
            where ($3::timestamptz is null or p.quarter >= $3)
              and ($4::timestamptz is null or p.quarter < $4)
              and ($11::text is null or s.tenant = $11)
              and ($5::text is null or s.app = $5)
              and ($6::text is null or s.provider = $6
                   or $6 = any (string_to_array(s.provider, '/')))
              and ($7::text is null or s.model = $7
                   or p.rate_set in (select key from rate_set where priced_model = $7))
              and (cardinality($8::uuid[]) = 0 or (p.series, p.rate_set, p.quarter) in (
                    select * from unnest($8::uuid[], $9::uuid[], $10::timestamptz[])))
            group by p.quarter, p.series, p.rate_set, s.app, s.provider, s.model
            order by p.quarter, p.series, p.rate_set"#,
            &chains,
            &parts,
            filter.from.map(UnixMs::to_utc),
            filter.to.map(UnixMs::to_utc),
            filter.app.as_deref(),
            filter.provider.as_deref(),
            filter.model.as_deref(),
            &series,
            &rate_sets,
            &quarters,
            filter.tenant.as_deref(),
        )
        .fetch(&mut *self.tx);
        while let Some(row) = rows.try_next().await? {
            let held = row.read()?;
            if held.sums != Sums::default() && taker.send(held).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

struct HeldRow {
    quarter: chrono::DateTime<chrono::Utc>,
    series: Uuid,
    rate_set: Uuid,
    app: String,
    provider: String,
    model: String,
    counts: Vec<i64>,
    amount: String,
    prices: Vec<i64>,
}

impl HeldRow {
    fn read(self) -> Result<Held, StoreError> {
        let corrupt = |what: &str| {
            StoreError::Corrupt(format!(
                "the postings of app {:?}, model {:?} at {} {what}; run `tollbook verify`",
                self.app, self.model, self.quarter
            ))
        };
        let quarter = Quarter::starting_at(instant(self.quarter)?)
            .ok_or_else(|| corrupt("lie between two quarter-hours"))?;
        let mut counts = [0; domain::meter::METERS + 4];
        for (count, stored) in counts.iter_mut().zip(&self.counts) {
            *count = u64::try_from(*stored).map_err(|_| corrupt("sum to less than nothing"))?;
        }
        let [
            requests,
            quantities @ ..,
            failed,
            unmeasured,
            priced,
            unpriced,
        ] = counts;
        let mut of = PerMeter::from_array([0; domain::meter::METERS]);
        let used = std::iter::once(requests).chain(quantities);
        for (meter, quantity) in domain::meter::Meter::ALL.into_iter().zip(used) {
            of.set(meter, quantity);
        }
        let amount: Amount = self
            .amount
            .parse()
            .map_err(|_| corrupt("sum to no amount"))?;
        let mut prices: Vec<Version> = self.prices.iter().copied().map(Version).collect();
        prices.sort_unstable();
        Ok(Held {
            key: PostingKey {
                series: SeriesId(Hash128::from_bytes(self.series.into_bytes())),
                rate_set: RateSetId(Hash128::from_bytes(self.rate_set.into_bytes())),
                quarter,
            },
            sums: Sums {
                quantities: of,
                failed_requests: failed,
                unmeasured_requests: unmeasured,
                priced_requests: priced,
                unpriced_requests: unpriced,
                amount,
            },
            app: self.app,
            provider: self.provider,
            model: self.model,
            prices,
        })
    }
}
