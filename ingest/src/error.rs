//! Why ingest stops, as one sentence and an exit code.
//!
//! Invariant: each error names the thing, the place and the cure. Deliberately absent: retries; what
//! can be waited out is waited out where it arises.

use service::{Exit, Failure};
use store::StoreError;

use crate::config::BadSetting;
use crate::kafka::LogError;
use crate::pipeline::PipelineError;
use crate::prices::PricesError;
use crate::rules::UnusableRules;
use crate::source_config::SourceConfigError;

/// Why ingest stops.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Postgres is away, not migrated, or refuses; the kind says which.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kafka is away at the start.
    #[error(transparent)]
    Log(LogError),
    /// A source's topic does not exist, and nobody waits for it.
    #[error(
        "topic `{topic}` does not exist on {brokers}: create it, or correct `topic` under [[ingest.sources]]"
    )]
    MissingTopic {
        /// The topic.
        topic: String,
        /// The brokers as configured.
        brokers: String,
    },
    /// A source's topic is compacted.
    #[error(
        "topic `{0}` is compacted, which removes usage from the log: set its cleanup.policy to delete"
    )]
    Compacted(String),
    /// A setting is out of range.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A source cannot be used as configured.
    #[error(transparent)]
    Source(#[from] SourceConfigError),
    /// There is nothing to fold.
    #[error(
        "no sources are configured: add at least one [[ingest.sources]] with `topic` and `format`"
    )]
    NoSources,
    /// What is in force was written by a newer program.
    #[error(transparent)]
    Rules(#[from] UnusableRules),
    /// Prices cannot be put in force.
    #[error(transparent)]
    Prices(PricesError),
    /// A partition waits for an operator.
    #[error(
        "{topic}/{partition} is stopped by a gap in its log: see `tollbook gaps list`, then `tollbook gaps accept`"
    )]
    Stopped {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The system refused a thread.
    #[error("the system refuses a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A task failed.
    #[error("{0}")]
    Task(Failure),
}

impl From<PricesError> for IngestError {
    fn from(error: PricesError) -> Self {
        match error {
            PricesError::Store(error) => Self::Store(error),
            error => Self::Prices(error),
        }
    }
}

impl From<LogError> for IngestError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// Returns how a process ends that the store stopped.
#[must_use]
pub fn exit_of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::Unreachable { .. } | StoreError::Busy(_) => Exit::Dependency,
        StoreError::BadUrl(_)
        | StoreError::NotMigrated
        | StoreError::SchemaTooOld { .. }
        | StoreError::SchemaTooNew { .. }
        | StoreError::Forbidden(_)
        | StoreError::NothingInForce => Exit::Configuration,
        StoreError::Corrupt(_) => Exit::Data,
        StoreError::Other(_) => Exit::Unexpected,
    }
}

impl IngestError {
    /// Says whether the same call may succeed later without anybody doing anything.
    pub(crate) fn is_passing(&self) -> bool {
        self.is_of_store_and_passes() || matches!(self, Self::Log(LogError::Unreachable { .. }))
    }

    /// As [`Self::is_passing`], where it is Postgres that failed.
    pub(crate) fn is_of_store_and_passes(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }

    /// Returns the exit code that this error ends the process with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => exit_of_store(error),
            Self::Log(LogError::Unreachable { .. } | LogError::NoTopic(_))
            | Self::MissingTopic { .. } => Exit::Dependency,
            Self::Log(LogError::BadSettings(_))
            | Self::Compacted(_)
            | Self::Setting(_)
            | Self::Source(_)
            | Self::NoSources
            | Self::Rules(_) => Exit::Configuration,
            Self::Stopped { .. } | Self::Prices(_) => Exit::Data,
            Self::Thread(_) => Exit::Unexpected,
            Self::Task(failure) => failure.exit(),
        }
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Task(failure) => failure,
            error => Self::new(error.exit(), error.to_string()),
        }
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        let exit = match &error {
            PipelineError::Store(error) => exit_of_store(error),
            PipelineError::Rules(_) => Exit::Configuration,
            PipelineError::NotDrained => Exit::Dependency,
            PipelineError::BeginAnew => Exit::Unexpected,
        };
        Self::new(exit, error.to_string())
    }
}
