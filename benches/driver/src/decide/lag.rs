//! From a usage event on Kafka to the decision that knows it, at rest and beside a busy gateway's log.
//!
//! Invariant: each probe is an event of an application that nobody has seen, and ends with the first
//! decision whose `used` is not 0; so it holds producer, broker, ingest, Postgres, feed and enforcer.
//! Its clock starts before the producer takes the line, so what is told is an upper bound, and half a
//! millisecond fine. Deliberately absent: two probes at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ::tests::harness::children::Child;
use ::tests::harness::load::{self, Random};
use ::tests::harness::wait;
use ::tests::oracle::time;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::client::Client;
use super::sides::{Answer, Ours};
use crate::figures::{percentile, ratio, rounded};
use crate::input::{Case, Input, PARTITIONS};
use crate::servers::{Deliveries, Servers, say, send};
use crate::{print, text};

/// Probes of each case; the 99th percentile is the third greatest.
const PROBES: u64 = 200;

/// How long all probes of a case may take; where they take longer there are fewer, and the line says so.
const PROBE_FOR: Duration = Duration::from_secs(40);

/// How long a probe may take; the first one waits for ingest to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a decision is asked for.
const POLL: Duration = Duration::from_micros(500);

/// The pause between two probes, so that they fall on no timer's beat.
const PAUSE_MS: u64 = 30;

/// Events per second of the busy log.
const BUSY: u64 = 20_000;

/// How long the busy log goes on before the first probe: a broker that started just now still compiles
/// itself (0.4 of a processor for half a minute, on a machine of two), and a gateway's has been up for long.
const SETTLE: Duration = Duration::from_secs(60);

/// The longest that the busy log is: far more than its probes take.
const BUSY_SECONDS: u64 = 300;

/// How often the busy log's events are sent.
const TICK: Duration = Duration::from_millis(10);

/// Measures both, and prints a line for each.
///
/// # Errors
///
/// An event never reaches a decision, or a process fails.
pub(super) fn measure(
    servers: &Servers,
    ours: &Ours,
    summary: &mut Map<String, Value>,
) -> Result<(), String> {
    say("ingest starts; lag at rest");
    let ingest = ours.installation.start(&["ingest"]);
    let mut prober = Prober::new(servers, ours)?;
    let measured = prober.probe().and_then(|_| {
        let at_rest = prober.probe_often()?;
        print(&line(&at_rest, "rest", summary))?;
        say(&format!("lag at {BUSY} events/s"));
        let (busy, per_second) = prober.probe_beside(servers, ours)?;
        let mut line = line(&busy, "busy", summary);
        line.insert("background_events_per_s".to_owned(), json!(per_second));
        print(&line)
    });
    measured.map_err(|error| format!("{error}\n{}\n{}", ours.log(), ingest.log()))?;
    drain(&ingest)
}

/// Ends an ingest in order, so that the group waits for no lost member.
///
/// # Errors
///
/// It failed.
pub(super) fn drain(ingest: &Child) -> Result<(), String> {
    ingest.signal(rustix::process::Signal::TERM);
    if ingest.wait(PATIENCE).success() {
        return Ok(());
    }
    Err(ingest.log())
}

fn line(lags_ms: &[f64], log: &str, summary: &mut Map<String, Value>) -> BTreeMap<String, Value> {
    let mut line = BTreeMap::from([
        ("case".to_owned(), json!("lag")),
        ("log".to_owned(), json!(log)),
        ("probes".to_owned(), json!(lags_ms.len())),
    ]);
    for (name, per_mille) in [("p50", 500), ("p99", 990), ("greatest", 1000)] {
        let lag = percentile(lags_ms.to_vec(), per_mille).map(|lag| rounded(lag, 100.0));
        line.insert(format!("lag_ms_{name}"), json!(lag));
        summary.insert(format!("lag_ms_{name}_{log}"), json!(lag));
    }
    line
}

/// Sends events and asks until a decision knows them.
struct Prober {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    client: Client,
    /// A captured line with usage.
    line: Map<String, Value>,
    random: Random,
    number: i32,
}

impl Prober {
    fn new(servers: &Servers, ours: &Ours) -> Result<Self, String> {
        let producer = servers
            .kafka
            .client()
            .set("linger.ms", "0")
            .create_with_context(Deliveries::default())
            .map_err(text)?;
        Ok(Self {
            producer,
            topic: ours.topic.clone(),
            client: Client::connect(ours.http)?,
            line: line_with_usage()?,
            random: Random::new(1),
            number: 0,
        })
    }

