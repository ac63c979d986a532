//! How long ago each source of truth was last heard, told each second.
//!
//! Invariant: an age grows also while whoever should hear waits for an answer, since a task of its own
//! tells it. Prices, sources and policies have none: each batch compares their versions in its own
//! transaction. Deliberately absent: what follows from an age.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use service::Shutdown;
use tokio::time::{Instant, sleep};

use crate::observe;

/// How often ages are told.
const EACH: Duration = Duration::from_secs(1);

/// When each was last heard.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    postgres: Mutex<Option<Instant>>,
    log: Mutex<Option<Instant>>,
    /// By topic, when it held nothing that was not folded.
    watermarks: Mutex<BTreeMap<Arc<str>, Instant>>,
}

impl Ages {
    /// Notes that Postgres answered.
    pub(crate) fn heard_postgres(&self) {
        *self.postgres.lock() = Some(Instant::now());
    }

    /// Notes that the log was looked at.
    pub(crate) fn heard_log(&self) {
        *self.log.lock() = Some(Instant::now());
    }

    /// Notes that everything is folded that a topic held so long ago.
    pub(crate) fn folded(&self, topic: &Arc<str>, ago: Duration) {
        let now = Instant::now();
        let mut watermarks = self.watermarks.lock();
        watermarks.insert(Arc::clone(topic), now.checked_sub(ago).unwrap_or(now));
    }

    /// Tells the ages until the shutdown.
    pub(crate) async fn keep(self: Arc<Self>, shutdown: Shutdown) {
        while shutdown.unless_requested(sleep(EACH)).await.is_some() {
            for (source, heard) in [("postgres", &self.postgres), ("log", &self.log)] {
                if let Some(heard) = *heard.lock() {
                    observe::staleness(source, heard.elapsed());
                }
            }
            for (topic, heard) in &*self.watermarks.lock() {
                observe::watermark_age(topic, heard.elapsed());
            }
        }
    }
}
