//! When ids are taken away that no event can name any more: days of log lines below every floor, and
//! ids of producers that are old enough.
//!
//! Invariant: as fast as ids of producers come, they go: where one deletion found its fill, the next
//! follows at once. Deliberately absent: which ids are old (the store's).

use std::time::Duration;

use service::Shutdown;
use store::partitions::{Deleted, delete_old_of_producers, drop_old};
use store::{Database, StoreError};
use tokio::time::sleep;

use crate::observe;

/// How often it is looked whether ids are old by now.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Takes old ids away at the start and every hour, until the shutdown; each deletion is a short
/// transaction, and one in hand is finished.
pub(crate) async fn keep(database: Database, shutdown: Shutdown) {
    while !shutdown.is_requested() {
        if let Err(error) = drop_old(&database).await {
            observe::chore_failed("dropping old ids", &error);
        }
        if let Err(error) = delete_all(&database, &shutdown).await {
            observe::chore_failed("deleting old ids of producers", &error);
        }
        if shutdown.unless_requested(sleep(INTERVAL)).await.is_none() {
            return;
        }
    }
}

async fn delete_all(database: &Database, shutdown: &Shutdown) -> Result<(), StoreError> {
    while !shutdown.is_requested() {
        if delete_old_of_producers(database).await? == Deleted::All {
            break;
        }
    }
    Ok(())
}
