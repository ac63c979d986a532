//! From envoyproxy/ratelimit's configuration files to rules.
//!
//! Invariant: a set of files is taken whole or not at all, and what is taken means what it means to
//! that service (`src/config/config_impl.go` there). A key that it does not know is refused here as
//! there, with the nearest name; one that it knows and ignores where it stands is ignored here, too,
//! and said. Deliberately absent: reading files.

use std::collections::BTreeMap;

use domain::nearest::nearest;

use super::rules::{Allowance, Level, Limit, Rule, Rules, Unit};
use super::yaml::{self, Entry, Fault, Item, Meaning, Node};
use crate::grpc::wire::{Kind, Struct, Value};

/// One file of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleFile {
    /// Its path, for errors.
    pub(crate) path: String,
    /// What it says.
    pub(crate) text: String,
}

/// What several files with one domain mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OneDomain {
    /// A mistake: the set is refused (that service's default).
    Refused,
    /// All their descriptors together (its `MERGE_DOMAIN_CONFIG`).
    Merged,
}

/// Why files are no rules; the set in force stays, and the person who wrote them mends what the text
/// names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}:{line}: {problem}")]
pub(crate) struct RulesError {
    /// The file.
    pub(crate) path: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) problem: String,
}

/// Rules, and what is odd about their files.
#[derive(Debug, Default)]
pub(crate) struct LoadedRules {
    /// The rules.
    pub(crate) rules: Rules,
    /// Sentences with file and line, in order: keys that have no effect where they stand.
    pub(crate) warnings: Vec<String>,
}

/// Reads files, in order.
///
/// # Errors
///
/// [`RulesError`]: the first thing that is wrong.
pub(crate) fn load(files: &[RuleFile], one_domain: OneDomain) -> Result<LoadedRules, RulesError> {
    let mut loaded = LoadedRules::default();
    for file in files {
        let mut reader = Reader::default();
        let added = yaml::read(&file.text)
            .and_then(|document| reader.domain(document.as_ref(), &mut loaded.rules, one_domain));
        added.map_err(|(line, problem)| RulesError {
            path: file.path.clone(),
            line,
            problem,
        })?;
        let warnings = reader.warnings.into_iter();
        let path = &file.path;
        let warnings = warnings.map(|(line, problem)| format!("{path}:{line}: {problem}"));
        loaded.warnings.extend(warnings);
    }
    Ok(loaded)
}

/// The tables of a file, and the keys that mean something in each.
const TABLES: [(&str, &[&str]); 4] = [
    ("the file's top level", &["domain", "descriptors"]),
    (
        "a descriptor",
        &[
            "key",
            "value",
            "rate_limit",
            "descriptors",
            "shadow_mode",
            "quota_mode",
            "detailed_metric",
            "value_to_metric",
            "share_threshold",
            "metadata",
        ],
    ),
    (
        "`rate_limit`",
        &["unit", "requests_per_unit", "unlimited", "name", "replaces"],
    ),
    ("an entry of `replaces`", &["name"]),
];

const TOP: usize = 0;
const DESCRIPTOR: usize = 1;
const RATE_LIMIT: usize = 2;
const REPLACES: usize = 3;

/// A table by its keys.
struct Table<'n> {
    line: usize,
    entries: &'n [Entry],
}

impl<'n> Table<'n> {
    fn get(&self, key: &str) -> Option<&'n Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.map(|entry| &entry.value)
    }

    fn text(&self, key: &str) -> Result<&'n str, Fault> {
        let Some(node) = self.get(key) else {
            return Ok("");
        };
        let Item::Scalar(scalar) = &node.item else {
            return Err((node.line, format!("`{key}` is a text")));
        };
        match scalar.meaning() {
            Meaning::Null => Ok(""),
            Meaning::Text | Meaning::Truth(_) | Meaning::Whole(_) => Ok(&scalar.text),
            Meaning::Fraction => {
                let text = &scalar.text;
                let problem = format!("`{key}` is a text; write it in quotes, \"{text}\"");
                Err((node.line, problem))
            }
        }
    }

    fn truth(&self, key: &str) -> Result<bool, Fault> {
        let Some(node) = self.get(key) else {
            return Ok(false);
        };
        match meaning(node) {
            Some(Meaning::Truth(truth)) => Ok(truth),
            Some(Meaning::Null) => Ok(false),
            Some(Meaning::Whole(_) | Meaning::Fraction | Meaning::Text) | None => Err((
                node.line,
                format!("`{key}` is true or false, without quotes"),
            )),
        }
    }

    fn list(&self, key: &str) -> Result<&'n [Node], Fault> {
        match self.get(key) {
            None => Ok(&[]),
            Some(node) => match &node.item {
                Item::List(nodes) => Ok(nodes),
                Item::Scalar(_) if meaning(node) == Some(Meaning::Null) => Ok(&[]),
                Item::Scalar(_) | Item::Table(_) => Err((node.line, format!("`{key}` is a list"))),
            },
        }
    }
}

