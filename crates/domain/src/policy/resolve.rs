//! From what was written to what is meant: defaults filled in, contradictions refused.
//!
//! Invariant: every fault of a policy is told, each at its own place; a policy comes out only where
//! there was none. Limits are resolved in [`limits`].

mod limits;
mod matches;

use super::cel::{Cel, Purpose};
use super::error::{At, Faults};
use super::language::{AttachmentText, PolicyText, ResponseText, UnavailableText, VerdictText};
use super::model::{Attachment, Limit, Match, OnUnavailable, Place, Policy, Response, Verdict};
use crate::nearest::nearest;

/// How old the numbers may be where a policy does not say, in ms.
const AFTER_MS: i64 = 60_000;

/// The longest name, in bytes: it stands in headers and in every answer.
const NAME_BYTES_MAX: usize = 64;

/// The longest text that is sent on as it is, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Checks a policy; `None` where a fault was told.
pub(super) fn policy(text: &PolicyText, at: &At<'_>, faults: &mut Faults<'_>) -> Option<Policy> {
    let before = faults.len();
    name(&text.name, &at.key("name"), faults);
    let matches = matches::matches(&text.matches, &at.key("match"), faults);
    let attachments = attachments(&text.attachments, &at.key("attachments"), faults);
    let limits = all_limits(text, at, faults);
    let on_unavailable = on_unavailable(&text.on_unavailable, &at.key("on_unavailable"), faults);
    let response = response(&text.response, &at.key("response"), faults);
    if let Some(limits) = &limits {
        refuse_unlogged(&matches, &attachments, limits, at, faults);
    }
    let policy = Policy {
        name: text.name.clone(),
        description: text.description.clone().unwrap_or_default(),
        matches,
        attachments,
        limits: limits?,
        on_unavailable,
        response: response?,
        place: Place {
            file: String::new(),
            line: at.key("name").mark.line,
            column: at.key("name").mark.column,
        },
    };
    (faults.len() == before).then_some(policy)
}

/// Checks a name: it stands in headers, metrics and links as it is.
fn name(name: &str, at: &At<'_>, faults: &mut Faults<'_>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || !name.chars().all(fits) || name.len() > NAME_BYTES_MAX {
        let problem = format!(
            "is {name:?}, but a name has 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` or `-`, and \
             begins with a letter or a digit"
        );
        faults.add(at, problem);
    }
}

fn attachments(texts: &[AttachmentText], at: &At<'_>, faults: &mut Faults<'_>) -> Vec<Attachment> {
    if texts.is_empty() {
        // Written or not, no attachment means the one without a name.
        return vec![Attachment {
            name: String::new(),
            matches: Match::default(),
        }];
    }
    let mut attachments: Vec<Attachment> = Vec::with_capacity(texts.len());
    for (text, index) in texts.iter().zip(0..) {
        let at = at.index(index);
        name(&text.name, &at.key("name"), faults);
        if attachments.iter().any(|other| other.name == text.name) {
            let problem = format!("is the second attachment named {:?}; rename one", text.name);
            faults.add(&at.key("name"), problem);
        }
        attachments.push(Attachment {
            name: text.name.clone(),
            matches: matches::matches(&text.matches, &at.key("match"), faults),
        });
    }
    attachments
}

fn all_limits(text: &PolicyText, at: &At<'_>, faults: &mut Faults<'_>) -> Option<Vec<Limit>> {
    let at = at.key("limits");
    if text.limits.is_empty() {
        faults.add(&at, "is empty; write at least one limit");
        return None;
    }
    let mut limits = Vec::with_capacity(text.limits.len());
    for (limit, index) in text.limits.iter().zip(0..) {
        let at = at.index(index);
        name(&limit.name, &at.key("name"), faults);
        let before = text.limits.iter().take(index);
        if before.into_iter().any(|other| other.name == limit.name) {
            let problem = format!("is the second limit named {:?}; rename one", limit.name);
            faults.add(&at.key("name"), problem);
        }
        limits.push(limits::limit(limit, &at, faults));
    }
    limits.into_iter().collect()
}

/// Refuses limits from the log whose policy matches by what events do not carry.
fn refuse_unlogged(
    matches: &Match,
    attachments: &[Attachment],
    limits: &[Limit],
    at: &At<'_>,
    faults: &mut Faults<'_>,
) {
    let of_policy = matches.reads_unlogged().map(|read| format!("match.{read}"));
    let of_attachments = || {
        attachments.iter().zip(0_usize..).find_map(|(one, index)| {
            let read = one.matches.reads_unlogged()?;
            Some(format!("attachments[{index}].match.{read}"))
        })
    };
    let Some(read) = of_policy.or_else(of_attachments) else {
        return;
    };
    for (limit, index) in limits.iter().zip(0..) {
        if limit.from == super::model::CountedFrom::Log {
            let problem = format!(
                "counts from the log, but the policy matches by {read}, which logged usage does not \
                 carry; match by tenant, app, user, session, model, provider or route, or write \
                 from: decision"
            );
            faults.add(&at.key("limits").index(index), problem);
        }
    }
}

