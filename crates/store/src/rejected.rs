//! Rejected events: listing them, and showing one with its payload.
//!
//! Invariant: a page never repeats or skips a row that was there when the first page was read.
//! Deliberately absent: retrying and dropping them (see `adjust`), and tenants: what cannot be decoded belongs to
//! nobody yet, so only the operator may see it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use domain::hash::Hash128;
use domain::ids::{ChainId, Offset, PartNumber, PartRef, Place};
use domain::reject::Reason;
use domain::time::UnixMs;

use crate::connect::Database;
use crate::cost::instant;
use crate::error::StoreError;

/// The most rejected events that one page holds; about 1 KiB each without their payloads.
pub const PAGE_MAX: u32 = 10_000;

/// The most events that [`show`] returns at once, 64 KiB each at most.
const SHOWN_MAX: i64 = 1_000;

/// Which rejected events to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Of the source by this name only.
    pub source: Option<String>,
    /// With this reason only.
    pub reason: Option<Reason>,
    /// Whose records the broker received at or after this instant only.
    pub since: Option<UnixMs>,
    /// After this place in the order of the list: the cursor of the page before.
    pub after: Option<Cursor>,
}

/// Where a page ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    record_at: UnixMs,
    chain: ChainId,
    place: Place,
}

/// Where a rejected event stands in the log, as a person names it: `topic/partition/offset`, or
/// `topic/partition/offset/index` for one event of a record that holds several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: Offset,
    /// The event's index in the record; `None` for all of them.
    pub index: Option<u32>,
}

/// A rejected event without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Where it stands; `index` is given.
    pub address: Address,
    /// The name of its source; empty for adjustments.
    pub source: String,
    /// The incarnation of the partition's log; above 1 where a re-created log was accepted.
    pub incarnation: i32,
    /// The part that kept it.
    pub part: PartRef,
    /// Why, by the fixed name of the reason.
    pub reason: String,
    /// The message's field at fault; empty where the whole is.
    pub field: String,
    /// What is wrong with it, as the rest of a sentence that begins with the field.
    pub detail: String,
    /// When the broker received the record.
    pub record_time: UnixMs,
    /// The event's full length in bytes.
    pub payload_bytes: u64,
    /// What became of it since; `None` while it waits for a retry or to be dropped.
    pub resolved: Option<Resolved>,
}

/// What became of a rejected event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// How it was resolved, by the name of the adjustment's kind: `retry` or `drop`.
    pub kind: String,
    /// The adjustment's number: its part of the adjustment chain.
    pub adjustment: PartNumber,
    /// When.
    pub at: UnixMs,
    /// By whom.
    pub by: String,
    /// Why; empty where nobody said.
    pub because: String,
    /// How many of its events were posted.
    pub accepted: u64,
    /// How many had been counted before.
    pub duplicates: u64,
    /// How many are not metered.
    pub ignored: u64,
}

/// A rejected event with what was kept of its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedPayload {
    /// The event.
    pub event: Rejected,
    /// Its first 64 KiB at most.
    pub payload: Vec<u8>,
    /// The hash of all of its bytes.
    pub payload_digest: Hash128,
}

/// One page of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The events, newest first by the broker's time of their record.
    pub events: Vec<Rejected>,
    /// Where the next page begins; `None` where this was the last.
    pub next: Option<Cursor>,
}

/// A text that is not a place in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a place in the log: write topic/partition/offset or topic/partition/offset/index"
)]
pub struct BadAddress(String);

