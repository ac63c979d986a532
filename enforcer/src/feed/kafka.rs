//! Kafka as the feed uses it: clients, topics, and a reader of all partitions of one topic.
//!
//! Invariant: the reader belongs to no group and commits nothing; where it begins is chosen by time, and
//! where the log no longer holds that place it says so and begins anew. A broker that is away is waited
//! for, however long. Deliberately absent: what records mean.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use domain::time::UnixMs;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::observe::feed as observe;

/// How long one question to the broker may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a reader rests after a question failed.
const REST: Duration = Duration::from_millis(250);

/// How often the number of partitions is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Records that are taken at once.
const RECORDS_MAX: usize = 1_000;

/// How to reach Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedKafka {
    /// Comma-separated `host:port` of one or more brokers.
    pub brokers: String,
    /// The topic where accounts and marks are told.
    pub balances: String,
    /// The topic where replicas tell each other what they count.
    pub exchange: String,
    /// Further properties, passed on to librdkafka as they are.
    pub properties: BTreeMap<String, String>,
}

/// Passes on what librdkafka says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Telling;

impl ClientContext for Telling {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        observe::librdkafka(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        observe::broker_trouble(&error, reason);
    }
}

impl ConsumerContext for Telling {}

impl FeedKafka {
    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in &self.properties {
            // What a group's member may set means nothing to clients without one.
            if !matches!(key.as_str(), "session.timeout.ms" | "max.poll.interval.ms") {
                config.set(key, value);
            }
        }
        config
            .set("bootstrap.servers", &self.brokers)
            .set("allow.auto.create.topics", "false")
            .set("reconnect.backoff.max.ms", "1000")
            .set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    /// Returns the settings of a reader of all partitions.
    fn reader(&self) -> ClientConfig {
        let mut config = self.base();
        config
            .set("group.id", "tollbook-enforcer")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            .set("queued.min.messages", "20000")
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.queue.backoff.ms", "10")
            // The broker answers with the first record; silent topics need not be asked more often.
            .set("fetch.wait.max.ms", "100")
            .set("topic.metadata.refresh.interval.ms", "5000");
        config
    }

    /// Returns the settings of the sender: what is sent is absolute, so neither order nor repetition
    /// matters, and each attempt may end soon.
    pub(super) fn sender(&self) -> ClientConfig {
        let mut config = self.base();
        config
            .set("acks", "1")
            .set("linger.ms", "0")
            // Mostly hashes, which nothing makes shorter; what does is cheap.
            .set("compression.type", "lz4")
            .set("message.timeout.ms", "10000")
            .set("message.max.bytes", "1000000")
            .set("queue.buffering.max.messages", "50000")
            .set("queue.buffering.max.kbytes", "32768");
        config
    }

    /// Makes the topics of the feed where they are missing.
    ///
    /// # Errors
    ///
    /// The broker is away or refuses; a topic that somebody else makes is as good, so readers wait for
    /// it and the caller tries again.
    pub(super) async fn make_topics(&self) -> Result<(), KafkaError> {
        let config = self.base();
        let admin = AdminClient::from_config_and_context(&config, Telling)?;
        // Few partitions: every replica reads all of them, and each gets a mark per chain. Nobody needs
        // what is older than the longest window under an hour (balances, which ingest makes alike), or
        // than a snapshot takes to follow a frame (exchange).
        let balances = NewTopic::new(&self.balances, 4, TopicReplication::Fixed(-1))
            .set("cleanup.policy", "compact,delete")
            .set("retention.ms", "86400000")
            .set("segment.ms", "3600000");
        let exchange = NewTopic::new(&self.exchange, 1, TopicReplication::Fixed(-1))
            .set("cleanup.policy", "delete")
            .set("retention.ms", "600000")
            .set("segment.ms", "120000");
        let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
        let answers = admin
            .create_topics([&balances, &exchange], &options)
            .await?;
        for answer in answers {
            match answer {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(KafkaError::AdminOp(code)),
            }
        }
        Ok(())
    }
}

/// What a reader found.
#[derive(Debug)]
pub(super) enum Read<'r> {
    /// It reads on from here.
    Begins {
        /// How many partitions the topic has.
        partitions: usize,
    },
    /// A record.
    Record {
        partition: i32,
        key: Option<&'r [u8]>,
        value: Option<&'r [u8]>,
    },
    /// All records were read that there were when it began.
    CaughtUp,
}

/// Reads all partitions of a topic from some time before it begins.
pub(super) struct TopicReader {
    consumer: BaseConsumer<Telling>,
    topic: String,
    /// How far before the present it begins, in ms.
    back_ms: i64,
    /// Per partition, the offset that comes next and the end that was there at the beginning; empty
    /// while it does not read.
    places: HashMap<i32, Place>,
    is_caught_up: bool,
    looked: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    next: i64,
    end: i64,
}

