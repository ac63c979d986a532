//! The feed of balances: accounts that changed, to whoever decides.
//!
//! Invariant: a chain's mark names a part only once the accounts of all parts up to it are acknowledged,
//! and what was sent is noted in Postgres only after that; so a reader that saw a mark misses nothing
//! before it, and a new owner sends again what may be missing. What is sent is what Postgres holds,
//! absolute, so sending it twice changes nothing. Deliberately absent: what readers do with it.
//!
//! Openings and corrections belong to no partition; each process that owns any chain sends them.

mod topic;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::account::Origin;
use domain::feed::{Balance, BalanceKey, Mark};
use domain::ids::{ChainId, Epoch, PartNumber, PartRef};
use domain::time::UnixMs;
use service::Shutdown;
use store::accounts::{Accounts, ChainStanding, OPENINGS, changes_of, idle, note_sent, sent};
use store::{Database, StoreError};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::accounts::now;
use crate::assignment::Assignments;
use crate::config::KafkaConfig;
use crate::kafka::LogError;
use crate::observe;

use topic::BalancesTopic;

/// How often marks are sent, and changes looked for that nobody told of.
const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// How often idle accounts are looked for.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);

/// How long after its end a slot is still sent, in ms: readers' clocks differ.
const SENT_MS: i64 = 60_000;

/// How far back idle accounts are looked for at the start, in ms: rows are kept for an hour.
const IDLE_BACK_MS: i64 = 60 * 60 * 1000;

/// Sends the feed for one process.
pub(crate) struct BalancesFeed {
    /// The ledger.
    pub(crate) database: Database,
    /// How to reach Kafka.
    pub(crate) kafka: KafkaConfig,
    /// What the group assigned.
    pub(crate) assignments: Arc<Assignments>,
    /// Told of each batch that may have changed accounts.
    pub(crate) committed: Arc<Notify>,
    /// Ends the thread.
    pub(crate) shutdown: Shutdown,
}

/// Why a round was not finished; the next one does it again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedTrouble {
    /// Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kafka.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What the thread remembers between two rounds.
struct Memory {
    topic: Option<BalancesTopic>,
    /// Up to which part each chain's accounts are acknowledged, and under which epoch we own it.
    sent: HashMap<ChainId, (Epoch, PartNumber)>,
    marked: Instant,
    looked_for_idle: Option<(Instant, UnixMs)>,
    is_in_trouble: bool,
}

impl BalancesFeed {
    /// Sends until the shutdown; blocks its thread, which must not be the runtime's.
    pub(crate) fn run(self, runtime: &Handle) {
        let mut memory = Memory {
            topic: None,
            sent: HashMap::new(),
            marked: Instant::now(),
            looked_for_idle: None,
            is_in_trouble: false,
        };
        while !self.shutdown.is_requested() {
            // Before anybody has limits, batches need not tell us anything.
            let is_told = memory.topic.is_some();
            runtime.block_on(async {
                tokio::select! {
                    () = self.shutdown.requested() => {}
                    () = self.committed.notified(), if is_told => {}
                    () = sleep(MARK_INTERVAL) => {}
                }
            });
            match self.round(&mut memory, runtime) {
                Ok(()) => memory.is_in_trouble = false,
                Err(trouble) => {
                    observe::balances_failed(&trouble, !memory.is_in_trouble);
                    memory.is_in_trouble = true;
                }
            }
        }
    }

    /// Sends what changed, and marks where they are due.
    fn round(&self, memory: &mut Memory, runtime: &Handle) -> Result<(), FeedTrouble> {
        let owned = self.owned();
        if owned.is_empty() {
            return Ok(());
        }
        let after = self.known(memory, &owned, runtime)?;
        let since = now().saturating_add_ms(SENT_MS.saturating_neg());
        let found = runtime.block_on(changes_of(&self.database, &after, since))?;
        if found.policies.is_none() {
            // Nobody has limits, so nobody reads.
            return Ok(());
        }
        if memory.topic.is_none() {
            memory.topic = Some(BalancesTopic::open(&self.kafka, runtime)?);
        }
        let Some(topic) = &memory.topic else {
            return Ok(());
        };
        for account in &found.accounts {
            let key = BalanceKey::Account {
                limit: account.name.limit,
                counter: account.counter,
                origin: account.message.origin,
            };
            let value = Balance::Account(account.message.clone());
            topic.send(&key.to_bytes(), Some(&value.to_bytes()), None)?;
        }
        topic.flush()?;
        observe::balances_sent(found.accounts.len());
        let told = told_by(&found, &owned);
        for (part, epoch) in &told {
            memory.sent.insert(part.chain, (*epoch, part.number));
        }
        if memory.marked.elapsed() >= MARK_INTERVAL {
            send_marks(topic, &found, &owned)?;
            let parts: Vec<PartRef> = told.iter().map(|(part, _)| *part).collect();
            runtime.block_on(note_sent(&self.database, &parts))?;
            memory.marked = Instant::now();
            self.bury_idle(memory, &found, &owned, runtime)?;
        }
        Ok(())
    }

    fn owned(&self) -> HashMap<ChainId, Epoch> {
        let open = self.assignments.open();
        open.iter()
            .map(|assignment| (assignment.chain, assignment.epoch))
            .collect()
    }

