//! JSON by `serde_json`, made strict.
//!
//! A key that occurs twice is an error, and numbers that are not
//! written as whole ones are told apart. Reads level by level, since `serde_json` refuses numbers that
//! are too great for a float.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number written as a whole one, within 64 bits.
    Whole(u64),
    /// Any other number.
    OtherNumber,
    /// A string.
    Text(String),
    /// An array.
    Array(Vec<Self>),
    /// An object.
    Object(BTreeMap<String, Self>),
}

/// Why a text is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is no JSON.
    NotJson,
    /// A key occurs twice in one object.
    DuplicateKey,
}

/// How deep values may be nested.
const DEPTH_MAX: usize = 128;

/// Reads a text that is one value.
///
/// # Errors
///
/// Each case of [`Fault`].
pub fn read(text: &str) -> Result<Json, Fault> {
    // Also what `serde_json` takes for no number, since it is too great for a float, is JSON.
    let whole: &RawValue = parse(text)?;
    value(whole.get(), DEPTH_MAX)
}

fn parse<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|_| Fault::NotJson)
}

fn value(text: &str, depth: usize) -> Result<Json, Fault> {
    let deeper = || depth.checked_sub(1).ok_or(Fault::NotJson);
    match text.bytes().next() {
        Some(b'{') => {
            let Entries(entries) = parse(text)?;
            let mut object = BTreeMap::new();
            for (key, inside) in entries {
                if object
                    .insert(key, value(inside.get(), deeper()?)?)
                    .is_some()
                {
                    return Err(Fault::DuplicateKey);
                }
            }
            Ok(Json::Object(object))
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = parse(text)?;
            let depth = deeper()?;
            elements
                .into_iter()
                .map(|each| value(each.get(), depth))
                .collect::<Result<_, _>>()
                .map(Json::Array)
        }
        Some(b'"') => Ok(Json::Text(parse(text)?)),
        Some(b't' | b'f') => Ok(Json::Bool),
        Some(b'n') => Ok(Json::Null),
        Some(_) | None => Ok(text.parse().map_or(Json::OtherNumber, Json::Whole)),
    }
}

/// Reads an array and returns its elements' own texts.
///
/// # Errors
///
/// [`Fault::NotJson`].
pub fn elements(text: &str) -> Result<Vec<&str>, Fault> {
    let raw: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| Fault::NotJson)?;
    Ok(raw.into_iter().map(RawValue::get).collect())
}

impl Json {
    /// Finds a field: the exact key, else a path of keys and positions between dots.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        let (head, rest) = name
            .split_once('.')
            .map_or((name, None), |(h, r)| (h, Some(r)));
        let step = match self {
            Self::Object(fields) => {
                if let Some(exact) = fields.get(name) {
                    return Some(exact);
                }
                fields.get(head)?
            }
            Self::Array(elements) => elements.get(head.parse::<usize>().ok()?)?,
            Self::Null | Self::Bool | Self::Whole(_) | Self::OtherNumber | Self::Text(_) => {
                return None;
            }
        };
        rest.map_or(Some(step), |rest| step.field(rest))
    }
}

/// An object's entries in order, a key that occurs twice included.
struct Entries<'t>(Vec<(String, &'t RawValue)>);

impl<'t> Deserialize<'t> for Entries<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'t> Visitor<'t> for InOrder {
    type Value = Entries<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut entries: A) -> Result<Entries<'t>, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            all.push(entry);
        }
        Ok(Entries(all))
    }
}
