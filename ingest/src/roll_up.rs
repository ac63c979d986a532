//! When postings are rolled up: once enough of them wait, or one has waited long enough.
//!
//! Invariant: reports are exact whether the roll-up ran or not, so this bounds what a report reads
//! posting by posting, and nothing else. Deliberately absent: the rolling up itself (the store's).

use std::time::Duration;

use service::{Exit, Failure, Shutdown};
use store::Database;
use store::rollup::{RollUpError, RolledUp, Waiting, roll_up, waiting};
use tokio::time::sleep;

use crate::error::IngestError;
use crate::observe;

/// So many waiting postings are rolled up at once: a report sums them in about a second. An upsert
/// costs several times what a posting does, and the more postings wait, the more share one.
const POSTINGS_MAX: u64 = 500_000;

/// How often it is looked whether so many wait.
const LOOK: Duration = Duration::from_secs(2);

fn is_due(waiting: &Waiting, age_max: Duration) -> bool {
    waiting.postings >= POSTINGS_MAX || waiting.oldest.is_some_and(|age| age >= age_max)
}

/// Rolls up whenever it is due, until the shutdown.
pub(crate) async fn keep(database: Database, age_max: Duration, shutdown: Shutdown) {
    let pause = age_max.min(LOOK);
    while shutdown.unless_requested(sleep(pause)).await.is_some() {
        match waiting(&database).await {
            Ok(found) => {
                observe::rollup_waiting(&found);
                if !is_due(&found, age_max) {
                    continue;
                }
            }
            Err(error) => {
                observe::rollup_failed(&error.into());
                continue;
            }
        }
        while !shutdown.is_requested() {
            let mut span = observe::spans::begin_roll_up();
            let rolled_up = roll_up(&database).await;
            observe::spans::rolled_up(&mut span, &rolled_up);
            match rolled_up {
                Ok(RolledUp::Moved { parts, is_behind }) => {
                    observe::rolled_up(parts);
                    if !is_behind {
                        break;
                    }
                }
                Ok(RolledUp::DayFailed { parts, error }) => {
                    observe::rolled_up(parts);
                    observe::rollup_failed(&error.into());
                    break;
                }
                Ok(RolledUp::Busy) => break,
                Err(error) => {
                    observe::rollup_failed(&error);
                    break;
                }
            }
        }
    }
}

/// Rolls up all that waits, where it is due: at the end of a back-fill, after which nobody may look
/// for long.
pub(crate) async fn finish(database: &Database, age_max: Duration) -> Result<(), IngestError> {
    if !is_due(&waiting(database).await?, age_max) {
        return Ok(());
    }
    loop {
        match roll_up(database).await {
            Ok(RolledUp::Moved {
                is_behind: true, ..
            }) => {}
            Ok(RolledUp::Moved { .. } | RolledUp::Busy) => return Ok(()),
            Ok(RolledUp::DayFailed { error, .. }) => return Err(error.into()),
            Err(RollUpError::Store(error)) => return Err(error.into()),
            Err(error @ RollUpError::AmountDiffers(_)) => {
                let failure = Failure::new(Exit::Data, error.to_string());
                return Err(IngestError::Task(failure));
            }
        }
    }
}
