//! The polling thread: the one owner of the group's consumer.
//!
//! Invariant: it never stops polling for longer than a claim or a second of back-pressure, so that
//! the group keeps us; it hands records over only under an open assignment. Deliberately absent:
//! decoding, and any commit that counts; offsets committed to Kafka are for lag tools and audits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::ids::Offset;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use service::Shutdown;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::assignment::{Assignment, Assignments};
use crate::batch::RawBatch;
use crate::config::{IngestConfig, KafkaConfig};
use crate::kafka::{LogError, TopicPartition, group_config};
use crate::observe;
use crate::opening::{Opened, Opener};

/// How long a full batch waits for the pipeline before its partitions are paused.
const PRESSURE_PATIENCE: Duration = Duration::from_secs(1);

/// How often waiting partitions are tried again and heads are told to Kafka.
const CHORES_INTERVAL: Duration = Duration::from_secs(1);

/// How often a partition at rest is looked at for transaction markers at its end.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

/// How often a pipeline that still works is asked whether it is ready, where no record comes.
const BUSY_INTERVAL: Duration = Duration::from_millis(2);

/// How long one rebalance waits for all its claims before partitions are left waiting; far below
/// librdkafka's `max.poll.interval.ms` of 5 minutes.
const CLAIMS_PATIENCE: Duration = Duration::from_secs(10);

/// How long leaving the group may take: librdkafka can wait for a coordinator that is away.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a revocation waits for the transaction in hand.
const REVOKE_PATIENCE: Duration = Duration::from_secs(2);

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

/// Claims and releases partitions when the group says so.
struct GroupContext {
    opener: Arc<Opener>,
    assignments: Arc<Assignments>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        observe::librdkafka(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        observe::broker_trouble(&error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => self.assign(list),
            Rebalance::Revoke(list) => self.revoke(list, consumer.assignment_lost()),
            Rebalance::Error(error) => observe::broker_trouble(error, "rebalance"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(_) = rebalance {
            let waiting = self.assignments.waiting();
            pause(consumer, &waiting);
        }
    }
}

impl GroupContext {
    fn assign(&self, list: &TopicPartitionList) {
        let deadline = Instant::now() + CLAIMS_PATIENCE;
        for mut element in list.elements() {
            let place: TopicPartition = (Arc::from(element.topic()), element.partition());
            let offset = match self.opener.open(&place, deadline) {
                Opened::Ready(assignment) => {
                    let start = assignment.start;
                    self.assignments.set(place, Some(assignment));
                    RawOffset::Offset(start.0)
                }
                Opened::Stopped | Opened::Later => {
                    self.assignments.set(place, None);
                    RawOffset::End
                }
            };
            if let Err(error) = element.set_offset(offset) {
                observe::broker_trouble(&error, "offset of an assigned partition");
            }
        }
    }

    fn revoke(&self, list: &TopicPartitionList, is_lost: bool) {
        let places = list
            .elements()
            .into_iter()
            .map(|e| (Arc::<str>::from(e.topic()), e.partition()));
        let ended: Vec<_> = places
            .filter_map(|place| self.assignments.remove(&place))
            .collect();
        for assignment in &ended {
            assignment.end();
            observe::revoked(assignment);
        }
        // A lost partition has a new owner already: finishing would only be fenced.
        if !is_lost {
            ended
                .iter()
                .for_each(|assignment| assignment.wait_committed(REVOKE_PATIENCE));
        }
    }
}

fn pause(consumer: &BaseConsumer<GroupContext>, places: &[TopicPartition]) {
    if places.is_empty() {
        return;
    }
    if let Err(error) = consumer.pause(&list_of(places)) {
        observe::broker_trouble(&error, "pause");
    }
}

fn list_of(places: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    list
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
            chores_at: Instant::now(),
            idle_at: Instant::now(),
        })
    }

    /// Polls until the shutdown is requested or the pipeline has ended, then drains: hands over what
    /// it holds, waits for the pipeline, tells the last heads to Kafka and leaves the group.
    pub(crate) fn run(mut self) {
        while !self.shutdown.is_requested() && !self.feed.is_closed() {
            match self.consumer.poll(self.wait()) {
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
                }
                Some(Err(error)) => observe::broker_trouble(&error, "poll"),
                None => {}
            }
            self.hand_over();
            self.do_chores();
        }
        self.drain();
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
            permit.send(Feed::Batch(std::mem::take(&mut self.batch)));
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

    /// Puts a message back that there is no room for.
    fn rewind(&self, message: &BorrowedMessage<'_>) {
        let place = (Arc::from(message.topic()), message.partition());
        if let Some(assignment) = self
            .assignments
            .open_at(message.topic(), message.partition())
        {
            assignment.end();
        }
        self.assignments.set(place, None);
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
        if self.chores_at.elapsed() >= CHORES_INTERVAL {
            self.chores_at = Instant::now();
            self.open_waiting();
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
        for (_, mark) in self.untold.drain() {
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

    /// Tries partitions again that are ours but have no open assignment.
    fn open_waiting(&mut self) {
        for place in self.assignments.waiting() {
            let Opened::Ready(assignment) = self.opener.open(&place, Instant::now()) else {
                continue;
            };
            let mut list = TopicPartitionList::new();
            let start = RawOffset::Offset(assignment.start.0);
            let reassigned = list
                .add_partition_offset(&place.0, place.1, start)
                .and_then(|()| self.consumer.incremental_unassign(&list))
                .and_then(|()| self.consumer.incremental_assign(&list))
                .and_then(|()| self.consumer.resume(&list));
            match reassigned {
                Ok(()) => self.assignments.set(place, Some(assignment)),
                Err(error) => observe::broker_trouble(&error, "assigning a partition again"),
            }
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
            let folded = assignment.head().position.unwrap_or(assignment.start);
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
