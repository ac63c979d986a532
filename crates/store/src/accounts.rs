//! Accounts: what was counted for the keys of limits, by origin and slot.
//!
//! Invariant: a row has one writer: the owner of its chain, in the transaction of a batch or of an
//! adjustment; the change of policies, for openings; one incarnation of an enforcer. So no two wait for
//! each other, and numbers are absolute with a revision that only grows. Deliberately absent: levels
//! and limits; readers merge what they read (`domain::account::Account::merge`).

mod feed;
mod read;
mod replica;

use domain::counting::AccountSum;
use domain::hash::Hash128;
use domain::ids::ChainId;
use domain::meter::{METERS, PerMeter};
use domain::policy::CounterKey;
use domain::units::Units;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::connect::Database;
use crate::error::StoreError;
use crate::in_force::uuid_of;

pub use feed::{IdleAccount, idle, note_sent, sent};
pub use read::{Accounts, ChainStanding, StoredAccount, changes, changes_of, load};
pub use replica::{ReplicaAccount, load_replicas, save_replica};

/// How long after it counted last a slot is still written, in ms: for usage that arrives late, and clocks
/// that differ. Its row is deleted after an hour.
pub const LIVE_MS: i64 = 10 * 60 * 1000;

/// The chain that openings stand under; its parts are the versions of the policies.
pub const OPENINGS: ChainId = ChainId(0);

/// Who writes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountWriter {
    /// A batch adds what its parts used.
    Chain,
    /// A correction adds what it corrects.
    Adjustment,
    /// A change of policies sets what the ledger held.
    Opening,
}

impl AccountWriter {
    const fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Adjustment => "adjustment",
            Self::Opening => "opening",
        }
    }
}

/// A row to be written.
pub(crate) struct Row<'r> {
    pub(crate) sum: &'r AccountSum,
    /// The chain; 0 for openings.
    pub(crate) chain: i32,
    pub(crate) epoch: i64,
    pub(crate) part: i64,
}

/// Writes all rows of one or more parts in one statement: adds to sums that are there, but of openings,
/// which are set; and notes which accounts each part changed.
pub(crate) async fn write(
    tx: &mut PgConnection,
    writer: AccountWriter,
    rows: Vec<Row<'_>>,
) -> Result<(), StoreError> {
    let mut columns = Columns::default();
    for row in &rows {
        columns.add(row);
    }
    if columns.counters.is_empty() {
        return Ok(());
    }
    let written = u64::try_from(columns.counters.len()).unwrap_or(u64::MAX);
    let stored = sqlx::query!(
        "/* write_accounts */
        with changed as (
            insert into account_change (chain, part, counters)
            select chain, part, array_agg(distinct counter)
            from unnest($2::uuid[], $3::integer[], $8::bigint[]) as new (counter, chain, part)
            group by chain, part
        )
        insert into account (counter, chain, slot, counts_until, sum, epoch, part, limit_id, origin,
            tenant, key_values)
        select counter, chain, slot, counts_until, sum::numeric, epoch, part, limit_id, $1, tenant,
            key_values::text[]
        from unnest($2::uuid[], $3::integer[], $4::timestamptz[], $5::timestamptz[], $6::text[],
            $7::bigint[], $8::bigint[], $9::uuid[], $10::text[], $11::text[])
            as new (counter, chain, slot, counts_until, sum, epoch, part, limit_id, tenant,
                key_values)
        on conflict (counter, chain, slot) do update
        set sum = case when $1 = 'opening' then excluded.sum else account.sum + excluded.sum end,
            epoch = excluded.epoch, part = excluded.part",
        writer.name(),
        &columns.counters,
        &columns.chains,
        &columns.slots,
        &columns.counts_until,
        &columns.sums,
        &columns.epochs,
        &columns.parts,
        &columns.limits,
        &columns.tenants,
        &columns.key_values
    )
    .execute(tx)
    .await?
    .rows_affected();
    if stored != written {
        let what = format!("{stored} of {written} rows of accounts were written");
        return Err(StoreError::Corrupt(what));
    }
    Ok(())
}

