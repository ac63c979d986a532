//! Positions: where each chain stands, and whose it is.
//!
//! Invariant: a position moves only from where its owner began, under the owner's epoch, with the
//! row locked. Deliberately absent: rows of the journal.

use std::collections::HashMap;

use domain::hash::Hash128;
use domain::ids::{ChainId, Offset, PartRef};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{Advanced, IdleAdvance, PartWrite, ResolvePart, Resolved};
use crate::claim::Fingerprint;
use crate::connect::Backend;
use crate::error::StoreError;

/// The stored position of a chain that has not begun.
const NOT_BEGUN: i64 = -1;

/// What a chain's row says under the lock.
struct Held {
    epoch: i64,
    position: i64,
    part: i64,
    part_end: i64,
    is_open: bool,
}

/// Whether the batch's chains are as the process knew them.
pub(super) enum Judged {
    Ours,
    Lost {
        fenced: Vec<ChainId>,
        rewound: Vec<ChainId>,
    },
}

/// What one chain's row means for its owner.
enum Verdict {
    Ours,
    Fenced,
    Rewound,
}

/// Checks what the caller alone can have got wrong, before anything is locked.
pub(super) fn check_ranges(refs: &[PartRef], parts: &[PartWrite]) -> Result<(), StoreError> {
    if refs.len() != parts.len() {
        let what = format!(
            "a batch folded {} parts and describes {}",
            refs.len(),
            parts.len()
        );
        return Err(StoreError::Corrupt(what));
    }
    for (part, write) in refs.iter().zip(parts) {
        let begins = write.skipped.is_none_or(|skipped| skipped.to == write.from);
        let moves_on = write.expected.is_none_or(|expected| expected <= write.to);
        if write.from > write.to || !begins || !moves_on {
            let what = format!(
                "a part from {} to {} cannot follow position {}",
                write.from.0,
                write.to.0,
                stored(write.expected)
            );
            return Err(StoreError::corrupt_chain(part.chain, &what));
        }
    }
    Ok(())
}

/// Locks the batch's positions in (topic, partition) order, then moves each from where its owner
/// began to where its part ends. Nothing moves unless all are ours.
pub(super) async fn move_all(
    tx: &mut PgConnection,
    backend: Backend,
    refs: &[PartRef],
    parts: &[PartWrite],
) -> Result<Judged, StoreError> {
    let chains: Vec<i32> = refs.iter().map(|part| part.chain.0).collect();
    let held = lock(tx, &chains).await?;
    let (mut fenced, mut rewound) = (Vec::new(), Vec::new());
    for (part, write) in refs.iter().zip(parts) {
        match judge(held.get(&part.chain.0), *part, write)? {
            Verdict::Ours => {}
            Verdict::Fenced => fenced.push(part.chain),
            Verdict::Rewound => rewound.push(part.chain),
        }
    }
    if !fenced.is_empty() || !rewound.is_empty() {
        return Ok(Judged::Lost { fenced, rewound });
    }
    let moved = compare_and_set(tx, backend, refs, parts).await?;
    if moved != u64::try_from(parts.len()).unwrap_or(u64::MAX) {
        let what = format!("{moved} of {} locked positions moved", parts.len());
        return Err(StoreError::Corrupt(what));
    }
    Ok(Judged::Ours)
}

/// Sorts a chain's row.
///
/// | row | verdict |
/// | --- | --- |
/// | greater epoch | fenced: a newer owner |
/// | our epoch, not open | rewound: a gap stopped it; claiming anew tells |
/// | none, or smaller epoch | rewound: our claim is not there |
/// | our epoch, other position or part | rewound: our last commits are not there |
/// | our epoch, position and part | ours |
fn judge(held: Option<&Held>, part: PartRef, write: &PartWrite) -> Result<Verdict, StoreError> {
    let Some(held) = held else {
        return Ok(Verdict::Rewound);
    };
    if held.epoch > write.epoch.0 {
        return Ok(Verdict::Fenced);
    }
    if !held.is_open {
        return Ok(Verdict::Rewound);
    }
    let is_where_it_was =
        held.position == stored(write.expected) && held.part.checked_add(1) == Some(part.number.0);
    if held.epoch < write.epoch.0 || !is_where_it_was {
        return Ok(Verdict::Rewound);
    }
    if held.part_end != NOT_BEGUN && write.skipped.is_none() && held.part_end != write.from.0 {
        let what = format!(
            "part {} begins at {} but the one before it ended at {}",
            part.number.0, write.from.0, held.part_end
        );
        return Err(StoreError::corrupt_chain(part.chain, &what));
    }
    Ok(Verdict::Ours)
}

async fn lock(tx: &mut PgConnection, chains: &[i32]) -> Result<HashMap<i32, Held>, StoreError> {
    let rows = sqlx::query!(
        "/* lock_positions */
        select p.chain, p.epoch, p.position, p.part, p.part_end, p.state
        from source_position p join chain c on c.id = p.chain
        where p.chain = any($1)
        order by c.topic, c.partition, c.id
        for update of p",
        chains
    )
    .fetch_all(tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let held = Held {
                epoch: row.epoch,
                position: row.position,
                part: row.part,
                part_end: row.part_end,
                is_open: row.state == "open",
            };
            (row.chain, held)
        })
        .collect())
}

