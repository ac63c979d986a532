//! Decisions in process: `benches decide`, whose lines go on as they are.
//!
//! Invariant: what the summary says is what a line said. Deliberately absent: the measuring itself.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::product::{COMMAND, start};
use crate::{print, text};

/// What is read of a line.
#[derive(Deserialize)]
struct Line {
    limits: u32,
    contender: String,
    median: String,
    allocations_per_event: Option<f64>,
}

/// Runs the benchmark, prints its lines and takes its figures over.
///
/// # Errors
///
/// It failed.
pub(super) fn measure(benches: &Path, summary: &mut Map<String, Value>) -> Result<(), String> {
    let child = start(benches, vec!["decide".to_owned()], Vec::new());
    if !child.wait(COMMAND).success() {
        return Err(child.log());
    }
    for text_of_line in child.stdout().lines() {
        let value: Value = serde_json::from_str(text_of_line).map_err(text)?;
        print(&value)?;
        let line: Line = serde_json::from_value(value).map_err(text)?;
        if line.contender == "decide" {
            let ns: u64 = line.median.parse().map_err(text)?;
            let limits = line.limits;
            summary.insert(format!("decide_ns_{limits}_limits"), json!(ns));
            let allocations = json!(line.allocations_per_event);
            summary.insert(format!("decide_allocations_{limits}_limits"), allocations);
        }
    }
    Ok(())
}
