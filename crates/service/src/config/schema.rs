//! Reading the JSON Schema that schemars derives: which keys, which types, which words.
//!
//! Invariant: what this cannot read is taken as "anything", so that the typed reading decides.

use serde_json::Value as Json;

/// A schema, with what its references point into.
#[derive(Debug, Clone, Copy)]
pub(super) struct SchemaNode<'a> {
    root: &'a Json,
    node: &'a Json,
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Text,
    /// One of these words.
    Word(Vec<&'a str>),
    /// A whole number within these bounds, both inclusive.
    Integer {
        least: i64,
        greatest: i64,
    },
    Number,
    Boolean,
    List,
    Table,
    Anything,
}

impl<'a> SchemaNode<'a> {
    pub(super) fn root(schema: &'a Json) -> Self {
        Self {
            root: schema,
            node: schema,
        }
        .resolved()
    }

    /// Follows references, and passes over "or null".
    fn resolved(self) -> Self {
        let mut node = self.node;
        // A schema's references do not nest deeper; a circle ends here.
        for _ in 0..16 {
            let reference = node.get("$ref").and_then(Json::as_str);
            let target = reference.and_then(|path| self.root.pointer(path.trim_start_matches('#')));
            let alternative = || {
                let either = node.get("anyOf").and_then(Json::as_array)?;
                either
                    .iter()
                    .find(|one| one.get("type").and_then(Json::as_str) != Some("null"))
            };
            match target.or_else(alternative) {
                Some(next) => node = next,
                None => break,
            }
        }
        Self {
            root: self.root,
            node,
        }
    }

    fn at(self, node: &'a Json) -> Self {
        Self {
            root: self.root,
            node,
        }
        .resolved()
    }

    /// Returns the named keys of a table, with their schemas, by name.
    pub(super) fn properties(self) -> impl Iterator<Item = (&'a str, Self)> {
        let properties = self.node.get("properties").and_then(Json::as_object);
        properties
            .into_iter()
            .flatten()
            .map(move |(key, node)| (key.as_str(), self.at(node)))
    }

    /// Returns the schema of a key: a named one, or what all other keys hold where the table is a map.
    pub(super) fn key(self, key: &str) -> Option<Self> {
        let named = self.properties().find(|(name, _)| *name == key);
        named.map(|(_, node)| node).or_else(|| self.other_keys())
    }

    /// Returns what the other keys of a map hold; `None` where there must be no other key.
    pub(super) fn other_keys(self) -> Option<Self> {
        self.node
            .get("additionalProperties")
            .filter(|node| node.is_object())
            .map(|node| self.at(node))
    }

    /// Tells whether the schema says nothing of a table's keys.
    pub(super) fn is_open(self) -> bool {
        self.node.get("properties").is_none() && self.node.get("additionalProperties").is_none()
    }

    /// Returns the schema of a list's elements.
    pub(super) fn element(self) -> Option<Self> {
        self.node.get("items").map(|node| self.at(node))
    }

    /// Returns the keys without which a table means nothing.
    pub(super) fn required(self) -> impl Iterator<Item = &'a str> {
        let required = self.node.get("required").and_then(Json::as_array);
        required.into_iter().flatten().filter_map(Json::as_str)
    }

    pub(super) fn kind(self) -> Kind<'a> {
        if let Some(words) = self.words() {
            return Kind::Word(words);
        }
        match self.type_name() {
            Some("string") => Kind::Text,
            Some("integer") => self.integer(),
            Some("number") => Kind::Number,
            Some("boolean") => Kind::Boolean,
            Some("array") => Kind::List,
            Some("object") => Kind::Table,
            _ => Kind::Anything,
        }
    }

    /// The type; of `["string", "null"]` the first that is not null.
    fn type_name(self) -> Option<&'a str> {
        match self.node.get("type")? {
            Json::String(name) => Some(name),
            Json::Array(names) => names
                .iter()
                .filter_map(Json::as_str)
                .find(|name| *name != "null"),
            _ => None,
        }
    }

    /// The words of an enum: `enum`, or `oneOf` with a `const` each where the words are documented.
    fn words(self) -> Option<Vec<&'a str>> {
        if let Some(words) = self.node.get("enum").and_then(Json::as_array) {
            return Some(words.iter().filter_map(Json::as_str).collect());
        }
        let variants = self.node.get("oneOf").and_then(Json::as_array)?;
        let mut words = Vec::new();
        for variant in variants {
            if let Some(word) = variant.get("const").and_then(Json::as_str) {
                words.push(word);
            } else if let Some(some) = variant.get("enum").and_then(Json::as_array) {
                words.extend(some.iter().filter_map(Json::as_str));
            } else {
                return None;
            }
        }
        Some(words)
    }

    fn integer(self) -> Kind<'a> {
        let format = self
            .node
            .get("format")
            .and_then(Json::as_str)
            .unwrap_or_default();
        let (least, greatest) = match format {
            "uint8" => (0, i64::from(u8::MAX)),
            "uint16" => (0, i64::from(u16::MAX)),
            "uint32" => (0, i64::from(u32::MAX)),
            "uint" | "uint64" => (0, i64::MAX),
            "int8" => (i64::from(i8::MIN), i64::from(i8::MAX)),
            "int16" => (i64::from(i16::MIN), i64::from(i16::MAX)),
            "int32" => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        };
        let bound = |name, otherwise| {
            self.node
                .get(name)
                .and_then(Json::as_i64)
                .unwrap_or(otherwise)
        };
        Kind::Integer {
            least: bound("minimum", least),
            greatest: bound("maximum", greatest),
        }
    }
}

impl Kind<'_> {
    /// Returns what a value must be and how it is written.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text => "a text in quotes".to_owned(),
            Self::Word(words) => format!("one of {}", list(words)),
            Self::Integer {
                least: i64::MIN,
                greatest: i64::MAX,
            } => "a whole number without quotes".to_owned(),
            Self::Integer {
                least,
                greatest: i64::MAX,
            } => {
                format!("a whole number of at least {least}, without quotes")
            }
            Self::Integer { least, greatest } => {
                format!("a whole number from {least} to {greatest}, without quotes")
            }
            Self::Number => "a number without quotes".to_owned(),
            Self::Boolean => "true or false, without quotes".to_owned(),
            Self::List => "a list in square brackets".to_owned(),
            Self::Table => "a table of its own".to_owned(),
            Self::Anything => "something else".to_owned(),
        }
    }
}

fn list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ")
}
