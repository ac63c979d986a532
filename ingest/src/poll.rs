//! The polling thread: the one owner of the group's consumer. It folds each record where it finds it, in
//! librdkafka's memory, which is not copied.
//!
//! Invariant: it never stops polling for longer than some ten seconds of claims or a second of
//! back-pressure, so that the group keeps us; it folds records only under an open assignment. Deliberately
//! absent: what a fold is (`batch`, `folding`), and any commit that counts; offsets committed to Kafka are
//! for lag tools and audits.

mod chores;
mod run;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::ids::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use service::Shutdown;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

use crate::assignment::{Assignment, Assignments};
use crate::batch::{Batcher, Folded};
use crate::config::{IngestConfig, KafkaConfig};
use crate::group::{GroupContext, leave, pause};
use crate::kafka::{LogError, TopicPartition, group_config};
use crate::observe;
use crate::opening::Opener;
use crate::queues::Queues;
use run::{RunEnd, admits, take_run};

/// How often the group's queue must seem empty where it must be: more events than ever wait there at once, each
/// of which looks like an empty queue.
const LOOKS_TO_BE_SURE: u32 = 16;

/// How long a full batch waits for the pipeline before the group is served without taking records.
const PRESSURE_PATIENCE: Duration = Duration::from_secs(1);

/// How often the group is served while the pipeline is waited for.
const WISH_LOOK: Duration = Duration::from_millis(50);

/// How often waiting partitions are tried again and heads are told to Kafka.
const CHORES_INTERVAL: Duration = Duration::from_secs(1);

/// A thread that did no chores for so long was stopped, or claimed for long: it polls before it
/// claims again, since the group may have taken partitions away meanwhile.
const PAUSED_AFTER: Duration = Duration::from_secs(4);

/// After how many of the group's session time-outs a partition that Postgres gave to another owner is
/// opened again, if the group still calls it ours: the other owner has long been told to let go, or
/// is gone. Many, so that two processes which both believe they own it never take turns.
const GIVEN_UP_TIMEOUTS: u32 = 10;

/// How often a partition at rest is looked at for transaction markers at its end.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

/// How often a pipeline that still works is asked whether it is ready, where no record comes.
const BUSY_INTERVAL: Duration = Duration::from_millis(2);

/// How many records at hand are taken between two looks at the clock, the pipeline and the chores.
const RECORDS_PER_LOOK: usize = 256;

/// How old a batch is at least, unless it is full or nothing more comes, while it takes up a backlog: its
/// first record has waited for longer, and large batches have fewer postings.
const BACKLOG_AGE: Duration = Duration::from_secs(1);

/// How many turns a full batch has room for: more partitions with a backlog take turns in several batches.
const TURNS: u64 = 4;

/// How long no record must come for a backlog to be taken up.
const BACKLOG_PATIENCE: Duration = Duration::from_millis(100);

/// How long the broker may take to go on with the partition at hand while the pipeline is busy.
const TURN_PATIENCE: Duration = Duration::from_millis(20);

/// How long the main queue must be empty before the queues that were split off are read: a partition's
/// first records may have come there just before.
const SPLIT_PATIENCE: Duration = Duration::from_millis(1);

/// What the polling thread tells the pipeline.
pub(crate) enum Feed {
    /// A batch to commit.
    Batch(Box<Folded>),
    /// Partitions at rest whose log ends in transaction markers: up to where to move the position.
    Idle(Vec<(Arc<Assignment>, Offset)>),
}

/// A chain's head after a batch, for the group's offset and its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeadMark {
    /// The partition.
    pub(crate) place: TopicPartition,
    /// The next offset to read.
    pub(crate) position: Offset,
    /// The chain, its last part's number and hash, as `verify` reads them.
    pub(crate) metadata: String,
}

