//! Price files: recognising their layout by what stands in them, and what was found on the way.
//!
//! Invariant: a file is read whole or not at all; a wrong line refuses it. Deliberately absent: the
//! file system, and what the file is laid over (see `layer`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use crate::time::UnixMs;

use super::book::PriceBook;
use super::csv_file::{self, Strictness};
use super::entry::{
    Column, Entry, LineError, PriceFileError, RateKey, RateValue, RawRow, Rounded, Says, check_text,
};
use super::layer::PriceLayer;
use super::tree::{Item, Node, read_json, read_yaml};
use super::{litellm, rows_file, toml_file};

/// How a price file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Comma-separated rows under a line of column names.
    Csv,
    /// `[[rate]]` and `[[alias]]` tables.
    Toml,
    /// Lists `rates` and `aliases`, or one list of rows.
    Yaml,
    /// The same in JSON, as `prices list --output json` prints it.
    Json,
    /// LiteLLM's map of models, `model_prices_and_context_window.json`.
    LiteLlm,
}

impl Layout {
    /// Returns the name used in SQL and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Toml => "toml",
            Self::Yaml => "yaml",
            Self::Json => "json",
            Self::LiteLlm => "litellm",
        }
    }
}

/// A price file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceFile {
    name: String,
    layout: Layout,
    layer: PriceLayer,
    /// Line, provider and name of each alias, in the file's order.
    pub(super) aliases: Vec<(usize, String, String)>,
    findings: Findings,
}

/// What a file holds that a book does not, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// Prices that a book has no meter or tier for, by kind, the most frequent first.
    pub not_expressed: Vec<NotExpressed>,
    /// How many rates had digits beyond the 18th decimal place, which were rounded.
    pub rounded: usize,
    /// Models that two keys of the file give different prices; the key that names the provider won.
    pub contradicted: Vec<String>,
    /// How many models have no rate that a book expresses.
    pub models_without_rates: usize,
}

/// Prices of one kind that a book cannot express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotExpressed {
    /// What they are per, or for whom.
    pub kind: String,
    /// How many there are.
    pub prices: usize,
    /// How many models have one.
    pub models: usize,
    /// One of these models, as the file names it.
    pub example: String,
}

impl PriceFile {
    /// Reads a price file; `name` is what errors call it, and the source of rates that name none.
    ///
    /// | first line that says something | layout |
    /// | --- | --- |
    /// | names columns, parted by commas | [`Layout::Csv`] |
    /// | begins with `[[`, `[word]`, or is `word = …` | [`Layout::Toml`] |
    /// | begins with `{` or `[` | JSON: LiteLLM's map, or rows |
    /// | `---`, `- …`, `word: …` | YAML: rows, or LiteLLM's map |
    ///
    /// # Errors
    ///
    /// [`PriceFileError`] names the first line at fault; its author mends it. A name that holds a
    /// control character or has white space around it is at fault itself: rename the file.
    pub fn read(name: &str, text: &str) -> Result<Self, PriceFileError> {
        // The canonical form carries it, which would not be read back.
        check_text(name).map_err(|problem| PriceFileError {
            file: format!("{name:?}"),
            line: 1,
            problem: format!(
                "the file's name, the source of rates that name none, {problem} by renaming the file"
            ),
        })?;
        let read = || {
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            match syntax_of(text)? {
                Syntax::Csv => {
                    let rows = csv_file::read(text, Strictness::Written)?;
                    Reading::of_rows(name, rows).map(|reading| (Layout::Csv, reading))
                }
                Syntax::Toml => Reading::of_rows(name, toml_file::read(text)?)
                    .map(|reading| (Layout::Toml, reading)),
                Syntax::Yaml => of_tree(name, Layout::Yaml, read_yaml(text)?),
                Syntax::Json => of_tree(name, Layout::Json, read_json(text)?),
            }
        };
        let (layout, reading) = read().map_err(|(line, problem)| PriceFileError {
            file: name.to_owned(),
            line,
            problem,
        })?;
        Ok(reading.into_file(name, layout))
    }

    /// Lets the file hold from an instant on, instead of from the beginning of time: see
    /// [`PriceLayer::starting_at`].
    #[must_use]
    pub fn starting_at(mut self, from: UnixMs) -> Self {
        self.layer = self.layer.starting_at(from);
        self
    }

    /// Returns the file's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how the file is laid out.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns what the file says.
    #[must_use]
    pub const fn layer(&self) -> &PriceLayer {
        &self.layer
    }

    /// Returns what the file holds that a book does not.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.findings
    }
}

#[derive(Clone, Copy)]
enum Syntax {
    Csv,
    Toml,
    Yaml,
    Json,
}

