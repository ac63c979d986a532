//! What a verification found, and how it is told.
//!
//! Invariant: bounded, whatever it finds: differences above [`SHOWN_MAX`] are counted and not kept.
//! Deliberately absent: how anything is checked.

use std::collections::BTreeMap;
use std::io::{self, Write};

use domain::ids::PartNumber;

use super::Verdict;

/// The most differences of one chain that are told.
const SHOWN_MAX: usize = 20;

/// The most reasons for which parts are not provable that are told apart.
const REASONS_MAX: usize = 20;

/// What was found in one chain, or in what the chains share.
#[derive(Debug, Default)]
pub(super) struct Findings {
    proved: Vec<String>,
    differences: Vec<String>,
    difference_count: u64,
    notes: Vec<String>,
    /// Ranges of parts by the reason for which they are not provable, both ends included.
    unproven: BTreeMap<String, Vec<(PartNumber, PartNumber)>>,
    /// Parts that were looked at.
    pub(super) parts: u64,
    /// Parts that were folded from the log again.
    pub(super) refolded: u64,
    /// Records in them.
    pub(super) records: u64,
}

impl Findings {
    /// Keeps what was proved, as a sentence.
    pub(super) fn proved(&mut self, what: impl Into<String>) {
        self.proved.push(what.into());
    }

    /// Keeps what neither proves nor refutes anything, and a reader must know.
    pub(super) fn noted(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// Keeps a difference.
    pub(super) fn differs(&mut self, what: impl Into<String>) {
        self.difference_count += 1;
        if self.differences.len() < SHOWN_MAX {
            self.differences.push(what.into());
        }
    }

    /// Returns how many differences were found.
    pub(super) const fn difference_count(&self) -> u64 {
        self.difference_count
    }

    /// Keeps a part that cannot be folded again; parts are told in ascending order.
    pub(super) fn unproven(&mut self, part: PartNumber, why: &str) {
        if !self.unproven.contains_key(why) && self.unproven.len() >= REASONS_MAX {
            return self.unproven(part, "for other reasons");
        }
        let ranges = self.unproven.entry(why.to_owned()).or_default();
        match ranges.last_mut() {
            Some((_, last)) if last.next() == part => *last = part,
            Some(_) | None => ranges.push((part, part)),
        }
    }

    /// Returns how many parts cannot be folded again.
    fn unproven_count(&self) -> u64 {
        let length =
            |(first, last): &(PartNumber, PartNumber)| (last.0 - first.0 + 1).unsigned_abs();
        self.unproven.values().flatten().map(length).sum()
    }

    /// Writes all of it under a title.
    pub(super) fn write(&self, title: &str, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{title}")?;
        for what in &self.proved {
            writeln!(out, "  proved: {what}")?;
        }
        for what in &self.differences {
            writeln!(out, "  differs: {what}")?;
        }
        let hidden = self
            .difference_count
            .saturating_sub(self.differences.len() as u64);
        if hidden > 0 {
            writeln!(out, "  differs: {hidden} more")?;
        }
        for what in &self.notes {
            writeln!(out, "  noted: {what}")?;
        }
        for (why, ranges) in &self.unproven {
            writeln!(out, "  not provable: {}: {why}", told(ranges))?;
        }
        Ok(())
    }
}

/// Writes ranges of parts, the first few of them.
fn told(ranges: &[(PartNumber, PartNumber)]) -> String {
    let mut texts: Vec<String> = ranges
        .iter()
        .take(5)
        .map(|(first, last)| match first == last {
            true => first.0.to_string(),
            false => format!("{}-{}", first.0, last.0),
        })
        .collect();
    if ranges.len() > texts.len() {
        texts.push("…".to_owned());
    }
    format!("parts {}", texts.join(", "))
}

/// What was found over all.
#[derive(Debug, Default)]
pub(super) struct Totals {
    parts: u64,
    refolded: u64,
    records: u64,
    unproven: u64,
    differences: u64,
    first: Option<String>,
}

impl Totals {
    /// Adds what was found under a title.
    pub(super) fn add(&mut self, title: &str, findings: &Findings) {
        self.parts += findings.parts;
        self.refolded += findings.refolded;
        self.records += findings.records;
        self.unproven += findings.unproven_count();
        self.differences += findings.difference_count;
        if let (None, Some(difference)) = (&self.first, findings.differences.first()) {
            self.first = Some(format!("{title}: {difference}"));
        }
    }

    /// Returns the verdict over so many chains.
    pub(super) fn verdict(&self, chains: usize) -> Verdict {
        let Self {
            parts,
            refolded,
            records,
            unproven,
            differences,
            first,
        } = self;
        match first {
            Some(first) if *differences == 1 => Verdict::Differs(format!("1 difference: {first}")),
            Some(first) => {
                Verdict::Differs(format!("{differences} differences, the first: {first}"))
            }
            None => Verdict::Verified(format!(
                "{chains} chains, {parts} parts; {refolded} parts of {records} records refolded \
                 from the log, {unproven} parts not provable"
            )),
        }
    }
}
