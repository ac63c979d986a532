//! The topic of the feed: made where it is missing, written with acknowledgement by all replicas.
//!
//! Invariant: `flush` answers well only if every record sent before it is acknowledged; records of one key
//! go to one partition, in order.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::runtime::Handle;

use crate::config::KafkaConfig;
use crate::kafka::{ASK_TIMEOUT, LogError, LogReader, producer_config};

/// Partitions of a topic that we make: readers read all of them, so few.
const PARTITIONS: i32 = 4;

/// How long records may take to be acknowledged; then they count as lost and are sent again.
const DELIVERY: Duration = Duration::from_secs(10);

/// Follows what was sent until it is acknowledged, or given up.
#[derive(Default)]
struct Deliveries {
    counts: Mutex<Counts>,
    /// Told when nothing is under way any longer.
    landed: Condvar,
}

#[derive(Default)]
struct Counts {
    under_way: usize,
    failed: usize,
}

impl Deliveries {
    fn sent(&self) {
        let mut counts = self.counts.lock();
        counts.under_way = counts.under_way.saturating_add(1);
    }

    fn landed(&self, is_acknowledged: bool) {
        let mut counts = self.counts.lock();
        counts.under_way = counts.under_way.saturating_sub(1);
        let failed = usize::from(!is_acknowledged);
        counts.failed = counts.failed.saturating_add(failed);
        if counts.under_way == 0 {
            self.landed.notify_all();
        }
    }

    /// Waits until nothing is under way; returns how many records failed since the last time. `None`
    /// where it takes longer than `patience`.
    fn wait(&self, patience: Duration) -> Option<usize> {
        let mut counts = self.counts.lock();
        let is_under_way = |counts: &mut Counts| counts.under_way > 0;
        let waited = self
            .landed
            .wait_while_for(&mut counts, is_under_way, patience);
        let failed = std::mem::take(&mut counts.failed);
        (!waited.timed_out()).then_some(failed)
    }
}

/// The producer's context.
struct Delivering(Arc<Deliveries>);

impl ClientContext for Delivering {}

impl ProducerContext for Delivering {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.landed(result.is_ok());
    }
}

/// The topic, open for writing.
pub(super) struct BalancesTopic {
    name: String,
    brokers: String,
    partitions: i32,
    /// Its own thread tells at once what was acknowledged.
    producer: ThreadedProducer<Delivering>,
    deliveries: Arc<Deliveries>,
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
        let deliveries = Arc::new(Deliveries::default());
        let mut config = producer_config(kafka);
        config.set_log_level(RDKafkaLogLevel::Error);
        // A round is sent whole and then waited for.
        config.set("linger.ms", "0");
        let producer = config
            .create_with_context(Delivering(Arc::clone(&deliveries)))
            .map_err(LogError::BadSettings)?;
        Ok(Self {
            name,
            brokers: kafka.brokers.clone(),
            partitions,
            producer,
            deliveries,
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
            self.deliveries.sent();
            let sent = self.producer.send(record);
            if sent.is_err() {
                // It never was under way, so it cannot fail there.
                self.deliveries.landed(true);
            }
            match sent {
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

    /// Waits until all records are acknowledged, and no longer: rdkafka's own `flush` looks each 100 ms,
    /// and the next batch's accounts would wait for that.
    ///
    /// # Errors
    ///
    /// [`LogError::Unreachable`] where one was not: send all since the last flush again.
    pub(super) fn flush(&self) -> Result<(), LogError> {
        let timed_out = KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
        match self.deliveries.wait(DELIVERY.saturating_mul(2)) {
            Some(0) => Ok(()),
            Some(_) | None => Err(self.away(timed_out)),
        }
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
