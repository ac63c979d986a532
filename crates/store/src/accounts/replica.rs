//! What replicas of the enforcer counted by themselves, for windows of an hour or more.
//!
//! Invariant: a row is written by one incarnation of one replica, and a greater revision replaces a
//! smaller one whatever the order of arrival.

use domain::account::{OriginUse, ReplicaId, Revision, SlotSum};
use domain::counting::CounterName;
use domain::policy::CounterKey;
use domain::time::UnixMs;
use uuid::Uuid;

use super::{array_of, counter_of, units_of};
use crate::connect::Database;
use crate::cost::{instant, set_tenant};
use crate::error::StoreError;
use crate::in_force::uuid_of;
use crate::policies::limit_of;

/// What one incarnation of a replica counted for one key of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaAccount {
    /// The counter.
    pub counter: CounterKey,
    /// Limit, tenant and values.
    pub name: CounterName,
    /// Who counted.
    pub replica: ReplicaId,
    /// What it counted: revision, total and slots, absolute.
    pub use_: OriginUse,
    /// The base of a bucket in the feed's encoding, which this room does not read.
    pub base: Option<Vec<u8>>,
    /// The instant from which its newest slot no longer counts, after which the row may be deleted.
    pub counts_until: UnixMs,
}

/// Writes what changed since the last call, each counter once: a row whose stored revision is as new stays
/// as it is. Call it once a second for the windows of an hour or more.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; write the same or newer numbers again.
pub async fn save_replica(db: &Database, accounts: &[ReplicaAccount]) -> Result<(), StoreError> {
    if accounts.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(accounts);
    let mut tx = db.pool().begin().await?;
    set_tenant(&mut tx, "*").await?;
    sqlx::query!(
        "/* save_replica */
        insert into replica_account as known (counter, replica, counts_until, epoch, number, total,
            slots, sums, base, limit_id, tenant, key_values)
        select counter, replica, counts_until, epoch, number, total::numeric,
            slots::timestamptz[], sums::numeric[], base, limit_id, tenant, key_values::text[]
        from unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bigint[], $5::bigint[],
            $6::text[], $7::text[], $8::text[], $9::bytea[], $10::uuid[], $11::text[], $12::text[])
            as new (counter, replica, counts_until, epoch, number, total, slots, sums, base,
                limit_id, tenant, key_values)
        on conflict (counter, replica) do update
        set counts_until = excluded.counts_until, epoch = excluded.epoch, number = excluded.number,
            total = excluded.total, slots = excluded.slots, sums = excluded.sums,
            base = excluded.base
        where (known.epoch, known.number) < (excluded.epoch, excluded.number)",
        &columns.counters,
        &columns.replicas,
        &columns.counts_until,
        &columns.epochs,
        &columns.numbers,
        &columns.totals,
        &columns.slots,
        &columns.sums,
        &columns.bases as &[Option<Vec<u8>>],
        &columns.limits,
        &columns.tenants,
        &columns.key_values
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

#[derive(Default)]
struct Columns {
    counters: Vec<Uuid>,
    replicas: Vec<i64>,
    counts_until: Vec<chrono::DateTime<chrono::Utc>>,
    epochs: Vec<i64>,
    numbers: Vec<i64>,
    totals: Vec<String>,
    slots: Vec<String>,
    sums: Vec<String>,
    bases: Vec<Option<Vec<u8>>>,
    limits: Vec<Uuid>,
    tenants: Vec<String>,
    key_values: Vec<String>,
}

impl Columns {
    /// Takes rows in the order of their keys.
    fn of(accounts: &[ReplicaAccount]) -> Self {
        let mut sorted: Vec<&ReplicaAccount> = accounts.iter().collect();
        sorted.sort_unstable_by_key(|account| (account.counter, account.replica));
        let mut columns = Self::default();
        for account in sorted {
            let use_ = &account.use_;
            columns.counters.push(uuid_of(account.counter.0));
            columns.replicas.push(account.replica.0.cast_signed());
            columns.counts_until.push(account.counts_until.to_utc());
            columns.epochs.push(use_.revision().epoch);
            columns.numbers.push(use_.revision().number);
            columns.totals.push(use_.total().get().to_string());
            let starts = use_.slots().iter().map(|slot| slot.start.to_string());
            columns.slots.push(array_literal(starts));
            let sums = use_.slots().iter().map(|slot| slot.sum.get().to_string());
            columns.sums.push(array_literal(sums));
            columns.bases.push(account.base.clone());
            columns.limits.push(uuid_of(account.name.limit.0));
            columns.tenants.push(account.name.tenant.clone());
            columns.key_values.push(array_of(&account.name.values));
        }
        columns
    }
}

/// Writes instants or numbers as an array literal.
fn array_literal(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    format!("{{{}}}", items.join(","))
}

/// Returns what all incarnations counted whose newest slots count at `now` or later: what an enforcer
/// begins with, its own earlier incarnations' numbers among them.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; [`StoreError::Corrupt`] where a row cannot be read.
pub async fn load_replicas(db: &Database, now: UnixMs) -> Result<Vec<ReplicaAccount>, StoreError> {
    let mut tx = db.pool().begin().await?;
    set_tenant(&mut tx, "*").await?;
    let rows = sqlx::query!(
        r#"/* load_replicas */
        select counter, replica, counts_until, epoch, number, total::text as "total!", slots,
            sums::text[] as "sums!: Vec<String>", base, limit_id, tenant,
            key_values as "key_values: Vec<Option<String>>"
        from replica_account where counts_until > $1"#,
        now.to_utc()
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;
    let read = rows.into_iter().map(|row| {
        let slots = row.slots.into_iter().zip(&row.sums).map(|(start, sum)| {
            let (start, sum) = (instant(start)?, units_of(sum)?);
            Ok(SlotSum { start, sum })
        });
        let slots: Vec<SlotSum> = slots.collect::<Result<_, StoreError>>()?;
        let revision = Revision {
            epoch: row.epoch,
            number: row.number,
        };
        Ok(ReplicaAccount {
            counter: counter_of(row.counter),
            name: CounterName {
                limit: limit_of(row.limit_id),
                tenant: row.tenant,
                values: row.key_values,
            },
            replica: ReplicaId(row.replica.cast_unsigned()),
            use_: OriginUse::new(revision, units_of(&row.total)?, slots),
            base: row.base,
            counts_until: instant(row.counts_until)?,
        })
    });
    read.collect()
}
