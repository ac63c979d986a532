//! What the standard variables say (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
//!
//! Invariant: a variable that is set is either obeyed or refused with one sentence that names it; an
//! empty one counts as unset, as the specification has it. Values that may be secret are never told.
//! Deliberately absent: settings of the configuration file, since every service of a fleet gets these
//! from its environment.

mod variables;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, Uri};
use opentelemetry_sdk::trace::Sampler;

use self::variables::{Variables, pairs};
use crate::config::Environment;

/// How long one export may take, tries included.
const TIMEOUT_MS: u64 = 10_000;

/// How often metrics are pushed.
const INTERVAL_MS: u64 = 60_000;

/// How often spans are sent, how many may wait, and how many go at once.
const DELAY_MS: u64 = 5_000;
const QUEUE_MAX: u64 = 2_048;
const BATCH_MAX: u64 = 512;

/// The longest queue of spans: some 2 GB.
const QUEUE_LIMIT: u64 = 1_000_000;

/// A variable that cannot be obeyed: a fault of the user's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {problem}")]
pub struct OtlpError {
    pub(super) name: String,
    pub(super) problem: String,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }

    /// The part of variables' names.
    const fn upper(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }
}

/// How it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

/// Where one signal goes, and how.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) signal: Signal,
    pub(super) protocol: Protocol,
    /// Of HTTP the whole URL, of gRPC its origin.
    pub(super) url: Uri,
    pub(super) headers: HeaderMap,
    pub(super) timeout: Duration,
    pub(super) tls: TlsFiles,
}

/// PEM files, with the variables that named them.
#[derive(Debug, Clone, Default)]
pub(super) struct TlsFiles {
    pub(super) roots: Option<(String, PathBuf)>,
    pub(super) certificate: Option<(String, PathBuf)>,
    pub(super) key: Option<(String, PathBuf)>,
}

impl Target {
    /// Returns the URL without what may be secret.
    pub(super) fn shown(&self) -> String {
        let scheme = self.url.scheme_str().unwrap_or_default();
        let authority = self
            .url
            .authority()
            .map_or("", |authority| authority.as_str());
        let path = match self.protocol {
            Protocol::Grpc => "",
            Protocol::Http => self.url.path(),
        };
        format!("{scheme}://{authority}{path}")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers are credentials.
        f.debug_struct("Target")
            .field("url", &self.shown())
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// How spans are chosen, gathered and sent.
#[derive(Debug, Clone)]
pub(super) struct Traces {
    pub(super) target: Target,
    pub(super) sampler: Sampler,
    pub(super) delay: Duration,
    pub(super) queue: usize,
    pub(super) batch: usize,
}

/// How metrics are pushed.
#[derive(Debug, Clone)]
pub(super) struct Pushed {
    pub(super) target: Target,
    pub(super) interval: Duration,
}

/// What goes out by OTLP; nothing where no variable asks for it.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    pub(super) traces: Option<Traces>,
    pub(super) metrics: Option<Pushed>,
    /// Who sends, by attributes of resources.
    pub(super) resource: Vec<(String, String)>,
    /// What is obeyed only in part.
    pub(super) warnings: Vec<String>,
}

impl OtlpSettings {
    /// Reads the variables; `service` is the name of the service where none is set.
    ///
    /// # Errors
    ///
    /// [`OtlpError`]; the user changes or unsets the variable.
    pub fn read(environment: &Environment, service: &str) -> Result<Self, OtlpError> {
        let variables = Variables(environment);
        let mut settings = Self {
            traces: None,
            metrics: None,
            resource: Vec::new(),
            warnings: Vec::new(),
        };
        if variables.is_disabled()? {
            return Ok(settings);
        }
        if let Some(target) = variables.target(Signal::Traces, &mut settings.warnings)? {
            settings.traces = Some(traces(&variables, target)?);
        }
        if let Some(mut target) = variables.target(Signal::Metrics, &mut settings.warnings)? {
            let within = variables.ms("OTEL_METRIC_EXPORT_TIMEOUT", u64::MAX)?;
            target.timeout = target.timeout.min(within);
            let interval = variables.ms("OTEL_METRIC_EXPORT_INTERVAL", INTERVAL_MS)?;
            variables.refuse_deltas()?;
            settings.metrics = Some(Pushed { target, interval });
        }
        if settings.is_on() {
            settings.resource = resource(&variables, service)?;
        }
        Ok(settings)
    }

