//! Decisions beside an ingest that works off a backlog as fast as it can, on the same machine, the same
//! Postgres and the same Kafka.
//!
//! Invariant: a run counts only if ingest still had work when it ended; else it is made again. How many
//! events were folded meanwhile stands in its line. Deliberately absent: priorities; the kernel shares
//! the cores among all.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tests::harness::children::Child;
use tests::harness::{load, wait};
use tokio::time::Instant;

use super::lag::drain;
use super::sides::{Ours, Protocol, Target};
use super::wire::{Figures, Wire};
use crate::figures::{ratio, rounded};
use crate::input::{Case, Input, PARTITIONS};
use crate::servers::{Servers, say};
use crate::text;

/// How many requests are under way at a time.
const CONNECTIONS: usize = 64;

/// How often a run is made again.
const TRIES: usize = 3;

/// Fewer events that wait are too few for a run.
const LEAST: i64 = 200_000;

/// How long ingest may take to fold its first batch.
const START: Duration = Duration::from_secs(60);

/// The name in lines and in the summary.
const CASE: &str = "http_beside_ingest";

/// Measures both sides beside an ingest of ours.
///
/// # Errors
///
/// A process failed, or ingest is through before a run ends, time after time.
pub(super) fn measure(
    servers: &Servers,
    ours: &Ours,
    wire: &Wire<'_>,
    events: u64,
    summary: &mut Map<String, Value>,
) -> Result<(), String> {
    let mut backlog = Backlog {
        servers,
        ours,
        events,
        ingest: None,
    };
    wire.compare(CASE, Protocol::Http, CONNECTIONS, summary, |_, target| {
        backlog.run(wire, target)
    })?;
    match backlog.ingest.take() {
        Some(ingest) => drain(&ingest),
        None => Ok(()),
    }
}

/// What ingest has to do.
struct Backlog<'s> {
    servers: &'s Servers,
    ours: &'s Ours,
    events: u64,
    ingest: Option<Child>,
}

impl Backlog<'_> {
    /// Measures one side once.
    fn run(
        &mut self,
        wire: &Wire<'_>,
        target: &Target,
    ) -> Result<(Figures, Map<String, Value>), String> {
        for _ in 0..TRIES {
            self.fill()?;
            let (before, began) = (self.folded(), Instant::now());
            let figures = wire.load(Protocol::Http, target, CONNECTIONS)?;
            let elapsed = u64::try_from(began.elapsed().as_millis()).map_err(text)?;
            let folded = u64::try_from(self.folded() - before).map_err(text)?;
            if self.waiting() > 0 {
                let per_second = rounded(ratio(folded * 1000, elapsed.max(1)), 1.0);
                let more = [("ingest_events_per_s".to_owned(), json!(per_second))];
                return Ok((figures, more.into_iter().collect()));
            }
            say("ingest was through before the run ended; once more");
        }
        Err("ingest is faster than its backlog: give more EVENTS".to_owned())
    }

    /// Sees to it that ingest runs and has enough to do.
    fn fill(&mut self) -> Result<(), String> {
        if self.ingest.is_some() && self.waiting() >= LEAST {
            return Ok(());
        }
        if let Some(ingest) = self.ingest.take() {
            drain(&ingest)?;
        }
        say(&format!("{} events go into the log", self.events));
        let input = Input::new(
            Case::Zipf,
            self.events,
            PARTITIONS,
            load::now_ms(),
            &load::captured_as_is(),
        )?;
        self.servers.send(&self.ours.topic, input.records())?;
        let before = self.folded();
        let ingest = self.ours.installation.start(&["ingest"]);
        wait::until("ingest folds", START, || match ingest.ended() {
            Some(_) => Some(Err(ingest.log())),
            None => (self.folded() > before).then_some(Ok(())),
        })?;
        self.ingest = Some(ingest);
        Ok(())
    }

    /// Returns how many records of the topic are folded.
    fn folded(&self) -> i64 {
        let sql = format!(
            "select coalesce(sum(greatest(p.position, 0)), 0)::bigint \
             from source_position p join chain c on c.id = p.chain where c.topic = '{}'",
            self.ours.topic
        );
        self.ours.installation.database.number(&sql)
    }

    /// Returns how many records are not folded yet.
    fn waiting(&self) -> i64 {
        let end = |partition| self.servers.kafka.watermarks(&self.ours.topic, partition).1;
        (0..PARTITIONS).map(end).sum::<i64>() - self.folded()
    }
}
