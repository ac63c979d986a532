//! The roll-ups against the postings that they sum, and amounts against quantities × rates.
//!
//! Invariant: each range is compared in one statement, so in one snapshot of marks, roll-up and
//! postings; a roll-up that runs meanwhile makes no difference appear or vanish.

use chrono::{DateTime, Utc};
use domain::ids::{ChainId, PartNumber};
use domain::price::RateSetId;
use domain::series::SeriesId;
use domain::{hash::Hash128, time::UnixMs};

use crate::connect::Database;
use crate::cost::{instant, set_tenant};
use crate::error::StoreError;
use crate::rollup::{AmountDiffers, find_difference};

/// Which roll-up differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RollupGrain {
    /// By quarter-hour.
    Quarter,
    /// By UTC day.
    Day,
}

/// One sum of a roll-up that is not the sum of the postings; where one side has no row at all, each
/// of its values is `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollupDifference {
    /// Which roll-up.
    pub grain: RollupGrain,
    /// The start of the quarter-hour or day.
    pub start: UnixMs,
    /// The series.
    pub series: SeriesId,
    /// The rate set.
    pub rate_set: RateSetId,
    /// The series' tenant; empty where the series is missing.
    pub tenant: String,
    /// The series' application; empty where the series is missing.
    pub app: String,
    /// The series' model; empty where the series is missing.
    pub model: String,
    /// The column: a meter, `amount` or a count of requests.
    pub name: String,
    /// The sum of the postings, or `none`.
    pub posted: String,
    /// What the roll-up holds, or `none`.
    pub rolled_up: String,
}

/// Compares both roll-ups with the postings that the marks say they hold, month by month; returns
/// the first differences, at most `rows_max`. Reads the whole journal.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn rollup_differences(
    db: &Database,
    rows_max: u32,
) -> Result<Vec<RollupDifference>, StoreError> {
    let mut differences = Vec::new();
    for month in months(db).await? {
        let rows_left = i64::from(rows_max)
            .saturating_sub(i64::try_from(differences.len()).unwrap_or(i64::MAX));
        if rows_left <= 0 {
            break;
        }
        read_month(db, &month, rows_left, &mut differences).await?;
    }
    Ok(differences)
}

struct Month {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

/// Returns the months of UTC that hold postings or roll-up rows, ascending.
async fn months(db: &Database) -> Result<Vec<Month>, StoreError> {
    let months = sqlx::query_as!(
        Month,
        r#"-- months
        select month as "from!", (month at time zone 'UTC' + interval '1 month') at time zone 'UTC' as "to!"
        from (
            select date_trunc('month', quarter, 'UTC') as month from posting
            union
            select date_trunc('month', quarter, 'UTC') from rollup_quarter
            union
            select date_trunc('month', day, 'UTC') from rollup_day
        ) months
        order by month"#
    )
    .fetch_all(db.pool())
    .await?;
    Ok(months)
}

async fn read_month(
    db: &Database,
    month: &Month,
    rows_max: i64,
    differences: &mut Vec<RollupDifference>,
) -> Result<(), StoreError> {
    let mut tx = db.pool().begin().await?;
    set_tenant(&mut tx, "*").await?;
    let rows = sqlx::query_file!("src/audit/rollups.sql", month.from, month.to, rows_max)
        .fetch_all(&mut *tx)
        .await?;
    for row in rows {
        let grain = if row.grain == "day" {
            RollupGrain::Day
        } else {
            RollupGrain::Quarter
        };
        differences.push(RollupDifference {
            grain,
            start: instant(row.start)?,
            series: SeriesId(Hash128::from_bytes(row.series.into_bytes())),
            rate_set: RateSetId(Hash128::from_bytes(row.rate_set.into_bytes())),
            tenant: row.tenant,
            app: row.app,
            model: row.model,
            name: row.name,
            posted: row.posted,
            rolled_up: row.rolled_up,
        });
    }
    Ok(())
}

/// Returns the first posting of a chain's parts after one up to another whose amount is not
/// Σ quantity × rate, or whose series or rate set is missing.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn amount_difference(
    db: &Database,
    chain: ChainId,
    after: PartNumber,
    up_to: PartNumber,
) -> Result<Option<AmountDiffers>, StoreError> {
    let mut tx = db.pool().begin().await?;
    set_tenant(&mut tx, "*").await?;
    Ok(find_difference(&mut tx, &[chain.0], &[after.0], &[up_to.0]).await?)
}
