//! A run: everything that runs while the same sources are in force, from the first look at the
//! configuration to the last offset.
//!
//! Invariant: nothing outlives its run; a change of sources ends one run and begins the next. Deliberately absent: what
//! each task does, and how topics are looked for and their ends found (`topics`).

mod patience;
mod topics;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::hash::Hash128;
use domain::ids::Offset;
use parking_lot::Mutex;
use service::health::Readiness;
use service::{Shutdown, Tasks};
use store::source::NewSource;
use store::{Database, Role, Writer};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::sleep;
use uuid::Uuid;

use crate::accounts;
use crate::ages::Ages;
use crate::assignment::Assignments;
use crate::balances::BalancesFeed;
use crate::batch::{BatchSize, Batcher};
use crate::config::{IngestConfig, KafkaConfig};
use crate::error::IngestError;
use crate::folding::Floors;
use crate::kafka::LogReader;
use crate::observe;
use crate::old_ids;
use crate::opening::{Opener, SourceInForce};
use crate::pipeline::{Pipeline, PipelineError};
use crate::policies::{self, PolicyFiles};
use crate::poll::{PollLinks, Poller};
use crate::prices::{self, ConfiguredPrices};
use crate::roll_up;
use crate::rules::{Rules, RulesInUse};
use crate::source_config::{to_canonical, validate_all};
use crate::watch::Watch;
use patience::{Patience, patiently};

/// How often positions are compared with the ends that a back-fill waits for, and a missing topic is
/// looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a start waits for a Postgres that answered and then lost an answer, or is busy.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long a back-fill waits for Postgres before it gives up.
const BACK_FILL_PATIENCE: Duration = Duration::from_secs(60);

/// Everything that ingest needs to know.
#[derive(Clone)]
pub struct IngestSettings {
    /// How to reach Kafka.
    pub kafka: KafkaConfig,
    /// What to fold and within which bounds.
    pub ingest: IngestConfig,
    /// Where the ledger is.
    pub database_url: String,
    /// The shipped price book and the files of the configuration.
    pub prices: ConfiguredPrices,
    /// The policy files of the configuration.
    pub policies: PolicyFiles,
    /// Whether sources, prices and policies of the configuration are put in force, where they never were.
    pub apply_at_start: bool,
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// At the shutdown.
    Serve,
    /// Once everything is folded that the log held at the start.
    UntilCaughtUp,
}

/// What a back-fill did; nothing where the shutdown came before its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// The topics that were read.
    pub topics: Vec<String>,
    /// Partitions that are folded to their ends of the start.
    pub partitions: usize,
}

/// Folds until the shutdown, or until caught up.
///
/// # Errors
///
/// [`IngestError`], each with its exit code; the caller prints it and stops.
pub async fn run(
    settings: &IngestSettings,
    mode: Mode,
    shutdown: &Shutdown,
    readiness: &Readiness,
) -> Result<Summary, IngestError> {
    settings.kafka.check()?;
    settings.ingest.check()?;
    validate_all(&settings.ingest.sources)?;
    let ages = Arc::new(Ages::default());
    // Told also between two runs, when nothing is heard.
    tokio::select! {
        summary = run_each(settings, mode, &ages, (shutdown, readiness)) => summary,
        never = ages.keep() => match never {},
    }
}

/// Runs, and begins anew where other sources come into force or a run is due for other reasons.
async fn run_each(
    settings: &IngestSettings,
    mode: Mode,
    ages: &Arc<Ages>,
    (shutdown, readiness): (&Shutdown, &Readiness),
) -> Result<Summary, IngestError> {
    let database = Database::open(&settings.database_url, Role::Ingest).await?;
    let mut patience = Patience::Start(START_PATIENCE);
    let applied = patiently(patience, shutdown, readiness, async || {
        if settings.apply_at_start {
            apply(settings, &database).await?;
        }
        Ok(())
    });
    if applied.await?.is_none() {
        database.close().await;
        return Ok(Summary::default());
    }
    loop {
        let prepared = patiently(patience, shutdown, readiness, async || {
            let run = Run::prepare(settings, &database, (mode, ages), readiness).await?;
            let process = Uuid::now_v7();
            let writer = Writer::connect(&database, process).await?;
            Ok((run, process, writer))
        });
        let Some((run, process, writer)) = prepared.await? else {
            database.close().await;
            return Ok(Summary::default());
        };
        if let Some(summary) = run.run(shutdown, process, writer).await? {
            database.close().await;
            return Ok(summary);
        }
        patience = match mode {
            Mode::Serve => Patience::Endless,
            Mode::UntilCaughtUp => Patience::Running(BACK_FILL_PATIENCE),
        };
    }
}

/// Puts the configuration's prices, sources and policies in force, each unless it ever was at a start.
async fn apply(settings: &IngestSettings, database: &Database) -> Result<(), IngestError> {
    if settings.ingest.sources.is_empty() {
        return Err(IngestError::NoSources);
    }
    prices::apply_at_start(database, &settings.prices).await?;
    let sources = to_canonical(&settings.ingest.sources);
    let hash = Hash128::of(sources.as_bytes());
    store::in_force::apply_sources_at_start(database, &sources, hash).await?;
    policies::apply_at_start(database, &settings.policies).await?;
    Ok(())
}

