//! The oracle: what the ledger must hold, folded from the log by other means.
//!
//! Invariant: shares no code with the product: it reads the topic itself, decodes with `serde_json`,
//! prices from its own copy of the list and computes with arbitrary precision. It takes the log as
//! one, from the first record; batches, positions and restarts do not exist for it.

pub mod compare;
pub mod json;
pub mod line;
pub mod prices;
pub mod time;

use std::collections::{BTreeMap, HashSet};

use bigdecimal::{BigDecimal, Zero};

use crate::harness::topic::{Stored, Topic};
use line::{Line, Rule, Verdict};
use prices::Prices;

/// The meters in the order of the ledger's columns.
pub const METERS: [&str; 10] = [
    "requests",
    "input_uncached_tokens",
    "input_cache_read_tokens",
    "input_cache_write_tokens",
    "input_cache_write_1h_tokens",
    "input_audio_tokens",
    "output_text_tokens",
    "output_reasoning_tokens",
    "output_audio_tokens",
    "images",
];

/// How old an event may be when its record is written, in ms: three days.
const WINDOW_MS: i64 = 3 * 24 * 60 * 60 * 1000;

/// How far ahead of its record it may lie, in ms: five minutes.
const AHEAD_MS: i64 = 5 * 60 * 1000;

/// What sums are kept apart by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Who is charged.
    pub app: String,
    /// Its user, or empty.
    pub user: String,
    /// The gateway's route, or empty.
    pub route: String,
    /// Who answered, or empty.
    pub provider: String,
    /// The model that was asked for.
    pub model: String,
    /// The model that answered.
    pub priced_model: String,
    /// The list's model that its rates are of, or empty.
    pub book_model: String,
    /// The start of the quarter-hour, in ms since 1970.
    pub quarter: i64,
}

/// What is summed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sums {
    /// In the order of [`METERS`].
    pub quantities: [u128; 10],
    /// Requests that did not succeed.
    pub failed: u128,
    /// Requests with usage that has a rate.
    pub priced: u128,
    /// Requests with usage that has none.
    pub unpriced: u128,
    /// What the usage with a rate costs.
    pub amount: BigDecimal,
}

/// What became of the events of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records.
    pub records: u64,
    /// Events that are in the sums.
    pub accepted: u64,
    /// Events that are in the sums already.
    pub duplicates: u64,
    /// Events that cannot become usage.
    pub rejected: u64,
    /// Events that are not metered.
    pub ignored: u64,
}

/// A ledger, by the oracle or as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// The sums.
    pub rows: BTreeMap<Key, Sums>,
    /// The counts.
    pub counts: Counts,
}

/// Folds records one by one.
pub struct Oracle {
    prices: Prices,
    rule: Rule,
    source: String,
    seen: HashSet<(String, String, i64, Vec<u8>)>,
    /// What has been folded so far.
    pub ledger: Ledger,
}

impl Oracle {
    /// Begins with an empty ledger, the shipped price list and the usual fields of a source.
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self {
            prices: Prices::shipped(),
            rule: Rule::default(),
            source: source.to_owned(),
            seen: HashSet::new(),
            ledger: Ledger::default(),
        }
    }

    /// Adds rates to the list; they win over those that it has.
    #[must_use]
    pub fn with_prices(mut self, csv: &str) -> Self {
        self.prices.add(csv);
        self
    }

    /// Folds all records of the topic that a committed reader sees, and returns the ledger.
    #[must_use]
    pub fn fold_topic(mut self, topic: &Topic) -> Ledger {
        topic.read_each(|record| self.fold(&record));
        self.ledger
    }

    /// Folds one record.
    pub fn fold(&mut self, record: &Stored) {
        self.ledger.counts.records += 1;
        let verdicts = line::read(record.payload.as_deref(), &self.rule);
        for verdict in verdicts {
            match verdict {
                Verdict::Ignored => self.ledger.counts.ignored += 1,
                Verdict::Rejected(_) => self.ledger.counts.rejected += 1,
                Verdict::Usage(line) => self.fold_line(&line, record.time),
            }
        }
    }

    fn fold_line(&mut self, line: &Line, record_time: i64) {
        if line.start > record_time + AHEAD_MS || line.start < record_time - WINDOW_MS {
            self.ledger.counts.rejected += 1;
            return;
        }
        let identity = (
            self.source.clone(),
            line.request_id.clone(),
            line.start,
            line.bytes.clone(),
        );
        if !self.seen.insert(identity) {
            self.ledger.counts.duplicates += 1;
            return;
        }
        self.ledger.counts.accepted += 1;
        self.post(line);
    }

    fn post(&mut self, line: &Line) {
        let provider = self.prices.provider_of(&line.provider);
        let input = line.quantities.iter().skip(1).take(5).sum::<u64>();
        let answered = line.answered_model.as_deref();
        let rates = self
            .prices
            .rates(&provider, answered, &line.model, line.start, input);
        let key = Key {
            app: line.app.clone(),
            user: line.user.clone(),
            route: line.route.clone(),
            provider,
            model: line.model.clone(),
            priced_model: answered.unwrap_or(&line.model).to_owned(),
            book_model: rates.book_model.clone(),
            quarter: line.start.div_euclid(900_000) * 900_000,
        };
        let sums = self.ledger.rows.entry(key).or_default();
        let (mut is_priced, mut is_unpriced) = (false, false);
        for (place, quantity) in line
            .quantities
            .iter()
            .enumerate()
            .filter(|(_, each)| **each > 0)
        {
            sums.quantities[place] += u128::from(*quantity);
            match rates.by_meter.get(&METERS[place]) {
                Some(rate) => {
                    sums.amount += rate * BigDecimal::from(*quantity);
                    is_priced = true;
                }
                None => is_unpriced |= place != 0,
            }
        }
        sums.priced += u128::from(is_priced);
        sums.unpriced += u128::from(is_unpriced);
        sums.failed += u128::from(line.failed);
    }
}

impl Ledger {
    /// Returns the sum of one meter over all rows.
    #[must_use]
    pub fn total(&self, meter: &str) -> u128 {
        let place = METERS
            .iter()
            .position(|known| *known == meter)
            .expect("a meter");
        self.rows.values().map(|sums| sums.quantities[place]).sum()
    }

    /// Returns what everything costs.
    #[must_use]
    pub fn cost(&self) -> BigDecimal {
        self.rows
            .values()
            .fold(BigDecimal::zero(), |sum, row| sum + &row.amount)
    }
}

impl Counts {
    /// Returns the number of events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.accepted + self.duplicates + self.rejected + self.ignored
    }
}
