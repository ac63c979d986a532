//! LiteLLM's map of models and prices, `model_prices_and_context_window.json`, in JSON or YAML.
//!
//! Invariant: each price in the map becomes a rate or is counted by kind as not expressed; one that
//! is no decimal refuses the map. Deliberately absent: what is no price (sizes, abilities).
//!
//! A tier `_above_200k_tokens` holds for the whole request once its input is greater, as in the book;
//! what the map leaves out falls back as in the book: cached and audio input to input, reasoning and
//! audio output to output (<https://github.com/BerriAI/litellm>, `llm_cost_calc/utils.py`, read
//! 2026-11-21).

mod field;
mod provider;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::check_id;
use crate::meter::{Meter, QUANTITY_MAX};

use super::entry::{LineError, RateKey, RateValue, Rounded, bad_rate, check_text, parse_rate};
use super::file::{NotExpressed, Reading};
use super::tree::{Field, Item, Node};
use field::{Meaning, meaning_of};

/// What rates are said to come from where the map names no page.
const SOURCE: &str = "LiteLLM's price map";

/// The entry that explains the others.
const SAMPLE: &str = "sample_spec";

const PROVIDER: &str = "litellm_provider";
const TIERS: &str = "tiered_pricing";

/// Says whether the values are models with prices.
pub(super) fn is_map(fields: &[Field]) -> bool {
    let is_model = |field: &Field| match &field.value.node {
        Node::Map(fields) => fields
            .iter()
            .any(|field| field.name == PROVIDER || meaning_of(&field.name) != Meaning::NoPrice),
        Node::Null | Node::Plain(_) | Node::Text(_) | Node::List(_) => false,
    };
    fields.iter().any(is_model)
}

/// Reads the map.
pub(super) fn read(entries: Vec<Field>) -> Result<Reading, LineError> {
    let mut map = Map::default();
    for entry in entries {
        if entry.name != SAMPLE {
            map.add(&entry)?;
        }
    }
    map.into_reading()
}

/// The rates of one model, each with its line.
type Rates = BTreeMap<(Meter, u64), (RateValue, usize)>;

/// The models by provider and name.
#[derive(Default)]
struct Map {
    models: BTreeMap<(String, String), Model>,
    kinds: BTreeMap<String, (usize, BTreeSet<String>)>,
    rounded: usize,
    contradicted: BTreeSet<String>,
    models_without_rates: usize,
}

struct Model {
    rates: Rates,
    /// Whether the map's key names the provider, as LiteLLM looks it up first.
    is_prefixed: bool,
}

/// What one entry says.
#[derive(Default)]
struct Prices {
    rates: Rates,
    /// Kinds of prices that a book does not have, once for each price.
    others: Vec<String>,
    /// Whether one of these is for the use itself, as tokens are, and above zero.
    has_other_unit: bool,
    rounded: usize,
    /// Whether a table of tiers says all that input costs, and all that output costs.
    is_input_tiered: bool,
    is_output_tiered: bool,
}

impl Map {
    fn add(&mut self, entry: &Field) -> Result<(), LineError> {
        let Node::Map(fields) = &entry.value.node else {
            self.count(&entry.name, "no model");
            return Ok(());
        };
        let prices = Prices::of(&entry.name, fields)?;
        for kind in &prices.others {
            self.count(&entry.name, kind);
        }
        if prices.rates.is_empty() {
            let is_model = !prices.others.is_empty();
            self.models_without_rates = self
                .models_without_rates
                .saturating_add(usize::from(is_model));
            return Ok(());
        }
        self.rounded = self.rounded.saturating_add(prices.rounded);
        let raw = provider_of(entry, fields)?;
        let (name, is_prefixed) = provider::without_prefix(&entry.name, &raw);
        let at_fault = |what: &str, problem: &str| {
            let problem = format!("{what} of {:?} {problem}; give it a usual one", entry.name);
            (entry.line, problem)
        };
        check_id(name).map_err(|error| at_fault("the name", &error.to_string()))?;
        check_text(name).map_err(|problem| at_fault("the name", &problem))?;
        if name.contains('*') {
            return Err(at_fault("the name", "holds a `*`"));
        }
        for provider in provider::names(&raw, name) {
            check_id(&provider).map_err(|error| at_fault(PROVIDER, &error.to_string()))?;
            check_text(&provider).map_err(|problem| at_fault(PROVIDER, &problem))?;
            let model = Model {
                rates: prices.rates.clone(),
                is_prefixed,
            };
            self.put((provider, name.to_owned()), model, &entry.name);
        }
        Ok(())
    }

    /// Takes a model; where another key gave it already, the one that names the provider stays.
    fn put(&mut self, place: (String, String), model: Model, key: &str) {
        if let Some(known) = self.models.get(&place) {
            let rates = |model: &Model| -> Vec<_> {
                let rates = model.rates.iter();
                rates.map(|(key, (value, _))| (*key, value.rate)).collect()
            };
            if rates(known) != rates(&model) {
                self.contradicted.insert(key.to_owned());
            }
            if known.is_prefixed || !model.is_prefixed {
                return;
            }
        }
        self.models.insert(place, model);
    }

