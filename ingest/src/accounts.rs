//! The accounts of limits that count from the log, beside the batches: which slots a fold counts in, and
//! the deletion of old rows.
//!
//! Invariant: a slot is counted in until ten minutes after it ends, and deleted after an hour, so nothing
//! is added to what is gone. Deliberately absent: what counts (`domain::counting`) and SQL (`store`).

use std::sync::Arc;
use std::time::Duration;

use domain::counting::LogLimits;
use domain::fold::BatchFold;
use domain::time::UnixMs;
use service::{Clock as _, Shutdown, SystemClock};
use store::Database;
use store::accounts::{LIVE_MS, delete_old};
use tokio::time::sleep;

use crate::observe;

/// How often old rows are looked for: notes of what changed are kept for two minutes.
const INTERVAL: Duration = Duration::from_secs(60);

/// Rows that one statement deletes at most, so that it holds no lock for long.
const ROWS_MAX: i32 = 10_000;

/// Has a batch count by these limits, if there are any.
///
/// A back-fill of old usage so adds nothing: its slots are over.
pub(crate) fn count_accounts(fold: &mut BatchFold, limits: Option<&Arc<LogLimits>>) {
    if let Some(limits) = limits {
        let horizon = now().saturating_add_ms(LIVE_MS.saturating_neg());
        fold.count_by(Arc::clone(limits), horizon);
    }
}

/// Returns the process's clock.
pub(crate) fn now() -> UnixMs {
    UnixMs::new(SystemClock.now_unix_ms()).unwrap_or(UnixMs::LAST)
}

/// Deletes old rows now and then, until the shutdown.
pub(crate) async fn keep(database: Database, shutdown: Shutdown) {
    while shutdown.unless_requested(sleep(INTERVAL)).await.is_some() {
        while !shutdown.is_requested() {
            match delete_old(&database, ROWS_MAX).await {
                Ok(deleted) if deleted < ROWS_MAX => break,
                Ok(_) => {}
                Err(error) => {
                    observe::chore_failed("deleting old accounts", &error);
                    break;
                }
            }
        }
    }
}
