//! The polling thread: the one owner of the group's consumer.
//!
//! Invariant: it never stops polling for longer than some ten seconds of claims or a second of
//! back-pressure, so that the group keeps us; it hands records over only under an open assignment. Deliberately absent:
//! decoding, and any commit that counts; offsets committed to Kafka are for lag tools and audits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::ids::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use service::Shutdown;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::assignment::{Assignment, Assignments};
use crate::batch::RawBatch;
use crate::config::{IngestConfig, KafkaConfig};
use crate::group::{GroupContext, list_of, pause};
use crate::kafka::{LogError, TopicPartition, group_config};
use crate::observe;
use crate::opening::{Opened, Opener};

/// How long a full batch waits for the pipeline before its partitions are paused.
const PRESSURE_PATIENCE: Duration = Duration::from_secs(1);

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

/// How long leaving the group may take: librdkafka can wait for a coordinator that is away.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// What the polling thread tells the pipeline.
pub(crate) enum Feed {
    /// Records to fold.
    Batch(RawBatch),
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

/// Polls Kafka and hands records over.
pub(crate) struct Poller {
    consumer: BaseConsumer<GroupContext>,
    opener: Arc<Opener>,
    assignments: Arc<Assignments>,
    feed: mpsc::Sender<Feed>,
    heads: mpsc::Receiver<Vec<HeadMark>>,
    shutdown: Shutdown,
    runtime: Handle,
    bounds: IngestConfig,
    batch: RawBatch,
    batch_since: Option<Instant>,
    current: Option<Arc<Assignment>>,
    untold: HashMap<TopicPartition, HeadMark>,
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
    /// Records to the pipeline.
    pub(crate) feed: mpsc::Sender<Feed>,
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
            feed,
            heads,
            shutdown,
        } = links;
        let context = GroupContext {
            opener: Arc::clone(&opener),
            assignments: Arc::clone(&assignments),
        };
        let consumer = BaseConsumer::from_config_and_context(&group_config(kafka), context)
            .map_err(LogError::BadSettings)?;
        consumer.subscribe(topics).map_err(LogError::BadSettings)?;
        Ok(Self {
            consumer,
            opener,
            assignments,
            feed,
            heads,
            shutdown,
            runtime: Handle::current(),
            bounds: bounds.clone(),
            batch: RawBatch::default(),
            batch_since: None,
            current: None,
            untold: HashMap::new(),
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
            // Where records are at hand, the clock is read once for many of them.
            for _ in 0..RECORDS_PER_LOOK {
                if self.is_full() || !self.poll_once(Duration::ZERO) {
                    break;
                }
            }
            self.hand_over();
            self.do_chores();
            if !self.is_full() {
                self.poll_once(self.wait());
            }
        }
        self.drain();
    }

    /// Polls for so long; says whether a record came.
    fn poll_once(&mut self, wait: Duration) -> bool {
        match self.consumer.poll(wait) {
            Some(Ok(message)) => {
                let place = Self::take(
                    &self.assignments,
                    &mut self.current,
                    &mut self.batch,
                    &message,
                );
                drop(message);
                if let Some(place) = place {
                    pause(&self.consumer, &[place]);
                }
                store::fault::point("poll::after_poll");
                true
            }
            Some(Err(error)) => {
                observe::broker_trouble(&error, "poll");
                false
            }
            None => false,
        }
    }

