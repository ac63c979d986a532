//! The openings of accounts: what the ledger held when a limit began to count.
//!
//! Invariant: of a limit that the ledger tells, the opening and what the chains counted are together
//! what the ledger holds. So where a limit was taken out of force and comes back, its opening is the
//! difference to what its chains had counted before. Other limits have no openings and begin with
//! nothing. Deliberately absent: the lock, under which all of this is called.

use std::collections::HashMap;
use std::sync::Arc;

use domain::counting::{AccountSum, AccountSums, CounterName, LogLimit, LogLimits, SeriesUse};
use domain::ids::Version;
use domain::meter::PerMeter;
use domain::policy::CounterKey;
use domain::policy::model::LimitId;
use domain::series::Series;
use domain::time::UnixMs;
use domain::units::Units;
use domain::window::Span;
use sqlx::PgConnection;
use uuid::Uuid;

use super::limit_of;
use crate::accounts::{AccountWriter, LIVE_MS, Row, counter_of, quantities_of, units_of, write};
use crate::cost::instant;
use crate::error::StoreError;
use crate::in_force::uuid_of;

/// How long the ledger may be summed, while no batch commits, and how long Postgres may wait meanwhile
/// for what is made of its rows.
const TIMEOUTS: &str = "set local statement_timeout = '5min';
    set local idle_in_transaction_session_timeout = '5min'";

/// How far ahead of the clock usage may lie: its record's 5 minutes, and clocks that differ.
const AHEAD_MS: i64 = 10 * 60 * 1000;

/// Opens the accounts of the limits that begin.
pub(super) async fn open(
    tx: &mut PgConnection,
    version: Version,
    limits: &LogLimits,
    now: UnixMs,
    begins: impl Fn(&LimitId) -> bool,
) -> Result<(), StoreError> {
    let told: Vec<&LogLimit> = limits
        .iter()
        .filter(|limit| limit.is_told_by_ledger() && begins(&limit.id))
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    let horizon = now.saturating_add_ms(LIVE_MS.saturating_neg());
    let spans = spans_of(&told, horizon, now.saturating_add_ms(AHEAD_MS));
    sqlx::raw_sql(TIMEOUTS).execute(&mut *tx).await?;
    let mut sums = AccountSums::after(horizon);
    for used in read_ledger(tx, &spans).await? {
        let is_of_span = |limit: &LogLimit| {
            let slot = limit.slots().slot_at(used.span.start());
            slot == used.span && told.iter().any(|told| told.id == limit.id)
        };
        sums.add_use(limits, &used.as_use(), is_of_span);
    }
    let ids: Vec<Uuid> = told.iter().map(|limit| uuid_of(limit.id.0)).collect();
    let counted = read_counted(tx, &ids, horizon).await?;
    let openings = differences(sums.into_sums(), counted);
    let rows = openings.iter().map(|sum| Row {
        sum,
        chain: 0,
        epoch: version.0,
        part: version.0,
    });
    write(tx, AccountWriter::Opening, rows.collect()).await
}

/// Returns the slots that count from the horizon on and have begun, each once.
fn spans_of(limits: &[&LogLimit], horizon: UnixMs, ahead: UnixMs) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for limit in limits {
        let mut at = horizon;
        while at <= ahead {
            let span = limit.slots().slot_at(at);
            if !spans.contains(&span) {
                spans.push(span);
            }
            if span.end() <= at {
                break;
            }
            at = span.end();
        }
    }
    spans
}

/// What the ledger holds of one series in a slot.
struct LedgerUse {
    span: Span,
    series: Series,
    quantities: PerMeter<i128>,
    amount: i128,
    unpriced: i128,
}

impl LedgerUse {
    const fn as_use(&self) -> SeriesUse<'_> {
        SeriesUse {
            series: &self.series,
            start: self.span.start(),
            quantities: &self.quantities,
            amount: self.amount,
            unpriced: self.unpriced,
        }
    }
}

/// Sums the ledger by slot and series: quarter-hours as far as they are rolled up, then postings.
async fn read_ledger(tx: &mut PgConnection, spans: &[Span]) -> Result<Vec<LedgerUse>, StoreError> {
    let starts: Vec<_> = spans.iter().map(|span| span.start().to_utc()).collect();
    let ends: Vec<_> = spans.iter().map(|span| span.end().to_utc()).collect();
    let rows = sqlx::query_file!("src/policies/opening.sql", &starts, &ends)
        .fetch_all(tx)
        .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let start = instant(row.start)?;
        let span = spans
            .iter()
            .find(|span| span.start() == start && span.end().to_utc() == row.until);
        let span =
            *span.ok_or_else(|| StoreError::Corrupt(format!("no slot begins at {start}")))?;
        found.push(LedgerUse {
            span,
            series: Series {
                tenant: row.tenant,
                app: row.app,
                user: row.user_id,
                session: row.session,
                route: row.route,
                provider: row.provider,
                model: row.model,
            },
            quantities: quantities_of(&row.quantities)?,
            amount: units_of(&row.amount)?.get(),
            unpriced: units_of(&row.unpriced)?.get(),
        });
    }
    Ok(found)
}

/// What chains counted for a slot of a limit that was in force before.
struct Counted {
    account: AccountSum,
    has_opening: bool,
}

async fn read_counted(
    tx: &mut PgConnection,
    limits: &[Uuid],
    horizon: UnixMs,
) -> Result<Vec<Counted>, StoreError> {
    let rows = sqlx::query!(
        r#"/* read_counted */
        select counter, slot, max(counts_until) as "counts_until!",
            coalesce(sum(sum) filter (where chain <> 0), 0)::text as "sum!",
            bool_or(chain = 0) as "has_opening!", min(limit_id::text)::uuid as "limit_id!",
            min(tenant) as "tenant!", min(key_values) as "key_values!: Vec<Option<String>>"
        from account where limit_id = any($1) and counts_until > $2
        group by counter, slot"#,
        limits,
        horizon.to_utc()
    )
    .fetch_all(tx)
    .await?;
    let read = rows.into_iter().map(|row| {
        let name = CounterName {
            limit: limit_of(row.limit_id),
            tenant: row.tenant,
            values: row.key_values,
        };
        Ok(Counted {
            account: AccountSum {
                counter: counter_of(row.counter),
                name: Arc::new(name),
                slot: instant(row.slot)?,
                counts_until: instant(row.counts_until)?,
                sum: units_of(&row.sum)?,
            },
            has_opening: row.has_opening,
        })
    });
    read.collect()
}

/// Returns the ledger's sums less what was counted; nothing where neither differs nor an older opening
/// says otherwise.
fn differences(ledger: Vec<AccountSum>, counted: Vec<Counted>) -> Vec<AccountSum> {
    let mut openings: HashMap<(CounterKey, UnixMs), AccountSum> = ledger
        .into_iter()
        .map(|sum| ((sum.counter, sum.slot), sum))
        .collect();
    for Counted {
        account,
        has_opening,
    } in counted
    {
        let key = (account.counter, account.slot);
        let units = account.sum;
        let opening = openings.entry(key).or_insert(AccountSum {
            sum: Units::ZERO,
            ..account
        });
        opening.sum = opening.sum.saturating_sub(units);
        if opening.sum.is_zero() && !has_opening {
            openings.remove(&key);
        }
    }
    let mut openings: Vec<_> = openings.into_values().collect();
    openings.sort_unstable_by_key(|sum| (sum.counter, sum.slot));
    openings
}
