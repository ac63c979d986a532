//! Checking what was written against the schema, so that errors can name place and cure.
//!
//! | written | verdict |
//! | --- | --- |
//! | a key the schema does not name, and the table is no map | unknown, with the nearest known key |
//! | a value of another type than the schema's | wrong type, with what was expected |
//! | a word that is none of the schema's | wrong type, with the words |
//! | a table without a required key | missing |

use super::error::ConfigError;
use super::path::Path;
use super::schema::{Kind, SchemaNode};
use super::tree::{Item, Node};

/// Checks a node and everything below it.
pub(super) fn check(node: &Node, schema: SchemaNode<'_>, path: &Path) -> Result<(), ConfigError> {
    check_kind(node, &schema.kind(), path)?;
    match &node.item {
        Item::Table(entries) => {
            for (key, child) in entries {
                let below = path.key(key);
                match schema.key(key) {
                    Some(expected) => check(child, expected, &below)?,
                    None if schema.is_open() => {}
                    None => return Err(unknown(child, schema, &below, key)),
                }
            }
            let lacking = schema.required().find(|key| !entries.contains_key(*key));
            lacking.map_or(Ok(()), |key| Err(missing(node, schema, path, key)))
        }
        Item::List(nodes) => {
            let Some(expected) = schema.element() else {
                return Ok(());
            };
            let mut each = nodes.iter().enumerate();
            each.try_for_each(|(index, child)| check(child, expected, &path.index(index)))
        }
        Item::Text(_) | Item::Integer(_) | Item::Float(_) | Item::Boolean(_) => Ok(()),
    }
}

fn check_kind(node: &Node, kind: &Kind<'_>, path: &Path) -> Result<(), ConfigError> {
    let fits = match (&node.item, kind) {
        (Item::Text(text), Kind::Word(words)) => words.contains(&text.as_str()),
        (Item::Integer(number), Kind::Integer { least, greatest }) => {
            (least..=greatest).contains(&number)
        }
        (_, Kind::Anything)
        | (Item::Text(_), Kind::Text)
        | (Item::Integer(_) | Item::Float(_), Kind::Number)
        | (Item::Boolean(_), Kind::Boolean)
        | (Item::List(_), Kind::List)
        | (Item::Table(_), Kind::Table) => true,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let found = match (&node.item, kind) {
        (Item::Text(text), Kind::Word(_)) => format!("\"{text}\""),
        (Item::Integer(number), Kind::Integer { .. }) => number.to_string(),
        (Item::Text(_), _) => "a text".to_owned(),
        (Item::Integer(_), _) => "a whole number".to_owned(),
        (Item::Float(_), _) => "a number with a fraction".to_owned(),
        (Item::Boolean(_), _) => "true or false".to_owned(),
        (Item::List(_), _) => "a list".to_owned(),
        (Item::Table(_), _) => "a table".to_owned(),
    };
    Err(ConfigError::Type {
        place: node.origin.clone(),
        path: path.clone(),
        found,
        expected: kind.describe(),
    })
}

fn unknown(node: &Node, schema: SchemaNode<'_>, path: &Path, key: &str) -> ConfigError {
    let known = schema.properties().map(|(name, _)| name);
    let cure = nearest(key, known).map_or_else(
        || "remove it".to_owned(),
        |name| format!("the nearest known key is `{name}`: write that, or remove it"),
    );
    ConfigError::UnknownKey {
        place: node.origin.clone(),
        path: path.clone(),
        cure,
    }
}

fn missing(node: &Node, schema: SchemaNode<'_>, path: &Path, key: &str) -> ConfigError {
    let expected = schema
        .key(key)
        .map_or(Kind::Anything, SchemaNode::kind)
        .describe();
    ConfigError::Missing {
        place: node.origin.clone(),
        path: path.key(key),
        expected,
    }
}

/// Returns the known name that is likest to a mistyped one.
pub(super) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(typed, name);
    known.max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
}
