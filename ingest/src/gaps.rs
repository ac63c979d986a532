//! Gaps: how a log that is not the one that was folded is told apart, and named.
//!
//! Invariant: a gap names where the chain stood, what the log holds now, and every offset whose
//! folding is in doubt. Deliberately absent: reading the log, and recording.

use domain::ids::{ChainId, Epoch, Offset};
use store::claim::Fingerprint;
use store::gap::{GapCause, NewGap};

use crate::kafka::LogRange;

/// How far a chain was folded, as its owner knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoldedTo {
    /// The chain.
    pub(crate) chain: ChainId,
    /// The owner's epoch.
    pub(crate) epoch: Epoch,
    /// The next offset to read.
    pub(crate) position: Offset,
    /// The last folded record that was read again and was still there.
    pub(crate) anchor: Option<Fingerprint>,
}

impl FoldedTo {
    /// Returns the gap where the log's range no longer holds the position.
    ///
    /// | position | gap |
    /// | --- | --- |
    /// | before the log's start | truncated: records were deleted unread |
    /// | from the start to the end, both included | none |
    /// | beyond the end | recreated |
    #[must_use]
    pub(crate) fn outside(&self, range: LogRange) -> Option<NewGap> {
        if self.position > range.end {
            let detail = format!(
                "the log ends at {} but {} was folded: it was created anew or lost records",
                range.end.0, self.position.0
            );
            return Some(self.gap(GapCause::Recreated, range, detail));
        }
        if self.position < range.start {
            let detail = format!(
                "the log begins at {} but only up to {} was folded: records were deleted unread",
                range.start.0, self.position.0
            );
            return Some(self.gap(GapCause::Truncated, range, detail));
        }
        None
    }

    /// Returns the gap where a folded record is not what stands at its offset now.
    #[must_use]
    pub(crate) fn differs(&self, range: LogRange, record: Fingerprint) -> NewGap {
        let detail = format!(
            "the record that was folded at offset {} is not there any more: the topic was created \
             anew",
            record.offset.0
        );
        self.gap(GapCause::Recreated, range, detail)
    }

    fn gap(&self, cause: GapCause, range: LogRange, detail: String) -> NewGap {
        let doubtful = self
            .anchor
            .map(|anchor| (anchor.offset.next(), self.position))
            .filter(|(from, to)| cause == GapCause::Recreated && from < to);
        NewGap {
            chain: self.chain,
            epoch: self.epoch,
            cause,
            position: self.position,
            log_start: range.start,
            log_end: range.end,
            doubtful,
            detail,
        }
    }
}
