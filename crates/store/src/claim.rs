//! Claims: a process takes a chain over under a greater epoch.
//!
//! Invariant: of all owners a chain ever had, only the one with the greatest epoch can commit. What a
//! claim returns was read while it held the chain's position, so it is one state. Deliberately
//! absent: whether the log is still the same, which the claimer checks before it folds.

use std::time::Duration;

use domain::hash::{Hash128, Hash256};
use domain::ids::{ChainId, Epoch, Offset, PartNumber};
use domain::time::UnixMs;
use sqlx::{Connection, PgConnection, Postgres, Transaction};
use tokio::time::Instant;
use uuid::Uuid;

pub use crate::connect::Backend;
use crate::connect::{Database, end_backend};
use crate::error::StoreError;
use crate::fault;
use crate::gap::ChainState;
use crate::source::SourceId;
use crate::watermark::offset_of;

/// How long a claim waits for the former owner before it ends the owner's backend.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '300ms'";

/// How long a claim tries in all. Longer than the 5 s that a stopped owner's transaction may idle, so
/// that it succeeds also where Postgres does not let us end that owner's backend.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(9);

/// Which partition is claimed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The source that reads it.
    pub source: SourceId,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The process that claims.
    pub process: Uuid,
    /// The backend that the process folds by, which the claim must not end.
    pub backend: Option<Backend>,
}

/// A record that was folded, by which the log is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// The record's offset.
    pub offset: Offset,
    /// The hash of its content.
    pub hash: Hash128,
}

/// A truncation that an operator accepted and that no part has named yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptedGap {
    /// The gap's number.
    pub id: i64,
    /// Where the chain stood: the first offset that is skipped.
    pub position: Offset,
    /// The first offset that the log held when the gap was found.
    pub log_start: Offset,
    /// The offset after the last that the log held then.
    pub log_end: Offset,
}

/// A chain as its new owner finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The chain.
    pub chain: ChainId,
    /// The owner's epoch; where `stopped`, that of the former owner.
    pub epoch: Epoch,
    /// Which log of the partition this is: 1, and one more for each re-creation that was accepted.
    pub incarnation: i32,
    /// The next offset to read; `None`: not begun, see [`begin`].
    pub position: Option<Offset>,
    /// The number of the last part.
    pub last_part: PartNumber,
    /// The hash of the last part; [`Hash256::ZERO`] where there is none.
    pub last_hash: Hash256,
    /// Where the last part ended; `None` where there is none.
    pub part_end: Option<Offset>,
    /// The last folded record.
    pub tail: Option<Fingerprint>,
    /// The last folded record that was read again and matched.
    pub anchor: Option<Fingerprint>,
    /// An open gap keeps the chain from going on; it was not claimed.
    pub stopped: bool,
    /// An accepted truncation that the next part must name.
    pub accepted_gap: Option<AcceptedGap>,
    /// The instant below which the source's ids are gone.
    pub floor: Option<UnixMs>,
}

/// Takes a partition's chain over, and makes the chain where there is none or the last one ended.
///
/// A former owner that holds the chain's row for longer than 300 ms has its backend ended, if it
/// still is the very backend that committed last, is not our own, and Postgres lets us.
///
/// # Errors
///
/// [`StoreError::Busy`] where the former owner does not let go within 9 s (retry); each of a
/// statement. Nothing was claimed, or the claim is unknown, which is harmless: the next is greater.
pub async fn claim(db: &Database, request: &ClaimRequest) -> Result<Claim, StoreError> {
    let deadline = Instant::now() + CLAIM_TIMEOUT;
    loop {
        match try_claim(db, request).await {
            Err(StoreError::Busy(error)) if Instant::now() < deadline => {
                tracing::debug!(
                    chain.topic = request.topic,
                    chain.partition = request.partition,
                    error = ?error,
                    "a former owner holds the chain"
                );
                end_former_owner(db, request).await?;
            }
            claimed => return claimed,
        }
    }
}

