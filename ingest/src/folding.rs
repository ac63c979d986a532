//! The fold of one part: its records, decoded, checked for their age, priced and posted.
//!
//! Invariant: the same records under the same rules fold to the same rows, however often they are
//! folded; `verify` folds by this code too. Deliberately absent: Postgres and Kafka.

use std::collections::HashMap;
use std::sync::Arc;

use domain::event::{AgeRule, UsageEvent};
use domain::fold::{BatchFold, Folder};
use domain::hash::HashKey;
use domain::ids::{Offset, Place};
use domain::part::RejectedEvent;
use domain::reject::{Reason, Rejection};
use domain::time::UnixMs;
use parking_lot::RwLock;
use service::random;

use crate::decode::{Decoded, Decoder, PAYLOAD_MAX};
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

/// Makes a folder by rules.
pub(crate) fn folder_of(rules: &Rules) -> Folder {
    Folder::new(Arc::clone(&rules.book), drawn_key()).counting_by(rules.limits.clone())
}

/// Draws a key of a folder's own.
pub(crate) fn drawn_key() -> HashKey {
    HashKey::new(random::words())
}

/// One record, besides its headers and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its offset.
    pub(crate) offset: Offset,
    /// When the broker says it was written; the first instant where it does not say.
    pub(crate) time: UnixMs,
}

/// Folds the events of records into one part of a batch. All of them are in it once this is dropped, and not
/// before: events are posted together.
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

impl Drop for PartTarget<'_> {
    fn drop(&mut self) {
        self.folder.post(self.fold);
    }
}

impl PartTarget<'_> {
    /// Folds one record: every event in it is accepted, ignored or rejected.
    pub(crate) fn fold_record(
        &mut self,
        record: Record,
        headers: &Headers,
        payload: Option<&[u8]>,
    ) {
        let Some(part) = self.fold.part_mut(self.part_index) else {
            return;
        };
        part.count_record();
        if let Some(value) = payload
            && value.len() > PAYLOAD_MAX
        {
            let place = Place {
                offset: record.offset,
                index: 0,
            };
            let bytes = value.len();
            let detail = format!("the record has {bytes} bytes, more than are parsed");
            let rejection = Rejection::new(Reason::TooLarge, "", detail);
            part.reject(RejectedEvent::new(place, rejection, record.time, value));
            return;
        }
        let decoder = self.decoder;
        decoder.decode_record(headers, payload, &mut |index, bytes, decoded| {
            let place = Place {
                offset: record.offset,
                index,
            };
            // Looked at where it is: an event is large, and each step that hands it on copies it.
            let rejection = match decoded {
                Decoded::Event(ref event) => self.fold_event(place, record.time, event).err(),
                Decoded::Ignored(_) => {
                    if let Some(part) = self.fold.part_mut(self.part_index) {
                        part.ignore();
                    }
                    None
                }
                Decoded::Rejected(rejection) => Some(rejection),
            };
            if let (Some(rejection), Some(part)) = (rejection, self.fold.part_mut(self.part_index))
            {
                part.reject(RejectedEvent::new(place, rejection, record.time, bytes));
            }
        });
    }

    fn fold_event(
        &mut self,
        place: Place,
        record: UnixMs,
        event: &UsageEvent<'_>,
    ) -> Result<(), Rejection> {
        let age = self.ages.of(event);
        age.check(event.start, record, self.decoder.time_field())?;
        self.folder
            .fold_soon(self.fold, self.part_index, place, event)
    }
}