#[derive(Default)]
struct Columns {
    counters: Vec<Uuid>,
    chains: Vec<i32>,
    slots: Vec<chrono::DateTime<chrono::Utc>>,
    counts_until: Vec<chrono::DateTime<chrono::Utc>>,
    sums: Vec<String>,
    epochs: Vec<i64>,
    parts: Vec<i64>,
    limits: Vec<Uuid>,
    tenants: Vec<String>,
    key_values: Vec<String>,
}

impl Columns {
    fn add(&mut self, row: &Row<'_>) {
        let sum = row.sum;
        self.counters.push(uuid_of(sum.counter.0));
        self.chains.push(row.chain);
        self.slots.push(sum.slot.to_utc());
        self.counts_until.push(sum.counts_until.to_utc());
        self.sums.push(sum.sum.get().to_string());
        self.epochs.push(row.epoch);
        self.parts.push(row.part);
        self.limits.push(uuid_of(sum.name.limit.0));
        self.tenants.push(sum.name.tenant.clone());
        self.key_values.push(array_of(&sum.name.values));
    }
}

/// Writes texts as one of Postgres's array literals, since arrays of arrays cannot be unnested.
fn array_of(values: &[Option<String>]) -> String {
    let mut literal = "{".to_owned();
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            literal.push(',');
        }
        match value {
            None => literal.push_str("NULL"),
            Some(value) => {
                literal.push('"');
                for c in value.chars() {
                    if matches!(c, '"' | '\\') {
                        literal.push('\\');
                    }
                    literal.push(c);
                }
                literal.push('"');
            }
        }
    }
    literal.push('}');
    literal
}

/// Deletes rows that counted last more than an hour ago, and notes of what parts changed two minutes ago,
/// at most so many of each; returns the greatest number.
///
/// Call it again at once where it returns `rows_max`. Whose rows they are does not matter: nobody writes
/// to such slots any more.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn delete_old(db: &Database, rows_max: i32) -> Result<i32, StoreError> {
    let deleted = sqlx::query_scalar!(
        r#"/* delete_old_accounts */ select delete_old_accounts($1) as "deleted!""#,
        rows_max
    )
    .fetch_one(db.pool())
    .await?;
    Ok(deleted)
}

pub(crate) fn counter_of(stored: Uuid) -> CounterKey {
    CounterKey(Hash128::from_bytes(stored.into_bytes()))
}

/// Reads units as stored, whole.
pub(crate) fn units_of(text: &str) -> Result<Units, StoreError> {
    let whole = text.split_once('.').map_or(text, |(whole, _zeros)| whole);
    let units = whole.parse().map(Units::new);
    units.map_err(|_| StoreError::Corrupt(format!("an account holds {text:?}, which no sum is")))
}

/// Reads a sum per meter, in the order of all meters, as Postgres writes a `numeric[]`.
pub(crate) fn quantities_of(texts: &[String]) -> Result<PerMeter<i128>, StoreError> {
    let mut quantities = [0; METERS];
    for (quantity, text) in quantities.iter_mut().zip(texts) {
        *quantity = units_of(text)?.get();
    }
    Ok(PerMeter::from_array(quantities))
}

#[cfg(test)]
mod tests {
    use super::array_of;

    #[test]
    fn values_are_written_as_postgres_reads_them() {
        let some = |text: &str| Some(text.to_owned());
        let cases = [
            (vec![], "{}"),
            (vec![some("shop"), None], r#"{"shop",NULL}"#),
            (vec![some(r#"a"b\c,{}"#)], r#"{"a\"b\\c,{}"}"#),
            (vec![some("NULL"), some("")], r#"{"NULL",""}"#),
        ];
        for (values, literal) in cases {
            assert_eq!(array_of(&values), literal);
        }
    }
}
