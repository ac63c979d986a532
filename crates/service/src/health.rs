//! Readiness: whether the process can do its work now, and why not.
//!
//! Invariant: not ready until somebody says so, and never again once the shutdown was requested.
//! Deliberately absent: liveness, which is that the listener answers at all.

use tokio::sync::watch;

/// Why a process is not ready that has only begun.
const STARTING: &str = "starting";

/// Whether the process can do its work; clones share it.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// `None` where ready, else the reason.
    reason: watch::Sender<Option<String>>,
    /// What is missing although it is ready.
    lack: watch::Sender<Option<String>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Makes a readiness that is not ready: starting.
    #[must_use]
    pub fn new() -> Self {
        Self {
            reason: watch::Sender::new(Some(STARTING.to_owned())),
            lack: watch::Sender::new(None),
        }
    }

    /// Says that the process can do its work.
    pub fn ready(&self) {
        self.lack.send_replace(None);
        self.reason
            .send_if_modified(|reason| reason.take().is_some());
    }

    /// Says that it can do its work, but not as well as with everything, and what is missing: a short
    /// text for a person.
    pub fn ready_without(&self, what: &str) {
        self.lack.send_replace(Some(what.to_owned()));
        self.reason
            .send_if_modified(|reason| reason.take().is_some());
    }

    /// Says that it cannot, and why: a short text for a person.
    pub fn not_ready(&self, why: &str) {
        self.reason.send_if_modified(|reason| {
            let changed = reason.as_deref() != Some(why);
            if changed {
                *reason = Some(why.to_owned());
            }
            changed
        });
    }

    /// Returns why the process is not ready; `None` where it is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// Returns what is missing although the process is ready; `None` where nothing is.
    #[must_use]
    pub fn lack(&self) -> Option<String> {
        self.lack.borrow().clone()
    }

    /// Waits until the process is ready or says what it waits for.
    pub async fn wait_started(&self) {
        let mut changes = self.reason.subscribe();
        drop(
            changes
                .wait_for(|reason| reason.as_deref() != Some(STARTING))
                .await,
        );
    }

    /// Waits until the process is ready.
    pub async fn wait_ready(&self) {
        let mut changes = self.reason.subscribe();
        // The sender lives in `self`, so that the channel cannot close.
        drop(changes.wait_for(Option::is_none).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_says_why_until_it_is_ready() {
        let readiness = Readiness::new();
        assert_eq!(readiness.reason().as_deref(), Some("starting"), "at first");
        readiness.not_ready("the topic is missing");
        assert_eq!(
            readiness.reason().as_deref(),
            Some("the topic is missing"),
            "then"
        );
        readiness.wait_started().await;
        readiness.clone().ready();
        readiness.wait_ready().await;
        assert_eq!(readiness.reason(), None, "a clone said so");
        readiness.ready_without("the log");
        assert_eq!(readiness.reason(), None, "still");
        assert_eq!(
            readiness.lack().as_deref(),
            Some("the log"),
            "and why not whole"
        );
        readiness.ready();
        assert_eq!(readiness.lack(), None, "whole again");
    }
}
