//! Reading accounts: all that count, and what changed since parts that the reader knows.
//!
//! Invariant: accounts and the standings of chains are of one snapshot, so the accounts of a chain hold
//! everything up to its standing's part and nothing after it.

use std::collections::HashMap;

use domain::account::{Message, Origin, OriginUse, Revision, SlotSum};
use domain::counting::CounterName;
use domain::ids::{ChainId, Epoch, PartNumber, PartRef, Version};
use domain::policy::CounterKey;
use domain::time::UnixMs;
use domain::units::Units;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{counter_of, units_of};
use crate::connect::Database;
use crate::cost::{instant, set_tenant};
use crate::error::StoreError;
use crate::policies::limit_of;

/// What one origin counted for one key of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAccount {
    /// The counter: what a decision's key is hashed to.
    pub counter: CounterKey,
    /// Limit, tenant and values.
    pub name: CounterName,
    /// The chain behind it; 0 for openings, whose part is the policies' version.
    pub chain: ChainId,
    /// The instant from which none of its slots counts.
    pub counts_until: UnixMs,
    /// Origin, revision and all slots that are stored: what the feed sends as well.
    pub message: Message,
}

/// Up to where a chain is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainStanding {
    /// The chain.
    pub chain: ChainId,
    /// Its origin.
    pub origin: Origin,
    /// The epoch of its owner.
    pub epoch: Epoch,
    /// The last part.
    pub part: PartNumber,
    /// Every record that the source's log held then is counted; `None`: not known yet. Of the
    /// adjustment chain, which lags behind nothing: when the snapshot was taken.
    pub watermark: Option<UnixMs>,
    /// Whether more may come: the chain has neither ended nor been retired.
    pub is_live: bool,
}

/// Accounts and chains of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    /// When the snapshot was taken, by Postgres's clock.
    pub at: UnixMs,
    /// The policies in force in the snapshot.
    pub policies: Option<Version>,
    /// The accounts, ascending by counter and chain.
    pub accounts: Vec<StoredAccount>,
    /// The chains, ascending.
    pub chains: Vec<ChainStanding>,
}

/// Returns all accounts with slots that count at `now` or later, of all limits that were ever in force.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; [`StoreError::Corrupt`] where a row cannot be read.
pub async fn load(db: &Database, now: UnixMs) -> Result<Accounts, StoreError> {
    read(db, &[], Which::All, now).await
}

/// Returns the accounts that changed after parts that the reader knows.
///
/// Each is whole: all its slots that count. Of chains that `after` does not name, all accounts are
/// returned; chain 0 stands for openings, whose part is the version of the policies. With nothing in
/// `after` it is [`load`].
///
/// # Errors
///
/// As [`load`].
pub async fn changes(
    db: &Database,
    after: &[PartRef],
    now: UnixMs,
) -> Result<Accounts, StoreError> {
    let which = if after.is_empty() {
        Which::All
    } else {
        Which::Changed
    };
    read(db, after, which, now).await
}

/// Returns the accounts of these chains that changed after these parts, and of no other chain: what the
/// owner of the chains sends to the feed.
///
/// # Errors
///
/// As [`load`].
pub async fn changes_of(
    db: &Database,
    after: &[PartRef],
    now: UnixMs,
) -> Result<Accounts, StoreError> {
    read(db, after, Which::ChangedOfThese, now).await
}

/// Which accounts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// All.
    All,
    /// Those that changed after known parts.
    Changed,
    /// Those of them whose chains are named.
    ChangedOfThese,
}

