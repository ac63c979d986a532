//! `tollbook all`: every service in one process.
//!
//! Invariant: the services start, drain and end together: what one fails with the process ends with, after
//! the others have drained. Deliberately absent: anything that a service would do otherwise alone.

use std::pin::pin;

use service::config::Environment;
use service::telemetry::Telemetry;
use service::{Exit, Failure, Readiness};

use super::{enforcer, ingest, otlp, serving};
use crate::config::Settings;

pub(super) async fn run(settings: &Settings, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let metrics = serving::metrics()?;
    let pushed = otlp::read(&Environment::of_process(), "tollbook")?;
    let of_ingest = ingest::read(settings)?;
    let of_enforcer = enforcer::read(settings, metrics.clone())?;
    // Each drains within its own deadline; the process, when the later one has passed.
    let grace = ingest::grace(settings).max(enforcer::grace(settings));
    let shutdown = serving::watch_signals(grace)?;
    let push = otlp::start(&pushed, Some(&metrics))?;
    let [folds, decides] = [Readiness::new(), Readiness::new()];
    let services = async {
        let folding = ingest::serve(settings, &of_ingest, metrics, &shutdown, &folds);
        let deciding = enforcer::serve(settings, of_enforcer, &shutdown, &decides);
        let (mut folding, mut deciding) = (pin!(folding), pin!(deciding));
        let (first, second) = tokio::select! {
            folded = folding.as_mut() => {
                shutdown.request();
                (folded, deciding.await)
            }
            decided = deciding.as_mut() => {
                shutdown.request();
                (decided, folding.await)
            }
        };
        first.and(second)
    };
    let ended = serving::until_ended(Box::pin(services), &[&folds, &decides], telemetry).await;
    otlp::stop(push, grace).await;
    ended?;
    Ok(Exit::Ok)
}