struct Run<'s> {
    settings: &'s IngestSettings,
    database: &'s Database,
    mode: Mode,
    readiness: &'s Readiness,
    rules: Arc<Rules>,
    sources: Vec<SourceInForce>,
    floors: Arc<Floors>,
    /// What is wrong with the log, where the watching thread found something.
    trouble: Arc<Mutex<Option<String>>>,
    ages: Arc<Ages>,
    /// Per source, the ends that a back-fill folds to, by partition.
    ends: Vec<HashMap<i32, Offset>>,
}

impl<'s> Run<'s> {
    async fn prepare(
        settings: &'s IngestSettings,
        database: &'s Database,
        (mode, ages): (Mode, &Arc<Ages>),
        readiness: &'s Readiness,
    ) -> Result<Self, IngestError> {
        let in_force = store::in_force::load(database).await?;
        let rules = Arc::new(Rules::read(&in_force)?);
        let registered: Vec<_> = rules
            .configs
            .iter()
            .map(|config| NewSource {
                name: config.name().to_owned(),
                topic: config.topic.clone(),
            })
            .collect();
        observe::in_force(&rules.versions);
        let rows = store::source::register(database, &registered).await?;
        let floors = Arc::new(Floors::default());
        let mut sources = Vec::with_capacity(rows.len());
        for (index, config) in rules.configs.iter().enumerate() {
            let Some(row) = rows.iter().find(|row| row.name == config.name()) else {
                continue;
            };
            if let Some(floor) = row.floor {
                floors.raise(index, floor);
            }
            let topic = Arc::from(config.topic.as_str());
            sources.push(SourceInForce {
                id: row.id,
                topic,
                start: config.start,
                reads_headers: config.format.reads_headers(),
            });
        }
        let topics: Vec<&str> = sources.iter().map(|source| &*source.topic).collect();
        ages.follow(&topics);
        let mut run = Self {
            settings,
            database,
            mode,
            readiness,
            rules,
            sources,
            floors,
            trouble: Arc::default(),
            ages: Arc::clone(ages),
            ends: Vec::new(),
        };
        run.look_at_topics().await?;
        Ok(run)
    }

    /// Runs until the shutdown or until caught up; `None` where a new run is due.
    async fn run(
        self,
        outer: &Shutdown,
        process: Uuid,
        writer: Writer,
    ) -> Result<Option<Summary>, IngestError> {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let begins_anew = Arc::new(AtomicBool::new(false));
        self.spawn_pipeline(&tasks, &begins_anew, process, writer)?;
        self.spawn_chores(&tasks);
        let ended = match self.mode {
            Mode::Serve => {
                let ready = self.keep_ready(&shutdown);
                tokio::select! {
                    () = outer.requested() => Ok(()),
                    () = shutdown.requested() => Ok(()),
                    failed = ready => failed,
                }
            }
            Mode::UntilCaughtUp => tokio::select! {
                () = outer.requested() => Ok(()),
                () = shutdown.requested() => Ok(()),
                caught_up = self.catch_up() => caught_up,
            },
        };
        shutdown.request();
        let joined = tasks.join().await;
        ended?;
        joined.map_err(IngestError::Task)?;
        if begins_anew.load(Ordering::Acquire) && !outer.is_requested() {
            return Ok(None);
        }
        if self.mode == Mode::UntilCaughtUp {
            roll_up::finish(self.database, self.settings.ingest.rollup_interval()).await?;
        }
        Ok(Some(self.summary()))
    }

    fn spawn_pipeline(
        &self,
        tasks: &Tasks,
        begins_anew: &Arc<AtomicBool>,
        process: Uuid,
        writer: Writer,
    ) -> Result<(), IngestError> {
        let shutdown = tasks.shutdown().clone();
        let backend = Arc::new(Mutex::new(writer.backend()));
        observe::writer(writer.backend());
        let assignments = Arc::new(Assignments::default());
        // A batch, and beside it positions of partitions at rest.
        let (feed, records) = mpsc::channel(2);
        let wishes = Arc::new(Semaphore::new(0));
        let (heads, told) = mpsc::channel(64);
        let opener = Opener::new(
            self.database.clone(),
            LogReader::new(&self.settings.kafka)?,
            self.sources.clone(),
            process,
            Arc::clone(&backend),
        );
        let in_use = RulesInUse::new(Arc::clone(&self.rules));
        let size = BatchSize::new(self.settings.ingest.batch_records_max.into());
        let links = PollLinks {
            opener: Arc::new(opener),
            assignments: Arc::clone(&assignments),
            batcher: Batcher::new(
                in_use.clone(),
                Arc::clone(&self.floors),
                size.clone(),
                &self.settings.ingest,
            ),
            feed,
            wishes: Arc::clone(&wishes),
            heads: told,
            shutdown: shutdown.clone(),
        };
        self.spawn_threads(tasks, links, &assignments)?;
        let counted = self.spawn_feed(tasks, &assignments)?;
        let pipeline = Pipeline {
            feed: records,
            wishes,
            writer,
            database: self.database.clone(),
            rules: Arc::clone(&self.rules),
            in_use,
            size,
            assignments,
            counted,
            heads,
            backend,
            shutdown: shutdown.clone(),
            patience: (self.mode == Mode::UntilCaughtUp).then_some(BACK_FILL_PATIENCE),
        };
        let begins_anew = Arc::clone(begins_anew);
        tasks.spawn("pipeline", async move {
            match pipeline.run().await {
                Ok(()) => Ok(()),
                Err(PipelineError::BeginAnew) => {
                    begins_anew.store(true, Ordering::Release);
                    shutdown.request();
                    Ok(())
                }
                Err(error) => Err(error.into()),
            }
        });
        Ok(())
    }