fn on_unavailable(text: &UnavailableText, at: &At<'_>, faults: &mut Faults<'_>) -> OnUnavailable {
    let (verdict, after) = match text {
        UnavailableText::Verdict(verdict) => (*verdict, None),
        UnavailableText::Table(table) => (table.decide, table.after.as_deref()),
    };
    let verdict = match verdict {
        VerdictText::Allow => Verdict::Allow,
        VerdictText::Deny => Verdict::Deny,
    };
    let after_ms = after.and_then(|after| duration(after, &at.key("after"), faults));
    OnUnavailable {
        verdict,
        after_ms: after_ms.unwrap_or(AFTER_MS),
    }
}

fn response(text: &ResponseText, at: &At<'_>, faults: &mut Faults<'_>) -> Option<Response> {
    if let Some(message) = &text.message {
        sendable(message, &at.key("message"), faults);
    }
    let mut extra_headers = Vec::with_capacity(text.extra_headers.len());
    for (header, value) in &text.extra_headers {
        let at = at.key("extra_headers").key(header);
        sendable(value, &at, faults);
        let header = header_name(header, &at, faults);
        if extra_headers.iter().any(|(other, _)| *other == header) {
            faults.add(&at, "is written twice in different cases; remove one");
        }
        extra_headers.push((header, value.clone()));
    }
    extra_headers.sort();
    let mut headers = Vec::with_capacity(text.headers.len());
    for (style, index) in text.headers.iter().zip(0..) {
        if headers.contains(style) {
            faults.add(
                &at.key("headers").index(index),
                "is written twice; remove one",
            );
        }
        headers.push(*style);
    }
    Some(Response {
        status: u16::try_from(text.status).ok()?,
        message: text.message.clone(),
        headers,
        retry_after: text.retry_after,
        extra_headers,
    })
}

/// Checks a text that goes into an answer as it is.
fn sendable(text: &str, at: &At<'_>, faults: &mut Faults<'_>) {
    if text.len() > TEXT_BYTES_MAX {
        let problem = format!("has {} bytes, more than {TEXT_BYTES_MAX}", text.len());
        faults.add(at, problem);
    } else if text.chars().any(char::is_control) {
        faults.add(
            at,
            "holds a line break or another control character; remove it",
        );
    }
}

/// Checks a header's name (RFC 9110, section 5.1) and returns it in lower case.
fn header_name(name: &str, at: &At<'_>, faults: &mut Faults<'_>) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(fits) {
        let problem = format!("is {name:?}, which is no name of a header; write, say, x-team");
        faults.add(at, problem);
    }
    name.to_ascii_lowercase()
}

/// Reads a duration: a whole number and `ms`, `s`, `m`, `h` or `d`, in milliseconds.
fn duration(text: &str, at: &At<'_>, faults: &mut Faults<'_>) -> Option<i64> {
    let split = text.find(|c: char| !c.is_ascii_digit());
    let (digits, unit) = text.split_at_checked(split.unwrap_or(text.len()))?;
    let unit_ms: Option<i64> = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let ms = digits.parse().ok().zip(unit_ms);
    let ms = ms.and_then(|(number, unit): (i64, _)| number.checked_mul(unit));
    if ms.is_none() {
        let problem = format!(
            "is {text:?}, which is no span of time; write a whole number and ms, s, m, h or d, such \
             as 60s"
        );
        faults.add(at, problem);
    }
    ms
}

/// Compiles an expression.
fn cel(text: &str, purpose: Purpose, at: &At<'_>, faults: &mut Faults<'_>) -> Option<Cel> {
    match Cel::compile(text, purpose) {
        Ok(cel) => Some(cel),
        Err(fault) => {
            let problem = format!(
                "is no expression: at its character {}, {}",
                fault.at, fault.problem
            );
            faults.add(at, problem);
            None
        }
    }
}

/// Refuses all but one of the keys of a table that says one thing in several ways.
fn exactly_one(written: &[(&str, bool)], at: &At<'_>, faults: &mut Faults<'_>) -> bool {
    let mut present = written.iter().filter(|(_, is_there)| *is_there);
    let first = present.next();
    let second = present.next();
    let names: Vec<_> = written.iter().map(|(key, _)| format!("`{key}`")).collect();
    let names = names.join(", ");
    match (first, second) {
        (Some(_), None) => true,
        (None, _) => {
            faults.add(at, format!("says nothing; write exactly one of {names}"));
            false
        }
        (Some((one, _)), Some((other, _))) => {
            let problem = format!("has both `{one}` and `{other}`; write exactly one of {names}");
            faults.add(at, problem);
            false
        }
    }
}

/// Names the likeliest of the known names behind an unknown one.
fn nearest_to<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = nearest(typed, known).unwrap_or_default();
    format!("the nearest is `{near}`")
}
