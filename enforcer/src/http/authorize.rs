//! `/v1/authorize` and everything below it: the sub-request style of nginx, APISIX, Traefik and Envoy.
//!
//! Invariant: 200 allows, the policy's status refuses, and nothing else is answered. Who asks is read
//! from the headers that the settings name, and from no others; one that comes twice is none. The
//! settings say, too, where method, host and path of the original request are: in the sub-request
//! itself, or in one family of headers. Its body is read for a model only, and only where the settings
//! say so. Deliberately absent: authentication; gateways set these headers, or strip them.

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use domain::decision::Outcome;
use domain::request::{Headers, Request as Asking};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::answer::{RefusalView, sentence};
use super::problem::{MEDIA_TYPE, json};
use super::{Shared, headers, model};
use crate::config::{AuthorizeConfig, OriginalRequest};
use crate::engine::{Answer, Ask};
use crate::observe::spans;

/// The path, and the beginning of those below it.
const PATH: &str = "/v1/authorize";

/// Returns what follows the path; empty for the path itself, `None` for others.
pub(super) fn below(path: &str) -> Option<&str> {
    let below = path.strip_prefix(PATH)?;
    (below.is_empty() || below.starts_with('/')).then_some(below)
}

/// The headers that say who asks.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) tenant: Option<HeaderName>,
    pub(crate) app: Option<HeaderName>,
    pub(crate) user: Option<HeaderName>,
    pub(crate) session: Option<HeaderName>,
    pub(crate) model: Option<HeaderName>,
    pub(crate) provider: Option<HeaderName>,
    pub(crate) route: Option<HeaderName>,
    /// How many bytes of a body are read for a model that no header names; 0 for none.
    pub(crate) body_bytes_max: usize,
}

impl Identity {
    pub(crate) fn new(config: &AuthorizeConfig) -> Self {
        // The settings were checked: each is a name.
        let name = |name: &Option<String>| {
            let name = name.as_deref()?;
            HeaderName::from_bytes(name.as_bytes()).ok()
        };
        Self {
            tenant: name(&config.tenant),
            app: name(&config.app),
            user: name(&config.user),
            session: name(&config.session),
            model: name(&config.model),
            provider: name(&config.provider),
            route: name(&config.route),
            body_bytes_max: usize::try_from(config.body_bytes_max).unwrap_or(usize::MAX),
        }
    }

    /// Says whether the model is to be read from the body, as no header names one.
    pub(crate) fn needs_body(&self, headers: &HeaderMap) -> bool {
        let is_named = |name: &HeaderName| once(headers, name).is_some();
        self.body_bytes_max > 0 && !self.model.as_ref().is_some_and(is_named)
    }
}

/// The headers of the sub-request, as policies see them.
struct Seen<'a>(&'a HeaderMap);

impl fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be credentials.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Headers for Seen<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        text(self.0, name)
    }
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(filled)
}

fn filled(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?.trim();
    Some(text).filter(|text| !text.is_empty())
}

/// Returns the text of a header that comes once: of two, nobody knows which the gateway wrote.
fn once(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    filled(value)
}

/// Reads the body of a sub-request for its model, then decides.
pub(super) async fn serve_with_body(
    shared: &Shared,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let model = model::of_body(body, shared.identity.body_bytes_max).await;
    let below = below(parts.uri.path()).unwrap_or_default();
    serve(
        shared,
        &parts.method,
        &parts.headers,
        below,
        model.as_deref(),
    )
}

/// Decides a sub-request; `below` is its path below ours, `model` that of its body.
pub(super) fn serve(
    shared: &Shared,
    sent_method: &Method,
    sent: &HeaderMap,
    below: &str,
    model: Option<&str>,
) -> Response<Full<Bytes>> {
    let mut span = spans::begin(&spans::AUTHORIZE, sent);
    let seen = Seen(sent);
    let who = |name: &Option<HeaderName>| name.as_ref().and_then(|name| once(sent, name));
    let (method, host, path) = match shared.original {
        OriginalRequest::Request => (None, None, None),
        OriginalRequest::XOriginal => (
            once(sent, "x-original-method"),
            once(sent, "x-original-host"),
            once(sent, "x-original-uri").or_else(|| once(sent, "x-original-url")),
        ),
        OriginalRequest::XForwarded => (
            once(sent, "x-forwarded-method"),
            once(sent, "x-forwarded-host"),
            once(sent, "x-forwarded-uri"),
        ),
    };
    let host = host.or_else(|| once(sent, header::HOST));
    let identity = &shared.identity;
    let ask = Ask {
        request: Asking {
            tenant: who(&identity.tenant),
            app: who(&identity.app),
            user: who(&identity.user),
            session: who(&identity.session),
            model: who(&identity.model).or(model),
            provider: who(&identity.provider),
            route: who(&identity.route),
            method: Some(method.unwrap_or(sent_method.as_str())),
            host: host.map(without_port),
            path: Some(path.map_or(below, path_of)),
            source: client(sent, shared.original),
            destination: None,
            headers: Some(&seen),
        },
        ..Ask::default()
    };
    let answer = shared.engine.decide(&ask, shared.now());
    spans::decided(&mut span, &answer);
    let mut response = match answer.outcome {
        Outcome::Allow => Response::new(Full::default()),
        Outcome::Deny => refusal(shared, &answer, &ask),
    };
    let map = response.headers_mut();
    for (name, value) in headers::of(&answer, shared.reset) {
        // What a policy names was checked when it was read.
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(&value),
        ) {
            map.insert(name, value);
        }
    }
    response
}

fn refusal(shared: &Shared, answer: &Answer, ask: &Ask<'_>) -> Response<Full<Bytes>> {
    let status = answer
        .bound()
        .map_or(429, |(policy, ..)| policy.response.status);
    let sentence = sentence(answer);
    let view = RefusalView::new(answer, ask, shared.reset, status, &sentence);
    let mut response = Response::new(Full::from(json(&view)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, MEDIA_TYPE);
    response
}

/// Returns the path of a URI: without scheme and host, query and fragment.
pub(crate) fn path_of(uri: &str) -> &str {
    let behind = uri.split_once("://").map_or(uri, |(_, rest)| {
        rest.find('/')
            .and_then(|slash| rest.get(slash..))
            .unwrap_or("/")
    });
    behind.split(['?', '#']).next().unwrap_or(behind)
}

/// Returns the host without its port; an address of IPv6 stands in brackets.
pub(crate) fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// Returns the address that the gateway itself saw: of a list the last one, which it appended.
fn client(headers: &HeaderMap, original: OriginalRequest) -> Option<IpAddr> {
    let address = match original {
        OriginalRequest::XOriginal => once(headers, "x-real-ip")?,
        OriginalRequest::Request | OriginalRequest::XForwarded => {
            let lists = headers.get_all("x-forwarded-for");
            let last = lists.iter().next_back()?.to_str().ok()?;
            last.rsplit(',').next()?
        }
    };
    address.trim().parse().ok()
}
