//! A part's stored rows against the rows that its records fold to again.
//!
//! Invariant: each difference names the row by what a person knows it by: offset and index, or
//! application, model and quarter-hour. Deliberately absent: hashes, see `links`.

use std::collections::BTreeMap;

use domain::fold::{ClosedBatch, Posting, PostingKey, Sums};
use domain::ids::{PartNumber, Place};
use domain::meter::Meter;
use domain::part::{Counts, Duplicate, PartHeader, RejectedEvent};
use store::audit::StoredRows;

use super::report::Findings;

/// Compares one part; says how many records it was folded from.
pub(super) fn part(
    header: &PartHeader,
    stored: &StoredRows,
    refolded: &ClosedBatch,
    findings: &mut Findings,
) -> u64 {
    let Some(part) = refolded.parts.first() else {
        return 0;
    };
    let number = header.part.number;
    counts(number, &header.counts, &part.counts, findings);
    let told = "rejected event";
    by_place(
        number,
        told,
        &stored.rejected,
        &part.rejected,
        rejected_place,
        findings,
    );
    let told = "duplicate";
    by_place(
        number,
        told,
        &stored.duplicates,
        &part.duplicates,
        duplicate_place,
        findings,
    );
    // Last, since a wrong duplicate changes many of them.
    postings(number, &stored.postings, &part.postings, refolded, findings);
    part.counts.records
}

fn rejected_place(rejected: &RejectedEvent) -> (Place, String) {
    let digest = rejected.payload_digest;
    (
        rejected.place,
        format!("{}, payload {digest}", rejected.rejection),
    )
}

fn duplicate_place(duplicate: &Duplicate) -> (Place, String) {
    let first = duplicate.first;
    let identity = duplicate.identity.to_bits();
    let (chain, number) = (first.chain.0, first.number.0);
    (
        duplicate.place,
        format!("{identity:032x} of chain {chain}, part {number}"),
    )
}

fn counts(number: PartNumber, stored: &Counts, refolded: &Counts, findings: &mut Findings) {
    for (what, stored, refolded) in [
        ("records", stored.records, refolded.records),
        ("accepted events", stored.accepted, refolded.accepted),
        ("duplicates", stored.duplicates, refolded.duplicates),
        ("rejected events", stored.rejected, refolded.rejected),
        ("ignored events", stored.ignored, refolded.ignored),
    ] {
        if stored != refolded {
            findings.differs(format!(
                "part {} counts {stored} {what}, but its records hold {refolded}",
                number.0
            ));
        }
    }
}

/// Rows of one kind, by what they are told apart by. A key holds several rows only where sums were
/// full, or where somebody put a row beside another.
fn grouped<K: Ord, R>(rows: &[R], key: impl Fn(&R) -> K) -> BTreeMap<K, Vec<&R>> {
    let mut groups: BTreeMap<K, Vec<&R>> = BTreeMap::new();
    for row in rows {
        groups.entry(key(row)).or_default().push(row);
    }
    groups
}

fn by_place<R: PartialEq>(
    number: PartNumber,
    told: &str,
    stored: &[R],
    refolded: &[R],
    describe: impl Fn(&R) -> (Place, String),
    findings: &mut Findings,
) {
    if stored == refolded {
        return;
    }
    let stored = grouped(stored, |row| describe(row).0);
    let refolded = grouped(refolded, |row| describe(row).0);
    let words = |rows: Option<&Vec<&R>>| match rows.and_then(|rows| rows.first()) {
        Some(row) => describe(row).1,
        None => "none".to_owned(),
    };
    let places = stored
        .keys()
        .chain(refolded.keys().filter(|place| !stored.contains_key(place)));
    for place in places {
        let (ours, theirs) = (stored.get(place), refolded.get(place));
        if ours != theirs {
            findings.differs(format!(
                "part {}, {told} at offset {}, index {}: stored is {}, its record folds to {}",
                number.0,
                place.offset.0,
                place.index,
                words(ours),
                words(theirs)
            ));
        }
    }
}

fn postings(
    number: PartNumber,
    stored: &[Posting],
    refolded: &[Posting],
    batch: &ClosedBatch,
    findings: &mut Findings,
) {
    if stored == refolded {
        return;
    }
    let stored = grouped(stored, |posting| posting.key);
    let refolded = grouped(refolded, |posting| posting.key);
    let keys = stored
        .keys()
        .chain(refolded.keys().filter(|key| !stored.contains_key(key)));
    for key in keys {
        let (ours, theirs) = (stored.get(key), refolded.get(key));
        if ours == theirs {
            continue;
        }
        let what = match (ours.map(Vec::as_slice), theirs.map(Vec::as_slice)) {
            (Some([stored]), Some([refolded])) => first_difference(&stored.sums, &refolded.sums),
            (Some(rows), None) => format!("{} rows are stored, its records have none", rows.len()),
            (None, Some(_)) => "no row is stored, its records have one".to_owned(),
            (stored, refolded) => format!(
                "{} rows are stored, its records fold to {}",
                stored.map_or(0, <[_]>::len),
                refolded.map_or(0, <[_]>::len)
            ),
        };
        let place = describe_key(key, batch);
        findings.differs(format!("part {}, posting of {place}: {what}", number.0));
    }
}

fn describe_key(key: &PostingKey, batch: &ClosedBatch) -> String {
    let start = key.quarter.start();
    match batch.series.get(&key.series) {
        Some(series) => format!("app {:?}, model {:?} at {start}", series.app, series.model),
        None => format!("series {} at {start}", key.series.0),
    }
}

fn first_difference(stored: &Sums, refolded: &Sums) -> String {
    let mut columns: Vec<(&str, String, String)> = Meter::ALL
        .into_iter()
        .map(|meter| {
            let text = |sums: &Sums| sums.quantities.get(meter).to_string();
            (meter.name(), text(stored), text(refolded))
        })
        .collect();
    let text = |sums: &Sums| {
        [
            sums.failed_requests,
            sums.unmeasured_requests,
            sums.priced_requests,
            sums.unpriced_requests,
        ]
        .map(|count| count.to_string())
    };
    let names = [
        "failed_requests",
        "unmeasured_requests",
        "priced_requests",
        "unpriced_requests",
    ];
    for ((name, stored), refolded) in names.into_iter().zip(text(stored)).zip(text(refolded)) {
        columns.push((name, stored, refolded));
    }
    columns.push((
        "amount",
        stored.amount.to_string(),
        refolded.amount.to_string(),
    ));
    let differing: Vec<String> = columns
        .into_iter()
        .filter(|(_, stored, refolded)| stored != refolded)
        .map(|(name, stored, refolded)| {
            format!("{name} is {stored}, its records sum to {refolded}")
        })
        .collect();
    differing.join("; ")
}