/// Notes where a chain begins, before its first record is read: what the log loses from then on is a
/// gap, and not a later beginning. Says `false` where the claim is no longer ours.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; claim anew.
pub async fn begin(db: &Database, claim: &Claim, at: Offset) -> Result<bool, StoreError> {
    let begun = sqlx::query!(
        "/* begin */
        update source_position set position = $3, updated_at = clock_timestamp()
        where chain = $1 and epoch = $2 and position = -1 and state = 'open'",
        claim.chain.0,
        claim.epoch.0,
        at.0
    )
    .execute(db.pool())
    .await?;
    Ok(begun.rows_affected() == 1)
}

async fn try_claim(db: &Database, request: &ClaimRequest) -> Result<Claim, StoreError> {
    let mut tx = db.pool().begin().await?;
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
    let chain = find_or_create(&mut tx, request).await?;
    let state = lock(&mut tx, chain).await?;
    match state {
        ChainState::Open | ChainState::Retired => {
            fault::point("claim::before_update");
            take_epoch(&mut tx, chain, request).await?;
            fault::point("claim::after_update");
        }
        ChainState::Stopped => {}
        // Ended between the look-up and the lock: look again.
        ChainState::Ended => return Err(StoreError::Busy(None)),
    }
    let claim = read(&mut tx, chain).await?;
    tx.commit().await?;
    Ok(claim)
}

/// Returns the newest incarnation of the partition's chain that has not ended.
async fn find_or_create(
    tx: &mut Transaction<'_, Postgres>,
    request: &ClaimRequest,
) -> Result<ChainId, StoreError> {
    let found = sqlx::query!(
        r#"/* find_or_create */
        select coalesce(max(c.incarnation), 0) as "last!",
            (array_agg(c.id order by c.incarnation desc) filter (where c.topic = $2))[1] as newest,
            (array_agg(p.state order by c.incarnation desc) filter (where c.topic = $2))[1] as state
        from chain c join source_position p on p.chain = c.id
        where c.source = $1 and c.partition = $3"#,
        request.source.0,
        request.topic,
        request.partition
    )
    .fetch_one(&mut **tx)
    .await?;
    if let (Some(newest), Some(state)) = (found.newest, &found.state)
        && ChainState::parse(state)? != ChainState::Ended
    {
        return Ok(ChainId(newest));
    }
    // The number after the last that was seen, never the one after whatever there is by now: a chain
    // that another process makes, or has just made, clashes on its key, nothing is inserted, and the
    // caller looks again.
    let incarnation = found.last.saturating_add(1);
    let created = sqlx::query_scalar!(
        r#"/* find_or_create */
        with made as (
            insert into chain (kind, source, topic, partition, incarnation)
            values ('log', $1, $2, $3, $4)
            on conflict do nothing
            returning id
        )
        insert into source_position (chain) select id from made returning chain"#,
        request.source.0,
        request.topic,
        request.partition,
        incarnation
    )
    .fetch_optional(&mut **tx)
    .await?;
    created.map(ChainId).ok_or(StoreError::Busy(None))
}

async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    chain: ChainId,
) -> Result<ChainState, StoreError> {
    let state = sqlx::query_scalar!(
        "/* lock */ select state from source_position where chain = $1 for update",
        chain.0
    )
    .fetch_one(&mut **tx)
    .await?;
    ChainState::parse(&state)
}

/// Takes the next epoch. It also grows with the clock, so that it does over a restore too, which
/// takes epochs back.
async fn take_epoch(
    tx: &mut Transaction<'_, Postgres>,
    chain: ChainId,
    request: &ClaimRequest,
) -> Result<(), StoreError> {
    let claimed = sqlx::query!(
        "/* take_epoch */
        update source_position
        set epoch = greatest(epoch + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint),
            state = 'open', owner = $2, owner_pid = $3, owner_started = $4,
            updated_at = clock_timestamp()
        where chain = $1",
        chain.0,
        request.process,
        request.backend.map(|backend| backend.pid),
        request.backend.map(|backend| backend.started)
    )
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if claimed != 1 {
        return Err(StoreError::corrupt_chain(chain, "it has no position"));
    }
    Ok(())
}

