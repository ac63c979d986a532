//! The roll-up: moves postings, part by part, into sums by quarter-hour, and those of past days into
//! sums by day.
//!
//! Invariant: what is rolled up equals the postings of each chain up to its mark, since sums and
//! marks change in one transaction; the rows by day of each day that `rolled_day` names, and of no
//! other, are the sums of its quarter-hours; and no sum is rolled up whose amount differs from
//! Σ quantity × rate. Deliberately absent: when to roll up (a task of ingest decides) and reading
//! (see `cost`).

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::{ChainId, PartNumber, PartRef};
use sqlx::PgConnection;

use crate::connect::Database;
use crate::cost::set_tenant;
use crate::error::StoreError;
use crate::fault;

/// The most parts that one run moves, all chains together: at ten parts a second, half an hour of a
/// process.
const PARTS_MAX: i64 = 20_000;

/// The most postings that one run moves, all chains together, but for one part of each chain: a few
/// seconds, so that a backlog is worked off in steps that hold no lock for long.
const POSTINGS_MAX: i64 = 500_000;

/// What one run did.
#[derive(Debug)]
pub enum RolledUp {
    /// Another process is rolling up; nothing was done.
    Busy,
    /// Every part that was there when the run began and fitted into its bounds is rolled up.
    Moved {
        /// How many parts were rolled up; 0 where there was nothing to do.
        parts: u64,
        /// More parts or past days wait; run again at once.
        is_behind: bool,
    },
    /// Parts were moved, and then a past day could not be made: told, and tried again later.
    DayFailed {
        /// How many parts were rolled up.
        parts: u64,
        /// Why.
        error: StoreError,
    },
}

/// What the roll-up has not taken up yet, and reports sum posting by posting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How many postings wait, all chains together; of a long backlog its beginning.
    pub postings: u64,
    /// Since when the oldest of them waits, by Postgres's clock; `None` where nothing waits.
    pub oldest: Option<Duration>,
}

/// A posting whose amount is not what its quantities cost by its rate set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmountDiffers {
    /// The part that holds the posting.
    pub part: PartRef,
    /// The key of its series, 32 hexadecimal digits.
    pub series: String,
    /// The tenant, empty where the series is missing.
    pub tenant: String,
    /// The application, empty where the series is missing.
    pub app: String,
    /// The model asked for, empty where the series is missing.
    pub model: String,
    /// The amount that the posting holds.
    pub posted: String,
    /// Σ quantity × rate, or `none` where the rate set is missing.
    pub computed: String,
}

/// Why a roll-up did not happen; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RollUpError {
    /// The ledger was tampered with, or this program is at fault: stop, and run `verify`.
    #[error(
        "a posting of chain {}, part {}, series {} (app {:?}, model {:?}) holds the amount {}, but \
         its quantities cost {}; nothing was rolled up, run `tollbook verify`",
        .0.part.chain.0, .0.part.number.0, .0.series, .0.app, .0.model, .0.posted, .0.computed
    )]
    AmountDiffers(Box<AmountDiffers>),
    /// The store failed; retry as its kind says.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RollUpError {
    /// Returns the fixed name of the kind, for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::AmountDiffers(_) => "amount_differs",
            Self::Store(error) => error.kind(),
        }
    }
}

impl From<sqlx::Error> for RollUpError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What a run moves: of each chain the parts after one up to another; parallel, ascending by chain.
struct Plan {
    chains: Vec<i32>,
    after: Vec<i64>,
    up_to: Vec<i64>,
    parts: i64,
    is_behind: bool,
}

/// Tells what waits to be rolled up.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn waiting(db: &Database) -> Result<Waiting, StoreError> {
    let found = sqlx::query!(
        r#"-- waiting
        select coalesce(sum(p.postings), 0)::bigint as "postings!",
            (extract(epoch from clock_timestamp() - min(b.committed_at)) * 1000)::bigint
                as oldest_ms
        from source_position s
        left join rollup_mark m on m.chain = s.chain
        cross join lateral (
            select number, postings, batch from part
            where chain = s.chain and number > coalesce(m.part, 0) and number <= s.part
            order by number
            limit $1
        ) p
        left join batch b on p.number = coalesce(m.part, 0) + 1 and b.id = p.batch"#,
        PARTS_MAX
    )
    .fetch_one(db.pool())
    .await?;
    let oldest = found.oldest_ms.map(|ms| u64::try_from(ms).unwrap_or(0));
    Ok(Waiting {
        postings: u64::try_from(found.postings).unwrap_or(0),
        oldest: oldest.map(Duration::from_millis),
    })
}