impl TopicReader {
    pub(super) fn new(kafka: &FeedKafka, topic: &str) -> Result<Self, KafkaError> {
        let consumer = BaseConsumer::from_config_and_context(&kafka.reader(), Telling)?;
        Ok(Self {
            consumer,
            topic: topic.to_owned(),
            back_ms: 0,
            places: HashMap::new(),
            is_caught_up: false,
            looked: Instant::now(),
        })
    }

    /// Begins anew with the next read, so far before the present.
    pub(super) fn begin_anew(&mut self, back_ms: i64) {
        self.back_ms = back_ms;
        self.places.clear();
    }

    /// Waits at most `patience` for what comes next and hands over what there is by then. Blocks its
    /// thread, longer only while the broker is away.
    pub(super) fn read(&mut self, patience: Duration, now: UnixMs, mut take: impl FnMut(Read<'_>)) {
        if self.places.is_empty() {
            match self.begin(now) {
                Ok(places) => {
                    self.places = places;
                    self.is_caught_up = false;
                    self.looked = Instant::now();
                    let partitions = self.places.len();
                    observe::begins(&self.topic, partitions);
                    take(Read::Begins { partitions });
                }
                Err(error) => {
                    observe::cannot_begin(&self.topic, &error);
                    // Also serves librdkafka's callbacks.
                    drop(self.consumer.poll(REST));
                    return;
                }
            }
        }
        let mut patience = patience;
        for _ in 0..RECORDS_MAX {
            let Some(polled) = self.consumer.poll(patience) else {
                break;
            };
            patience = Duration::ZERO;
            match polled {
                Ok(record) => {
                    if let Some(place) = self.places.get_mut(&record.partition()) {
                        place.next = record.offset().saturating_add(1);
                    }
                    take(Read::Record {
                        partition: record.partition(),
                        key: record.key(),
                        value: record.payload(),
                    });
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    if let Some(place) = self.places.get_mut(&partition) {
                        place.next = place.next.max(place.end);
                    }
                }
                Err(error) => {
                    if is_lost(&error) {
                        observe::lost(&self.topic, &error);
                        self.places.clear();
                        return;
                    }
                    observe::broker_trouble(&error, &self.topic);
                }
            }
        }
        let is_at_end = self.places.values().all(|place| place.next >= place.end);
        if is_at_end && !self.is_caught_up {
            self.is_caught_up = true;
            take(Read::CaughtUp);
        }
        self.look();
    }

    /// Begins anew where the topic has another number of partitions than when it began.
    fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        match self.partitions() {
            Ok(partitions) if partitions.len() == self.places.len() => {}
            Ok(_) => self.places.clear(),
            Err(error) => observe::broker_trouble(&error, &self.topic),
        }
    }

    fn partitions(&self) -> Result<Vec<i32>, KafkaError> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), ASK_TIMEOUT)?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == self.topic);
        let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
        match found {
            Some(found) if found.error().is_none() && !found.partitions().is_empty() => {
                Ok(found.partitions().iter().map(|found| found.id()).collect())
            }
            Some(_) | None => Err(unknown),
        }
    }

    fn begin(&self, now: UnixMs) -> Result<HashMap<i32, Place>, KafkaError> {
        self.consumer.unassign()?;
        let since = now.saturating_add_ms(self.back_ms.saturating_neg());
        let mut asked = TopicPartitionList::new();
        let mut places = HashMap::new();
        for partition in self.partitions()? {
            let range = self
                .consumer
                .fetch_watermarks(&self.topic, partition, ASK_TIMEOUT);
            let (next, end) = range?;
            places.insert(partition, Place { next, end });
            let time = Offset::Offset(since.get());
            asked.add_partition_offset(&self.topic, partition, time)?;
        }
        let found = self.consumer.offsets_for_times(asked, ASK_TIMEOUT)?;
        let mut assigned = TopicPartitionList::new();
        for element in found.elements() {
            let Some(place) = places.get_mut(&element.partition()) else {
                continue;
            };
            element.error()?;
            // Nothing is so new: from the end that was noted.
            place.next = match element.offset() {
                Offset::Offset(offset) => offset.clamp(place.next, place.end),
                _ => place.end,
            };
            let next = Offset::Offset(place.next);
            assigned.add_partition_offset(&self.topic, element.partition(), next)?;
        }
        self.consumer.assign(&assigned)?;
        Ok(places)
    }
}

/// Says whether the place to read from is gone: the log was cut, or is another one.
fn is_lost(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicId
        )
    )
}
