//! `grpc.health.v1.Health/Check` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
//!
//! Invariant: it says what `/readyz` says. Deliberately absent: `Watch`, which clients must do without
//! where a server does not implement it.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;

use super::Services;

pub(super) const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Whose health is known: the server's, and its services' by name; `ratelimit` is
/// envoyproxy/ratelimit's own.
const SERVICES: [&str; 4] = [
    "",
    "ratelimit",
    "envoy.service.ratelimit.v3.RateLimitService",
    "envoy.service.auth.v3.Authorization",
];

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

pub(super) async fn check(services: Arc<Services>, request: Request<Incoming>) -> Response<Body> {
    let answer = |message: HealthCheckRequest| {
        if !SERVICES.contains(&message.service.as_str()) {
            return Err(Status::not_found("this server has no such service"));
        }
        let is_ready = services.readiness.reason().is_none();
        let status = if is_ready { SERVING } else { NOT_SERVING };
        Ok(HealthCheckResponse { status })
    };
    super::unary::answer(request, answer).await
}
