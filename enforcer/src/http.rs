//! The HTTP protocols: thin layers over the engine.
//!
//! Invariant: what comes in is bounded in size and time before it is read, and what cannot be read is
//! answered with one sentence (RFC 9457). The two paths that decide are found by hand, since that is
//! what most requests are for; all else goes through a router. Deliberately absent: authentication; the
//! listener is loopback's unless the configuration says otherwise.

pub(crate) mod answer;
pub(crate) mod asm;
pub(crate) mod authorize;
mod decisions;
mod denials;
pub(crate) mod headers;
pub(crate) mod json;
pub(crate) mod model;
pub(crate) mod problem;
mod text;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use domain::time::UnixMs;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use service::Clock;
use tower::ServiceExt as _;

use self::authorize::Identity;
use self::problem::Problem;
use crate::config::{AuthorizeConfig, OriginalRequest, XRatelimitReset};
use crate::engine::Engine;

pub use self::denials::{DenialView, UnreadableDenial};

/// How long a peer may take to send a body.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// The body of an answer: at hand, or whatever the router made.
type Answered = Either<Full<Bytes>, Body>;

/// Serves one connection after the other; clones share all of it.
#[derive(Clone)]
pub(crate) struct Http {
    shared: Arc<Shared>,
    router: Router,
}

/// What every request needs.
struct Shared {
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    identity: Identity,
    original: OriginalRequest,
    reset: XRatelimitReset,
}

impl Http {
    /// Serves the engine's own paths; `others` are those of health, metrics and further protocols.
    pub(crate) fn new(
        engine: Arc<Engine>,
        clock: Arc<dyn Clock>,
        authorize: &AuthorizeConfig,
        reset: XRatelimitReset,
        others: Router,
    ) -> Self {
        let router = others
            .merge(denials::routes(engine.clone()))
            .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing here") });
        let shared = Arc::new(Shared {
            engine,
            clock,
            identity: Identity::new(authorize),
            original: authorize.original,
            reset,
        });
        Self { shared, router }
    }
}

impl Shared {
    /// Reads the clock: once per request.
    fn now(&self) -> UnixMs {
        UnixMs::FIRST.saturating_add_ms(self.clock.now_unix_ms())
    }
}

impl hyper::service::Service<Request<Incoming>> for Http {
    type Response = Response<Answered>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        if is_too_early(&self.shared.engine, path) {
            let problem = Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "it is too early to decide, see /readyz; ask another replica, or again",
            );
            let answer = problem.response().map(Either::Left);
            return Box::pin(std::future::ready(Ok(answer)));
        }
        if path == decisions::PATH {
            if request.method() != Method::POST {
                let problem = Problem::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "send a POST with the request as JSON",
                );
                let answer = problem.response().map(Either::Left);
                return Box::pin(std::future::ready(Ok(answer)));
            }
            let shared = self.shared.clone();
            return Box::pin(async move {
                let answer = decisions::serve(&shared, request).await;
                Ok(answer.map(Either::Left))
            });
        }
        if let Some(below) = authorize::below(path) {
            if self.shared.identity.needs_body(request.headers()) && !request.body().is_end_stream()
            {
                let shared = self.shared.clone();
                return Box::pin(async move {
                    let answer = authorize::serve_with_body(&shared, request).await;
                    Ok(answer.map(Either::Left))
                });
            }
            let (method, headers) = (request.method(), request.headers());
            let answer = authorize::serve(&self.shared, method, headers, below, None);
            return Box::pin(std::future::ready(Ok(answer.map(Either::Left))));
        }
        let router = self.router.clone();
        Box::pin(async move { Ok(routed(router, request.map(Body::new), BODY_WITHIN).await) })
    }
}

/// Says whether a path is answered by counters or policies that are not known yet.
fn is_too_early(engine: &Engine, path: &str) -> bool {
    if path == json::PATH {
        return engine.are_rules_held();
    }
    let goes_by_policies = || path == decisions::PATH || authorize::below(path).is_some();
    engine.is_held() && goes_by_policies()
}

/// Answers by the router, which reads bodies too: all within a bound.
async fn routed(router: Router, request: Request<Body>, within: Duration) -> Response<Answered> {
    match tokio::time::timeout(within, router.oneshot(request)).await {
        Ok(Ok(answer)) => answer.map(Either::Right),
        Ok(Err(never)) => match never {},
        Err(_elapsed) => took_too_long().response().map(Either::Left),
    }
}

fn took_too_long() -> Problem {
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        format!("the body took more than {} s", BODY_WITHIN.as_secs()),
    )
}