/// Reads the chain whose position is locked: in a statement after the lock, so that what the former
/// owner committed last is in it.
async fn read(tx: &mut Transaction<'_, Postgres>, chain: ChainId) -> Result<Claim, StoreError> {
    let row = sqlx::query!(
        r#"/* read_claim */
        select p.epoch, c.incarnation, p.position, p.part, p.part_end, p.state, p.tail_offset, p.tail_fingerprint,
            p.anchor_offset, p.anchor_fingerprint, s.floor_at as "floor_at?",
            last.hash as "hash?", last.to_offset as "to_offset?",
            gap.id as "gap_id?", gap.position as "gap_position?",
            gap.log_start as "gap_log_start?", gap.log_end as "gap_log_end?"
        from source_position p
        join chain c on c.id = p.chain
        left join source s on s.id = c.source
        left join part last on last.chain = p.chain and last.number = p.part
        left join lateral (
            select g.id, g.position, g.log_start, g.log_end from ingest_gap g
            where g.chain = p.chain and g.cause = 'truncated' and g.part = p.part
                and g.accepted_at is not null
            order by g.id desc limit 1
        ) gap on true
        where p.chain = $1"#,
        chain.0
    )
    .fetch_one(&mut **tx)
    .await?;
    let last_hash = match (row.part, row.hash) {
        (0, _) => Hash256::ZERO,
        (_, Some(hash)) => hash256(chain, &hash)?,
        (number, None) => {
            return Err(StoreError::corrupt_chain(
                chain,
                &format!("part {number} is missing"),
            ));
        }
    };
    let accepted_gap = match (
        row.gap_id,
        row.gap_position,
        row.gap_log_start,
        row.gap_log_end,
    ) {
        (Some(id), Some(position), Some(log_start), Some(log_end)) => Some(AcceptedGap {
            id,
            position: Offset(position),
            log_start: Offset(log_start),
            log_end: Offset(log_end),
        }),
        _ => None,
    };
    let stopped = ChainState::parse(&row.state)? == ChainState::Stopped;
    Ok(Claim {
        chain,
        epoch: Epoch(row.epoch),
        incarnation: row.incarnation,
        position: offset_of(row.position),
        last_part: PartNumber(row.part),
        last_hash,
        part_end: offset_of(row.part_end),
        tail: fingerprint(row.tail_offset, row.tail_fingerprint),
        anchor: fingerprint(row.anchor_offset, row.anchor_fingerprint),
        stopped,
        accepted_gap: accepted_gap.filter(|_| !stopped),
        floor: row.floor_at.and_then(UnixMs::from_utc),
    })
}

fn fingerprint(offset: Option<i64>, hash: Option<Uuid>) -> Option<Fingerprint> {
    let hash = Hash128::from_bytes(hash?.into_bytes());
    Some(Fingerprint {
        offset: Offset(offset?),
        hash,
    })
}

fn hash256(chain: ChainId, stored: &[u8]) -> Result<Hash256, StoreError> {
    <[u8; 32]>::try_from(stored)
        .map(Hash256::from_bytes)
        .map_err(|_| StoreError::corrupt_chain(chain, "the last part's hash has no 32 bytes"))
}

/// Ends the backend of whoever owned the chain last, unless that is us.
async fn end_former_owner(db: &Database, request: &ClaimRequest) -> Result<(), StoreError> {
    let mut connection = db.connect_without_role().await?;
    let owner = former_owner(&mut connection, request).await?;
    let owner = owner.filter(|owner| Some(*owner) != request.backend);
    if let Some(owner) = owner
        && end_backend(&mut connection, owner).await?
    {
        tracing::warn!(
            chain.topic = request.topic,
            chain.partition = request.partition,
            backend.pid = owner.pid,
            "ended the backend of a former owner that held the chain"
        );
    }
    connection.close().await?;
    Ok(())
}

async fn former_owner(
    connection: &mut PgConnection,
    request: &ClaimRequest,
) -> Result<Option<Backend>, StoreError> {
    let row = sqlx::query!(
        "/* former_owner */
        select p.owner_pid, p.owner_started from source_position p join chain c on c.id = p.chain
        where c.source = $1 and c.topic = $2 and c.partition = $3 and p.owner <> $4
        order by c.incarnation desc limit 1",
        request.source.0,
        request.topic,
        request.partition,
        request.process
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.and_then(|row| {
        let (pid, started) = row.owner_pid.zip(row.owner_started)?;
        Some(Backend { pid, started })
    }))
}
