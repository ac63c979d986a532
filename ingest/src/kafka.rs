//! Clients of Kafka: the group consumer's settings, and a reader beside the group that looks at the
//! log as it is.
//!
//! Invariant: nothing here moves a position. Deliberately absent: what records mean.

use std::collections::HashMap;
use std::time::Duration;

use domain::hash::{Canonical, Hash128, Hash256};
use domain::ids::{Offset, PartRef};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use store::claim::Fingerprint;
use tokio::time::Instant;

use crate::config::KafkaConfig;

/// How long one question to the broker may take.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// A topic and one of its partitions.
pub type TopicPartition = (std::sync::Arc<str>, i32);

/// What a partition of the log holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRange {
    /// The first offset that is still there.
    pub start: Offset,
    /// The offset after the last one, open transactions included.
    pub end: Offset,
}

fn base_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &kafka.properties {
        config.set(key, value);
    }
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("group.id", &kafka.group)
        .set("group.protocol", "classic")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("allow.auto.create.topics", "false")
        .set("check.crcs", "true")
        .set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// Returns the settings of the group's consumer (RELIABILITY: assignment only, read committed,
/// small queues, whose memory is bounded).
#[must_use]
pub fn group_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = base_config(kafka);
    config
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "false");
    // Ours unless the user tuned them: queues small enough for a stated bound of memory, found
    // topics and partitions within a second. A partition's queue asks for more below 10 000 records
    // and 8 MiB, and then holds one more fetch: 512 KiB as compressed, which small records unpack to
    // twenty times that.
    for (key, value) in [
        ("fetch.message.max.bytes", "524288"),
        ("queued.min.messages", "10000"),
        ("queued.max.messages.kbytes", "8192"),
        ("fetch.queue.backoff.ms", "10"),
        ("fetch.wait.max.ms", "20"),
        ("topic.metadata.refresh.interval.ms", "1000"),
        ("reconnect.backoff.max.ms", "1000"),
        // What it counts for the broker costs a lock and a histogram at each record.
        ("enable.metrics.push", "false"),
    ] {
        if !kafka.properties.contains_key(key) {
            config.set(key, value);
        }
    }
    config
}

/// Returns the settings of a reader that sees what a committed reader sees, is no member of the
/// group, and is told where the log ends.
#[must_use]
pub fn committed_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = base_config(kafka);
    config
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "32768")
        .set("fetch.queue.backoff.ms", "10");
    config
}

/// Returns the settings of a producer whose records are acknowledged by all replicas, in order and once.
#[must_use]
pub fn producer_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &kafka.properties {
        // What consumers alone know.
        if !["session.timeout.ms", "heartbeat.interval.ms"].contains(&key.as_str()) {
            config.set(key, value);
        }
    }
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "1")
        .set("delivery.timeout.ms", "10000")
        .set("allow.auto.create.topics", "false");
    config
}

/// Returns the hash by which a record is known again: its time, key and value.
#[must_use]
pub fn fingerprint(time_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Hash128 {
    let mut canonical = Canonical::new("record/1");
    canonical.signed(time_ms);
    for field in [key, value] {
        canonical
            .present(field.is_some())
            .bytes(field.unwrap_or_default());
    }
    canonical.finish128()
}

/// Writes a chain's head as the metadata of a group offset: `tollbook/1 chain=… part=… hash=…`.
#[must_use]
pub fn head_metadata(part: PartRef, hash: Hash256) -> String {
    format!(
        "tollbook/1 chain={} part={} hash={hash}",
        part.chain.0, part.number.0
    )
}

/// Why Kafka did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No broker answered in time; try again.
    #[error("Kafka at {brokers} does not answer: {source}")]
    Unreachable {
        /// The brokers as configured.
        brokers: String,
        /// What librdkafka says.
        source: KafkaError,
    },
    /// The topic does not exist (yet).
    #[error("topic {0} does not exist")]
    NoTopic(String),
    /// The settings are refused by librdkafka.
    #[error("librdkafka refuses the settings: {0}")]
    BadSettings(KafkaError),
}

/// Looks at the log beside the group: ends, single records, topics.
pub struct LogReader {
    consumer: BaseConsumer,
    brokers: String,
}

