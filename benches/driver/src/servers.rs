//! The servers of a benchmark: one Postgres and one Kafka, as a user would run them.
//!
//! Invariant: Postgres makes every commit durable before it answers, and is otherwise as `initdb`
//! leaves it; however this process ends, nothing of it is left running. Deliberately absent: what is
//! in them.

use std::io::{self, Write as _};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rustix::process::Signal;
use tests::harness::database::{Database, RUNTIME};
use tests::harness::folders;
use tests::harness::kafka::Kafka;
use tests::harness::postgres::Postgres;
use tokio::signal::unix::{SignalKind, signal};

use crate::input::Record;

/// `initdb` sets the same, but for what a server's owner may have in its template.
const POSTGRES_SETTINGS: &str = "fsync = on\nsynchronous_commit = on\n";

/// The options that Kafka's own `kafka-server-start.sh` starts a broker by.
const BROKER_OPTIONS: [&str; 5] = [
    "-Xms1g",
    "-Xmx1g",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
];

/// How long the broker may take to acknowledge what is in flight.
const DELIVERY: Duration = Duration::from_secs(120);

/// The codec of the topics: none, as Kafka's producers have it unless told otherwise.
pub(crate) const CODEC: &str = "none";

/// Both servers; stopped, and their folders removed, when dropped or interrupted.
pub(crate) struct Servers {
    pub(crate) kafka: Arc<Kafka>,
    pub(crate) postgres: Arc<Postgres>,
    cleaner: Arc<Cleaner>,
}

/// Ends everything, once.
struct Cleaner {
    kafka: Arc<Kafka>,
    postgres: Arc<Postgres>,
    runs: parking_lot::Mutex<bool>,
}

impl Servers {
    /// Starts both, and watches for SIGINT and SIGTERM.
    ///
    /// # Errors
    ///
    /// Signals cannot be watched.
    pub(crate) fn start() -> Result<Self, String> {
        let postgres = Postgres::with_settings("postgres", POSTGRES_SETTINGS);
        let kafka = Kafka::on_machine("kafka", &BROKER_OPTIONS);
        let cleaner = Arc::new(Cleaner {
            kafka: Arc::clone(&kafka),
            postgres: Arc::clone(&postgres),
            runs: parking_lot::Mutex::new(true),
        });
        let servers = Self {
            kafka,
            postgres,
            cleaner,
        };
        servers.watch_signals().map_err(|error| error.to_string())?;
        Ok(servers)
    }

    /// Returns the database that every server has.
    pub(crate) fn administration(&self) -> Database {
        Database::at(&self.postgres.url("postgres"))
    }

    /// Removes a database, whoever is connected.
    pub(crate) fn drop_database(&self, database: &Database) {
        let name = database.url().rsplit('/').next().unwrap_or_default();
        let sql = format!("drop database \"{name}\" with (force)");
        self.administration().run(&sql);
    }

    /// Returns the server's place in its WAL, in bytes.
    ///
    /// # Errors
    ///
    /// Postgres reports a negative place.
    pub(crate) fn wal_bytes(&self) -> Result<u64, String> {
        let sql = "select (pg_current_wal_insert_lsn() - '0/0')::bigint";
        u64::try_from(self.administration().number(sql)).map_err(|error| error.to_string())
    }

    /// Sends records to a topic and returns once all are acknowledged, and on disk.
    ///
    /// # Errors
    ///
    /// The broker did not take a record.
    pub(crate) fn send(
        &self,
        topic: &str,
        records: impl Iterator<Item = Record>,
    ) -> Result<(), String> {
        let producer: ThreadedProducer<Deliveries> = self
            .kafka
            .client()
            .set("enable.idempotence", "true")
            .set("compression.type", CODEC)
            .create_with_context(Deliveries::default())
            .map_err(|error| error.to_string())?;
        for (record, number) in records.zip(1_u64..) {
            send(&producer, topic, &record)?;
            if number % 500_000 == 0 {
                say(&format!("{number} records are sent"));
            }
        }
        producer
            .flush(DELIVERY)
            .map_err(|error| error.to_string())?;
        producer.context().failure()?;
        sync()
    }

    fn watch_signals(&self) -> io::Result<()> {
        let _context = RUNTIME.enter();
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let cleaner = Arc::clone(&self.cleaner);
        RUNTIME.spawn(async move {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
            end(&cleaner);
        });
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.cleaner.clean();
    }
}

impl Cleaner {
    /// Stops the servers and removes what they wrote; whoever comes second waits until that is done.
    fn clean(&self) {
        let mut runs = self.runs.lock();
        if *runs {
            *runs = false;
            self.kafka.stop(Signal::KILL);
            self.postgres.stop(Signal::QUIT);
            folders::remove_all();
        }
    }
}

#[expect(clippy::exit, reason = "an interrupted benchmark has nothing to say")]
fn end(cleaner: &Cleaner) {
    cleaner.clean();
    std::process::exit(130);
}

/// Remembers what the broker did not take.
#[derive(Default)]
pub(crate) struct Deliveries {
    failure: parking_lot::Mutex<Option<KafkaError>>,
}

impl Deliveries {
    /// Fails where the broker did not take a record.
    ///
    /// # Errors
    ///
    /// The text has the broker's reason.
    pub(crate) fn failure(&self) -> Result<(), String> {
        match self.failure.lock().take() {
            Some(error) => Err(format!("the broker did not take a record: {error}")),
            None => Ok(()),
        }
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            *self.failure.lock() = Some(error.clone());
        }
    }
}

/// Gives a record to a producer, and waits where that has no room.
///
/// # Errors
///
/// The producer does not take it.
pub(crate) fn send(
    producer: &ThreadedProducer<Deliveries>,
    topic: &str,
    record: &Record,
) -> Result<(), String> {
    let mut base: BaseRecord<'_, (), str> = BaseRecord::to(topic)
        .partition(record.partition)
        .timestamp(record.time_ms)
        .payload(&record.line);
    loop {
        match producer.send(base) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                base = again;
                // Waits for room; what is not flushed yet is no failure here.
                producer
                    .flush(Duration::from_millis(20))
                    .unwrap_or_default();
            }
            Err((error, _)) => return Err(error.to_string()),
        }
    }
}

/// Waits until what the page cache holds is on disk, lest a run pays for what was sent before it.
fn sync() -> Result<(), String> {
    let mut sync = Command::new("sync");
    sync.arg("--file-system").arg(folders::base());
    let status = sync.status().map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    Err("sync failed".to_owned())
}

/// Tells the person who waits; where stderr is closed, nobody does.
pub(crate) fn say(text: &str) {
    writeln!(io::stderr(), "bench-driver: {text}").unwrap_or_default();
}
