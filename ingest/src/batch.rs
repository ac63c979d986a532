//! A batch: records of several partitions, folded as they are read, to be committed in one transaction.
//!
//! Invariant: what is folded is what was read, in the order of the offsets of each partition; a batch that
//! is not committed is dropped, and its records are read again. Records' bytes are not kept. Bounded by
//! events, and by the bytes that are kept of rejected ones. Deliberately absent: polling (`poll`), SQL.

mod size;

use std::sync::Arc;
use std::time::Duration;

use domain::fold::{BatchFold, Folder, PartFold};
use domain::ids::Offset;
use domain::time::UnixMs;
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use store::claim::Fingerprint;
use store::in_force::Versions;

use crate::accounts::{count_accounts, now};
use crate::assignment::Assignment;
use crate::config::IngestConfig;
use crate::decode::Decoder;
use crate::folding::{Ages, Floors, PartTarget, Record, folder_of};
use crate::headers::Headers;
use crate::kafka::fingerprint;
use crate::observe::spans::{self, BatchSpan};
use crate::rules::{Rules, RulesInUse};
pub(crate) use size::BatchSize;

/// A batch of so many events may be part of a backlog; one of fewer has them by chance.
const BACKLOG_EVENTS: u64 = 2_000;

/// A record that was written so long ago, by the broker's clock or its producer's, waits in a backlog, in ms: longer
/// than shippers gather lines, or clocks differ.
const BACKLOG_LAG_MS: i64 = 5_000;

/// One partition's share of a batch, besides its rows.
pub(crate) struct Slice {
    /// Whose it is.
    pub(crate) assignment: Arc<Assignment>,
    /// The floor that it was folded under.
    pub(crate) floor: Option<UnixMs>,
    /// The offset after its last record.
    pub(crate) to: Offset,
    /// Its last record.
    pub(crate) tail: Option<Fingerprint>,
}

/// A batch whose rows are ready, ids taken.
pub(crate) struct Folded {
    /// The rows; one part per slice, in its order.
    pub(crate) fold: BatchFold,
    /// Whose they are.
    pub(crate) slices: Vec<Slice>,
    /// What priced, decoded and counted it.
    pub(crate) versions: Versions,
    /// What it is traced by.
    pub(crate) span: BatchSpan,
}

/// Folds records into the batch at hand.
pub(crate) struct Batcher {
    in_use: RulesInUse,
    floors: Arc<Floors>,
    size: BatchSize,
    /// The most bytes that are kept of rejected events.
    kept_bytes_max: usize,
    rules: Arc<Rules>,
    folder: Folder,
    batch: Open,
    room: Room,
}

/// How many postings the last batch had: under load batches are alike, and growing step by step would copy
/// each of them once more.
#[derive(Default)]
struct Room {
    of_slice: usize,
    /// What all slices of the next one may take together, however many there will be.
    left: usize,
}

/// The batch at hand.
#[derive(Default)]
struct Open {
    fold: BatchFold,
    slices: Vec<Slice>,
    events: u64,
    postings: u64,
    read_bytes: usize,
    kept_bytes: usize,
    /// When the last record was written that was read, in ms since 1970; -1 where it does not say.
    newest: i64,
    links: spans::Links,
}

impl Batcher {
    /// Makes a batcher by the rules in use.
    pub(crate) fn new(
        in_use: RulesInUse,
        floors: Arc<Floors>,
        size: BatchSize,
        bounds: &IngestConfig,
    ) -> Self {
        let rules = in_use.get();
        Self {
            folder: folder_of(&rules),
            in_use,
            floors,
            size,
            kept_bytes_max: bounds.batch_bytes_max as usize,
            rules,
            batch: Open::default(),
            room: Room::default(),
        }
    }

    /// Says whether nothing was read into the batch.
    pub(crate) const fn is_empty(&self) -> bool {
        self.batch.slices.is_empty()
    }

    /// Says whether the batch should take no more records.
    pub(crate) fn is_full(&self) -> bool {
        let Open {
            events, postings, ..
        } = self.batch;
        // A posting takes some five times the memory of an event.
        let size = events.max(postings.saturating_mul(2));
        size >= self.size.get() || self.batch.kept_bytes >= self.kept_bytes_max
    }

    /// Returns how many records one of so many equal shares of a full batch has; at least one.
    pub(crate) fn share(&self, of: u64) -> usize {
        let share = self.size.get().checked_div(of).unwrap_or(0).max(1);
        usize::try_from(share).unwrap_or(usize::MAX)
    }

    /// Returns how many events the batch has so far.
    pub(crate) const fn events(&self) -> u64 {
        self.batch.events
    }

    /// Says whether the batch takes up what was written long ago, and more than chance brought together.
    pub(crate) fn is_behind(&self) -> bool {
        let Open { events, newest, .. } = self.batch;
        // Of a record that does not say when it was written nothing is known.
        newest >= 0
            && events >= BACKLOG_EVENTS
            && now().get().saturating_sub(newest) >= BACKLOG_LAG_MS
    }

    /// Says whether an assignment has ended whose records are in the batch: it will never be committed.
    pub(crate) fn is_void(&self) -> bool {
        let mut slices = self.batch.slices.iter();
        slices.any(|slice| !slice.assignment.is_open())
    }

