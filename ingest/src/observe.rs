//! What ingest tells about itself: one function per fact, which logs and counts it.
//!
//! Invariant: no other file of this room names a metric. Labels come from enums and from the
//! configuration (topics): never an application, a model or an id.

pub(crate) mod spans;

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use store::batch::Committed;
use store::gap::NewGap;
use store::in_force::Versions;
use store::rollup::{RollUpError, Waiting};
use store::{Backend, StoreError};

use crate::assignment::{Assignment, Lost};
use crate::balances::FeedTrouble;
use crate::error::IngestError;
use crate::kafka::{LogError, TopicPartition};
use crate::opening::OpenError;
use crate::rules::Rules;

/// Tells that a batch is in the ledger.
pub(crate) fn committed(committed: &Committed, took: Duration) {
    let mut records = 0;
    for counts in &committed.counts {
        records += counts.records;
        for (result, count) in [
            ("accepted", counts.accepted),
            ("duplicate", counts.duplicates),
            ("rejected", counts.rejected),
            ("ignored", counts.ignored),
        ] {
            counter!("tollbook_ingest_events_total", "result" => result).increment(count);
        }
    }
    counter!("tollbook_ingest_records_total").increment(records);
    counter!("tollbook_ingest_id_conflicts_total").increment(committed.conflicts.count);
    if let Some((identity, first, again)) = committed.conflicts.sample {
        tracing::warn!(
            batch.id = committed.batch,
            conflicts.count = committed.conflicts.count,
            event.identity = format_args!("{:032x}", identity.to_bits()),
            first.chain = first.chain.0,
            first.part = first.number.0,
            again.chain = again.chain.0,
            again.part = again.number.0,
            "a producer gave an id again with another payload; the first is charged"
        );
    }
    histogram!("tollbook_ingest_commit_seconds").record(took.as_secs_f64());
    tracing::debug!(
        batch.id = committed.batch,
        batch.records = records,
        "committed a batch"
    );
}

/// Tells that a batch could not be committed and is tried again.
pub(crate) fn commit_failed(error: &StoreError) {
    counter!("tollbook_ingest_commit_failures_total", "kind" => error.kind()).increment(1);
    tracing::warn!(error.kind = error.kind(), error.text = %error, error.cause = cause(error),
        "a batch was not committed; it is folded again");
}

/// Tells that another process counted an event of the batch first.
pub(crate) fn overtaken() {
    counter!("tollbook_ingest_overtaken_total").increment(1);
    tracing::warn!("another process counted an event of the batch first; it is folded again");
}

/// Tells that the answer to COMMIT was lost.
pub(crate) fn commit_unknown(error: &StoreError) {
    counter!("tollbook_ingest_commit_unknown_total").increment(1);
    tracing::warn!(error.text = %error, error.cause = cause(error),
        "the answer to COMMIT was lost; asking Postgres whether it was applied");
}

/// Tells what became of a commit whose answer was lost.
pub(crate) fn resolved(is_applied: bool) {
    tracing::info!(
        batch.applied = is_applied,
        "a commit whose answer was lost is resolved"
    );
}

/// Tells that a partition may be read.
pub(crate) fn opened(assignment: &Assignment) {
    tracing::info!(
        kafka.topic = %assignment.place.0, kafka.partition = assignment.place.1,
        chain.id = assignment.chain.0, chain.epoch = assignment.epoch.0,
        kafka.offset = assignment.start.0, "opened a partition"
    );
}

/// Tells that a partition is read again from where its chain stands: a batch with its records was given up.
pub(crate) fn reads_again(assignment: &Assignment) {
    tracing::info!(
        kafka.topic = %assignment.place.0, kafka.partition = assignment.place.1,
        kafka.offset = assignment.start.0, "reads a partition again"
    );
}

/// Tells that a partition could not be opened yet.
pub(crate) fn opening_failed(place: &TopicPartition, problem: &OpenError) {
    counter!("tollbook_ingest_opening_failures_total").increment(1);
    tracing::warn!(kafka.topic = %place.0, kafka.partition = place.1, error.text = %problem,
        "a partition cannot be opened yet; trying again");
}