async fn read(
    db: &Database,
    after: &[PartRef],
    which: Which,
    now: UnixMs,
) -> Result<Accounts, StoreError> {
    let begin = "begin transaction isolation level repeatable read, read only";
    let mut tx = db.pool().begin_with(begin).await?;
    set_tenant(&mut tx, "*").await?;
    let seen =
        sqlx::query!(r#"/* read_accounts */ select policies, now() as "now!" from in_force"#)
            .fetch_one(&mut *tx)
            .await?;
    let chains = standings(&mut tx).await?;
    let rows = rows_after(&mut tx, after, which, now).await?;
    tx.rollback().await?;
    let origins: HashMap<ChainId, Origin> = chains
        .iter()
        .map(|standing| (standing.chain, standing.origin))
        .collect();
    Ok(Accounts {
        at: instant(seen.now)?,
        policies: seen.policies.map(Version),
        accounts: gathered(rows, &origins)?,
        chains,
    })
}

async fn standings(tx: &mut Transaction<'_, Postgres>) -> Result<Vec<ChainStanding>, StoreError> {
    let rows = sqlx::query!(
        r#"/* chain_standings */
        select c.id, c.kind, p.epoch, p.part, p.state,
            case when c.kind = 'adjustment' then now() else s.watermark_at end as watermark_at
        from chain c join source_position p on p.chain = c.id
        left join source s on s.id = c.source
        order by c.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let read = rows.into_iter().map(|row| {
        let chain = ChainId(row.id);
        Ok(ChainStanding {
            chain,
            origin: if row.kind == "adjustment" {
                Origin::Adjustment
            } else {
                Origin::Chain(chain)
            },
            epoch: Epoch(row.epoch),
            part: PartNumber(row.part),
            watermark: row.watermark_at.map(instant).transpose()?,
            is_live: matches!(row.state.as_str(), "open" | "stopped"),
        })
    });
    read.collect()
}

struct FoundRow {
    counter: Uuid,
    chain: i32,
    slot: chrono::DateTime<chrono::Utc>,
    counts_until: chrono::DateTime<chrono::Utc>,
    sum: String,
    epoch: i64,
    part: i64,
    limit_id: Uuid,
    tenant: String,
    key_values: Vec<Option<String>>,
}

async fn rows_after(
    tx: &mut Transaction<'_, Postgres>,
    after: &[PartRef],
    which: Which,
    now: UnixMs,
) -> Result<Vec<FoundRow>, StoreError> {
    if which == Which::All {
        let rows = sqlx::query_as!(
            FoundRow,
            r#"/* all_accounts */
            select counter, chain, slot, counts_until, sum::text as "sum!", epoch, part, limit_id,
                tenant, key_values as "key_values: Vec<Option<String>>"
            from account where counts_until > $1
            order by counter, chain, slot"#,
            now.to_utc()
        );
        return Ok(rows.fetch_all(&mut **tx).await?);
    }
    let chains: Vec<i32> = after.iter().map(|known| known.chain.0).collect();
    let parts: Vec<i64> = after.iter().map(|known| known.number.0).collect();
    let rows = sqlx::query_as!(
        FoundRow,
        r#"/* changed_accounts */
        with changed as (
            select distinct a.counter, a.chain
            from (select id from chain union all select 0) c
            left join unnest($1::integer[], $2::bigint[]) as known (chain, part)
                on known.chain = c.id
            join account a on a.chain = c.id and a.part > coalesce(known.part, 0)
            where known.chain is not null or not $4
        )
        select a.counter, a.chain, a.slot, a.counts_until, a.sum::text as "sum!", a.epoch, a.part,
            a.limit_id, a.tenant, a.key_values as "key_values: Vec<Option<String>>"
        from changed join account a using (counter, chain)
        where a.counts_until > $3
        order by a.counter, a.chain, a.slot"#,
        &chains,
        &parts,
        now.to_utc(),
        which == Which::ChangedOfThese
    );
    Ok(rows.fetch_all(&mut **tx).await?)
}

/// Gathers rows, which are in order, by counter and chain.
fn gathered(
    rows: Vec<FoundRow>,
    origins: &HashMap<ChainId, Origin>,
) -> Result<Vec<StoredAccount>, StoreError> {
    let mut accounts = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while let Some(first) = rows.next() {
        let (counter, chain) = (first.counter, first.chain);
        let mut slots = vec![slot_of(&first)?];
        let mut revision = revision_of(&first);
        let mut counts_until = first.counts_until;
        while let Some(row) = rows.next_if(|row| (row.counter, row.chain) == (counter, chain)) {
            slots.push(slot_of(&row)?);
            revision = revision.max(revision_of(&row));
            counts_until = counts_until.max(row.counts_until);
        }
        let chain = ChainId(chain);
        let total = slots
            .iter()
            .fold(Units::ZERO, |sum, slot| sum.saturating_add(slot.sum));
        let origin = match chain.0 {
            0 => Origin::Opening,
            _ => origins.get(&chain).copied().unwrap_or(Origin::Chain(chain)),
        };
        accounts.push(StoredAccount {
            counter: counter_of(counter),
            name: CounterName {
                limit: limit_of(first.limit_id),
                tenant: first.tenant,
                values: first.key_values,
            },
            chain,
            counts_until: instant(counts_until)?,
            message: Message {
                origin,
                use_: OriginUse::new(revision, total, slots),
                base: None,
            },
        });
    }
    Ok(accounts)
}

const fn revision_of(row: &FoundRow) -> Revision {
    Revision {
        epoch: row.epoch,
        number: row.part,
    }
}

fn slot_of(row: &FoundRow) -> Result<SlotSum, StoreError> {
    Ok(SlotSum {
        start: instant(row.slot)?,
        sum: units_of(&row.sum)?,
    })
}
