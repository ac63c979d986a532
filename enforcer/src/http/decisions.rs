//! `POST /v1/decisions`.
//!
//! Invariant: an answer of 200 decides, allow or deny; any other status decides nothing and charges
//! nothing. Deliberately absent: what the gateway does with a denial.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use domain::meter::{Meter, PerMeter};
use domain::request::Request as Asking;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use service::spans::Span;

use super::answer;
use super::problem::Problem;
use super::text::{self, AskText, Count, EstimateText, Object, ReportText};
use super::{BODY_WITHIN, Shared};
use crate::engine::{Ask, Candidate, Estimated, Report, Reported};
use crate::observe::spans;
use crate::soon;

/// The path.
pub(super) const PATH: &str = "/v1/decisions";

/// The longest body, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1_024;

/// How much of a body that is too long is let pass, in bytes.
const PASSED_BYTES_MAX: usize = 1_024 * 1_024;

/// How long that may take.
const PASSED_WITHIN: Duration = Duration::from_millis(500);

/// Reads a request and decides it.
pub(super) async fn serve(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut span = spans::begin(&spans::DECISIONS, request.headers());
    let answered = match collect(request.into_body()).await {
        Ok(body) => decide(shared, &body, &mut span),
        Err(problem) => Err(problem),
    };
    answered.unwrap_or_else(|problem| {
        spans::refused(&mut span, || problem.detail().to_owned());
        problem.response()
    })
}

async fn collect(mut body: Incoming) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {BODY_BYTES_MAX} bytes"),
        )
    };
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if said > BODY_BYTES_MAX {
        return Err(too_large());
    }
    // A small body comes together with its headers.
    let taken = {
        let taking = pin!(take(&mut body, said));
        soon::within(BODY_WITHIN, taking).await
    };
    match taken {
        Ok(Ok(taken)) if taken.len() > BODY_BYTES_MAX => {
            // A peer that is still sending would not see the answer.
            let passed = tokio::time::timeout(PASSED_WITHIN, pass(&mut body)).await;
            drop(passed);
            Err(too_large())
        }
        Ok(Ok(taken)) => Ok(taken),
        Ok(Err(_broken)) => Err(Problem::bad("the body ended early")),
        Err(_elapsed) => Err(super::took_too_long()),
    }
}

/// Takes a body; of one that is too long a little more than what is allowed. One in one piece is not
/// copied.
async fn take(body: &mut Incoming, said: usize) -> Result<Bytes, hyper::Error> {
    let mut first = Bytes::new();
    if let Some(frame) = body.frame().await.transpose()? {
        first = frame.into_data().unwrap_or_default();
    }
    if body.is_end_stream() || first.len() > BODY_BYTES_MAX {
        return Ok(first);
    }
    let mut taken = Vec::with_capacity(said.max(first.len()));
    taken.extend_from_slice(&first);
    while taken.len() <= BODY_BYTES_MAX
        && let Some(frame) = body.frame().await.transpose()?
    {
        if let Some(data) = frame.data_ref() {
            taken.extend_from_slice(data);
        }
    }
    Ok(Bytes::from(taken))
}

/// Lets the rest of a body pass, up to a bound.
async fn pass(body: &mut Incoming) -> Result<(), hyper::Error> {
    let mut passed = 0_usize;
    while passed <= PASSED_BYTES_MAX
        && let Some(frame) = body.frame().await.transpose()?
    {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        passed = passed.saturating_add(bytes);
    }
    Ok(())
}

fn decide(
    shared: &Shared,
    body: &[u8],
    span: &mut Option<Span>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let text = text::read(body)?;
    let request = request_of(&text);
    let candidates: Vec<Candidate<'_>> = text
        .candidates
        .iter()
        .flatten()
        .map(|Object(candidate)| Candidate {
            model: filled(candidate.model.as_ref()),
            provider: filled(candidate.provider.as_ref()),
            instance: filled(candidate.instance.as_ref()),
        })
        .collect();
    let ask = Ask {
        request,
        estimate: text
            .estimate
            .map_or_else(Estimated::default, |Object(estimate)| estimated(estimate)),
        candidates: &candidates,
    };
    let now = shared.now();
    let answer = match text.report {
        None => shared.engine.decide(&ask, now),
        Some(Object(report)) => {
            if !candidates.is_empty() {
                let problem =
                    "a report tells of one request: leave `candidates` out, and name its model";
                return Err(Problem::bad(problem));
            }
            let used = reported(&report);
            used.check().map_err(|name| {
                Problem::bad(format!("report: {name} is not the sum of its parts"))
            })?;
            shared.engine.report(&Report { request, used }, now)
        }
    };
    spans::decided(span, &answer);
    let body = answer::write(&answer, &ask, shared.reset);
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

fn filled<'t>(text: Option<&'t text::Text<'_>>) -> Option<&'t str> {
    text.map(AsRef::as_ref).filter(|text| !text.is_empty())
}

fn request_of<'t>(text: &'t AskText<'t>) -> Asking<'t> {
    Asking {
        tenant: filled(text.tenant.as_ref()),
        app: filled(text.app.as_ref()),
        user: filled(text.user.as_ref()),
        session: filled(text.session.as_ref()),
        model: filled(text.model.as_ref()),
        provider: filled(text.provider.as_ref()),
        route: filled(text.route.as_ref()),
        method: filled(text.method.as_ref()),
        host: filled(text.host.as_ref()),
        path: filled(text.path.as_ref()),
        source: text.source_address,
        destination: text.destination_address,
        headers: text.headers.as_ref().map(|headers| {
            let headers: &dyn domain::request::Headers = &headers.0;
            headers
        }),
    }
}

fn count(count: Option<Count>) -> Option<u64> {
    count.map(|Count(count)| count)
}

fn estimated(text: EstimateText) -> Estimated {
    Estimated {
        input_tokens: count(text.input_tokens),
        output_tokens: count(text.output_tokens),
        cost: text.cost.map(|cost| cost.0),
    }
}

fn reported(text: &ReportText) -> Reported {
    Reported {
        quantities: PerMeter::from_fn(|meter| {
            count(match meter {
                Meter::Requests => text.requests,
                Meter::InputUncachedTokens => text.input_uncached_tokens,
                Meter::InputCacheReadTokens => text.input_cache_read_tokens,
                Meter::InputCacheWriteTokens => text.input_cache_write_tokens,
                Meter::InputCacheWrite1hTokens => text.input_cache_write_1h_tokens,
                Meter::InputAudioTokens => text.input_audio_tokens,
                Meter::OutputTextTokens => text.output_text_tokens,
                Meter::OutputReasoningTokens => text.output_reasoning_tokens,
                Meter::OutputAudioTokens => text.output_audio_tokens,
                Meter::Images => text.images,
            })
        }),
        input_tokens: count(text.input_tokens),
        output_tokens: count(text.output_tokens),
        total_tokens: count(text.total_tokens),
        cost: text.cost.map(|cost| cost.0),
    }
}
