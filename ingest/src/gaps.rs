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

#[cfg(test)]
mod tests {
    use domain::hash::Hash128;

    use super::*;

    fn folded(position: i64, anchor: Option<i64>) -> FoldedTo {
        let hash = Hash128::of(b"record");
        FoldedTo {
            chain: ChainId(7),
            epoch: Epoch(3),
            position: Offset(position),
            anchor: anchor.map(|offset| Fingerprint {
                offset: Offset(offset),
                hash,
            }),
        }
    }

    fn range(start: i64, end: i64) -> LogRange {
        LogRange {
            start: Offset(start),
            end: Offset(end),
        }
    }

    #[test]
    fn a_position_within_the_log_is_no_gap_and_outside_it_is_one() {
        let check = |position, start, end, expected: Option<GapCause>| {
            let cause = folded(position, None)
                .outside(range(start, end))
                .map(|gap| gap.cause);
            assert_eq!(cause, expected, "position {position} of {start}..{end}");
        };
        check(3, 3, 9, None);
        check(9, 3, 9, None);
        check(5, 3, 9, None);
        check(0, 0, 0, None);
        check(2, 3, 9, Some(GapCause::Truncated));
        check(10, 3, 9, Some(GapCause::Recreated));
    }

    #[test]
    fn what_was_folded_after_the_anchor_is_in_doubt_only_where_the_log_is_another() {
        let check = |gap: NewGap, expected: Option<(i64, i64)>| {
            let expected = expected.map(|(from, to)| (Offset(from), Offset(to)));
            assert_eq!(gap.doubtful, expected, "{}", gap.detail);
        };
        let record = Fingerprint {
            offset: Offset(8),
            hash: Hash128::of(b"other"),
        };
        check(
            folded(9, Some(4)).differs(range(0, 50), record),
            Some((5, 9)),
        );
        check(folded(9, Some(8)).differs(range(0, 50), record), None);
        check(folded(9, None).differs(range(0, 50), record), None);
        let truncated = folded(9, Some(4))
            .outside(range(20, 50))
            .expect("cut before the position");
        check(truncated, None);
    }
}
