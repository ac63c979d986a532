//! Adjustments: corrections as parts of the chain `adjustment`, one part in one transaction.
//!
//! Invariant: a part is written only where the chain and what is in force are as they were when the
//! correction was worked out; so two that were worked out side by side never both count. Locks as a
//! batch takes them: the position, what is in force, producers' ids, series, rate sets, batch and part,
//! accounts, the count of log lines' ids.
//! Deliberately absent: working corrections out, and trying again.

mod accounts;
mod content;
mod rejections;
mod rows;
mod sums;

use std::sync::Arc;

use domain::adjustment::{
    Adjustment, AdjustmentKind, AdjustmentRows, Resolution, SignedPosting, adjustment_hash,
};
use domain::counting::LogLimits;
use domain::fold::BatchFold;
use domain::hash::Hash256;
use domain::ids::{ChainId, Epoch, Offset, PartNumber, PartRef, Place};
use domain::part::{Counts, FOLD_VERSION, PartHeader};
use domain::price::{RateSet, RateSetId};
use domain::time::UnixMs;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::batch::ids::{HeldIds, Recorded, record};
use crate::batch::rows::{insert_rate_sets, insert_series, is_in_force};
use crate::batch::{CommitError, commit_error};
use crate::connect::Database;
use crate::error::StoreError;
use crate::fault;
use crate::in_force::Versions;
use crate::partitions;
use crate::source::SourceId;

use content::{Content, content_of, floor_of};

pub use content::{preview, resolutions_of};
pub use rejections::{OpenRejection, RejectionFilter, RejectionKey, open_rejections, resolved_by};
pub use sums::{Held, Horizon, Journal, SumsFilter};

/// Where the adjustment chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The chain.
    pub chain: ChainId,
    /// Of the last adjustment.
    pub epoch: Epoch,
    /// How many corrections its parts hold: the offset of the next one.
    pub position: Offset,
    /// The number of the last part.
    pub last_part: PartNumber,
    /// The hash of the last part; [`Hash256::ZERO`] where there is none.
    pub last_hash: Hash256,
}

impl Standing {
    /// Returns the part that the next adjustment becomes.
    #[must_use]
    pub const fn next_part(&self) -> PartRef {
        PartRef {
            chain: self.chain,
            number: self.last_part.next(),
        }
    }
}

/// A correction that was worked out.
pub struct AdjustmentWrite<'w> {
    /// Where the chain stood before anything was read for it.
    pub standing: Standing,
    /// What is in force by which it was worked out.
    pub versions: Versions,
    /// The limits of the policies in force that count from the log; `None`: there are none.
    pub limits: Option<Arc<LogLimits>>,
    /// Who takes responsibility; `None`: the login.
    pub made_by: Option<String>,
    /// Why; empty where nobody said.
    pub because: String,
    /// What was asked, as JSON.
    pub arguments: String,
    /// What it does.
    pub correction: Correction<'w>,
}

/// What a correction does.
pub enum Correction<'w> {
    /// Counts rejected events of one source.
    Retry(Retry<'w>),
    /// Gives rejected events up: each one's chain and place.
    Drop(Vec<(ChainId, Place)>),
    /// Posts what usage costs otherwise.
    Reprice(Reprice),
}

impl Correction<'_> {
    /// Returns its kind, and whether it takes events that may be repeats.
    const fn kind(&self) -> (AdjustmentKind, bool) {
        match self {
            Self::Retry(retry) => (AdjustmentKind::Retry, retry.accepts_duplicates),
            Self::Drop(_) => (AdjustmentKind::Drop, false),
            Self::Reprice(_) => (AdjustmentKind::Reprice, false),
        }
    }
}

/// Rejected events that are decoded again.
pub struct Retry<'w> {
    /// The source that they came from.
    pub source: SourceId,
    /// Events below the floor are taken as well.
    pub accepts_duplicates: bool,
    /// Folds them under the source's floor. Called before the transaction, so that partitions are
    /// there, and in it once the floor cannot rise any more.
    pub fold: &'w mut (dyn FnMut(Option<UnixMs>) -> Retried + Send),
}

/// Rejected events that were decoded again.
pub struct Retried {
    /// One part, the chain's next; its places have the resolutions' offsets; its `take_ids` was called.
    pub fold: BatchFold,
    /// The resolved events, ascending by offset: these begin at the chain's position and grow by one.
    /// Repeats are counted in `accepted`.
    pub resolutions: Vec<Resolution>,
}

/// Usage that costs otherwise by the book in force.
pub struct Reprice {
    /// Up to which part of each chain was looked, ascending by chain.
    pub bounds: Vec<PartRef>,
    /// How many sums are priced anew.
    pub corrected: u64,
    /// What takes them back, and what they become.
    pub postings: Vec<SignedPosting>,
    /// The rate sets that they become.
    pub rate_sets: Vec<(RateSetId, Arc<RateSet>)>,
}

