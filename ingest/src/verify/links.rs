//! What a chain's parts say of themselves and of each other.
//!
//! Invariant: everything that a part's hash covers is read from its rows, nothing from what claims
//! to be their number. Deliberately absent: the log.
//!
//! | rule | of |
//! | --- | --- |
//! | numbers ascend by one from 1 | two parts |
//! | a part names the hash of the part before it, the first one zeros | two parts |
//! | a part begins where the part before it ended, or after the gap that it names | two parts |
//! | epochs never fall | two parts |
//! | the rows are as many as the counts say, and hash to the part's hash | one part |
//! | the last part is the one that the position names, and ends where that says | the chain |

use domain::hash::Hash256;
use domain::ids::{Epoch, Offset, PartNumber};
use domain::meter::Meter;
use domain::part::{HASH_VERSION, PartHeader, PartRows, part_hash};
use store::audit::{Chain, StoredPart, StoredRows, Unreadable};

use super::report::Findings;

/// Follows a chain from part to part.
pub(super) struct Links {
    number: PartNumber,
    hash: Hash256,
    end: Option<Offset>,
    epoch: Epoch,
    begin: Option<Offset>,
    sound: u64,
    gaps: Vec<String>,
}

impl Links {
    pub(super) const fn new() -> Self {
        Self {
            number: PartNumber::NONE,
            hash: Hash256::ZERO,
            end: None,
            epoch: Epoch(0),
            begin: None,
            sound: 0,
            gaps: Vec::new(),
        }
    }

    /// Checks the next part of a log's chain and its rows; says whether its header can be read.
    pub(super) fn check<'p>(
        &mut self,
        part: &'p StoredPart,
        rows: &StoredRows,
        findings: &mut Findings,
    ) -> Option<&'p PartHeader> {
        let requests = rows
            .postings
            .iter()
            .map(|posting| i128::from(posting.sums.quantities.get(Meter::Requests)));
        let contents = Contents {
            postings: rows.postings.len(),
            requests: requests.sum(),
            duplicates: rows.duplicates.len(),
            rejected: rows.rejected.len(),
            unreadable: &rows.unreadable,
            hash: &|header| {
                let rows = PartRows {
                    postings: &rows.postings,
                    rejected: &rows.rejected,
                    duplicates: &rows.duplicates,
                };
                part_hash(header, &rows)
            },
        };
        self.check_contents(part, &contents, findings)
    }

    /// Checks the next part of any chain; says whether its header can be read.
    pub(super) fn check_contents<'p>(
        &mut self,
        part: &'p StoredPart,
        rows: &Contents<'_>,
        findings: &mut Findings,
    ) -> Option<&'p PartHeader> {
        let before = findings.difference_count();
        let number = part.number.0;
        if part.number != self.number.next() {
            findings.differs(format!(
                "part {} is missing: part {number} comes after part {}",
                self.number.next().0,
                self.number.0
            ));
        }
        for unreadable in rows.unreadable {
            findings.differs(format!("part {number}: {unreadable}"));
        }
        let header = match &part.header {
            Ok(header) => Some(header),
            Err(unreadable) => {
                findings.differs(format!("part {number}: {unreadable}"));
                None
            }
        };
        if let Some(header) = header {
            self.check_neighbour(header, findings);
            check_counts(part, header, rows, findings);
            check_hash(part, header, rows, findings);
            self.end = Some(header.to);
            self.epoch = header.epoch;
        }
        (self.number, self.hash) = (part.number, part.hash);
        self.sound += u64::from(findings.difference_count() == before);
        header
    }

    fn check_neighbour(&mut self, header: &PartHeader, findings: &mut Findings) {
        let number = header.part.number.0;
        if header.previous != self.hash {
            let before = self.number.0;
            findings.differs(format!(
                "part {number} names {} as the hash of the part before it, but part {before} has {}",
                header.previous, self.hash
            ));
        }
        if header.epoch < self.epoch {
            findings.differs(format!(
                "part {number} has epoch {}, less than {} of the part before it",
                header.epoch.0, self.epoch.0
            ));
        }
        match (header.skipped, self.end) {
            (Some(skipped), end) => {
                let follows = end.is_none_or(|end| end <= skipped.from);
                if !follows || skipped.to != header.from {
                    findings.differs(format!(
                        "part {number} begins at offset {} and names a gap from {} to {}, which \
                         does not lie between it and the part before it",
                        header.from.0, skipped.from.0, skipped.to.0
                    ));
                }
                let (from, to) = (skipped.from.0, skipped.to.0);
                self.gaps
                    .push(format!("offsets {from} to {to} before part {number}"));
            }
            (None, Some(end)) if end != header.from => findings.differs(format!(
                "part {number} begins at offset {}, but the part before it ends at {}",
                header.from.0, end.0
            )),
            (None, Some(_)) => {}
            (None, None) => self.begin = Some(header.from),
        }
    }

    /// Checks the end of the chain against its position, and says what the links prove.
    pub(super) fn finish(&self, chain: &Chain, findings: &mut Findings) {
        let Some(position) = &chain.position else {
            return findings.differs("the chain has no position");
        };
        let (last, named) = (self.number.0, position.last_part.0);
        if last != named {
            findings.differs(format!(
                "part {named} is missing: the position names it as the head, but part {last} is \
                 the last one"
            ));
        } else if position.part_end != self.end {
            findings.differs(format!(
                "the position says that part {last} ends at {}, but it ends at {}",
                told(position.part_end),
                told(self.end)
            ));
        }
        if position.position < self.end {
            findings.differs(format!(
                "the position is {}, before the end of part {last} at {}",
                told(position.position),
                told(self.end)
            ));
        }
        if position.epoch < self.epoch {
            let epoch = position.epoch.0;
            findings.differs(format!(
                "the epoch is {epoch}, less than that of part {last}"
            ));
        }
        if self.sound > 0 {
            findings.proved(format!(
                "{} parts are linked by their hashes, from offset {} to {}",
                self.sound,
                told(self.begin),
                told(self.end)
            ));
        }
        for gap in &self.gaps {
            findings.noted(format!("an operator accepted a gap: {gap}"));
        }
    }
}

