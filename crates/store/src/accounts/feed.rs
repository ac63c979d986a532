//! What the feed's writer remembers, and which accounts it takes out of the feed.
//!
//! Invariant: a note of what was sent is never ahead of it, so a new owner may send what was sent, and
//! misses nothing.

use std::collections::HashMap;

use domain::ids::{ChainId, PartNumber, PartRef};
use domain::policy::CounterKey;
use domain::policy::model::LimitId;
use domain::time::UnixMs;

use super::counter_of;
use crate::connect::Database;
use crate::error::StoreError;
use crate::policies::limit_of;

/// An account none of whose slots counts any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdleAccount {
    /// The limit.
    pub limit: LimitId,
    /// The counter.
    pub counter: CounterKey,
    /// The chain; 0 for openings.
    pub chain: ChainId,
}

/// Returns up to which part the accounts of each chain were sent; chains of which none were are left out.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn sent(db: &Database) -> Result<HashMap<ChainId, PartNumber>, StoreError> {
    let rows = sqlx::query!("/* sent_balances */ select chain, part from balance_mark")
        .fetch_all(db.pool())
        .await?;
    let read = rows.into_iter();
    Ok(read
        .map(|row| (ChainId(row.chain), PartNumber(row.part)))
        .collect())
}

/// Notes up to which part the accounts of chains were sent and acknowledged; never goes back.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn note_sent(db: &Database, parts: &[PartRef]) -> Result<(), StoreError> {
    let mut parts = parts.to_vec();
    parts.sort_unstable();
    let chains: Vec<i32> = parts.iter().map(|part| part.chain.0).collect();
    let numbers: Vec<i64> = parts.iter().map(|part| part.number.0).collect();
    sqlx::query!(
        "/* note_sent */
        insert into balance_mark as known (chain, part)
        select chain, part from unnest($1::integer[], $2::bigint[]) as new (chain, part)
        order by chain
        on conflict (chain) do update set part = excluded.part
        where known.part < excluded.part",
        &chains,
        &numbers
    )
    .execute(db.pool())
    .await?;
    Ok(())
}

/// Returns the accounts of these chains whose last slot stopped counting after `from`, and not after
/// `to`.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn idle(
    db: &Database,
    chains: &[ChainId],
    from: UnixMs,
    to: UnixMs,
) -> Result<Vec<IdleAccount>, StoreError> {
    let chains: Vec<i32> = chains.iter().map(|chain| chain.0).collect();
    let rows = sqlx::query!(
        "/* idle_accounts */
        select counter, chain, limit_id from account where chain = any($1)
        group by counter, chain, limit_id
        having max(counts_until) > $2 and max(counts_until) <= $3",
        &chains,
        from.to_utc(),
        to.to_utc()
    )
    .fetch_all(db.pool())
    .await?;
    let read = rows.into_iter().map(|row| IdleAccount {
        limit: limit_of(row.limit_id),
        counter: counter_of(row.counter),
        chain: ChainId(row.chain),
    });
    Ok(read.collect())
}
