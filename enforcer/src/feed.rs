//! The feed: how replicas come to count alike, and how old what they know is.
//!
//! Invariant: everything here runs on threads of its own and never on one that decides; a decision meets
//! it only at the lock of a shard, for as long as one counter takes to merge. What is away is waited for,
//! with bounded memory, and read again when it is back. Deliberately absent: what numbers mean (the
//! domain's), SQL (the store's).
//!
//! Two threads read Kafka (`balances`), each one topic; one thread asks Postgres (`poll`, `policies`),
//! writes to it (`persist`) and sends what this replica counts (`exchange`, of `own`). All that is read goes one
//! way into the counters (`merge`), which also keeps as of when they are known (`marks`).

mod balances;
mod exchange;
mod hydrate;
mod kafka;
mod marks;
mod merge;
mod own;
mod persist;
mod poll;
pub(crate) mod postgres;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use domain::account::ReplicaId;
use domain::limit::LimitSpec;
use domain::policy::model::{CountedFrom, LimitId};
use domain::time::UnixMs;
use rdkafka::error::KafkaError;
use service::clock::{Clock as _, SystemClock};
use service::health::Readiness;
use service::tasks::TaskResult;
use service::{Exit, Failure, Shutdown, Tasks};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use self::balances::KafkaFeed;
use self::exchange::Exchange;
use self::hydrate::{Hydration, Part};
use self::merge::{BalanceFeed, Merger, Told, Topic};
use self::own::{LONG_MS, OwnUse, window_ms};
use self::poll::PostgresFeed;
use self::postgres::Postgres;
use crate::engine::{Engine, PoliciesInForce};
use crate::observe::{self as tell, feed as observe};
use crate::policies;

pub use self::kafka::FeedKafka;

/// How far back frames are read at a start, in ms: what the exchange keeps.
const EXCHANGE_BACK_MS: i64 = 10 * 60 * 1_000;

/// By how much clocks may differ, and slots outlive their windows, in ms.
const MARGIN_MS: i64 = 2 * 60 * 1_000;

/// How often it is tried to make missing topics.
const TOPICS_REST: Duration = Duration::from_secs(2);

/// What the feed needs to know.
#[derive(Debug, Clone)]
pub struct FeedSettings {
    /// How to reach Kafka; without, this replica counts for itself and the log through Postgres alone.
    pub kafka: Option<FeedKafka>,
    /// Where the ledger is; without, policies are those that the caller put in force.
    pub database_url: Option<String>,
    /// Limits that count beside policies, which each change of policies keeps.
    pub others: Vec<(LimitId, LimitSpec)>,
    /// How often changed counters go to peers.
    pub exchange_interval: Duration,
    /// How long a start waits for what was counted before.
    pub hydrate_timeout: Duration,
}

/// The running feed.
#[derive(Debug, Clone)]
pub struct Feed(Arc<Shared>);

impl Feed {
    /// Returns what is missing where the process decides without having read all; `None` otherwise.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        self.0.hydration.degraded()
    }
}

/// What the feed's parts share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    replica: ReplicaId,
    merger: Merger,
    own: OwnUse,
    hydration: Hydration,
    /// Asks Postgres at once.
    poll_now: Notify,
    /// How many partitions the exchange has; 0 while that is not known.
    exchange_partitions: AtomicI32,
    /// How often limits came in force that were not before.
    changes_of_limits: AtomicU64,
    has_refused_policies: AtomicBool,
}

