//! Counters of long windows in Postgres, written each second, so that a crash of all replicas forgets
//! little of them.
//!
//! Invariant: rows are this start's own, absolute and numbered, so one that is written late or twice
//! changes nothing. Deliberately absent: names of tenants and keys, which counters do not know: the rows
//! are readable only to who may read all tenants.

use std::sync::Arc;
use std::time::Duration;

use domain::account::{Account, ReplicaId};
use domain::counting::CounterName;
use domain::feed::{Balance, Entry};
use domain::limit::{Algorithm, LimitSpec, Refill};
use domain::time::UnixMs;
use domain::window::WindowSpec;
use service::Shutdown;
use store::accounts::ReplicaAccount;
use tokio::time::{Instant, sleep, timeout};

use super::own::Way;
use super::postgres::Postgres;
use super::{Shared, now};
use crate::observe::feed as observe;

/// How often changed counters are written.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many are written in one statement.
const ROWS_MAX: usize = 5_000;

/// How often old rows are deleted, and how many at once.
const AGE_OUT: Duration = Duration::from_secs(60);
const OLD_ROWS_MAX: i32 = 10_000;

/// How long the last rows may take at the shutdown.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// The tenant of rows that no tenant may read: Postgres shows them to who reads all.
const NO_TENANT: &str = "*";

/// Writes each second until the shutdown, then once more.
pub(super) async fn keep_writing(shared: &Shared, postgres: &Arc<Postgres>, shutdown: &Shutdown) {
    let mut aged_out = Instant::now();
    while shutdown.unless_requested(sleep(INTERVAL)).await.is_some() {
        shared.own.gather();
        write(shared, postgres, Some(shutdown)).await;
        if aged_out.elapsed() >= AGE_OUT {
            aged_out = Instant::now();
            age_out(postgres, shutdown).await;
        }
    }
    shared.own.gather();
    // A process that ends waits for nobody long.
    drop(timeout(LAST_PATIENCE, write(shared, postgres, None)).await);
}

/// Writes what waits, until nothing does, Postgres fails, or `until` is requested.
async fn write(shared: &Shared, postgres: &Postgres, until: Option<&Shutdown>) {
    loop {
        let entries = shared.own.take(Way::Postgres, ROWS_MAX);
        let is_last = entries.len() < ROWS_MAX;
        let limits = shared.engine.limits();
        let names: Vec<_> = entries
            .iter()
            .map(|entry| (entry.limit, entry.counter))
            .collect();
        let rows: Vec<ReplicaAccount> = entries
            .into_iter()
            .filter_map(|entry| {
                let known = limits.get_or_retired(entry.limit)?;
                let until = counts_until(&known.spec, &entry, now());
                Some(row_of(entry, shared.replica, until))
            })
            .collect();
        if rows.is_empty() {
            return;
        }
        let writing = Box::pin(postgres.ask("write counters", async move |database| {
            store::accounts::save_replica(&database, &rows).await
        }));
        let written = match until {
            Some(shutdown) => shutdown.unless_requested(writing).await.flatten(),
            None => writing.await,
        };
        if written.is_none() {
            shared.own.put_back(Way::Postgres, names);
            return;
        }
        if is_last {
            return;
        }
    }
}

async fn age_out(postgres: &Postgres, shutdown: &Shutdown) {
    while !shutdown.is_requested() {
        let deleting = postgres.ask("delete old counters", async move |database| {
            store::accounts::delete_old(&database, OLD_ROWS_MAX).await
        });
        let deleted = shutdown.unless_requested(deleting).await.flatten();
        let Some(deleted) = deleted else { return };
        observe::aged_out(deleted);
        if deleted < OLD_ROWS_MAX {
            return;
        }
    }
}

