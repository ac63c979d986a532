//! Layers: what one list of prices says, and how lists lie over one another.
//!
//! Invariant: the same layers in the same order make the same book, whoever puts them together; a
//! later layer wins. Deliberately absent: which layers there are, which Postgres knows.

use std::collections::{BTreeMap, BTreeSet};

use crate::meter::Meter;
use crate::money::Rate;
use crate::time::UnixMs;

use super::book::{BookRate, ModelRates, PriceBook};
use super::csv_file::{self, Strictness};
use super::entry::{PriceFileError, RateKey, RateValue};
use super::file::{Layout, Reading};
use super::resolve::{holding_at, rates_of_tier};

/// What errors call the form that Postgres keeps.
const CANONICAL_NAME: &str = "the stored price list";

/// What one list of prices says of the models that it names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceLayer {
    /// From when on the list holds; `None`: from the beginning of time.
    from: Option<UnixMs>,
    /// The list; its aliases may point to models of lower layers.
    pub(super) content: PriceBook,
}

/// A book and the layer that each of its rates comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayeredBook {
    /// The book.
    pub book: PriceBook,
    origins: BTreeMap<(String, String), BTreeMap<RateKey, usize>>,
}

impl PriceLayer {
    pub(super) const fn of_content(content: PriceBook) -> Self {
        Self {
            from: None,
            content,
        }
    }

    /// Lets the list hold from an instant on: nothing of it holds before.
    ///
    /// | a model's rates in the list | what becomes of its rates in lower layers |
    /// | --- | --- |
    /// | some without a start of their own | they hold until `from`, and nothing of them after it |
    /// | all with one | they stay, but for those of the same meter, tier and start |
    ///
    /// A meter or tier that the list does not have any more is priced from `from` on as the list
    /// prices what it falls back to then; one that falls back to nothing keeps its rate.
    #[must_use]
    pub fn starting_at(mut self, from: UnixMs) -> Self {
        self.from = Some(from);
        self
    }

    /// Returns the instant from which the list holds.
    #[must_use]
    pub const fn holds_from(&self) -> Option<UnixMs> {
        self.from
    }

    /// Writes the list in its canonical form, without the instant from which it holds.
    #[must_use]
    pub fn to_canonical(&self) -> String {
        self.content.to_canonical()
    }

    /// Reads the form that [`Self::to_canonical`] writes.
    ///
    /// # Errors
    ///
    /// [`PriceFileError`] where the text is anything else: it was changed since it was written.
    pub fn from_canonical(text: &str, from: Option<UnixMs>) -> Result<Self, PriceFileError> {
        let read = || {
            let rows = csv_file::read(text, Strictness::Canonical)?;
            let reading = Reading::of_rows(CANONICAL_NAME, rows)?;
            let layer = reading
                .into_file(CANONICAL_NAME, Layout::Csv)
                .layer()
                .clone();
            if layer.to_canonical() == text {
                Ok(layer)
            } else {
                Err((1, "is not in the form it was stored in".to_owned()))
            }
        };
        let layer = read().map_err(|(line, problem)| PriceFileError {
            file: CANONICAL_NAME.to_owned(),
            line,
            problem,
        })?;
        Ok(Self { from, ..layer })
    }

    /// Returns how many models the list has rates for.
    #[must_use]
    pub fn models(&self) -> usize {
        let providers = self.content.providers.values();
        providers.fold(0, |sum, prices| sum.saturating_add(prices.models.len()))
    }

    /// Returns how many rates the list has.
    #[must_use]
    pub fn rates(&self) -> usize {
        self.content.rates().count()
    }

    /// Returns how many aliases the list has.
    #[must_use]
    pub fn aliases(&self) -> usize {
        self.content.aliases().count()
    }

    /// Says whether nothing of this layer is left once the later one lies over it.
    #[must_use]
    pub fn is_covered_by(&self, later: &Self) -> bool {
        if later.from.is_some() {
            return false;
        }
        self.content.providers.iter().all(|(provider, prices)| {
            let Some(theirs) = later.content.providers.get(provider) else {
                return false;
            };
            let restates = |model: &String| theirs.models.get(model).is_some_and(is_restated);
            prices.models.keys().all(restates)
                && prices
                    .aliases
                    .keys()
                    .all(|alias| theirs.aliases.contains_key(alias) || restates(alias))
        })
    }

    /// Lays the rates over a book's.
    pub(super) fn lay_rates_over(&self, book: &mut PriceBook) {
        for (provider, list) in &self.content.providers {
            for (model, rates) in &list.models {
                let prices = book.providers.entry(provider.clone()).or_default();
                // A name with rates of its own is no alias any longer.
                prices.aliases.remove(model);
                let known = prices.models.entry(model.clone()).or_default();
                let own = self.placed(rates);
                match self.from {
                    Some(from) if is_restated(rates) => end_at(known, &own, from),
                    None if is_restated(rates) => known.clear(),
                    Some(_) | None => {}
                }
                known.extend(own);
            }
        }
    }