fn meaning(node: &Node) -> Option<Meaning> {
    match &node.item {
        Item::Scalar(scalar) => Some(scalar.meaning()),
        Item::List(_) | Item::Table(_) => None,
    }
}

#[derive(Default)]
struct Reader {
    warnings: Vec<Fault>,
}

impl Reader {
    fn domain(
        &mut self,
        document: Option<&Node>,
        rules: &mut Rules,
        one_domain: OneDomain,
    ) -> Result<(), Fault> {
        let empty = || (1, "a file of rules names its `domain`".to_owned());
        let top = self.table(document.ok_or_else(empty)?, TOP)?;
        let domain = top.text("domain")?;
        if domain.is_empty() {
            return Err(empty());
        }
        if one_domain == OneDomain::Refused && rules.domains.contains_key(domain) {
            let line = top.get("domain").map_or(top.line, |node| node.line);
            let problem = format!(
                "the domain `{domain}` has rules in another file already; put them together, or set \
                 enforcer.rls.merge_domains = true"
            );
            return Err((line, problem));
        }
        let level = rules.domains.entry(Box::from(domain)).or_default();
        self.descriptors(&top, level, &format!("{domain}."))
    }

    fn descriptors(&mut self, of: &Table<'_>, level: &mut Level, above: &str) -> Result<(), Fault> {
        for node in of.list("descriptors")? {
            let table = self.table(node, DESCRIPTOR)?;
            let key = table.text("key")?;
            let value = table.text("value")?;
            if key.is_empty() {
                return Err((table.line, "a descriptor has a `key`".to_owned()));
            }
            let name = match value {
                "" => key.to_owned(),
                value => format!("{key}_{value}"),
            };
            let full = format!("{above}{name}");
            if level.has(&name) {
                let problem = format!("there are two rules `{full}`; remove one");
                return Err((table.line, problem));
            }
            let mut rule = self.rule(&table, &name)?;
            self.descriptors(&table, &mut rule.below, &format!("{full}."))?;
            level.add(&name, rule);
        }
        Ok(())
    }

    fn rule(&mut self, table: &Table<'_>, name: &str) -> Result<Rule, Fault> {
        let shares = table.truth("share_threshold")?;
        if shares && !name.contains('*') {
            let problem = format!(
                "`share_threshold` is for values with `*`, whose matches share one counter; `{name}` \
                 has none"
            );
            return Err((table.line, problem));
        }
        // What these name in the statistics of envoyproxy/ratelimit; here they only must be right.
        table.truth("detailed_metric")?;
        table.truth("value_to_metric")?;
        let metadata = match table.get("metadata") {
            None => None,
            Some(node) => metadata(node)?,
        };
        let is_shadow = table.truth("shadow_mode")?;
        let is_quota = table.truth("quota_mode")?;
        let limit = match table.get("rate_limit") {
            None => None,
            Some(node) if meaning(node) == Some(Meaning::Null) => None,
            Some(node) => {
                let limit = self.limit(node)?;
                Some(Limit {
                    is_shadow,
                    is_quota,
                    metadata,
                    ..limit
                })
            }
        };
        Ok(Rule {
            limit,
            shares,
            below: Level::default(),
        })
    }