/// Tells the syntax by the first line that says something.
fn syntax_of(text: &str) -> Result<Syntax, LineError> {
    let mut lines = (1_usize..).zip(text.lines().map(str::trim));
    let says = |line: &str| !line.is_empty() && !line.starts_with('#');
    let Some((number, line)) = lines.find(|(_, line)| says(line)) else {
        return Ok(Syntax::Csv);
    };
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
    };
    let names_columns = line.contains(',')
        && line
            .split(',')
            .any(|name| Column::named(name.trim()).is_ok());
    let table = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .is_some_and(|(name, _)| word(name.trim()));
    let before = |mark| {
        line.split_once(mark)
            .is_some_and(|(name, _)| word(name.trim()))
    };
    let is_yaml = line.starts_with("---")
        || line.starts_with("- ")
        || line.starts_with('%')
        || line.ends_with(':')
        || line.contains(": ");
    if line.starts_with("[[") || table || before('=') {
        Ok(Syntax::Toml)
    } else if line.starts_with(['{', '[']) {
        Ok(Syntax::Json)
    } else if names_columns {
        Ok(Syntax::Csv)
    } else if is_yaml {
        Ok(Syntax::Yaml)
    } else if line.contains(',') {
        Ok(Syntax::Csv)
    } else {
        let problem = "is no price file: begin it with a line of column names (CSV), [[rate]] \
                       (TOML), `rates:` (YAML) or { (LiteLLM's map)";
        Err((number, problem.to_owned()))
    }
}

fn of_tree(name: &str, rows: Layout, tree: Item) -> Result<(Layout, Reading), LineError> {
    if rows_file::is_rows(&tree) {
        let read = Reading::of_rows(name, rows_file::read(tree)?)?;
        return Ok((rows, read));
    }
    match tree.node {
        Node::Map(fields) if litellm::is_map(&fields) => {
            Ok((Layout::LiteLlm, litellm::read(fields)?))
        }
        Node::Null | Node::Plain(_) | Node::Text(_) | Node::List(_) | Node::Map(_) => {
            let problem = "is neither a list `rates` nor LiteLLM's map, in which each model has a \
                           litellm_provider and its prices";
            Err((tree.line, problem.to_owned()))
        }
    }
}

/// A file's rates and aliases, each with its line.
#[derive(Default)]
pub(super) struct Reading {
    rates: BTreeMap<(String, String), BTreeMap<RateKey, (RateValue, usize)>>,
    /// By provider and name: line and target.
    aliases: BTreeMap<(String, String), (usize, String)>,
    pub(super) findings: Findings,
}

impl Reading {
    pub(super) fn of_rows(source: &str, rows: Vec<RawRow>) -> Result<Self, LineError> {
        let mut reading = Self::default();
        for row in rows {
            let Entry {
                line,
                provider,
                model,
                says,
            } = row.check(source)?;
            match says {
                Says::Rate(key, value, rounded) => {
                    if rounded == Rounded::Yes {
                        reading.findings.rounded = reading.findings.rounded.saturating_add(1);
                    }
                    reading.add((provider, model), key, value, line)?;
                }
                Says::AliasOf(target) => reading.add_alias((provider, model), target, line)?,
            }
        }
        Ok(reading)
    }

    pub(super) fn add(
        &mut self,
        model: (String, String),
        key: RateKey,
        value: RateValue,
        line: usize,
    ) -> Result<(), LineError> {
        match self.rates.entry(model).or_default().entry(key) {
            Slot::Vacant(slot) => {
                slot.insert((value, line));
                Ok(())
            }
            Slot::Occupied(slot) => {
                let (_, first) = slot.get();
                let problem = format!(
                    "gives the rate of line {first} again (same provider, model, meter, \
                     above_input_tokens and from); leave one out"
                );
                Err((line, problem))
            }
        }
    }

    fn add_alias(
        &mut self,
        alias: (String, String),
        target: String,
        line: usize,
    ) -> Result<(), LineError> {
        match self.aliases.entry(alias) {
            Slot::Vacant(slot) => {
                slot.insert((line, target));
                Ok(())
            }
            Slot::Occupied(slot) => {
                let ((_, name), (first, _)) = (slot.key(), slot.get());
                let problem = format!("{name} is an alias on line {first} already; leave one out");
                Err((line, problem))
            }
        }
    }

    pub(super) fn into_file(self, name: &str, layout: Layout) -> PriceFile {
        let mut content = PriceBook::default();
        for ((provider, model), rates) in self.rates {
            let prices = content.providers.entry(provider).or_default();
            let rates = rates.into_iter().map(|(key, (value, _))| (key, value));
            prices.models.insert(model, rates.collect());
        }
        let mut aliases = Vec::new();
        for ((provider, alias), (line, target)) in self.aliases {
            let prices = content.providers.entry(provider.clone()).or_default();
            prices.aliases.insert(alias.clone(), target);
            aliases.push((line, provider, alias));
        }
        aliases.sort();
        PriceFile {
            name: name.to_owned(),
            layout,
            layer: PriceLayer::of_content(content),
            aliases,
            findings: self.findings,
        }
    }
}
