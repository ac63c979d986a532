//! The oracle's own reading of a price list.
//!
//! Invariant: a rate is looked up afresh for every event, by plain search: nothing is remembered.

use std::collections::{BTreeMap, BTreeSet};

use bigdecimal::BigDecimal;

use super::time;

/// A list of rates.
#[derive(Debug, Clone, Default)]
pub struct Prices {
    /// By provider, then model.
    models: BTreeMap<String, BTreeMap<String, Vec<Rate>>>,
}

#[derive(Debug, Clone)]
struct Rate {
    meter: String,
    above: u64,
    from: i64,
    usd: BigDecimal,
}

/// What one event is priced by.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// The list's model, or empty.
    pub book_model: String,
    /// The price of one unit, by meter, stand-ins included.
    pub by_meter: BTreeMap<&'static str, BigDecimal>,
}

impl Prices {
    /// Reads the shipped list.
    #[must_use]
    pub fn shipped() -> Self {
        let mut prices = Self::default();
        prices.add(include_str!("../../data/prices.csv"));
        prices
    }

    /// Adds the rates of a list with a header; later ones win at the same place and time.
    pub fn add(&mut self, csv: &str) {
        let mut lines = csv.lines();
        let header: Vec<&str> = lines.next().expect("a header").split(',').collect();
        for line in lines.filter(|line| !line.is_empty()) {
            let fields: Vec<&str> = line.split(',').collect();
            let field = |name: &str| {
                let place = header.iter().position(|column| *column == name)?;
                fields.get(place).copied().filter(|text| !text.is_empty())
            };
            let must = |name| field(name).unwrap_or_else(|| panic!("no {name}: {line}"));
            let from = field("from").map_or(i64::MIN, |text| {
                let whole = if text.len() == 10 {
                    format!("{text}T00:00:00Z")
                } else {
                    text.to_owned()
                };
                time::parse(&whole).expect("a time")
            });
            let rate = Rate {
                meter: must("meter").to_owned(),
                above: must("above_input_tokens").parse().unwrap(),
                from,
                usd: must("usd_per_unit").parse().unwrap(),
            };
            let models = self.models.entry(must("provider").to_owned()).or_default();
            let rates = models.entry(must("model").to_owned()).or_default();
            rates.retain(|known| {
                (&known.meter, known.above, known.from) != (&rate.meter, rate.above, rate.from)
            });
            rates.push(rate);
        }
    }

    /// Returns the last `/`-segment that is a provider of the list, else the whole text.
    #[must_use]
    pub fn provider_of(&self, logged: &str) -> String {
        let known = |segment: &&str| self.models.contains_key(*segment);
        logged.rsplit('/').find(known).unwrap_or(logged).to_owned()
    }

    /// Finds the rates of the model that answered, else of the one that was asked for.
    #[must_use]
    pub fn rates(
        &self,
        provider: &str,
        answered: Option<&str>,
        asked: &str,
        at: i64,
        input: u64,
    ) -> Rates {
        let Some(models) = self.models.get(provider) else {
            return Rates::default();
        };
        for name in answered.into_iter().chain([asked]) {
            for candidate in [Some(name), undated(name)].into_iter().flatten() {
                let holding: Vec<&Rate> = models
                    .get(candidate)
                    .into_iter()
                    .flatten()
                    .filter(|rate| rate.from <= at)
                    .collect();
                if !holding.is_empty() {
                    return Rates {
                        book_model: candidate.to_owned(),
                        by_meter: by_meter(&holding, input),
                    };
                }
            }
        }
        Rates::default()
    }
}

fn by_meter(holding: &[&Rate], input: u64) -> BTreeMap<&'static str, BigDecimal> {
    let tiers: BTreeSet<u64> = holding.iter().map(|rate| rate.above).collect();
    let tier = tiers
        .into_iter()
        .filter(|above| *above == 0 || *above < input)
        .max()
        .unwrap_or(0);
    let own = |meter: &str| {
        let rates = holding
            .iter()
            .filter(|rate| rate.meter == meter && rate.above <= tier);
        rates
            .max_by_key(|rate| (rate.above, rate.from))
            .map(|rate| rate.usd.clone())
    };
    let chains: [(&'static str, &[&str]); 10] = [
        ("requests", &[]),
        ("input_uncached_tokens", &[]),
        ("input_cache_read_tokens", &["input_uncached_tokens"]),
        ("input_cache_write_tokens", &["input_uncached_tokens"]),
        (
            "input_cache_write_1h_tokens",
            &["input_cache_write_tokens", "input_uncached_tokens"],
        ),
        ("input_audio_tokens", &["input_uncached_tokens"]),
        ("output_text_tokens", &[]),
        ("output_reasoning_tokens", &["output_text_tokens"]),
        ("output_audio_tokens", &["output_text_tokens"]),
        ("images", &[]),
    ];
    let rate = |(meter, others): (&'static str, &[&str])| {
        let found = own(meter).or_else(|| others.iter().find_map(|other| own(other)))?;
        Some((meter, found))
    };
    chains.into_iter().filter_map(rate).collect()
}

/// Takes `-YYYY-MM-DD` or `-YYYYMMDD` off the end.
fn undated(name: &str) -> Option<&str> {
    for length in [11, 9] {
        let Some(at) = name.len().checked_sub(length).filter(|at| *at > 0) else {
            continue;
        };
        let (Some(rest), Some(suffix)) = (name.get(..at), name.get(at..)) else {
            continue;
        };
        let date: String = if length == 11 {
            suffix.get(1..).unwrap_or("").to_owned()
        } else {
            let part = |from, to| suffix.get(from..to).unwrap_or("");
            format!("{}-{}-{}", part(1, 5), part(5, 7), part(7, 9))
        };
        if suffix.starts_with('-') && time::parse(&format!("{date}T00:00:00Z")).is_some() {
            return Some(rest);
        }
    }
    None
}
