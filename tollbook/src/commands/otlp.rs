//! Spans and metrics by OTLP, for the commands that run until they are stopped.
//!
//! Invariant: a variable that cannot be obeyed ends the start, as a wrong setting does; and the end of
//! the process waits for the receiver for a part of its grace only.

use std::time::Duration;

use service::config::Environment;
use service::otlp::OtlpStartError;
use service::telemetry::Metrics;
use service::{Exit, Failure, Otlp, OtlpSettings};

/// The longest wait for the receiver at the end.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Reads the standard variables; `service` is the name where none is set.
pub(super) fn read(environment: &Environment, service: &str) -> Result<OtlpSettings, Failure> {
    OtlpSettings::read(environment, service)
        .map_err(|error| Failure::new(Exit::Configuration, error.to_string()))
}

/// Begins to push what the variables ask for.
pub(super) fn start(settings: &OtlpSettings, metrics: Option<&Metrics>) -> Result<Otlp, Failure> {
    Otlp::start(settings, metrics).map_err(|error| {
        let exit = match error {
            OtlpStartError::Variable(_) => Exit::Configuration,
            _ => Exit::Unexpected,
        };
        Failure::new(exit, error.to_string())
    })
}

/// Sends what waits; `grace` is what the process has for its end.
pub(super) async fn stop(push: Otlp, grace: Duration) {
    push.stop(FLUSH_WITHIN.min(grace / 4)).await;
}
