//! What one row of a price file says, checked, whatever the file's syntax.
//!
//! Invariant: an entry is complete and valid once it exists, and an error names the file, the line,
//! what is wrong there and how to mend it. Deliberately absent: what the row does to a book.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};

use crate::ids::check_id;
use crate::meter::{Meter, QUANTITY_MAX};
use crate::money::{DecimalError, Rate};
use crate::time::UnixMs;

/// A price file that cannot be read: nothing of it is applied; its author mends the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} line {line}: {problem}")]
pub struct PriceFileError {
    /// The file, as it was named.
    pub file: String,
    /// The line at fault, from 1.
    pub line: usize,
    /// What is wrong there and how to mend it.
    pub problem: String,
}

/// What a row of a price file can say: the names of CSV columns and of TOML keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Provider,
    Model,
    Meter,
    AboveInputTokens,
    UsdPerUnit,
    Source,
    Read,
    From,
    AliasOf,
}

impl Column {
    /// All columns, in the order of the canonical form.
    pub(super) const ALL: [Self; 9] = [
        Self::Provider,
        Self::Model,
        Self::Meter,
        Self::AboveInputTokens,
        Self::UsdPerUnit,
        Self::Source,
        Self::Read,
        Self::From,
        Self::AliasOf,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Meter => "meter",
            Self::AboveInputTokens => "above_input_tokens",
            Self::UsdPerUnit => "usd_per_unit",
            Self::Source => "source",
            Self::Read => "read",
            Self::From => "from",
            Self::AliasOf => "alias_of",
        }
    }

    /// Finds a column by its name, none for what `prices list` prints beside them; else says which
    /// one was probably meant.
    pub(super) fn named(name: &str) -> Result<Option<Self>, String> {
        if name == LISTED_ONLY {
            return Ok(None);
        }
        let named = Self::ALL.into_iter().find(|column| column.name() == name);
        named.map(Some).ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!(
                "there is no {name:?} in a price file; {}",
                nearest(name, &names)
            )
        })
    }
}

/// A column that `prices list` prints and that a file is not asked for: the layer a rate lies in.
const LISTED_ONLY: &str = "layer";

/// A row as a file spells it: the columns that are not empty, each with its line.
pub(super) struct RawRow {
    /// Where the row begins, from 1.
    pub(super) line: usize,
    /// Column, text and line of each cell that says something.
    pub(super) cells: Vec<(Column, String, usize)>,
}

/// What is wrong in a line; the caller adds the file's name.
pub(super) type LineError = (usize, String);

/// A checked row.
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) provider: String,
    pub(super) model: String,
    pub(super) says: Says,
}

/// What a row says of its model.
pub(super) enum Says {
    /// One rate, and whether digits beyond the 18th were rounded.
    Rate(RateKey, RateValue, Rounded),
    /// The name is another spelling of this model.
    AliasOf(String),
}

/// Whether a rate is the file's number to the last digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounded {
    /// It is.
    No,
    /// What a float left beyond the 18th decimal place was rounded.
    Yes,
}

/// What a rate of one model is told apart by; in this order in the canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RateKey {
    /// What is priced.
    pub(super) meter: Meter,
    /// The size of the whole request's input above which the rate holds for all of it, in tokens; 0
    /// for every request.
    pub(super) above_input_tokens: u64,
    /// From when on it holds; `None`: from the beginning of time.
    pub(super) start: Option<UnixMs>,
}

/// A rate and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RateValue {
    pub(super) rate: Rate,
    /// The public page or the file that says so.
    pub(super) source: String,
    /// The day on which it was read there.
    pub(super) read: Option<NaiveDate>,
}

impl RawRow {
    /// Checks the row; `source` stands in where the row names none.
    pub(super) fn check(self, source: &str) -> Result<Entry, LineError> {
        let provider = self.name_of(Column::Provider)?;
        let model = self.name_of(Column::Model)?;
        let says = if self.cell(Column::AliasOf).is_some() {
            Says::AliasOf(self.check_alias(&model)?)
        } else {
            self.check_pattern(&model)?;
            let (key, value, rounded) = self.check_rate(source)?;
            Says::Rate(key, value, rounded)
        };
        Ok(Entry {
            line: self.line,
            provider,
            model,
            says,
        })
    }

