//! Both sides on the wire, by turns.
//!
//! Invariant: a pair's runs follow each other at once, and who begins turns from pair to pair.
//! Deliberately absent: the generator, which is a process of its own, as a gateway is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::sides::{Noop, Ours, Protocol, Side, Target};
use crate::figures::{median, rounded};
use crate::product::{COMMAND, start};
use crate::{print, text};

/// How long a run goes on before what is measured, in ms.
const WARM_UP_MS: u32 = 300;

/// Asks both sides.
pub(super) struct Wire<'s> {
    pub(super) executable: PathBuf,
    pub(super) ours: Option<&'s Ours>,
    pub(super) noop: Option<&'s Noop>,
    pub(super) runs: u32,
    pub(super) seconds: u32,
}

/// What the generator prints.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Figures {
    decisions_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    server_cpu_us_per_decision: f64,
    generator_cpu_us_per_decision: f64,
}

/// One run's line.
#[derive(Debug, Clone, Serialize)]
struct Run {
    case: String,
    connections: usize,
    side: Side,
    run: u32,
    #[serde(flatten)]
    figures: Figures,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// How one figure is read.
type Figure = (&'static str, fn(&Figures) -> f64);

/// The figures of a run, in the order of a case's line.
const FIGURES: [Figure; 6] = [
    ("decisions_per_s", |figures| figures.decisions_per_s),
    ("p50_us", |figures| figures.p50_us),
    ("p99_us", |figures| figures.p99_us),
    ("p999_us", |figures| figures.p999_us),
    ("server_cpu_us_per_decision", |figures| {
        figures.server_cpu_us_per_decision
    }),
    ("generator_cpu_us_per_decision", |figures| {
        figures.generator_cpu_us_per_decision
    }),
];

impl Wire<'_> {
    /// Measures a protocol with so many requests under way.
    ///
    /// # Errors
    ///
    /// A server did not answer as it should.
    pub(super) fn measure(
        &self,
        protocol: Protocol,
        connections: usize,
        summary: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let case = protocol.to_string();
        self.compare(&case, protocol, connections, summary, |_, target| {
            Ok((self.load(protocol, target, connections)?, Map::new()))
        })
    }

    /// Runs both sides by turns, prints a line per run and one of the case, and adds its ratios to the
    /// summary. `run` measures once, and may add to the run's line.
    ///
    /// # Errors
    ///
    /// Whatever `run` says.
    pub(super) fn compare(
        &self,
        case: &str,
        protocol: Protocol,
        connections: usize,
        summary: &mut Map<String, Value>,
        mut run: impl FnMut(Side, &Target) -> Result<(Figures, Map<String, Value>), String>,
    ) -> Result<(), String> {
        let ours = self.ours.map(|ours| (Side::Ours, ours.target(protocol)));
        let noop = self.noop.map(|noop| (Side::Noop, noop.target(protocol)));
        let mut sides: Vec<(Side, Target)> = ours.into_iter().chain(noop).collect();
        let mut runs = Vec::new();
        for number in 1..=self.runs {
            for (side, target) in &sides {
                let (figures, more) = run(*side, target).map_err(|error| self.explain(&error))?;
                let run = Run {
                    case: case.to_owned(),
                    connections,
                    side: *side,
                    run: number,
                    figures,
                    more,
                };
                print(&run)?;
                runs.push(run);
            }
            sides.reverse();
        }
        let line = of_case(case, connections, &runs);
        for (name, ratio) in [
            ("ratio", "ratio_decisions_per_s"),
            ("p99_ratio", "ratio_p99_us"),
            ("cpu_us", "server_cpu_us_per_decision"),
        ] {
            let value = line.get(ratio).cloned().unwrap_or_default();
            summary.insert(format!("{case}_{name}_{connections}"), value);
        }
        print(&line)
    }

    /// Runs the generator once.
    ///
    /// # Errors
    ///
    /// It failed: the server ended, or answered otherwise than by allowing.
    pub(super) fn load(
        &self,
        protocol: Protocol,
        target: &Target,
        connections: usize,
    ) -> Result<Figures, String> {
        let arguments = [
            "load",
            &protocol.to_string(),
            &target.address.to_string(),
            "--pid",
            &target.pid.to_string(),
            "--connections",
            &connections.to_string(),
            "--warm-up",
            &WARM_UP_MS.to_string(),
            "--measured",
            &(self.seconds * 1000).to_string(),
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        let child = start(&self.executable, arguments, Vec::new());
        if !child.wait(COMMAND).success() {
            return Err(child.log());
        }
        serde_json::from_str(&child.stdout()).map_err(text)
    }

    fn explain(&self, error: &str) -> String {
        let log = self.ours.map(Ours::log).unwrap_or_default();
        format!("{error}\n{log}")
    }
}

/// Returns a case's last line: medians of both sides, and the medians of the pairs' ratios.
fn of_case(case: &str, connections: usize, runs: &[Run]) -> Value {
    let mut line = Map::new();
    line.insert("case".to_owned(), json!(case));
    line.insert("connections".to_owned(), json!(connections));
    line.insert(
        "runs".to_owned(),
        json!(runs.iter().map(|run| run.run).max()),
    );
    let of = |side: Side| runs.iter().filter(move |run| run.side == side);
    for (name, figure) in FIGURES {
        let ratio_of = |ours: &Run| {
            let noop = of(Side::Noop).find(|noop| noop.run == ours.run)?;
            Some(figure(&ours.figures) / figure(&noop.figures))
        };
        let ratios = median(of(Side::Ours).filter_map(ratio_of).collect());
        let ratios = ratios.map(|ratio| rounded(ratio, 1000.0));
        line.insert(format!("ratio_{name}"), json!(ratios));
        for (side, prefix) in [(Side::Ours, ""), (Side::Noop, "noop_")] {
            let middle = median(of(side).map(|run| figure(&run.figures)).collect());
            let middle = middle.map(|middle| rounded(middle, 1000.0));
            line.insert(format!("{prefix}{name}"), json!(middle));
        }
    }
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(side: Side, run: u32, decisions_per_s: f64, p99_us: f64) -> Run {
        Run {
            case: "http".to_owned(),
            connections: 64,
            side,
            run,
            figures: Figures {
                decisions_per_s,
                p50_us: 100.0,
                p99_us,
                p999_us: 1_000.0,
                server_cpu_us_per_decision: 10.0,
                generator_cpu_us_per_decision: 8.0,
            },
            more: Map::new(),
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_pairs() {
        // The machine was slow in the second pair; the pair's ratio does not see it.
        let pairs = [
            (1, 80.0, 100.0, 300.0, 200.0),
            (2, 9.0, 10.0, 9_000.0, 6_000.0),
            (3, 120.0, 100.0, 100.0, 200.0),
        ];
        let runs: Vec<Run> = pairs
            .into_iter()
            .flat_map(|(number, ours, noop, our_p99, noop_p99)| {
                [
                    run(Side::Noop, number, noop, noop_p99),
                    run(Side::Ours, number, ours, our_p99),
                ]
            })
            .collect();
        let line = of_case("http", 64, &runs);
        assert_eq!(line["ratio_decisions_per_s"], 0.9, "of 0.8, 0.9 and 1.2");
        assert_eq!(line["ratio_p99_us"], 1.5, "of 1.5, 1.5 and 0.5");
        assert_eq!(line["decisions_per_s"], 80.0);
        assert_eq!(line["noop_p99_us"], 200.0);
        assert_eq!(line["runs"], 3);
    }

    #[test]
    fn one_side_alone_has_no_ratio() {
        let line = of_case("grpc", 1, &[run(Side::Noop, 1, 100.0, 200.0)]);
        assert_eq!(line["ratio_decisions_per_s"], Value::Null);
        assert_eq!(line["decisions_per_s"], Value::Null);
        assert_eq!(line["noop_decisions_per_s"], 100.0);
    }
}