    /// Spawns the threads for polling, which folds, and for watching. The first also ends when the
    /// pipeline does; telling that is left to it.
    fn spawn_threads(
        &self,
        tasks: &Tasks,
        links: PollLinks,
        assignments: &Arc<Assignments>,
    ) -> Result<(), IngestError> {
        let (kafka, runtime) = (&self.settings.kafka, Handle::current());
        let topics: Vec<&str> = self.sources.iter().map(|source| &*source.topic).collect();
        let poller = Poller::subscribe(kafka, &self.settings.ingest, &topics, links)?;
        let watch = Watch {
            database: self.database.clone(),
            assignments: Arc::clone(assignments),
            sources: self.sources.clone(),
            floors: Arc::clone(&self.floors),
            trouble: Arc::clone(&self.trouble),
            ages: Arc::clone(&self.ages),
            shutdown: tasks.shutdown().clone(),
        };
        let reader = LogReader::new(kafka)?;
        let shutdown = tasks.shutdown().clone();
        let ended = {
            let runtime = runtime.clone();
            move || runtime.block_on(shutdown.requested())
        };
        let context = runtime.clone();
        tasks.spawn_thread("poll", move || {
            // Timers need to know their runtime also where they are made.
            let _context = context.enter();
            poller.run();
            ended();
            Ok(())
        })?;
        tasks.spawn_thread("watch", move || {
            let _context = runtime.enter();
            watch.run(reader, &runtime);
            Ok(())
        })?;
        Ok(())
    }

    /// Spawns the thread that tells enforcers of accounts; returns how it is told of batches.
    fn spawn_feed(
        &self,
        tasks: &Tasks,
        assignments: &Arc<Assignments>,
    ) -> Result<Arc<Notify>, IngestError> {
        let committed = Arc::new(Notify::new());
        let feed = BalancesFeed {
            database: self.database.clone(),
            kafka: self.settings.kafka.clone(),
            assignments: Arc::clone(assignments),
            committed: Arc::clone(&committed),
            shutdown: tasks.shutdown().clone(),
        };
        let runtime = Handle::current();
        tasks.spawn_thread("balances", move || {
            let _context = runtime.enter();
            feed.run(&runtime);
            Ok(())
        })?;
        Ok(committed)
    }

    /// Spawns what is done beside the folding, now and then.
    fn spawn_chores(&self, tasks: &Tasks) {
        let rolling = roll_up::keep(
            self.database.clone(),
            self.settings.ingest.rollup_interval(),
            tasks.shutdown().clone(),
        );
        tasks.spawn("roll-up", async move {
            rolling.await;
            Ok(())
        });
        let deleting = accounts::keep(self.database.clone(), tasks.shutdown().clone());
        tasks.spawn("old accounts", async move {
            deleting.await;
            Ok(())
        });
        let dropping = old_ids::keep(self.database.clone(), tasks.shutdown().clone());
        tasks.spawn("old ids", async move {
            dropping.await;
            Ok(())
        });
    }

    /// Waits for missing topics, then tells whether Postgres answers; ends only with an error.
    async fn keep_ready(&self, shutdown: &Shutdown) -> Result<(), IngestError> {
        let reader = Arc::new(Mutex::new(LogReader::new(&self.settings.kafka)?));
        for source in &self.sources {
            self.wait_for_topic(&source.topic, &reader).await?;
        }
        while !shutdown.is_requested() {
            let trouble = self.trouble.lock().clone();
            match (self.database.ping().await, trouble) {
                (Err(error), _) => self.readiness.not_ready(&error.to_string()),
                (Ok(()), trouble) => {
                    self.ages.heard_postgres();
                    match trouble {
                        Some(trouble) => self.readiness.not_ready(&trouble),
                        None => self.readiness.ready(),
                    }
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    fn summary(&self) -> Summary {
        Summary {
            topics: self
                .sources
                .iter()
                .map(|source| source.topic.to_string())
                .collect(),
            partitions: self.ends.iter().map(HashMap::len).sum(),
        }
    }
}