    /// Returns how many ms pass from an event to the decision that knows it.
    fn probe(&mut self) -> Result<f64, String> {
        self.number += 1;
        let app = format!("probe-{}", self.number);
        self.line.insert("x-tenant-id".to_owned(), json!(app));
        self.line.insert("x-request-id".to_owned(), json!(app));
        let now = time::format(load::now_ms());
        self.line.insert("start_time".to_owned(), json!(now));
        let payload = serde_json::to_string(&self.line).map_err(text)?;
        let ask = format!(r#"{{"app":"{app}"}}"#);
        if self.used(&ask)? != "0" {
            return Err(format!("{app} was not seen, but used something"));
        }
        let sent = Instant::now();
        let record: BaseRecord<'_, (), str> = BaseRecord::to(&self.topic)
            .partition(self.number % PARTITIONS)
            .payload(&payload);
        self.producer
            .send(record)
            .map_err(|(error, _)| error.to_string())?;
        while self.used(&ask)? == "0" {
            if sent.elapsed() > PATIENCE {
                return Err(format!("no decision knew of {app} within {PATIENCE:?}"));
            }
            wait::pause(POLL);
        }
        Ok(sent.elapsed().as_secs_f64() * 1000.0)
    }

    fn used(&mut self, ask: &str) -> Result<String, String> {
        let (status, body) = self.client.ask("POST", "/v1/decisions", ask)?;
        let answer: Answer = serde_json::from_str(&body).map_err(text)?;
        match answer.used {
            Some(used) if status == 200 => Ok(used),
            _ => Err(format!("an answer without use: {status} {body}")),
        }
    }

    fn probe_often(&mut self) -> Result<Vec<f64>, String> {
        let (mut lags_ms, began) = (Vec::new(), Instant::now());
        for _ in 0..PROBES {
            if began.elapsed() > PROBE_FOR {
                break;
            }
            wait::pause(Duration::from_millis(self.random.below(PAUSE_MS)));
            lags_ms.push(self.probe()?);
        }
        Ok(lags_ms)
    }

    /// Probes beside a busy log; also returns how many events per second that had.
    fn probe_beside(&mut self, servers: &Servers, ours: &Ours) -> Result<(Vec<f64>, f64), String> {
        let background = Background::start(servers, &ours.topic)?;
        wait::pause(SETTLE);
        let lags_ms = self.probe_often()?;
        Ok((lags_ms, background.end()?))
    }
}

/// Returns a captured line of a request that used tokens.
fn line_with_usage() -> Result<Map<String, Value>, String> {
    let captured = load::captured_as_is();
    let lines = captured
        .iter()
        .filter_map(|line| serde_json::from_str::<Map<String, Value>>(line).ok());
    let has_usage = |line: &Map<String, Value>| {
        let tokens = line.get("gen_ai.usage.total_tokens");
        let tokens = tokens.and_then(Value::as_u64).unwrap_or(0);
        tokens > 0 && line.get("response_code") == Some(&json!(200))
    };
    let mut with_usage = lines.filter(has_usage);
    with_usage
        .next()
        .ok_or_else(|| "no captured line has usage".to_owned())
}

/// The log of a busy gateway, on a thread of its own.
struct Background {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    began: Instant,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Background {
    fn start(servers: &Servers, topic: &str) -> Result<Self, String> {
        let input = Input::new(
            Case::Zipf,
            BUSY * BUSY_SECONDS,
            PARTITIONS,
            load::now_ms(),
            &load::captured_as_is(),
        )?;
        let producer: ThreadedProducer<Deliveries> = servers
            .kafka
            .client()
            .create_with_context(Deliveries::default())
            .map_err(text)?;
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count, topic) = (Arc::clone(&stop), Arc::clone(&sent), topic.to_owned());
        let began = Instant::now();
        let thread = std::thread::spawn(move || {
            for record in input.records() {
                while due(began.elapsed()) <= count.load(Ordering::Relaxed) {
                    wait::pause(TICK);
                }
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                send(&producer, &topic, &record)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            producer.flush(PATIENCE).map_err(text)?;
            producer.context().failure()
        });
        Ok(Self {
            stop,
            sent,
            began,
            thread: Some(thread),
        })
    }

    /// Ends it and returns how many events per second there were.
    fn end(mut self) -> Result<f64, String> {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).map_err(text)?;
        let per_second = ratio(self.sent.load(Ordering::Relaxed) * 1000, elapsed.max(1));
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_| "the busy log's thread panicked")??;
        }
        Ok(rounded(per_second, 1.0))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Returns how many events should be sent after this time.
fn due(elapsed: Duration) -> u64 {
    let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    ms.saturating_mul(BUSY) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_captured_line_serves_as_probe() {
        let line = line_with_usage().unwrap();
        for field in ["x-tenant-id", "x-request-id", "start_time"] {
            assert!(line.contains_key(field), "{field} is replaced: {line:?}");
        }
    }

    #[test]
    fn events_are_due_by_time() {
        assert_eq!(due(Duration::ZERO), 0);
        assert_eq!(due(Duration::from_millis(50)), 1_000);
        assert_eq!(due(Duration::from_secs(2)), 40_000);
    }
}
