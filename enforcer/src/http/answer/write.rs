//! An answer's JSON by hand: what almost every answer consists of is written without a detour.
//!
//! Invariant: the bytes are those that [`AnswerView`] gives, which a test holds it to. Deliberately
//! absent: what is rare (candidates, headers, keys with names of their own), which is left to serde.

use std::fmt::{self, Write as _};

use domain::decision::{Outcome, Verdict};
use domain::limit::MeterSelector;
use domain::policy::model::{Key, Limit};
use domain::request::{Field, Request};
use domain::time::UnixMs;
use domain::units::Units;
use serde::Serialize;

use super::{AnswerView, decimal, key_of};
use crate::config::XRatelimitReset;
use crate::engine::{Answer, Ask, Reason};
use crate::http::headers;

/// Room for an answer of usual size, in bytes.
const ROOM: usize = 768;

/// Returns the body of an answer to an ask; of a report what was reported for.
pub(in crate::http) fn write(answer: &Answer, ask: &Ask<'_>, reset: XRatelimitReset) -> Vec<u8> {
    let Some((policy, attachment, limit)) = answer.bound() else {
        return super::json(&AnswerView::new(answer, ask, reset));
    };
    let is_rare = answer.candidate.is_some()
        || !answer.uncharged.is_empty()
        || matches!(answer.reason, Reason::MissingKey(_));
    if is_rare {
        return super::json(&AnswerView::new(answer, ask, reset));
    }
    let mut to = Json(Vec::with_capacity(ROOM));
    to.raw(match answer.outcome {
        Outcome::Allow => r#"{"outcome":"allow","reason":""#,
        Outcome::Deny => r#"{"outcome":"deny","reason":""#,
    });
    to.raw(answer.reason.name());
    to.raw(r#"","policy":"#);
    to.text(&policy.name);
    to.raw(r#","attachment":"#);
    to.text_or_null(Some(attachment.name.as_str()).filter(|name| !name.is_empty()));
    to.raw(r#","limit":"#);
    to.text(&limit.name);
    let meter = limit.spec.meter();
    to.raw(r#","meter":""#);
    to.raw(meter.name());
    to.raw(r#"","key":"#);
    to.key(limit, &ask.request);
    to.raw(r#","missing_key":null"#);
    let verdict = answer.binding.and_then(|binding| binding.verdict);
    to.numbers(meter, verdict.as_ref());
    let as_of = answer.binding.and_then(|binding| binding.as_of);
    to.raw(r#","candidate":null,"reservation":null,"as_of":"#);
    to.instant(as_of);
    to.raw(r#","warming":"#);
    to.instant(answer.warming);
    to.raw(r#","shadow_denials":"#);
    to.number(answer.shadow_denials);
    to.raw(r#","uncharged":[],"denial":"#);
    match &answer.denial {
        // Of hexadecimal digits and a dash.
        Some(denial) => to.quoted(&denial.id),
        None => to.raw("null"),
    }
    to.raw(r#","policies_version":"#);
    to.number(answer.version());
    to.raw(r#","headers":"#);
    let headers = headers::of(answer, reset);
    if headers.is_empty() {
        to.raw("{}");
    } else {
        to.any(&super::Headers(headers));
    }
    to.raw("}");
    to.0
}

/// A body on its way.
struct Json(Vec<u8>);

impl fmt::Write for Json {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.raw(text);
        Ok(())
    }
}

impl Json {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Adds what needs no quotes, or has them.
    fn number(&mut self, number: impl fmt::Display) {
        // A body takes whatever there is memory for.
        write!(self, "{number}").unwrap_or_default();
    }

    /// Adds what needs no escapes.
    fn quoted(&mut self, plain: &impl fmt::Display) {
        self.raw("\"");
        self.number(plain);
        self.raw("\"");
    }

    fn any(&mut self, value: &impl Serialize) {
        // Our own types always can be written.
        serde_json::to_writer(&mut self.0, value).unwrap_or_default();
    }

    fn text(&mut self, text: &str) {
        let is_plain = text
            .bytes()
            .all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
        if is_plain {
            self.raw("\"");
            self.raw(text);
            self.raw("\"");
        } else {
            self.any(&text);
        }
    }

    fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.raw("null"),
        }
    }

    fn instant(&mut self, instant: Option<UnixMs>) {
        match instant {
            Some(instant) => {
                self.raw("\"");
                self.number(instant);
                self.raw("\"");
            }
            None => self.raw("null"),
        }
    }

    /// Adds names and values of a key; the tenant is always part of it.
    fn key(&mut self, limit: &Limit, request: &Request<'_>) {
        let is_named = |key: &Key| matches!(key, Key::Field(_) | Key::Header(_));
        if !limit.per.iter().all(is_named) {
            return self.any(&key_of(limit, request));
        }
        self.raw(r#"{"tenant":"#);
        self.text_or_null(request.text(Field::Tenant));
        limit.each_value(request, |name, value| {
            self.raw(",");
            self.text(name);
            self.raw(":");
            self.text_or_null(value);
        });
        self.raw("}");
    }

    /// Adds what was compared, and when it frees.
    fn numbers(&mut self, meter: MeterSelector, verdict: Option<&Verdict>) {
        let Some(verdict) = verdict else {
            return self.raw(
                r#","used":null,"asked":null,"limit_value":null,"remaining":null,"reset":null,"retry":null"#,
            );
        };
        for (name, units) in [
            (r#","used":""#, verdict.used),
            (r#"","asked":""#, verdict.asked),
            (r#"","limit_value":""#, verdict.limit),
            (r#"","remaining":""#, verdict.remaining),
        ] {
            self.raw(name);
            self.units(meter, units);
        }
        self.raw(r#"","reset":"#);
        self.instant(Some(verdict.reset));
        self.raw(r#","retry":"#);
        self.instant(verdict.retry);
    }

    fn units(&mut self, meter: MeterSelector, units: Units) {
        match i64::try_from(units.get()) {
            // The most common by far, and a third of the time of 128 bits.
            Ok(units) if meter != MeterSelector::Cost => self.number(units),
            Ok(_) | Err(_) => self.raw(&decimal(meter, units)),
        }
    }
}

#[cfg(test)]
mod tests;