    fn count(&mut self, model: &str, kind: &str) {
        let (prices, models) = self.kinds.entry(kind.to_owned()).or_default();
        *prices = prices.saturating_add(1);
        models.insert(model.to_owned());
    }

    fn into_reading(self) -> Result<Reading, LineError> {
        let mut reading = Reading::default();
        for (model, Model { rates, .. }) in self.models {
            for ((meter, above_input_tokens), (value, line)) in rates {
                let key = RateKey {
                    meter,
                    above_input_tokens,
                    start: None,
                };
                reading.add(model.clone(), key, value, line)?;
            }
        }
        let kinds = self.kinds.into_iter();
        let mut not_expressed: Vec<_> = kinds
            .map(|(kind, (prices, models))| NotExpressed {
                kind,
                prices,
                models: models.len(),
                example: models.into_iter().next().unwrap_or_default(),
            })
            .collect();
        not_expressed.sort_by_key(|kind| std::cmp::Reverse(kind.prices));
        reading.findings.not_expressed = not_expressed;
        reading.findings.rounded = self.rounded;
        reading.findings.contradicted = self.contradicted.into_iter().collect();
        reading.findings.models_without_rates = self.models_without_rates;
        Ok(reading)
    }
}

impl Prices {
    fn of(model: &str, fields: &[Field]) -> Result<Self, LineError> {
        let source = source_of(fields);
        let mut prices = Self::default();
        // A table of tiers is all that such a model costs, as far as it goes.
        for field in fields {
            if field.name == TIERS {
                prices.add_tiers(model, field, &source)?;
            }
        }
        prices.close_tiers();
        for field in fields {
            if field.name != TIERS {
                prices.add(model, field, 0, &source)?;
            }
        }
        prices.drop_image_beside_tokens();
        prices.drop_placeholders();
        Ok(prices)
    }

    /// Adds a field's price; `above` is the size of the input above which it holds.
    fn add(
        &mut self,
        model: &str,
        field: &Field,
        above: u64,
        source: &str,
    ) -> Result<(), LineError> {
        let meaning = meaning_of(&field.name);
        if meaning == Meaning::NoPrice || field.value.node == Node::Null {
            return Ok(());
        }
        let (Node::Plain(text) | Node::Text(text)) = &field.value.node else {
            self.others.push(kind_of(&meaning, &field.name));
            return Ok(());
        };
        let (rate, rounded) = parse_rate(text).map_err(|error| {
            let problem = bad_rate(&field.name, text, error);
            (field.line, format!("{model:?}: {problem}"))
        })?;
        match meaning {
            Meaning::Rate(meter, tier) => {
                let place = (meter, tier.max(above));
                let is_taken = self.rates.contains_key(&place) || self.is_closed(meter);
                if !is_taken {
                    let value = RateValue {
                        rate,
                        source: source.to_owned(),
                        read: None,
                    };
                    self.rates.insert(place, (value, field.line));
                    self.rounded = self
                        .rounded
                        .saturating_add(usize::from(rounded == Rounded::Yes));
                }
            }
            Meaning::OtherUnit(_) => {
                self.has_other_unit |= rate.units() > 0;
                self.others.push(kind_of(&meaning, &field.name));
            }
            Meaning::OtherTier(_) => self.others.push(kind_of(&meaning, &field.name)),
            Meaning::NoPrice => {}
        }
        Ok(())
    }

    /// Adds `tiered_pricing`: tiers from a number of input tokens, each with all that it costs. What a
    /// tier leaves out falls back within it, never to a lower tier.
    fn add_tiers(&mut self, model: &str, field: &Field, source: &str) -> Result<(), LineError> {
        let Node::List(tiers) = &field.value.node else {
            return Err((
                field.line,
                format!("{model:?}: {TIERS} is no list; write one"),
            ));
        };
        let mut starts = BTreeSet::new();
        for tier in tiers {
            let Node::Map(fields) = &tier.node else {
                let problem = format!("{model:?}: a tier is no object; write one with a range");
                return Err((tier.line, problem));
            };
            let Some(range) = fields.iter().find(|field| field.name == "range") else {
                self.count_tier(model, fields)?;
                continue;
            };
            let above = start_of(model, range)?;
            starts.insert(above);
            for field in fields {
                self.add(model, field, above, source)?;
            }
        }
        self.fill_tiers(&starts);
        Ok(())
    }

    /// Notes what the table of tiers prices: beside it, the entry's own prices of tokens mean nothing,
    /// except that of output where the table has none.
    fn close_tiers(&mut self) {
        let has = |wanted| self.rates.keys().any(|(meter, _)| *meter == wanted);
        self.is_input_tiered = has(Meter::InputUncachedTokens);
        self.is_output_tiered = self.is_input_tiered && has(Meter::OutputTextTokens);
    }

