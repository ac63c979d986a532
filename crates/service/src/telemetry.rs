//! Telemetry: log lines to stderr, and the registry of metrics.
//!
//! Invariant: stdout belongs to what a command prints; logs go to stderr, as text on a terminal and
//! as JSON lines elsewhere. Deliberately absent: names of metrics, which the rooms own.

use std::io::{self, IsTerminal as _};

#[cfg(test)]
use metrics_exporter_prometheus::PrometheusRecorder;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

/// Upper bounds, in seconds, of the buckets of metrics that end in `_seconds`: 100 µs to 60 s.
const SECONDS_BUCKETS: [f64; 18] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// Upper bounds of the buckets of metrics of other histograms, such as sizes of batches.
const COUNT_BUCKETS: [f64; 12] = [
    1.0,
    10.0,
    100.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    25_000.0,
    50_000.0,
    100_000.0,
    1_000_000.0,
];

/// The log of the process, for changing what it shows.
#[derive(Debug, Clone)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    /// Whether the user chose the filter, so that nothing changes it.
    chosen: bool,
}

/// What a log shows unless the user chose a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filters {
    /// While starting, as a filter of `RUST_LOG`: libraries should be silent then, so that a failed
    /// start is one line.
    pub at_start: &'static str,
    /// From [`Telemetry::started`] on.
    pub started: &'static str,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The user's filter cannot be read.
    #[error(
        "RUST_LOG is `{filter}`, which is no filter; write for example `info` or `info,librdkafka=debug`"
    )]
    Filter {
        /// The filter as given.
        filter: String,
    },
    /// A logger was set up before.
    #[error("the log was set up twice")]
    Log(#[from] TryInitError),
    /// A registry of metrics was set up before, or refused its buckets.
    #[error("the metrics could not be set up")]
    Metrics(#[from] BuildError),
}

impl Telemetry {
    /// Sends what is traced or logged to stderr; `chosen` is `RUST_LOG`, if it is set.
    ///
    /// # Errors
    ///
    /// [`TelemetryError::Filter`] for a filter that cannot be read, a fault of the user's;
    /// [`TelemetryError::Log`] at a second call in a process.
    pub fn start(chosen: Option<&str>, filters: Filters) -> Result<Self, TelemetryError> {
        let text = chosen.filter(|text| !text.is_empty());
        let filter =
            EnvFilter::try_new(text.unwrap_or(filters.at_start)).map_err(|_unreadable| {
                TelemetryError::Filter {
                    filter: text.unwrap_or_default().to_owned(),
                }
            })?;
        let (filter, handle) = reload::Layer::new(filter);
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_target(true);
        let layer = if io::stderr().is_terminal() {
            layer.boxed()
        } else {
            layer
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .boxed()
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .try_init()?;
        Ok(Self {
            filter: handle,
            chosen: text.is_some(),
        })
    }

    /// Shows from now on what a running process shows, unless the user chose a filter.
    pub fn started(&self, filters: Filters) {
        if self.chosen {
            return;
        }
        if let Err(error) = self.filter.reload(EnvFilter::new(filters.started)) {
            tracing::warn!(error.text = %error, "the log keeps the filter of the start");
        }
    }
}

/// The registry of metrics, in the text format of Prometheus.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Makes the process's registry; metrics that were counted before are lost.
    ///
    /// # Errors
    ///
    /// [`TelemetryError::Metrics`] at a second call in a process.
    pub fn start() -> Result<Self, TelemetryError> {
        let handle = builder()?.install_recorder()?;
        Ok(Self { handle })
    }

    /// Makes a registry that nothing counts into but what is given its recorder.
    #[cfg(test)]
    pub(crate) fn detached() -> (Self, PrometheusRecorder) {
        let recorder = builder().expect("the buckets are good").build_recorder();
        let handle = recorder.handle();
        (Self { handle }, recorder)
    }

    /// Returns all metrics as a scraper expects them.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets(&COUNT_BUCKETS)
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Metrics")
    }
}
