//! What the standard variables say (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
//!
//! Invariant: a variable that is set is either obeyed or refused with one sentence that names it; an
//! empty one counts as unset, as the specification has it. Values that may be secret are never told.
//! Deliberately absent: settings of the configuration file, since every service of a fleet gets these
//! from its environment.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;

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

/// Reads `name=value,…`; gives back the first that is no pair.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let written = text.split(',').map(str::trim);
    let mut read = Vec::new();
    for pair in written.filter(|pair| !pair.is_empty()) {
        let parts = pair.split_once('=').and_then(|(key, value)| {
            let (key, value) = (decoded(key.trim())?, decoded(value.trim())?);
            (!key.is_empty()).then_some((key, value))
        });
        read.push(parts.ok_or_else(|| pair.to_owned())?);
    }
    Ok(read)
}

/// Decodes `%20` and the like; `None` where the bytes are no text.
fn decoded(text: &str) -> Option<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.ok().map(Into::into)
}

/// The variables, as the specification reads them.
struct Variables<'e>(&'e Environment);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(str::trim);
        value.filter(|value| !value.is_empty())
    }

    fn is_disabled(&self) -> Result<bool, OtlpError> {
        const NAME: &str = "OTEL_SDK_DISABLED";
        match self.get(NAME).map(str::to_ascii_lowercase).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(refused(
                NAME,
                format!("is `{other}`; write `true` or `false`"),
            )),
        }
    }

    /// Returns the variable of one signal, else the one of all.
    fn of_signal(&self, signal: Signal, what: &str) -> Option<(String, &str)> {
        let names = [
            format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.upper()),
            format!("OTEL_EXPORTER_OTLP_{what}"),
        ];
        let mut set = names.into_iter().filter_map(|name| {
            let value = self.get(&name)?;
            Some((name, value))
        });
        set.next()
    }

    fn count(&self, name: &str, otherwise: u64) -> Result<u64, OtlpError> {
        let Some(value) = self.get(name) else {
            return Ok(otherwise);
        };
        let count = value.parse().ok().filter(|count| *count > 0);
        count.ok_or_else(|| refused(name, format!("is `{value}`; write a whole number above 0")))
    }

    fn ms(&self, name: &str, otherwise: u64) -> Result<Duration, OtlpError> {
        self.count(name, otherwise).map(Duration::from_millis)
    }

    /// Says whether a signal is to be exported by OTLP; `None` where its variable says nothing.
    fn is_wanted(&self, signal: Signal) -> Result<Option<bool>, OtlpError> {
        let name = format!("OTEL_{}_EXPORTER", signal.upper());
        let Some(value) = self.get(&name) else {
            return Ok(None);
        };
        let mut is_wanted = false;
        for word in value.split(',').map(str::trim) {
            match word {
                "otlp" => is_wanted = true,
                "none" => {}
                // `/metrics` is always there.
                "prometheus" if signal == Signal::Metrics => {}
                other => {
                    let problem = format!("is `{other}`; write `otlp` or `none`");
                    return Err(refused(&name, problem));
                }
            }
        }
        Ok(Some(is_wanted))
    }

    fn target(
        &self,
        signal: Signal,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Target>, OtlpError> {
        let is_wanted = self.is_wanted(signal)?;
        let endpoint = self.of_signal(signal, "ENDPOINT");
        if !is_wanted.unwrap_or(endpoint.is_some()) {
            return Ok(None);
        }
        let protocol = match self.of_signal(signal, "PROTOCOL") {
            None | Some((_, "http/protobuf")) => Protocol::Http,
            Some((_, "grpc")) => Protocol::Grpc,
            Some((name, other)) => {
                let problem = format!("is `{other}`; write `http/protobuf` or `grpc`");
                return Err(refused(&name, problem));
            }
        };
        let url = match endpoint {
            None => url(
                signal,
                protocol,
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                protocol.local(),
            )?,
            Some((name, text)) => url(signal, protocol, &name, text)?,
        };
        match self.of_signal(signal, "COMPRESSION") {
            None | Some((_, "none")) => {}
            Some((name, "gzip")) => warnings.push(format!(
                "{name} is `gzip`, which is not done here: {} go out as they are, which every receiver takes",
                signal.name()
            )),
            Some((name, other)) => {
                return Err(refused(&name, format!("is `{other}`; write `none`")));
            }
        }
        let headers = self.of_signal(signal, "HEADERS");
        let headers = headers.map(|(name, text)| headers_of(&name, text));
        let timeout = match self.of_signal(signal, "TIMEOUT") {
            Some((name, _)) => self.ms(&name, TIMEOUT_MS)?,
            None => Duration::from_millis(TIMEOUT_MS),
        };
        let file = |what| {
            self.of_signal(signal, what)
                .map(|(name, path)| (name, PathBuf::from(path)))
        };
        Ok(Some(Target {
            signal,
            protocol,
            url,
            headers: headers.transpose()?.unwrap_or_default(),
            timeout,
            tls: TlsFiles {
                roots: file("CERTIFICATE"),
                certificate: file("CLIENT_CERTIFICATE"),
                key: file("CLIENT_KEY"),
            },
        }))
    }

    /// What is counted here only grows, so that nothing is lost where one export is.
    fn refuse_deltas(&self) -> Result<(), OtlpError> {
        const NAME: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        match self.get(NAME) {
            Some(word) if !word.eq_ignore_ascii_case("cumulative") => Err(refused(
                NAME,
                format!(
                    "is `{word}`; metrics are sent as `cumulative`, so unset it and convert them in a collector"
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Protocol {
    const fn local(self) -> &'static str {
        match self {
            Self::Grpc => "http://localhost:4317",
            Self::Http => "http://localhost:4318",
        }
    }
}

/// Reads an endpoint: that of all signals is a base, that of one is taken as it is.
fn url(signal: Signal, protocol: Protocol, name: &str, text: &str) -> Result<Uri, OtlpError> {
    let refuse = |problem: &str| {
        let example = protocol.local();
        refused(name, format!("{problem}; write for example {example}"))
    };
    let shown = crate::config::mask(text);
    let uri =
        Uri::from_str(text).map_err(|_no| refuse(&format!("is `{shown}`, which is no URL")))?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    let Some(authority) = uri.authority().filter(|_| is_web) else {
        return Err(refuse(&format!(
            "is `{shown}`, which begins with neither http:// nor https://"
        )));
    };
    if authority.as_str().contains('@') {
        return Err(refuse(
            "holds credentials; put them into OTEL_EXPORTER_OTLP_HEADERS and the bare URL here",
        ));
    }
    let is_base = name == "OTEL_EXPORTER_OTLP_ENDPOINT";
    let path = match protocol {
        Protocol::Grpc => "/".to_owned(),
        Protocol::Http if is_base => {
            format!("{}/{}", uri.path().trim_end_matches('/'), signal.path())
        }
        Protocol::Http => uri
            .path_and_query()
            .map_or("/", PathAndQuery::as_str)
            .to_owned(),
    };
    let mut parts = uri.into_parts();
    parts.path_and_query = PathAndQuery::from_str(&path).ok();
    Uri::from_parts(parts).map_err(|_no| refuse("is no URL"))
}

/// Reads `name=value,…`; values are never told, since they are mostly keys.
fn headers_of(name: &str, text: &str) -> Result<HeaderMap, OtlpError> {
    let refuse = |number: usize| {
        refused(
            name,
            format!(
                "is no list of headers, see its pair {number}; write name=value, and commas between pairs"
            ),
        )
    };
    let mut headers = HeaderMap::new();
    for (index, pair) in text.split(',').enumerate() {
        let number = index.saturating_add(1);
        if pair.trim().is_empty() {
            continue;
        }
        let (key, value) = pair.split_once('=').ok_or_else(|| refuse(number))?;
        let key = HeaderName::from_str(key.trim()).map_err(|_no| refuse(number))?;
        let value = decoded(value.trim()).ok_or_else(|| refuse(number))?;
        let mut value = HeaderValue::from_str(&value).map_err(|_no| refuse(number))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;