    fn is_closed(&self, meter: Meter) -> bool {
        (self.is_input_tiered && meter.is_input()) || (self.is_output_tiered && meter.is_output())
    }

    /// Counts what a tier by something else than input tokens costs.
    fn count_tier(&mut self, model: &str, fields: &[Field]) -> Result<(), LineError> {
        let mut tier = Self::default();
        for field in fields {
            tier.add(model, field, 0, "")?;
        }
        let rates = tier
            .rates
            .iter()
            .map(|_| "tiers by another size".to_owned());
        self.others.extend(rates);
        self.others.extend(tier.others);
        self.has_other_unit |= tier.has_other_unit;
        Ok(())
    }

    fn fill_tiers(&mut self, starts: &BTreeSet<u64>) {
        let meters: BTreeSet<Meter> = self.rates.keys().map(|(meter, _)| *meter).collect();
        for above in starts {
            for meter in &meters {
                let own = |meter: Meter| self.rates.get(&(meter, *above)).cloned();
                if own(*meter).is_none() {
                    let mut chain = std::iter::successors(Some(*meter), |meter| meter.fallback());
                    if let Some(rate) = chain.find_map(own) {
                        self.rates.insert((*meter, *above), rate);
                    }
                }
            }
        }
    }

    /// A price per image made beside one per output token says the same twice: the tokens count.
    fn drop_image_beside_tokens(&mut self) {
        let costs_by_token = self
            .rates
            .iter()
            .any(|((meter, _), (value, _))| meter.is_output() && value.rate.units() > 0);
        let has_image_tokens = self.others.iter().any(|kind| kind == field::IMAGE_TOKENS);
        if (costs_by_token || has_image_tokens) && self.rates.remove(&(Meter::Images, 0)).is_some()
        {
            self.others
                .push("per image beside a price per token".to_owned());
        }
    }

    /// Where all tokens cost nothing and another unit costs something, the zeros only fill the fields:
    /// as rates they would make the model free.
    fn drop_placeholders(&mut self) {
        let is_free = self
            .rates
            .values()
            .all(|(value, _)| value.rate.units() == 0);
        if is_free && self.has_other_unit {
            let zeros = std::mem::take(&mut self.rates);
            let kind = "zero per token beside a price in another unit".to_owned();
            self.others.extend(zeros.iter().map(|_| kind.clone()));
        }
    }
}

fn kind_of(meaning: &Meaning, field: &str) -> String {
    match meaning {
        Meaning::OtherUnit(kind) | Meaning::OtherTier(kind) => (*kind).to_owned(),
        Meaning::Rate(..) | Meaning::NoPrice => format!("{field} that is no number"),
    }
}

/// Returns the number of input tokens above which a tier holds: the first number of its range.
fn start_of(model: &str, range: &Field) -> Result<u64, LineError> {
    let first = match &range.value.node {
        Node::List(ends) => ends.first(),
        Node::Null | Node::Plain(_) | Node::Text(_) | Node::Map(_) => None,
    };
    let wrong = || {
        let problem =
            format!("{model:?}: a tier's range is no pair of token counts; write [0, 32000]");
        (range.line, problem)
    };
    let Some(Item {
        node: Node::Plain(text) | Node::Text(text),
        ..
    }) = first
    else {
        return Err(wrong());
    };
    // Counts stand in the map as floats, too: 256000.0.
    let whole = text.split_once('.').map_or(text.as_str(), |(whole, rest)| {
        if rest.bytes().all(|b| b == b'0') {
            whole
        } else {
            text
        }
    });
    whole
        .parse()
        .ok()
        .filter(|tokens| *tokens <= QUANTITY_MAX)
        .ok_or_else(wrong)
}

/// Returns the page that the entry names, where it can be kept.
fn source_of(fields: &[Field]) -> String {
    let source = fields.iter().find(|field| field.name == "source");
    match source.map(|field| &field.value.node) {
        Some(Node::Text(text) | Node::Plain(text))
            if !text.trim().is_empty() && check_text(text.trim()).is_ok() =>
        {
            text.trim().to_owned()
        }
        Some(Node::Null | Node::Plain(_) | Node::Text(_) | Node::List(_) | Node::Map(_)) | None => {
            SOURCE.to_owned()
        }
    }
}

/// Returns LiteLLM's name of the provider: the entry's own, or what its key begins with.
fn provider_of(entry: &Field, fields: &[Field]) -> Result<String, LineError> {
    let named = fields.iter().find(|field| field.name == PROVIDER);
    if let Some(Node::Text(name) | Node::Plain(name)) = named.map(|field| &field.value.node) {
        return Ok(name.clone());
    }
    entry
        .name
        .split_once('/')
        .map(|(provider, _)| provider.to_owned())
        .ok_or_else(|| {
            let problem = format!("{:?} has no {PROVIDER}; add one", entry.name);
            (entry.line, problem)
        })
}