fn told(offset: Option<Offset>) -> String {
    offset.map_or_else(|| "nothing".to_owned(), |offset| offset.0.to_string())
}

/// What a part's rows are, whatever kind of chain it is of.
pub(super) struct Contents<'r> {
    /// How many postings.
    pub(super) postings: usize,
    /// How many requests are in them.
    pub(super) requests: i128,
    /// How many duplicates.
    pub(super) duplicates: usize,
    /// How many rejected events.
    pub(super) rejected: usize,
    /// Rows that the ledger never writes.
    pub(super) unreadable: &'r [Unreadable],
    /// The hash of the rows under a header.
    pub(super) hash: &'r (dyn Fn(&PartHeader) -> Hash256 + Sync),
}

fn check_counts(
    part: &StoredPart,
    header: &PartHeader,
    rows: &Contents<'_>,
    findings: &mut Findings,
) {
    let number = part.number.0;
    let length = |length: usize| i128::try_from(length).unwrap_or(i128::MAX);
    let counts = &header.counts;
    for (what, counted, found) in [
        ("postings", i128::from(part.postings), length(rows.postings)),
        (
            "requests in its postings",
            i128::from(counts.accepted),
            rows.requests,
        ),
        (
            "duplicate rows",
            i128::from(counts.duplicates),
            length(rows.duplicates),
        ),
        (
            "rejected rows",
            i128::from(counts.rejected),
            length(rows.rejected),
        ),
    ] {
        if counted != found {
            findings.differs(format!(
                "part {number} counts {counted} {what}, but has {found}"
            ));
        }
    }
}

fn check_hash(
    part: &StoredPart,
    header: &PartHeader,
    rows: &Contents<'_>,
    findings: &mut Findings,
) {
    let number = part.number.0;
    if part.hash_version != HASH_VERSION {
        let why = format!("hash version {} is not this program's", part.hash_version);
        return findings.unproven(part.number, &why);
    }
    let computed = (rows.hash)(header);
    if computed != part.hash {
        findings.differs(format!(
            "part {number} claims the hash {}, but its header, postings, rejected and duplicate \
             rows hash to {computed}",
            part.hash
        ));
    }
}

#[cfg(test)]
mod tests {
    use domain::ids::{ChainId, PartRef, Version};
    use domain::part::{Counts, FOLD_VERSION, Skipped};
    use domain::time::UnixMs;
    use store::audit::ChainPosition;

    use super::*;

    /// Three sound parts without rows: offsets 0 to 10, 10 to 20, and 25 to 30 behind a gap.
    fn chain() -> Vec<StoredPart> {
        let mut previous = Hash256::ZERO;
        let ends = [
            (1, 0, 10, None),
            (2, 10, 20, None),
            (3, 25, 30, Some((21, 25))),
        ];
        let parts = ends.map(|(number, from, to, skipped)| {
            let header = PartHeader {
                part: PartRef {
                    chain: ChainId(1),
                    number: PartNumber(number),
                },
                epoch: Epoch(7),
                from: Offset(from),
                to: Offset(to),
                counts: Counts {
                    records: 10,
                    ignored: 10,
                    ..Counts::default()
                },
                fold_version: FOLD_VERSION,
                floor: Some(UnixMs::FIRST),
                prices: Version(1),
                sources: Version(1),
                skipped: skipped.map(|(from, to)| Skipped {
                    from: Offset(from),
                    to: Offset(to),
                }),
                previous,
            };
            let part = sealed(header);
            previous = part.hash;
            part
        });
        parts.into()
    }

