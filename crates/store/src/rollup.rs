//! The roll-up: moves postings, part by part, into sums by quarter-hour and by day.
//!
//! Invariant: what is rolled up equals the postings of each chain up to its mark, since sums and
//! marks change in one transaction; and no amount is rolled up that differs from Σ quantity × rate.
//! Deliberately absent: when to roll up (a task of ingest decides) and reading (see `cost`).

use domain::ids::{ChainId, PartNumber, PartRef};
use sqlx::PgConnection;

use crate::connect::Database;
use crate::cost::set_tenant;
use crate::error::StoreError;
use crate::fault;

/// The most parts that one run moves, all chains together: at ten parts a second, two minutes of a
/// process, so that a backlog is worked off in steps that hold no lock for long.
const PARTS_MAX: i64 = 1_200;

/// The most postings that one run moves, all chains together, but for one part of each chain: at
/// the 100,000 rows a second that an upsert takes, a few seconds.
const POSTINGS_MAX: i64 = 300_000;

/// What one run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolledUp {
    /// Another process is rolling up; nothing was done.
    Busy,
    /// Every part that was there when the run began and fitted into its bounds is rolled up.
    Moved {
        /// How many parts were rolled up; 0 where there was nothing to do.
        parts: u64,
        /// More parts wait; run again at once.
        is_behind: bool,
    },
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

/// Rolls up the next parts of every chain in one transaction, unless another process does.
///
/// # Errors
///
/// [`RollUpError::AmountDiffers`] names the first posting whose amount is not Σ quantity × rate: stop
/// and verify. [`RollUpError::Store`]: retry as its kind says.
pub async fn roll_up(db: &Database) -> Result<RolledUp, RollUpError> {
    let mut tx = db.pool().begin().await?;
    set_tenant(&mut tx, "*").await?;
    if !try_lock(&mut tx).await? {
        return Ok(RolledUp::Busy);
    }
    // Statements after the one that took the lock see the marks that the run before left.
    let plan = plan(&mut tx).await?;
    if plan.chains.is_empty() {
        return Ok(RolledUp::Moved {
            parts: 0,
            is_behind: false,
        });
    }
    if let Some(found) = find_difference(&mut tx, &plan.chains, &plan.after, &plan.up_to).await? {
        return Err(RollUpError::AmountDiffers(Box::new(found)));
    }
    move_parts(&mut tx, &plan).await?;
    fault::point("rollup::before_commit");
    tx.commit().await?;
    let parts = u64::try_from(plan.parts).unwrap_or(0);
    Ok(RolledUp::Moved {
        parts,
        is_behind: plan.is_behind,
    })
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

/// Adds the parts' postings to both roll-ups, in the order of their keys, and moves the marks.
async fn move_parts(tx: &mut PgConnection, plan: &Plan) -> Result<(), StoreError> {
    let moved = sqlx::query_file_scalar!("src/rollup.sql", &plan.chains, &plan.after, &plan.up_to)
        .fetch_one(tx)
        .await?;
    if usize::try_from(moved).ok() == Some(plan.chains.len()) {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!(
        "the roll-up moved {moved} marks of {}; run `tollbook verify`",
        plan.chains.len()
    )))
}
