//! The effective configuration as TOML, with the origin of each setting.

use std::fmt::Write as _;

use serde::Serialize;
use toml::{Table, Value};

use super::Names;
use super::error::ConfigError;
use super::path::{Path, quoted};
use super::secret::{HIDDEN, mask};
use super::tree::{Node, Origin};

/// Writes the tables of a configuration in the order of their names.
pub(super) fn print<T: Serialize>(
    value: &T,
    tree: &Node,
    names: Names,
) -> Result<String, ConfigError> {
    let table = Table::try_from(value).map_err(|error| ConfigError::Unprintable {
        problem: error.to_string(),
    })?;
    let mut printer = Printer {
        tree,
        names,
        text: String::new(),
    };
    printer.table(&table, &Path::root());
    Ok(printer.text.trim_start().to_owned())
}

struct Printer<'a> {
    tree: &'a Node,
    names: Names,
    text: String,
}

impl Printer<'_> {
    /// Writes a table's plain settings first, as TOML demands, then the tables in it.
    fn table(&mut self, table: &Table, path: &Path) {
        let (tables, plain): (Vec<_>, Vec<_>) =
            table.iter().partition(|(_, value)| is_table(value));
        for (key, value) in plain {
            self.setting(key, value, &path.key(key));
        }
        for (key, value) in tables {
            let below = path.key(key);
            match value {
                Value::Table(inner) if !inner.is_empty() => {
                    if inner.values().any(|value| !is_table(value)) {
                        self.line(&format!("\n[{below}]"));
                    }
                    self.table(inner, &below);
                }
                Value::Array(elements) => {
                    for (index, element) in elements.iter().enumerate() {
                        self.element(element, &below, index);
                    }
                }
                _ => {}
            }
        }
    }

    fn element(&mut self, element: &Value, list: &Path, index: usize) {
        let Value::Table(inner) = element else { return };
        self.line(&format!("\n[[{list}]]"));
        // Tables of an element are written inline, so that no header can belong to another element.
        for (key, value) in inner {
            self.setting(key, value, &list.index(index).key(key));
        }
    }

    fn setting(&mut self, key: &str, value: &Value, path: &Path) {
        let origin = self
            .tree
            .exact_origin(path.segments())
            .unwrap_or(&Origin::Default);
        let shown = self.hide(value, path);
        let line = format!("{} = {shown}  # {origin}", quoted(key));
        self.line(&line);
    }

    fn hide(&self, value: &Value, path: &Path) -> Value {
        match value {
            Value::String(_) if (self.names.is_secret)(&path.to_string()) => {
                Value::String(HIDDEN.to_owned())
            }
            Value::String(text) => Value::String(mask(text)),
            Value::Array(elements) => {
                let shown = elements.iter().enumerate();
                Value::Array(
                    shown
                        .map(|(index, one)| self.hide(one, &path.index(index)))
                        .collect(),
                )
            }
            Value::Table(table) => {
                let shown = table.iter();
                Value::Table(
                    shown
                        .map(|(key, one)| (key.clone(), self.hide(one, &path.key(key))))
                        .collect(),
                )
            }
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
                value.clone()
            }
        }
    }

    fn line(&mut self, line: &str) {
        // Writing to a string cannot fail.
        writeln!(self.text, "{line}").unwrap_or_default();
    }
}

/// Tells whether TOML writes the value under a header of its own.
fn is_table(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(elements) => !elements.is_empty() && elements.iter().all(Value::is_table),
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_) => false,
    }
}
