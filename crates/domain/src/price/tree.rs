//! What JSON and YAML have in common: values within values, each with its line.
//!
//! Invariant: a number is kept as its digits in the file, never as a float; a key occurs once in its
//! mapping. Deliberately absent: what the values mean (see `rows_file` and `litellm`).

mod json;
mod yaml;

pub(super) use json::read as read_json;
pub(super) use yaml::read as read_yaml;

use std::collections::HashMap;

use super::entry::LineError;

/// How deep values may lie in one another; price files need four levels.
const DEPTH_MAX: usize = 32;

/// A value and the line on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) node: Node,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// `null`, and in YAML a value that is left out.
    Null,
    /// What stands without quotes: a number, `true`, in YAML any plain text.
    Plain(String),
    /// A text in quotes.
    Text(String),
    /// An array.
    List(Vec<Item>),
    /// An object, in the file's order.
    Map(Vec<Field>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) value: Item,
}

/// Makes a mapping, unless a key occurs twice.
fn map_of(fields: Vec<Field>) -> Result<Node, LineError> {
    let mut lines = HashMap::with_capacity(fields.len());
    for field in &fields {
        if let Some(first) = lines.insert(field.name.as_str(), field.line) {
            let problem = format!(
                "{:?} stands on line {first} already; leave one out",
                field.name
            );
            return Err((field.line, problem));
        }
    }
    Ok(Node::Map(fields))
}

fn too_deep(line: usize) -> LineError {
    let problem = format!("lies more than {DEPTH_MAX} levels deep, which no price file does");
    (line, problem)
}
