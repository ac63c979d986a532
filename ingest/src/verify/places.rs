//! The offsets of an adjustment's part, which count what it corrects.
//!
//! Invariant: what is sound here is resolved once each, in order, without a gap. Deliberately absent:
//! what the corrected events fold to.

use domain::adjustment::AdjustmentKind;
use domain::part::PartHeader;
use store::audit::StoredAdjustment;

/// Returns in words what does not fit together in a part's offsets, counts and rows; `None` where all
/// does.
pub(super) fn unsound(
    header: &PartHeader,
    rows: &StoredAdjustment,
    kind: AdjustmentKind,
) -> Option<String> {
    let number = header.part.number.0;
    let counted = header.counts.records;
    let length = header.to.0.checked_sub(header.from.0);
    if length.and_then(|length| u64::try_from(length).ok()) != Some(counted) {
        return Some(format!(
            "part {number} reaches from {} to {}, but counts {counted} corrections",
            header.from.0, header.to.0
        ));
    }
    let places = rows.resolutions.iter().map(|found| found.at.0);
    let resolved = match kind {
        AdjustmentKind::Retry | AdjustmentKind::Drop => header.from.0..header.to.0,
        AdjustmentKind::Reprice => 0..0,
    };
    if !places.eq(resolved) {
        return Some(format!(
            "part {number} does not resolve one rejected event at each of its offsets"
        ));
    }
    let offsets = header.from.0..header.to.0;
    let is_of_part = |at: i64| offsets.contains(&at);
    let mut duplicates = rows.duplicates.iter();
    if !duplicates.all(|duplicate| is_of_part(duplicate.place.offset.0)) {
        return Some(format!(
            "part {number} has rows at offsets that are not its own"
        ));
    }
    let ignored = rows.resolutions.iter().map(|found| found.ignored);
    let ignored = ignored.fold(0_u64, u64::saturating_add);
    let told = header.counts.ignored;
    (ignored != told).then(|| {
        format!(
            "part {number} counts {told} ignored events, but its rejected events hold {ignored}"
        )
    })
}

#[cfg(test)]
mod tests {
    use domain::adjustment::Resolution;
    use domain::hash::Hash256;
    use domain::ids::{ChainId, Epoch, Offset, PartNumber, PartRef, Place, Version};
    use domain::part::{Counts, FOLD_VERSION};

    use super::*;

    fn resolution(at: i64, ignored: u64) -> Resolution {
        Resolution {
            at: Offset(at),
            chain: ChainId(1),
            place: Place {
                offset: Offset(at),
                index: 0,
            },
            accepted: 1,
            duplicates: 0,
            ignored,
        }
    }

    /// A part that resolves what stands at offsets 5 and 6, one ignored event in it.
    fn part() -> (PartHeader, StoredAdjustment) {
        let header = PartHeader {
            part: PartRef {
                chain: ChainId(2),
                number: PartNumber(3),
            },
            epoch: Epoch(1),
            from: Offset(5),
            to: Offset(7),
            counts: Counts {
                records: 2,
                accepted: 2,
                ignored: 1,
                ..Counts::default()
            },
            fold_version: FOLD_VERSION,
            floor: None,
            prices: Version(1),
            sources: Version(1),
            skipped: None,
            previous: Hash256::ZERO,
        };
        let rows = StoredAdjustment {
            resolutions: vec![resolution(5, 1), resolution(6, 0)],
            ..StoredAdjustment::default()
        };
        (header, rows)
    }

    type Fault = fn(&mut PartHeader, &mut StoredAdjustment);

    #[test]
    fn what_does_not_fit_together_is_told() {
        let (header, rows) = part();
        assert_eq!(
            unsound(&header, &rows, AdjustmentKind::Retry),
            None,
            "sound"
        );
        let faults: [(Fault, &str); 5] = [
            (|header, _| header.to = Offset(8), "reaches from 5 to 8"),
            (
                |header, _| header.counts.records = 3,
                "counts 3 corrections",
            ),
            (|_, rows| rows.resolutions[1] = resolution(5, 0), "at each"),
            (|_, rows| rows.resolutions.truncate(1), "at each"),
            (|header, _| header.counts.ignored = 0, "counts 0 ignored"),
        ];
        for (fault, says) in faults {
            let (mut header, mut rows) = part();
            fault(&mut header, &mut rows);
            let told = unsound(&header, &rows, AdjustmentKind::Retry).unwrap_or_default();
            assert!(told.contains(says), "{told:?} does not say {says:?}");
        }
        let as_reprice = unsound(&header, &rows, AdjustmentKind::Reprice);
        assert!(as_reprice.is_some(), "a re-pricing resolves nothing");
    }
}
