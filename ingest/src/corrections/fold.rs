//! Folds a rejected event's own bytes again.
//!
//! Invariant: a pure function of the bytes, the rules, the floor and what was accepted: `verify` folds
//! a retry by the same code. An event is resolved as a whole: where any part of it still cannot become
//! usage, all of it stays rejected. Deliberately absent: Kafka and Postgres.

use std::sync::Arc;

use domain::adjustment::Resolution;
use domain::counting::LogLimits;
use domain::event::UsageEvent;
use domain::fold::{BatchFold, Folder};
use domain::ids::{ChainId, Offset, PartRef, Place};
use domain::reject::{Reason, Rejection};
use domain::time::UnixMs;
use store::adjust::Retried;

use crate::accounts::count_accounts;
use crate::decode::{Decoded, Decoder};
use crate::folding::Ages;

/// A rejected event with all of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retryable {
    /// The chain that rejected it.
    pub(crate) chain: ChainId,
    /// Where it stands in the log.
    pub(crate) place: Place,
    /// When the broker says that its record was written.
    pub(crate) record_time: UnixMs,
    /// Why it was rejected.
    pub(crate) reason: Reason,
    /// Its bytes.
    pub(crate) payload: Vec<u8>,
}

/// How rejected events of one source are folded again.
pub(crate) struct RetryFold<'f> {
    /// How the source is decoded.
    pub(crate) decoder: &'f Decoder,
    /// Prices and posts.
    pub(crate) folder: &'f mut Folder,
    /// The floor of the source's ids.
    pub(crate) floor: Option<UnixMs>,
    /// Events too old to be known again are taken.
    pub(crate) accepts_duplicates: bool,
    /// The limits that count from the log, if any; its folder's.
    pub(crate) limits: Option<&'f Arc<LogLimits>>,
}

/// What became of the events in a rejected one.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    events: u64,
    ignored: u64,
}

impl RetryFold<'_> {
    /// Folds the events into the part whose corrections begin at an offset. Returns what was folded,
    /// and for each event in order why it stays rejected, if it does.
    pub(crate) fn fold(
        &mut self,
        part: PartRef,
        from: Offset,
        events: &[Retryable],
    ) -> (Retried, Vec<Option<Rejection>>) {
        let mut fold = BatchFold::default();
        count_accounts(&mut fold, self.limits);
        let part_index = fold.open_part(part);
        let mut resolutions = Vec::new();
        let mut kept = Vec::with_capacity(events.len());
        let mut at = from;
        for event in events {
            match self.judge(part, event) {
                Ok(tally) => {
                    self.post(&mut fold, part_index, at, event);
                    resolutions.push(Resolution {
                        at,
                        chain: event.chain,
                        place: event.place,
                        accepted: tally.events,
                        duplicates: 0,
                        ignored: tally.ignored,
                    });
                    at = at.next();
                    kept.push(None);
                }
                Err(rejection) => kept.push(Some(rejection)),
            }
        }
        fold.take_ids();
        let retried = Retried { fold, resolutions };
        (retried, kept)
    }

    /// Folds an event aside, to see whether all of it becomes usage.
    fn judge(&mut self, part: PartRef, event: &Retryable) -> Result<Tally, Rejection> {
        let mut aside = BatchFold::default();
        let part_index = aside.open_part(part);
        let mut tally = Tally::default();
        let mut refused = None;
        let decoder = self.decoder;
        if let Some(rejection) = nested(event) {
            return Err(rejection);
        }
        decoder.decode(Some(&event.payload), &mut |index, _, decoded| {
            let place = Place {
                offset: Offset(0),
                index,
            };
            let rejection = match decoded {
                Decoded::Event(usage) => {
                    tally.events = tally.events.saturating_add(1);
                    self.check_age(&usage, event.record_time)
                        .and_then(|()| self.folder.fold(&mut aside, part_index, place, &usage))
                        .err()
                }
                Decoded::Ignored(_) => {
                    tally.ignored = tally.ignored.saturating_add(1);
                    None
                }
                Decoded::Rejected(rejection) => Some(rejection),
            };
            if refused.is_none() {
                refused = rejection;
            }
        });
        refused.map_or(Ok(tally), Err)
    }

    /// As a batch checks it, but that what is too old may be taken on demand.
    fn check_age(&self, usage: &UsageEvent<'_>, record: UnixMs) -> Result<(), Rejection> {
        let ages = Ages::above(self.floor);
        let rule = ages.of(usage);
        let checked = rule.check(usage.start, record, self.decoder.time_field());
        match checked {
            Err(rejection)
                if self.accepts_duplicates
                    && matches!(rejection.reason, Reason::TooOld | Reason::BelowFloor) =>
            {
                Ok(())
            }
            checked => checked,
        }
    }

    /// Posts what was judged to be usage.
    fn post(&mut self, fold: &mut BatchFold, part_index: usize, at: Offset, event: &Retryable) {
        let decoder = self.decoder;
        decoder.decode(
            Some(&event.payload),
            &mut |index, _, decoded| match decoded {
                Decoded::Event(usage) => {
                    let place = Place { offset: at, index };
                    // It was folded aside by the same rules a moment ago.
                    let folded = self.folder.fold(fold, part_index, place, &usage);
                    debug_assert!(folded.is_ok(), "what was judged to fit fits: {folded:?}");
                }
                Decoded::Ignored(_) | Decoded::Rejected(_) => {}
            },
        );
    }
}

/// An array within an array is no event, also where it is looked at alone.
fn nested(event: &Retryable) -> Option<Rejection> {
    let is_array = event.payload.trim_ascii().first() == Some(&b'[');
    (event.reason == Reason::NotAnObject && is_array).then(|| {
        Rejection::new(
            Reason::NotAnObject,
            "",
            "an array within an array is no event",
        )
    })
}