    fn limit(&mut self, node: &Node) -> Result<Limit, Fault> {
        let table = self.table(node, RATE_LIMIT)?;
        let written = table.text("unit")?;
        let unit = Unit::from_name(written);
        let requests_per_unit = match table.get("requests_per_unit") {
            None => 0,
            Some(node) => match meaning(node) {
                Some(Meaning::Null) => Some(0),
                Some(Meaning::Whole(whole)) => u32::try_from(whole).ok(),
                Some(Meaning::Truth(_) | Meaning::Fraction | Meaning::Text) | None => None,
            }
            .ok_or_else(|| {
                let problem = "`requests_per_unit` is a whole number from 0 to 4294967295";
                (node.line, problem.to_owned())
            })?,
        };
        let allowance = match (table.truth("unlimited")?, unit) {
            (true, None) => Allowance::Unlimited,
            (true, Some(_)) => {
                let problem = "`unlimited` goes without a `unit`; remove one of them";
                return Err((table.line, problem.to_owned()));
            }
            (false, Some(unit)) => Allowance::Hits {
                requests_per_unit,
                unit,
            },
            (false, None) => {
                let line = table.get("unit").map_or(table.line, |node| node.line);
                let problem = format!(
                    "`{written}` is no unit; write second, minute, hour, day, week, month or year"
                );
                return Err((line, problem));
            }
        };
        let name = table.text("name")?;
        let mut replaces = Vec::new();
        for node in table.list("replaces")? {
            let table = self.table(node, REPLACES)?;
            let replaced = table.text("name")?;
            if replaced.is_empty() {
                let problem = "an entry of `replaces` has the `name` of another limit";
                return Err((table.line, problem.to_owned()));
            }
            if replaced == name {
                let problem = format!("`{name}` cannot replace itself");
                return Err((table.line, problem));
            }
            replaces.push(Box::from(replaced));
        }
        Ok(Limit {
            allowance,
            name: Box::from(name),
            replaces: replaces.into_boxed_slice(),
            is_shadow: false,
            is_quota: false,
            metadata: None,
        })
    }

    /// Takes a table whose keys are known.
    fn table<'n>(&mut self, node: &'n Node, kind: usize) -> Result<Table<'n>, Fault> {
        let (place, known) = TABLES.get(kind).copied().unwrap_or(("", &[]));
        let entries = match &node.item {
            Item::Table(entries) => entries.as_slice(),
            Item::Scalar(_) | Item::List(_) => {
                let problem = format!("{place} is a table of keys and values");
                return Err((node.line, problem));
            }
        };
        for entry in entries {
            if !entry.is_text {
                return Err((entry.line, format!("the key {} is not a text", entry.key)));
            }
            if known.contains(&entry.key.as_str()) {
                continue;
            }
            let key = &entry.key;
            let home = TABLES.iter().find(|(_, keys)| keys.contains(&key.as_str()));
            if let Some((home, _)) = home {
                let problem = format!(
                    "`{key}` has no effect in {place}, for envoyproxy/ratelimit either; it belongs in \
                     {home}"
                );
                self.warnings.push((entry.line, problem));
                continue;
            }
            let hint = match nearest(key, known.iter().copied()) {
                Some(name) => format!("the nearest known one is `{name}`"),
                None => "remove it".to_owned(),
            };
            let problem = format!("`{key}` is no key of {place}; {hint}");
            return Err((entry.line, problem));
        }
        Ok(Table {
            line: node.line,
            entries,
        })
    }
}

/// Reads what a rule adds to the dynamic metadata; `None` where there is nothing.
fn metadata(node: &Node) -> Result<Option<Struct>, Fault> {
    match &node.item {
        Item::Table(entries) => {
            let fields = fields(entries);
            Ok(Some(Struct { fields }).filter(|metadata| !metadata.fields.is_empty()))
        }
        Item::Scalar(scalar) if scalar.meaning() == Meaning::Null => Ok(None),
        Item::Scalar(_) | Item::List(_) => Err((
            node.line,
            "`metadata` is a table of keys and values".to_owned(),
        )),
    }
}

fn fields(entries: &[Entry]) -> BTreeMap<String, Value> {
    let entries = entries.iter();
    let entries = entries.map(|entry| (entry.key.clone(), value_of(&entry.value)));
    entries.collect()
}

fn value_of(node: &Node) -> Value {
    let scalar = match &node.item {
        Item::Table(entries) => return Value::fields(fields(entries)),
        Item::List(nodes) => return Value::list(nodes.iter().map(value_of).collect()),
        Item::Scalar(scalar) => scalar,
    };
    match scalar.meaning() {
        Meaning::Null => Value {
            kind: Some(Kind::Null(0)),
        },
        Meaning::Truth(truth) => Value {
            kind: Some(Kind::Truth(truth)),
        },
        // Protobuf's numbers are floats; nothing here is an amount.
        Meaning::Whole(whole) => Value::number(whole.to_string().parse().unwrap_or_default()),
        Meaning::Fraction => {
            let text = scalar.text.to_ascii_lowercase().replace(".inf", "inf");
            Value::number(text.replace(".nan", "nan").parse().unwrap_or_default())
        }
        Meaning::Text => Value::text(scalar.text.as_str()),
    }
}
