//! Checking a tree against the language's JSON Schema, so that every fault of form is told at once.
//!
//! Invariant: what passes, or is left after the faulty parts were taken out, decodes into the types
//! that the schema was derived from, unless a required key was among them.
//!
//! | written | told |
//! | --- | --- |
//! | a key that the table has not | the nearest key |
//! | a value of another form | what was found, what is expected, and how to write it |
//! | a word that is none of the words | the nearest word, and all of them |
//! | a whole number out of its range | the range |
//! | a table without a required key | the key |

use serde_json::Value as Json;

use super::error::{Faults, join};
use super::yaml::{Item, Node};
use crate::nearest::nearest;

/// A schema's node, with what its references point into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'s> {
    root: &'s Json,
    node: &'s Json,
}

/// What one alternative of a schema takes.
enum Form<'s> {
    Text,
    Words(Vec<&'s str>),
    Whole { least: i64, greatest: i64 },
    Truth,
    List,
    Table,
    Anything,
}

impl<'s> Shape<'s> {
    pub(super) const fn root(schema: &'s Json) -> Self {
        Self {
            root: schema,
            node: schema,
        }
    }

    /// Takes out of the tree what does not fit and tells why; returns whether the node itself fits.
    pub(super) fn check(self, node: &mut Node, path: &str, faults: &mut Faults<'_>) -> bool {
        let alternatives = self.alternatives();
        let fitting = alternatives.iter().find(|one| one.form().takes(&node.item));
        let Some(fitting) = fitting else {
            faults.put(path, node.mark, misfit(&alternatives, &node.item));
            return false;
        };
        match &mut node.item {
            Item::Whole(digits) => {
                let problem = fitting.form().refuse_number(digits);
                problem.is_none_or(|problem| {
                    faults.put(path, node.mark, problem);
                    false
                })
            }
            Item::Text(word) => {
                let problem = fitting.form().refuse_word(word);
                problem.is_none_or(|problem| {
                    faults.put(path, node.mark, problem);
                    false
                })
            }
            Item::List(nodes) => {
                let Some(element) = fitting.below("items") else {
                    return true;
                };
                let mut index = 0_usize;
                let mut fits = true;
                for node in nodes {
                    fits &= element.check(node, &format!("{path}[{index}]"), faults);
                    index = index.saturating_add(1);
                }
                fits
            }
            Item::Table(_) => {
                fitting.check_table(node, path, faults);
                true
            }
            Item::Null | Item::Boolean(_) | Item::Fraction(_) => true,
        }
    }

    fn check_table(self, node: &mut Node, path: &str, faults: &mut Faults<'_>) {
        let mark = node.mark;
        let Item::Table(entries) = &mut node.item else {
            return;
        };
        for key in self.required() {
            if !entries.iter().any(|entry| entry.key == key) {
                let expected = self.key(key).map_or_else(String::new, |shape| {
                    format!(" as {}", expected(&shape.alternatives()))
                });
                faults.put(
                    &join(path, key),
                    mark,
                    format!("is missing; add it{expected}"),
                );
            }
        }
        let found = faults.len();
        entries.retain_mut(|entry| {
            let below = join(path, &entry.key);
            match self.key(&entry.key) {
                Some(shape) => shape.check(&mut entry.value, &below, faults),
                None => {
                    faults.put(&below, entry.mark, self.unknown(&entry.key));
                    false
                }
            }
        });
        if faults.len() > found {
            faults.damage(path);
        }
    }

    fn unknown(self, key: &str) -> String {
        nearest(key, self.keys()).map_or_else(
            || "is no key; remove it".to_owned(),
            |known| format!("is no key; the nearest is `{known}`: write that, or remove it"),
        )
    }

    fn keys(self) -> impl Iterator<Item = &'s str> {
        let properties = self.node.get("properties").and_then(Json::as_object);
        properties
            .into_iter()
            .flatten()
            .map(|(key, _)| key.as_str())
    }

    /// Returns the shape of a key: a named one, or what all other keys hold where the table is a map.
    fn key(self, key: &str) -> Option<Self> {
        let properties = self.node.get("properties");
        let named = properties.and_then(|properties| properties.get(key));
        let other = || {
            self.node
                .get("additionalProperties")
                .filter(|node| node.is_object())
        };
        named.or_else(other).map(|node| Self { node, ..self })
    }

    fn below(self, name: &str) -> Option<Self> {
        self.node.get(name).map(|node| Self { node, ..self })
    }

    fn required(self) -> impl Iterator<Item = &'s str> {
        let required = self.node.get("required").and_then(Json::as_array);
        required.into_iter().flatten().filter_map(Json::as_str)
    }

    /// Follows references and lists the alternatives, "nothing" left out.
    fn alternatives(self) -> Vec<Self> {
        let reference = self.node.get("$ref").and_then(Json::as_str);
        let target = reference.and_then(|path| self.root.pointer(path.trim_start_matches('#')));
        if let Some(node) = target {
            return Self { node, ..self }.alternatives();
        }
        match self.node.get("anyOf").and_then(Json::as_array) {
            Some(either) => {
                let each = either.iter().map(|node| Self { node, ..self });
                each.flat_map(Self::alternatives).collect()
            }
            None if self.type_name() == Some("null") => Vec::new(),
            None => vec![self],
        }
    }

    /// Returns the type; of `["string", "null"]` the first that is not null.
    fn type_name(self) -> Option<&'s str> {
        match self.node.get("type")? {
            Json::String(name) => Some(name),
            Json::Array(names) => {
                let mut names = names.iter().filter_map(Json::as_str);
                names.find(|name| *name != "null")
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => None,
        }
    }

    fn form(self) -> Form<'s> {
        if let Some(words) = self.words() {
            return Form::Words(words);
        }
        match self.type_name() {
            Some("string") => Form::Text,
            Some("integer") => {
                let bound = |name| self.node.get(name).and_then(Json::as_i64);
                Form::Whole {
                    least: bound("minimum").unwrap_or(i64::MIN),
                    greatest: bound("maximum").unwrap_or(i64::MAX),
                }
            }
            Some("boolean") => Form::Truth,
            Some("array") => Form::List,
            Some("object") => Form::Table,
            _ => Form::Anything,
        }
    }

    /// Returns the words of an enumeration: `enum`, or `oneOf` with a `const` each where the words are
    /// documented.
    fn words(self) -> Option<Vec<&'s str>> {
        if let Some(words) = self.node.get("enum").and_then(Json::as_array) {
            return Some(words.iter().filter_map(Json::as_str).collect());
        }
        let variants = self.node.get("oneOf").and_then(Json::as_array)?;
        let word = |variant: &'s Json| variant.get("const").and_then(Json::as_str);
        variants.iter().map(word).collect()
    }
}

