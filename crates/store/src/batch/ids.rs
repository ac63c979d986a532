//! The ids of a batch: of log lines, and of events whose producers own them.
//!
//! Invariant: each id is counted by one part. Ids are sent in their order, those of log lines first, so
//! that batches do not wait for each other in a circle; but where some lie in the default partition,
//! `COPY` may write the partitions in another order. Postgres then ends one of the batches with 40P01,
//! and it is folded again. Deliberately absent: when ids are dropped.

mod producers;

use std::collections::{HashMap, HashSet};

use domain::event::Identity;
use domain::fold::{BatchFold, Conflicts, SeenId};
use domain::hash::Hash128;
use domain::ids::{ChainId, PartNumber, PartRef};
use sqlx::PgConnection;
use uuid::Uuid;

use super::recent::RecentIds;
use crate::copy::{CopyError, copy_each};
use crate::error::StoreError;
use crate::in_force::uuid_of;

/// What came of taking the ids of a batch.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Those that were taken before, and by which part.
    pub(crate) seen: HashMap<Identity, PartRef>,
    /// Those of them that came with another payload.
    pub(crate) conflicts: Conflicts,
    /// Some were taken before that nobody remembered, which cost a `COPY` in vain.
    pub(crate) was_surprised: bool,
}

/// Which ids of log lines to look up before they are taken.
pub(crate) enum Suspects {
    /// Those that were remembered.
    Remembered(Vec<Identity>),
    /// All of them.
    All,
}

impl Suspects {
    /// Remembers the ids of a batch's log lines, and suspects those that were remembered before. That they
    /// are remembered before they are taken is no harm: it is but a hint.
    pub(crate) fn remembered(fold: &BatchFold, recent: &mut RecentIds) -> Self {
        let (of_lines, _) = split(fold);
        let known = of_lines.iter().map(|id| id.identity);
        Self::Remembered(known.filter(|id| recent.note(*id)).collect())
    }
}

/// Takes the ids of a batch whose `take_ids` was called.
pub(crate) async fn take(
    tx: &mut PgConnection,
    fold: &BatchFold,
    suspects: Suspects,
) -> Result<Taken, StoreError> {
    let (of_lines, of_producers) = split(fold);
    let is_careful = matches!(suspects, Suspects::All);
    let mut taken = take_of_lines(tx, fold, of_lines, suspects).await?;
    taken.conflicts = fold.conflicts();
    producers::take(tx, fold, of_producers, is_careful, &mut taken).await?;
    Ok(taken)
}

/// Splits a batch's ids into those of log lines and those that producers own.
fn split(fold: &BatchFold) -> (&[SeenId], &[SeenId]) {
    let ids = fold.ids();
    let first_owned = ids.partition_point(|id| !id.identity.is_of_producer());
    ids.split_at_checked(first_owned).unwrap_or((ids, &[]))
}

/// Looks the suspects up and copies the rest; where that meets one that was taken before, looks all
/// of them up and copies again; where another process took one meanwhile, inserts row by row.
async fn take_of_lines(
    tx: &mut PgConnection,
    fold: &BatchFold,
    ids: &[SeenId],
    suspects: Suspects,
) -> Result<Taken, StoreError> {
    let mut taken = Taken::default();
    let suspected: Vec<Uuid> = match suspects {
        Suspects::Remembered(known) => known.into_iter().map(uuid_of_identity).collect(),
        Suspects::All => uuids_of(ids),
    };
    taken.seen = look_up(tx, &suspected).await?;
    if copy_new(tx, fold, ids, &taken.seen).await? {
        return Ok(taken);
    }
    taken.was_surprised = true;
    taken.seen = look_up(tx, &uuids_of(ids)).await?;
    if !copy_new(tx, fold, ids, &taken.seen).await? {
        taken
            .seen
            .extend(insert_ids(tx, fold, &new_of(ids, &taken.seen)).await?);
    }
    Ok(taken)
}

