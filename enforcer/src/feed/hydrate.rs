//! Knowing what was counted before this process began, or deciding without it.
//!
//! Invariant: ready means that policies, Postgres, balances and exchange were each read up to where they
//! ended when they were first asked; or that this took too long, which is told, and then each policy's
//! `on_unavailable` says what is decided. Deliberately absent: the reading.

use std::time::Duration;

use parking_lot::Mutex;
use service::Shutdown;
use service::health::Readiness;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::observe::feed as observe;

/// What must be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Policies,
    Postgres,
    Balances,
    Exchange,
}

impl Part {
    const ALL: [Self; 4] = [
        Self::Policies,
        Self::Postgres,
        Self::Balances,
        Self::Exchange,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Policies => "policies",
            Self::Postgres => "accounts in Postgres",
            Self::Balances => "tollbook.balances",
            Self::Exchange => "tollbook.exchange",
        }
    }
}

/// What is missing still.
#[derive(Debug)]
pub(super) struct Hydration {
    missing: watch::Sender<Vec<Part>>,
    began: Instant,
    /// What `/readyz` was told.
    degraded: Mutex<Option<String>>,
}

impl Hydration {
    /// Begins; parts that are not used are not waited for.
    pub(super) fn new(uses: impl Fn(Part) -> bool) -> Self {
        let missing = Part::ALL.into_iter().filter(|part| uses(*part)).collect();
        Self {
            missing: watch::Sender::new(missing),
            began: Instant::now(),
            degraded: Mutex::new(None),
        }
    }

    /// Notes that a part is known.
    pub(super) fn done(&self, part: Part) {
        self.missing.send_if_modified(|missing| {
            let before = missing.len();
            missing.retain(|known| *known != part);
            missing.len() < before
        });
    }

    /// Waits until a part is known.
    pub(super) async fn wait(&self, part: Part) {
        let mut changes = self.missing.subscribe();
        // The sender lives in `self`, so that the channel cannot close.
        drop(changes.wait_for(|missing| !missing.contains(&part)).await);
    }

    async fn wait_whole(&self) {
        let mut changes = self.missing.subscribe();
        drop(changes.wait_for(Vec::is_empty).await);
    }

    /// Returns why numbers are missing although the process is ready; `None` where none are.
    pub(super) fn degraded(&self) -> Option<String> {
        self.degraded.lock().clone()
    }

    /// Says when the process is ready: with everything, or after `patience` without.
    pub(super) async fn keep_ready(
        &self,
        patience: Duration,
        readiness: &Readiness,
        shutdown: &Shutdown,
    ) {
        readiness.not_ready("reading what was counted before");
        let whole = timeout(patience, self.wait_whole());
        let waited = shutdown.unless_requested(whole).await;
        match waited {
            None => return,
            Some(Ok(())) => {}
            Some(Err(_elapsed)) => {
                let missing = self.missing.borrow().clone();
                let names: Vec<_> = missing.iter().map(|part| part.name()).collect();
                let names = names.join(", ");
                observe::degraded(&names);
                *self.degraded.lock() = Some(format!("without {names}"));
                readiness.ready();
                let whole = self.wait_whole();
                if shutdown.unless_requested(whole).await.is_none() {
                    return;
                }
                *self.degraded.lock() = None;
            }
        }
        observe::hydrated(self.began.elapsed().as_secs_f64());
        readiness.ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn ready_when_everything_is_known() {
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let hydration = Hydration::new(|part| part != Part::Exchange);
        let known = async {
            for part in [Part::Balances, Part::Policies] {
                hydration.done(part);
                tokio::task::yield_now().await;
                assert!(readiness.reason().is_some(), "not all is known");
            }
            hydration.done(Part::Postgres);
        };
        tokio::join!(hydration.keep_ready(PATIENCE, &readiness, &shutdown), known);
        assert_eq!(readiness.reason(), None, "all is known");
        assert_eq!(hydration.degraded(), None, "nothing is missing");
    }

    #[tokio::test]
    async fn ready_and_degraded_after_the_patience_and_whole_later() {
        let patience = Duration::from_millis(1);
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let hydration = Hydration::new(|part| matches!(part, Part::Balances | Part::Policies));
        hydration.done(Part::Policies);
        let later = async {
            readiness.wait_ready().await;
            let degraded = hydration.degraded();
            assert_eq!(degraded.as_deref(), Some("without tollbook.balances"));
            hydration.done(Part::Balances);
        };
        tokio::join!(hydration.keep_ready(patience, &readiness, &shutdown), later);
        assert_eq!(hydration.degraded(), None, "it healed");
    }
}