    fn sealed(header: PartHeader) -> StoredPart {
        let rows = PartRows {
            postings: &[],
            rejected: &[],
            duplicates: &[],
        };
        StoredPart {
            number: header.part.number,
            batch: 1,
            hash_version: HASH_VERSION,
            hash: part_hash(&header, &rows),
            postings: 0,
            header: Ok(header),
        }
    }

    fn position() -> ChainPosition {
        ChainPosition {
            epoch: Epoch(7),
            position: Some(Offset(31)),
            last_part: PartNumber(3),
            part_end: Some(Offset(30)),
            state: "open".to_owned(),
            tail: None,
            anchor: None,
        }
    }

    /// Follows the chain after a change; returns all that is written of it.
    fn follow(change: impl FnOnce(&mut Vec<StoredPart>, &mut ChainPosition)) -> String {
        let (mut parts, mut position) = (chain(), position());
        change(&mut parts, &mut position);
        let (mut links, mut findings) = (Links::new(), Findings::default());
        for part in &parts {
            links.check(part, &StoredRows::default(), &mut findings);
        }
        let chain = Chain {
            id: ChainId(1),
            source: Some("s".to_owned()),
            topic: "s".to_owned(),
            partition: 0,
            incarnation: 1,
            floor: None,
            rolled_up: PartNumber::NONE,
            has_open_gap: false,
            position: Some(position),
        };
        links.finish(&chain, &mut findings);
        let mut written = Vec::new();
        findings
            .write("chain 1", &mut written)
            .expect("a Vec takes all");
        String::from_utf8(written).expect("findings are text")
    }

    /// Changes a header and hashes it anew, as one does who knows how.
    fn reseal(part: &mut StoredPart, change: impl FnOnce(&mut PartHeader)) {
        let mut header = part.header.clone().expect("a readable header");
        change(&mut header);
        *part = sealed(header);
    }

    #[test]
    fn a_sound_chain_is_proved() {
        let found = follow(|_, _| ());
        let expected = "chain 1\n  proved: 3 parts are linked by their hashes, from offset 0 to 30\n  \
                        noted: an operator accepted a gap: offsets 21 to 25 before part 3\n";
        assert_eq!(found, expected);
    }

    #[test]
    fn each_broken_link_is_named() {
        let check = |change: &dyn Fn(&mut Vec<StoredPart>, &mut ChainPosition), says: &str| {
            let found = follow(|parts, position| change(parts, position));
            assert!(found.contains(says), "does not say {says:?}:\n{found}");
        };
        check(
            &|parts, _| drop(parts.remove(1)),
            "part 2 is missing: part 3 comes after part 1",
        );
        check(
            &|parts, _| drop(parts.pop()),
            "part 3 is missing: the position names it as the head",
        );
        check(&|parts, _| drop(parts.remove(0)), "part 1 is missing");
        check(
            &|parts, _| parts[1].hash = Hash256::ZERO,
            "part 2 claims the hash 0000",
        );
        check(&|parts, _| parts[1].hash = Hash256::ZERO, "part 3 names");
        check(
            &|parts, _| parts[1].postings = 2,
            "part 2 counts 2 postings, but has 0",
        );
        check(
            &|parts, _| parts.swap(1, 2),
            "part 2 is missing: part 3 comes after part 1",
        );
        let accepted = |header: &mut PartHeader| header.counts.accepted = 1;
        check(
            &|parts, _| reseal(&mut parts[1], accepted),
            "counts 1 requests in its postings",
        );
        check(&|parts, _| reseal(&mut parts[1], accepted), "part 3 names");
        let later = |header: &mut PartHeader| header.from = Offset(11);
        check(
            &|parts, _| reseal(&mut parts[1], later),
            "begins at offset 11, but the part before",
        );
        let older = |header: &mut PartHeader| header.epoch = Epoch(6);
        check(
            &|parts, _| reseal(&mut parts[1], older),
            "part 2 has epoch 6, less than 7",
        );
        let no_gap = |header: &mut PartHeader| header.skipped = None;
        check(
            &|parts, _| reseal(&mut parts[2], no_gap),
            "part 3 begins at offset 25, but",
        );
        check(
            &|_, position| position.part_end = None,
            "says that part 3 ends at nothing",
        );
        check(
            &|_, position| position.position = Some(Offset(29)),
            "the position is 29, before",
        );
        check(
            &|_, position| position.epoch = Epoch(6),
            "the epoch is 6, less than",
        );
    }
}