    /// Returns from where on each chain is to be sent. Of a chain that became ours, and of what belongs to
    /// nobody, that is what Postgres knows to be sent.
    fn known(
        &self,
        memory: &mut Memory,
        owned: &HashMap<ChainId, Epoch>,
        runtime: &Handle,
    ) -> Result<Vec<PartRef>, FeedTrouble> {
        let is_ours =
            |chain: &ChainId, epoch: Epoch| owned.get(chain).is_none_or(|owned| *owned == epoch);
        memory
            .sent
            .retain(|chain, (epoch, _)| is_ours(chain, *epoch));
        let is_new = |chain: &&ChainId| !memory.sent.contains_key(chain);
        if owned.keys().any(|chain| is_new(&chain)) {
            let noted = runtime.block_on(sent(&self.database))?;
            let part_of = |chain| noted.get(chain).copied().unwrap_or(PartNumber::NONE);
            for (chain, epoch) in owned {
                memory
                    .sent
                    .entry(*chain)
                    .or_insert_with(|| (*epoch, part_of(chain)));
            }
            let openings = (Epoch(0), part_of(&OPENINGS));
            memory.sent.entry(OPENINGS).or_insert(openings);
        }
        let adjustment = runtime.block_on(store::adjust::standing(&self.database))?;
        let of_nobody = [Some(OPENINGS), adjustment.map(|standing| standing.chain)];
        let of_nobody: Vec<ChainId> = of_nobody.into_iter().flatten().collect();
        memory
            .sent
            .retain(|chain, _| owned.contains_key(chain) || of_nobody.contains(chain));
        let chains = owned.keys().chain(&of_nobody);
        let after = chains.map(|chain| PartRef {
            chain: *chain,
            number: memory
                .sent
                .get(chain)
                .map_or(PartNumber::NONE, |(_, part)| *part),
        });
        Ok(after.collect())
    }

    /// Takes accounts out of the feed that stopped counting since the last look.
    fn bury_idle(
        &self,
        memory: &mut Memory,
        found: &Accounts,
        owned: &HashMap<ChainId, Epoch>,
        runtime: &Handle,
    ) -> Result<(), FeedTrouble> {
        let to = found.at.saturating_add_ms(SENT_MS.saturating_mul(-2));
        let from = match memory.looked_for_idle {
            Some((looked, _)) if looked.elapsed() < IDLE_INTERVAL => return Ok(()),
            Some((_, until)) => until,
            None => to.saturating_add_ms(IDLE_BACK_MS.saturating_neg()),
        };
        let chains = ours(found, owned).map(|standing| standing.chain);
        let chains: Vec<ChainId> = chains.chain([OPENINGS]).collect();
        let idle = runtime.block_on(idle(&self.database, &chains, from, to))?;
        let Some(topic) = &memory.topic else {
            return Ok(());
        };
        let origin_of = |chain: ChainId| match chain {
            OPENINGS => Origin::Opening,
            chain => {
                let known = found.chains.iter().find(|known| known.chain == chain);
                known.map_or(Origin::Chain(chain), |known| known.origin)
            }
        };
        for account in &idle {
            let key = BalanceKey::Account {
                limit: account.limit,
                counter: account.counter,
                origin: origin_of(account.chain),
            };
            topic.send(&key.to_bytes(), None, None)?;
        }
        topic.flush()?;
        memory.looked_for_idle = Some((Instant::now(), to));
        Ok(())
    }
}

/// Returns the chains that we send of: ours, and corrections.
fn ours<'a>(
    found: &'a Accounts,
    owned: &'a HashMap<ChainId, Epoch>,
) -> impl Iterator<Item = &'a ChainStanding> {
    found.chains.iter().filter(|standing| {
        standing.origin == Origin::Adjustment || owned.get(&standing.chain) == Some(&standing.epoch)
    })
}

/// Returns up to which parts what was read tells everything.
fn told_by(found: &Accounts, owned: &HashMap<ChainId, Epoch>) -> Vec<(PartRef, Epoch)> {
    let of_chains = ours(found, owned).map(|standing| {
        let part = PartRef {
            chain: standing.chain,
            number: standing.part,
        };
        (part, standing.epoch)
    });
    let openings = found.policies.map(|version| {
        let part = PartRef {
            chain: OPENINGS,
            number: PartNumber(version.0),
        };
        (part, Epoch(0))
    });
    of_chains.chain(openings).collect()
}

/// Sends the marks of our chains to every partition; their accounts are acknowledged.
fn send_marks(
    topic: &BalancesTopic,
    found: &Accounts,
    owned: &HashMap<ChainId, Epoch>,
) -> Result<(), LogError> {
    for standing in ours(found, owned) {
        let key = BalanceKey::Mark(standing.chain).to_bytes();
        let value = Balance::Mark(Mark {
            chain: standing.chain,
            epoch: standing.epoch.0,
            part: standing.part,
            watermark: standing.watermark,
            at: found.at,
            is_last: !standing.is_live,
        });
        let value = value.to_bytes();
        for partition in 0..topic.partitions() {
            topic.send(&key, Some(&value), Some(partition))?;
        }
    }
    topic.flush()
}