/// Makes the row of a counter.
pub(super) fn row_of(entry: Entry, replica: ReplicaId, counts_until: UnixMs) -> ReplicaAccount {
    let use_ = entry.message.use_.clone();
    // The record of the feed holds the base; what else it holds stands in the row as well.
    let has_base = entry.message.base.is_some();
    let base = has_base.then(|| Balance::Account(entry.message).to_bytes());
    ReplicaAccount {
        counter: entry.counter,
        name: CounterName {
            limit: entry.limit,
            tenant: NO_TENANT.to_owned(),
            values: Vec::new(),
        },
        replica,
        use_,
        base,
        counts_until,
    }
}

/// Returns the instant from which nothing of an entry counts.
fn counts_until(limit: &LimitSpec, entry: &Entry, now: UnixMs) -> UnixMs {
    let newest = entry.message.use_.slots().last().map(|slot| slot.start);
    let newest = newest.unwrap_or(now);
    let slot = limit.algorithm().slots().slot_at(newest);
    match limit.algorithm() {
        Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => slot.end(),
        Algorithm::Window(WindowSpec::Sliding(length)) => slot.end().saturating_add_ms(length.ms()),
        Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
            let mut account = Account::default();
            account.merge(entry.message.clone());
            let level = account.level(limit, now);
            let from = now.max(slot.end());
            from.saturating_add_ms(drain_ms(*refill, level.get()))
        }
    }
}

/// Returns how long a bucket's level takes to be nothing, in ms, rounded up.
fn drain_ms(refill: Refill, level: i128) -> i64 {
    let amount = refill.amount.get().max(1);
    let ms = level.saturating_mul(refill.every.ms().into()) / amount;
    i64::try_from(ms).unwrap_or(i64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use domain::account::{Counter, Origin, Revision};
    use domain::hash::Hash128;
    use domain::limit::{Enforce, MeterSelector};
    use domain::meter::Meter;
    use domain::policy::CounterKey;
    use domain::policy::model::LimitId;
    use domain::units::Units;
    use domain::window::{Interval, WindowLength};
    use proptest::prelude::*;

    use super::*;

    fn algorithm() -> impl Strategy<Value = Algorithm> {
        let length = (1_000_i64..200_000).prop_map(|ms| WindowLength::from_ms(ms).unwrap());
        let refill = (1_i128..50, 1_i64..100_000).prop_map(|(amount, every)| Refill {
            amount: Units::new(amount),
            every: Interval::from_ms(every).unwrap(),
        });
        prop_oneof![
            length
                .clone()
                .prop_map(|length| Algorithm::Window(WindowSpec::Fixed(length))),
            length.prop_map(|length| Algorithm::Window(WindowSpec::Sliding(length))),
            refill.clone().prop_map(Algorithm::TokenBucket),
            refill.prop_map(Algorithm::LeakyBucket),
        ]
    }

    proptest! {
        /// A row may be deleted when the counter that it restores would be idle, not before.
        #[test]
        fn a_row_lives_as_long_as_its_counter(
            algorithm in algorithm(),
            charges in prop::collection::vec((0_i64..400_000, 1_i128..90), 1..20),
        ) {
            let meter = MeterSelector::Standard(Meter::Requests);
            let limit = LimitSpec::new(meter, algorithm, Units::new(100), Enforce::Soft).unwrap();
            let origin = Origin::Replica(ReplicaId(1));
            let mut counter = Counter::new(&limit, origin);
            let mut charges = charges;
            charges.sort_unstable();
            let mut now = UnixMs::FIRST;
            for (ms, units) in charges {
                now = UnixMs::new(1_000_000_000_000 + ms).unwrap();
                counter.charge(&limit, limit.moment(now), Units::new(units));
            }
            let hash = Hash128::from_bytes([1; 16]);
            let entry = Entry {
                limit: LimitId(hash),
                counter: CounterKey(hash),
                message: counter.message(Revision { epoch: 0, number: 1 }),
            };
            let until = counts_until(&limit, &entry, now);
            let mut restored = Counter::new(&limit, Origin::Replica(ReplicaId(2)));
            restored.merge(&limit, entry.message.clone());
            prop_assert!(restored.is_idle(&limit, until.saturating_add_ms(1)), "{until} at {now}");
        }
    }
}