/// Polls Kafka, folds, and hands batches over.
pub(crate) struct Poller {
    consumer: Arc<BaseConsumer<GroupContext>>,
    queues: Queues,
    opener: Arc<Opener>,
    assignments: Arc<Assignments>,
    feed: mpsc::Sender<Feed>,
    wishes: Arc<Semaphore>,
    heads: mpsc::Receiver<Vec<HeadMark>>,
    shutdown: Shutdown,
    runtime: Handle,
    bounds: IngestConfig,
    batcher: Batcher,
    batch_since: Option<Instant>,
    /// When a record was taken last.
    took_at: Instant,
    /// When the last batch was handed over; none was yet.
    handed_over: Option<Instant>,
    untold: HashMap<TopicPartition, HeadMark>,
    /// As of when no partition was left to be assigned anew.
    reassigned_as_of: Option<u64>,
    /// When waiting partitions were tried last.
    tried: HashMap<TopicPartition, Instant>,
    /// How long a fenced partition is left to its other owner.
    given_up_for: Duration,
    chores_at: Instant,
    idle_at: Instant,
}

/// What the polling thread works with.
pub(crate) struct PollLinks {
    /// Opens partitions that the group gives us.
    pub(crate) opener: Arc<Opener>,
    /// What the group gave us.
    pub(crate) assignments: Arc<Assignments>,
    /// Folds what is polled.
    pub(crate) batcher: Batcher,
    /// Batches to the pipeline.
    pub(crate) feed: mpsc::Sender<Feed>,
    /// A permit for each batch that the pipeline waits for.
    pub(crate) wishes: Arc<Semaphore>,
    /// Heads from the pipeline; closed once it has ended.
    pub(crate) heads: mpsc::Receiver<Vec<HeadMark>>,
    /// Ends the thread.
    pub(crate) shutdown: Shutdown,
}

impl Poller {
    /// Joins the group for these topics.
    ///
    /// # Errors
    ///
    /// [`LogError::BadSettings`] where librdkafka refuses the settings; stop with exit code 3.
    pub(crate) fn subscribe(
        kafka: &KafkaConfig,
        bounds: &IngestConfig,
        topics: &[&str],
        links: PollLinks,
    ) -> Result<Self, LogError> {
        let PollLinks {
            opener,
            assignments,
            batcher,
            feed,
            wishes,
            heads,
            shutdown,
        } = links;
        let context = GroupContext {
            opener: Arc::clone(&opener),
            assignments: Arc::clone(&assignments),
        };
        let mut consumer: BaseConsumer<_> =
            FromClientConfigAndContext::from_config_and_context(&group_config(kafka), context)
                .map_err(LogError::BadSettings)?;
        let queues = Queues::default();
        let turns = queues.turns();
        consumer.set_nonempty_callback(move || turns.note_event());
        consumer.subscribe(topics).map_err(LogError::BadSettings)?;
        Ok(Self {
            consumer: Arc::new(consumer),
            queues,
            opener,
            assignments,
            feed,
            wishes,
            heads,
            shutdown,
            runtime: Handle::current(),
            bounds: bounds.clone(),
            batcher,
            batch_since: None,
            took_at: Instant::now(),
            handed_over: None,
            untold: HashMap::new(),
            reassigned_as_of: None,
            tried: HashMap::new(),
            given_up_for: kafka.session_timeout() * GIVEN_UP_TIMEOUTS,
            chores_at: Instant::now(),
            idle_at: Instant::now(),
        })
    }

    /// Polls until the shutdown is requested or the pipeline has ended, then drains: hands over what
    /// it holds, waits for the pipeline, tells the last heads to Kafka and leaves the group.
    pub(crate) fn run(mut self) {
        while !self.shutdown.is_requested() && !self.feed.is_closed() {
            let changes = self.assignments.changes();
            self.give_up_void();
            if self.serve_group() && self.reassign() {
                // What is read from now on has a queue to be split off first.
                continue;
            }
            // Where records are at hand, the clock is read once for many of them.
            let is_empty = self.take_records(RECORDS_PER_LOOK);
            self.hand_over();
            self.do_chores();
            // What was put back or claimed meanwhile waits for nothing.
            let is_settled = self.assignments.changes() == changes;
            if is_empty && is_settled && !self.batcher.is_full() {
                self.queues.wait(self.wait());
            }
        }
        self.drain();
    }

