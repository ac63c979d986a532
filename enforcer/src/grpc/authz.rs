//! `Authorization` v3: Envoy's `ext_authz` over gRPC, an ask as any other.
//!
//! Invariant: who asks is said by the route's `context_extensions` (`app`, `tenant`, `user`, `session`,
//! `model`, `provider`, `route`), which only Envoy's configuration can write, else by the headers that
//! the settings name, and by nothing else. A body is read for a model only, and
//! only where the settings say so.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use domain::decision::Outcome;
use domain::request::{Headers, Request as Asking};
use http::{HeaderName, Request, Response};
use hyper::body::Incoming;
use service::spans::Span;
use tonic::body::Body;

use super::Services;
use super::wire::{
    AttributeContext, CheckRequest, CheckResponse, DeniedResponse, HeaderValue, HeaderValueOption,
    HttpRequest, HttpStatus, OVERWRITE_OR_ADD, OkResponse, Peer, RpcStatus, Struct, Value,
};
use crate::engine::{Answer, Ask};
use crate::http::answer::{RefusalView, decimal, sentence};
use crate::http::authorize::{path_of, without_port};
use crate::http::{headers, model, problem};
use crate::observe::spans;

pub(super) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// `google.rpc.Code`: a quota is used up.
const RESOURCE_EXHAUSTED: i32 = 8;

/// The statuses that `envoy.type.v3.StatusCode` names; Envoy takes an answer with another for broken.
const STATUSES: [std::ops::RangeInclusive<u16>; 10] = [
    400..=417,
    421..=424,
    426..=426,
    428..=429,
    431..=431,
    500..=508,
    510..=511,
    200..=208,
    226..=226,
    300..=308,
];

pub(super) async fn check(services: Arc<Services>, request: Request<Incoming>) -> Response<Body> {
    let mut span = spans::begin(&spans::CHECK, request.headers());
    let answer = |message: CheckRequest| {
        let attributes = message.attributes.unwrap_or_default();
        Ok(decide(&services, &attributes, &mut span))
    };
    super::unary::answer(request, answer).await
}

/// The headers, as policies see them.
struct Seen<'a>(&'a HashMap<String, String>);

impl fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be credentials.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Headers for Seen<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

fn decide(
    services: &Services,
    attributes: &AttributeContext,
    span: &mut Option<Span>,
) -> CheckResponse {
    let none = HttpRequest::default();
    let http = attributes.request.as_ref();
    let http = http
        .and_then(|request| request.http.as_ref())
        .unwrap_or(&none);
    let seen = Seen(&http.headers);
    let extensions = &attributes.context_extensions;
    let who = |key: &str, header: &Option<HeaderName>| {
        let header = header
            .as_ref()
            .and_then(|name| http.headers.get(name.as_str()));
        let said = extensions.get(key).or(header).map(|text| text.trim());
        said.filter(|text| !text.is_empty())
    };
    let given = Some(http.method.as_str()).filter(|method| !method.is_empty());
    let identity = &services.identity;
    let model = who("model", &identity.model);
    let asked = match model {
        None => model_of_body(http, identity.body_bytes_max),
        Some(_) => None,
    };
    let ask = Ask {
        request: Asking {
            tenant: who("tenant", &identity.tenant),
            app: who("app", &identity.app),
            user: who("user", &identity.user),
            session: who("session", &identity.session),
            model: model.or(asked.as_deref()),
            provider: who("provider", &identity.provider),
            route: who("route", &identity.route),
            method: given,
            host: Some(without_port(&http.host)).filter(|host| !host.is_empty()),
            path: Some(path_of(&http.path)).filter(|path| !path.is_empty()),
            source: address(attributes.source.as_ref()),
            destination: address(attributes.destination.as_ref()),
            headers: Some(&seen),
        },
        ..Ask::default()
    };
    let answer = services.engine.decide(&ask, services.now());
    spans::decided(span, &answer);
    let headers = headers::of(&answer, services.reset).into_iter();
    let headers: Vec<_> = headers
        .map(|(key, value)| header(key.into_owned(), value))
        .collect();
    let mut response = match answer.outcome {
        Outcome::Allow => allowed(headers),
        Outcome::Deny => denied(services, &answer, &ask, headers),
    };
    response.dynamic_metadata = Some(metadata(&answer));
    response
}

/// Returns the model that the body names, where it came whole and is no larger.
fn model_of_body(http: &HttpRequest, max: usize) -> Option<String> {
    let bodies = [&http.body, &http.raw_body].into_iter();
    let mut sent = bodies.filter(|body| !body.is_empty());
    let body = sent.next().filter(|body| body.len() <= max)?;
    model::named(body)
}

fn address(peer: Option<&Peer>) -> Option<IpAddr> {
    let socket = peer?.address.as_ref()?.socket_address.as_ref()?;
    socket.address.parse().ok()
}

fn header(key: String, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key, value }),
        append_action: OVERWRITE_OR_ADD,
    }
}

fn allowed(response_headers_to_add: Vec<HeaderValueOption>) -> CheckResponse {
    CheckResponse {
        status: Some(RpcStatus::default()),
        ok_response: Some(OkResponse {
            response_headers_to_add,
        }),
        ..CheckResponse::default()
    }
}

fn denied(
    services: &Services,
    answer: &Answer,
    ask: &Ask<'_>,
    mut headers: Vec<HeaderValueOption>,
) -> CheckResponse {
    let bound = answer.bound();
    let wanted = bound.map_or(429, |(policy, ..)| policy.response.status);
    let is_named = STATUSES.iter().any(|statuses| statuses.contains(&wanted));
    let status = if is_named { wanted } else { 429 };
    let message = sentence(answer);
    let view = RefusalView::new(answer, ask, services.reset, status, &message);
    let body = String::from_utf8(problem::json(&view)).unwrap_or_default();
    let json = "application/problem+json".to_owned();
    headers.push(header("content-type".to_owned(), json));
    CheckResponse {
        status: Some(RpcStatus {
            code: RESOURCE_EXHAUSTED,
            message,
        }),
        denied_response: Some(DeniedResponse {
            status: Some(HttpStatus {
                code: status.into(),
            }),
            headers,
            body,
        }),
        ..CheckResponse::default()
    }
}

/// What access logs and later filters may read, in `envoy.filters.http.ext_authz`.
fn metadata(answer: &Answer) -> Struct {
    let outcome = match answer.outcome {
        Outcome::Allow => "allow",
        Outcome::Deny => "deny",
    };
    let mut fields = BTreeMap::from([
        ("outcome".to_owned(), Value::text(outcome)),
        ("reason".to_owned(), Value::text(answer.reason.name())),
    ]);
    if let Some((policy, _, limit)) = answer.bound() {
        fields.insert("policy".to_owned(), Value::text(policy.name.as_str()));
        fields.insert("limit".to_owned(), Value::text(limit.name.as_str()));
        let verdict = answer.binding.and_then(|binding| binding.verdict);
        if let Some(verdict) = verdict {
            let meter = limit.spec.meter();
            for (key, units) in [
                ("used", verdict.used),
                ("limit_value", verdict.limit),
                ("remaining", verdict.remaining),
            ] {
                fields.insert(key.to_owned(), Value::text(decimal(meter, units)));
            }
        }
    }
    Struct { fields }
}
