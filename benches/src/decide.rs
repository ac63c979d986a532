//! One decision in process, with 1, 3 and 10 matching limits over 100,000 keys, beside the lookup of
//! as many counters.
//!
//! Invariant: every decision is admitted and charged, as almost all are in life; keys come in an order
//! that no cache foresees, and time passes as at a million decisions a second, about what one core
//! does. The text of a request is written into one buffer that stays in the cache, as a server's is that
//! was just read into; writing it is part of what is measured, a few nanoseconds. Deliberately absent:
//! protocols, other threads, and the exchange with other replicas.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hint::black_box;

use domain::account::ReplicaId;
use domain::decision::Outcome;
use domain::policy::{PolicyError, compile, read};
use domain::request::Request;
use domain::time::UnixMs;
use enforcer::engine::{Ask, Engine, PoliciesInForce};
use foldhash::fast::FixedState;
use serde_json::{Value, json};

use crate::measure::{Contender, measure};

/// Keys that each limit counts by.
const KEYS: usize = 100_000;

/// Decisions in one round: each key once.
const DECISIONS: u64 = 100_000;

/// Decisions in one millisecond.
const PER_MS: u64 = 1_000;

/// 2026-11-21T12:00:00Z.
const BEGIN_MS: i64 = 1_795_262_400_000;

/// Walks over all keys in an order that looks like chance: coprime to their number.
const STRIDE: usize = 61_803;

/// What the measured decision is called in its line.
const DECIDE: &str = "decide";

/// Policies of other applications and models, which a request is told from.
const OTHERS: &str = r"---
name: of-another-model
match: { model: { prefix: claude- } }
limits: [{ name: pace, meter: requests, limit: 1, per: [app], window: { fixed: 60s } }]
---
name: of-another-app
match: { app: somebody-else }
limits: [{ name: pace, meter: requests, limit: 1, per: [app], window: { fixed: 60s } }]
";

/// The kinds of limits, as the language has them; the first are those that gateways have most.
const KINDS: [&str; 5] = [
    "algorithm: token_bucket, refill: { every: 30s, amount: 1000000000 }, capacity: 1000000000",
    "window: { sliding: 60s }",
    "window: { calendar: day, timezone: Europe/Berlin }",
    "window: { fixed: 60s }",
    "window: { calendar: month, timezone: Europe/Berlin, anchor_day: 15 }",
];

/// Measures, and returns a line of figures per contender.
///
/// # Errors
///
/// The benchmark's own limits are none, or refuse; the text says why.
pub(crate) fn run() -> Result<Vec<Value>, String> {
    let mut lines = Vec::new();
    for limits in [1, 3, 10] {
        lines.extend(measure_limits(limits)?);
    }
    Ok(lines)
}

fn measure_limits(limits: usize) -> Result<Vec<Value>, String> {
    let mut ours = Decider::new(&policies(limits))?;
    // Counters come into being when they are first charged.
    let admitted = decide_all(&mut ours);
    if admitted != DECISIONS {
        return Err(format!("of {DECISIONS} asks {admitted} were admitted"));
    }
    let mut allocations = 0;
    let counted = allocation_counter::measure(|| {
        allocations = decide_all(&mut ours);
    });
    if allocations != DECISIONS {
        return Err(format!("of {DECISIONS} asks {allocations} were admitted"));
    }
    let floor = Floor::new(limits);
    let mut contenders = [
        Contender {
            name: DECIDE,
            work: Box::new(|| decide_all(&mut ours)),
        },
        Contender {
            name: "look up",
            work: Box::new(|| floor.look_up_all()),
        },
    ];
    let name = format!("decide, {limits} limits");
    let mut lines = measure(&name, "ns", u128::from(DECISIONS), &mut contenders);
    for line in lines.iter_mut().filter_map(Value::as_object_mut) {
        line.insert("limits".to_owned(), json!(limits));
        if line.get("contender") == Some(&json!(DECIDE)) {
            let each = per_decision(counted.count_total);
            line.insert("allocations_per_event".to_owned(), json!(each));
        }
    }
    Ok(lines)
}

/// Writes a policy with so many limits that all requests meet, and others that they do not.
fn policies(limits: usize) -> String {
    let mut text = "name: bench\nmatch: { model: { prefix: gpt- } }\nlimits:\n".to_owned();
    for (number, kind) in KINDS.iter().cycle().take(limits).enumerate() {
        let limit = format!(
            "  - {{ name: limit-{number}, meter: requests, limit: 1000000000, per: [app], {kind} }}"
        );
        writeln!(text, "{limit}").unwrap_or_default();
    }
    text + OTHERS
}

/// What decides, and how often it did.
struct Decider {
    engine: Engine,
    step: u64,
}

impl Decider {
    fn new(policies: &str) -> Result<Self, String> {
        let set = read("bench", policies).and_then(compile);
        let set = set.map_err(|errors| texts(&errors))?;
        let engine = Engine::new(ReplicaId(1), 0);
        engine.swap(PoliciesInForce {
            set,
            ..PoliciesInForce::default()
        });
        Ok(Self { engine, step: 0 })
    }

    /// Decides once; says whether the request may go.
    fn decide(&mut self, app: &str) -> bool {
        self.step += 1;
        let ms = i64::try_from(self.step / PER_MS).unwrap_or(i64::MAX);
        let now = UnixMs::FIRST.saturating_add_ms(BEGIN_MS.saturating_add(ms));
        let request = Request {
            app: Some(app),
            model: Some("gpt-4o-mini"),
            provider: Some("openai"),
            path: Some("/v1/chat/completions"),
            ..Request::default()
        };
        let ask = Ask {
            request,
            ..Ask::default()
        };
        let answer = black_box(self.engine.decide(&ask, now));
        answer.outcome == Outcome::Allow
    }
}

/// Decides once for each key; returns how many asks were admitted.
fn decide_all(decider: &mut Decider) -> u64 {
    let mut app = App::FIRST;
    let admitted = in_order().map(|key| u64::from(decider.decide(app.of(key))));
    admitted.sum()
}

fn in_order() -> impl Iterator<Item = usize> {
    (0..KEYS).map(|step| step * STRIDE % KEYS)
}

/// The text of an application, in a buffer that is written again for each.
struct App([u8; 10]);

impl App {
    const FIRST: Self = Self(*b"app-000000");

    fn of(&mut self, key: usize) -> &str {
        let mut rest = key;
        for digit in self.0.iter_mut().skip(4).rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// As many maps as there are limits, from each key to a number.
struct Floor(Vec<HashMap<String, u64, FixedState>>);

impl Floor {
    fn new(limits: usize) -> Self {
        let mut app = App::FIRST;
        let mut map = || {
            let keys = (0..KEYS).map(|key| (app.of(key).to_owned(), 1));
            keys.collect()
        };
        Self((0..limits).map(|_| map()).collect())
    }

    /// Looks each key up in all maps; returns how many there were.
    fn look_up_all(&self) -> u64 {
        let mut app = App::FIRST;
        let found = in_order().map(|key| {
            let app = app.of(key);
            let found = self.0.iter().filter_map(|map| black_box(map.get(app)));
            found.sum::<u64>()
        });
        found.sum()
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "counts of a round lie far below 2^53"
)]
fn per_decision(count: u64) -> f64 {
    (count as f64 / DECISIONS as f64 * 1000.0).round() / 1000.0
}

fn texts(errors: &[PolicyError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join("\n")
}
