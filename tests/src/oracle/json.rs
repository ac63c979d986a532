//! JSON by `serde_json`, made strict: a key that occurs twice is an error, and numbers that are not
//! written as whole ones are told apart.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
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

/// What the error of a key that occurs twice begins with.
const TWICE: &str = "key twice";

/// Why a text is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is no JSON.
    NotJson,
    /// A key occurs twice in one object.
    DuplicateKey,
}

/// Reads a text that is one value.
///
/// # Errors
///
/// Each case of [`Fault`].
pub fn read(text: &str) -> Result<Json, Fault> {
    serde_json::from_str(text).map_err(|error| {
        let is_twice = error.to_string().starts_with(TWICE);
        if is_twice {
            Fault::DuplicateKey
        } else {
            Fault::NotJson
        }
    })
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

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Whole(number))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Json, E> {
        Ok(Json::OtherNumber)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Json, E> {
        Ok(Json::OtherNumber)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(element) = elements.next_element()? {
            array.push(element);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = BTreeMap::new();
        let mut twice = None;
        while let Some((key, value)) = entries.next_entry::<String, Json>()? {
            if object.contains_key(&key) {
                twice = Some(key.clone());
            }
            object.insert(key, value);
        }
        match twice {
            Some(key) => Err(A::Error::custom(format!("{TWICE}: {key}"))),
            None => Ok(Json::Object(object)),
        }
    }
}
