//! Ids that producers own: one table, one index over all of them.
//!
//! Invariant: of two events with one id the first in the order of commits is counted, whatever both
//! say; a later one that says something else is told as a conflict.

use std::collections::HashSet;

use domain::fold::{BatchFold, SeenId};
use domain::ids::{ChainId, PartNumber, PartRef};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Care, Taken, uuid_of_identity};
use crate::copy::{CopyError, copy_each};
use crate::error::StoreError;

/// Takes the ids; adds those that were taken before.
pub(super) async fn take(
    tx: &mut PgConnection,
    fold: &BatchFold,
    ids: &[SeenId],
    care: Care,
    taken: &mut Taken,
) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    if care == Care::SomeRepeat {
        return insert(tx, fold, ids, taken).await;
    }
    sqlx::raw_sql("savepoint producer_ids")
        .execute(&mut *tx)
        .await?;
    match copy(tx, fold, ids).await {
        Ok(()) => {
            sqlx::raw_sql("release savepoint producer_ids")
                .execute(&mut *tx)
                .await?;
            Ok(())
        }
        Err(CopyError::Exists) => {
            let undo = "rollback to savepoint producer_ids; release savepoint producer_ids";
            sqlx::raw_sql(undo).execute(&mut *tx).await?;
            taken.was_surprised = true;
            insert(tx, fold, ids, taken).await
        }
        Err(CopyError::Store(error)) => Err(error),
    }
}

/// Returns an event's digest as it is stored; the fold has one for each id that a producer owns.
fn payload_of(fold: &BatchFold, id: &SeenId) -> i64 {
    fold.payload_of(id)
        .map_or(0, |payload| payload.0.cast_signed())
}

async fn copy(tx: &mut PgConnection, fold: &BatchFold, ids: &[SeenId]) -> Result<(), CopyError> {
    let statement =
        "copy event_seen_by_id (identity, part, payload, chain) from stdin (format binary)";
    let mut ids = ids.iter();
    copy_each(tx, statement, &mut |rows| {
        let Some(id) = ids.next() else {
            return false;
        };
        let part = fold.part_of(id);
        rows.row(4)
            .uuid(id.identity.to_bits().to_be_bytes())
            .int8(part.number.0)
            .int8(payload_of(fold, id))
            .int4(part.chain.0);
        true
    })
    .await
}

/// Inserts what is new and looks up the rest. A row that another transaction is inserting is waited
/// for; the look-up is a later statement, so it sees that row.
async fn insert(
    tx: &mut PgConnection,
    fold: &BatchFold,
    ids: &[SeenId],
    taken: &mut Taken,
) -> Result<(), StoreError> {
    let uuids: Vec<Uuid> = ids.iter().map(|id| uuid_of_identity(id.identity)).collect();
    let chains: Vec<i32> = ids.iter().map(|id| fold.part_of(id).chain.0).collect();
    let parts: Vec<i64> = ids.iter().map(|id| fold.part_of(id).number.0).collect();
    let payloads: Vec<i64> = ids.iter().map(|id| payload_of(fold, id)).collect();
    let new = sqlx::query_scalar!(
        "/* insert_producer_ids */
        insert into event_seen_by_id (identity, part, payload, chain)
        select identity, part, payload, chain
        from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::integer[])
            as new (identity, part, payload, chain)
        order by identity
        on conflict do nothing
        returning identity",
        &uuids,
        &parts,
        &payloads,
        &chains
    )
    .fetch_all(&mut *tx)
    .await?;
    let new: HashSet<Uuid> = new.into_iter().collect();
    let seen: Vec<Uuid> = uuids
        .into_iter()
        .filter(|uuid| !new.contains(uuid))
        .collect();
    if seen.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query!(
        "/* first_of_producer_ids */
        select identity, payload, chain, part from event_seen_by_id where identity = any($1)",
        &seen
    )
    .fetch_all(&mut *tx)
    .await?;
    if rows.len() != seen.len() {
        // They were dropped in between; by now such events are below the floor.
        return Err(StoreError::Busy(None));
    }
    for row in rows {
        let first = PartRef {
            chain: ChainId(row.chain),
            number: PartNumber(row.part),
        };
        let found = ids.binary_search_by_key(&row.identity, |id| uuid_of_identity(id.identity));
        let Some(id) = found.ok().and_then(|index| ids.get(index)) else {
            continue;
        };
        if payload_of(fold, id) != row.payload {
            taken.conflicts.add(id.identity, first, fold.part_of(id));
        }
        taken.seen.insert(id.identity, first);
    }
    Ok(())
}
