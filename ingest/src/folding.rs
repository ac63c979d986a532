//! The folding thread: raw batches into folded ones.
//!
//! Invariant: the same records under the same rules fold to the same rows, however often they are
//! folded. Deliberately absent: Postgres and Kafka.

use std::collections::HashMap;
use std::sync::Arc;

use domain::event::{AgeRule, UsageEvent};
use domain::fold::{BatchFold, Folder};
use domain::hash::HashKey;
use domain::ids::{PartRef, Place};
use domain::part::RejectedEvent;
use domain::reject::{Reason, Rejection};
use domain::time::UnixMs;
use parking_lot::RwLock;
use service::random;
use store::in_force::Versions;
use tokio::sync::{mpsc, oneshot};

use crate::accounts::count_accounts;
use crate::assignment::Assignment;
use crate::batch::{Payload, RawBatch, Record};
use crate::decode::{Decoded, Decoder};
use crate::headers::Headers;
use crate::rules::Rules;

/// The floors of the sources, below which ids are gone; refreshed beside the pipeline.
#[derive(Default)]
pub(crate) struct Floors {
    by_source: RwLock<HashMap<usize, UnixMs>>,
}

impl Floors {
    /// Returns the floor of a source by its index; `None` for a new one.
    #[must_use]
    pub(crate) fn of(&self, source: usize) -> Option<UnixMs> {
        self.by_source.read().get(&source).copied()
    }

    /// Raises the floor of a source; it never falls.
    pub(crate) fn raise(&self, source: usize, floor: UnixMs) {
        let mut floors = self.by_source.write();
        let known = floors.entry(source).or_insert(floor);
        *known = (*known).max(floor);
    }
}

/// A batch, folded, with the records that it came from.
pub(crate) struct Folded {
    /// The records, in case they must be folded again.
    pub(crate) raw: RawBatch,
    /// The rows; ids taken. One part per slice of `raw`, in its order.
    pub(crate) fold: BatchFold,
    /// The floor that each slice was folded under.
    pub(crate) floors: Vec<Option<UnixMs>>,
    /// What priced, decoded and counted it.
    pub(crate) versions: Versions,
}

enum Request {
    Fold(RawBatch, Vec<PartRef>, oneshot::Sender<Folded>),
    Use(Arc<Rules>),
}

/// The way to the folding thread.
#[derive(Clone)]
pub(crate) struct FoldingThread {
    requests: mpsc::Sender<Request>,
}

/// The folding thread is gone: it panicked, and the process stops.
#[derive(Debug, thiserror::Error)]
#[error("the folding thread ended")]
pub(crate) struct FoldingEnded;

impl FoldingThread {
    /// Makes the thread's mailbox and its work, to be run on a thread of its own.
    pub(crate) fn prepare(rules: Arc<Rules>, floors: Arc<Floors>) -> (Self, impl FnOnce() + Send) {
        // One folds, one refolds at most; the third waits with its sender.
        let (requests, mailbox) = mpsc::channel(2);
        (Self { requests }, move || serve(mailbox, rules, &floors))
    }

    /// Folds a batch whose slices become these parts, in the same order.
    ///
    /// # Errors
    ///
    /// [`FoldingEnded`]; stop the process.
    pub(crate) async fn fold(
        &self,
        raw: RawBatch,
        parts: Vec<PartRef>,
    ) -> Result<Folded, FoldingEnded> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Fold(raw, parts, reply);
        self.requests
            .send(request)
            .await
            .map_err(|_| FoldingEnded)?;
        answer.await.map_err(|_| FoldingEnded)
    }

    /// Folds everything from now on by other rules.
    ///
    /// # Errors
    ///
    /// [`FoldingEnded`]; stop the process.
    pub(crate) async fn change_rules(&self, rules: Arc<Rules>) -> Result<(), FoldingEnded> {
        self.requests
            .send(Request::Use(rules))
            .await
            .map_err(|_| FoldingEnded)
    }
}

fn serve(mut mailbox: mpsc::Receiver<Request>, mut rules: Arc<Rules>, floors: &Floors) {
    let mut folder = folder_of(&rules);
    while let Some(request) = mailbox.blocking_recv() {
        match request {
            Request::Use(changed) => {
                folder = folder_of(&changed);
                rules = changed;
            }
            Request::Fold(raw, parts, reply) => {
                let folded = fold_batch(&mut folder, &rules, floors, raw, &parts);
                // Nobody waits any more only where the pipeline ended.
                drop(reply.send(folded));
            }
        }
    }
}

/// Makes a folder by rules.
pub(crate) fn folder_of(rules: &Rules) -> Folder {
    Folder::new(Arc::clone(&rules.book), drawn_key()).counting_by(rules.limits.clone())
}