impl Form<'_> {
    /// Tells whether a value has this form, whatever its content.
    const fn takes(&self, item: &Item) -> bool {
        matches!(
            (self, item),
            (Self::Text | Self::Words(_), Item::Text(_))
                | (Self::Whole { .. }, Item::Whole(_))
                | (Self::Truth, Item::Boolean(_))
                | (Self::List, Item::List(_))
                | (Self::Table, Item::Table(_))
                | (Self::Anything, _)
        )
    }

    fn refuse_number(&self, digits: &str) -> Option<String> {
        let Self::Whole { least, greatest } = self else {
            return None;
        };
        let number = digits.strip_prefix('+').unwrap_or(digits).parse::<i64>();
        match number {
            Ok(number) if (*least..=*greatest).contains(&number) => None,
            Ok(number) => Some(format!("is {number} but must be {}", self.describe())),
            Err(_beyond) => Some(format!(
                "is {digits} but must be {} in decimal digits of at most 64 bits",
                self.describe()
            )),
        }
    }

    fn refuse_word(&self, word: &str) -> Option<String> {
        let Self::Words(words) = self else {
            return None;
        };
        if words.contains(&word) {
            return None;
        }
        let near = nearest(word, words.iter().copied());
        let near = near.map_or_else(String::new, |near| format!("; the nearest is `{near}`"));
        Some(format!(
            "is \"{word}\" but must be {}{near}",
            self.describe()
        ))
    }

    fn describe(&self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Words(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
                format!("one of {}", words.join(", "))
            }
            Self::Whole {
                least: i64::MIN,
                greatest: i64::MAX,
            } => "a whole number".to_owned(),
            Self::Whole {
                least,
                greatest: i64::MAX,
            } => format!("a whole number of at least {least}"),
            Self::Whole { least, greatest } => {
                format!("a whole number from {least} to {greatest}")
            }
            Self::Truth => "true or false".to_owned(),
            Self::List => "a list".to_owned(),
            Self::Table => "a table".to_owned(),
            Self::Anything => "anything".to_owned(),
        }
    }
}

fn expected(alternatives: &[Shape<'_>]) -> String {
    let each: Vec<_> = alternatives
        .iter()
        .map(|one| one.form().describe())
        .collect();
    each.join(", or ")
}

fn misfit(alternatives: &[Shape<'_>], item: &Item) -> String {
    let found = match item {
        Item::Null => "empty",
        Item::Boolean(_) => "true or false",
        Item::Whole(_) => "a whole number",
        Item::Fraction(_) => "a number with a fraction",
        Item::Text(_) => "a text",
        Item::List(_) => "a list",
        Item::Table(_) => "a table",
    };
    let takes_text = alternatives
        .iter()
        .any(|one| matches!(one.form(), Form::Text));
    // Only names and spans of time have patterns, and only the latter may begin with a digit of theirs.
    let is_span = alternatives.iter().any(|one| {
        let pattern = one.node.get("pattern").and_then(Json::as_str);
        pattern.is_some_and(|pattern| pattern.starts_with("^[0-9]+("))
    });
    let cure = match item {
        Item::Null => ", or be removed".to_owned(),
        Item::Whole(digits) if is_span => format!(" with a unit; write, say, {digits}s"),
        Item::Whole(text) | Item::Fraction(text) if takes_text => {
            format!("; put it in quotes: \"{text}\"")
        }
        Item::Boolean(truth) if takes_text => format!("; put it in quotes: \"{truth}\""),
        Item::Text(text) if text.parse::<i64>().is_ok() => {
            format!("; write {text} without quotes")
        }
        Item::Boolean(_)
        | Item::Whole(_)
        | Item::Fraction(_)
        | Item::Text(_)
        | Item::List(_)
        | Item::Table(_) => String::new(),
    };
    format!("is {found} but must be {}{cure}", expected(alternatives))
}
