//! What the push tells about itself: one function per fact, which logs and counts it.
//!
//! Invariant: what goes on and on is told once when it begins and once when it ends, and counted
//! meanwhile.

use metrics::counter;

use super::settings::Target;

/// Tells that an export was taken; `lost` were not since the last that was, where any were.
pub(super) fn taken(target: &Target, lost: Option<u64>) {
    let signal = target.signal.name();
    counter!("otel_exports_total", "signal" => signal, "result" => "taken").increment(1);
    if let Some(lost) = lost {
        tracing::info!(
            otlp.endpoint = target.shown(),
            exports.lost = lost,
            "{signal} reach their receiver again"
        );
    }
}

/// Tells that an export was lost; the first of several is told aloud.
pub(super) fn lost(target: &Target, problem: &str, is_first: bool) {
    let signal = target.signal.name();
    counter!("otel_exports_total", "signal" => signal, "result" => "lost").increment(1);
    if is_first {
        tracing::warn!(
            otlp.endpoint = target.shown(),
            error.text = problem,
            "{signal} do not reach their receiver; nothing waits for it, and this is told once"
        );
    } else {
        tracing::debug!(
            error.text = problem,
            "still not there: the receiver of {signal}"
        );
    }
}

/// Tells that spans found their queue full.
pub(super) fn dropped(spans: u64, is_first: bool) {
    counter!("otel_spans_dropped_total").increment(spans);
    if is_first {
        tracing::warn!(
            spans.dropped = spans,
            "more spans end than are sent, so some are dropped; sample fewer (OTEL_TRACES_SAMPLER=parentbased_traceidratio, OTEL_TRACES_SAMPLER_ARG=0.01); this is told once"
        );
    }
}
