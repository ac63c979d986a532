//! The headers of a Kafka record that formats read: the content type, and the attributes of
//! CloudEvents in binary mode
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>).
//!
//! Invariant: headers that no format reads are not kept. Deliberately absent: what they mean.

use rdkafka::message::{Headers as _, Message};

/// The header that names the value's type.
pub(crate) const CONTENT_TYPE: &str = "content-type";

/// What the names of CloudEvents' attributes begin with.
pub(crate) const ATTRIBUTE_PREFIX: &str = "ce_";

/// One record's headers, as far as formats read them, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(Box<str>, Box<[u8]>)>);

impl Headers {
    /// A record without any.
    pub const NONE: &'static Self = &Self(Vec::new());

    /// Keeps the headers of a record that formats read.
    pub(crate) fn of(message: &impl Message) -> Self {
        let Some(headers) = message.headers() else {
            return Self::default();
        };
        headers
            .iter()
            .map(|header| (header.key, header.value.unwrap_or_default()))
            .collect()
    }

    /// Returns the values under a name; in lower case, since HTTP's writers vary.
    pub(crate) fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.iter()
            .filter(move |(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// Returns names and values, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns how many bytes are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

impl<'h> FromIterator<(&'h str, &'h [u8])> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'h str, &'h [u8])>>(headers: T) -> Self {
        let kept = headers.into_iter().filter_map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            let is_read = name == CONTENT_TYPE || name.starts_with(ATTRIBUTE_PREFIX);
            is_read.then(|| (name.into_boxed_str(), value.into()))
        });
        Self(kept.collect())
    }
}
