//! The price book: all rates at provider cost, with source, date and, where given, start.
//!
//! Invariant: two books are equal exactly when their canonical forms are, and the canonical form
//! reads back as the same book; Postgres keeps that form as a version. Deliberately absent: which
//! rates an event gets (see `resolve`), the syntax of files (see `file`) and of how many lists the book was made (see `layer`).

use std::collections::BTreeMap;

use chrono::NaiveDate;

use crate::hash::Hash128;
use crate::meter::Meter;
use crate::money::Rate;
use crate::time::UnixMs;

use super::csv_file::{self, Strictness};
use super::entry::{Column, LineError, PriceFileError, RateKey, RateValue, nearest};
use super::file::{Layout, PriceFile, Reading};

const SHIPPED: &str = include_str!("../../prices/shipped.csv");

/// What errors call the form that Postgres keeps.
const CANONICAL_NAME: &str = "the stored price book";

/// All rates at provider cost, and other names of their models.
///
/// A rate holds from its start until another of the same model, meter and tier starts; one without
/// a start holds from the beginning of time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceBook {
    pub(super) providers: BTreeMap<String, ProviderPrices>,
}

/// The rates of one provider; at least one model has rates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ProviderPrices {
    /// By the model's name, or a pattern `name*`; none is empty.
    pub(super) models: BTreeMap<String, ModelRates>,
    /// Other names of models; each target is a key of `models`.
    pub(super) aliases: BTreeMap<String, String>,
}

/// All rates of one model, for every tier and time.
pub(super) type ModelRates = BTreeMap<RateKey, RateValue>;

/// One rate of the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookRate<'b> {
    /// Who sets the price.
    pub provider: &'b str,
    /// The model's name, or a pattern `name*`.
    pub model: &'b str,
    /// What is priced.
    pub meter: Meter,
    /// The size of the whole request's input above which the rate holds for all of it, in tokens; 0
    /// for every request.
    pub above_input_tokens: u64,
    /// From when on it holds; `None`: from the beginning of time.
    pub start: Option<UnixMs>,
    /// The price of one unit.
    pub rate: Rate,
    /// The public page or the file that says so.
    pub source: &'b str,
    /// The day on which it was read there.
    pub read: Option<NaiveDate>,
}

/// Another name of a model of the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookAlias<'b> {
    /// Who sets the price.
    pub provider: &'b str,
    /// The other name.
    pub name: &'b str,
    /// The model that has the rates.
    pub model: &'b str,
}

impl PriceBook {
    /// Returns the book that ships with the product.
    ///
    /// # Panics
    ///
    /// Never: the shipped file is part of the program, and a test reads it.
    #[must_use]
    pub fn shipped() -> Self {
        Self::default()
            .with_file("shipped.csv", SHIPPED)
            .expect("the shipped file is part of the program and a test reads it")
    }

    /// Returns this book with a price file laid over it; the later file wins.
    ///
    /// | what the file gives a model | what becomes of its earlier rates |
    /// | --- | --- |
    /// | a rate without `from` | the file restates the model: all earlier ones are gone |
    /// | only rates with `from` | they stay, but for those of the same meter, tier and `from` |
    /// | an alias of the same name | the alias stands for the new target |
    /// | nothing | they stay |
    ///
    /// The file's layout is recognised by what stands in it, see [`PriceFile::read`].
    ///
    /// # Errors
    ///
    /// [`PriceFileError`] names the first line at fault; nothing is applied, the author mends it.
    pub fn with_file(&self, file_name: &str, text: &str) -> Result<Self, PriceFileError> {
        self.with(&PriceFile::read(file_name, text)?)
    }

    /// Returns this book with a price file laid over it, as [`Self::with_file`] does.
    ///
    /// # Errors
    ///
    /// [`PriceFileError`] names the first alias that points nowhere; nothing is applied.
    pub fn with(&self, file: &PriceFile) -> Result<Self, PriceFileError> {
        let mut book = self.clone();
        file.layer().lay_rates_over(&mut book);
        for (line, provider, name) in &file.aliases {
            let of_provider = file.layer().content.providers.get(provider);
            let target = of_provider.and_then(|prices| prices.aliases.get(name));
            let target = target.cloned().unwrap_or_default();
            book.add_alias(*line, provider, name.clone(), target)
                .map_err(|(line, problem)| PriceFileError {
                    file: file.name().to_owned(),
                    line,
                    problem,
                })?;
        }
        Ok(book)
    }

