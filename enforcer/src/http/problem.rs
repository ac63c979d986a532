//! Problems: answers to what cannot be answered otherwise (RFC 9457).
//!
//! Invariant: the sentence says what is wrong and where, and is bounded, whatever was sent.

use std::borrow::Cow;

use axum::response::IntoResponse;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

/// The longest sentence, in bytes.
const DETAIL_BYTES_MAX: usize = 512;

/// Room for an answer of usual size, in bytes.
const ROOM: usize = 1_024;

/// The media type of a problem.
pub(super) const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = match detail.into() {
            Cow::Owned(mut detail) => {
                detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
                Cow::Owned(detail)
            }
            fixed @ Cow::Borrowed(_) => fixed,
        };
        Self { status, detail }
    }

    /// A request that says something which cannot be so.
    pub(super) fn bad(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Returns what is wrong.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let mut response = Response::new(Full::from(json(&body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, MEDIA_TYPE);
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        self.response().map(axum::body::Body::new)
    }
}

/// Writes JSON; our own types always can be.
pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(ROOM);
    match serde_json::to_writer(&mut text, value) {
        Ok(()) => text,
        Err(_never) => Vec::new(),
    }
}
