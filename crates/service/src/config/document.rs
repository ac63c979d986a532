//! The file: which one, and from TOML to nodes that know their lines.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Names;
use super::environment::Environment;
use super::error::ConfigError;
use super::tree::{Item, Node, Origin};

/// Chooses the file: the flag's, else the variable's, else the usual one if it is there.
pub(super) fn choose(
    names: Names,
    flag: Option<&FilePath>,
    environment: &Environment,
) -> Result<Option<PathBuf>, ConfigError> {
    let variable = format!("{}_CONFIG", names.prefix);
    let named = match (
        flag,
        environment.get(&variable).filter(|value| !value.is_empty()),
    ) {
        (Some(file), _) => Some((file.to_path_buf(), "--config".to_owned())),
        (None, Some(file)) => Some((PathBuf::from(file), variable)),
        (None, None) => None,
    };
    let Some((file, named_by)) = named else {
        let usual = PathBuf::from(names.file);
        return Ok(usual.is_file().then_some(usual));
    };
    match std::fs::metadata(&file) {
        Ok(found) if found.is_dir() => {
            Err(unreadable(&file, named_by, "it is a folder".to_owned()))
        }
        Ok(_) => Ok(Some(file)),
        Err(error) => Err(unreadable(&file, named_by, error.to_string())),
    }
}

/// Reads a file.
pub(super) fn read(file: &FilePath) -> Result<Node, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| unreadable(file, "the configuration".to_owned(), error.to_string()))?;
    parse(&file.display().to_string(), &text)
}

fn unreadable(file: &FilePath, named_by: String, problem: String) -> ConfigError {
    ConfigError::File {
        file: file.display().to_string(),
        named_by,
        problem,
    }
}

/// Parses the text of a file.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, ConfigError> {
    let lines = Lines {
        file: Arc::from(file),
        text,
    };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        ConfigError::Syntax {
            place: lines.origin(at),
            problem: error.message().to_owned(),
        }
    })?;
    Ok(Node {
        origin: lines.origin(0),
        item: lines.table(table.get_ref())?,
    })
}

/// Parses a value as it would stand behind `=` in a file, all of it from one origin.
pub(super) fn parse_inline(text: &str, origin: &Origin) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    let lines = Lines {
        file: Arc::from(""),
        text,
    };
    let mut node = lines.node(&value).ok()?;
    relabel(&mut node, origin);
    Some(node)
}

fn relabel(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.item {
        Item::List(nodes) => nodes.iter_mut().for_each(|node| relabel(node, origin)),
        Item::Table(entries) => entries.values_mut().for_each(|node| relabel(node, origin)),
        Item::Text(_) | Item::Integer(_) | Item::Float(_) | Item::Boolean(_) => {}
    }
}

/// Turns byte offsets into lines.
struct Lines<'a> {
    file: Arc<str>,
    text: &'a str,
}

impl Lines<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        let breaks = before.iter().filter(|byte| **byte == b'\n').count();
        Origin::File {
            file: Arc::clone(&self.file),
            line: breaks.saturating_add(1),
        }
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Result<Node, ConfigError> {
        let at = value.span().start;
        let item = match value.get_ref() {
            DeValue::String(text) => Item::Text(text.to_string()),
            DeValue::Integer(number) => {
                let number = i64::from_str_radix(number.as_str(), number.radix());
                Item::Integer(number.map_err(|_overflow| self.too_great(at))?)
            }
            DeValue::Float(number) => Item::Float(
                number
                    .as_str()
                    .parse()
                    .map_err(|_overflow| self.too_great(at))?,
            ),
            DeValue::Boolean(truth) => Item::Boolean(*truth),
            DeValue::Datetime(instant) => Item::Text(instant.to_string()),
            DeValue::Array(values) => Item::List(
                values
                    .iter()
                    .map(|value| self.node(value))
                    .collect::<Result<_, _>>()?,
            ),
            DeValue::Table(table) => self.table(table)?,
        };
        Ok(Node {
            origin: self.origin(at),
            item,
        })
    }

    fn table(&self, table: &DeTable<'_>) -> Result<Item, ConfigError> {
        let entries = table.iter().map(|(key, value)| {
            let mut node = self.node(value)?;
            // The key's line is where a person looks; `[[x]]` keeps a line per element below it.
            node.origin = self.origin(key.span().start);
            Ok((key.get_ref().to_string(), node))
        });
        Ok(Item::Table(entries.collect::<Result<_, ConfigError>>()?))
    }

    fn too_great(&self, at: usize) -> ConfigError {
        let problem = "this number is beyond 64 bits; write a smaller one".to_owned();
        ConfigError::Syntax {
            place: self.origin(at),
            problem,
        }
    }
}
