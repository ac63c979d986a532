//! The lines that come out: one per run, one per case.
//!
//! Invariant: a case's line holds medians of the very numbers in its runs' lines. Deliberately absent:
//! what a median is.

use serde::Serialize;
use serde_json::{Value, json};

use crate::figures::{median, ratio, rounded};
use crate::input::Case;

/// Who ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// `tollbook ingest --until-caught-up`.
    Ours,
    /// `benches floor`.
    Floor,
}

/// What one run used, as measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// From the start of the process until its partitions were assigned, in ms.
    pub(crate) startup_ms: u64,
    /// From then until the process's end, in ms.
    pub(crate) elapsed_ms: u64,
    /// Processor time of the process, from its start to its end, in µs.
    pub(crate) cpu_us: u64,
    /// Processor time of all of Postgres meanwhile, in µs.
    pub(crate) postgres_cpu_us: u64,
    /// Bytes of WAL that were written meanwhile.
    pub(crate) wal_bytes: u64,
    /// The most memory that the process had resident, in KiB.
    pub(crate) peak_memory_kib: u64,
}

/// One run's line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    case: Case,
    side: Side,
    run: u32,
    events: u64,
    seconds: f64,
    startup_seconds: f64,
    events_per_s: f64,
    ingest_cpu_us_per_event: f64,
    postgres_cpu_us_per_event: f64,
    wal_bytes_per_event: f64,
    peak_memory_kib: f64,
}

impl Run {
    /// Relates what was measured to the events.
    pub(crate) fn new(case: Case, side: Side, run: u32, events: u64, measured: Measured) -> Self {
        let per_event = |amount: u64| rounded(ratio(amount, events), 1000.0);
        Self {
            case,
            side,
            run,
            events,
            seconds: ratio(measured.elapsed_ms, 1000),
            startup_seconds: ratio(measured.startup_ms, 1000),
            events_per_s: rounded(ratio(events * 1000, measured.elapsed_ms.max(1)), 1.0),
            ingest_cpu_us_per_event: per_event(measured.cpu_us),
            postgres_cpu_us_per_event: per_event(measured.postgres_cpu_us),
            wal_bytes_per_event: per_event(measured.wal_bytes),
            peak_memory_kib: ratio(measured.peak_memory_kib, 1),
        }
    }
}

/// Returns a case's last line: medians of ours, of the floor, and the ratio of both.
pub(crate) fn of_case(case: Case, events: u64, runs: &[Run]) -> Value {
    let median_of = |side: Side, figure: fn(&Run) -> f64| {
        let of_side = runs.iter().filter(|run| run.side == side);
        median(of_side.map(figure).collect())
    };
    let ours = |figure| median_of(Side::Ours, figure);
    let floor = |figure| median_of(Side::Floor, figure);
    let speed: fn(&Run) -> f64 = |run| run.events_per_s;
    let ratio = ours(speed)
        .zip(floor(speed))
        .map(|(ours, floor)| rounded(ours / floor, 1000.0));
    json!({
        "case": case,
        "events": events,
        "runs": runs.iter().map(|run| run.run).max(),
        "ratio_events_per_s": ratio,
        "events_per_s": ours(speed),
        "ingest_cpu_us_per_event": ours(|run| run.ingest_cpu_us_per_event),
        "postgres_cpu_us_per_event": ours(|run| run.postgres_cpu_us_per_event),
        "wal_bytes_per_event": ours(|run| run.wal_bytes_per_event),
        "peak_memory_kib": ours(|run| run.peak_memory_kib),
        "floor_events_per_s": floor(speed),
        "floor_cpu_us_per_event": floor(|run| run.ingest_cpu_us_per_event),
        "floor_postgres_cpu_us_per_event": floor(|run| run.postgres_cpu_us_per_event),
        "floor_wal_bytes_per_event": floor(|run| run.wal_bytes_per_event),
        "floor_peak_memory_kib": floor(|run| run.peak_memory_kib),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(side: Side, run: u32, elapsed_ms: u64) -> Run {
        let measured = Measured {
            startup_ms: 500,
            elapsed_ms,
            cpu_us: 3_000,
            postgres_cpu_us: 4_000,
            wal_bytes: 150_000,
            peak_memory_kib: 1_024,
        };
        Run::new(Case::Zipf, side, run, 1_000, measured)
    }

    #[test]
    fn a_case_relates_the_medians_of_both_sides() {
        let times = [(1, 1_000, 250), (2, 9_000, 500), (3, 2_000, 100)];
        let runs: Vec<Run> = times
            .into_iter()
            .flat_map(|(number, ours, floor)| {
                [
                    run(Side::Ours, number, ours),
                    run(Side::Floor, number, floor),
                ]
            })
            .collect();
        let line = of_case(Case::Zipf, 1_000, &runs);
        assert_eq!(line["case"], "zipf");
        assert_eq!(
            line["events_per_s"], 500.0,
            "the median of 1000, 111 and 500"
        );
        assert_eq!(line["floor_events_per_s"], 4_000.0);
        assert_eq!(line["ratio_events_per_s"], 0.125);
        assert_eq!(line["ingest_cpu_us_per_event"], 3.0);
        assert_eq!(line["postgres_cpu_us_per_event"], 4.0);
    }

    #[test]
    fn a_side_that_did_not_run_has_no_figures() {
        let line = of_case(Case::Hot, 1_000, &[run(Side::Ours, 1, 10)]);
        assert_eq!(line["ratio_events_per_s"], Value::Null);
        assert_eq!(line["floor_events_per_s"], Value::Null);
    }
}
