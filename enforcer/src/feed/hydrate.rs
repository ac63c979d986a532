//! Knowing what was counted before this process began, or deciding without it.
//!
//! Invariant: ready means that policies, Postgres, balances and exchange were each read up to where they
//! ended when they were first asked; or that this took too long, which is told, and then each policy's
//! `on_unavailable` says what is decided. Without any policies nothing is decided by them, as everything
//! would be allowed, and it is ready only where other protocols have rules. Deliberately absent: the reading.

use std::time::Duration;

use parking_lot::Mutex;
use service::Shutdown;
use service::health::Readiness;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::engine::Engine;
use crate::observe::feed as observe;

/// What must be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Which policies are in force.
    Policies,
    /// Policies that can be decided by, or that there are to be none.
    Usable,
    Postgres,
    Balances,
    Exchange,
}

impl Part {
    const ALL: [Self; 5] = [
        Self::Policies,
        Self::Usable,
        Self::Postgres,
        Self::Balances,
        Self::Exchange,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Policies => "policies",
            Self::Usable => "usable policies",
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

    /// Waits for policies where there are none; says whether to go on.
    async fn wait_for_policies(
        &self,
        engine: &Engine,
        readiness: &Readiness,
        shutdown: &Shutdown,
    ) -> bool {
        let lacks = self.missing.borrow().contains(&Part::Usable) && !engine.has_policies();
        if !lacks {
            return true;
        }
        observe::waits_for_policies();
        if engine.release_rules() {
            readiness.ready_without("policies: only the rules of other protocols are decided by");
        } else {
            readiness.not_ready(
                "no policies are known, so all would be allowed; waiting for those in Postgres",
            );
        }
        let usable = self.wait(Part::Usable);
        shutdown.unless_requested(usable).await.is_some()
    }

    /// Returns what is missing, for a person; `None` where nothing is.
    fn missing(&self) -> Option<String> {
        let missing = self.missing.borrow().clone();
        let is_told = |part: &Part| *part != Part::Usable || !missing.contains(&Part::Policies);
        let told = missing.iter().filter(|part| is_told(part));
        let names: Vec<_> = told.map(|part| part.name()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Says when the process is ready: with everything, or after `patience` without; and has the engine
    /// decide from then on.
    pub(super) async fn keep_ready(
        &self,
        patience: Duration,
        engine: &Engine,
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
                if !self.wait_for_policies(engine, readiness, shutdown).await {
                    return;
                }
                if let Some(names) = self.missing() {
                    observe::degraded(&names);
                    *self.degraded.lock() = Some(format!("without {names}"));
                    engine.release();
                    readiness.ready_without(&names);
                }
                let whole = self.wait_whole();
                if shutdown.unless_requested(whole).await.is_none() {
                    return;
                }
                *self.degraded.lock() = None;
            }
        }
        observe::hydrated(self.began.elapsed().as_secs_f64());
        engine.release();
        readiness.ready();
    }
}

#[cfg(test)]
mod tests {
    use domain::account::ReplicaId;
    use domain::policy::{compile, read};

    use super::*;
    use crate::engine::PoliciesInForce;

    const POLICY: &str = "
name: pace
limits: [{ name: app, meter: requests, limit: 9, per: [app], window: { calendar: day } }]
";

    fn held() -> Engine {
        let engine = Engine::new(ReplicaId(1), 8);
        engine.hold(false);
        engine
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn ready_when_everything_is_known() {
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let engine = held();
        let hydration = Hydration::new(|part| part != Part::Exchange);
        let known = async {
            for part in [Part::Balances, Part::Policies, Part::Usable] {
                hydration.done(part);
                tokio::task::yield_now().await;
                assert!(readiness.reason().is_some(), "not all is known");
                assert!(engine.is_held(), "nothing is decided");
            }
            hydration.done(Part::Postgres);
        };
        let keep = hydration.keep_ready(PATIENCE, &engine, &readiness, &shutdown);
        tokio::join!(keep, known);
        assert!(!engine.is_held(), "decisions begin");
        assert_eq!(readiness.reason(), None, "all is known");
        assert_eq!(hydration.degraded(), None, "nothing is missing");
    }

    #[tokio::test]
    async fn ready_and_degraded_after_the_patience_and_whole_later() {
        let patience = Duration::from_millis(1);
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let engine = held();
        let hydration = Hydration::new(|part| matches!(part, Part::Balances | Part::Policies));
        hydration.done(Part::Policies);
        let later = async {
            readiness.wait_ready().await;
            let degraded = hydration.degraded();
            assert_eq!(degraded.as_deref(), Some("without tollbook.balances"));
            assert_eq!(readiness.lack().as_deref(), Some("tollbook.balances"));
            assert!(!engine.is_held(), "decisions begin");
            hydration.done(Part::Balances);
        };
        let keep = hydration.keep_ready(patience, &engine, &readiness, &shutdown);
        tokio::join!(keep, later);
        assert_eq!(hydration.degraded(), None, "it healed");
    }

    #[tokio::test]
    async fn never_ready_without_policies() {
        let patience = Duration::from_millis(1);
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let engine = held();
        let hydration = Hydration::new(|part| part != Part::Exchange);
        let later = async {
            readiness.wait_started().await;
            while !readiness
                .reason()
                .is_some_and(|why| why.contains("no policies"))
            {
                tokio::task::yield_now().await;
            }
            // Postgres tells which, and they cannot be used.
            hydration.done(Part::Policies);
            tokio::task::yield_now().await;
            assert!(readiness.reason().is_some(), "refused ones are none");
            assert!(engine.is_held(), "nothing is decided");
            hydration.done(Part::Usable);
            readiness.wait_ready().await;
            assert!(!engine.is_held(), "decisions begin");
            let degraded = hydration.degraded();
            let without = "without accounts in Postgres, tollbook.balances";
            assert_eq!(degraded.as_deref(), Some(without));
            shutdown.request();
        };
        let keep = hydration.keep_ready(patience, &engine, &readiness, &shutdown);
        tokio::join!(keep, later);
    }

    #[tokio::test]
    async fn rules_of_other_protocols_decide_without_policies() {
        let patience = Duration::from_millis(1);
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let engine = held();
        engine.hold(true);
        let hydration = Hydration::new(|part| matches!(part, Part::Policies | Part::Usable));
        let later = async {
            readiness.wait_ready().await;
            assert!(!engine.are_rules_held(), "by rules");
            assert!(engine.is_held(), "not by policies");
            shutdown.request();
        };
        let keep = hydration.keep_ready(patience, &engine, &readiness, &shutdown);
        tokio::join!(keep, later);
    }

    #[tokio::test]
    async fn policies_of_files_decide_while_postgres_is_away() {
        let patience = Duration::from_millis(1);
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let engine = held();
        engine.swap(PoliciesInForce {
            set: compile(read("test.yaml", POLICY).unwrap()).unwrap(),
            ..PoliciesInForce::default()
        });
        let hydration = Hydration::new(|part| matches!(part, Part::Policies | Part::Usable));
        let later = async {
            readiness.wait_ready().await;
            let degraded = hydration.degraded();
            assert_eq!(degraded.as_deref(), Some("without policies"));
            shutdown.request();
        };
        let keep = hydration.keep_ready(patience, &engine, &readiness, &shutdown);
        tokio::join!(keep, later);
    }
}
