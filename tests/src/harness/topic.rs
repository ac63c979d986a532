//! Writing to topics and reading them back.
//!
//! Invariant: `send` returns once the broker has acknowledged every record, so that what a test sent
//! is in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer,
};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::kafka::Kafka;

const DELIVERY: Duration = Duration::from_secs(60);

/// A record to send.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The partition it goes to.
    pub partition: i32,
    /// Its value; a tombstone where `None`.
    pub payload: Option<Vec<u8>>,
    /// Its time in ms since 1970; the broker's or client's present where `None`.
    pub time: Option<i64>,
}

/// A record as it was read.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The partition it stands in.
    pub partition: i32,
    /// Its place there.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub payload: Option<Vec<u8>>,
    /// Its time in ms since 1970.
    pub time: i64,
}

impl Record {
    /// Makes a record of a text.
    #[must_use]
    pub fn text(partition: i32, text: &str) -> Self {
        Self {
            partition,
            payload: Some(text.as_bytes().to_vec()),
            time: None,
        }
    }
}

/// A topic of a test.
#[derive(Clone)]
pub struct Topic {
    kafka: Arc<Kafka>,
    name: String,
}

/// Counts what the broker did not take.
#[derive(Default)]
struct Deliveries {
    failed: AtomicU64,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A producer inside a transaction.
pub struct Transaction {
    producer: BaseProducer,
    topic: String,
}

impl Topic {
    /// Makes a topic that nobody else uses.
    #[must_use]
    pub fn create(kafka: &Arc<Kafka>, name: &str, partitions: i32) -> Self {
        let name = kafka.unused_topic(name);
        kafka.create_topic(&name, partitions, &[]);
        Self {
            kafka: Arc::clone(kafka),
            name,
        }
    }

