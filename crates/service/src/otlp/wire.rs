//! The way to a receiver: one message, sent until it is taken, refused for good, or out of time.
//!
//! Invariant: an export ends within its time-out, and what became of it is told when it changes, not
//! each time. Where the receiver says "later" (or does not answer) it is tried again with growing,
//! uneven pauses. Deliberately absent: what is sent, and proxies.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic_prost::ProstCodec;
use uuid::Uuid;

use super::settings::{OtlpError, Protocol, Target};
use super::{observe, tls};

/// The pause before the second try; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// The greatest answer, in bytes; one says little.
const ANSWER_MAX: usize = 64 * 1024;

/// A message that is exported.
pub(super) trait Export: Message + Default + Clone + 'static {
    type Answer: Message + Default + 'static;
    const METHOD: &'static str;

    /// Returns how many items were refused although the message was taken, and why.
    fn refused(answer: Self::Answer) -> Option<(i64, String)>;
}

impl Export for ExportTraceServiceRequest {
    type Answer = ExportTraceServiceResponse;
    const METHOD: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

    fn refused(answer: Self::Answer) -> Option<(i64, String)> {
        let partial = answer.partial_success?;
        Some((partial.rejected_spans, partial.error_message))
    }
}

impl Export for ExportMetricsServiceRequest {
    type Answer = ExportMetricsServiceResponse;
    const METHOD: &'static str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

    fn refused(answer: Self::Answer) -> Option<(i64, String)> {
        let partial = answer.partial_success?;
        Some((partial.rejected_data_points, partial.error_message))
    }
}

/// Why one try failed.
enum Failed {
    /// It may go better later.
    Again(String),
    /// It will not.
    Never(String),
}

/// Sends the messages of one signal.
pub(super) struct Sender {
    target: Target,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    /// Nothing is tried again once the process ends.
    ending: CancellationToken,
    is_away: AtomicBool,
    lost: AtomicU64,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Sender {
    /// Prepares the way; nothing is connected yet.
    pub(super) fn new(target: Target, ending: CancellationToken) -> Result<Self, OtlpError> {
        let connector = tls::connector(&target)?;
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(target.protocol == Protocol::Grpc)
            .build(connector);
        Ok(Self {
            target,
            client,
            ending,
            is_away: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        })
    }

    /// Sends a message, and tells where that goes otherwise than before. Without `repeats` it is tried
    /// once: the next message will say the same and more.
    pub(super) async fn send<E: Export>(&self, message: &E, repeats: bool) {
        let deadline = Instant::now() + self.target.timeout;
        let mut pause = PAUSE;
        let outcome = loop {
            let tried = timeout_at(deadline, self.once(message)).await;
            let problem = match tried {
                Ok(Ok(())) => break Ok(()),
                Ok(Err(Failed::Never(problem))) => break Err(problem),
                Ok(Err(Failed::Again(problem))) => problem,
                Err(_elapsed) => {
                    let ms = self.target.timeout.as_millis();
                    break Err(format!("no answer within {ms} ms"));
                }
            };
            let pause_now = uneven(pause);
            if !repeats || self.ending.is_cancelled() || Instant::now() + pause_now >= deadline {
                break Err(problem);
            }
            // Whether the pause is over or the process ends, it is tried once more.
            self.ending
                .run_until_cancelled(sleep(pause_now))
                .await
                .unwrap_or_default();
            pause = pause.saturating_mul(2);
        };
        self.tell(outcome);
    }

    async fn once<E: Export>(&self, message: &E) -> Result<(), Failed> {
        let answer = match self.target.protocol {
            Protocol::Grpc => self.call(message).await?,
            Protocol::Http => self.post(message).await?,
        };
        match E::refused(answer) {
            Some((refused, why)) if refused > 0 => Err(Failed::Never(format!(
                "{refused} of them were refused: {why}"
            ))),
            _ => Ok(()),
        }
    }

    async fn call<E: Export>(&self, message: &E) -> Result<E::Answer, Failed> {
        let mut grpc = Grpc::with_origin(self.client.clone(), self.target.url.clone());
        let ready = grpc.ready().await;
        ready.map_err(|error| Failed::Again(with_causes(&error)))?;
        let headers = MetadataMap::from_headers(self.target.headers.clone());
        let request =
            tonic::Request::from_parts(headers, tonic::Extensions::default(), message.clone());
        let path = PathAndQuery::from_static(E::METHOD);
        let answered = grpc
            .unary(request, path, ProstCodec::<E, E::Answer>::default())
            .await;
        answered.map(tonic::Response::into_inner).map_err(|status| {
            let cause = std::error::Error::source(&status).map(with_causes);
            let problem = match cause {
                Some(cause) => cause,
                None => format!("{:?}: {}", status.code(), status.message()),
            };
            match status.code() {
                Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
                // What tonic calls a connection that cannot be made.
                | Code::Unknown => Failed::Again(problem),
                _ => Failed::Never(problem),
            }
        })
    }

    async fn post<E: Export>(&self, message: &E) -> Result<E::Answer, Failed> {
        let body = Body::new(Full::new(Bytes::from(message.encode_to_vec())));
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.url.clone();
        request.headers_mut().clone_from(&self.target.headers);
        let content = HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(header::CONTENT_TYPE, content);
        let answered = self.client.request(request).await;
        let (parts, body) = answered
            .map_err(|error| Failed::Again(with_causes(&error)))?
            .into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|error| Failed::Again(error.to_string()))?;
        match parts.status {
            // An answer that is none of ours still says that the message was taken.
            status if status.is_success() => {
                Ok(E::Answer::decode(body.to_bytes()).unwrap_or_default())
            }
            status @ (StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT) => Err(Failed::Again(format!("status {status}"))),
            status => Err(Failed::Never(format!("status {status}"))),
        }
    }

    fn tell(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                let is_back = self.is_away.swap(false, Ordering::Relaxed);
                let lost = is_back.then(|| self.lost.swap(0, Ordering::Relaxed));
                observe::taken(&self.target, lost);
            }
            Err(problem) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                let was_away = self.is_away.swap(true, Ordering::Relaxed);
                observe::lost(&self.target, &problem, !was_away);
            }
        }
    }
}

/// Makes a pause of half to one and a half of this, so that a fleet does not knock in step.
fn uneven(pause: Duration) -> Duration {
    let [.., chance] = Uuid::now_v7().into_bytes();
    let part = pause.saturating_mul(u32::from(chance)) / 256;
    pause / 2 + part
}

/// Says an error with what caused it: the outer ones of a client say nothing.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}
