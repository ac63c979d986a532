//! The watching thread: looks once a second whether the log is still the one that is folded, and how
//! far all of it is.
//!
//! Invariant: a partition whose log was cut or created anew is stopped before more than about a
//! second of the new log is folded, and what was folded in between is named. A watermark is an
//! instant at which every record that the log then held is folded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use domain::event::AgeRule;
use domain::ids::{ChainId, Epoch, Offset};
use domain::time::UnixMs;
use parking_lot::Mutex;
use service::Shutdown;
use store::claim::Fingerprint;
use store::watermark::Position;
use store::{Database, StoreError};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::ages::Ages;
use crate::assignment::{Assignment, Assignments, Lost};
use crate::folding::Floors;
use crate::gaps::FoldedTo;
use crate::kafka::{LogError, LogRange, LogReader, TopicPartition};
use crate::observe;
use crate::opening::SourceInForce;

/// How often the log is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long records that were folded are waited for when they are read again.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// How long a stopped partition's transaction in hand is waited for, so that the gap names all that
/// was folded.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

/// Watches the log for one process.
pub(crate) struct Watch {
    /// The ledger.
    pub(crate) database: Database,
    /// What the group assigned.
    pub(crate) assignments: Arc<Assignments>,
    /// The sources in force.
    pub(crate) sources: Vec<SourceInForce>,
    /// Where folding learns the floors.
    pub(crate) floors: Arc<Floors>,
    /// Where trouble with the log is told to whoever says whether we are ready.
    pub(crate) trouble: Arc<Mutex<Option<String>>>,
    /// Where it is told what was heard.
    pub(crate) ages: Arc<Ages>,
    /// Ends the thread.
    pub(crate) shutdown: Shutdown,
}

/// What the thread remembers between two looks.
struct Memory {
    reader: LogReader,
    runtime: Handle,
    /// Tails as of the look before: each is read again, and becomes the anchor where it matches.
    /// By claim, since a partition that is read again has the same log to be compared with.
    tails: HashMap<(ChainId, Epoch), Fingerprint>,
    /// Ends that positions must pass, and the database's clock before they were read.
    targets: HashMap<usize, (UnixMs, HashMap<i32, Offset>)>,
    /// Topics that were gone at the look before.
    gone: HashSet<Arc<str>>,
    /// Partitions whose lag was told at the look before.
    told: HashSet<TopicPartition>,
}

impl Watch {
    /// Looks once a second until the shutdown; blocks its thread, which must not be the runtime's.
    pub(crate) fn run(self, reader: LogReader, runtime: &Handle) {
        let mut memory = Memory {
            reader,
            runtime: runtime.clone(),
            tails: HashMap::new(),
            targets: HashMap::new(),
            gone: HashSet::new(),
            told: HashSet::new(),
        };
        while runtime
            .block_on(timeout(INTERVAL, self.shutdown.requested()))
            .is_err()
        {
            if let Err(error) = self.check_logs(&mut memory) {
                observe::log_away(&error);
            }
            for source in 0..self.sources.len() {
                if let Err(problem) = self.move_watermark(&mut memory, source) {
                    problem.observe();
                }
            }
        }
    }

    /// Compares what each open partition's log holds with what was folded.
    fn check_logs(&self, memory: &mut Memory) -> Result<(), LogError> {
        let open = self.assignments.open();
        let claims = self.assignments.claims();
        memory.tails.retain(|claim, _| claims.contains(claim));
        let mut told = HashSet::new();
        let mut ranges = HashMap::new();
        let mut gone = HashSet::new();
        for assignment in &open {
            let topic = &assignment.place.0;
            let range = match memory.reader.range(topic, assignment.place.1) {
                Ok(range) => range,
                // A deleted topic is no gap yet: it may come back, and is compared then.
                Err(LogError::NoTopic(_)) => {
                    gone.insert(Arc::clone(topic));
                    continue;
                }
                Err(error) => {
                    observe::log_away(&error);
                    continue;
                }
            };
            let folded = assignment.folded_to();
            observe::lag(&assignment.place, range.end.0 - folded.0);
            told.insert(assignment.place.clone());
            self.ages.heard_log();
            ranges.insert(assignment.id, range);
            // With nothing in hand, what lies outside the log cannot be read on: opening the
            // partition anew compares, and records the gap.
            let is_outside = folded < range.start || folded > range.end;
            if is_outside && assignment.next_read() <= folded && !assignment.is_committing() {
                self.assignments.lose(assignment, Lost::Rewound);
            }
        }
        self.tell_gone(memory, gone);
        // Whoever has them now tells theirs.
        for place in memory.told.difference(&told) {
            observe::lag(place, 0);
        }
        memory.told = told;
        self.check_tails(memory, &open, &ranges)
    }