    fn check_alias(&self, model: &str) -> Result<String, LineError> {
        let rate_columns = [
            Column::Meter,
            Column::AboveInputTokens,
            Column::UsdPerUnit,
            Column::Read,
            Column::From,
        ];
        for column in rate_columns {
            if let Some((_, line)) = self.cell(column) {
                let name = column.name();
                return Err((line, format!("an alias has no {name}; leave {name} empty")));
            }
        }
        let target = self.name_of(Column::AliasOf)?;
        if model.contains('*') || target.contains('*') {
            let problem = "an alias and the model it stands for are whole names; leave out the `*`";
            return Err((self.line, problem.to_owned()));
        }
        Ok(target)
    }

    fn check_rate(&self, source: &str) -> Result<(RateKey, RateValue, Rounded), LineError> {
        let (meter, line) = self.require(Column::Meter)?;
        let meter = Meter::from_str(meter).map_err(|_| (line, unknown_meter(meter)))?;
        let (rate, line) = self.require(Column::UsdPerUnit)?;
        let (rate, rounded) =
            parse_rate(rate).map_err(|error| (line, bad_rate("usd_per_unit", rate, error)))?;
        let key = RateKey {
            meter,
            above_input_tokens: self.parse_or(Column::AboveInputTokens, 0, parse_tokens)?,
            start: self.parse_or(Column::From, None, |text| parse_instant(text).map(Some))?,
        };
        let read = self.parse_or(Column::Read, None, |text| parse_day(text).map(Some))?;
        let source = match self.cell(Column::Source) {
            Some((text, line)) => {
                check_text(text).map_err(|problem| (line, format!("source {problem}")))?;
                text
            }
            None => source,
        };
        Ok((
            key,
            RateValue {
                rate,
                source: source.to_owned(),
                read,
            },
            rounded,
        ))
    }

    fn check_pattern(&self, model: &str) -> Result<(), LineError> {
        let prefix = model.strip_suffix('*').unwrap_or(model);
        if prefix.contains('*') {
            let problem = format!("model {model:?} has a `*` that is not its end; write `name*`");
            return Err((self.line_of(Column::Model), problem));
        }
        Ok(())
    }

    fn cell(&self, column: Column) -> Option<(&str, usize)> {
        let mut cells = self.cells.iter();
        cells
            .find(|cell| cell.0 == column)
            .map(|(_, text, line)| (text.as_str(), *line))
    }

    fn line_of(&self, column: Column) -> usize {
        self.cell(column).map_or(self.line, |(_, line)| line)
    }

    fn require(&self, column: Column) -> Result<(&str, usize), LineError> {
        self.cell(column).ok_or_else(|| {
            let name = column.name();
            let cure = match column {
                Column::Meter | Column::UsdPerUnit => {
                    "a row gives one meter's usd_per_unit, or names a model by alias_of"
                }
                Column::Provider
                | Column::Model
                | Column::AboveInputTokens
                | Column::Source
                | Column::Read
                | Column::From
                | Column::AliasOf => "each row names its provider and model",
            };
            (self.line, format!("{name} is missing; {cure}"))
        })
    }

    fn name_of(&self, column: Column) -> Result<String, LineError> {
        let (text, line) = self.require(column)?;
        let name = column.name();
        check_id(text).map_err(|error| (line, format!("{name} {error}; give it a usual name")))?;
        check_text(text).map_err(|problem| (line, format!("{name} {problem}")))?;
        Ok(text.to_owned())
    }

