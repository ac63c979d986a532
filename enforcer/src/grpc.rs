//! gRPC: Envoy's protocols and the health service, thin.
//!
//! Invariant: between a message's last byte and its answer nothing is awaited. What one peer can hold is
//! bounded: message, headers, streams, resets, silence. Deliberately absent: what a call means (`rls`,
//! `engine`), listeners and threads.

mod authz;
mod health;
mod rls;
mod unary;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use domain::time::UnixMs;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use service::cores::Core;
use service::tasks::TaskResult;
use service::{Clock, Readiness, Shutdown};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;

use crate::config::XRatelimitReset;
use crate::engine::Engine;
use crate::http::authorize::Identity;
use crate::rls::Rls;
use crate::soon;

/// The greatest message, in bytes: 1,000 descriptors of three entries take about 120,000.
const MESSAGE_MAX: usize = 256 * 1024;

/// The greatest list of headers, in bytes.
const HEADERS_MAX: u32 = 16 * 1024;

/// Calls at once on one connection. Envoy opens few connections and sends all calls over them.
const STREAMS_MAX: u32 = 1024;

/// Streams that a peer reset before we took them up; more end the connection (CVE-2023-44487).
const RESETS_MAX: usize = 64;

/// Bytes that a peer may send ahead, on a stream and on a connection: a whole message, and several.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How long a peer may take to begin, to answer a ping, and to send a call's message.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What each peer sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often the rest of a preface that came in pieces is looked for.
const PREFACE_LOOK_EACH: Duration = Duration::from_millis(10);

/// How often a silent peer is asked whether it lives.
const PING_EACH: Duration = Duration::from_secs(30);

/// Everything that calls are answered by.
pub(crate) struct Services {
    pub(crate) rls: Arc<Rls>,
    pub(crate) engine: Arc<Engine>,
    /// Who asks, of `Authorization`'s calls.
    pub(crate) identity: Identity,
    pub(crate) reset: XRatelimitReset,
    /// What the health service says.
    pub(crate) readiness: Readiness,
    pub(crate) clock: Arc<dyn Clock>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

impl Services {
    fn now(&self) -> UnixMs {
        UnixMs::FIRST.saturating_add_ms(self.clock.now_unix_ms())
    }

    /// Serves the connections of one core until the shutdown; then answers the calls in hand.
    pub(crate) async fn serve(self: Arc<Self>, core: Core) -> TaskResult {
        let connections = TaskTracker::new();
        while let Some((stream, place)) = core.accept().await {
            let (services, shutdown) = (Arc::clone(&self), core.shutdown.clone());
            connections.spawn(async move {
                services.converse(stream, shutdown).await;
                drop(place);
            });
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }

    /// Serves one connection until the peer leaves, falls silent, or the shutdown.
    async fn converse(self: Arc<Self>, stream: TcpStream, shutdown: Shutdown) {
        let has_begun = tokio::select! {
            has_begun = has_begun(&stream, SILENCE_MAX) => has_begun,
            () = shutdown.requested() => false,
        };
        if !has_begun {
            return;
        }
        let services = self;
        let service = service_fn(move |request| {
            let services = Arc::clone(&services);
            async move { Ok::<_, Infallible>(services.answer(request).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_header_list_size(HEADERS_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_EACH)
            .keep_alive_timeout(SILENCE_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.requested() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error.text = %error, "a gRPC connection ended early");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if !is_grpc(&request) {
            return no_grpc();
        }
        let call = pin!(self.route(request));
        let answered = soon::within(SILENCE_MAX, call).await;
        answered.unwrap_or_else(|_late| {
            Status::deadline_exceeded("the call's message did not come within 10 seconds")
                .into_http()
        })
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        match request.uri().path() {
            rls::SHOULD_RATE_LIMIT if self.engine.are_rules_held() => held(),
            authz::CHECK if self.engine.is_held() => held(),
            rls::SHOULD_RATE_LIMIT => rls::should_rate_limit(self, request).await,
            authz::CHECK => authz::check(self, request).await,
            health::CHECK => health::check(self, request).await,
            _ => Status::unimplemented("this server has no such method").into_http(),
        }
    }
}

/// Waits for the whole preface, as what serves the connection would wait for it without a bound. False
/// where the peer leaves, sends something else, or takes too long.
async fn has_begun(stream: &TcpStream, within: Duration) -> bool {
    let whole = async {
        let mut seen = [0; PREFACE.len()];
        loop {
            let count = stream.peek(&mut seen).await.unwrap_or_default();
            let sent = seen.get(..count).unwrap_or_default();
            if sent.is_empty() || !PREFACE.starts_with(sent) {
                return false;
            }
            if count == PREFACE.len() {
                return true;
            }
            // A stream with some bytes is always readable, so that only time tells of more.
            tokio::time::sleep(PREFACE_LOOK_EACH).await;
        }
    };
    let whole = tokio::time::timeout(within, whole).await;
    whole.unwrap_or(false)
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let content = request.headers().get(header::CONTENT_TYPE);
    content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}

/// Answers a call that comes before anything is decided.
fn held() -> Response<Body> {
    Status::unavailable("it is too early to decide; ask another replica, or again").into_http()
}

fn no_grpc() -> Response<Body> {
    let text = "this port speaks gRPC only; HTTP is served on another\n".to_owned();
    let mut response = Response::new(Body::new(text));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