    /// Reads the tails of the look before again.
    fn check_tails(
        &self,
        memory: &mut Memory,
        open: &[Arc<Assignment>],
        ranges: &HashMap<u64, LogRange>,
    ) -> Result<(), LogError> {
        let mut wanted: HashMap<TopicPartition, Offset> = HashMap::new();
        for assignment in open.iter().filter(|assignment| assignment.is_open()) {
            let (Some(range), Some(tail)) = (
                ranges.get(&assignment.id),
                memory.tails.get(&claim_of(assignment)),
            ) else {
                continue;
            };
            if tail.offset >= range.end {
                self.stop(memory, assignment, *range, *tail);
            } else if tail.offset >= range.start {
                wanted.insert(assignment.place.clone(), tail.offset);
            }
        }
        let found = if wanted.is_empty() {
            HashMap::new()
        } else {
            memory.reader.fingerprints(&wanted, READ_PATIENCE)?
        };
        for assignment in open.iter().filter(|assignment| assignment.is_open()) {
            let Some(range) = ranges.get(&assignment.id) else {
                continue;
            };
            if let Some(tail) = memory.tails.get(&claim_of(assignment)).copied()
                && let Some(hash) = found.get(&assignment.place)
            {
                if *hash != Some(tail.hash) {
                    self.stop(memory, assignment, *range, tail);
                    continue;
                }
                assignment.update_head(|head| head.anchor = Some(tail));
            }
            if let Some(tail) = assignment.head().tail {
                memory.tails.insert(claim_of(assignment), tail);
            }
        }
        Ok(())
    }

    /// Tells once which topics are gone, and keeps it for whoever says whether we are ready.
    fn tell_gone(&self, memory: &mut Memory, gone: HashSet<Arc<str>>) {
        for topic in gone.difference(&memory.gone) {
            observe::topic_gone(topic);
        }
        *self.trouble.lock() = gone
            .iter()
            .next()
            .map(|topic| format!("the topic `{topic}` is gone"));
        memory.gone = gone;
    }

    /// Stops a partition whose record is not what was folded, and records what is in doubt.
    fn stop(
        &self,
        memory: &Memory,
        assignment: &Arc<Assignment>,
        range: LogRange,
        record: Fingerprint,
    ) {
        if !self.assignments.lose(assignment, Lost::Rewound) {
            return;
        }
        assignment.wait_committed(COMMIT_PATIENCE);
        let folded = FoldedTo {
            chain: assignment.chain,
            epoch: assignment.epoch,
            position: assignment.folded_to(),
            anchor: assignment.head().anchor,
        };
        let gap = folded.differs(range, record);
        observe::gap_found(&assignment.place, &gap);
        // Where Postgres is away the partition stays without an assignment, and opening it compares
        // again before anything is read.
        if let Err(error) = memory
            .runtime
            .block_on(store::gap::record(&self.database, &gap))
        {
            observe::chore_failed("recording a gap", &error);
        }
    }

    /// Moves a source's watermark to the clock that was read before the ends that are passed now.
    fn move_watermark(&self, memory: &mut Memory, source: usize) -> Result<(), WatchError> {
        let rule = &self.sources[source];
        let positions = memory
            .runtime
            .block_on(store::watermark::positions(&self.database, rule.id))?;
        let clock = memory
            .runtime
            .block_on(store::watermark::clock(&self.database))?;
        self.ages.heard_postgres();
        if let Some((target, ends)) = memory.targets.remove(&source) {
            let is_passed = ends.iter().all(|(partition, end)| {
                let is_it = |p: &&Position| *p.topic == *rule.topic && p.partition == *partition;
                let here = positions.iter().find(is_it);
                here.is_some_and(|p| !p.is_stopped && p.position.is_some_and(|at| at >= *end))
            });
            if !is_passed {
                memory.targets.insert(source, (target, ends));
                return Ok(());
            }
            let floor = memory.runtime.block_on(store::watermark::advance(
                &self.database,
                rule.id,
                target,
                AgeRule::LOG_WINDOW_MS,
            ))?;
            self.floors.raise(source, floor);
            let ago = u64::try_from(clock.get() - target.get()).unwrap_or_default();
            self.ages.folded(&rule.topic, Duration::from_millis(ago));
        }
        let mut ends = HashMap::new();
        for partition in 0..memory.reader.partitions(&rule.topic)? {
            let range = memory.reader.range(&rule.topic, partition)?;
            // A partition that holds nothing and was never read has no position: nothing is due.
            let is_begun = positions.iter().any(|p| {
                *p.topic == *rule.topic && p.partition == partition && p.position.is_some()
            });
            if is_begun || range.end > range.start {
                ends.insert(partition, range.end);
            }
        }
        memory.targets.insert(source, (clock, ends));
        Ok(())
    }
}

enum WatchError {
    Store(StoreError),
    Log(LogError),
}

impl From<StoreError> for WatchError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<LogError> for WatchError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl WatchError {
    fn observe(&self) {
        match self {
            Self::Store(error) => observe::chore_failed("moving the watermark", error),
            Self::Log(error) => observe::log_away(error),
        }
    }
}

fn claim_of(assignment: &Assignment) -> (ChainId, Epoch) {
    (assignment.chain, assignment.epoch)
}