    /// Lays aliases over a book; a name that has rates in lower layers only is an alias from now on.
    fn lay_aliases_over(&self, book: &mut PriceBook) {
        for (provider, list) in &self.content.providers {
            let prices = book.providers.entry(provider.clone()).or_default();
            for (name, target) in &list.aliases {
                prices.models.remove(name);
                prices.aliases.insert(name.clone(), target.clone());
            }
        }
    }

    /// Returns a model's rates as the layer gives them: nothing of them holds before its start, at
    /// which those hold that the list has for then.
    fn placed(&self, rates: &ModelRates) -> ModelRates {
        // Keys ascend by start, so that the last one before the layer's start is what holds there.
        let placed = rates.iter().map(|(key, value)| {
            let start = key.start.max(self.from);
            (RateKey { start, ..*key }, value.clone())
        });
        placed.collect()
    }
}

impl From<PriceBook> for PriceLayer {
    fn from(book: PriceBook) -> Self {
        Self::of_content(book)
    }
}

impl LayeredBook {
    /// Puts layers together, the lowest first. An alias whose target has no rates, or whose name has
    /// some in its own layer or a later one, is left out.
    #[must_use]
    pub fn of<'l>(layers: impl IntoIterator<Item = &'l PriceLayer>) -> Self {
        let mut layered = Self::default();
        for (index, layer) in layers.into_iter().enumerate() {
            layer.lay_rates_over(&mut layered.book);
            layer.lay_aliases_over(&mut layered.book);
            layered.note_origins(layer, index);
        }
        layered.book.tidy();
        layered
    }

    /// Returns the place of the layer that a rate of the book comes from, from 0 for the lowest.
    #[must_use]
    pub fn layer_of(&self, rate: &BookRate<'_>) -> Option<usize> {
        let model = (rate.provider.to_owned(), rate.model.to_owned());
        let key = RateKey {
            meter: rate.meter,
            above_input_tokens: rate.above_input_tokens,
            start: rate.start,
        };
        self.origins.get(&model)?.get(&key).copied()
    }

    fn note_origins(&mut self, layer: &PriceLayer, index: usize) {
        for (provider, list) in &layer.content.providers {
            for (model, rates) in &list.models {
                let now = self.book.providers.get(provider);
                let Some(now) = now.and_then(|prices| prices.models.get(model)) else {
                    continue;
                };
                let own = layer.placed(rates);
                let origins = self.origins.entry((provider.clone(), model.clone()));
                let origins = origins.or_default();
                let before = std::mem::take(origins);
                for key in now.keys() {
                    let earlier = before.get(key).filter(|_| !own.contains_key(key));
                    origins.insert(*key, earlier.copied().unwrap_or(index));
                }
            }
        }
    }
}

/// Says whether a list's rates of a model are all that it has, instead of additions to it.
fn is_restated(rates: &ModelRates) -> bool {
    rates.keys().any(|key| key.start.is_none())
}

/// Ends rates at an instant from which others hold: later starts go, and a meter or tier that the
/// others lack is priced by what it falls back to among them, as long as they lack it.
fn end_at(known: &mut ModelRates, own: &ModelRates, from: UnixMs) {
    known.retain(|key, _| key.start.is_none_or(|start| start < from));
    let places: BTreeSet<(Meter, u64)> = known
        .keys()
        .map(|key| (key.meter, key.above_input_tokens))
        .collect();
    let later = own.keys().filter_map(|key| key.start);
    let starts: BTreeSet<UnixMs> = later.filter(|start| *start > from).chain([from]).collect();
    for start in starts {
        let holding = holding_at(own, Some(start));
        for (meter, above_input_tokens) in &places {
            let key = RateKey {
                meter: *meter,
                above_input_tokens: *above_input_tokens,
                start: Some(start),
            };
            let is_given = holding
                .iter()
                .any(|(own, above, _)| (own, above) == (meter, above_input_tokens));
            let fallback = rates_of_tier(&holding, *above_input_tokens).get(*meter);
            if let Some((rate, of)) = fallback.filter(|_| !is_given) {
                known.insert(key, standing_in(own, of, rate));
            }
        }
    }
}

/// Returns a rate of a list for a meter that falls back to it.
fn standing_in(own: &ModelRates, of: Meter, rate: Rate) -> RateValue {
    let mut given = own.iter().filter(|(key, _)| key.meter == of);
    let given = given.find(|(_, value)| value.rate == rate);
    RateValue {
        rate,
        source: given
            .map(|(_, value)| value.source.clone())
            .unwrap_or_default(),
        read: given.and_then(|(_, value)| value.read),
    }
}