/// Copies the ids that were not seen before; false where some of them is there already.
async fn copy_new(
    tx: &mut PgConnection,
    fold: &BatchFold,
    ids: &[SeenId],
    seen: &HashMap<Identity, PartRef>,
) -> Result<bool, StoreError> {
    if ids.len() == seen.len() {
        return Ok(true);
    }
    // Savepoints take no parameters; the driver's own would hide that the transaction goes on after
    // a clash.
    sqlx::raw_sql("savepoint ids").execute(&mut *tx).await?;
    let copied = if seen.is_empty() {
        copy_ids(tx, fold, ids).await
    } else {
        copy_ids(tx, fold, &new_of(ids, seen)).await
    };
    let (is_copied, end) = match copied {
        Ok(()) => (true, "release savepoint ids"),
        Err(CopyError::Exists) => (false, "rollback to savepoint ids; release savepoint ids"),
        Err(CopyError::Store(error)) => return Err(error),
    };
    sqlx::raw_sql(end).execute(&mut *tx).await?;
    Ok(is_copied)
}

fn new_of(ids: &[SeenId], seen: &HashMap<Identity, PartRef>) -> Vec<SeenId> {
    let is_new = |id: &&SeenId| !seen.contains_key(&id.identity);
    ids.iter().filter(is_new).copied().collect()
}

fn uuids_of(ids: &[SeenId]) -> Vec<Uuid> {
    ids.iter().map(|id| uuid_of_identity(id.identity)).collect()
}

/// Returns which of the ids were taken, and by which part.
async fn look_up(
    tx: &mut PgConnection,
    uuids: &[Uuid],
) -> Result<HashMap<Identity, PartRef>, StoreError> {
    if uuids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        "/* first_of_ids */ select identity, chain, part from event_seen where identity = any($1)",
        uuids
    )
    .fetch_all(&mut *tx)
    .await?;
    let first = rows.into_iter().map(|row| {
        let part = PartRef {
            chain: ChainId(row.chain),
            number: PartNumber(row.part),
        };
        (Identity::from_bits(row.identity.as_u128()), part)
    });
    Ok(first.collect())
}

async fn copy_ids(
    tx: &mut PgConnection,
    fold: &BatchFold,
    ids: &[SeenId],
) -> Result<(), CopyError> {
    let statement = "copy event_seen (part, identity, chain) from stdin (format binary)";
    let mut ids = ids.iter();
    copy_each(tx, statement, &mut |rows| {
        let Some(id) = ids.next() else {
            return false;
        };
        let part = fold.part_of(id);
        rows.row(3)
            .int8(part.number.0)
            .uuid(id.identity.to_bits().to_be_bytes())
            .int4(part.chain.0);
        true
    })
    .await
}

/// Inserts what is new and looks up the rest. A row that another transaction is inserting is waited
/// for; the look-up is a later statement, so it sees that row.
async fn insert_ids(
    tx: &mut PgConnection,
    fold: &BatchFold,
    ids: &[SeenId],
) -> Result<HashMap<Identity, PartRef>, StoreError> {
    let uuids = uuids_of(ids);
    let chains: Vec<i32> = ids.iter().map(|id| fold.part_of(id).chain.0).collect();
    let parts: Vec<i64> = ids.iter().map(|id| fold.part_of(id).number.0).collect();
    let taken = sqlx::query_scalar!(
        "/* insert_ids */
        insert into event_seen (part, identity, chain)
        select part, identity, chain
        from unnest($1::bigint[], $2::uuid[], $3::integer[]) as new (part, identity, chain)
        order by identity
        on conflict do nothing
        returning identity",
        &parts,
        &uuids,
        &chains
    )
    .fetch_all(&mut *tx)
    .await?;
    let taken: HashSet<Uuid> = taken.into_iter().collect();
    let seen: Vec<Uuid> = uuids
        .into_iter()
        .filter(|uuid| !taken.contains(uuid))
        .collect();
    let first = look_up(tx, &seen).await?;
    if first.len() != seen.len() {
        // The day was dropped in between; by now its ids are below the floor.
        return Err(StoreError::Busy(None));
    }
    Ok(first)
}

fn uuid_of_identity(identity: Identity) -> Uuid {
    uuid_of(Hash128::from_bytes(identity.to_bits().to_be_bytes()))
}