/// Rolls up the next parts of every chain in one transaction, unless another process does; where no
/// more parts wait, makes the rows of one past day in another.
///
/// # Errors
///
/// [`RollUpError::AmountDiffers`] names a posting whose amount is not Σ quantity × rate: stop and
/// verify. [`RollUpError::Store`]: retry as its kind says.
pub async fn roll_up(db: &Database) -> Result<RolledUp, RollUpError> {
    let mut tx = db.pool().begin().await?;
    set_tenant(&mut tx, "*").await?;
    if !try_lock(&mut tx).await? {
        return Ok(RolledUp::Busy);
    }
    // Statements after the one that took the lock see the marks that the run before left.
    let plan = plan(&mut tx).await?;
    let parts = u64::try_from(plan.parts).unwrap_or(0);
    if parts > 0 {
        move_parts(&mut tx, &plan).await?;
        fault::point("rollup::before_commit");
    }
    tx.commit().await?;
    // Days wait until the parts are moved, since what moves into a day that is made costs twice.
    let is_behind = plan.is_behind
        || match make_next_day(db).await {
            Ok(was_made) => was_made,
            Err(error) if parts > 0 => return Ok(RolledUp::DayFailed { parts, error }),
            Err(error) => return Err(error.into()),
        };
    Ok(RolledUp::Moved { parts, is_behind })
}

async fn try_lock(tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- try_lock
        select pg_try_advisory_xact_lock(hashtext('tollbook.rollup')) as "is_mine!""#
    )
    .fetch_one(tx)
    .await
}

/// Chooses the parts: each chain that is behind gets an equal share of the bounds, and one part at
/// least.
async fn plan(tx: &mut PgConnection) -> Result<Plan, sqlx::Error> {
    let rows = sqlx::query!(
        r#"-- plan
        with behind as (
            select s.chain, coalesce(m.part, 0) as mark, s.part as last, count(*) over () as chains
            from source_position s
            left join rollup_mark m on m.chain = s.chain
            where s.part > coalesce(m.part, 0)
        ), candidate as (
            select b.chain, b.mark, b.last, b.chains, p.number,
                sum(p.postings) over (partition by b.chain order by p.number) as postings
            from behind b
            join lateral (
                select number, postings from part
                where chain = b.chain and number > b.mark and number <= b.last
                order by number
                limit greatest(1, $1 / b.chains)
            ) p on true
        )
        select chain as "chain!", mark as "mark!", last as "last!", max(number) as "up_to!",
            count(*) as "parts!"
        from candidate
        where postings <= $2 / chains or number = mark + 1
        group by chain, mark, last
        order by chain"#,
        PARTS_MAX,
        POSTINGS_MAX,
    )
    .fetch_all(tx)
    .await?;
    Ok(Plan {
        chains: rows.iter().map(|row| row.chain).collect(),
        after: rows.iter().map(|row| row.mark).collect(),
        up_to: rows.iter().map(|row| row.up_to).collect(),
        parts: rows.iter().map(|row| row.parts).sum(),
        is_behind: rows.iter().any(|row| row.up_to < row.last),
    })
}

