//! What was measured: every latency, in ns.
//!
//! Invariant: only requests count that were sent and answered while it records. Deliberately absent: buckets; the
//! samples of a second or two fit into memory.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

/// Keeps latencies while it is told to.
#[derive(Default)]
pub(super) struct Recorder {
    begun: Cell<Option<Instant>>,
    elapsed: Cell<Option<Duration>>,
    latencies: RefCell<Vec<u64>>,
}

impl Recorder {
    /// Records from now on.
    pub(super) fn begin(&self) {
        self.latencies.borrow_mut().clear();
        self.begun.set(Some(Instant::now()));
    }

    /// Records no more.
    pub(super) fn end(&self) {
        let begun = self.begun.take();
        self.elapsed.set(begun.map(|begun| begun.elapsed()));
    }

    /// Notes that a request that was sent then is answered now.
    pub(super) fn answered(&self, sent: Instant) {
        if self.begun.get().is_some_and(|begun| sent >= begun) {
            let latency = sent.elapsed().as_nanos();
            let latency = u64::try_from(latency).unwrap_or(u64::MAX);
            self.latencies.borrow_mut().push(latency);
        }
    }

    /// Sums up; `None` where nothing was recorded.
    pub(super) fn figures(&self) -> Option<Figures> {
        let mut latencies = self.latencies.take();
        let elapsed = self.elapsed.get()?.as_nanos();
        latencies.sort_unstable();
        let count = u64::try_from(latencies.len()).ok()?;
        let per_second = u128::from(count) * 1_000_000_000 / elapsed.max(1);
        let mut object = Map::new();
        object.insert("decisions".to_owned(), json!(count));
        object.insert(
            "decisions_per_s".to_owned(),
            json!(u64::try_from(per_second).ok()?),
        );
        for (name, per_mille) in [("p50_us", 500), ("p99_us", 990), ("p999_us", 999)] {
            let rank = latencies.len().saturating_sub(1) * per_mille / 1000;
            object.insert(name.to_owned(), in_us(*latencies.get(rank)?, 1));
        }
        Some(Figures { count, object })
    }
}

/// What is told of one run.
pub(super) struct Figures {
    count: u64,
    object: Map<String, Value>,
}

impl Figures {
    /// Adds processor time, which was read in ns, as µs for each decision.
    pub(super) fn add_cpu(&mut self, name: &str, ns: u64) {
        self.object.insert(name.to_owned(), in_us(ns, self.count));
    }

    pub(super) fn into_object(self) -> Map<String, Value> {
        self.object
    }
}

/// Divides ns by a count and returns µs.
#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "measures of a run lie far below 2^53"
)]
fn in_us(ns: u64, count: u64) -> Value {
    json!((ns as f64 / count.max(1) as f64).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_was_sent_and_answered_in_between_counts() {
        let recorder = Recorder::default();
        let before = Instant::now();
        recorder.answered(before);
        recorder.begin();
        recorder.answered(before);
        for _ in 0..10 {
            recorder.answered(Instant::now());
        }
        recorder.end();
        recorder.answered(Instant::now());
        let figures = recorder.figures().unwrap().into_object();
        assert_eq!(figures["decisions"], 10, "{figures:?}");
    }

    #[test]
    fn nothing_recorded_is_no_figure() {
        let recorder = Recorder::default();
        recorder.begin();
        recorder.end();
        assert!(
            recorder.figures().is_none(),
            "there is no percentile of nothing"
        );
    }

    #[test]
    fn processor_time_is_told_in_us_by_decision() {
        assert_eq!(in_us(12_345, 1), json!(12.345));
        assert_eq!(in_us(30_000, 4), json!(7.5));
    }
}
