//! The floor of `make bench-ingest`: what any program that reads a topic into Postgres exactly once
//! must do, and nothing else.
//!
//! Invariant: the ids of a batch and the positions behind it commit together. Deliberately absent:
//! reading the payloads, any index on the ids, a consumer group, and more than one thread beside
//! librdkafka's own.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::runtime::Runtime;

/// How many ids one transaction copies.
const BATCH: u64 = 50_000;

/// How long the broker may keep the floor waiting.
const PATIENCE: Duration = Duration::from_secs(60);

/// The head of a binary COPY: signature, no flags, no extension
/// (<https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format").
const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The end of a binary COPY.
const COPY_END: [u8; 2] = [0xff, 0xff];

/// What the floor works on.
struct Floor {
    brokers: String,
    topic: String,
    runtime: Runtime,
    connection: PgConnection,
    /// The partitions, each with the next offset to read and its end at the start.
    partitions: Vec<(i64, i64)>,
    rows: Vec<u8>,
    rows_in_hand: u64,
}

/// Copies an id per record of the topic into `floor_id`, up to the ends of the start, and returns how
/// many there were and when the partitions were assigned.
///
/// # Errors
///
/// Whatever Kafka or Postgres says, as a text.
pub(crate) fn run(url: &str, brokers: &str, topic: &str) -> Result<Vec<Value>, String> {
    let mut floor = Floor::connect(url, brokers, topic)?;
    let consumer = floor.assign()?;
    let assigned_at_ms = now_ms()?;
    let records = floor.copy_all(&consumer)?;
    Ok(vec![
        json!({ "records": records, "assigned_at_ms": assigned_at_ms }),
    ])
}

impl Floor {
    fn connect(url: &str, brokers: &str, topic: &str) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(text)?;
        let connection = runtime.block_on(PgConnection::connect(url)).map_err(text)?;
        Ok(Self {
            brokers: brokers.to_owned(),
            topic: topic.to_owned(),
            runtime,
            connection,
            partitions: Vec::new(),
            rows: Vec::new(),
            rows_in_hand: 0,
        })
    }

    /// Finds the ends and assigns all partitions from their beginnings.
    fn assign(&mut self) -> Result<BaseConsumer, String> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "floor")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .create()
            .map_err(text)?;
        let metadata = consumer
            .fetch_metadata(Some(&self.topic), PATIENCE)
            .map_err(text)?;
        let topic = metadata.topics().first().ok_or("there is no topic")?;
        let mut list = TopicPartitionList::new();
        for partition in (0_i32..).take(topic.partitions().len()) {
            let ends = consumer.fetch_watermarks(&self.topic, partition, PATIENCE);
            let (begin, end) = ends.map_err(text)?;
            self.partitions.push((begin, end));
            list.add_partition_offset(&self.topic, partition, Offset::Offset(begin))
                .map_err(text)?;
        }
        consumer.assign(&list).map_err(text)?;
        Ok(consumer)
    }

    fn copy_all(&mut self, consumer: &BaseConsumer) -> Result<u64, String> {
        let wanted: i64 = self.partitions.iter().map(|(begin, end)| end - begin).sum();
        let wanted = u64::try_from(wanted).map_err(text)?;
        self.begin_rows();
        let mut records = 0;
        while records < wanted {
            match consumer.poll(PATIENCE) {
                None => return Err(format!("no record came for {PATIENCE:?}")),
                Some(Err(KafkaError::PartitionEOF(_))) => continue,
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(record)) => self.add(record.partition(), record.offset())?,
            }
            records += 1;
            if self.rows_in_hand == BATCH {
                self.commit()?;
            }
        }
        self.commit()?;
        Ok(records)
    }

    /// Adds a record's id, which is its place, as a row of one column of 16 bytes.
    fn add(&mut self, partition: i32, offset: i64) -> Result<(), String> {
        let index = usize::try_from(partition).map_err(text)?;
        let (position, _) = self
            .partitions
            .get_mut(index)
            .ok_or("a record of a partition that was not assigned")?;
        *position = offset + 1;
        self.rows.extend(1_i16.to_be_bytes());
        self.rows.extend(16_i32.to_be_bytes());
        self.rows.extend(i64::from(partition).to_be_bytes());
        self.rows.extend(offset.to_be_bytes());
        self.rows_in_hand += 1;
        Ok(())
    }

    fn begin_rows(&mut self) {
        self.rows.clear();
        self.rows.extend(COPY_HEAD);
        self.rows_in_hand = 0;
    }

    /// Commits the ids in hand with the positions behind them.
    fn commit(&mut self) -> Result<(), String> {
        self.rows.extend(COPY_END);
        let positions: Vec<String> = (0..)
            .zip(&self.partitions)
            .map(|(partition, (position, _)): (usize, _)| format!("({partition}, {position})"))
            .collect();
        let end = format!(
            "update floor_position as old set position = new.position \
             from (values {}) as new (partition, position) \
             where old.partition = new.partition; commit",
            positions.join(", ")
        );
        let (connection, rows) = (&mut self.connection, &self.rows);
        let committed = self.runtime.block_on(async {
            sqlx::raw_sql("begin").execute(&mut *connection).await?;
            let mut copy = connection
                .copy_in_raw("copy floor_id from stdin binary")
                .await?;
            copy.send(rows.as_slice()).await?;
            copy.finish().await?;
            sqlx::raw_sql(AssertSqlSafe(end))
                .execute(&mut *connection)
                .await
        });
        committed.map_err(text)?;
        self.begin_rows();
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the floor says when it began by the clock that the server reads, too"
)]
fn now_ms() -> Result<u64, String> {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_err(text)?;
    u64::try_from(since.as_millis()).map_err(text)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that `map_err` wants"
)]
fn text(error: impl ToString) -> String {
    error.to_string()
}