    fn parse_or<T>(
        &self,
        column: Column,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, LineError> {
        let Some((text, line)) = self.cell(column) else {
            return Ok(default);
        };
        parse(text).map_err(|problem| (line, format!("{} {text:?} {problem}", column.name())))
    }
}

/// A text that the canonical form carries unchanged and that people can tell from another.
pub(super) fn check_text(text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) {
        return Err("holds a control character; leave it out".to_owned());
    }
    if text.trim() != text {
        return Err("has white space around it; leave it out".to_owned());
    }
    Ok(())
}

fn unknown_meter(name: &str) -> String {
    let sum = match name {
        "input_tokens" => Some("input_uncached_tokens"),
        "output_tokens" => Some("output_text_tokens"),
        "total_tokens" | "cost" => Some("input_uncached_tokens and output_text_tokens"),
        _ => None,
    };
    match sum {
        Some(parts) => format!("meter {name:?} is a sum and has no rate; price {parts}"),
        None => {
            let names = Meter::ALL.map(Meter::name);
            format!("meter {name:?} is unknown; {}", nearest(name, &names))
        }
    }
}

/// Reads a rate; digits beyond the 18th place, which floats leave behind, are rounded, unless nothing
/// would be left.
pub(super) fn parse_rate(text: &str) -> Result<(Rate, Rounded), DecimalError> {
    match Rate::from_str(text) {
        Ok(rate) => Ok((rate, Rounded::No)),
        Err(DecimalError::TooPrecise) => match Rate::from_str_rounded(text)? {
            rate if rate.units() == 0 => Err(DecimalError::TooPrecise),
            rate => Ok((rate, Rounded::Yes)),
        },
        Err(error) => Err(error),
    }
}

/// Says what is wrong with a rate and how to mend it; `name` is what the file calls it.
pub(super) fn bad_rate(name: &str, text: &str, error: DecimalError) -> String {
    let cure = match error {
        DecimalError::Malformed => "write a decimal such as 0.00000015",
        DecimalError::TooPrecise => "round it to 18",
        DecimalError::TooLarge => "a rate is below 10^20",
        DecimalError::Negative => "a rate is 0 or more",
    };
    format!("{name} {text:?} {error}; {cure}")
}

fn parse_tokens(text: &str) -> Result<u64, String> {
    let tokens = text
        .parse::<u64>()
        .ok()
        .filter(|tokens| *tokens <= QUANTITY_MAX);
    tokens.ok_or_else(|| "is not a number of tokens; write 0 or, say, 200000".to_owned())
}

/// Reads the instant from which a price holds: RFC 3339, or a date, which means its first instant in
/// UTC.
///
/// # Errors
///
/// What is wrong with the text and how to mend it, as the end of a sentence.
pub fn parse_instant(text: &str) -> Result<UnixMs, String> {
    let instant = match parse_day(text) {
        Ok(day) => Some(day.and_time(chrono::NaiveTime::MIN).and_utc()),
        Err(_) => DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|instant| instant.with_timezone(&Utc)),
    };
    let whole = instant.filter(|instant| instant.timestamp_subsec_nanos() % 1_000_000 == 0);
    whole.and_then(UnixMs::from_utc).ok_or_else(|| {
        "is not a time of 1970 to 9999 in whole milliseconds; write 2027-01-31 (midnight in UTC) \
         or 2027-01-31T12:00:00Z"
            .to_owned()
    })
}

fn parse_day(text: &str) -> Result<NaiveDate, String> {
    let is_long_form = text.len() == 10 && text.bytes().all(|b| b == b'-' || b.is_ascii_digit());
    let day = is_long_form
        .then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok())
        .flatten();
    day.ok_or_else(|| "is not a date; write 2027-01-31".to_owned())
}

/// Says which of the names was probably meant: the one with the fewest edits.
pub(super) fn nearest(name: &str, names: &[&str]) -> String {
    let by_edits = |known: &&&str| strsim::damerau_levenshtein(name, known);
    match names.iter().min_by_key(by_edits) {
        Some(known) => format!("the nearest name is {known}"),
        None => "there are none to choose from".to_owned(),
    }
}
