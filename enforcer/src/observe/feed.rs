//! What the feed tells about itself.

use domain::feed::FeedError;
use metrics::{counter, gauge};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use store::StoreError;

/// Tells how many messages went into the counters, and how many did not fit their limits.
pub(crate) fn merged(merged: u64, misfits: u64) {
    if merged > 0 {
        counter!("tollbook_enforcer_feed_messages_total", "result" => "merged").increment(merged);
    }
    if misfits > 0 {
        counter!("tollbook_enforcer_feed_messages_total", "result" => "misfit").increment(misfits);
    }
}

/// Tells that a record is none of the feed's.
pub(crate) fn refused(error: FeedError) {
    counter!("tollbook_enforcer_feed_messages_total", "result" => "refused").increment(1);
    tracing::debug!(error.text = %error, "a record of the feed was not read");
}

/// Tells that a topic is read from a new place.
pub(crate) fn begins(topic: &str, partitions: usize) {
    tracing::info!(
        kafka.topic = topic,
        kafka.partitions = partitions,
        "reads the feed"
    );
}

/// Tells that a topic cannot be read yet.
pub(crate) fn cannot_begin(topic: &str, error: &KafkaError) {
    counter!("tollbook_enforcer_feed_failures_total", "topic" => topic.to_owned()).increment(1);
    tracing::debug!(kafka.topic = topic, error.text = %error, "cannot read the feed yet; trying again");
}

/// Tells that the place that was read is gone.
pub(crate) fn lost(topic: &str, error: &KafkaError) {
    counter!("tollbook_enforcer_feed_lost_total", "topic" => topic.to_owned()).increment(1);
    tracing::warn!(kafka.topic = topic, error.text = %error,
        "the log no longer holds what comes next; reads on from a later place and asks Postgres");
}

/// Tells of trouble with brokers, which mends itself or is told again.
pub(crate) fn broker_trouble(error: &KafkaError, what: &str) {
    counter!("tollbook_enforcer_broker_errors_total").increment(1);
    tracing::debug!(error.text = %error, what, "trouble with a broker");
}

/// Passes on what librdkafka logs.
pub(crate) fn librdkafka(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => {
            tracing::warn!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(facility, "librdkafka: {message}");
        }
    }
}

/// Tells that topics could not be made; somebody else may.
pub(crate) fn cannot_make_topics(error: &KafkaError) {
    tracing::debug!(error.text = %error, "cannot make the feed's topics yet");
}

/// Tells that frames went out.
pub(crate) fn sent(frames: u64, snapshots: u64) {
    counter!("tollbook_enforcer_exchange_frames_total").increment(frames);
    counter!("tollbook_enforcer_exchange_snapshots_total").increment(snapshots);
}

/// Tells that something was not delivered; it is sent again with newer numbers.
pub(crate) fn not_delivered(error: &KafkaError) {
    counter!("tollbook_enforcer_exchange_failures_total").increment(1);
    tracing::debug!(error.text = %error, "what this replica counts was not delivered; sending again");
}

/// Tells how many counters wait to be told.
pub(crate) fn waiting(frames: usize, snapshots: usize, stored: usize) {
    for (what, count) in [
        ("exchange", frames),
        ("balances", snapshots),
        ("postgres", stored),
    ] {
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        gauge!("tollbook_enforcer_untold_counters", "where" => what).set(count);
    }
}

/// Tells that Postgres did not do what was asked; it is asked again.
pub(crate) fn postgres_failed(what: &'static str, error: &StoreError) {
    counter!("tollbook_enforcer_postgres_failures_total", "kind" => error.kind()).increment(1);
    tracing::debug!(what, error.kind = error.kind(), error.text = %error, "Postgres failed; asking again");
}

/// Tells that Postgres did not answer in time.
pub(crate) fn postgres_silent(what: &'static str) {
    counter!("tollbook_enforcer_postgres_failures_total", "kind" => "silent").increment(1);
    tracing::debug!(what, "Postgres does not answer; asking again");
}

/// Tells that Postgres is away, or back.
pub(crate) fn postgres_up(is_up: bool) {
    gauge!("tollbook_enforcer_postgres_up").set(if is_up { 1.0 } else { 0.0 });
    if is_up {
        tracing::info!("Postgres answers");
    } else {
        tracing::warn!("Postgres does not answer; decisions go on by what is known");
    }
}

/// Tells that stored policies cannot be used; those in force stay.
pub(crate) fn bad_policies(version: i64, problem: &str) {
    counter!("tollbook_enforcer_bad_policies_total").increment(1);
    tracing::error!(
        policies.version = version,
        "the policies of this version cannot be used, the ones before stay: {problem}"
    );
}

/// Tells that everything that was counted before this process is known.
pub(crate) fn hydrated(seconds: f64) {
    gauge!("tollbook_enforcer_degraded").set(0.0);
    tracing::info!(seconds, "knows what was counted before it began");
}

/// Tells that nothing is decided, as there are no policies to decide by.
pub(crate) fn waits_for_policies() {
    gauge!("tollbook_enforcer_degraded").set(1.0);
    tracing::error!("no policies are known, so nothing is decided; waiting for those in Postgres");
}

/// Tells that the process decides without knowing all.
pub(crate) fn degraded(missing: &str) {
    gauge!("tollbook_enforcer_degraded").set(1.0);
    tracing::warn!(
        missing,
        "decides without knowing all that was counted; each policy's on_unavailable says how"
    );
}

/// Tells how many rows of old counters were deleted from Postgres.
pub(crate) fn aged_out(rows: i32) {
    counter!("tollbook_enforcer_old_accounts_deleted_total")
        .increment(u64::try_from(rows).unwrap_or_default());
}
