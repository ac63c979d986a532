//! envoyproxy/ratelimit's HTTP: `/json` and `/healthcheck`.
//!
//! | answer | status |
//! | --- | --- |
//! | within the limits | 200 |
//! | over them | 429, with the same body |
//! | no request, or one that is refused | 400 |
//! | a body above 256 KiB | 413 |
//! | a new key, and no room for its counter | 503 |
//!
//! Invariant: bodies are protobuf's JSON; nothing is awaited once the body is there. Deliberately absent:
//! what is answered (`rls`).

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use domain::time::UnixMs;
use service::{Clock, Readiness};

use crate::grpc::wire::{CODE_OK, CODE_OVER_LIMIT};
use crate::observe::spans;
use crate::rls::{Refusal, Rls, json};

/// The greatest body, in bytes: that of a gRPC message.
const BODY_MAX: usize = 256 * 1024;

/// What both paths are answered by.
#[derive(Clone)]
struct Answering {
    rls: Arc<Rls>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}

/// The path of requests.
pub(super) const PATH: &str = "/json";

/// Returns the routes; any method is taken, as there.
pub(crate) fn routes(rls: Arc<Rls>, readiness: Readiness, clock: Arc<dyn Clock>) -> Router {
    Router::new()
        .route(PATH, any(answer))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(Answering { rls, clock })
        .route("/healthcheck", any(health).with_state(readiness))
}

async fn answer(
    State(answering): State<Answering>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let mut span = spans::begin(&spans::RLS_JSON, &headers);
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return (rejection.status(), rejection.body_text()).into_response(),
    };
    let refused = |why: String| (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response();
    let request = match json::read(&body) {
        Ok(request) => request,
        Err(error) => return refused(error.to_string()),
    };
    let now = UnixMs::FIRST.saturating_add_ms(answering.clock.now_unix_ms());
    let response = match answering.rls.should_rate_limit(&request, now) {
        Ok(response) => response,
        Err(refusal @ Refusal::NoRoom) => {
            let answer = (StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n"));
            return answer.into_response();
        }
        Err(refusal) => return refused(refusal.to_string()),
    };
    spans::limited(&mut span, &request.domain, &response);
    let status = match response.overall_code {
        CODE_OK => StatusCode::OK,
        CODE_OVER_LIMIT => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let content = [(header::CONTENT_TYPE, "application/json")];
    (status, content, json::write(&response)).into_response()
}

async fn health(State(readiness): State<Readiness>) -> Response {
    match readiness.reason() {
        None => "OK".into_response(),
        Some(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests;
