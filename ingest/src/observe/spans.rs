//! Spans of ingest: one trace per batch, and one per run of the roll-up.
//!
//! Invariant: names and attributes stand in this table and nowhere else. They follow OpenTelemetry's
//! conventions for messaging where it has some (in development, so they may change), else begin with
//! `tollbook.`. Nothing of an event is told.
//!
//! | span | from, to | attributes |
//! | --- | --- | --- |
//! | `batch` | the first record is taken; the batch is in the ledger | `messaging.system`, `messaging.operation.type`, `messaging.batch.message_count`, `tollbook.partitions`, `tollbook.bytes`, `tollbook.batch.id`, `tollbook.events.accepted`, `….duplicate`, `….rejected`, `….ignored` |
//! | ├ `poll` | the first record is taken; the batch is handed over | |
//! | ├ `fold` | its records are decoded, priced and summed; again where rules or owners changed | |
//! | └ `commit` | each try of the transaction | error: why it did not commit |
//! | `roll-up` | parts are summed into quarter-hours and days | `tollbook.parts` |
//!
//! A batch links the traces that the first of its records name (`traceparent`, `ce_traceparent`).

use std::time::{Duration, SystemTime};

use rdkafka::Message;
use rdkafka::message::Headers as _;
use service::clock;
use service::spans::{self, Array, Kind, Span, StringValue, Value};
use store::batch::{CommitError, Committed};
use store::rollup::{RollUpError, RolledUp};

use crate::batch::{RawBatch, Slice};

/// So many traces that a batch's records are part of are kept: the first.
const LINKED_MAX: usize = 16;

/// The longest `traceparent` that is kept, in bytes; one of version 00 has 55.
const TRACEPARENT_MAX: usize = 128;

/// What a batch is traced by; nothing where it is not.
#[derive(Debug, Default)]
pub(crate) struct BatchSpan {
    span: Option<Span>,
    links: Vec<String>,
}

/// When a part of the work began; `None` where nothing is traced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Began(Option<SystemTime>);

impl BatchSpan {
    /// Notes the trace that a record is part of.
    #[inline]
    pub(crate) fn link(&mut self, message: &impl Message) {
        if spans::is_on() && self.links.len() < LINKED_MAX {
            let headers = message
                .headers()
                .into_iter()
                .flat_map(|headers| headers.iter());
            let mut named = headers.filter(|header| {
                ["traceparent", "ce_traceparent"]
                    .iter()
                    .any(|name| header.key.eq_ignore_ascii_case(name))
            });
            let value = named.next().and_then(|header| header.value);
            let value = value.filter(|value| value.len() <= TRACEPARENT_MAX);
            let text = value.and_then(|value| std::str::from_utf8(value).ok());
            self.links.extend(text.map(str::to_owned));
        }
    }

    /// Begins the part of the work that follows.
    pub(crate) fn begin(&self) -> Began {
        Began(self.span.as_ref().map(|_| clock::precisely()))
    }

    /// Tells that the records are folded.
    pub(crate) fn folded(&self, began: Began) {
        self.part("fold", began, |_span| {});
    }

    /// Tells what a try to commit came to.
    pub(crate) fn tried(&self, began: Began, result: &Result<Committed, CommitError>) {
        self.part("commit", began, |span| {
            if let Err(error) = result {
                span.fail(error.to_string());
            }
        });
    }

    /// Tells what is in the ledger.
    pub(crate) fn committed(&mut self, committed: &Committed) {
        let Some(span) = &mut self.span else {
            return;
        };
        span.set("tollbook.batch.id", committed.batch);
        let sum = |of: fn(&domain::part::Counts) -> u64| {
            committed.counts.iter().map(of).fold(0, u64::saturating_add)
        };
        for (key, sum) in [
            ("tollbook.events.accepted", sum(|counts| counts.accepted)),
            ("tollbook.events.duplicate", sum(|counts| counts.duplicates)),
            ("tollbook.events.rejected", sum(|counts| counts.rejected)),
            ("tollbook.events.ignored", sum(|counts| counts.ignored)),
        ] {
            span.set(key, i64::try_from(sum).unwrap_or(i64::MAX));
        }
    }

    fn part(&self, name: &'static str, began: Began, note: impl FnOnce(&mut Span)) {
        if let (Some(span), Some(began)) = (&self.span, began.0) {
            span.part(name, began, clock::precisely(), note);
        }
    }
}

/// Tells that a batch is complete, whose first record was taken so long ago.
pub(crate) fn polled(batch: &mut RawBatch, took: Duration) {
    if !spans::is_on() {
        return;
    }
    let ended = clock::precisely();
    let began = ended.checked_sub(took).unwrap_or(ended);
    let Some(mut span) = spans::begin_trace("batch", Kind::Consumer, began) else {
        return;
    };
    span.set("messaging.system", "kafka");
    span.set("messaging.operation.type", "process");
    span.set("messaging.batch.message_count", count(batch.records()));
    span.set("tollbook.bytes", count(batch.bytes()));
    span.set("tollbook.partitions", partitions(&batch.slices));
    for link in std::mem::take(&mut batch.span.links) {
        span.link(&link);
    }
    span.part("poll", began, ended, |_span| {});
    batch.span.span = Some(span);
}

/// Begins a run of the roll-up.
pub(crate) fn begin_roll_up() -> Option<Span> {
    // Looked at first, since the clock is not free.
    spans::is_on()
        .then(|| spans::begin_trace("roll-up", Kind::Internal, clock::precisely()))
        .flatten()
}

/// Tells what a run of the roll-up came to.
pub(crate) fn rolled_up(span: &mut Option<Span>, outcome: &Result<RolledUp, RollUpError>) {
    let Some(span) = span else {
        return;
    };
    let (parts, problem) = match outcome {
        Ok(RolledUp::Busy) => (0, None),
        Ok(RolledUp::Moved { parts, .. }) => (*parts, None),
        Ok(RolledUp::DayFailed { parts, error }) => (*parts, Some(error.to_string())),
        Err(error) => (0, Some(error.to_string())),
    };
    span.set("tollbook.parts", i64::try_from(parts).unwrap_or(i64::MAX));
    if let Some(problem) = problem {
        span.fail(problem);
    }
}

fn partitions(slices: &[Slice]) -> Value {
    let names = slices.iter().map(|slice| {
        let (topic, partition) = &slice.assignment.place;
        StringValue::from(format!("{topic}/{partition}"))
    });
    Value::Array(Array::String(names.collect()))
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
