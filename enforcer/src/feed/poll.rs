//! Accounts from Postgres: all at first, then what changed, by part number of each chain.
//!
//! Invariant: what a snapshot says is told together with up to where it reaches, so that a crash of
//! ingest between its commit and the feed hides nothing for longer than one interval. Deliberately
//! absent: what becomes of what is told.

use std::sync::Arc;
use std::time::Duration;

use domain::account::{Message, Origin};
use domain::feed::Balance;
use domain::ids::PartRef;
use store::accounts::{Accounts, ReplicaAccount, StoredAccount};
use tokio::time::{Instant, sleep, sleep_until};

use super::marks::Standing;
use super::merge::{BalanceFeed, Told, Use};
use super::postgres::Postgres;
use super::{Shared, now};
use crate::engine::Source;

/// How often Postgres is asked what changed, and how often while the feed tells nothing.
const INTERVAL: Duration = Duration::from_secs(10);
const STALE_INTERVAL: Duration = Duration::from_secs(1);

/// From this age of its newest marks on the feed tells nothing, in ms.
const STALE_MS: i64 = 3_000;

/// How long it rests after Postgres did not answer.
const REST: Duration = Duration::from_secs(1);

/// The accounts in Postgres.
pub(super) struct PostgresFeed {
    shared: Arc<Shared>,
    postgres: Arc<Postgres>,
    /// The parts up to which everything was told; empty before the first snapshot.
    known: Vec<PartRef>,
    /// The change of limits that everything was read for.
    limits_seen: u64,
    /// How many counters had found no room when all was read that was told last.
    healed: Option<u64>,
    due: Instant,
}

impl PostgresFeed {
    pub(super) fn new(shared: &Arc<Shared>, postgres: &Arc<Postgres>) -> Self {
        Self {
            shared: Arc::clone(shared),
            postgres: Arc::clone(postgres),
            known: Vec::new(),
            limits_seen: 0,
            healed: None,
            due: Instant::now(),
        }
    }

    async fn wait(&self) {
        // While the feed is silent, this is what tells.
        let silent = async {
            sleep(STALE_INTERVAL).await;
            let since = now().saturating_add_ms(STALE_MS.saturating_neg());
            if self.shared.merger.is_marked_since(since) {
                sleep_until(self.due).await;
            }
        };
        tokio::select! {
            () = self.shared.poll_now.notified() => {}
            () = sleep_until(self.due) => {}
            () = silent => {}
        }
    }

    async fn read(&mut self, told: &mut Vec<Told>) -> Option<()> {
        let changes = self.shared.changes_of_limits();
        let missed = self.shared.engine.counters().missed();
        if changes != self.limits_seen || missed.is_some() {
            // Limits came in force of which everything was skipped so far, or there was no room for all.
            self.known.clear();
        }
        let is_first = self.known.is_empty();
        let beginning = self.shared.merger.beginning();
        let (asked, known) = (now(), self.known.clone());
        let accounts = self
            .postgres
            .ask("accounts", async move |database| {
                store::accounts::changes(&database, &known, asked).await
            })
            .await?;
        if is_first {
            let replicas = self
                .postgres
                .ask("accounts of replicas", async move |database| {
                    store::accounts::load_replicas(&database, asked).await
                })
                .await?;
            told.extend(replicas.into_iter().map(told_by_replica));
        }
        self.limits_seen = changes;
        self.known = accounts.parts();
        let (chains, at) = (standings_of(&accounts), accounts.at);
        told.extend(accounts.accounts.into_iter().map(told_by_account));
        told.push(Told::Snapshot(beginning, chains, at));
        told.push(Told::Read(changes));
        self.healed = missed;
        self.shared.engine.sources().note(Source::Postgres, asked);
        Some(())
    }
}

impl BalanceFeed for PostgresFeed {
    async fn next(&mut self, told: &mut Vec<Told>) {
        // What was told last is merged by now.
        if let Some(missed) = self.healed.take() {
            self.shared.engine.counters().heal(missed);
        }
        self.wait().await;
        if self.read(told).await.is_some() {
            self.due = Instant::now() + INTERVAL;
        } else {
            sleep(REST).await;
            self.due = Instant::now();
        }
    }
}

/// Corrections come with the snapshots alone, so nobody waits for their marks.
fn standings_of(accounts: &Accounts) -> Vec<Standing> {
    let chains = accounts.chains.iter();
    let of_sources = chains.filter(|standing| standing.origin != Origin::Adjustment);
    let of_sources = of_sources.map(|standing| Standing {
        chain: standing.chain,
        watermark: standing.watermark,
        is_live: standing.is_live,
    });
    of_sources.collect()
}

fn told_by_account(account: StoredAccount) -> Told {
    Told::Use(Use {
        limit: account.name.limit,
        counter: account.counter,
        message: account.message,
    })
}

/// Reads what a replica stored; of a bucket the base lies in a record of the feed.
pub(super) fn told_by_replica(account: ReplicaAccount) -> Told {
    let base = match account.base.as_deref().map(Balance::from_bytes) {
        None => None,
        Some(Ok(Balance::Account(message))) => message.base,
        Some(Ok(Balance::Mark(_))) => None,
        Some(Err(error)) => return Told::Refused(error),
    };
    Told::Use(Use {
        limit: account.name.limit,
        counter: account.counter,
        message: Message {
            origin: Origin::Replica(account.replica),
            use_: account.use_,
            base,
        },
    })
}

#[cfg(test)]
mod tests {
    use domain::account::{OriginUse, ReplicaId, Revision};
    use domain::counting::CounterName;
    use domain::hash::Hash128;
    use domain::policy::CounterKey;
    use domain::policy::model::LimitId;
    use domain::time::UnixMs;
    use domain::units::Units;

    use super::super::persist::row_of;
    use super::*;

    #[test]
    fn a_replicas_row_reads_back_as_it_was_told() {
        let hash = Hash128::from_bytes([7; 16]);
        let at = UnixMs::FIRST.saturating_add_ms(960_000);
        let origin = Origin::Replica(ReplicaId(u64::MAX));
        let base = domain::account::Base::new(at, 77, [(origin, Units::new(5))].into());
        let revision = Revision {
            epoch: 0,
            number: 3,
        };
        for base in [None, Some(base)] {
            let entry = domain::feed::Entry {
                limit: LimitId(hash),
                counter: CounterKey(hash),
                message: Message {
                    origin,
                    use_: OriginUse::new(revision, Units::new(9), Vec::new()),
                    base,
                },
            };
            let row = row_of(entry.clone(), ReplicaId(u64::MAX), at);
            assert_eq!(row.name.limit, entry.limit, "the limit's name");
            let name = CounterName {
                limit: entry.limit,
                tenant: "*".to_owned(),
                values: Vec::new(),
            };
            assert_eq!(row.name, name, "no tenant is named that reads it");
            let told = Told::Use(Use {
                limit: entry.limit,
                counter: entry.counter,
                message: entry.message,
            });
            assert_eq!(told_by_replica(row), told, "as it was");
        }
    }
}
