//! Patience before a run: what fails for a moment is tried again, so that a lost answer of Postgres
//! ends no process.
//!
//! Invariant: only what is worth another try is tried again; the rest, and whatever outlasts the
//! patience, is the caller's error. Deliberately absent: patience within a run (`pipeline`, `poll`).

use std::time::Duration;

use service::Shutdown;
use service::health::Readiness;
use tokio::time::{Instant, sleep};

use crate::error::IngestError;
use crate::observe;

/// How long to wait before another try.
const TRY_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait out what fails for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// At the start, so long for a Postgres that answered before; Kafka must answer at once, since a
    /// person may look whether the settings are right.
    Start(Duration),
    /// In a process that has run, so long for both.
    Running(Duration),
    /// In a service that has run, until it is told to stop.
    Endless,
}

impl Patience {
    fn is_worth_it(self, error: &IngestError, since: Instant) -> bool {
        match self {
            Self::Start(limit) => error.is_of_store_and_passes() && since.elapsed() < limit,
            Self::Running(limit) => error.is_passing() && since.elapsed() < limit,
            Self::Endless => error.is_passing(),
        }
    }
}

/// Does something until it succeeds, fails for good or outlasts the patience, unready meanwhile; `None`
/// where the shutdown came first.
///
/// # Errors
///
/// The last try's.
pub(super) async fn patiently<T>(
    patience: Patience,
    shutdown: &Shutdown,
    readiness: &Readiness,
    mut attempt: impl AsyncFnMut() -> Result<T, IngestError>,
) -> Result<Option<T>, IngestError> {
    let since = Instant::now();
    let mut is_told = false;
    loop {
        let tried = tokio::select! {
            tried = attempt() => tried,
            () = shutdown.requested() => return Ok(None),
        };
        match tried {
            Err(error) if patience.is_worth_it(&error, since) => {
                readiness.not_ready(&error.to_string());
                observe::start_tried_again(&error, is_told);
                is_told = true;
            }
            tried => return tried.map(Some),
        }
        tokio::select! {
            () = sleep(TRY_INTERVAL) => {}
            () = shutdown.requested() => return Ok(None),
        }
    }
}