    /// Names a topic, which may exist or not.
    #[must_use]
    pub fn named(kafka: &Arc<Kafka>, name: &str) -> Self {
        Self {
            kafka: Arc::clone(kafka),
            name: name.to_owned(),
        }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the broker it is on.
    #[must_use]
    pub const fn kafka(&self) -> &Arc<Kafka> {
        &self.kafka
    }

    /// Sends one record with headers and returns once it is acknowledged.
    pub fn send_with_headers(&self, record: &Record, headers: &[(String, String)]) {
        let producer: ThreadedProducer<Deliveries> = self
            .kafka
            .client()
            .create_with_context(Deliveries::default())
            .unwrap();
        let mut all = OwnedHeaders::new();
        for (key, value) in headers {
            let value = Some(value);
            all = all.insert(Header { key, value });
        }
        let sent = producer.send(to_send(&self.name, record).headers(all));
        assert!(sent.is_ok(), "an empty queue has room");
        producer.flush(DELIVERY).unwrap();
        let failed = producer.context().failed.load(Ordering::Relaxed);
        assert_eq!(failed, 0, "the broker takes every record");
    }

    /// Sends records in order and returns once all are acknowledged.
    pub fn send(&self, records: impl IntoIterator<Item = Record>) {
        let producer: ThreadedProducer<Deliveries> = self
            .kafka
            .client()
            .set("linger.ms", "5")
            .set("enable.idempotence", "true")
            .set("message.max.bytes", "67108864")
            .set("compression.type", "zstd")
            .set("batch.num.messages", "100000")
            .set("queue.buffering.max.messages", "1000000")
            .create_with_context(Deliveries::default())
            .unwrap();
        for record in records {
            let mut base = to_send(&self.name, &record);
            loop {
                match producer.send(base) {
                    Ok(()) => break,
                    Err((error, again)) if is_full(&error) => {
                        producer.flush(Duration::from_millis(20)).ok();
                        base = again;
                    }
                    Err((error, _)) => panic!("cannot send to {}: {error}", self.name),
                }
            }
        }
        producer.flush(DELIVERY).unwrap();
        let failed = producer.context().failed.load(Ordering::Relaxed);
        assert_eq!(
            failed, 0,
            "{failed} records were not taken by {}",
            self.name
        );
    }

    /// Sends texts to the partitions in turn.
    pub fn send_texts<T: AsRef<str>>(&self, partitions: i32, texts: impl IntoIterator<Item = T>) {
        let turns = (0..partitions).cycle();
        self.send(
            turns
                .zip(texts)
                .map(|(partition, text)| Record::text(partition, text.as_ref())),
        );
    }

    /// Begins a transaction.
    #[must_use]
    pub fn begin(&self, transactional_id: &str) -> Transaction {
        let producer: BaseProducer = self
            .kafka
            .client()
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", "120000")
            .create()
            .unwrap();
        producer.init_transactions(DELIVERY).unwrap();
        producer.begin_transaction().unwrap();
        Transaction {
            producer,
            topic: self.name.clone(),
        }
    }

    /// Reads all that a read-committed consumer can, from the first record of each partition.
    #[must_use]
    pub fn read(&self) -> Vec<Stored> {
        let mut records = Vec::new();
        self.read_each(|record| records.push(record));
        records
    }

    /// Reads all that a read-committed consumer can, partition by partition, in order.
    pub fn read_each(&self, mut each: impl FnMut(Stored)) {
        let consumer: BaseConsumer = self
            .kafka
            .client()
            .set("group.id", "oracle")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .create()
            .unwrap();
        for partition in 0..self.partitions() {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&self.name, partition, Offset::Beginning)
                .unwrap();
            consumer.assign(&list).unwrap();
            loop {
                match consumer.poll(DELIVERY) {
                    None => panic!("no answer while reading {} {partition}", self.name),
                    Some(Err(KafkaError::PartitionEOF(_))) => break,
                    Some(Err(KafkaError::MessageConsumption(
                        RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                    ))) => {}
                    Some(Err(error)) => panic!("cannot read {}: {error}", self.name),
                    Some(Ok(message)) => each(Stored {
                        partition,
                        offset: message.offset(),
                        key: message.key().map(<[u8]>::to_vec),
                        payload: message.payload().map(<[u8]>::to_vec),
                        time: message.timestamp().to_millis().unwrap_or(0),
                    }),
                }
            }
        }
    }

    /// Returns the number of partitions.
    #[must_use]
    pub fn partitions(&self) -> i32 {
        let client: BaseConsumer = self.kafka.client().create().unwrap();
        let metadata = client.fetch_metadata(Some(&self.name), DELIVERY).unwrap();
        let topic = metadata.topics().first().expect("asked for one topic");
        i32::try_from(topic.partitions().len()).unwrap()
    }

    /// Returns the sum of the partitions' ends: how many offsets have been given out.
    #[must_use]
    pub fn ends(&self) -> i64 {
        (0..self.partitions())
            .map(|each| self.kafka.watermarks(&self.name, each).1)
            .sum()
    }
}

impl Transaction {
    /// Sends records inside the transaction, and waits until the broker has them.
    pub fn send(&self, records: impl IntoIterator<Item = Record>) {
        for record in records {
            self.producer
                .send(to_send(&self.topic, &record))
                .map_err(|(error, _)| error)
                .unwrap();
        }
        self.producer.flush(DELIVERY).unwrap();
    }

    /// Commits: its records become visible.
    pub fn commit(self) {
        self.producer.commit_transaction(DELIVERY).unwrap();
    }

    /// Aborts: its records never become visible, and leave holes in the offsets.
    pub fn abort(self) {
        self.producer.abort_transaction(DELIVERY).unwrap();
    }
}

fn to_send<'a>(topic: &'a str, record: &'a Record) -> BaseRecord<'a, [u8], [u8]> {
    let mut base: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(record.partition);
    base.payload = record.payload.as_deref();
    base.timestamp = record.time;
    base
}

fn is_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}
