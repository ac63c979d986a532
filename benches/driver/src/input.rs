//! What is folded: captured lines of a real gateway under new request ids, times and applications.
//!
//! Invariant: an event is a pure function of case, seed and number, so that a line can be sent a
//! second time long after the first. Deliberately absent: users; whose usage the ledger keeps apart is
//! the operator's choice, and these sources name the application alone.

use std::fmt::Write as _;

use ::tests::harness::load::Random;
use ::tests::oracle::time;
use serde::Serialize;

/// How many partitions a topic has.
pub(crate) const PARTITIONS: i32 = 4;

/// How many applications there are.
const APPS: u64 = 10_000;

/// Events per second of the time that the log covers: two million are half an hour of a large gateway.
const PER_SECOND: u64 = 1_000;

/// How many records in a row a shipper sends to one partition.
const IN_A_ROW: u64 = 100;

/// The greatest distance in events between a line and its repetition: 100 s of the log.
const REPEAT_WITHIN: u64 = 100_000;

/// The seed of all cases: a run of today has the lines of a run of tomorrow, but for the times.
const SEED: u64 = 0x70_11_b0_0c;

/// The shapes of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Case {
    /// 10,000 applications; the k-th has a share in proportion to 1/k.
    Zipf,
    /// One application with 90 % of the traffic; the others share the rest by Zipf's law.
    Hot,
    /// As `zipf`; each hundredth record repeats an earlier line, byte for byte.
    Duplicates,
    /// As `zipf`; three limits are counted from the log.
    Limits,
}

impl Case {
    /// Returns the name as the command line has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Zipf => "zipf",
            Self::Hot => "hot",
            Self::Duplicates => "duplicates",
            Self::Limits => "limits",
        }
    }
}

/// A record to be sent.
pub(crate) struct Record {
    /// The partition it goes to.
    pub(crate) partition: i32,
    /// When the gateway logged it, in ms since 1970.
    pub(crate) time_ms: i64,
    /// The line.
    pub(crate) line: String,
}

/// One case's input.
pub(crate) struct Input {
    case: Case,
    events: u64,
    partitions: u64,
    begin_ms: i64,
    templates: Vec<Template>,
    /// Sums of the applications' weights, ascending.
    weights: Vec<u64>,
}

/// A captured line, cut where its request id, its time and its application stand.
struct Template {
    pieces: Vec<Piece>,
}

enum Piece {
    Text(String),
    RequestId,
    Start,
    App,
}

impl Input {
    /// Makes the input of a case: so many events in so many partitions, the last one at `end_ms`.
    ///
    /// # Errors
    ///
    /// A captured line lacks a field that is to be replaced.
    pub(crate) fn new(
        case: Case,
        events: u64,
        partitions: i32,
        end_ms: i64,
        captured: &[String],
    ) -> Result<Self, String> {
        let templates: Result<Vec<_>, _> =
            captured.iter().map(|line| Template::new(line)).collect();
        let mut sum = 0;
        // Weights of 40 bits: the last application's still has 27.
        let weights = (1..=APPS).map(|rank| {
            sum += (1 << 40) / rank;
            sum
        });
        let weights = weights.collect();
        let span = signed(events * 1000 / PER_SECOND);
        Ok(Self {
            case,
            events,
            partitions: u64::from(partitions.unsigned_abs()),
            begin_ms: end_ms - span,
            templates: templates?,
            weights,
        })
    }

    /// Returns how many different events there are.
    pub(crate) fn unique(&self) -> u64 {
        let repeated = (0..self.events).filter(|&number| self.origin(number) != number);
        self.events - u64::try_from(repeated.count()).unwrap_or(u64::MAX)
    }

    /// Makes all records, in the order of their times.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        (0..self.events).map(|number| {
            let partition = number / IN_A_ROW % self.partitions;
            Record {
                partition: i32::try_from(partition).unwrap_or_default(),
                time_ms: self.logged_ms(number),
                line: self.line(self.origin(number)),
            }
        })
    }

    /// Returns the number of the event that this record holds: its own, or an earlier one's.
    fn origin(&self, number: u64) -> u64 {
        let mut origin = number;
        // What is repeated may be a repetition itself.
        while self.case == Case::Duplicates && origin > 0 {
            let mut random = random(origin, Purpose::Repeat);
            if !random.percent(1) {
                break;
            }
            origin -= 1 + random.below(REPEAT_WITHIN.min(origin));
        }
        origin
    }

    fn logged_ms(&self, number: u64) -> i64 {
        self.begin_ms + signed(number * 1000 / PER_SECOND)
    }

    fn line(&self, number: u64) -> String {
        let mut random = random(number, Purpose::Line);
        let template = random.one_of(&self.templates);
        // A gateway logs a request at its end: most take a few seconds, some up to twenty.
        let share = random.below(1 << 16);
        let duration_ms = 200 + ((20_000 * share * share * share) >> 48);
        let start = self.logged_ms(number) - signed(duration_ms);
        let app = self.app(&mut random);
        let mut line = String::with_capacity(1024);
        for piece in &template.pieces {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::RequestId => write_request_id(&mut line, &mut random),
                Piece::Start => line.push_str(&time::format(start)),
                Piece::App => write!(line, "\"app-{app:05}\"").unwrap_or_default(),
            }
        }
        line
    }

    /// Draws an application, from 0.
    fn app(&self, random: &mut Random) -> usize {
        if self.case == Case::Hot && random.percent(90) {
            return 0;
        }
        let from = if self.case == Case::Hot {
            self.weights.first().copied().unwrap_or_default()
        } else {
            0
        };
        let end = self.weights.last().copied().unwrap_or(1);
        let drawn = from + random.below(end - from);
        self.weights.partition_point(|&sum| sum <= drawn)
    }
}

