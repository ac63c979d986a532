//! `RateLimitService` v3: bytes in, bytes out; what it means is `crate::rls`'s.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;

use super::Services;
use super::wire::{RateLimitRequest, RateLimitResponse};
use crate::observe::spans;
use crate::rls::Refusal;

pub(super) const SHOULD_RATE_LIMIT: &str =
    "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

pub(super) async fn should_rate_limit(
    services: Arc<Services>,
    request: Request<Incoming>,
) -> Response<Body> {
    let mut span = spans::begin(&spans::RLS, request.headers());
    let answer = |message: RateLimitRequest| -> Result<RateLimitResponse, Status> {
        let answered = services.rls.should_rate_limit(&message, services.now());
        match &answered {
            Ok(response) => spans::limited(&mut span, &message.domain, response),
            Err(refusal) => spans::refused(&mut span, || refusal.to_string()),
        }
        answered.map_err(status)
    };
    super::unary::answer(request, answer).await
}

/// envoyproxy/ratelimit's errors are Go's, without a code of gRPC: so unknown. A unit that does not
/// exist ends its process; here it is the sender's mistake.
fn status(refusal: Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::NoDomain | Refusal::NoDescriptors | Refusal::Overflow => Status::unknown(text),
        Refusal::NoRoom => Status::resource_exhausted(text),
        Refusal::Unit(_) => Status::invalid_argument(text),
    }
}
