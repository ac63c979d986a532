//! What all services of the executable share: signals, the registry of metrics, and when the log begins.
//!
//! Invariant: a process has one shutdown and one registry, however many services it runs; a start that
//! fails is one line.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use service::telemetry::{Metrics, Telemetry};
use service::{Failure, Readiness, Shutdown};

use super::LOG;
use crate::PROGRAM;

/// Returns the shutdown of the process, which signals request; `grace` is how long it may take.
pub(super) fn watch_signals(grace: Duration) -> Result<Shutdown, Failure> {
    let shutdown = Shutdown::new();
    let watched = shutdown.watch_signals(PROGRAM, grace);
    watched.map_err(|error| Failure::unexpected(format!("signals cannot be watched: {error}")))?;
    Ok(shutdown)
}

/// Makes the registry of metrics.
pub(super) fn metrics() -> Result<Metrics, Failure> {
    Metrics::start().map_err(|error| Failure::unexpected(error.to_string()))
}

/// Waits until the services have ended; lets the log say more once each of them is ready, or says what it
/// waits for.
pub(super) async fn until_ended<T>(
    services: impl Future<Output = Result<T, Failure>>,
    readiness: &[&Readiness],
    telemetry: &Telemetry,
) -> Result<T, Failure> {
    let mut services = pin!(services);
    let started = async {
        for each in readiness {
            each.wait_started().await;
        }
    };
    tokio::select! {
        ended = services.as_mut() => ended,
        () = started => {
            telemetry.started(LOG);
            services.await
        }
    }
}