/// Tells that the group took a partition away.
pub(crate) fn revoked(assignment: &Assignment) {
    tracing::info!(kafka.topic = %assignment.place.0, kafka.partition = assignment.place.1,
        "the group took a partition away");
}

/// Tells that Postgres says that a partition is not ours (any more).
pub(crate) fn lost(assignment: &Assignment, how: Lost) {
    let why = match how {
        Lost::Fenced => "fenced",
        Lost::Rewound => "rewound",
    };
    counter!("tollbook_ingest_fenced_total", "why" => why).increment(1);
    tracing::warn!(kafka.topic = %assignment.place.0, kafka.partition = assignment.place.1,
        chain.epoch = assignment.epoch.0, why,
        "dropped a partition: Postgres does not have it where this process left it");
}

/// Tells that the log is not the one that was folded, or lost records.
pub(crate) fn gap_found(place: &TopicPartition, gap: &NewGap) {
    counter!("tollbook_ingest_gaps_total", "cause" => gap.cause.name()).increment(1);
    tracing::error!(kafka.topic = %place.0, kafka.partition = place.1,
        gap.position = gap.position.0, gap.log_start = gap.log_start.0,
        gap.log_end = gap.log_end.0,
        "stopped a partition: {}; see `tollbook gaps list`", gap.detail);
}

/// Tells that a partition answered with an offset that lies before what was read.
pub(crate) fn went_backwards(assignment: &Assignment, offset: i64) {
    counter!("tollbook_ingest_backwards_total").increment(1);
    tracing::error!(kafka.topic = %assignment.place.0, kafka.partition = assignment.place.1,
        kafka.offset = offset, chain.next = assignment.next_read().0,
        "Kafka answered with an offset that was read before; opening the partition anew");
}

/// Tells that Postgres does not keep up and the partitions are paused.
pub(crate) fn held_back() {
    counter!("tollbook_ingest_pauses_total").increment(1);
    tracing::warn!("Postgres does not keep up; reading is paused");
}

/// Tells that the broker or the client has trouble; librdkafka tries again by itself.
pub(crate) fn broker_trouble(error: &KafkaError, doing: &str) {
    counter!("tollbook_ingest_broker_errors_total").increment(1);
    tracing::debug!(error.text = %error, doing, "trouble with Kafka");
}

/// Passes on a line of librdkafka.
pub(crate) fn librdkafka(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(facility, "librdkafka: {message}");
        }
    }
}

/// Tells how many partitions the group gave us and how many of them are open.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a double; counts are far below 2^53"
)]
pub(crate) fn assigned(owned: usize, open: usize) {
    gauge!("tollbook_ingest_partitions", "state" => "owned").set(owned as f64);
    gauge!("tollbook_ingest_partitions", "state" => "open").set(open as f64);
}

/// Tells how many records of a partition are not folded yet; 0 of one that is not ours any more.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a double; lags are far below 2^53"
)]
pub(crate) fn lag(place: &TopicPartition, records: i64) {
    let (topic, partition) = (place.0.to_string(), place.1.to_string());
    gauge!("tollbook_ingest_lag_records", "topic" => topic, "partition" => partition)
        .set(records.max(0) as f64);
}

/// Tells how long ago a source of truth was heard.
pub(crate) fn staleness(source: &'static str, age: Duration) {
    gauge!("tollbook_ingest_staleness_seconds", "source" => source).set(age.as_secs_f64());
}

/// Tells how long ago everything was folded that a topic held then.
pub(crate) fn watermark_age(topic: &str, age: Duration) {
    gauge!("tollbook_ingest_watermark_age_seconds", "topic" => topic.to_owned())
        .set(age.as_secs_f64());
}

/// Tells no age any more of a topic that no source reads.
pub(crate) fn watermark_forgotten(topic: &str) {
    gauge!("tollbook_ingest_watermark_age_seconds", "topic" => topic.to_owned()).set(f64::NAN);
}

