//! OTLP: spans and metrics, pushed to a receiver that the standard variables name.
//!
//! Invariant: without such a variable there is no thread, no queue and no tracer; with one, nothing of
//! the process ever waits for the receiver, and the end of the process waits a bounded time.
//! Everything runs on one thread with a runtime of its own. The metrics are those of the registry
//! ([`crate::telemetry::Metrics`]), under the same names, so that nothing is counted twice.
//! Deliberately absent: names of spans and metrics, which the rooms own; logs, which go to stderr.

mod exposition;
mod observe;
mod queue;
mod settings;
mod tls;
mod wire;

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope as Scope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource as SentResource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::exposition::Period;
use self::queue::Waiting;
use self::settings::Pushed;
pub use self::settings::{OtlpError, OtlpSettings};
use self::wire::Sender;
use crate::clock;
use crate::spans;
use crate::telemetry::Metrics;

/// What names the maker of spans and metrics.
const SCOPE: &str = "tollbook";

/// The push of this process, while it runs.
#[derive(Debug, Default)]
pub struct Otlp {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    ending: CancellationToken,
    ended: oneshot::Receiver<()>,
}

/// Why nothing could be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpStartError {
    /// A variable names a file that cannot be used: a fault of the user's.
    #[error(transparent)]
    Variable(#[from] OtlpError),
    /// The system refused a thread or what it needs.
    #[error("no thread for OTLP: {0}")]
    Thread(#[from] io::Error),
    /// Another push was started before.
    #[error("OTLP was set up twice")]
    Twice,
}

/// What the thread does.
struct Work {
    spans: Option<Spans>,
    metrics: Option<Push>,
    ending: CancellationToken,
}

struct Spans {
    sender: Sender,
    waiting: Waiting,
    resource: ResourceAttributesWithSchema,
    delay: Duration,
}

struct Push {
    sender: Sender,
    metrics: Metrics,
    resource: Vec<(String, String)>,
    interval: Duration,
    start: u64,
}

impl Otlp {
    /// Begins to push what the settings ask for; nothing, where they ask for nothing. `metrics` is the
    /// registry. From here on [`spans::begin`] makes spans.
    ///
    /// # Errors
    ///
    /// [`OtlpStartError`]; the process should end with it.
    pub fn start(
        settings: &OtlpSettings,
        metrics: Option<&Metrics>,
    ) -> Result<Self, OtlpStartError> {
        if !settings.is_on() {
            return Ok(Self::default());
        }
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let ending = CancellationToken::new();
        let work = Work {
            spans: trace(settings, &ending)?,
            metrics: push(settings, metrics, &ending)?,
            ending: ending.clone(),
        };
        let (done, ended) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("otlp".to_owned())
            .spawn(move || {
                runtime.block_on(work.run());
                // What still connects is of no use now, and must hold nobody up.
                runtime.shutdown_background();
                done.send(()).unwrap_or_default();
            })?;
        Ok(Self {
            running: Some(Running { ending, ended }),
        })
    }

    /// Sends what waits, within this time: all that ended before, and the metrics as they are now.
    pub async fn stop(self, within: Duration) {
        let Some(Running { ending, ended }) = self.running else {
            return;
        };
        ending.cancel();
        if timeout(within, ended).await.is_err() {
            let ms = within.as_millis();
            tracing::warn!(
                "not all spans and metrics were sent within {ms} ms; what was left is lost"
            );
        }
    }
}

fn trace(
    settings: &OtlpSettings,
    ending: &CancellationToken,
) -> Result<Option<Spans>, OtlpStartError> {
    let Some(traces) = &settings.traces else {
        return Ok(None);
    };
    let sender = Sender::new(traces.target.clone(), ending.clone())?;
    let (queue, waiting) = queue::queue(traces.queue, traces.batch);
    let attributes = settings.resource.iter();
    let attributes = attributes.map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let resource = Resource::builder_empty()
        .with_attributes(attributes)
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(queue)
        .with_sampler(traces.sampler.clone())
        .with_resource(resource.clone())
        .build();
    let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION"));
    let tracer = provider.tracer_with_scope(scope.build());
    spans::trace_by(tracer).map_err(|_twice| OtlpStartError::Twice)?;
    Ok(Some(Spans {
        sender,
        waiting,
        resource: ResourceAttributesWithSchema::from(&resource),
        delay: traces.delay,
    }))
}

fn push(
    settings: &OtlpSettings,
    metrics: Option<&Metrics>,
    ending: &CancellationToken,
) -> Result<Option<Push>, OtlpStartError> {
    let (Some(Pushed { target, interval }), Some(metrics)) = (&settings.metrics, metrics) else {
        return Ok(None);
    };
    Ok(Some(Push {
        sender: Sender::new(target.clone(), ending.clone())?,
        metrics: metrics.clone(),
        resource: settings.resource.clone(),
        interval: *interval,
        start: nanoseconds(clock::precisely()),
    }))
}

impl Work {
    async fn run(self) {
        let ending = &self.ending;
        let spans = async {
            if let Some(spans) = self.spans {
                let Spans {
                    sender,
                    waiting,
                    resource,
                    delay,
                } = spans;
                waiting.send_all(&sender, &resource, delay, ending).await;
            }
        };
        let metrics = async {
            if let Some(push) = self.metrics {
                push.push_all(ending).await;
            }
        };
        tokio::join!(spans, metrics);
    }
}

impl Push {
    async fn push_all(self, ending: &CancellationToken) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, when there is nothing to tell yet.
        ticks.tick().await;
        loop {
            let is_last = ending.run_until_cancelled(ticks.tick()).await.is_none();
            self.sender.send(&self.message(), false).await;
            if is_last {
                return;
            }
        }
    }

    fn message(&self) -> ExportMetricsServiceRequest {
        let period = Period {
            start: self.start,
            now: nanoseconds(clock::precisely()),
        };
        let resource = self.resource.iter();
        let resource = resource.map(|(key, value)| exposition::attribute(key, value));
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(SentResource {
                    attributes: resource.collect(),
                    ..SentResource::default()
                }),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(Scope {
                        name: SCOPE.to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        ..Scope::default()
                    }),
                    metrics: exposition::read(&self.metrics.render(), period),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        }
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
