//! What usage cost: sums over the ledger by any dimensions, a range and buckets within it.
//!
//! Invariant: an answer is one snapshot of roll-up, marks and the parts after the marks, so it equals
//! the sum of all postings at that instant, whatever the roll-up does meanwhile. Deliberately absent:
//! zones and grains (buckets arrive as instants) and rounding (sums are exact).

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use domain::meter::{Meter, PerMeter};
use domain::money::Amount;
use domain::time::{DAY_MS, UnixMs};
use sqlx::{PgConnection, Postgres, Transaction};

use crate::connect::Database;
use crate::error::StoreError;

/// The most groups that one answer may have: about 1 KiB each, so that a report by session over
/// years ends in an error rather than in the memory of its process.
pub const GROUPS_MAX: usize = 1_000_000;

/// What cost can be grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// The organisation.
    Tenant,
    /// The application that is charged.
    App,
    /// The person or service behind the requests; empty where a source names none.
    User,
    /// The conversation; empty where a source names none.
    Session,
    /// The gateway's route; empty where the log has none.
    Route,
    /// Who answered; empty where the log does not say.
    Provider,
    /// The model that was asked for.
    Model,
    /// The model that answered and chose the rates.
    PricedModel,
}

impl Dimension {
    /// All dimensions.
    pub const ALL: [Self; 8] = [
        Self::Tenant,
        Self::App,
        Self::User,
        Self::Session,
        Self::Route,
        Self::Provider,
        Self::Model,
        Self::PricedModel,
    ];

    /// Returns the name used on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::App => "app",
            Self::User => "user",
            Self::Session => "session",
            Self::Route => "route",
            Self::Provider => "provider",
            Self::Model => "model",
            Self::PricedModel => "priced_model",
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no dimension.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a dimension; the dimensions are tenant, app, user, session, route, provider, \
     model and priced_model"
)]
pub struct UnknownDimension(String);

impl FromStr for Dimension {
    type Err = UnknownDimension;

    fn from_str(name: &str) -> Result<Self, UnknownDimension> {
        Self::ALL
            .into_iter()
            .find(|dimension| dimension.name() == name)
            .ok_or_else(|| UnknownDimension(name.to_owned()))
    }
}

/// Whose usage a reader may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// All tenants: the operator.
    All,
    /// One tenant.
    One(String),
}

impl Tenants {
    /// Returns the setting that row-level security goes by. A tenant that calls itself `*` is told
    /// apart from the operator by the statements, which compare the name as well.
    fn setting(&self) -> &str {
        match self {
            Self::All => "*",
            Self::One(tenant) => tenant,
        }
    }

    const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

/// What to sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostQuery {
    /// What to sum separately by; each at most once; none for one total.
    pub by: Vec<Dimension>,
    /// Ascending instants, at least two: bucket n holds the quarter-hours from bound n up to, not
    /// including, bound n + 1.
    pub bounds: Vec<UnixMs>,
}

/// One group's usage within one bucket. A group without usage has no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostRow {
    /// Where the bucket begins: one of the query's bounds.
    pub start: UnixMs,
    /// The values of the dimensions in the order of [`CostQuery::by`]; empty where a source names
    /// none.
    pub dimensions: Vec<String>,
    /// What was used and what it cost.
    pub sums: CostSums,
}

/// Usage and its cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostSums {
    /// Usage, meter by meter.
    pub quantities: PerMeter<u128>,
    /// Requests that did not succeed; part of the requests.
    pub failed_requests: u128,
    /// Requests that succeeded and whose log has no token counts; part of the requests.
    pub unmeasured_requests: u128,
    /// Requests with a positive quantity of a billable meter that has a rate.
    pub priced_requests: u128,
    /// Requests with a positive quantity of a billable meter that has no rate.
    pub unpriced_requests: u128,
    /// The sum of the amounts that exist; `None` exactly where there is billable usage and none of
    /// it has an amount.
    pub amount: Option<Amount>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The answer would have more than [`GROUPS_MAX`] rows: ask for less.
    #[error(
        "the report would have more than {GROUPS_MAX} rows: name fewer dimensions, a shorter range \
         or a coarser grain"
    )]
    TooManyGroups,
    /// The store failed; retry as its kind says.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CostError {
    /// Returns the fixed name of the kind, for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TooManyGroups => "too_many_groups",
            Self::Store(error) => error.kind(),
        }
    }
}

