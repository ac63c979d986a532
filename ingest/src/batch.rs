//! Records as they came from Kafka, gathered into a batch.
//!
//! Invariant: a batch owns its bytes, so that it can be folded again when a price changed or a
//! partition was lost, without asking Kafka. Bounded by count and by bytes.

mod chunks;

use std::sync::Arc;

use domain::hash::Hash128;
use domain::ids::Offset;
use domain::part::PAYLOAD_KEPT_MAX;
use domain::time::UnixMs;
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use store::claim::Fingerprint;

use crate::assignment::Assignment;
use crate::decode::PAYLOAD_MAX;
use crate::headers::Headers;
use crate::kafka::fingerprint;
use crate::observe::spans::BatchSpan;
pub(crate) use chunks::Spares;
use chunks::{Chunks, HeldBytes};

/// A record's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    /// No value: a tombstone.
    None,
    /// These bytes of the batch.
    Held(HeldBytes),
    /// Larger than is parsed.
    Oversized(Box<Oversized>),
}

/// What is kept of a record that is larger than is parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Oversized {
    /// The first bytes.
    pub(crate) kept: Vec<u8>,
    /// The full length.
    pub(crate) bytes: u64,
    /// The hash of all bytes.
    pub(crate) digest: Hash128,
    /// The record's fingerprint, taken while all of it was at hand.
    pub(crate) fingerprint: Hash128,
}

impl Payload {
    fn oversized(time_ms: i64, key: Option<&[u8]>, value: &[u8]) -> Self {
        Self::Oversized(Box::new(Oversized {
            kept: value.get(..PAYLOAD_KEPT_MAX).unwrap_or(value).to_vec(),
            bytes: value.len() as u64,
            digest: Hash128::of(value),
            fingerprint: fingerprint(time_ms, key, Some(value)),
        }))
    }