    /// Adds a message to the batch, or returns its partition where it is not ours to fold: no open
    /// assignment, or an offset that lies before what was read.
    fn take(
        assignments: &Assignments,
        current: &mut Option<Arc<Assignment>>,
        batch: &mut RawBatch,
        message: &BorrowedMessage<'_>,
    ) -> Option<TopicPartition> {
        let is_current = current.as_ref().is_some_and(|known| {
            known.place.1 == message.partition()
                && *known.place.0 == *message.topic()
                && known.is_open()
        });
        if !is_current {
            *current = assignments.open_at(message.topic(), message.partition());
        }
        let place = || (Arc::from(message.topic()), message.partition());
        let Some(assignment) = current else {
            return Some(place());
        };
        if !assignment.read(Offset(message.offset())) {
            observe::went_backwards(assignment, message.offset());
            assignment.end();
            return Some(place());
        }
        batch.push(assignment, message);
        None
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
        if self.batch.records() == 0 {
            return;
        }
        let since = *self.batch_since.get_or_insert_with(Instant::now);
        let is_full = self.is_full();
        if !is_full && since.elapsed() < self.bounds.batch_age() {
            return;
        }
        if self.feed.capacity() == 0 && is_full {
            self.hold_back();
        }
        if let Ok(permit) = self.feed.try_reserve() {
            self.batch_since = None;
            let next = RawBatch::with_room_of(&self.batch);
            permit.send(Feed::Batch(std::mem::replace(&mut self.batch, next)));
        }
    }

    fn is_full(&self) -> bool {
        self.batch.records() >= self.bounds.batch_records_max as usize
            || self.batch.bytes() >= self.bounds.batch_bytes_max as usize
    }

