//! From nodes to the language's types, by serde.
//!
//! Invariant: a tree that [`super::shape`] has checked decodes; what does not is named by its place.
//! Deliberately absent: any leniency: no text becomes a number, no number a text.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::yaml::{Item, Mark, Node};

/// Why a node does not decode, and where; the place is unknown only of what serde finds missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DecodeError {
    pub(super) mark: Option<Mark>,
    pub(super) problem: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self {
            mark: None,
            problem: problem.to_string(),
        }
    }
}

/// Decodes a whole tree.
pub(super) fn decode<T: DeserializeOwned>(node: &Node) -> Result<T, DecodeError> {
    T::deserialize(node)
}

impl<'de> IntoDeserializer<'de, DecodeError> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn visit<'de, V: Visitor<'de>>(node: &'de Node, visitor: V) -> Result<V::Value, DecodeError> {
    match &node.item {
        Item::Null => visitor.visit_unit(),
        Item::Boolean(truth) => visitor.visit_bool(*truth),
        Item::Whole(digits) => {
            let number = digits.strip_prefix('+').unwrap_or(digits).parse();
            let number: i64 = number.map_err(|_beyond| {
                DecodeError::custom("is no whole number in decimal digits of at most 64 bits")
            })?;
            visitor.visit_i64(number)
        }
        Item::Fraction(text) | Item::Text(text) => visitor.visit_borrowed_str(text),
        Item::List(nodes) => {
            let mut elements = SeqDeserializer::new(nodes.iter());
            let value = visitor.visit_seq(&mut elements)?;
            elements.end().map(|()| value)
        }
        Item::Table(entries) => {
            let pairs = entries
                .iter()
                .map(|entry| (entry.key.as_str(), &entry.value));
            let mut pairs = MapDeserializer::new(pairs);
            let value = visitor.visit_map(&mut pairs)?;
            pairs.end().map(|()| value)
        }
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        // The innermost place that failed is the one to show.
        visit(self, visitor).map_err(|error| DecodeError {
            mark: error.mark.or(Some(self.mark)),
            problem: error.problem,
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.item {
            Item::Null => visitor.visit_none(),
            Item::Boolean(_)
            | Item::Whole(_)
            | Item::Fraction(_)
            | Item::Text(_)
            | Item::List(_)
            | Item::Table(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.item {
            Item::Text(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            Item::Null
            | Item::Boolean(_)
            | Item::Whole(_)
            | Item::Fraction(_)
            | Item::List(_)
            | Item::Table(_) => Err(DecodeError::custom("is no word")),
        }
    }

    // Written out, since the house's word list knows these two types by their names.
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