/// Starts the feed. `readiness` becomes ready when everything is known, or after the time-out.
///
/// # Errors
///
/// librdkafka refuses the settings, or the system a thread; the caller stops.
pub fn start(
    engine: &Arc<Engine>,
    replica: ReplicaId,
    settings: FeedSettings,
    readiness: &Readiness,
    tasks: &Tasks,
) -> Result<Feed, Failure> {
    let (has_kafka, has_postgres) = (settings.kafka.is_some(), settings.database_url.is_some());
    if has_kafka {
        engine.expect_peers();
    }
    let shared = Arc::new(Shared::new(engine, replica, |part| match part {
        Part::Policies | Part::Usable | Part::Postgres => has_postgres,
        Part::Balances | Part::Exchange => has_kafka,
    }));
    if let Some(kafka) = &settings.kafka {
        for (name, topic) in [("balances", Topic::Balances), ("exchange", Topic::Exchange)] {
            let feed = KafkaFeed::new(topic, kafka, &shared).map_err(|error| refused(&error))?;
            let (shared, shutdown) = (Arc::clone(&shared), tasks.shutdown().clone());
            let patience = settings.hydrate_timeout;
            let run = async move {
                let policies = shared.wait_for_policies(patience);
                shutdown.unless_requested(policies).await;
                follow(feed, &shared, &shutdown).await;
            };
            spawn(tasks, name, run)?;
        }
    }
    let exchange = settings.kafka.as_ref();
    let exchange = exchange.map(|kafka| Exchange::new(kafka, &shared));
    let exchange = exchange.transpose().map_err(|error| refused(&error))?;
    let chores = Chores {
        shared: Arc::clone(&shared),
        settings,
        readiness: readiness.clone(),
        shutdown: tasks.shutdown().clone(),
    };
    spawn(tasks, "feed", chores.run(exchange))?;
    Ok(Feed(shared))
}

