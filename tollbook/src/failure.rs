//! From a room's error to what the process ends with: one sentence and an exit code.
//!
//! Invariant: the sentence names the thing, the place and the cure; of causes only the innermost is
//! told, in parentheses, since that is what a person can look up.

use std::error::Error;

use ingest::exit_of_store;
use ingest::kafka::LogError;
use service::config::{ConfigError, mask};
use service::{Exit, Failure};
use store::StoreError;

/// Makes the failure of a configuration.
pub(crate) fn of_config(error: &ConfigError) -> Failure {
    let exit = match error {
        ConfigError::Unprintable { .. } => Exit::Unexpected,
        _ => Exit::Configuration,
    };
    Failure::new(exit, mask(&error.to_string()))
}

/// Makes the failure of the database that `url` names; `place` says where that was written.
pub(crate) fn of_store(error: &StoreError, url: &str, place: &str) -> Failure {
    let cause = innermost(error).map_or_else(String::new, |cause| format!(" ({cause})"));
    let place = match error {
        StoreError::Corrupt(_) | StoreError::Busy(_) | StoreError::Other(_) => String::new(),
        StoreError::Unreachable { .. }
        | StoreError::BadUrl(_)
        | StoreError::NotMigrated
        | StoreError::SchemaTooOld { .. }
        | StoreError::SchemaTooNew { .. }
        | StoreError::Forbidden(_)
        | StoreError::NothingInForce => format!("; database.url is {url}, from {place}"),
    };
    Failure::new(
        exit_of_store(error),
        mask(&format!("{error}{cause}{place}")),
    )
}

/// Returns the text of the innermost cause; `None` for an error without one.
fn innermost(error: &dyn Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    // sqlx adds the line of Postgres's own source that raised the error.
    let said = text
        .rsplit_once(" at line ")
        .filter(|(_, line)| line.parse::<u32>().is_ok());
    Some(said.map_or(text.as_str(), |(said, _)| said).to_owned())
}

/// Makes the failure of the log; `place` says where its brokers were written.
pub(crate) fn of_log(error: &LogError, place: &str) -> Failure {
    match error {
        LogError::Unreachable { brokers, source } => Failure::new(
            Exit::Dependency,
            format!(
                "Kafka at {brokers} does not answer ({source}): start it, or correct kafka.brokers, which comes from {place}"
            ),
        ),
        LogError::NoTopic(topic) => Failure::new(
            Exit::Dependency,
            format!("topic `{topic}` does not exist: create it, or correct `topic` of its source"),
        ),
        LogError::BadSettings(cause) => Failure::new(
            Exit::Configuration,
            format!(
                "librdkafka refuses kafka.properties ({cause}): correct or remove that property"
            ),
        ),
    }
}