impl From<sqlx::Error> for CostError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// The first and the last quarter-hour with usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The start of the first quarter-hour.
    pub first: UnixMs,
    /// The start of the last quarter-hour.
    pub last: UnixMs,
}

/// One snapshot of the ledger, as one reader may see it.
pub struct Snapshot {
    tx: Transaction<'static, Postgres>,
    tenants: Tenants,
}

/// Sums the ledger in one snapshot; rows ascending by bucket, then by dimensions, bytewise.
///
/// # Errors
///
/// Those of [`Snapshot::cost`].
pub async fn cost(
    db: &Database,
    tenants: Tenants,
    query: &CostQuery,
) -> Result<Vec<CostRow>, CostError> {
    let mut snapshot = Snapshot::open(db, tenants).await?;
    snapshot.cost(query).await
}

impl Snapshot {
    /// Opens a snapshot: everything read through it is as of one instant.
    ///
    /// # Errors
    ///
    /// A [`StoreError`]; retry as its kind says.
    pub async fn open(db: &Database, tenants: Tenants) -> Result<Self, StoreError> {
        let mut tx = db
            .pool()
            .begin_with("begin transaction isolation level repeatable read, read only")
            .await?;
        set_tenant(&mut tx, tenants.setting()).await?;
        Ok(Self { tx, tenants })
    }

    /// Returns the first and the last quarter-hour with usage; `None` where there is none.
    ///
    /// # Errors
    ///
    /// A [`StoreError`]; retry as its kind says.
    pub async fn extent(&mut self) -> Result<Option<Extent>, StoreError> {
        let (is_all, tenant) = (self.tenants.is_all(), self.tenants.setting());
        let found = sqlx::query!(
            r#"-- extent
            select
                least(
                    (select min(quarter) from rollup_quarter
                     where $1 or series in (select key from series where tenant = $2)),
                    min(p.quarter)) as first,
                greatest(
                    (select max(quarter) from rollup_quarter
                     where $1 or series in (select key from series where tenant = $2)),
                    max(p.quarter)) as last
            from chain c
            left join rollup_mark m on m.chain = c.id
            cross join lateral (
                -- As in cost.sql: by the index, whatever Postgres takes to lie after the mark.
                select quarter from posting
                where chain = c.id and part > coalesce(m.part, 0) and part <= 9223372036854775807
                  and ($1 or series in (select key from series where tenant = $2))
                offset 0
            ) p"#,
            is_all,
            tenant,
        )
        .fetch_one(&mut *self.tx)
        .await?;
        match (found.first, found.last) {
            (Some(first), Some(last)) => Ok(Some(Extent {
                first: instant(first)?,
                last: instant(last)?,
            })),
            _ => Ok(None),
        }
    }

    /// Sums the ledger; rows ascending by bucket, then by dimensions, bytewise.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] where a sum is no sum (run `verify`), [`CostError::TooManyGroups`]
    /// beyond [`GROUPS_MAX`] (ask for less); else as its kind says.
    pub async fn cost(&mut self, query: &CostQuery) -> Result<Vec<CostRow>, CostError> {
        let (Some(from), Some(to)) = (query.bounds.first(), query.bounds.last()) else {
            return Ok(Vec::new());
        };
        let by = |dimension| query.by.contains(&dimension);
        let bounds: Vec<DateTime<Utc>> = query.bounds.iter().map(|bound| bound.to_utc()).collect();
        let found = sqlx::query_file_as!(
            FoundRow,
            "src/cost.sql",
            query.bounds.iter().all(|bound| is_day_edge(*bound)),
            from.to_utc(),
            to.to_utc(),
            &bounds,
            self.tenants.is_all(),
            self.tenants.setting(),
            by(Dimension::Tenant),
            by(Dimension::App),
            by(Dimension::User),
            by(Dimension::Session),
            by(Dimension::Route),
            by(Dimension::Provider),
            by(Dimension::Model),
            by(Dimension::PricedModel),
            i64::try_from(GROUPS_MAX)
                .unwrap_or(i64::MAX)
                .saturating_add(1),
        )
        .fetch_all(&mut *self.tx)
        .await?;
        if found.len() > GROUPS_MAX {
            return Err(CostError::TooManyGroups);
        }
        let mut rows: Vec<CostRow> = found
            .into_iter()
            .map(|row| row.read(query))
            .collect::<Result<_, _>>()?;
        rows.sort_by(|a, b| (a.start, &a.dimensions).cmp(&(b.start, &b.dimensions)));
        Ok(rows)
    }
}