/// Looks for a posting whose amount is not Σ quantity × rate, exactly, in the parts of each chain
/// after one up to another; the slices are parallel.
pub(crate) async fn find_difference(
    tx: &mut PgConnection,
    chains: &[i32],
    after: &[i64],
    up_to: &[i64],
) -> Result<Option<AmountDiffers>, sqlx::Error> {
    let found = sqlx::query!(
        r#"-- find_difference
        select p.chain as "chain!", p.part as "part!", p.series::text as "series!",
            coalesce(s.tenant, '') as "tenant!", coalesce(s.app, '') as "app!",
            coalesce(s.model, '') as "model!", coalesce(p.amount::text, 'none') as "posted!",
            coalesce(c.amount::text, 'none') as "computed!"
        from unnest($1::int[], $2::bigint[], $3::bigint[]) as t (chain, after, up_to)
        cross join lateral (
            select * from posting
            where chain = t.chain and part > t.after and part <= t.up_to
            offset 0
        ) p
        left join series s on s.key = p.series
        left join lateral (
            select coalesce(p.requests * r.requests, 0)
                + coalesce(p.input_uncached_tokens * r.input_uncached_tokens, 0)
                + coalesce(p.input_cache_read_tokens * r.input_cache_read_tokens, 0)
                + coalesce(p.input_cache_write_tokens * r.input_cache_write_tokens, 0)
                + coalesce(p.input_cache_write_1h_tokens * r.input_cache_write_1h_tokens, 0)
                + coalesce(p.input_audio_tokens * r.input_audio_tokens, 0)
                + coalesce(p.output_text_tokens * r.output_text_tokens, 0)
                + coalesce(p.output_reasoning_tokens * r.output_reasoning_tokens, 0)
                + coalesce(p.output_audio_tokens * r.output_audio_tokens, 0)
                + coalesce(p.images * r.images, 0) as amount
            from rate_set r where r.key = p.rate_set
        ) c on true
        where c.amount is null or s.key is null or coalesce(p.amount, 0) <> c.amount
        order by p.chain, p.part
        limit 1"#,
        chains,
        after,
        up_to,
    )
    .fetch_optional(tx)
    .await?;
    Ok(found.map(|found| AmountDiffers {
        part: PartRef {
            chain: ChainId(found.chain),
            number: PartNumber(found.part),
        },
        series: found.series.replace('-', ""),
        tenant: found.tenant,
        app: found.app,
        model: found.model,
        posted: found.posted,
        computed: found.computed,
    }))
}

/// Adds the parts' postings to the roll-ups, in the order of their keys, and moves the marks.
async fn move_parts(tx: &mut PgConnection, plan: &Plan) -> Result<(), RollUpError> {
    let done = sqlx::query_file!("src/rollup.sql", &plan.chains, &plan.after, &plan.up_to)
        .fetch_one(&mut *tx)
        .await?;
    if done.differing > 0 {
        let found = find_difference(tx, &plan.chains, &plan.after, &plan.up_to).await?;
        return Err(found.map_or_else(
            || {
                StoreError::Corrupt(format!(
                    "the amounts of {} sums are not what their quantities cost, though each \
                     posting's is; run `tollbook verify`",
                    done.differing
                ))
                .into()
            },
            |found| RollUpError::AmountDiffers(Box::new(found)),
        ));
    }
    if usize::try_from(done.moved).ok() == Some(plan.chains.len()) {
        return Ok(());
    }
    Err(RollUpError::Store(StoreError::Corrupt(format!(
        "the roll-up moved {} marks of {}; run `tollbook verify`",
        done.moved,
        plan.chains.len()
    ))))
}

/// Makes the rows of the earliest day that is over and not named yet, and names it. Returns whether
/// there was one.
async fn make_next_day(db: &Database) -> Result<bool, StoreError> {
    let mut tx = db.pool().begin().await?;
    if !try_lock(&mut tx).await? {
        return Ok(false);
    }
    let Some(day) = next_day(&mut tx).await? else {
        return Ok(false);
    };
    // Ten million rows of a busy day take longer than a batch may.
    sqlx::query!("set local statement_timeout = '600s'")
        .execute(&mut *tx)
        .await?;
    sqlx::query_file!("src/rollup/day.sql", day)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

/// Returns the earliest day without a name that usage has passed by an hour: told by usage, not by a
/// clock, so that a back-fill of past days makes each once, too.
async fn next_day(tx: &mut PgConnection) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- next_day
        with recursive used as (
            select date_trunc('day', min(quarter), 'UTC') as day from rollup_quarter
            union all
            -- From day to day by the index, since Postgres would else read every row.
            select (
                select date_trunc('day', q.quarter, 'UTC') from rollup_quarter q
                where q.quarter >= u.day + interval '24 hours'
                order by q.quarter
                limit 1
            )
            from used u
            where u.day is not null
        )
        select min(u.day)
        from used u
        where u.day + interval '25 hours' <= (select max(quarter) from rollup_quarter)
          and not exists (select from rolled_day r where r.day = u.day)"#
    )
    .fetch_one(tx)
    .await
}