/// A text that is not the cursor of a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cursor: take the one that the page before ended with")]
pub struct BadCursor(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        let fields: Vec<&str> = text.split('/').collect();
        let (topic, partition, offset, index) = match fields.as_slice() {
            [topic, partition, offset] => (topic, partition, offset, None),
            [topic, partition, offset, index] => (topic, partition, offset, Some(index)),
            _ => return Err(bad()),
        };
        let offset = Offset(
            offset
                .parse()
                .ok()
                .filter(|offset| *offset >= 0)
                .ok_or_else(bad)?,
        );
        let partition = partition
            .parse()
            .ok()
            .filter(|number| *number >= 0)
            .ok_or_else(bad)?;
        let index = index
            .map(|index| index.parse().map_err(|_| bad()))
            .transpose()?;
        if topic.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            topic: (*topic).to_owned(),
            partition,
            offset,
            index,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset.0)?;
        match self.index {
            Some(index) => write!(f, "/{index}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let bad = || BadCursor(text.to_owned());
        let numbers: Vec<i64> = text
            .split('.')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| bad())?;
        let &[record_at, chain, offset, index] = numbers.as_slice() else {
            return Err(bad());
        };
        Ok(Self {
            record_at: UnixMs::new(record_at).ok_or_else(bad)?,
            chain: ChainId(i32::try_from(chain).map_err(|_| bad())?),
            place: Place {
                offset: Offset(offset),
                index: u32::try_from(index).map_err(|_| bad())?,
            },
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { offset, index } = self.place;
        write!(
            f,
            "{}.{}.{}.{index}",
            self.record_at.get(),
            self.chain.0,
            offset.0
        )
    }
}

/// Lists rejected events, newest first, at most `page_max` of them ([`PAGE_MAX`] at most).
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn list(db: &Database, filter: &Filter, page_max: u32) -> Result<Page, StoreError> {
    let page_max = page_max.min(PAGE_MAX);
    let after = filter.after;
    let found = sqlx::query_as!(
        FoundRow,
        r#"-- list
        -- $1: source; $2: reason; $3: since; $4 to $7: cursor; $8: rows
        select c.topic, c.partition, coalesce(s.name, '') as "source!", c.incarnation, e.chain,
            e.record_offset, e.index, e.part, e.reason, e.field, e.detail, e.record_at,
            e.payload_bytes, ''::bytea as "payload!", e.payload_digest,
            x.adjustment_part as "adjustment?", x.accepted as "accepted?",
            x.duplicates as "duplicates?", x.ignored as "ignored?", a.kind as "kind?",
            a.made_at as "made_at?", a.made_by as "made_by?", a.because as "because?"
        from rejected_event e
        join chain c on c.id = e.chain
        left join source s on s.id = c.source
        left join rejection_resolved x
            on (x.chain, x.record_offset, x.index) = (e.chain, e.record_offset, e.index)
        left join adjustment a
            on (a.chain, a.part) = (x.adjustment_chain, x.adjustment_part)
        where ($1::text is null or s.name = $1)
          and ($2::text is null or e.reason = $2)
          and ($3::timestamptz is null or e.record_at >= $3)
          and ($4::timestamptz is null
               or (e.record_at, e.chain, e.record_offset, e.index) < ($4, $5::int, $6, $7::int))
        order by e.record_at desc, e.chain desc, e.record_offset desc, e.index desc
        limit $8"#,
        filter.source.as_deref(),
        filter.reason.map(Reason::name),
        filter.since.map(UnixMs::to_utc),
        after.map(|cursor| cursor.record_at.to_utc()),
        after.map_or(0, |cursor| cursor.chain.0),
        after.map_or(0, |cursor| cursor.place.offset.0),
        after.map_or(0, |cursor| i32::try_from(cursor.place.index)
            .unwrap_or(i32::MAX)),
        i64::from(page_max).saturating_add(1),
    )
    .fetch_all(db.pool())
    .await?;
    let page_rows = usize::try_from(page_max).unwrap_or(usize::MAX);
    let has_more = found.len() > page_rows;
    let mut events = Vec::with_capacity(found.len().min(page_rows));
    for row in found.into_iter().take(page_rows) {
        events.push(row.read()?.event);
    }
    let next = events.last().filter(|_| has_more).map(Rejected::cursor);
    Ok(Page { events, next })
}

/// Returns the rejected events at a place, newest incarnation of the log first, then by index; the
/// first thousand where a record holds more. Empty where nothing at that place was rejected.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn show(db: &Database, address: &Address) -> Result<Vec<RejectedPayload>, StoreError> {
    let index = match address.index.map(i32::try_from) {
        Some(Ok(index)) => Some(index),
        Some(Err(_)) => return Ok(Vec::new()),
        None => None,
    };
    let found = sqlx::query_as!(
        FoundRow,
        r#"-- show
        -- $1, $2, $3, $4: topic, partition, offset, index or null for all; $5: rows
        select c.topic, c.partition, coalesce(s.name, '') as "source!", c.incarnation, e.chain,
            e.record_offset, e.index, e.part, e.reason, e.field, e.detail, e.record_at,
            e.payload_bytes, e.payload, e.payload_digest,
            x.adjustment_part as "adjustment?", x.accepted as "accepted?",
            x.duplicates as "duplicates?", x.ignored as "ignored?", a.kind as "kind?",
            a.made_at as "made_at?", a.made_by as "made_by?", a.because as "because?"
        from chain c
        join rejected_event e on e.chain = c.id
        left join source s on s.id = c.source
        left join rejection_resolved x
            on (x.chain, x.record_offset, x.index) = (e.chain, e.record_offset, e.index)
        left join adjustment a
            on (a.chain, a.part) = (x.adjustment_chain, x.adjustment_part)
        where c.topic = $1 and c.partition = $2 and e.record_offset = $3
          and ($4::int is null or e.index = $4)
        order by c.source, c.incarnation desc, e.index
        limit $5"#,
        &address.topic,
        address.partition,
        address.offset.0,
        index,
        SHOWN_MAX,
    )
    .fetch_all(db.pool())
    .await?;
    found.into_iter().map(FoundRow::read).collect()
}