/// Draws a key of a folder's own.
pub(crate) fn drawn_key() -> HashKey {
    HashKey::new(random::words())
}

fn fold_batch(
    folder: &mut Folder,
    rules: &Rules,
    floors: &Floors,
    raw: RawBatch,
    parts: &[PartRef],
) -> Folded {
    let began = raw.span.begin();
    let mut fold = BatchFold::default();
    count_accounts(&mut fold, rules.limits.as_ref());
    let mut used_floors = Vec::with_capacity(raw.slices.len());
    for (slice, part) in raw.slices.iter().zip(parts) {
        let floor = floors.of(slice.assignment.source);
        used_floors.push(floor);
        let part_index = fold.open_part(*part);
        if let Some(part) = fold.part_mut(part_index) {
            part.reserve(slice.records.len());
        }
        let decoder = decoder_of(rules, &slice.assignment);
        let mut target = PartTarget {
            folder,
            fold: &mut fold,
            part_index,
            decoder,
            ages: Ages::above(floor),
        };
        for (record, headers) in slice.with_headers() {
            target.fold_record(record, headers, raw.payload(&record.payload));
        }
    }
    fold.take_ids();
    raw.span.folded(began);
    Folded {
        raw,
        fold,
        floors: used_floors,
        versions: rules.versions,
    }
}

fn decoder_of<'r>(rules: &'r Rules, assignment: &Assignment) -> &'r Decoder {
    rules
        .decoders
        .get(assignment.source)
        .expect("assignments are made from the same sources, in the same order, as the rules")
}

/// Folds the events of records into one part of a batch; what `verify` uses as well.
pub(crate) struct PartTarget<'t> {
    /// Prices and posts.
    pub(crate) folder: &'t mut Folder,
    /// The batch.
    pub(crate) fold: &'t mut BatchFold,
    /// The part's index in the batch.
    pub(crate) part_index: usize,
    /// How the source is decoded.
    pub(crate) decoder: &'t Decoder,
    /// How old events may be.
    pub(crate) ages: Ages,
}

/// How old events may be: log lines, and events whose producers own their ids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ages {
    log_lines: AgeRule,
    of_producers: AgeRule,
}

impl Ages {
    /// Makes the rules above a source's floor.
    pub(crate) fn above(floor: Option<UnixMs>) -> Self {
        Self {
            log_lines: AgeRule::of_log_lines(floor),
            of_producers: AgeRule::of_producers(floor),
        }
    }

    /// Returns the rule of an event.
    pub(crate) const fn of(&self, event: &UsageEvent<'_>) -> &AgeRule {
        match event.payload {
            None => &self.log_lines,
            Some(_) => &self.of_producers,
        }
    }
}

impl PartTarget<'_> {
    /// Folds one record: every event in it is accepted, ignored or rejected.
    pub(crate) fn fold_record(
        &mut self,
        record: &Record,
        headers: &Headers,
        payload: Option<&[u8]>,
    ) {
        let Some(part) = self.fold.part_mut(self.part_index) else {
            return;
        };
        part.count_record();
        if let Payload::Oversized(oversized) = &record.payload {
            let bytes = oversized.bytes;
            let detail = format!("the record has {bytes} bytes, more than are parsed");
            part.reject(RejectedEvent {
                place: Place {
                    offset: record.offset,
                    index: 0,
                },
                rejection: Rejection::new(Reason::TooLarge, "", detail),
                record_time: record.time,
                payload: oversized.kept.clone(),
                payload_bytes: bytes,
                payload_digest: oversized.digest,
            });
            return;
        }
        let decoder = self.decoder;
        decoder.decode_record(headers, payload, &mut |index, bytes, decoded| {
            let place = Place {
                offset: record.offset,
                index,
            };
            self.fold_event(place, record.time, bytes, decoded);
        });
    }

    fn fold_event(&mut self, place: Place, record: UnixMs, bytes: &[u8], decoded: Decoded<'_>) {
        let rejection = match decoded {
            Decoded::Event(event) => self
                .ages
                .of(&event)
                .check(event.start, record, self.decoder.time_field())
                .and_then(|()| self.folder.fold(self.fold, self.part_index, place, &event))
                .err(),
            Decoded::Rejected(rejection) => Some(rejection),
            Decoded::Ignored(_) => {
                if let Some(part) = self.fold.part_mut(self.part_index) {
                    part.ignore();
                }
                None
            }
        };
        if let (Some(rejection), Some(part)) = (rejection, self.fold.part_mut(self.part_index)) {
            part.reject(RejectedEvent::new(place, rejection, record, bytes));
        }
    }
}