    /// Reads the form that [`Self::to_canonical`] writes.
    ///
    /// # Errors
    ///
    /// [`PriceFileError`] where the text is anything else: it was changed since it was written.
    pub fn from_canonical(text: &str) -> Result<Self, PriceFileError> {
        let of_book = |line, problem| PriceFileError {
            file: CANONICAL_NAME.to_owned(),
            line,
            problem,
        };
        let rows = csv_file::read(text, Strictness::Canonical)
            .and_then(|rows| Reading::of_rows(CANONICAL_NAME, rows))
            .map_err(|(line, problem)| of_book(line, problem))?;
        let book = Self::default().with(&rows.into_file(CANONICAL_NAME, Layout::Csv))?;
        if book.to_canonical() == text {
            Ok(book)
        } else {
            Err(of_book(1, "is not in the form it was stored in".to_owned()))
        }
    }

    /// Writes the whole book as CSV, one way only: all columns, rows ascending, numbers shortest. It
    /// is a price file as well.
    #[must_use]
    pub fn to_canonical(&self) -> String {
        let mut text = String::new();
        push_row(&mut text, Column::ALL.map(Column::name));
        for rate in self.rates() {
            let above = rate.above_input_tokens.to_string();
            let price = rate.rate.to_string();
            let read = rate.read.map(|day| day.to_string()).unwrap_or_default();
            let start = rate
                .start
                .map(|start| start.to_string())
                .unwrap_or_default();
            let BookRate {
                provider,
                model,
                meter,
                source,
                ..
            } = rate;
            let meter = meter.name();
            let row = [
                provider, model, meter, &above, &price, source, &read, &start, "",
            ];
            push_row(&mut text, row);
        }
        for BookAlias {
            provider,
            name,
            model,
        } in self.aliases()
        {
            push_row(&mut text, [provider, name, "", "", "", "", "", "", model]);
        }
        text
    }

    /// Returns the hash of the canonical form.
    #[must_use]
    pub fn content_hash(&self) -> Hash128 {
        Hash128::of(self.to_canonical().as_bytes())
    }

    /// Says whether the book has rates of this provider.
    #[must_use]
    pub fn knows_provider(&self, name: &str) -> bool {
        self.providers.contains_key(name)
    }

    /// Returns the provider that a logged name means: its last `/`-segment that the book has rates of,
    /// else the whole name, which is a gateway's path to a backend.
    #[must_use]
    pub fn provider_of<'l>(&self, logged: &'l str) -> &'l str {
        let mut segments = logged.rsplit('/');
        let known = segments.find(|segment| self.knows_provider(segment));
        known.unwrap_or(logged)
    }

    /// Returns all rates: ascending by provider, model, meter, tier and start.
    pub fn rates(&self) -> impl Iterator<Item = BookRate<'_>> {
        self.providers.iter().flat_map(|(provider, prices)| {
            prices.models.iter().flat_map(move |(model, rates)| {
                rates.iter().map(move |(key, value)| BookRate {
                    provider,
                    model,
                    meter: key.meter,
                    above_input_tokens: key.above_input_tokens,
                    start: key.start,
                    rate: value.rate,
                    source: &value.source,
                    read: value.read,
                })
            })
        })
    }

    /// Returns all aliases: ascending by provider and name.
    pub fn aliases(&self) -> impl Iterator<Item = BookAlias<'_>> {
        self.providers.iter().flat_map(|(provider, prices)| {
            let aliases = prices.aliases.iter();
            aliases.map(move |(name, model)| BookAlias {
                provider,
                name,
                model,
            })
        })
    }

    /// Leaves out aliases that point nowhere or whose names have rates, and providers without any.
    pub(super) fn tidy(&mut self) {
        for prices in self.providers.values_mut() {
            let models = &prices.models;
            prices
                .aliases
                .retain(|name, target| models.contains_key(target) && !models.contains_key(name));
        }
        self.providers.retain(|_, prices| !prices.models.is_empty());
    }

    fn add_alias(
        &mut self,
        line: usize,
        provider: &str,
        name: String,
        target: String,
    ) -> Result<(), LineError> {
        let Some(prices) = self.providers.get_mut(provider) else {
            let known: Vec<_> = self.providers.keys().map(String::as_str).collect();
            let hint = nearest(provider, &known);
            return Err((
                line,
                format!("provider {provider:?} has no rates to point to; {hint}"),
            ));
        };
        if !prices.models.contains_key(&target) {
            let known: Vec<_> = prices.models.keys().map(String::as_str).collect();
            let hint = nearest(&target, &known);
            return Err((
                line,
                format!("{provider} has no rates for {target:?}; {hint}"),
            ));
        }
        if prices.models.contains_key(&name) {
            let problem = format!("{name:?} has rates of its own, which win; leave the alias out");
            return Err((line, problem));
        }
        prices.aliases.insert(name, target);
        Ok(())
    }
}

/// Writes one row of CSV (RFC 4180); a cell that could be read otherwise goes into quotes.
fn push_row(text: &mut String, cells: [&str; 9]) {
    for (place, cell) in cells.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        if cell.contains([',', '"', '#']) {
            text.push('"');
            text.push_str(&cell.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(cell);
        }
    }
    text.push('\n');
}
