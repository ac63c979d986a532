//! Gaps: a log that is no longer the one that was folded, and an operator's word on it.
//!
//! Invariant: a chain with an open gap is stopped, so that nothing is folded past a loss that nobody
//! accepted. Deliberately absent: finding gaps, which takes the log.

use chrono::{DateTime, Utc};
use domain::ids::{ChainId, Epoch, Offset};

use crate::connect::Database;
use crate::error::StoreError;

/// What happened to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// Records were deleted before they were folded; accepting goes on at the log's start.
    Truncated,
    /// Another log stands under the topic's name; accepting starts the next incarnation.
    Recreated,
}

impl GapCause {
    /// Returns the name used in SQL and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Recreated => "recreated",
        }
    }

    fn parse(name: &str) -> Result<Self, StoreError> {
        match name {
            "truncated" => Ok(Self::Truncated),
            "recreated" => Ok(Self::Recreated),
            other => Err(StoreError::Corrupt(format!(
                "a gap has the unknown cause `{other}`"
            ))),
        }
    }
}

/// A gap as the process that owns the chain found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGap {
    /// The chain that cannot go on.
    pub chain: ChainId,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// What happened.
    pub cause: GapCause,
    /// Where the chain stood.
    pub position: Offset,
    /// The first offset that the log held.
    pub log_start: Offset,
    /// The offset after the last that the log held.
    pub log_end: Offset,
    /// Offsets that were folded after the last record that was verified to be the old log's: first,
    /// and the one after the last.
    pub doubtful: Option<(Offset, Offset)>,
    /// What was found, in words.
    pub detail: String,
}

/// A gap as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Its number, by which it is accepted.
    pub id: i64,
    /// The chain.
    pub chain: ChainId,
    /// The source's name.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// What happened.
    pub cause: GapCause,
    /// Where the chain stood.
    pub position: Offset,
    /// The first offset that the log held.
    pub log_start: Offset,
    /// The offset after the last that the log held.
    pub log_end: Offset,
    /// Offsets that were folded and may be the new log's: first, and the one after the last.
    pub doubtful: Option<(Offset, Offset)>,
    /// What was found, in words.
    pub detail: String,
    /// When it was found.
    pub found: DateTime<Utc>,
    /// When and by whom it was accepted; `None` while it is open.
    pub accepted: Option<(DateTime<Utc>, String)>,
}

/// What came of recording a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The chain is stopped by this gap; also where it was before.
    Stopped(i64),
    /// The chain has another owner, who finds the gap itself.
    Lost,
}

/// What came of accepting a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// The chain goes on, or its next incarnation begins.
    Now,
    /// Somebody had accepted it before; nothing changed.
    Before,
    /// There is no gap of that number.
    Unknown,
}

/// Whether a chain may be folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainState {
    /// It may.
    Open,
    /// An open gap stops it.
    Stopped,
    /// The next incarnation took its place.
    Ended,
    /// Its source left.
    Retired,
}

impl ChainState {
    pub(crate) fn parse(name: &str) -> Result<Self, StoreError> {
        match name {
            "open" => Ok(Self::Open),
            "stopped" => Ok(Self::Stopped),
            "ended" => Ok(Self::Ended),
            "retired" => Ok(Self::Retired),
            other => Err(StoreError::Corrupt(format!(
                "a chain has the unknown state `{other}`"
            ))),
        }
    }
}