    /// Folds messages of one partition, in their order.
    pub(crate) fn fold_run(
        &mut self,
        assignment: &Arc<Assignment>,
        messages: &[BorrowedMessage<'_>],
    ) {
        let Some(last) = messages.last() else {
            return;
        };
        if self.is_empty() {
            self.begin();
        }
        let index = self.slice_of(assignment);
        let Open {
            fold,
            slices,
            events,
            postings,
            read_bytes,
            kept_bytes,
            newest,
            links,
        } = &mut self.batch;
        let Some(slice) = slices.get_mut(index) else {
            return;
        };
        let before = size_of(fold, index);
        let mut target = PartTarget {
            folder: &mut self.folder,
            fold,
            part_index: index,
            decoder: decoder_of(&self.rules, assignment),
            ages: Ages::above(slice.floor),
        };
        for message in messages {
            *read_bytes += fold_message(&mut target, assignment.reads_headers, message);
            links.note(message);
        }
        drop(target);
        *newest = time_of(last);
        let offset = Offset(last.offset());
        slice.to = offset.next();
        slice.tail = Some(Fingerprint {
            offset,
            hash: fingerprint(*newest, last.key(), last.payload()),
        });
        let folded = size_of(fold, index);
        *events += folded.events - before.events;
        *postings += folded.postings - before.postings;
        *kept_bytes += folded.kept_bytes - before.kept_bytes;
    }

    fn slice_of(&mut self, assignment: &Arc<Assignment>) -> usize {
        let slices = &mut self.batch.slices;
        let found = slices
            .iter()
            .position(|slice| slice.assignment.id == assignment.id);
        found.unwrap_or_else(|| {
            let index = self.batch.fold.open_part(assignment.begin_part());
            let room = self.room.of_slice.min(self.room.left);
            self.room.left -= room;
            if let Some(part) = self.batch.fold.part_mut(index) {
                part.reserve(room);
            }
            slices.push(Slice {
                assignment: Arc::clone(assignment),
                floor: self.floors.of(assignment.source),
                to: assignment.start,
                tail: None,
            });
            index
        })
    }

    /// Ends the batch, whose first record was taken so long ago, and puts an empty one in its place.
    pub(crate) fn close(&mut self, took: Duration) -> Folded {
        let Open {
            mut fold,
            slices,
            read_bytes,
            links,
            ..
        } = std::mem::take(&mut self.batch);
        let postings = fold.parts().iter().map(PartFold::postings).sum::<usize>();
        self.room = Room {
            of_slice: postings.checked_div(slices.len()).unwrap_or(0),
            left: postings,
        };
        fold.take_ids();
        let records = fold.parts().iter().map(|part| part.counts().records).sum();
        let places = slices.iter().map(|slice| &slice.assignment.place);
        let span = BatchSpan::folded(took, (records, read_bytes), places, links);
        Folded {
            fold,
            slices,
            versions: self.rules.versions,
            span,
        }
    }

    /// Gives the batch up, and returns whose records were in it, to be read again.
    pub(crate) fn give_up(&mut self) -> Vec<Arc<Assignment>> {
        let given_up = std::mem::take(&mut self.batch).slices;
        given_up.into_iter().map(|slice| slice.assignment).collect()
    }

    /// Has the empty batch fold by the rules that are in use now.
    fn begin(&mut self) {
        let rules = self.in_use.get();
        if !Arc::ptr_eq(&rules, &self.rules) {
            self.folder = folder_of(&rules);
            self.rules = rules;
        }
        count_accounts(&mut self.batch.fold, self.rules.limits.as_ref());
    }
}

/// What a part holds so far.
#[derive(Default)]
struct PartSize {
    events: u64,
    postings: u64,
    /// Bytes that are kept of rejected events.
    kept_bytes: usize,
}

fn size_of(fold: &BatchFold, part_index: usize) -> PartSize {
    let part = fold.parts().get(part_index);
    part.map_or_else(PartSize::default, |part| PartSize {
        events: part.counts().events(),
        postings: u64::try_from(part.postings()).unwrap_or(u64::MAX),
        kept_bytes: part.kept_bytes(),
    })
}

/// Folds a message and returns how many bytes of it were read.
fn fold_message(
    target: &mut PartTarget<'_>,
    reads_headers: bool,
    message: &BorrowedMessage<'_>,
) -> usize {
    let record = Record {
        offset: Offset(message.offset()),
        time: UnixMs::new(time_of(message)).unwrap_or(UnixMs::FIRST),
    };
    let payload = message.payload();
    let mut bytes = payload.map_or(0, <[u8]>::len);
    if reads_headers {
        let headers = Headers::of(message);
        bytes += headers.bytes();
        target.fold_record(record, &headers, payload);
    } else {
        target.fold_record(record, Headers::NONE, payload);
    }
    bytes
}

/// Returns when the broker says that a message was written, in ms since 1970; -1 where it does not say.
fn time_of(message: &BorrowedMessage<'_>) -> i64 {
    message.timestamp().to_millis().unwrap_or(-1)
}

fn decoder_of<'r>(rules: &'r Rules, assignment: &Assignment) -> &'r Decoder {
    rules
        .decoders
        .get(assignment.source)
        .expect("assignments are made from the same sources, in the same order, as the rules")
}