    /// Serves the group's events, and takes what came before its partition's queue was split off. Says
    /// whether none is left.
    fn serve_group(&mut self) -> bool {
        let is_split = self.queues.follow(&self.consumer, &self.assignments);
        let wait = if is_split {
            SPLIT_PATIENCE
        } else {
            Duration::ZERO
        };
        // An event is served without a word, as if the queue were empty. Records that came before a split must
        // all be taken before any of the partition's own queue, and no rebalance may wait where a partition is
        // to be assigned anew.
        let looks = if is_split || self.is_reassigning_due() {
            LOOKS_TO_BE_SURE
        } else {
            2
        };
        let mut empty = 0;
        while empty < looks && !self.batcher.is_full() {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let open = self
                        .assignments
                        .open_at(message.topic(), message.partition());
                    match open.filter(|assignment| admits(assignment, &message)) {
                        Some(assignment) => {
                            self.batcher.fold_run(&assignment, &[message]);
                        }
                        None => {
                            let place = (Arc::from(message.topic()), message.partition());
                            pause(&self.consumer, &[place]);
                        }
                    }
                    store::fault::point("poll::after_poll");
                }
                Some(Err(error)) => observe::broker_trouble(&error, "poll"),
                None => empty += 1,
            }
        }
        empty >= looks
    }

    /// Takes at most so many records from the partitions' queues; says whether those are empty.
    fn take_records(&mut self, count: usize) -> bool {
        // While the pipeline is busy there is no hurry to end the turn of a partition.
        let mut patience = if self.wishes.available_permits() == 0 {
            TURN_PATIENCE
        } else {
            Duration::ZERO
        };
        let (mut left, events) = (count, self.batcher.events());
        let is_empty = self.take_turns(&mut left, &mut patience);
        if self.batcher.events() > events {
            self.took_at = Instant::now();
        }
        is_empty
    }

    /// Takes what is left to take, by turns; says whether the queues are empty.
    fn take_turns(&mut self, left: &mut usize, patience: &mut Duration) -> bool {
        while *left > 0 && !self.batcher.is_full() {
            let Some(mut turn) = self.queues.turn() else {
                return true;
            };
            match take_run(&mut self.batcher, &mut turn, left, patience) {
                RunEnd::More if turn.is_over(self.batcher.share(TURNS)) => self.queues.end_turn(),
                RunEnd::More => {}
                RunEnd::Empty => self.queues.pass(),
                RunEnd::NotOurs => {
                    let assignment = turn.assignment();
                    pause(&self.consumer, std::slice::from_ref(&assignment.place));
                    self.queues.pass();
                }
            }
        }
        false
    }

    /// Gives the batch up where some of its records must not be committed; the others are read again.
    fn give_up_void(&mut self) {
        if self.batcher.is_void() {
            self.batch_since = None;
            for assignment in self.batcher.give_up() {
                self.assignments.put_back(&assignment);
            }
        }
    }

    /// Says whether some partition may have to be assigned anew.
    fn is_reassigning_due(&self) -> bool {
        self.reassigned_as_of != Some(self.assignments.changes())
    }

    /// Reads partitions whose claim came late, and those again whose last records did not reach the ledger;
    /// says whether it does. Called when no event of the group waits: librdkafka would take the change of a
    /// partition for the answer to it.
    fn reassign(&mut self) -> bool {
        if !self.is_reassigning_due() {
            return false;
        }
        let changes = self.assignments.changes();
        let mut assigned = 0;
        for claimed in self.assignments.to_begin() {
            assigned += u32::from(self.read_from_start(claimed));
        }
        let (ended, is_more) = self.assignments.put_backs();
        for assignment in ended {
            let again = Arc::new(self.opener.again(&assignment));
            observe::reads_again(&again);
            assigned += u32::from(self.read_from_start(again));
        }
        self.reassigned_as_of = (!is_more).then_some(changes);
        assigned > 0
    }

    /// Returns how long to wait for a record: until the batch is old enough, and where it is but the
    /// pipeline still works, a moment.
    fn wait(&self) -> Duration {
        match self.batch_since {
            Some(since) => {
                let left = self.bounds.batch_age().saturating_sub(since.elapsed());
                left.max(BUSY_INTERVAL)
            }
            None => IDLE_INTERVAL,
        }
    }

    /// Gives the batch to the pipeline once it is old or full enough and the pipeline is ready.
    fn hand_over(&mut self) {
        if self.batcher.is_empty() {
            return;
        }
        let since = *self.batch_since.get_or_insert_with(Instant::now);
        let is_full = self.batcher.is_full();
        let age = if self.has_backlog() {
            self.bounds.batch_age().max(BACKLOG_AGE)
        } else {
            self.bounds.batch_age()
        };
        if !is_full && since.elapsed() < age && !self.is_at_rest(age) {
            return;
        }
        if self.take_wish(Duration::ZERO) || (is_full && self.hold_back()) {
            if self.batcher.is_void() {
                self.wishes.add_permits(1);
                return;
            }
            self.batch_since = None;
            self.handed_over = Some(Instant::now());
            self.queues.end_turn();
            let batch = Box::new(self.batcher.close(since.elapsed()));
            // A closed channel means that the pipeline ended, and what it did not commit is read again. There
            // is room for what was wished, unless it was wished twice, as an idle position came between.
            if let Err(TrySendError::Full(Feed::Batch(batch))) =
                self.feed.try_send(Feed::Batch(batch))
            {
                for slice in &batch.slices {
                    self.assignments.put_back(&slice.assignment);
                }
            }
        }
    }

    /// Says whether the batch takes up a backlog of which more is to come. Where a partition is read faster
    /// than the broker sends it, its queue is empty between two answers: then the records' age tells.
    fn has_backlog(&self) -> bool {
        self.queues.has_backlog()
            || (self.batcher.is_behind() && self.took_at.elapsed() < BACKLOG_PATIENCE)
    }

    /// Says whether no batch was handed over for as long as one may wait: then what came has company
    /// only by chance, and goes at once. There are no more batches for it than one for each such time.
    fn is_at_rest(&self, age: Duration) -> bool {
        self.handed_over.is_none_or(|at| at.elapsed() >= age)
    }

    /// Waits at most so long until the pipeline wishes for a batch; says whether it does.
    fn take_wish(&self, patience: Duration) -> bool {
        if let Ok(wish) = self.wishes.try_acquire() {
            wish.forget();
            return true;
        }
        if patience.is_zero() {
            return false;
        }
        let wish = async {
            tokio::select! {
                wish = self.wishes.acquire() => wish.map(SemaphorePermit::forget).is_ok(),
                () = self.feed.closed() => false,
            }
        };
        let wished = self.runtime.block_on(timeout(patience, wish));
        wished.unwrap_or(false)
    }

    /// Waits until the pipeline wishes for a batch; where it does not within a second, polls on, so
    /// that the group does not think us dead. Says `false` where the process or the pipeline ends.
    fn hold_back(&mut self) -> bool {
        if self.take_wish(PRESSURE_PATIENCE) {
            return true;
        }
        observe::held_back();
        while !self.shutdown.is_requested() && !self.feed.is_closed() {
            // The partitions' queues fill up to librdkafka's bounds meanwhile. What a rebalance hands
            // out now comes by the main queue, and is read again.
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(message)) => self.rewind(&message),
                Some(Err(error)) => observe::broker_trouble(&error, "poll"),
                None => {}
            }
            if self.take_wish(WISH_LOOK) {
                return true;
            }
        }
        false
    }

    /// Puts a message back that there is no room for: its partition is opened anew later.
    fn rewind(&self, message: &BorrowedMessage<'_>) {
        self.assignments
            .wait((Arc::from(message.topic()), message.partition()));
    }

    fn drain(mut self) {
        self.give_up_void();
        if !self.batcher.is_empty() {
            let took = self
                .batch_since
                .map_or(Duration::ZERO, |since| since.elapsed());
            let batch = Box::new(self.batcher.close(took));
            // A closed channel means that the pipeline failed; what it did not commit is read again.
            self.runtime
                .block_on(self.feed.send(Feed::Batch(batch)))
                .unwrap_or_default();
        }
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.feed, closed));
        loop {
            let told = self
                .runtime
                .block_on(timeout(Duration::from_millis(20), self.heads.recv()));
            match told {
                Ok(Some(marks)) => self.note_heads(marks),
                Ok(None) => break,
                // The pipeline still works; keep the membership alive meanwhile.
                Err(_) => drop(self.consumer.poll(Duration::ZERO)),
            }
        }
        self.tell_heads(CommitMode::Sync);
        for assignment in self.assignments.open() {
            assignment.end();
        }
        drop(self.queues);
        leave(self.consumer);
    }
}
