//! Partitions of postings by month and of ids by day: made ahead, dropped below every floor.
//!
//! Invariant: a row always finds a partition, since the default ones catch what none was made for.
//! Deliberately absent: dropping postings; nothing here ever does.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, Utc};
use domain::fold::{BatchFold, SeenId};
use domain::time::{DAY_MS, Quarter, UnixMs};
use sqlx::PgConnection;
use tokio::time::Instant;

use crate::connect::Database;
use crate::error::StoreError;

/// Partitions that one batch makes at most. A log whose times are spread over decades would
/// otherwise make thousands; the default partitions hold the rest.
const MADE_PER_BATCH_MAX: usize = 48;

/// How long a partition may wait for a reader to let go of the default partition. Whatever cannot
/// be made now is tried again later.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '500ms'";

/// How long nothing is made after a reader was in the way, so that a report of minutes does not slow
/// every batch down by the time-out.
const PAUSE: Duration = Duration::from_secs(30);

/// The partitions that are known to exist.
#[derive(Debug, Default)]
pub(crate) struct Known {
    days: HashSet<NaiveDate>,
    months: HashSet<NaiveDate>,
    not_before: Option<Instant>,
}

impl Known {
    /// Makes the partitions that the batch's rows belong to, and those after them, in transactions
    /// of their own before the batch's.
    pub(crate) async fn ensure(
        &mut self,
        connection: &mut PgConnection,
        fold: &BatchFold,
    ) -> Result<(), StoreError> {
        // Ids that producers own lie behind all of log lines, in a table of their own.
        let of_lines = |id: &&SeenId| !id.identity.is_of_producer();
        let ids = fold.ids().iter().take_while(of_lines);
        let ids = ids.map(|id| id.identity.start());
        let quarters = fold.quarters().map(Quarter::start);
        let touched_days = touched(ids, |date| date);
        let touched_months = touched(quarters, first_of_month);
        let days = with_next(touched_days, &self.days, |date| {
            date.checked_add_days(Days::new(1))
        });
        let months = with_next(touched_months, &self.months, |date| {
            date.checked_add_months(Months::new(1))
        });
        if self
            .not_before
            .is_some_and(|instant| Instant::now() < instant)
        {
            return Ok(());
        }
        self.not_before = None;
        for day in days {
            if !is_made(ensure_day(connection, day).await)? {
                self.not_before = Some(Instant::now() + PAUSE);
                return Ok(());
            }
            self.days.insert(day);
        }
        for month in months {
            if !is_made(ensure_month(connection, month).await)? {
                self.not_before = Some(Instant::now() + PAUSE);
                return Ok(());
            }
            self.months.insert(month);
        }
        Ok(())
    }
}

/// Returns the days (or months) of the instants.
fn touched(
    instants: impl Iterator<Item = UnixMs>,
    of: impl Fn(NaiveDate) -> NaiveDate,
) -> HashSet<NaiveDate> {
    let mut touched = HashSet::new();
    let mut last_day = None;
    for instant in instants {
        // Rows come in runs of one day: only the first of a run is looked at.
        let day = instant.get() / DAY_MS;
        if last_day != Some(day) {
            last_day = Some(day);
            touched.insert(of(instant.to_utc().date_naive()));
        }
    }
    touched
}

fn first_of_month(date: NaiveDate) -> NaiveDate {
    date.with_day(1).unwrap_or(date)
}

/// Adds each one's successor, so that it is there before its first row; leaves out what is known,
/// sorts, and keeps the latest, which the next batches need too.
fn with_next(
    touched: HashSet<NaiveDate>,
    known: &HashSet<NaiveDate>,
    next: impl Fn(NaiveDate) -> Option<NaiveDate>,
) -> Vec<NaiveDate> {
    let nexts: Vec<NaiveDate> = touched.iter().filter_map(|date| next(*date)).collect();
    let mut all: Vec<NaiveDate> = touched.into_iter().chain(nexts).collect();
    all.retain(|date| !known.contains(date));
    all.sort_unstable();
    all.dedup();
    let surplus = all.len().saturating_sub(MADE_PER_BATCH_MAX);
    all.split_off(surplus)
}

/// A partition that a reader holds up is left for later; the rows go to the default partition.
fn is_made(made: Result<(), StoreError>) -> Result<bool, StoreError> {
    match made {
        Ok(()) => Ok(true),
        Err(StoreError::Busy(error)) => {
            tracing::warn!(error = ?error, "a partition could not be made yet, readers hold the lock");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn ensure_day(connection: &mut PgConnection, day: NaiveDate) -> Result<(), StoreError> {
    let mut tx = sqlx::Connection::begin(connection).await?;
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
    sqlx::query!("/* ensure_day */ select ensure_event_seen_day($1)", day)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

async fn ensure_month(connection: &mut PgConnection, month: NaiveDate) -> Result<(), StoreError> {
    let mut tx = sqlx::Connection::begin(connection).await?;
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
    sqlx::query!(
        "/* ensure_month */ select ensure_posting_month($1)",
        midnight(month)
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

fn midnight(date: NaiveDate) -> DateTime<Utc> {
    date.and_time(chrono::NaiveTime::MIN).and_utc()
}

/// How many ids that producers own are deleted at a time, so that no transaction is long.
const DELETED_AT_ONCE: i32 = 10_000;

/// What one deletion left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// Nothing that is old; look again much later.
    All,
    /// More that is old may wait: call again at once.
    Part,
}

/// Deletes ids that producers own and that arrived before what any source's floor may need: at most
/// 10,000, in a transaction of their own.
///
/// # Errors
///
/// Each [`StoreError`] of a statement: try later.
pub async fn delete_old_of_producers(db: &Database) -> Result<Deleted, StoreError> {
    let rows = sqlx::query_scalar!(
        r#"/* delete_old_of_producers */
        select drop_event_seen_by_id_before(current_date, $1) as "deleted!""#,
        DELETED_AT_ONCE
    )
    .fetch_one(db.pool())
    .await?;
    Ok(if rows < DELETED_AT_ONCE {
        Deleted::All
    } else {
        Deleted::Part
    })
}

/// Drops the days of ids that lie below the floor of every source; returns how many.
///
/// A source that has read records and has no floor yet keeps all days.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; [`StoreError::Busy`] where readers hold a day: try later.
pub async fn drop_old(db: &Database) -> Result<u32, StoreError> {
    let floor = sqlx::query_scalar!(
        "/* drop_old */
        select case when not bool_or(s.floor_at is null) then min(s.floor_at) end from source s
        where s.retired_at is null and exists (select from chain c where c.source = s.id)"
    )
    .fetch_one(db.pool())
    .await?;
    let Some(floor) = floor.and_then(UnixMs::from_utc) else {
        return Ok(0);
    };
    let mut tx = db.pool().begin().await?;
    // A drop locks all of the table's parts: batches must not queue behind one that waits.
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
    let dropped = sqlx::query_scalar!(
        r#"/* drop_old */ select drop_event_seen_before($1) as "dropped!""#,
        // A day more: a process may still fold under the floor that it read a moment ago.
        floor
            .saturating_add_ms(DAY_MS.saturating_neg())
            .to_utc()
            .date_naive()
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(u32::try_from(dropped).unwrap_or(0))
}
