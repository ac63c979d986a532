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

use super::{OPENINGS, counter_of, units_of};
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

impl Accounts {
    /// Returns up to which part each chain is told, as [`changes`] takes it; of the openings up to which
    /// version of the policies.
    #[must_use]
    pub fn parts(&self) -> Vec<PartRef> {
        let chains = self.chains.iter().map(|standing| PartRef {
            chain: standing.chain,
            number: standing.part,
        });
        let openings = PartRef {
            chain: OPENINGS,
            number: PartNumber(self.policies.map_or(0, |version| version.0)),
        };
        chains.chain([openings]).collect()
    }
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
/// Each is whole: all its slots that count. Of chains that `after` does not name, or of which it knows less
/// than notes of changes go back (two minutes), all accounts are returned; [`OPENINGS`] is a chain whose
/// part is the version of the policies. With nothing in `after` it is [`load`].
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

/// Returns the accounts of these chains that changed after these parts, as [`changes`] does, and of no other
/// chain: what the owner of the chains sends to the feed.
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
    let rows = rows_after(&mut tx, after, which, &chains, now).await?;
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
    chains: &[ChainStanding],
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
    let known = known(tx, after, which, chains).await?;
    let mut rows = if known.changed.is_empty() {
        Vec::new()
    } else {
        // Account by account, since Postgres would else read all of them to find the few that changed.
        let rows = sqlx::query_as!(
            FoundRow,
            r#"/* changed_accounts */
            with changed as materialized (
                select distinct counter, known.chain
                from unnest($1::integer[], $2::bigint[]) as known (chain, part)
                cross join lateral (
                    select counters from account_change
                    where chain = known.chain and part > known.part
                    offset 0
                ) c
                cross join lateral unnest(c.counters) as counter
            )
            select a.counter as "counter!", a.chain as "chain!", a.slot as "slot!",
                a.counts_until as "counts_until!", a.sum::text as "sum!", a.epoch as "epoch!",
                a.part as "part!", a.limit_id as "limit_id!", a.tenant as "tenant!",
                a.key_values as "key_values!: Vec<Option<String>>"
            from changed
            cross join lateral (
                select * from account
                where counter = changed.counter and chain = changed.chain and counts_until > $3
                offset 0
            ) a
            order by a.counter, a.chain, a.slot"#,
            &known.changed,
            &known.after,
            now.to_utc()
        );
        rows.fetch_all(&mut **tx).await?
    };
    if !known.whole.is_empty() {
        let whole = sqlx::query_as!(
            FoundRow,
            r#"/* accounts_of_chains */
            select counter, chain, slot, counts_until, sum::text as "sum!", epoch, part, limit_id,
                tenant, key_values as "key_values: Vec<Option<String>>"
            from account where chain = any($1) and counts_until > $2"#,
            &known.whole,
            now.to_utc()
        );
        rows.extend(whole.fetch_all(&mut **tx).await?);
        rows.sort_unstable_by_key(|row| (row.counter, row.chain, row.slot));
    }
    Ok(rows)
}

/// What a reader knows of the chains that it asks for.
struct Known {
    /// Chains of which notes tell what it misses, if anything; parallel to `after`.
    changed: Vec<i32>,
    /// The last part of each that it knows.
    after: Vec<i64>,
    /// Chains of which it knows nothing, or less than notes of changes go back.
    whole: Vec<i32>,
}

async fn known(
    tx: &mut Transaction<'_, Postgres>,
    after: &[PartRef],
    which: Which,
    chains: &[ChainStanding],
) -> Result<Known, StoreError> {
    let rows = sqlx::query!("/* change_floors */ select chain, part from account_change_floor")
        .fetch_all(&mut **tx)
        .await?;
    let floors: HashMap<i32, i64> = rows.iter().map(|row| (row.chain, row.part)).collect();
    let mut known = Known {
        changed: Vec::new(),
        after: Vec::new(),
        whole: Vec::new(),
    };
    for PartRef { chain, number } in after {
        if number.0 < floors.get(&chain.0).copied().unwrap_or(0) {
            known.whole.push(chain.0);
        } else {
            known.changed.push(chain.0);
            known.after.push(number.0);
        }
    }
    if which == Which::Changed {
        let all = chains.iter().map(|standing| standing.chain);
        let is_new = |chain: &ChainId| !after.iter().any(|known| known.chain == *chain);
        let new = all.chain([OPENINGS]).filter(is_new);
        known.whole.extend(new.map(|chain| chain.0));
    }
    Ok(known)
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
        let origin = match chain {
            OPENINGS => Origin::Opening,
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