    /// Says whether anything goes out.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some()
    }

    /// Says whether metrics go out, so that they should be counted even where nobody scrapes them.
    #[must_use]
    pub const fn pushes_metrics(&self) -> bool {
        self.metrics.is_some()
    }
}

fn refused(name: &str, problem: impl Into<String>) -> OtlpError {
    OtlpError {
        name: name.to_owned(),
        problem: problem.into(),
    }
}

/// Returns who sends: what the variables say, and what they do not say of ourselves.
fn resource(variables: &Variables<'_>, service: &str) -> Result<Vec<(String, String)>, OtlpError> {
    const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let text = variables.get(NAME).unwrap_or_default();
    let mut resource = pairs(text).map_err(|pair| {
        refused(
            NAME,
            format!("holds `{pair}`, which is no pair; write name=value, and commas between pairs"),
        )
    })?;
    if let Some(name) = variables.get("OTEL_SERVICE_NAME") {
        resource.retain(|(key, _)| key != "service.name");
        resource.push(("service.name".to_owned(), name.to_owned()));
    }
    let own = [
        ("service.name", service.to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", uuid::Uuid::now_v7().to_string()),
        ("process.pid", std::process::id().to_string()),
    ];
    for (key, value) in own {
        if resource.iter().all(|(known, _)| known != key) {
            resource.push((key.to_owned(), value));
        }
    }
    Ok(resource)
}

fn traces(variables: &Variables<'_>, target: Target) -> Result<Traces, OtlpError> {
    let queue = variables.count("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_MAX)?;
    if queue > QUEUE_LIMIT {
        let problem = format!("is {queue}; write at most {QUEUE_LIMIT}");
        return Err(refused("OTEL_BSP_MAX_QUEUE_SIZE", problem));
    }
    let batch = variables.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_MAX.min(queue))?;
    if batch > queue {
        let problem = format!(
            "is {batch}, more than the queue of {queue} holds; write less, or raise OTEL_BSP_MAX_QUEUE_SIZE"
        );
        return Err(refused("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", problem));
    }
    Ok(Traces {
        target,
        sampler: sampler(variables)?,
        delay: variables.ms("OTEL_BSP_SCHEDULE_DELAY", DELAY_MS)?,
        queue: usize::try_from(queue).unwrap_or(usize::MAX),
        batch: usize::try_from(batch).unwrap_or(usize::MAX),
    })
}

fn sampler(variables: &Variables<'_>) -> Result<Sampler, OtlpError> {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let ratio = || {
        let text = variables.get(ARGUMENT).unwrap_or("1.0");
        let ratio = f64::from_str(text).ok();
        let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
        let refuse = || {
            refused(
                ARGUMENT,
                format!("is `{text}`; write a share from 0 to 1, such as 0.1"),
            )
        };
        ratio.map(Sampler::TraceIdRatioBased).ok_or_else(refuse)
    };
    let by_parent = |root: Sampler| Sampler::ParentBased(Box::new(root));
    match variables.get(NAME).unwrap_or("parentbased_always_on") {
        "always_on" => Ok(Sampler::AlwaysOn),
        "always_off" => Ok(Sampler::AlwaysOff),
        "traceidratio" => ratio(),
        "parentbased_always_on" => Ok(by_parent(Sampler::AlwaysOn)),
        "parentbased_always_off" => Ok(by_parent(Sampler::AlwaysOff)),
        "parentbased_traceidratio" => ratio().map(by_parent),
        other => Err(refused(
            NAME,
            format!(
                "is `{other}`; write always_on, always_off, traceidratio, or one of these behind parentbased_"
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