impl LogReader {
    /// Makes a reader; connects when first asked.
    ///
    /// # Errors
    ///
    /// [`LogError::BadSettings`]; stop with exit code 3.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, LogError> {
        let mut config = base_config(kafka);
        config
            .set("isolation.level", "read_uncommitted")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("queued.min.messages", "1")
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.message.max.bytes", "65536")
            .set("fetch.wait.max.ms", "10");
        let consumer = config.create().map_err(LogError::BadSettings)?;
        Ok(Self {
            consumer,
            brokers: kafka.brokers.clone(),
        })
    }

    fn unreachable(&self, source: KafkaError) -> LogError {
        LogError::Unreachable {
            brokers: self.brokers.clone(),
            source,
        }
    }

    /// Returns the number of partitions of a topic.
    ///
    /// # Errors
    ///
    /// [`LogError::NoTopic`] where it does not exist, [`LogError::Unreachable`] where no broker
    /// answers; both may pass.
    pub fn partitions(&self, topic: &str) -> Result<i32, LogError> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), ASK_TIMEOUT)
            .map_err(|error| self.unreachable(error))?;
        let partitions = metadata
            .topics()
            .iter()
            .filter(|found| found.name() == topic && found.error().is_none())
            .map(|found| found.partitions().len())
            .next()
            .filter(|partitions| *partitions > 0)
            .ok_or_else(|| LogError::NoTopic(topic.to_owned()))?;
        Ok(i32::try_from(partitions).unwrap_or(i32::MAX))
    }

    /// Returns what a partition holds now.
    ///
    /// # Errors
    ///
    /// As [`Self::partitions`].
    pub fn range(&self, topic: &str, partition: i32) -> Result<LogRange, LogError> {
        match self.range_as_known(topic, partition) {
            // librdkafka answers from what it knew minutes ago: a new partition is not among that.
            Err(LogError::NoTopic(_)) => {
                self.partitions(topic)?;
                self.range_as_known(topic, partition)
            }
            answer => answer,
        }
    }

    fn range_as_known(&self, topic: &str, partition: i32) -> Result<LogRange, LogError> {
        let (start, end) = self
            .consumer
            .fetch_watermarks(topic, partition, ASK_TIMEOUT)
            .map_err(|error| match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition,
                ) => LogError::NoTopic(topic.to_owned()),
                _ => self.unreachable(error),
            })?;
        Ok(LogRange {
            start: Offset(start),
            end: Offset(end),
        })
    }

    /// Reads single records again and returns their fingerprints; a partition is absent from the
    /// answer where its record was not read in time, and `None` where another record stands there.
    ///
    /// # Errors
    ///
    /// [`LogError::Unreachable`]; ask again later.
    pub fn fingerprints(
        &self,
        wanted: &HashMap<TopicPartition, Offset>,
        patience: Duration,
    ) -> Result<HashMap<TopicPartition, Option<Hash128>>, LogError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in wanted {
            list.add_partition_offset(topic, *partition, RawOffset::Offset(offset.0))
                .map_err(|error| self.unreachable(error))?;
        }
        self.consumer
            .assign(&list)
            .map_err(|error| self.unreachable(error))?;
        let found = self.read_each_once(wanted, patience);
        self.consumer
            .unassign()
            .map_err(|error| self.unreachable(error))?;
        Ok(found)
    }

    fn read_each_once(
        &self,
        wanted: &HashMap<TopicPartition, Offset>,
        patience: Duration,
    ) -> HashMap<TopicPartition, Option<Hash128>> {
        let mut found = HashMap::new();
        let deadline = Instant::now() + patience;
        while found.len() < wanted.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let Some(polled) = self.consumer.poll(left) else {
                break;
            };
            let message = match polled {
                Ok(message) => message,
                // The end, and no record at the offset: only markers, or nothing, stand there now.
                Err(KafkaError::PartitionEOF(partition)) => {
                    let mut at_end = wanted.keys().filter(|place| place.1 == partition);
                    if let (Some(place), None) = (at_end.next(), at_end.next()) {
                        found.entry(place.clone()).or_insert(None);
                    }
                    continue;
                }
                Err(_) => continue,
            };
            let Some((place, offset)) = wanted.iter().find(|((topic, partition), _)| {
                **topic == *message.topic() && *partition == message.partition()
            }) else {
                continue;
            };
            let hash = (message.offset() == offset.0).then(|| {
                let time = message.timestamp().to_millis().unwrap_or(-1);
                fingerprint(time, message.key(), message.payload())
            });
            found.entry(place.clone()).or_insert(hash);
        }
        found
    }

    /// Compares one folded record with what stands at its offset now.
    ///
    /// # Errors
    ///
    /// [`LogError::Unreachable`]; ask again later.
    pub fn still_holds(
        &self,
        place: &TopicPartition,
        folded: Fingerprint,
    ) -> Result<Option<bool>, LogError> {
        let wanted = HashMap::from([(place.clone(), folded.offset)]);
        let found = self.fingerprints(&wanted, ASK_TIMEOUT)?;
        Ok(found.get(place).map(|hash| *hash == Some(folded.hash)))
    }
}

/// Says whether a topic is compacted, which would remove usage from the log.
///
/// # Errors
///
/// [`LogError::Unreachable`] where the broker does not answer. A broker that refuses to describe
/// topics (no ACL) counts as "not compacted".
pub async fn is_compacted(kafka: &KafkaConfig, topic: &str) -> Result<bool, LogError> {
    let mut config = base_config(kafka);
    config.remove("group.id");
    let admin: AdminClient<DefaultClientContext> =
        config.create().map_err(LogError::BadSettings)?;
    let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
    let answers = admin
        .describe_configs(&[ResourceSpecifier::Topic(topic)], &options)
        .await
        .map_err(|source| LogError::Unreachable {
            brokers: kafka.brokers.clone(),
            source,
        })?;
    Ok(answers.into_iter().flatten().any(|resource| {
        resource
            .get("cleanup.policy")
            .and_then(|entry| entry.value.as_deref())
            .is_some_and(|policy| policy.split(',').any(|word| word.trim() == "compact"))
    }))
}
