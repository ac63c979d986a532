//! Corrections of the ledger: rejected events retried or dropped, usage priced anew.
//!
//! Invariant: each correction is one part of the adjustment chain, committed whole or not at all, and
//! worked out from what the ledger held when it was committed; so whatever dies in between, asking
//! again ends in the same ledger. Deliberately absent: SQL (`store::adjust`) and the command line.

mod fold;
mod payload;
mod reprice;

mod retry;

use service::Exit;
use store::StoreError;
use store::adjust::{AdjustError, RejectionFilter};

use crate::error::exit_of_store;
use crate::kafka::LogError;
use crate::rules::UnusableRules;

pub(crate) use fold::{RetryFold, Retryable};
pub(crate) use payload::Payloads;
pub(crate) use reprice::{Books, Judged, takes_back};
pub use reprice::{RepriceArgs, RepricedGroup, RepricedTotals, reprice};

pub use retry::{Fate, Resolved, ResolvedTotals, drop_rejected, retry_rejected};

/// How often a correction is worked out again where the ledger moved on meanwhile; each time another
/// correction, a price change or a source's floor came first.
const TRIES_MAX: u32 = 20;

/// Which rejected events, by whom, and whether it is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RejectedArgs {
    /// Which.
    pub filter: RejectionFilter,
    /// What was asked, as JSON; the ledger keeps it.
    pub arguments: String,
    /// Who takes responsibility; `None`: the database's login.
    pub by: Option<String>,
    /// Why; empty where nobody said.
    pub because: String,
    /// Works it out and writes nothing.
    pub is_dry_run: bool,
    /// Takes events that are too old to be known again, repeats or not.
    pub accepts_duplicates: bool,
}

/// Why a correction was not made, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CorrectionError {
    /// Postgres is away or refuses; the kind says which.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kafka is away, and a payload has to be read from it.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What is in force was written by a newer program.
    #[error(transparent)]
    Rules(#[from] UnusableRules),
    /// The answer to a commit was lost.
    #[error("{0}")]
    Unknown(#[source] AdjustError),
    /// Other corrections or price changes came first, each time.
    #[error(
        "other corrections or price changes came first {TRIES_MAX} times; run it again when they are done"
    )]
    Outrun,
    /// What is stored cannot be what the ledger writes.
    #[error("{0}; run `tollbook verify`")]
    Unreadable(String),
    /// The thread that reads the log ended.
    #[error("the thread that reads the log ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl CorrectionError {
    /// Returns the exit code that this error ends the process with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => exit_of_store(error),
            Self::Log(LogError::BadSettings(_)) | Self::Rules(_) => Exit::Configuration,
            Self::Log(LogError::Unreachable { .. } | LogError::NoTopic(_))
            | Self::Unknown(_)
            | Self::Outrun => Exit::Dependency,
            Self::Unreadable(_) => Exit::Data,
            Self::Thread(_) => Exit::Unexpected,
        }
    }
}

/// What to do after a commit that did not happen.
fn moved_or(error: AdjustError) -> Result<(), CorrectionError> {
    match error {
        AdjustError::Moved => Ok(()),
        AdjustError::Failed(error) => Err(error.into()),
        error @ AdjustError::Unknown(_) => Err(CorrectionError::Unknown(error)),
    }
}
