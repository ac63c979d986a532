//! The topic of the feed: made where it is missing, written with acknowledgement by all replicas.
//!
//! Invariant: `flush` answers well only if every record sent before it is acknowledged; records of one key
//! go to one partition, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};
use tokio::runtime::Handle;

use crate::config::KafkaConfig;
use crate::kafka::{ASK_TIMEOUT, LogError, LogReader, producer_config};

/// Partitions of a topic that we make: readers read all of them, so few.
const PARTITIONS: i32 = 4;

/// How long records may take to be acknowledged; then they count as lost and are sent again.
const DELIVERY: Duration = Duration::from_secs(10);

/// Counts what was not acknowledged.
struct Failures(Arc<AtomicU64>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The topic, open for writing.
pub(super) struct BalancesTopic {
    name: String,
    brokers: String,
    partitions: i32,
    producer: ThreadedProducer<Failures>,
    failures: Arc<AtomicU64>,
}

impl BalancesTopic {
    /// Opens the topic, and makes it where it is missing.
    ///
    /// # Errors
    ///
    /// [`LogError`]: try again later.
    pub(super) fn open(kafka: &KafkaConfig, runtime: &Handle) -> Result<Self, LogError> {
        let name = kafka.balances_topic.clone();
        let reader = LogReader::new(kafka)?;
        let partitions = match reader.partitions(&name) {
            Err(LogError::NoTopic(_)) => {
                runtime.block_on(create(kafka, &name))?;
                reader.partitions(&name)?
            }
            known => known?,
        };
        let failures = Arc::new(AtomicU64::new(0));
        let mut config = producer_config(kafka);
        config.set_log_level(RDKafkaLogLevel::Error);
        let producer = config
            .create_with_context(Failures(Arc::clone(&failures)))
            .map_err(LogError::BadSettings)?;
        Ok(Self {
            name,
            brokers: kafka.brokers.clone(),
            partitions,
            producer,
            failures,
        })
    }

    /// Returns how many partitions it had when it was opened.
    pub(super) const fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Hands a record over: to a partition, else to its key's; a tombstone without a value.
    ///
    /// # Errors
    ///
    /// [`LogError::Unreachable`]: send all since the last flush again.
    pub(super) fn send(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        partition: Option<i32>,
    ) -> Result<(), LogError> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.name).key(key);
        if let Some(value) = value {
            record = record.payload(value);
        }
        if let Some(partition) = partition {
            record = record.partition(partition);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back))
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) =>
                {
                    self.flush()?;
                    record = back;
                }
                Err((error, _)) => return Err(self.away(error)),
            }
        }
    }

    /// Waits until all records are acknowledged.
    ///
    /// # Errors
    ///
    /// [`LogError::Unreachable`] where one was not: send all since the last flush again.
    pub(super) fn flush(&self) -> Result<(), LogError> {
        let flushed = self.producer.flush(DELIVERY.saturating_mul(2));
        let lost = self.failures.swap(0, Ordering::AcqRel);
        flushed.map_err(|error| self.away(error))?;
        if lost > 0 {
            let code = RDKafkaErrorCode::MessageTimedOut;
            return Err(self.away(KafkaError::MessageProduction(code)));
        }
        Ok(())
    }

    fn away(&self, source: KafkaError) -> LogError {
        let brokers = self.brokers.clone();
        LogError::Unreachable { brokers, source }
    }
}

/// Makes the topic; one that another process makes at the same time is as good.
async fn create(kafka: &KafkaConfig, name: &str) -> Result<(), LogError> {
    let away = |source| LogError::Unreachable {
        brokers: kafka.brokers.clone(),
        source,
    };
    let mut config = producer_config(kafka);
    config.remove("enable.idempotence");
    let admin: AdminClient<DefaultClientContext> =
        config.create().map_err(LogError::BadSettings)?;
    let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(-1))
        // What is older than a day no reader asks for, but a replica's counts stay without an owner when
        // it is gone.
        .set("cleanup.policy", "compact,delete")
        .set("retention.ms", "86400000")
        .set("segment.ms", "3600000");
    let options = AdminOptions::new().operation_timeout(Some(ASK_TIMEOUT));
    let made = admin.create_topics([&topic], &options).await;
    match made.map_err(away)?.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) | None => Ok(()),
        Some(Err((_, code))) => Err(away(KafkaError::AdminOp(code))),
    }
}
