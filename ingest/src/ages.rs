//! How long ago each source of truth was last heard, told each second.
//!
//! Invariant: an age grows also while whoever should hear waits for an answer, or for its next run,
//! since it is told beside them for as long as the process runs. Prices, sources and policies have none:
//! each batch compares their versions in its own transaction. Deliberately absent: what follows from an age.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
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

    /// Forgets topics that no source reads any more.
    pub(crate) fn follow(&self, topics: &[&str]) {
        self.watermarks.lock().retain(|known, _| {
            let is_read = topics.contains(&&**known);
            if !is_read {
                observe::watermark_forgotten(known);
            }
            is_read
        });
    }

    /// Tells the ages, without end.
    pub(crate) async fn keep(&self) -> Infallible {
        loop {
            sleep(EACH).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ages_grow_until_their_topic_is_read_no_more() {
        let ages = Ages::default();
        let topics: [Arc<str>; 2] = ["stays".into(), "goes".into()];
        for topic in &topics {
            ages.folded(topic, Duration::from_secs(1));
        }
        let told = tokio::time::timeout(Duration::from_secs(60), ages.keep());
        assert!(told.await.is_err(), "it tells on and on");
        ages.follow(&["stays"]);
        let watermarks = ages.watermarks.lock();
        let left: Vec<_> = watermarks
            .iter()
            .map(|(topic, at)| (&**topic, at.elapsed()))
            .collect();
        assert_eq!(left, [("stays", Duration::from_secs(61))]);
    }
}