/// Tells how much the roll-up has not taken up, and since when the oldest of it waits.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a double; counts are far below 2^53"
)]
pub(crate) fn rollup_waiting(waiting: &Waiting) {
    gauge!("tollbook_ingest_rollup_waiting_postings").set(waiting.postings as f64);
    let age = waiting.oldest.unwrap_or_default();
    gauge!("tollbook_ingest_rollup_age_seconds").set(age.as_secs_f64());
}

/// Tells which versions are folded by.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a double; versions are far below 2^53"
)]
pub(crate) fn in_force(versions: &Versions) {
    for (what, version) in [
        ("prices", Some(versions.prices)),
        ("sources", Some(versions.sources)),
        ("policies", versions.policies),
    ] {
        let version = version.map_or(0, |version| version.0);
        gauge!("tollbook_ingest_in_force_version", "what" => what).set(version as f64);
    }
}

/// Tells that the log could not be looked at; it is looked at again.
pub(crate) fn log_away(error: &LogError) {
    counter!("tollbook_ingest_log_checks_failed_total").increment(1);
    tracing::debug!(error.text = %error, "the log could not be looked at");
}

/// Tells that what comes before a run failed for a moment, and is tried again; aloud the first time only.
pub(crate) fn start_tried_again(error: &IngestError, is_told: bool) {
    counter!("tollbook_ingest_starts_tried_again_total").increment(1);
    if is_told {
        tracing::debug!(error.text = %error, "the start failed again");
    } else {
        tracing::warn!(error.text = %error, "the start failed for now; it is tried again");
    }
}

/// Tells that accounts were sent to the feed.
pub(crate) fn balances_sent(accounts: usize) {
    let accounts = u64::try_from(accounts).unwrap_or(u64::MAX);
    counter!("tollbook_ingest_balances_sent_total").increment(accounts);
}

/// Tells that the feed could not be sent; it is tried again.
pub(crate) fn balances_failed(trouble: &FeedTrouble, is_first: bool) {
    counter!("tollbook_ingest_balances_failures_total").increment(1);
    if is_first {
        tracing::warn!(error.text = %trouble, "accounts could not be sent to enforcers; tried again");
    }
}

/// Tells that other rules came into force.
pub(crate) fn rules_changed(rules: &Rules) {
    in_force(&rules.versions);
    tracing::info!(
        prices.version = rules.versions.prices.0,
        sources.version = rules.versions.sources.0,
        policies.version = rules.versions.policies.map(|version| version.0),
        "folding by other rules from now on"
    );
}

/// Tells that the roll-up failed.
pub(crate) fn rollup_failed(error: &RollUpError) {
    counter!("tollbook_ingest_rollup_failures_total").increment(1);
    tracing::warn!(error.text = %error, "the roll-up failed; it is tried again");
}

/// Tells that parts were rolled up.
pub(crate) fn rolled_up(parts: u64) {
    counter!("tollbook_ingest_rolled_up_parts_total").increment(parts);
}

/// Tells that a chore beside the pipeline failed; it is done again later.
pub(crate) fn chore_failed(chore: &str, error: &StoreError) {
    counter!("tollbook_ingest_chore_failures_total").increment(1);
    tracing::debug!(chore, error.text = %error, "a chore failed; it is done again");
}

/// Tells that a configured topic does not exist yet.
pub(crate) fn topic_missing(topic: &str) {
    tracing::warn!(
        kafka.topic = topic,
        "the topic does not exist yet; waiting for it, not ready meanwhile"
    );
}

/// Tells that a topic that was read is gone.
pub(crate) fn topic_gone(topic: &str) {
    tracing::error!(
        kafka.topic = topic,
        "the topic is gone; its partitions wait, and are compared if it comes back"
    );
}

/// Tells that a topic that was waited for exists.
pub(crate) fn topic_found(topic: &str) {
    tracing::info!(kafka.topic = topic, "the topic exists now");
}

/// Tells which connection folds.
pub(crate) fn writer(backend: Backend) {
    tracing::debug!(postgres.pid = backend.pid, "the writer's connection");
}

fn cause(error: &StoreError) -> String {
    std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default()
}
