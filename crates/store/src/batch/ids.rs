//! The ids of a batch: of log lines, and of events whose producers own them.
//!
//! Invariant: ids arrive in their order, those of log lines first, so that two batches never wait for
//! each other in a circle; each is counted by one part. Deliberately absent: when ids are dropped.

mod producers;

use std::collections::{HashMap, HashSet};

use domain::event::Identity;
use domain::fold::{BatchFold, Conflicts, SeenId};
use domain::hash::Hash128;
use domain::ids::{ChainId, PartNumber, PartRef};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::copy::{CopyError, Rows};
use crate::error::StoreError;
use crate::in_force::uuid_of;

/// Bytes of one row as it is sent: three fields and their lengths.
const ID_ROW_BYTES: usize = 42;

/// What came of taking the ids of a batch.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Those that were taken before, and by which part.
    pub(crate) seen: HashMap<Identity, PartRef>,
    /// Those of them that came with another payload.
    pub(crate) conflicts: Conflicts,
}

/// Takes the ids of a batch whose `take_ids` was called.
pub(crate) async fn take(
    tx: &mut PgConnection,
    fold: &BatchFold,
    is_careful: bool,
) -> Result<Taken, StoreError> {
    let ids = fold.ids();
    let first_owned = ids.partition_point(|id| !id.identity.is_of_producer());
    let (of_lines, of_producers) = ids.split_at_checked(first_owned).unwrap_or((ids, &[]));
    let mut taken = Taken {
        seen: take_of_lines(tx, of_lines, is_careful).await?,
        conflicts: fold.conflicts(),
    };
    producers::take(tx, fold, of_producers, is_careful, &mut taken).await?;
    Ok(taken)
}

async fn take_of_lines(
    tx: &mut PgConnection,
    ids: &[SeenId],
    is_careful: bool,
) -> Result<HashMap<Identity, PartRef>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    if is_careful {
        return insert_ids(tx, ids).await;
    }
    // Savepoints take no parameters; the driver's own would hide that the fallback goes on in the
    // same transaction.
    sqlx::raw_sql("savepoint ids").execute(&mut *tx).await?;
    match copy_ids(tx, ids).await {
        Ok(()) => {
            sqlx::raw_sql("release savepoint ids")
                .execute(&mut *tx)
                .await?;
            Ok(HashMap::new())
        }
        Err(CopyError::Exists) => {
            sqlx::raw_sql("rollback to savepoint ids; release savepoint ids")
                .execute(&mut *tx)
                .await?;
            insert_ids(tx, ids).await
        }
        Err(CopyError::Store(error)) => Err(error),
    }
}

async fn copy_ids(tx: &mut PgConnection, ids: &[SeenId]) -> Result<(), CopyError> {
    let mut rows = Rows::with_capacity(ids.len(), ID_ROW_BYTES);
    for id in ids {
        rows.row(3)
            .int8(id.part.number.0)
            .uuid(id.identity.to_bits().to_be_bytes())
            .int4(id.part.chain.0);
    }
    rows.send(
        tx,
        "copy event_seen (part, identity, chain) from stdin (format binary)",
    )
    .await
}

/// Inserts what is new and looks up the rest. A row that another transaction is inserting is waited
/// for; the look-up is a later statement, so it sees that row.
async fn insert_ids(
    tx: &mut PgConnection,
    ids: &[SeenId],
) -> Result<HashMap<Identity, PartRef>, StoreError> {
    let uuids: Vec<Uuid> = ids.iter().map(|id| uuid_of_identity(id.identity)).collect();
    let chains: Vec<i32> = ids.iter().map(|id| id.part.chain.0).collect();
    let parts: Vec<i64> = ids.iter().map(|id| id.part.number.0).collect();
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
    if seen.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        "/* first_of_ids */ select identity, chain, part from event_seen where identity = any($1)",
        &seen
    )
    .fetch_all(&mut *tx)
    .await?;
    if rows.len() != seen.len() {
        // The day was dropped in between; by now its ids are below the floor.
        return Err(StoreError::Busy(None));
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            let identity = Identity::from_bits(row.identity.as_u128());
            (
                identity,
                PartRef {
                    chain: ChainId(row.chain),
                    number: PartNumber(row.part),
                },
            )
        })
        .collect())
}

fn uuid_of_identity(identity: Identity) -> Uuid {
    uuid_of(Hash128::from_bytes(identity.to_bits().to_be_bytes()))
}
