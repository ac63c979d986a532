//! The log of one partition, read from an offset on, as a committed reader outside of the group.
//!
//! Invariant: records come once each, in the order of their offsets; what is not there any more is
//! said and never waited for. Deliberately absent: what records mean.

use std::sync::Arc;
use std::time::Duration;

use domain::ids::Offset;
use domain::time::UnixMs;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use store::audit::Chain;
use tokio::time::Instant;

use crate::config::KafkaConfig;
use crate::folding::Record;
use crate::headers::Headers;
use crate::kafka::{LogError, LogReader, committed_config};

/// How long the broker may stay silent before the verification gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the log of a chain still has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Held {
    /// The log is the one that was folded, from this offset on.
    From(Offset),
    /// It is not, or is gone.
    Nothing(String),
}

/// Finds out whether a chain's log is still the one that was folded.
///
/// # Errors
///
/// [`LogError::Unreachable`] where no broker answers.
pub(crate) fn held(kafka: &KafkaConfig, chain: &Chain, is_latest: bool) -> Result<Held, LogError> {
    let nothing = |why: &str| Ok(Held::Nothing(why.to_owned()));
    if chain.source.is_none() {
        return nothing("adjustments come from no log");
    }
    if !is_latest {
        return nothing("the log was re-created since");
    }
    let reader = LogReader::new(kafka)?;
    let range = match reader.range(&chain.topic, chain.partition) {
        Ok(range) => range,
        Err(LogError::NoTopic(_)) => return nothing("the topic does not exist any more"),
        Err(error) => return Err(error),
    };
    let Some(tail) = chain.position.as_ref().and_then(|position| position.tail) else {
        return Ok(Held::From(range.start));
    };
    if tail.offset >= range.end {
        return Ok(Held::Nothing(format!(
            "the log ends at offset {}, before the last folded record at {}",
            range.end.0, tail.offset.0
        )));
    }
    if tail.offset < range.start {
        return nothing("the log has dropped the records");
    }
    let place = (Arc::from(chain.topic.as_str()), chain.partition);
    let at = tail.offset.0;
    Ok(match reader.still_holds(&place, tail)? {
        Some(true) => Held::From(range.start),
        Some(false) => Held::Nothing(format!(
            "the log holds another record at offset {at} than was folded: it was re-created"
        )),
        None => Held::Nothing(format!(
            "the last folded record, at offset {at}, is not readable"
        )),
    })
}

/// Takes a record, the headers that formats read, and its value.
pub(super) type Tell<'t> = dyn FnMut(Record, &Headers, Option<&[u8]>) + 't;

/// Reads a partition from an offset on.
pub(crate) struct PartitionLog {
    consumer: BaseConsumer,
    brokers: String,
    /// A record that was read and lies behind what was asked for.
    ahead: Option<OwnedMessage>,
    is_at_end: bool,
}

/// The log dropped records while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped;

impl PartitionLog {
    /// Begins to read at an offset.
    ///
    /// # Errors
    ///
    /// [`LogError::BadSettings`], or [`LogError::Unreachable`].
    pub(crate) fn open(
        kafka: &KafkaConfig,
        topic: &str,
        partition: i32,
        from: Offset,
    ) -> Result<Self, LogError> {
        let consumer: BaseConsumer = committed_config(kafka)
            .create()
            .map_err(LogError::BadSettings)?;
        let log = Self {
            consumer,
            brokers: kafka.brokers.clone(),
            ahead: None,
            is_at_end: false,
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, RawOffset::Offset(from.0))
            .map_err(|error| log.unreachable(error))?;
        log.consumer
            .assign(&list)
            .map_err(|error| log.unreachable(error))?;
        Ok(log)
    }

    fn unreachable(&self, source: KafkaError) -> LogError {
        LogError::Unreachable {
            brokers: self.brokers.clone(),
            source,
        }
    }

    /// Tells each further record below an offset.
    ///
    /// # Errors
    ///
    /// [`LogError::Unreachable`] where the broker stays silent.
    pub(crate) fn read_until(
        &mut self,
        to: Offset,
        tell: &mut Tell<'_>,
    ) -> Result<Result<(), Dropped>, LogError> {
        if let Some(ahead) = &self.ahead {
            if ahead.offset() >= to.0 {
                return Ok(Ok(()));
            }
            tell_message(ahead, tell);
            self.ahead = None;
        }
        let mut deadline = Instant::now() + PATIENCE;
        while !self.is_at_end {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.consumer.poll(left) {
                Some(Ok(message)) if message.offset() >= to.0 => {
                    self.ahead = Some(message.detach());
                    break;
                }
                Some(Ok(message)) => {
                    tell_message(&message, tell);
                    deadline = Instant::now() + PATIENCE;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => self.is_at_end = true,
                Some(Err(error)) if is_dropped(&error) => return Ok(Err(Dropped)),
                // librdkafka connects anew by itself, until our patience ends.
                Some(Err(_)) if !left.is_zero() => {}
                Some(Err(error)) => return Err(self.unreachable(error)),
                None => {
                    let silent =
                        KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                    return Err(self.unreachable(silent));
                }
            }
        }
        Ok(Ok(()))
    }
}

fn is_dropped(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
    )
}

/// Tells a message; its payload is not copied.
fn tell_message(message: &impl Message, tell: &mut Tell<'_>) {
    let time = message.timestamp().to_millis().unwrap_or(-1);
    let record = Record {
        offset: Offset(message.offset()),
        time: UnixMs::new(time).unwrap_or(UnixMs::FIRST),
    };
    tell(record, &Headers::of(message), message.payload());
}