/// A correction that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjusted {
    /// Its part.
    pub part: PartRef,
    /// The part's hash.
    pub hash: Hash256,
    /// What it counted.
    pub counts: Counts,
    /// What became of rejected events, ascending by offset; duplicates counted as such.
    pub resolutions: Vec<Resolution>,
}

/// Why a correction is not known to be committed.
#[derive(Debug, thiserror::Error)]
pub enum AdjustError {
    /// Another adjustment, a price change or a rising floor came in between; nothing was written.
    /// Work it out again.
    #[error("the ledger moved on while the correction was worked out")]
    Moved,
    /// The answer to COMMIT was lost. Asking for the same correction again is safe: what was
    /// corrected is not corrected twice.
    #[error(
        "whether the correction was committed is not known; run the command again, nothing counts twice"
    )]
    Unknown(#[source] StoreError),
    /// Nothing was written; retry as its kind says.
    #[error(transparent)]
    Failed(#[from] StoreError),
}

impl From<sqlx::Error> for AdjustError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Returns where the adjustment chain stands, and makes the chain where there is none.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; retry as its kind says.
pub async fn open_chain(db: &Database) -> Result<Standing, StoreError> {
    if let Some(standing) = standing(db).await? {
        return Ok(standing);
    }
    sqlx::query!(
        "/* open_chain */
        with made as (
            insert into chain (kind, source, topic, partition, incarnation)
            values ('adjustment', null, '', 0, 1)
            on conflict do nothing
            returning id
        )
        insert into source_position (chain, position) select id, 0 from made"
    )
    .execute(db.pool())
    .await?;
    let missing = || StoreError::Corrupt("the adjustment chain has no position".to_owned());
    standing(db).await?.ok_or_else(missing)
}

/// Returns where the adjustment chain stands; `None` before the first adjustment.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; retry as its kind says.
pub async fn standing(db: &Database) -> Result<Option<Standing>, StoreError> {
    let row = sqlx::query!(
        r#"/* standing */
        select c.id, p.epoch, p.position, p.part, last.hash as "hash?"
        from chain c
        join source_position p on p.chain = c.id
        left join part last on last.chain = p.chain and last.number = p.part
        where c.kind = 'adjustment'"#
    )
    .fetch_optional(db.pool())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let chain = ChainId(row.id);
    let last_hash = match (row.part, row.hash) {
        (0, _) => Hash256::ZERO,
        (number, hash) => hash
            .and_then(|hash| <[u8; 32]>::try_from(hash).ok())
            .map(Hash256::from_bytes)
            .ok_or_else(|| {
                StoreError::corrupt_chain(chain, &format!("part {number} has no hash"))
            })?,
    };
    Ok(Some(Standing {
        chain,
        epoch: Epoch(row.epoch),
        position: Offset(row.position),
        last_part: PartNumber(row.part),
        last_hash,
    }))
}

/// Commits a correction.
///
/// # Errors
///
/// Each case of [`AdjustError`], which says what to do.
pub async fn adjust(db: &Database, write: AdjustmentWrite<'_>) -> Result<Adjusted, AdjustError> {
    let mut write = write;
    let mut connection = db.pool().acquire().await?;
    if let Correction::Retry(retry) = &mut write.correction {
        let floor = floor_of(&mut connection, retry.source).await?;
        let mut known = partitions::Known::default();
        known
            .ensure(&mut connection, &(retry.fold)(floor).fold)
            .await?;
    }
    let mut tx = connection.begin().await?;
    let standing = write.standing;
    let header = Beginning::of(&mut tx, &standing, write.made_by.as_deref()).await?;
    fault::point("adjust::after_position");
    if !is_in_force(&mut tx, write.versions).await? {
        return Err(AdjustError::Moved);
    }
    let (kind, accepts_duplicates) = write.correction.kind();
    let mut content = content_of(&mut tx, &standing, write.correction).await?;
    fault::point("adjust::after_ids");
    let adjustment = Adjustment {
        kind,
        made_at: header.now,
        made_by: header.made_by,
        because: write.because,
        arguments: write.arguments,
        accepts_duplicates,
    };
    let part = PartHeader {
        part: standing.next_part(),
        epoch: header.epoch,
        from: standing.position,
        to: Offset(
            standing
                .position
                .0
                .saturating_add_unsigned(content.counts.records),
        ),
        counts: content.counts,
        fold_version: FOLD_VERSION,
        floor: content.floor,
        prices: write.versions.prices,
        sources: write.versions.sources,
        skipped: None,
        previous: standing.last_hash,
    };
    let hash = insert(&mut tx, &part, &adjustment, &content).await?;
    move_position(&mut tx, &standing, &part).await?;
    accounts::add(
        &mut tx,
        &part,
        header.now,
        write.limits.as_deref(),
        &content,
    )
    .await?;
    // It holds nothing for another one.
    let recorded = record(&mut tx, &mut HeldIds::default(), &mut content.ids).await?;
    if let Recorded::Overtaken = recorded {
        return Err(AdjustError::Moved);
    }
    fault::point("adjust::before_commit");
    tx.commit().await.map_err(uncommitted)?;
    fault::point("adjust::after_commit");
    Ok(Adjusted {
        part: part.part,
        hash,
        counts: part.counts,
        resolutions: content.resolutions,
    })
}

fn uncommitted(error: sqlx::Error) -> AdjustError {
    match commit_error(error) {
        CommitError::Unknown(error) => AdjustError::Unknown(error),
        CommitError::Failed(error) => AdjustError::Failed(error),
        CommitError::Lost { .. } | CommitError::InForceChanged | CommitError::Overtaken => {
            AdjustError::Moved
        }
    }
}

/// What is read under the chain's lock.
struct Beginning {
    now: UnixMs,
    made_by: String,
    epoch: Epoch,
}

impl Beginning {
    /// Locks the chain's position; [`AdjustError::Moved`] where it is not where the caller began.
    async fn of(
        tx: &mut PgConnection,
        standing: &Standing,
        made_by: Option<&str>,
    ) -> Result<Self, AdjustError> {
        let row = sqlx::query!(
            r#"/* lock_adjustments */
            select p.epoch, p.position, p.part, p.state, clock_timestamp() as "now!",
                coalesce($2, session_user)::text as "made_by!",
                greatest(p.epoch + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint)
                    as "next_epoch!"
            from source_position p where p.chain = $1 for update"#,
            standing.chain.0,
            made_by
        )
        .fetch_optional(tx)
        .await?;
        let row = row.ok_or(AdjustError::Moved)?;
        let stands = (row.epoch, row.position, row.part);
        let expected = (standing.epoch.0, standing.position.0, standing.last_part.0);
        if stands != expected || row.state != "open" {
            return Err(AdjustError::Moved);
        }
        let now = UnixMs::from_utc(row.now).ok_or_else(|| {
            StoreError::Corrupt("the database's clock is not within 1970 to 9999".to_owned())
        })?;
        Ok(Self {
            now,
            made_by: row.made_by,
            epoch: Epoch(row.next_epoch),
        })
    }
}

async fn insert(
    tx: &mut PgConnection,
    part: &PartHeader,
    adjustment: &Adjustment,
    content: &Content,
) -> Result<Hash256, AdjustError> {
    let duplicates = content.closed.parts.first();
    let hash = adjustment_hash(
        part,
        &AdjustmentRows {
            adjustment,
            resolutions: &content.resolutions,
            bounds: &content.bounds,
            postings: &content.postings,
            duplicates: duplicates.map_or(&[], |part| &part.duplicates),
        },
    );
    let none_known = Default::default();
    insert_series(tx, &content.closed, &none_known).await?;
    insert_rate_sets(tx, &content.closed, &Default::default()).await?;
    rows::insert_part(tx, Uuid::now_v7(), part, hash, content.postings.len()).await?;
    rows::insert_adjustment(tx, part.part, adjustment).await?;
    rows::insert_resolutions(tx, part.part, &content.resolutions).await?;
    rows::insert_bounds(tx, part.part, &content.bounds).await?;
    rows::copy_postings(tx, part.part, &content.postings).await?;
    crate::batch::rows::copy_duplicates(tx, &content.closed)
        .await
        .map_err(|error| error.into_store_error("duplicate"))?;
    Ok(hash)
}

/// Moves the chain's position from where the caller began to where the part ends.
async fn move_position(
    tx: &mut PgConnection,
    standing: &Standing,
    part: &PartHeader,
) -> Result<(), AdjustError> {
    let moved = sqlx::query!(
        "/* move_adjustments */
        update source_position
        set epoch = $5, position = $6, part = $7, part_end = $6, updated_at = clock_timestamp()
        where chain = $1 and epoch = $2 and position = $3 and part = $4 and state = 'open'",
        standing.chain.0,
        standing.epoch.0,
        standing.position.0,
        standing.last_part.0,
        part.epoch.0,
        part.to.0,
        part.part.number.0
    )
    .execute(tx)
    .await?
    .rows_affected();
    if moved != 1 {
        let what = format!("{moved} positions moved with part {}", part.part.number.0);
        return Err(StoreError::corrupt_chain(standing.chain, &what).into());
    }
    Ok(())
}
