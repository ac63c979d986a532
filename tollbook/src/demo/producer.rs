//! Puts messages onto Kafka as a log shipper does, and counts what the broker acknowledged.
//!
//! Invariant: a message counts as sent only once the broker has it. Deliberately absent: what the
//! messages say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use service::{Exit, Failure};
use tokio::time::sleep;

use super::kafka::TOPIC;
use super::process::LOOK_EVERY;

/// How long the broker may take for what is under way.
const FLUSH_PATIENCE: Duration = Duration::from_secs(30);

/// What became of the messages; librdkafka's thread counts.
#[derive(Debug, Clone, Default)]
struct Deliveries {
    acknowledged: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() {
            &self.acknowledged
        } else {
            &self.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A producer of the demo's topic.
pub(super) struct Producer {
    inner: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
}

impl Producer {
    /// Connects to the brokers.
    ///
    /// # Errors
    ///
    /// librdkafka refuses the settings.
    pub(super) fn new(brokers: &str) -> Result<Self, Failure> {
        let deliveries = Deliveries::default();
        let inner = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("compression.type", "zstd")
            .set("linger.ms", "5")
            // Spread evenly, so that a repeated message may come by way of another partition.
            .set("sticky.partitioning.linger.ms", "0")
            .create_with_context(deliveries.clone())
            .map_err(|error| failure(&error))?;
        Ok(Self { inner, deliveries })
    }

    /// Hands a message over; waits while the queue is full.
    ///
    /// # Errors
    ///
    /// librdkafka refuses the message.
    pub(super) async fn send(&self, message: &str) -> Result<(), Failure> {
        let mut record = BaseRecord::<(), str>::to(TOPIC).payload(message);
        loop {
            match self.inner.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    sleep(LOOK_EVERY).await;
                }
                Err((error, _)) => return Err(failure(&error)),
            }
        }
    }

    /// Returns how many messages the broker has acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.deliveries.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until the broker has everything that was handed over.
    ///
    /// # Errors
    ///
    /// It does not take all of it within half a minute.
    pub(super) async fn flush(&self) -> Result<(), Failure> {
        let producer = self.inner.clone();
        let flushed = tokio::task::spawn_blocking(move || producer.flush(FLUSH_PATIENCE)).await;
        match flushed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failure(&error)),
            Err(error) => return Err(Failure::unexpected(format!("flushing ended: {error}"))),
        }
        match self.deliveries.failed.load(Ordering::Relaxed) {
            0 => Ok(()),
            lost => Err(Failure::new(
                Exit::Dependency,
                format!("the demo's Kafka did not take {lost} messages"),
            )),
        }
    }
}

fn failure(error: &KafkaError) -> Failure {
    Failure::new(
        Exit::Dependency,
        format!("the demo cannot write to its Kafka: {error}"),
    )
}
