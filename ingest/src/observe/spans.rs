//! Spans of ingest: one trace per batch, and one per run of the roll-up.
//!
//! Invariant: names and attributes stand in this table and nowhere else. They follow OpenTelemetry's
//! conventions for messaging where it has some (in development, so they may change), else begin with
//! `tollbook.`. Nothing of an event is told.
//!
//! | span | from, to | attributes |
//! | --- | --- | --- |
//! | `batch` | the first record is taken; the batch is in the ledger (error: it is not, and is read again) | `messaging.system`, `messaging.operation.type`, `messaging.batch.message_count`, `tollbook.partitions`, `tollbook.bytes`, `tollbook.batch.id`, `tollbook.events.accepted`, `….duplicate`, `….rejected`, `….ignored` |
//! | ├ `fold` | the first record is taken; the batch is handed over, its records decoded, priced and summed | |
//! | └ `commit` | the transaction | error: why it did not commit |
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

use crate::kafka::TopicPartition;

/// So many traces that a batch's records are part of are kept: the first.
const LINKED_MAX: usize = 16;

/// The longest `traceparent` that is kept, in bytes; one of version 00 has 55.
const TRACEPARENT_MAX: usize = 128;

/// The traces that a batch's records are part of; none where nothing is traced.
#[derive(Debug, Default)]
pub(crate) struct Links {
    traceparents: Vec<String>,
}

impl Links {
    /// Notes the trace that a record is part of.
    #[inline]
    pub(crate) fn note(&mut self, message: &impl Message) {
        if spans::is_on() && self.traceparents.len() < LINKED_MAX {
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
            self.traceparents.extend(text.map(str::to_owned));
        }
    }
}

/// What a batch is traced by; nothing where it is not.
#[derive(Debug, Default)]
pub(crate) struct BatchSpan {
    span: Option<Span>,
}

/// When a part of the work began; `None` where nothing is traced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Began(Option<SystemTime>);

impl BatchSpan {
    /// Begins with a batch that is folded, whose first record was taken so long ago: so many records and
    /// bytes of these partitions.
    pub(crate) fn folded<'p>(
        took: Duration,
        (records, bytes): (u64, usize),
        places: impl Iterator<Item = &'p TopicPartition>,
        links: Links,
    ) -> Self {
        if !spans::is_on() {
            return Self::default();
        }
        let ended = clock::precisely();
        let began = ended.checked_sub(took).unwrap_or(ended);
        let Some(mut span) = spans::begin_trace("batch", Kind::Consumer, began) else {
            return Self::default();
        };
        let records = i64::try_from(records).unwrap_or(i64::MAX);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let names =
            places.map(|(topic, partition)| StringValue::from(format!("{topic}/{partition}")));
        span.set("messaging.system", "kafka");
        span.set("messaging.operation.type", "process");
        span.set("messaging.batch.message_count", records);
        span.set("tollbook.bytes", bytes);
        span.set(
            "tollbook.partitions",
            Value::Array(Array::String(names.collect())),
        );
        for link in links.traceparents {
            span.link(&link);
        }
        span.part("fold", began, ended, |_span| {});
        Self { span: Some(span) }
    }

    /// Begins the part of the work that follows.
    pub(crate) fn begin(&self) -> Began {
        Began(self.span.as_ref().map(|_| clock::precisely()))
    }

    /// Tells what a try to commit came to.
    pub(crate) fn tried(&self, began: Began, result: &Result<Committed, CommitError>) {
        self.part("commit", began, |span| {
            if let Err(error) = result {
                span.fail(error.to_string());
            }
        });
    }

    /// Tells that the batch is not in the ledger.
    pub(crate) fn gave_up(&mut self) {
        if let Some(span) = &mut self.span {
            span.fail("not committed; its records are read again".to_owned());
        }
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