impl Template {
    fn new(line: &str) -> Result<Self, String> {
        let mut cuts = [
            field(line, "\"x-request-id\":\"", "\"", Piece::RequestId)?,
            field(line, "\"start_time\":\"", "\"", Piece::Start)?,
            field(line, "\"x-tenant-id\":", ",", Piece::App)?,
        ];
        cuts.sort_by_key(|(from, _, _)| *from);
        let (mut pieces, mut at) = (Vec::new(), 0);
        for (from, to, piece) in cuts {
            pieces.push(Piece::Text(
                line.get(at..from).unwrap_or_default().to_owned(),
            ));
            pieces.push(piece);
            at = to;
        }
        pieces.push(Piece::Text(line.get(at..).unwrap_or_default().to_owned()));
        Ok(Self { pieces })
    }
}

/// Finds where a field's value stands in a line.
fn field(
    line: &str,
    marker: &str,
    end: &str,
    piece: Piece,
) -> Result<(usize, usize, Piece), String> {
    let at = line
        .find(marker)
        .ok_or_else(|| format!("a captured line has no {marker}: {line}"))?;
    let from = at + marker.len();
    let rest = line.get(from..).unwrap_or_default();
    let length = rest.find(end).or_else(|| rest.find('}'));
    Ok((from, from + length.unwrap_or(rest.len()), piece))
}

/// Writes a request id as Envoy makes them: a random UUID, version 4.
fn write_request_id(line: &mut String, random: &mut Random) {
    let (high, low) = (random.bits(), random.bits());
    write!(
        line,
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
    .unwrap_or_default();
}

/// What an event's random numbers are for: each purpose has its own.
#[derive(Clone, Copy)]
enum Purpose {
    Line,
    Repeat,
}

fn random(number: u64, purpose: Purpose) -> Random {
    let salt = match purpose {
        Purpose::Line => 0,
        Purpose::Repeat => 1,
    };
    let mut of_number = Random::new(SEED ^ (number * 2 + salt));
    Random::new(of_number.bits())
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use ::tests::harness::load;

    use super::*;

    const EVENTS: u64 = 20_000;

    fn input(case: Case) -> Input {
        Input::new(case, EVENTS, 4, load::now_ms(), &load::captured_as_is()).unwrap()
    }

    fn apps(case: Case) -> HashMap<String, usize> {
        let mut apps = HashMap::new();
        for record in input(case).records() {
            let line: serde_json::Value = serde_json::from_str(&record.line).unwrap();
            *apps
                .entry(line["x-tenant-id"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        apps
    }

    #[test]
    fn lines_are_the_captured_ones_but_for_id_time_and_application() {
        let stripped = |line: &str| {
            let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
            let object = value.as_object_mut().unwrap();
            for field in ["x-request-id", "start_time", "x-tenant-id"] {
                assert!(object.remove(field).is_some(), "{field} of {line}");
            }
            value.to_string()
        };
        let captured: HashSet<String> = load::captured_as_is()
            .iter()
            .map(|line| stripped(line))
            .collect();
        for record in input(Case::Zipf).records().take(3000) {
            assert!(
                captured.contains(&stripped(&record.line)),
                "{}",
                record.line
            );
        }
    }

    #[test]
    fn only_one_case_repeats_lines_and_it_says_how_many() {
        for case in [Case::Zipf, Case::Hot, Case::Duplicates] {
            let input = input(case);
            let different: HashSet<String> = input.records().map(|record| record.line).collect();
            let unique = usize::try_from(input.unique()).unwrap();
            assert_eq!(different.len(), unique, "{case:?}");
            let repeated = EVENTS - input.unique();
            let expected = if case == Case::Duplicates {
                150..250
            } else {
                0..1
            };
            assert!(expected.contains(&repeated), "{case:?} repeats {repeated}");
        }
    }

    #[test]
    fn applications_have_their_shares() {
        // The sum of 1/k up to 10,000 is 9.79.
        let zipf = apps(Case::Zipf);
        assert!(
            (1_900..2_200).contains(&zipf["app-00000"]),
            "a share of 1/9.79"
        );
        assert!(
            (950..1_100).contains(&zipf["app-00001"]),
            "half of the first"
        );
        assert!(zipf.len() > 3_000, "a long tail, not {}", zipf.len());
        let hot = apps(Case::Hot);
        assert!((17_800..18_200).contains(&hot["app-00000"]), "90 %");
    }

    #[test]
    fn records_lie_in_order_within_the_window() {
        let mut last = i64::MIN;
        for record in input(Case::Duplicates).records() {
            assert!(record.time_ms >= last, "the log's times ascend");
            last = record.time_ms;
            assert!((0..4).contains(&record.partition), "four partitions");
        }
    }
}