/// Runs something on a thread and a runtime of its own.
fn spawn(
    tasks: &Tasks,
    name: &'static str,
    run: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let refused = |error: io::Error| Failure::unexpected(format!("cannot start a thread: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(refused)?;
    let work = move || -> TaskResult {
        runtime.block_on(run);
        Ok(())
    };
    tasks.spawn_thread(name, work).map_err(refused)
}

fn refused(error: &KafkaError) -> Failure {
    Failure::new(
        Exit::Configuration,
        format!("librdkafka refuses the settings, see kafka.properties: {error}"),
    )
}

/// What the feed's own thread does side by side.
struct Chores {
    shared: Arc<Shared>,
    settings: FeedSettings,
    readiness: Readiness,
    shutdown: Shutdown,
}

impl Chores {
    async fn run(self, exchange: Option<Exchange>) {
        let Self {
            shared,
            settings,
            readiness,
            shutdown,
        } = &self;
        let patience = settings.hydrate_timeout;
        let engine = &shared.engine;
        let ready = shared
            .hydration
            .keep_ready(patience, engine, readiness, shutdown);
        let sending = async {
            if let Some(exchange) = exchange {
                let interval = settings.exchange_interval;
                exchange.keep_sending(interval, shutdown).await;
            }
        };
        let topics = async {
            if let Some(kafka) = &settings.kafka {
                make_topics(kafka, shutdown).await;
            }
        };
        let postgres = settings.database_url.clone();
        let postgres = postgres.map(|url| Arc::new(Postgres::new(url)));
        let asking = async {
            if let Some(postgres) = &postgres {
                let feed = PostgresFeed::new(shared, postgres);
                let polling = async {
                    let known = shared.hydration.wait(Part::Policies);
                    if shutdown.unless_requested(known).await.is_some() {
                        Box::pin(follow(feed, shared, shutdown)).await;
                    }
                };
                let policies = policies::follow(shared, postgres, &settings.others, shutdown);
                let writing = persist::keep_writing(shared, postgres, shutdown);
                tokio::join!(polling, policies, writing);
            }
        };
        tokio::join!(ready, sending, topics, asking);
        // A service must not end before the shutdown, also where it has nothing to do.
        shutdown.requested().await;
    }
}

async fn make_topics(kafka: &FeedKafka, shutdown: &Shutdown) {
    loop {
        match shutdown.unless_requested(kafka.make_topics()).await {
            None | Some(Ok(())) => return,
            Some(Err(error)) => observe::cannot_make_topics(&error),
        }
        if shutdown
            .unless_requested(sleep(TOPICS_REST))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// Takes what a source tells, until the shutdown.
async fn follow(mut feed: impl BalanceFeed, shared: &Shared, shutdown: &Shutdown) {
    let mut told = Vec::new();
    while shutdown
        .unless_requested(feed.next(&mut told))
        .await
        .is_some()
    {
        let mut done = Vec::new();
        let mut begins = false;
        for told in &told {
            match told {
                Told::Begins(_) => begins = true,
                Told::CaughtUp(Topic::Balances) => done.push(Part::Balances),
                Told::CaughtUp(Topic::Exchange) => done.push(Part::Exchange),
                Told::Snapshot(..) => done.push(Part::Postgres),
                _ => {}
            }
        }
        shared.merger.take(&mut told, now());
        if begins {
            // What was told before is asked of Postgres, from now on.
            shared.poll_now.notify_one();
        }
        done.into_iter()
            .for_each(|part| shared.hydration.done(part));
    }
}

impl Shared {
    fn new(engine: &Arc<Engine>, replica: ReplicaId, uses: impl Fn(Part) -> bool) -> Self {
        Self {
            engine: Arc::clone(engine),
            replica,
            merger: Merger::new(Arc::clone(engine), replica),
            own: OwnUse::new(Arc::clone(engine)),
            hydration: Hydration::new(uses),
            poll_now: Notify::new(),
            exchange_partitions: AtomicI32::new(0),
            changes_of_limits: AtomicU64::new(0),
            has_refused_policies: AtomicBool::new(false),
        }
    }

    /// Puts policies in force and has what is known of new limits read.
    pub(crate) fn swap(&self, policies: PoliciesInForce) {
        let before = self.engine.limits();
        let (version, count) = (policies.version, policies.set.policies().len());
        // Named before they decide: their accounts are empty here until they are read.
        let of_policies = policies.set.limits();
        let unread = of_policies.filter(|(id, _, _, limit)| {
            limit.from == CountedFrom::Log && before.get(*id).is_none()
        });
        let change = self.changes_of_limits().saturating_add(1);
        let unread = unread.map(|(id, ..)| id);
        self.engine.unread().come(unread, change);
        self.engine.swap(policies);
        let after = self.engine.limits();
        tell::in_force(version, count, after.iter().count());
        let has_new = after.iter().any(|(id, _)| before.get(id).is_none());
        if has_new {
            self.changes_of_limits.fetch_add(1, Ordering::AcqRel);
            self.merger.limits_changed(now());
            self.poll_now.notify_one();
        }
    }

    /// Notes that the policies in force are those that Postgres knows, or that it knows none.
    pub(crate) fn policies_known(&self) {
        self.has_refused_policies.store(false, Ordering::Relaxed);
        self.hydration.done(Part::Policies);
        self.hydration.done(Part::Usable);
    }

    /// Notes that the stored policies cannot be used. Those of before decide; where there are none,
    /// nothing is decided until usable ones come, but all else is read.
    pub(crate) fn policies_refused(&self) {
        self.has_refused_policies.store(true, Ordering::Relaxed);
        self.hydration.done(Part::Policies);
        if self.engine.has_policies() {
            self.hydration.done(Part::Usable);
        }
    }

    /// Waits for policies: as long as there are none to decide by, and otherwise not for longer than
    /// `patience`. Of unknown limits all would have to be read again.
    async fn wait_for_policies(&self, patience: Duration) {
        let known = timeout(patience, self.hydration.wait(Part::Policies)).await;
        if known.is_err() && !self.engine.has_policies() {
            self.hydration.wait(Part::Policies).await;
        }
    }

    /// Says whether others are in force than Postgres says, as those cannot be used.
    pub(crate) fn has_refused_policies(&self) -> bool {
        self.has_refused_policies.load(Ordering::Relaxed)
    }

    fn changes_of_limits(&self) -> u64 {
        self.changes_of_limits.load(Ordering::Acquire)
    }

    fn found_exchange(&self, partitions: usize) {
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        self.exchange_partitions
            .store(partitions, Ordering::Relaxed);
    }

    fn exchange_partitions(&self) -> Range<i32> {
        0..self.exchange_partitions.load(Ordering::Relaxed)
    }

    /// Returns how far back use may lie that counts and that Postgres does not keep, in ms.
    fn longest_short_window_ms(&self) -> i64 {
        let limits = self.engine.limits();
        let counted = limits
            .iter()
            .filter(|(_, known)| known.from == CountedFrom::Decision);
        let windows = counted.map(|(_, known)| window_ms(&known.spec));
        let longest = windows.filter(|ms| *ms < LONG_MS).max().unwrap_or(0);
        longest.saturating_add(MARGIN_MS)
    }
}

/// Returns the present.
pub(crate) fn now() -> UnixMs {
    UnixMs::FIRST.saturating_add_ms(SystemClock.now_unix_ms())
}
