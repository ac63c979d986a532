//! Why there is no report.
//!
//! Invariant: each kind is one thing to do, so one exit code of the executable.

use domain::calendar::CalendarError;
use store::StoreError;
use store::cost::CostError;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// What was asked for contradicts itself: ask otherwise.
    #[error("{0}")]
    Usage(String),
    /// A time, range or grain cannot be reported: ask otherwise.
    #[error(transparent)]
    Calendar(#[from] CalendarError),
    /// The store failed; retry as its kind says.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The report cannot be written where it should go.
    #[error("cannot write the report")]
    Write(#[from] std::io::Error),
}

/// What to do about a [`ReportError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportErrorKind {
    /// Ask otherwise.
    Usage,
    /// See [`StoreError`].
    Store,
    /// Nobody reads the report any more, or its disk is full.
    Write,
}

impl ReportError {
    /// Returns what to do about it.
    #[must_use]
    pub const fn kind(&self) -> ReportErrorKind {
        match self {
            Self::Usage(_) | Self::Calendar(_) => ReportErrorKind::Usage,
            Self::Store(_) => ReportErrorKind::Store,
            Self::Write(_) => ReportErrorKind::Write,
        }
    }
}

impl From<CostError> for ReportError {
    fn from(error: CostError) -> Self {
        match error {
            CostError::TooManyGroups => Self::Usage(error.to_string()),
            CostError::Store(error) => Self::Store(error),
        }
    }
}

impl From<csv::Error> for ReportError {
    fn from(error: csv::Error) -> Self {
        Self::Write(error.into())
    }
}

impl From<serde_json::Error> for ReportError {
    fn from(error: serde_json::Error) -> Self {
        Self::Write(error.into())
    }
}
