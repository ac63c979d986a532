//! Spans of decisions: one for each whose trace is sampled.
//!
//! Invariant: names and attributes stand in this table and nowhere else. They follow OpenTelemetry's
//! conventions where it has some, else begin with `tollbook.`. Who asked and with what key is not
//! told: `/v1/denials/{id}` tells it to whoever may read that.
//!
//! | attribute | says |
//! | --- | --- |
//! | `http.request.method`, `http.route` | over HTTP: which path |
//! | `rpc.system`, `rpc.service`, `rpc.method` | over gRPC: which call |
//! | `tollbook.outcome`, `tollbook.reason` | `allow`, `deny` or `report`, and why |
//! | `tollbook.policy`, `tollbook.attachment`, `tollbook.limit` | the limit that binds |
//! | `tollbook.limits` | how many limits held |
//! | `tollbook.shadow_denials` | how many in shadow would have refused, where some would |
//! | `tollbook.candidate` | which candidate was chosen, from 0 |
//! | `tollbook.policies.version` | the version that decided |
//! | `tollbook.denial` | the denial's id |
//! | `tollbook.rls.domain` | of the rate limit service: the domain asked for |

use domain::decision::Outcome;
use http::HeaderMap;
use service::spans::{self, Span};

use crate::engine::{Answer, Reason};
use crate::grpc::wire::{CODE_OVER_LIMIT, RateLimitResponse};

/// One way to ask.
#[derive(Debug)]
pub(crate) enum Call {
    /// Over HTTP: the span's name, the method and the route.
    Http {
        name: &'static str,
        method: Option<&'static str>,
        route: &'static str,
    },
    /// Over gRPC: the span's name, the service and the method.
    Grpc {
        name: &'static str,
        service: &'static str,
        method: &'static str,
    },
}

pub(crate) const DECISIONS: Call = Call::Http {
    name: "POST /v1/decisions",
    method: Some("POST"),
    route: "/v1/decisions",
};

pub(crate) const AUTHORIZE: Call = Call::Http {
    name: "/v1/authorize",
    method: None,
    route: "/v1/authorize",
};

pub(crate) const RLS_JSON: Call = Call::Http {
    name: "POST /json",
    method: Some("POST"),
    route: "/json",
};

pub(crate) const ASM: Call = Call::Http {
    name: "GET /ratelimit",
    method: Some("GET"),
    route: "/ratelimit",
};

pub(crate) const RLS: Call = Call::Grpc {
    name: "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
    service: "envoy.service.ratelimit.v3.RateLimitService",
    method: "ShouldRateLimit",
};

pub(crate) const CHECK: Call = Call::Grpc {
    name: "envoy.service.auth.v3.Authorization/Check",
    service: "envoy.service.auth.v3.Authorization",
    method: "Check",
};

/// Begins the span of a request, where its trace is sampled.
#[inline]
pub(crate) fn begin(call: &Call, headers: &HeaderMap) -> Option<Span> {
    let name = match call {
        Call::Http { name, .. } | Call::Grpc { name, .. } => name,
    };
    let mut span = spans::begin(name, headers)?;
    match call {
        Call::Http { method, route, .. } => {
            if let Some(method) = method {
                span.set("http.request.method", *method);
            }
            span.set("http.route", *route);
        }
        Call::Grpc {
            service, method, ..
        } => {
            span.set("rpc.system", "grpc");
            span.set("rpc.service", *service);
            span.set("rpc.method", *method);
        }
    }
    Some(span)
}

/// Notes what the engine said.
#[inline]
pub(crate) fn decided(span: &mut Option<Span>, answer: &Answer) {
    if let Some(span) = span {
        note(span, answer);
    }
}

#[cold]
fn note(span: &mut Span, answer: &Answer) {
    let outcome = match (&answer.reason, answer.outcome) {
        (Reason::Reported, _) => "report",
        (_, Outcome::Allow) => "allow",
        (_, Outcome::Deny) => "deny",
    };
    span.set("tollbook.outcome", outcome);
    span.set("tollbook.reason", answer.reason.name());
    span.set("tollbook.policies.version", answer.version());
    span.set("tollbook.limits", count(answer.met.iter().count()));
    if let Some((policy, attachment, limit)) = answer.bound() {
        span.set("tollbook.policy", policy.name.clone());
        span.set("tollbook.attachment", attachment.name.clone());
        span.set("tollbook.limit", limit.name.clone());
    }
    if answer.shadow_denials > 0 {
        span.set("tollbook.shadow_denials", count(answer.shadow_denials));
    }
    if let Some(candidate) = answer.candidate {
        span.set("tollbook.candidate", count(candidate));
    }
    if let Some(denial) = &answer.denial {
        span.set("tollbook.denial", denial.id.to_string());
    }
}

/// Notes what the rate limit service said.
#[inline]
pub(crate) fn limited(span: &mut Option<Span>, domain: &str, response: &RateLimitResponse) {
    if let Some(span) = span {
        note_limited(span, domain, response);
    }
}

#[cold]
fn note_limited(span: &mut Span, domain: &str, response: &RateLimitResponse) {
    let is_over = response.overall_code == CODE_OVER_LIMIT;
    outcome(span, !is_over);
    span.set("tollbook.rls.domain", domain.to_owned());
    span.set("tollbook.limits", count(response.statuses.len()));
    let mut over = response.statuses.iter();
    let over = over.find(|status| status.code == CODE_OVER_LIMIT);
    if let Some(limit) = over.and_then(|status| status.current_limit.as_ref()) {
        span.set("tollbook.limit", limit.name.clone());
    }
}

/// Notes whether the request may go, where that is all there is to say.
pub(crate) fn outcome(span: &mut Span, is_allowed: bool) {
    let outcome = if is_allowed { "allow" } else { "deny" };
    span.set("tollbook.outcome", outcome);
}

/// Notes that a request was none, or came too late: nothing was decided.
pub(crate) fn refused(span: &mut Option<Span>, why: impl FnOnce() -> String) {
    if let Some(span) = span {
        span.fail(why());
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
