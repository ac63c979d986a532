//! Headers that tell limit, remaining and reset, by the conventions that a policy names.
//!
//! Invariant: numbers are whole, as all conventions have them; so limits of cost, whose numbers are
//! fractions, are told by the body and by `Retry-After` alone. Limits in shadow are never told. Times
//! round up, so that whoever comes back at the time told finds room. Deliberately absent: who sends them.

use std::borrow::Cow;
use std::fmt::Write as _;

use domain::decision::{Outcome, Verdict};
use domain::limit::{Algorithm, Enforce, LimitSpec, MeterSelector};
use domain::meter::Meter;
use domain::policy::model::{HeaderStyle, Policy};
use domain::time::UnixMs;
use domain::window::WindowSpec;

use crate::config::XRatelimitReset;
use crate::engine::{Answer, Reason};

/// Names, in lower case where they are ours, with values.
pub(crate) type Written = Vec<(Cow<'static, str>, String)>;

/// The greatest integer of a structured field (RFC 9651, section 3.3.1).
const INTEGER_MAX: i64 = 999_999_999_999_999;

/// Limits that one answer lists at most.
const LISTED_MAX: usize = 16;

/// Room for one of them, in bytes.
const LISTED_BYTES: usize = 64;

/// One limit that can be told of.
struct Told<'a> {
    policy: &'a str,
    limit: &'a str,
    index: usize,
    spec: &'a LimitSpec,
    verdict: Verdict,
}

/// Says whether a policy answers as `OpenAI` does.
pub(crate) fn has_openai(policy: &Policy) -> bool {
    policy.response.headers.contains(&HeaderStyle::Openai)
}

/// Returns the headers of an answer, by the policy that binds.
pub(crate) fn of(answer: &Answer, reset: XRatelimitReset) -> Written {
    let mut written = Written::new();
    let Some((policy, _, bound)) = answer.bound() else {
        return written;
    };
    // Mostly nothing is wanted.
    if policy.response.headers.is_empty() && answer.outcome == Outcome::Allow {
        return written;
    }
    let told = told(answer);
    for style in &policy.response.headers {
        match style {
            HeaderStyle::Ietf => ietf(answer, &told, &mut written),
            HeaderStyle::XRatelimit => x_ratelimit(answer, &told, reset, &mut written),
            HeaderStyle::Openai => openai(answer, &told, &mut written),
        }
    }
    if answer.outcome == Outcome::Deny {
        let verdict = answer.binding.and_then(|binding| binding.verdict);
        let retry = verdict.and_then(|verdict| verdict.retry);
        let is_over = answer.reason == Reason::Over;
        if policy.response.retry_after
            && is_over
            && let Some(retry) = retry
        {
            let seconds = seconds_until(retry, answer.now).max(1);
            written.push((Cow::Borrowed("retry-after"), seconds.to_string()));
        }
        // OpenAI's clients try again at every 429 unless they are told not to. Numbers that are away
        // for now come back.
        let is_away = matches!(answer.reason, Reason::Unavailable | Reason::NoRoom);
        let is_spent = bound.spec.meter() == MeterSelector::Cost || retry.is_none();
        if has_openai(policy) && is_spent && !is_away {
            written.push((Cow::Borrowed("x-should-retry"), "false".to_owned()));
        }
        for (name, value) in &policy.response.extra_headers {
            written.push((Cow::Owned(name.clone()), value.clone()));
        }
    }
    written
}

/// Lists what can be told, the limit that binds first.
fn told(answer: &Answer) -> Vec<Told<'_>> {
    let binding = answer.binding.map(|binding| binding.index);
    let first = answer.met.iter().filter(|met| Some(met.index) == binding);
    let others = answer.met.iter().filter(|met| Some(met.index) != binding);
    let known = first.chain(others).filter_map(|met| {
        let (policy, _, limit) = answer.limit_at(met.index)?;
        let verdict = met.verdict?;
        let is_told =
            limit.spec.enforce() == Enforce::Soft && limit.spec.meter() != MeterSelector::Cost;
        is_told.then_some(Told {
            policy: &policy.name,
            limit: &limit.name,
            index: met.index,
            spec: &limit.spec,
            verdict,
        })
    });
    known.take(LISTED_MAX).collect()
}

/// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11).
fn ietf(answer: &Answer, told: &[Told<'_>], written: &mut Written) {
    let room = LISTED_BYTES.saturating_mul(told.len());
    let [mut policies, mut limits] = [room, room].map(String::with_capacity);
    for one in told {
        let is_shared = told
            .iter()
            .any(|other| other.limit == one.limit && other.index != one.index);
        // Names are letters, digits and `._-`, so that nothing is to be escaped.
        let name = if is_shared {
            Cow::Owned(format!("{}/{}", one.policy, one.limit))
        } else {
            Cow::Borrowed(one.limit)
        };
        let separator = if policies.is_empty() { "" } else { ", " };
        let quota = integer(one.verdict.limit.get());
        let window = window_seconds(answer, one);
        let unit = match one.spec.meter() {
            MeterSelector::Standard(Meter::Requests) => "",
            MeterSelector::Standard(Meter::Images) => ";qu=\"images\"",
            MeterSelector::Computed => ";qu=\"units\"",
            MeterSelector::Standard(_)
            | MeterSelector::InputTokens
            | MeterSelector::OutputTokens
            | MeterSelector::TotalTokens
            | MeterSelector::Cost => ";qu=\"tokens\"",
        };
        let remaining = integer(one.verdict.remaining.get());
        let free = one.verdict.retry.unwrap_or(one.verdict.reset);
        let until = seconds_until(free, answer.now);
        append(
            &mut policies,
            format_args!("{separator}\"{name}\";q={quota}{unit};w={window}"),
        );
        append(
            &mut limits,
            format_args!("{separator}\"{name}\";r={remaining};t={until}"),
        );
    }
    if !policies.is_empty() {
        written.push((Cow::Borrowed("ratelimit-policy"), policies));
        written.push((Cow::Borrowed("ratelimit"), limits));
    }
}

/// `X-RateLimit-*` of the limit that binds, or of the first that can be told.
fn x_ratelimit(answer: &Answer, told: &[Told<'_>], reset: XRatelimitReset, written: &mut Written) {
    let Some(one) = told.first() else {
        return;
    };
    let reset = match reset {
        XRatelimitReset::Seconds => seconds_until(one.verdict.reset, answer.now),
        XRatelimitReset::Unix => seconds_until(one.verdict.reset, UnixMs::FIRST),
    };
    let values = [
        ("x-ratelimit-limit", one.verdict.limit.get()),
        ("x-ratelimit-remaining", one.verdict.remaining.get()),
        ("x-ratelimit-reset", i128::from(reset)),
    ];
    for (name, value) in values {
        written.push((Cow::Borrowed(name), value.to_string()));
    }
}

/// `x-ratelimit-*-requests` and `-tokens`, each of the first such limit.
fn openai(answer: &Answer, told: &[Told<'_>], written: &mut Written) {
    let is_requests =
        |told: &&Told<'_>| told.spec.meter() == MeterSelector::Standard(Meter::Requests);
    let is_tokens = |told: &&Told<'_>| match told.spec.meter() {
        MeterSelector::Standard(meter) => meter.is_input() || meter.is_output(),
        MeterSelector::InputTokens | MeterSelector::OutputTokens | MeterSelector::TotalTokens => {
            true
        }
        MeterSelector::Cost | MeterSelector::Computed => false,
    };
    let requests = told.iter().find(is_requests);
    let tokens = told.iter().find(is_tokens);
    for (names, one) in [
        (
            [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ],
            requests,
        ),
        (
            [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ],
            tokens,
        ),
    ] {
        if let Some(one) = one {
            let ms = one.verdict.reset.get().saturating_sub(answer.now.get());
            let values = [
                one.verdict.limit.get().to_string(),
                one.verdict.remaining.get().to_string(),
                duration(ms),
            ];
            let named = names.into_iter().map(Cow::Borrowed).zip(values);
            written.extend(named);
        }
    }
}

/// Returns the seconds that a limit counts over: of a bucket those in which it refills.
fn window_seconds(answer: &Answer, told: &Told<'_>) -> i64 {
    let ms = match told.spec.algorithm() {
        Algorithm::Window(WindowSpec::Calendar(_)) => {
            answer.slot_at(told.index).map_or(0, |slot| {
                slot.end().get().saturating_sub(slot.start().get())
            })
        }
        Algorithm::Window(WindowSpec::Fixed(length) | WindowSpec::Sliding(length)) => length.ms(),
        Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
            let whole = told.spec.limit().get();
            let scaled = whole.saturating_mul(i128::from(refill.every.ms()));
            let ms = scaled.checked_div(refill.amount.get()).unwrap_or_default();
            i64::try_from(ms).unwrap_or(i64::MAX)
        }
    };
    seconds(ms).max(1)
}

fn seconds_until(instant: UnixMs, now: UnixMs) -> i64 {
    seconds(instant.get().saturating_sub(now.get()))
}

/// Returns whole seconds, rounded up; none are negative.
fn seconds(ms: i64) -> i64 {
    let up = ms.max(0).saturating_add(999);
    up.checked_div(1_000).unwrap_or_default()
}

fn integer(number: i128) -> i64 {
    i64::try_from(number.max(0)).map_or(INTEGER_MAX, |number| number.min(INTEGER_MAX))
}

/// Writes a duration as Go does, which `OpenAI`'s clients read: `120ms`, `1s`, `6m0s`, `1h0m0s`.
fn duration(ms: i64) -> String {
    if (1..1_000).contains(&ms) {
        return format!("{ms}ms");
    }
    let total = seconds(ms);
    let parts = |by: i64| (total.checked_div(by), total.checked_rem(by));
    let (minutes, rest) = parts(60);
    let (minutes, rest) = (minutes.unwrap_or_default(), rest.unwrap_or_default());
    if minutes == 0 {
        return format!("{rest}s");
    }
    let hours = minutes.checked_div(60).unwrap_or_default();
    let minutes = minutes.checked_rem(60).unwrap_or_default();
    if hours == 0 {
        format!("{minutes}m{rest}s")
    } else {
        format!("{hours}h{minutes}m{rest}s")
    }
}

fn append(text: &mut String, more: std::fmt::Arguments<'_>) {
    // A text takes whatever there is memory for.
    text.write_fmt(more).unwrap_or_default();
}

#[cfg(test)]
mod tests;