    /// Waits for the pipeline to take a batch; where it does not within a second, pauses and polls
    /// on, so that the group does not think us dead.
    fn hold_back(&mut self) {
        let has_room = |patience: Duration| {
            let reserved = self
                .runtime
                .block_on(timeout(patience, self.feed.reserve()));
            // A closed channel means that the pipeline ended; the loop sees that.
            reserved.is_ok()
        };
        if has_room(PRESSURE_PATIENCE) {
            return;
        }
        let Ok(paused) = self.consumer.assignment() else {
            return;
        };
        if let Err(error) = self.consumer.pause(&paused) {
            observe::broker_trouble(&error, "pause");
            return;
        }
        observe::held_back();
        while !self.shutdown.is_requested() && !self.feed.is_closed() {
            // What a rebalance hands out meanwhile is not paused; what it delivers is read again.
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(message)) => self.rewind(&message),
                Some(Err(error)) => observe::broker_trouble(&error, "poll"),
                None => {}
            }
            let reserved = self
                .runtime
                .block_on(timeout(Duration::from_millis(50), self.feed.reserve()));
            if reserved.is_ok() {
                break;
            }
        }
        self.resume_open();
    }

    /// Puts a message back that there is no room for: its partition is opened anew later.
    fn rewind(&self, message: &BorrowedMessage<'_>) {
        self.assignments
            .wait((Arc::from(message.topic()), message.partition()));
    }

    fn resume_open(&self) {
        let places: Vec<_> = self
            .assignments
            .open()
            .iter()
            .map(|assignment| assignment.place.clone())
            .collect();
        if let Err(error) = self.consumer.resume(&list_of(&places)) {
            observe::broker_trouble(&error, "resume");
        }
    }

    fn do_chores(&mut self) {
        while let Ok(marks) = self.heads.try_recv() {
            self.note_heads(marks);
        }
        if self.batch.records() == 0 && self.idle_at.elapsed() >= IDLE_INTERVAL {
            self.idle_at = Instant::now();
            self.advance_idle();
        }
        let since_chores = self.chores_at.elapsed();
        if since_chores >= CHORES_INTERVAL {
            self.chores_at = Instant::now();
            // A process that was stopped for long first hears from the group what is still its own.
            if since_chores < PAUSED_AFTER {
                self.assignments.take_back(self.given_up_for);
                self.open_waiting();
            }
            self.tell_heads(CommitMode::Async);
            observe::assigned(self.assignments.count(), self.assignments.open().len());
        }
    }

    fn note_heads(&mut self, marks: Vec<HeadMark>) {
        for mark in marks {
            self.untold.insert(mark.place.clone(), mark);
        }
    }

    /// Commits heads to the group: for lag tools, and so that `verify` finds a tampered ledger.
    fn tell_heads(&mut self, mode: CommitMode) {
        if self.untold.is_empty() {
            return;
        }
        store::fault::point("commit::before_group_commit");
        let mut list = TopicPartitionList::new();
        for (place, mark) in self.untold.drain() {
            // The successor of a partition that was taken away tells newer heads.
            if !self.assignments.is_ours(&place) {
                continue;
            }
            let mut element = list.add_partition(&mark.place.0, mark.place.1);
            element.set_metadata(mark.metadata.as_str());
            let set: KafkaResult<()> = element.set_offset(RawOffset::Offset(mark.position.0));
            if let Err(error) = set {
                observe::broker_trouble(&error, "offset to commit");
            }
        }
        if let Err(error) = self.consumer.commit(&list, mode) {
            observe::broker_trouble(&error, "group commit");
        }
    }

    /// Tries partitions again that are ours but have no open assignment: those first that were tried
    /// longest ago, for about a second in all.
    fn open_waiting(&mut self) {
        let mut waiting = self.assignments.waiting();
        self.tried.retain(|place, _| waiting.contains(place));
        waiting.sort_by_key(|place| self.tried.get(place).copied());
        let deadline = Instant::now() + CHORES_INTERVAL;
        for place in waiting {
            if Instant::now() >= deadline {
                break;
            }
            self.tried.insert(place.clone(), Instant::now());
            if let Opened::Ready(assignment) = self.opener.open(&place, Instant::now()) {
                self.read_from_start(assignment);
            }
        }
    }

    /// Reads an assignment's partition from its start, wherever the consumer stood before.
    fn read_from_start(&self, assignment: Arc<Assignment>) {
        let (topic, partition) = &assignment.place;
        let mut list = TopicPartitionList::new();
        let start = RawOffset::Offset(assignment.start.0);
        let reassigned = list
            .add_partition_offset(topic, *partition, start)
            .and_then(|()| self.consumer.incremental_unassign(&list))
            .and_then(|()| self.consumer.incremental_assign(&list))
            .and_then(|()| self.consumer.resume(&list));
        match reassigned {
            Ok(()) => self.assignments.open_with(assignment),
            Err(error) => observe::broker_trouble(&error, "assigning a partition again"),
        }
    }

    /// Moves positions over transaction markers at the end of partitions at rest.
    fn advance_idle(&mut self) {
        let Ok(positions) = self.consumer.position() else {
            return;
        };
        let mut idle = Vec::new();
        for element in positions.elements() {
            let RawOffset::Offset(at) = element.offset() else {
                continue;
            };
            let Some(assignment) = self
                .assignments
                .open_at(element.topic(), element.partition())
            else {
                continue;
            };
            let folded = assignment.folded_to();
            if assignment.next_read() <= folded && at > folded.0 {
                idle.push((assignment, Offset(at)));
            }
        }
        if !idle.is_empty() {
            // No room means that it is not at rest after all.
            self.feed.try_send(Feed::Idle(idle)).unwrap_or_default();
        }
    }

    fn drain(mut self) {
        let batch = std::mem::take(&mut self.batch);
        if batch.records() > 0 {
            // A closed channel means that the pipeline failed; what it did not fold is read again.
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
        leave(self.consumer);
    }
}

/// Leaves the group; where that does not end in time, the group finds out by its own time-out, and
/// the process ends all the same.
fn leave(consumer: BaseConsumer<GroupContext>) {
    let (left, is_left) = std::sync::mpsc::channel();
    let leaving = std::thread::Builder::new()
        .name("leave".to_owned())
        .spawn(move || {
            consumer.unsubscribe();
            drop(consumer);
            // Nobody waits any more where it took too long.
            left.send(()).unwrap_or_default();
        });
    if leaving.is_ok() {
        is_left.recv_timeout(LEAVE_PATIENCE).unwrap_or_default();
    }
}