async fn compare_and_set(
    tx: &mut PgConnection,
    backend: Backend,
    refs: &[PartRef],
    parts: &[PartWrite],
) -> Result<u64, StoreError> {
    let chains: Vec<i32> = refs.iter().map(|part| part.chain.0).collect();
    let numbers: Vec<i64> = refs.iter().map(|part| part.number.0).collect();
    let epochs: Vec<i64> = parts.iter().map(|part| part.epoch.0).collect();
    let expected: Vec<i64> = parts.iter().map(|part| stored(part.expected)).collect();
    let to: Vec<i64> = parts.iter().map(|part| part.to.0).collect();
    let (tail_offsets, tail_hashes) = columns(parts.iter().map(|part| part.tail));
    let (anchor_offsets, anchor_hashes) = columns(parts.iter().map(|part| part.anchor));
    let moved = sqlx::query!(
        "/* compare_and_set */
        update source_position p
        set position = new.to_offset, part = new.number, part_end = new.to_offset,
            tail_offset = new.tail_offset, tail_fingerprint = new.tail_fingerprint,
            anchor_offset = new.anchor_offset, anchor_fingerprint = new.anchor_fingerprint,
            owner_pid = $10, owner_started = $11, updated_at = clock_timestamp()
        from unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
            $6::bigint[], $7::uuid[], $8::bigint[], $9::uuid[])
            as new (chain, number, epoch, expected, to_offset, tail_offset, tail_fingerprint,
                anchor_offset, anchor_fingerprint)
        where p.chain = new.chain and p.epoch = new.epoch and p.position = new.expected
            and p.part = new.number - 1 and p.state = 'open'",
        &chains,
        &numbers,
        &epochs,
        &expected,
        &to,
        &tail_offsets as &[Option<i64>],
        &tail_hashes as &[Option<Uuid>],
        &anchor_offsets as &[Option<i64>],
        &anchor_hashes as &[Option<Uuid>],
        backend.pid,
        backend.started
    )
    .execute(tx)
    .await?
    .rows_affected();
    Ok(moved)
}

fn columns(
    fingerprints: impl Iterator<Item = Option<Fingerprint>>,
) -> (Vec<Option<i64>>, Vec<Option<Uuid>>) {
    fingerprints
        .map(|fingerprint| {
            let uuid = |hash: Hash128| Uuid::from_bytes(hash.to_bytes());
            (
                fingerprint.map(|f| f.offset.0),
                fingerprint.map(|f| uuid(f.hash)),
            )
        })
        .unzip()
}

/// Looks up where the chains stand. The lock waits for the old connection's transaction, so what is
/// read is final.
pub(super) async fn resolve(
    connection: &mut PgConnection,
    parts: &[ResolvePart],
) -> Result<Resolved, StoreError> {
    let chains: Vec<i32> = parts.iter().map(|part| part.chain.0).collect();
    let mut tx = connection.begin().await?;
    let held = lock(&mut tx, &chains).await?;
    tx.rollback().await?;
    let stands_at = |part: &ResolvePart, position: i64| {
        held.get(&part.chain.0).is_some_and(|held| {
            held.is_open && held.epoch == part.epoch.0 && held.position == position
        })
    };
    if parts.iter().all(|part| stands_at(part, part.to.0)) {
        return Ok(Resolved::Applied);
    }
    if parts
        .iter()
        .all(|part| stands_at(part, stored(part.expected)))
    {
        return Ok(Resolved::NotApplied);
    }
    Ok(Resolved::Lost)
}

/// Moves positions without parts; those of chains that are not as the caller knew them stay.
pub(super) async fn advance(
    connection: &mut PgConnection,
    backend: Backend,
    moves: &[IdleAdvance],
) -> Result<Advanced, StoreError> {
    let chains: Vec<i32> = moves.iter().map(|advance| advance.chain.0).collect();
    let mut tx = connection.begin().await?;
    let held = lock(&mut tx, &chains).await?;
    let mut advanced = Advanced::default();
    let mut ours = Vec::with_capacity(moves.len());
    for advance in moves {
        match judge_advance(held.get(&advance.chain.0), advance) {
            Verdict::Ours => ours.push(*advance),
            Verdict::Fenced => advanced.fenced.push(advance.chain),
            Verdict::Rewound => advanced.rewound.push(advance.chain),
        }
    }
    let chains: Vec<i32> = ours.iter().map(|advance| advance.chain.0).collect();
    let to: Vec<i64> = ours.iter().map(|advance| advance.to.0).collect();
    let moved = sqlx::query!(
        "/* advance_positions */
        update source_position p
        set position = new.to_offset, owner_pid = $3, owner_started = $4,
            updated_at = clock_timestamp()
        from unnest($1::integer[], $2::bigint[]) as new (chain, to_offset)
        where p.chain = new.chain and p.position <= new.to_offset",
        &chains,
        &to,
        backend.pid,
        backend.started
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if moved != u64::try_from(ours.len()).unwrap_or(u64::MAX) {
        let what = format!(
            "{moved} of {} locked positions moved over markers",
            ours.len()
        );
        return Err(StoreError::Corrupt(what));
    }
    tx.commit().await?;
    Ok(advanced)
}

/// Sorts a chain's row as for a batch, but for the part, which stays.
fn judge_advance(held: Option<&Held>, advance: &IdleAdvance) -> Verdict {
    match held {
        None => Verdict::Rewound,
        Some(held) if held.epoch > advance.epoch.0 => Verdict::Fenced,
        Some(held)
            if held.is_open
                && held.epoch == advance.epoch.0
                && held.position == stored(advance.from) =>
        {
            Verdict::Ours
        }
        Some(_) => Verdict::Rewound,
    }
}

fn stored(position: Option<Offset>) -> i64 {
    position.map_or(NOT_BEGUN, |offset| offset.0)
}
