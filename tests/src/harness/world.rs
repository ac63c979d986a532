//! One test's world: its own database, its own topics, the configuration that joins them.
//!
//! Invariant: nothing in it is shared with another test but the servers.

use std::sync::Arc;
use std::time::Duration;

use super::database::Database;
use super::kafka::Kafka;
use super::postgres::Postgres;
use super::product::Config;
use super::topic::Topic;
use super::wait;
use crate::oracle::{Ledger, Oracle, compare};

/// How long a process may take to fold what a test sent, on a busy machine.
pub const FOLD: Duration = Duration::from_secs(90);

/// A database and a broker for one test.
pub struct World {
    name: String,
    /// The broker.
    pub kafka: Arc<Kafka>,
    /// The server.
    pub postgres: Arc<Postgres>,
    /// The ledger.
    pub database: Database,
}

impl World {
    /// Makes a world on the shared servers.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::on(name, Postgres::shared(), Kafka::shared())
    }

    /// Makes a world on these servers.
    #[must_use]
    pub fn on(name: &str, postgres: Arc<Postgres>, kafka: Arc<Kafka>) -> Self {
        let database = postgres.migrated_database(name);
        Self {
            name: name.to_owned(),
            kafka,
            postgres,
            database,
        }
    }

    /// Makes a topic.
    #[must_use]
    pub fn topic(&self, partitions: i32) -> Topic {
        Topic::create(&self.kafka, &self.name, partitions)
    }

    /// Returns a configuration without sources.
    #[must_use]
    pub fn bare_config(&self) -> Config {
        Config {
            database_url: self.database.url().to_owned(),
            brokers: self.kafka.brokers(),
            group: format!("tollbook-ingest-{}", self.name),
            session_timeout_ms: 3000,
            sources: Vec::new(),
            ingest: String::new(),
            more: String::new(),
            environment: Vec::new(),
        }
    }

    /// Returns a configuration that ingests this topic.
    #[must_use]
    pub fn config(&self, topic: &Topic) -> Config {
        self.bare_config().with_source(topic)
    }

    /// Panics unless the ledger equals the oracle's fold of the whole topic: as stored, and as
    /// `report cost` says.
    pub fn assert_exact(&self, topic: &Topic) {
        self.assert_exactly(topic, &Oracle::new(topic.name()).fold_topic(topic));
    }

    /// Panics unless the ledger equals the expected one: as stored, and as `report cost` says.
    pub fn assert_exactly(&self, topic: &Topic, expected: &Ledger) {
        compare::assert_stored(&self.database, topic.name(), expected);
        compare::assert_reported(&self.report(), expected);
        println!("{}: exact, {:?}", self.name, expected.counts);
    }

    /// Returns `report cost` by all dimensions, as JSON.
    #[must_use]
    pub fn report(&self) -> String {
        let by = "app,user,route,provider,model";
        self.bare_config()
            .output(&["report", "cost", "--by", by, "--output", "json"])
    }

    /// Returns how many events the ledger has taken: posted, duplicate, rejected and ignored.
    #[must_use]
    pub fn events(&self) -> i64 {
        let sql = "select coalesce(sum(accepted + duplicates + rejected + ignored), 0) from part";
        self.database
            .try_rows(sql)
            .ok()
            .and_then(|rows| first_number(&rows))
            .unwrap_or(-1)
    }

    /// Waits until that many events are in the ledger.
    pub fn await_events(&self, events: i64) {
        wait::until_true(&format!("{events} events in the ledger"), FOLD, || {
            self.events() >= events
        });
    }

    /// Waits until every partition of the topic is folded to its end.
    pub fn await_caught_up(&self, topic: &Topic) {
        self.await_caught_up_within(topic, FOLD);
    }

    /// Waits until every partition of the topic is folded to its end, or the bound.
    pub fn await_caught_up_within(&self, topic: &Topic, within: Duration) {
        let ends = topic.ends();
        let sql = format!(
            "select coalesce(sum(greatest(position, 0)), 0) from source_position \
             join chain on chain = id where topic = '{}' and state = 'open'",
            topic.name()
        );
        let what = format!("{} is folded to its ends, {ends}", topic.name());
        wait::until_true(&what, within, || {
            let rows = self.database.try_rows(&sql);
            rows.ok()
                .and_then(|rows| first_number(&rows))
                .is_some_and(|sum| sum >= ends)
        });
    }

    /// Changes a copy of the ledger by each statement, as only a superuser can, and asserts that
    /// `verify` differs and names it by these words.
    pub fn assert_each_is_named(&self, config: &Config, tamperings: &[(&str, &str)]) {
        let mut failures = Vec::new();
        for (sql, says) in tamperings {
            let database = self.postgres.copy_of(&self.database);
            let mut session = database.session();
            session.run("set session_replication_role = replica");
            session.run(sql);
            drop(session);
            let tampered = Config {
                database_url: database.url().to_owned(),
                ..config.clone()
            };
            let (code, stdout, stderr) = tampered.run(&["verify"]);
            if code != 5 || !stdout.contains(says) {
                failures.push(format!("--- {sql}: exit code {code}\n{stdout}\n{stderr}"));
            }
        }
        assert!(failures.is_empty(), "not named:\n{}", failures.join("\n"));
    }
}

fn first_number(rows: &[super::database::TextRow]) -> Option<i64> {
    rows.first()?.first()?.as_ref()?.parse().ok()
}
