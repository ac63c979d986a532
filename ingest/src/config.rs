//! What of the configuration ingest reads: the broker, the sources, the bounds of a batch.
//!
//! Invariant: every field has a default or is named as missing by `check`; keys of librdkafka that
//! decide where reading starts or what is committed are ours alone. Deliberately absent: where the
//! settings come from (files, environment, flags), which is `service`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source_config::SourceConfig;

/// The consumer group that assigns partitions, by default; it keeps no position that counts.
pub const GROUP: &str = "tollbook-ingest";

/// Keys of librdkafka that Tollbook sets itself, each with the reason.
pub const OWNED_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "set `brokers` instead"),
    ("metadata.broker.list", "set `brokers` instead"),
    ("group.id", "set `group` instead"),
    (
        "group.protocol",
        "positions are fenced by Postgres with the classic protocol",
    ),
    (
        "group.instance.id",
        "each process start must be a new member",
    ),
    (
        "enable.auto.commit",
        "the position lives in Postgres, in the batch's transaction",
    ),
    (
        "enable.auto.offset.store",
        "the position lives in Postgres, in the batch's transaction",
    ),
    (
        "auto.offset.reset",
        "a lost position must stop the partition, never skip or repeat records",
    ),
    ("isolation.level", "aborted transactions must not be billed"),
    (
        "partition.assignment.strategy",
        "moving one partition must not stop the others",
    ),
    (
        "allow.auto.create.topics",
        "a mistyped topic must not come into being",
    ),
    (
        "enable.partition.eof",
        "it tells when a partition is at rest",
    ),
    ("check.crcs", "it is money"),
];

/// How to reach Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Comma-separated `host:port` of one or more brokers.
    pub brokers: String,
    /// The consumer group, `tollbook-ingest` unless several installations share a broker. Other
    /// installations must have other groups.
    pub group: String,
    /// The topic that tells enforcers of accounts; compacted, and made where it is missing. Other
    /// installations that share a broker must have other topics.
    pub balances_topic: String,
    /// The topic by which enforcers tell each other what they count; made where it is missing. Other
    /// installations must have another one.
    pub exchange_topic: String,
    /// Further properties, passed on to librdkafka as they are (`security.protocol`, `sasl.*`, …).
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            group: GROUP.to_owned(),
            balances_topic: "tollbook.balances".to_owned(),
            exchange_topic: "tollbook.exchange".to_owned(),
            properties: BTreeMap::new(),
        }
    }
}

/// What ingest does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// The topics to fold and how to read them.
    pub sources: Vec<SourceConfig>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub http: String,
    /// Allows `http` to be bound to another address than loopback without authentication.
    pub insecure: bool,
    /// The most events that one batch holds, about, with some 130 bytes of each, and half as many postings of
    /// some 400; fewer where Postgres takes longer than five seconds to commit so many. Two or three batches
    /// are in memory at a time.
    pub batch_records_max: u32,
    /// The most bytes of rejected events' payloads that one batch keeps, about; no others are kept.
    pub batch_bytes_max: u32,
    /// How long a record waits for others to share its transaction, in milliseconds; after as long without any it goes at once.
    pub batch_age_ms: u32,
    /// How long postings wait at most until they are rolled up, in milliseconds; half a million that
    /// wait are rolled up at once. Reports count them from their commit on.
    pub rollup_interval_ms: u32,
    /// How long SIGTERM waits for the batch in hand, in milliseconds.
    pub shutdown_deadline_ms: u32,
    /// Whether prices, sources and policies of the configuration are put in force at a start, where
    /// this very set never was.
    pub apply_at_start: bool,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            http: "127.0.0.1:8070".to_owned(),
            insecure: false,
            batch_records_max: 800_000,
            batch_bytes_max: 64 * 1024 * 1024,
            batch_age_ms: 20,
            rollup_interval_ms: 60_000,
            shutdown_deadline_ms: 20_000,
            apply_at_start: true,
        }
    }
}

impl IngestConfig {
    /// How long a record waits at rest for others.
    #[must_use]
    pub fn batch_age(&self) -> Duration {
        Duration::from_millis(self.batch_age_ms.into())
    }

    /// How long postings wait at most until they are rolled up.
    #[must_use]
    pub fn rollup_interval(&self) -> Duration {
        Duration::from_millis(self.rollup_interval_ms.max(50).into())
    }
}

/// A setting that cannot be used as it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct BadSetting {
    /// The key's path in the configuration.
    pub key: String,
    /// What is wrong and how to mend it.
    pub problem: String,
}

impl KafkaConfig {
    /// Returns how long the group waits for a member that does not answer: librdkafka's
    /// `session.timeout.ms`, 45 s unless the properties say otherwise.
    #[must_use]
    pub fn session_timeout(&self) -> Duration {
        let configured = self
            .properties
            .get("session.timeout.ms")
            .and_then(|ms| ms.parse().ok());
        Duration::from_millis(configured.unwrap_or(45_000))
    }

    /// Refuses properties that Tollbook sets itself.
    ///
    /// # Errors
    ///
    /// The first such key, with the reason; the caller stops with exit code 3.
    pub fn check(&self) -> Result<(), BadSetting> {
        if self.brokers.trim().is_empty() {
            return Err(BadSetting {
                key: "kafka.brokers".to_owned(),
                problem: "is empty; name at least one `host:port`".to_owned(),
            });
        }
        if self.group.trim().is_empty() {
            return Err(BadSetting {
                key: "kafka.group".to_owned(),
                problem: "is empty; remove it for the default, `tollbook-ingest`".to_owned(),
            });
        }
        for (owned, reason) in OWNED_PROPERTIES {
            if self.properties.contains_key(*owned) {
                return Err(BadSetting {
                    key: format!("kafka.properties.\"{owned}\""),
                    problem: format!("is set by Tollbook itself: {reason}; remove it"),
                });
            }
        }
        Ok(())
    }
}

impl IngestConfig {
    /// Checks the bounds; sources check themselves.
    ///
    /// # Errors
    ///
    /// The first setting out of range; the caller stops with exit code 3.
    pub fn check(&self) -> Result<(), BadSetting> {
        let bounds = [
            (
                "ingest.batch_records_max",
                self.batch_records_max,
                1,
                1_000_000,
            ),
            (
                "ingest.batch_bytes_max",
                self.batch_bytes_max,
                64 * 1024,
                1024 * 1024 * 1024,
            ),
            ("ingest.batch_age_ms", self.batch_age_ms, 0, 60_000),
            (
                "ingest.rollup_interval_ms",
                self.rollup_interval_ms,
                50,
                3_600_000,
            ),
        ];
        for (key, value, least, greatest) in bounds {
            if !(least..=greatest).contains(&value) {
                return Err(BadSetting {
                    key: key.to_owned(),
                    problem: format!("{value} is out of range; use {least} to {greatest}"),
                });
            }
        }
        Ok(())
    }
}