impl Rejected {
    /// Returns the cursor that a page after this event begins at.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor {
            record_at: self.record_time,
            chain: self.part.chain,
            place: Place {
                offset: self.address.offset,
                index: self.address.index.unwrap_or_default(),
            },
        }
    }
}

struct FoundRow {
    topic: String,
    partition: i32,
    source: String,
    incarnation: i32,
    chain: i32,
    record_offset: i64,
    index: i32,
    part: i64,
    reason: String,
    field: String,
    detail: String,
    record_at: DateTime<Utc>,
    payload_bytes: i64,
    payload: Vec<u8>,
    payload_digest: uuid::Uuid,
    adjustment: Option<i64>,
    accepted: Option<i64>,
    duplicates: Option<i64>,
    ignored: Option<i64>,
    kind: Option<String>,
    made_at: Option<DateTime<Utc>>,
    made_by: Option<String>,
    because: Option<String>,
}

impl FoundRow {
    fn resolved(&self) -> Result<Option<Resolved>, StoreError> {
        let Some(adjustment) = self.adjustment else {
            return Ok(None);
        };
        // An adjustment that is missing shows as one without a name; `verify` says what it is.
        let count = |stored: Option<i64>| u64::try_from(stored.unwrap_or(0)).unwrap_or(0);
        Ok(Some(Resolved {
            kind: self.kind.clone().unwrap_or_default(),
            adjustment: PartNumber(adjustment),
            at: self.made_at.map_or(Ok(UnixMs::FIRST), instant)?,
            by: self.made_by.clone().unwrap_or_default(),
            because: self.because.clone().unwrap_or_default(),
            accepted: count(self.accepted),
            duplicates: count(self.duplicates),
            ignored: count(self.ignored),
        }))
    }

    fn read(self) -> Result<RejectedPayload, StoreError> {
        let corrupt = |what: &str| {
            let place = format!("{}/{}/{}", self.topic, self.partition, self.record_offset);
            StoreError::Corrupt(format!(
                "the rejected event at {place} has {what} below zero"
            ))
        };
        let resolved = self.resolved()?;
        let index = u32::try_from(self.index).map_err(|_| corrupt("an index"))?;
        let payload_bytes = u64::try_from(self.payload_bytes).map_err(|_| corrupt("a length"))?;
        let event = Rejected {
            address: Address {
                topic: self.topic,
                partition: self.partition,
                offset: Offset(self.record_offset),
                index: Some(index),
            },
            source: self.source,
            incarnation: self.incarnation,
            part: PartRef {
                chain: ChainId(self.chain),
                number: PartNumber(self.part),
            },
            reason: self.reason,
            field: self.field,
            detail: self.detail,
            record_time: instant(self.record_at)?,
            payload_bytes,
            resolved,
        };
        let payload_digest = Hash128::from_bytes(self.payload_digest.into_bytes());
        Ok(RejectedPayload {
            event,
            payload: self.payload,
            payload_digest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Cursor};

    #[test]
    fn addresses_and_cursors_read_back_as_they_are_written() {
        for text in ["usage.envoy/0/17", "usage-a_b/3/9223372036854775807/4"] {
            let address: Address = text.parse().expect("a place");
            assert_eq!(
                address.to_string(),
                text,
                "the address is the text it came from"
            );
        }
        for text in ["1763700000123.4.17.0", "0.1.0.3"] {
            let cursor: Cursor = text.parse().expect("a cursor");
            assert_eq!(
                cursor.to_string(),
                text,
                "the cursor is the text it came from"
            );
        }
    }

    #[test]
    fn texts_that_are_no_place_are_refused() {
        for text in [
            "",
            "t",
            "t/0",
            "t/0/x",
            "t/-1/0",
            "t/0/-1",
            "/0/1",
            "t/0/1/2/3",
            "t/0/1/-1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?} is no place");
        }
        for text in ["", "1.2.3", "1.2.3.4.5", "-1.2.3.4", "1.2.3.-4", "a.b.c.d"] {
            assert!(text.parse::<Cursor>().is_err(), "{text:?} is no cursor");
        }
    }
}
