//! The variables one by one: of all signals or of one, their numbers, lists and addresses.
//!
//! Invariant: each refusal names the variable that was read. Deliberately absent: which of them make
//! what (`settings`).

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::{OtlpError, Protocol, Signal, TIMEOUT_MS, Target, TlsFiles, refused};
use crate::config::Environment;

/// Reads `name=value,…`; gives back the first that is no pair.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
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
pub(super) struct Variables<'e>(pub(super) &'e Environment);

impl Variables<'_> {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(str::trim);
        value.filter(|value| !value.is_empty())
    }

    pub(super) fn is_disabled(&self) -> Result<bool, OtlpError> {
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

    pub(super) fn count(&self, name: &str, otherwise: u64) -> Result<u64, OtlpError> {
        let Some(value) = self.get(name) else {
            return Ok(otherwise);
        };
        let count = value.parse().ok().filter(|count| *count > 0);
        count.ok_or_else(|| refused(name, format!("is `{value}`; write a whole number above 0")))
    }

    pub(super) fn ms(&self, name: &str, otherwise: u64) -> Result<Duration, OtlpError> {
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

    pub(super) fn target(
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
    pub(super) fn refuse_deltas(&self) -> Result<(), OtlpError> {
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
