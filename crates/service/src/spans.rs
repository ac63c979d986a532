//! Spans: what one piece of work did, for whoever traces requests across services.
//!
//! Invariant: where nothing is traced, [`begin`] costs one look at a static and makes nothing. A span
//! whose trace is not sampled does not exist either, so that nobody gathers what nobody reads.
//! Deliberately absent: names and attributes, which the rooms own; how spans go out
//! ([`crate::otlp`]).

use std::fmt;
use std::sync::OnceLock;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

pub use opentelemetry::{Array, StringValue, Value};

/// What spans are made by; empty where nothing is traced.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Has [`begin`] make spans from now on; gives the tracer back where there is one already.
pub(crate) fn trace_by(tracer: SdkTracer) -> Result<(), SdkTracer> {
    TRACER.set(tracer)
}

/// What a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request that somebody waits for.
    Server,
    /// Messages of a log.
    Consumer,
    /// Work of the process's own.
    Internal,
}

/// A piece of work under way, of a trace that is sampled; it ends when it is dropped.
/// A pointer, so that the many places that have none carry little.
pub struct Span(Box<SdkSpan>);

/// Says whether anything is traced.
#[inline]
#[must_use]
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Begins the span of a request, as part of the trace that its headers name (W3C's `traceparent`);
/// `None` where nothing is traced, or not this one.
#[inline]
#[must_use]
pub fn begin(name: &'static str, headers: &HeaderMap) -> Option<Span> {
    let tracer = TRACER.get()?;
    begin_within(tracer, name, headers)
}

#[cold]
fn begin_within(tracer: &SdkTracer, name: &'static str, headers: &HeaderMap) -> Option<Span> {
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Of(headers));
    let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
    Span::made(tracer.build_with_context(builder, &parent))
}

/// Begins a trace of the process's own work, which began at an instant; `None` where nothing is traced,
/// or not this one.
#[must_use]
pub fn begin_trace(name: &'static str, kind: Kind, began: SystemTime) -> Option<Span> {
    let tracer = TRACER.get()?;
    let builder = SpanBuilder::from_name(name)
        .with_kind(kind.into())
        .with_start_time(began);
    Span::made(tracer.build_with_context(builder, &Context::new()))
}

impl Span {
    fn made(span: SdkSpan) -> Option<Self> {
        span.is_recording().then(|| Self(Box::new(span)))
    }

    /// Notes a fact.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Says that the work failed, and why: a short text.
    pub fn fail(&mut self, why: String) {
        self.0.set_status(Status::error(why));
    }

    /// Links the trace that a `traceparent` names where it is sampled; others are passed over.
    pub fn link(&mut self, traceparent: &str) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = traceparent.parse() {
            headers.insert(TRACEPARENT, value);
        }
        let linked =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Of(&headers));
        let linked = linked.span().span_context().clone();
        if linked.is_valid() && linked.is_sampled() {
            self.0.add_link(linked, Vec::new());
        }
    }

    /// Adds a part of the work, which began and ended at these instants, with what `note` says of it.
    pub fn part(
        &self,
        name: &'static str,
        began: SystemTime,
        ended: SystemTime,
        note: impl FnOnce(&mut Self),
    ) {
        let Some(tracer) = TRACER.get() else {
            return;
        };
        let own = Context::new().with_remote_span_context(self.0.span_context().clone());
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(began);
        if let Some(mut part) = Self::made(tracer.build_with_context(builder, &own)) {
            note(&mut part);
            part.end_at(ended);
        }
    }

    /// Ends the work at an instant.
    pub fn end_at(mut self, ended: SystemTime) {
        self.0.end_with_timestamp(ended);
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span")
            .field(&self.0.span_context().span_id())
            .finish()
    }
}

impl From<Kind> for SpanKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Server => Self::Server,
            Kind::Consumer => Self::Consumer,
            Kind::Internal => Self::Internal,
        }
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Headers, as the propagator reads them.
struct Of<'h>(&'h HeaderMap);

impl Extractor for Of<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