    /// Makes the payload of a record whose bytes its owner keeps.
    pub(crate) fn kept_elsewhere(time_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        match value {
            None => Self::None,
            Some(value) if value.len() > PAYLOAD_MAX => Self::oversized(time_ms, key, value),
            Some(_) => Self::Held(HeldBytes::default()),
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its offset.
    pub(crate) offset: Offset,
    /// When the broker says it was written; the first instant where it does not say.
    pub(crate) time: UnixMs,
    /// Its value.
    pub(crate) payload: Payload,
}

/// The records of one assignment, in the order of their offsets.
pub(crate) struct Slice {
    /// Whose they are.
    pub(crate) assignment: Arc<Assignment>,
    /// The records; never empty.
    pub(crate) records: Vec<Record>,
    /// The records' headers, one each, where the source's format reads them; else none.
    headers: Vec<Headers>,
    tail_time: i64,
    tail_key: Option<Vec<u8>>,
}

impl Slice {
    /// Returns the records with their headers.
    pub(crate) fn with_headers(&self) -> impl Iterator<Item = (&Record, &Headers)> {
        let headers = self.headers.iter().chain(std::iter::repeat(Headers::NONE));
        self.records.iter().zip(headers)
    }
}

/// Records of several partitions, to be folded in one transaction.
#[derive(Default)]
pub(crate) struct RawBatch {
    /// One slice per partition.
    pub(crate) slices: Vec<Slice>,
    /// Values, one after another.
    chunks: Chunks,
    bytes: usize,
    records: usize,
    /// What it is traced by.
    pub(crate) span: BatchSpan,
    /// How many records a new slice has room for.
    slice_room: usize,
    /// How many records all new slices together have room for: what the other batch had, however many
    /// slices there will be.
    room_left: usize,
}

impl RawBatch {
    /// Makes an empty batch with room for as many records as another one holds: under load batches
    /// are alike, and growing step by step would copy each of them once more. Its bytes lie in spare
    /// pieces of memory, and give them back.
    pub(crate) fn with_room_of(other: &Self, spares: &Spares) -> Self {
        let room = other.records.checked_div(other.slices.len());
        Self {
            chunks: Chunks::of(spares),
            slice_room: room.unwrap_or(0),
            room_left: other.records,
            ..Self::default()
        }
    }

    /// Puts an empty batch in its place, with as much room, and returns it.
    pub(crate) fn replaced(&mut self, spares: &Spares) -> Self {
        let next = Self::with_room_of(self, spares);
        std::mem::replace(self, next)
    }

    /// Adds a record at the end of its partition's slice.
    pub(crate) fn push(&mut self, assignment: &Arc<Assignment>, message: &BorrowedMessage<'_>) {
        let payload = match message.payload() {
            None => Payload::None,
            Some(value) if value.len() > PAYLOAD_MAX => {
                let time = message.timestamp().to_millis().unwrap_or(-1);
                Payload::oversized(time, message.key(), value)
            }
            Some(value) => {
                self.bytes += value.len();
                Payload::Held(self.chunks.hold(value))
            }
        };
        let tail_time = message.timestamp().to_millis().unwrap_or(-1);
        let record = Record {
            offset: Offset(message.offset()),
            time: UnixMs::new(tail_time).unwrap_or(UnixMs::FIRST),
            payload,
        };
        if let Payload::Oversized(oversized) = &record.payload {
            self.bytes += oversized.kept.len();
        }
        self.span.link(message);
        self.records += 1;
        if assignment.reads_headers {
            let headers = Headers::of(message);
            self.bytes += headers.bytes();
            self.slice_of(assignment).headers.push(headers);
        }
        let slice = self.slice_of(assignment);
        slice.records.push(record);
        slice.tail_time = tail_time;
        match (&mut slice.tail_key, message.key()) {
            (Some(kept), Some(key)) => {
                kept.clear();
                kept.extend_from_slice(key);
            }
            (kept, key) => *kept = key.map(<[u8]>::to_vec),
        }
    }

    fn slice_of(&mut self, assignment: &Arc<Assignment>) -> &mut Slice {
        let found = self
            .slices
            .iter()
            .position(|slice| slice.assignment.id == assignment.id);
        let index = found.unwrap_or_else(|| {
            let room = self.slice_room.min(self.room_left);
            self.room_left -= room;
            self.slices.push(Slice {
                assignment: Arc::clone(assignment),
                records: Vec::with_capacity(room),
                headers: Vec::new(),
                tail_time: -1,
                tail_key: None,
            });
            self.slices.len() - 1
        });
        &mut self.slices[index]
    }

    /// Returns the number of records.
    #[must_use]
    pub(crate) const fn records(&self) -> usize {
        self.records
    }

    /// Returns the number of bytes held.
    #[must_use]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the bytes of a payload; `None` for a tombstone or an oversized one.
    #[must_use]
    pub(crate) fn payload(&self, payload: &Payload) -> Option<&[u8]> {
        match payload {
            Payload::Held(held) => self.chunks.get(*held),
            Payload::None | Payload::Oversized(_) => None,
        }
    }

    /// Returns the fingerprint of a slice's last record.
    #[must_use]
    pub(crate) fn tail(&self, slice: &Slice) -> Option<Fingerprint> {
        let last = slice.records.last()?;
        let hash = match &last.payload {
            Payload::Oversized(oversized) => oversized.fingerprint,
            held => fingerprint(
                slice.tail_time,
                slice.tail_key.as_deref(),
                self.payload(held),
            ),
        };
        Some(Fingerprint {
            offset: last.offset,
            hash,
        })
    }

    /// Drops the slices whose assignment has ended; says whether any was dropped.
    pub(crate) fn drop_ended(&mut self) -> bool {
        let before = self.slices.len();
        self.slices.retain(|slice| slice.assignment.is_open());
        self.records = self.slices.iter().map(|slice| slice.records.len()).sum();
        before != self.slices.len()
    }
}