/// Records a gap and stops its chain, unless the chain has another owner by now.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; nothing was recorded.
pub async fn record(db: &Database, gap: &NewGap) -> Result<Recorded, StoreError> {
    let mut tx = db.pool().begin().await?;
    let held = sqlx::query!(
        "/* record_gap */ select epoch, part, state from source_position where chain = $1 for update",
        gap.chain.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(held) = held.filter(|held| held.epoch == gap.epoch.0) else {
        return Ok(Recorded::Lost);
    };
    match ChainState::parse(&held.state)? {
        ChainState::Open => {}
        ChainState::Stopped => {
            let id = sqlx::query_scalar!(
                "/* record_gap */
                select id from ingest_gap where chain = $1 and accepted_at is null",
                gap.chain.0
            )
            .fetch_one(&mut *tx)
            .await?;
            return Ok(Recorded::Stopped(id));
        }
        ChainState::Ended | ChainState::Retired => return Ok(Recorded::Lost),
    }
    let id = sqlx::query_scalar!(
        "/* record_gap */
        insert into ingest_gap (chain, part, cause, position, log_start, log_end, doubtful_from,
            doubtful_to, detail)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning id",
        gap.chain.0,
        held.part,
        gap.cause.name(),
        gap.position.0,
        gap.log_start.0,
        gap.log_end.0,
        gap.doubtful.map(|(from, _)| from.0),
        gap.doubtful.map(|(_, to)| to.0),
        gap.detail
    )
    .fetch_one(&mut *tx)
    .await?;
    set_state(&mut tx, gap.chain, "stopped").await?;
    tx.commit().await?;
    Ok(Recorded::Stopped(id))
}

/// Returns all gaps, open ones first, then the newest first.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn list(db: &Database) -> Result<Vec<Gap>, StoreError> {
    let rows = sqlx::query!(
        r#"/* list_gaps */
        select g.id, g.chain, coalesce(s.name, '') as "source!", c.topic, c.partition, g.cause,
            g.position, g.log_start, g.log_end, g.doubtful_from, g.doubtful_to, g.detail,
            g.found_at, g.accepted_at, g.accepted_by
        from ingest_gap g join chain c on c.id = g.chain left join source s on s.id = c.source
        order by g.accepted_at is not null, g.found_at desc, g.id desc"#
    )
    .fetch_all(db.pool())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Gap {
                id: row.id,
                chain: ChainId(row.chain),
                source: row.source,
                topic: row.topic,
                partition: row.partition,
                cause: GapCause::parse(&row.cause)?,
                position: Offset(row.position),
                log_start: Offset(row.log_start),
                log_end: Offset(row.log_end),
                doubtful: row
                    .doubtful_from
                    .map(Offset)
                    .zip(row.doubtful_to.map(Offset)),
                detail: row.detail,
                found: row.found_at,
                accepted: row.accepted_at.zip(row.accepted_by),
            })
        })
        .collect()
}

/// Accepts a gap in somebody's name.
///
/// A truncated log opens the chain again: its next part begins where the log begins and names what
/// was lost. A re-created log ends the chain: the next claim begins the next incarnation.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; nothing was accepted.
pub async fn accept(db: &Database, id: i64, by: &str) -> Result<Accepted, StoreError> {
    let mut tx = db.pool().begin().await?;
    let Some(chain) = sqlx::query_scalar!(
        "/* accept_gap */ select chain from ingest_gap where id = $1",
        id
    )
    .fetch_optional(&mut *tx)
    .await?
    else {
        return Ok(Accepted::Unknown);
    };
    // Positions come before everything else in the order of locks.
    sqlx::query!(
        "/* accept_gap */ select from source_position where chain = $1 for update",
        chain
    )
    .fetch_one(&mut *tx)
    .await?;
    let accepted = sqlx::query_scalar!(
        "/* accept_gap */
        update ingest_gap set accepted_at = clock_timestamp(), accepted_by = $2
        where id = $1 and accepted_at is null returning cause",
        id,
        by
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(cause) = accepted else {
        return Ok(Accepted::Before);
    };
    let state = match GapCause::parse(&cause)? {
        GapCause::Truncated => "open",
        GapCause::Recreated => "ended",
    };
    set_state(&mut tx, ChainId(chain), state).await?;
    tx.commit().await?;
    Ok(Accepted::Now)
}

/// Returns the state of each chain, in the order asked for; so that a running ingest sees that a gap
/// was accepted.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; [`StoreError::Corrupt`] where a chain does not exist.
pub async fn state(
    db: &Database,
    chains: &[ChainId],
) -> Result<Vec<(ChainId, ChainState)>, StoreError> {
    let ids: Vec<i32> = chains.iter().map(|chain| chain.0).collect();
    let rows = sqlx::query!(
        "/* chain_state */ select chain, state from source_position where chain = any($1)",
        &ids
    )
    .fetch_all(db.pool())
    .await?;
    chains
        .iter()
        .map(|chain| match rows.iter().find(|row| row.chain == chain.0) {
            Some(row) => Ok((*chain, ChainState::parse(&row.state)?)),
            None => Err(StoreError::corrupt_chain(*chain, "it has no position")),
        })
        .collect()
}

async fn set_state(
    tx: &mut sqlx::PgConnection,
    chain: ChainId,
    state: &str,
) -> Result<(), StoreError> {
    let changed = sqlx::query!(
        "/* set_state */
        update source_position set state = $2, updated_at = clock_timestamp() where chain = $1",
        chain.0,
        state
    )
    .execute(tx)
    .await?
    .rows_affected();
    if changed != 1 {
        return Err(StoreError::corrupt_chain(chain, "it has no position"));
    }
    Ok(())
}