/// Names the tenant whose rows the transaction may see.
pub(crate) async fn set_tenant(tx: &mut PgConnection, tenant: &str) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        "-- set_tenant
        select set_config('tollbook.tenant', $1, true)",
        tenant
    )
    .fetch_one(tx)
    .await?;
    Ok(())
}

/// Says whether no UTC day is cut at this instant; the last instant of all cuts none either.
fn is_day_edge(instant: UnixMs) -> bool {
    instant.get() % DAY_MS == 0 || instant.saturating_add_ms(1) == instant
}

/// An instant from the store.
pub(crate) fn instant(stored: DateTime<Utc>) -> Result<UnixMs, StoreError> {
    UnixMs::from_utc(stored).ok_or_else(|| {
        StoreError::Corrupt(format!(
            "the ledger holds an instant out of range, {stored}"
        ))
    })
}

/// A row as the statement returns it: numbers as decimal texts, since they may pass 64 bits.
struct FoundRow {
    bucket: i32,
    tenant: String,
    app: String,
    user_id: String,
    session: String,
    route: String,
    provider: String,
    model: String,
    priced_model: String,
    quantities: Vec<String>,
    failed_requests: String,
    unmeasured_requests: String,
    priced_requests: String,
    unpriced_requests: String,
    amount: Option<String>,
}

impl FoundRow {
    fn read(self, query: &CostQuery) -> Result<CostRow, StoreError> {
        let start = usize::try_from(self.bucket)
            .ok()
            .and_then(|bucket| bucket.checked_sub(1))
            .and_then(|bucket| query.bounds.get(bucket).copied())
            .ok_or_else(|| StoreError::Corrupt(format!("bucket {} is none", self.bucket)))?;
        let dimensions = query
            .by
            .iter()
            .map(|by| self.dimension(*by).to_owned())
            .collect();
        Ok(CostRow {
            start,
            dimensions,
            sums: self.sums()?,
        })
    }

    fn dimension(&self, dimension: Dimension) -> &str {
        match dimension {
            Dimension::Tenant => &self.tenant,
            Dimension::App => &self.app,
            Dimension::User => &self.user_id,
            Dimension::Session => &self.session,
            Dimension::Route => &self.route,
            Dimension::Provider => &self.provider,
            Dimension::Model => &self.model,
            Dimension::PricedModel => &self.priced_model,
        }
    }

    fn sums(&self) -> Result<CostSums, StoreError> {
        let mut quantities = PerMeter::default();
        for (meter, text) in Meter::ALL.into_iter().zip(&self.quantities) {
            quantities.set(meter, count(meter.name(), text)?);
        }
        let priced_requests = count("priced_requests", &self.priced_requests)?;
        let unpriced_requests = count("unpriced_requests", &self.unpriced_requests)?;
        let summed = match &self.amount {
            Some(text) => amount(text)?,
            None => Amount::ZERO,
        };
        // Of several postings, one without an amount and one without billable usage, whose amount is
        // 0, make a group that has no amount.
        let is_unknown = unpriced_requests > 0 && priced_requests == 0;
        if is_unknown && summed != Amount::ZERO {
            return Err(StoreError::Corrupt(format!(
                "usage without any rate has the amount {summed}; run `tollbook verify`"
            )));
        }
        Ok(CostSums {
            quantities,
            failed_requests: count("failed_requests", &self.failed_requests)?,
            unmeasured_requests: count("unmeasured_requests", &self.unmeasured_requests)?,
            priced_requests,
            unpriced_requests,
            amount: (!is_unknown).then_some(summed),
        })
    }
}

fn count(column: &str, text: &str) -> Result<u128, StoreError> {
    text.parse().map_err(|_| {
        StoreError::Corrupt(format!(
            "the sum of {column} is {text}, not a count; run `tollbook verify`"
        ))
    })
}

fn amount(text: &str) -> Result<Amount, StoreError> {
    text.parse().map_err(|error| {
        StoreError::Corrupt(format!(
            "the sum of amounts, {text}, {error}; run `tollbook verify`"
        ))
    })
}
