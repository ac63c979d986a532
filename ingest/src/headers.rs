//! The headers of a Kafka record that formats read: the content type, and the attributes of
//! CloudEvents in binary mode
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>).
//!
//! Invariant: headers that no format reads are not kept; of those that one reads at most
//! [`HEADERS_MAX`], and a record that has more says so. Deliberately absent: what they mean.

use rdkafka::message::{Headers as _, Message};

/// The header that names the value's type.
pub(crate) const CONTENT_TYPE: &str = "content-type";

/// What the names of CloudEvents' attributes begin with.
pub(crate) const ATTRIBUTE_PREFIX: &str = "ce_";

/// The most headers of a record that are kept; CloudEvents define eight attributes and leave
/// extensions to their writers.
pub(crate) const HEADERS_MAX: usize = 64;

/// What a kept header takes besides its bytes: its place, and two allocations with their rounding.
const HEADER_BYTES: usize = 64;

/// One record's headers, as far as formats read them, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    kept: Vec<(Box<str>, Box<[u8]>)>,
    /// How many there are beyond those that are kept.
    further: usize,
}

impl Headers {
    /// A record without any.
    pub const NONE: &'static Self = &Self {
        kept: Vec::new(),
        further: 0,
    };

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
        self.kept.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns how many headers the record has that formats read, where not all of them are kept: of
    /// such a record nothing can be said but that.
    pub(crate) fn too_many(&self) -> Option<usize> {
        (self.further > 0).then(|| self.kept.len().saturating_add(self.further))
    }

    /// Returns how many bytes of memory what is kept takes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| HEADER_BYTES + name.len() + value.len())
            .sum()
    }
}

impl<'h> FromIterator<(&'h str, &'h [u8])> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'h str, &'h [u8])>>(headers: T) -> Self {
        let is_prefixed = |name: &str| {
            let head = name.as_bytes().get(..ATTRIBUTE_PREFIX.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(ATTRIBUTE_PREFIX.as_bytes()))
        };
        let mut found = Self::default();
        for (name, value) in headers {
            if !is_prefixed(name) && !name.eq_ignore_ascii_case(CONTENT_TYPE) {
                continue;
            }
            if found.kept.len() == HEADERS_MAX {
                found.further = found.further.saturating_add(1);
                continue;
            }
            let name = name.to_ascii_lowercase().into_boxed_str();
            found.kept.push((name, value.into()));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADERS_MAX, Headers};

    #[test]
    fn what_many_small_headers_take_is_counted_and_bounded() {
        let one: Headers = [("CE_A", b"".as_slice()), ("other", b"")]
            .into_iter()
            .collect();
        assert_eq!((one.bytes(), one.too_many()), (64 + "ce_a".len(), None));
        let many = |count| {
            std::iter::repeat_n(("ce_a", b"1".as_slice()), count)
                .chain(std::iter::repeat_n(("other", b"1".as_slice()), 1_000))
                .collect::<Headers>()
        };
        assert_eq!(many(HEADERS_MAX).too_many(), None, "others do not count");
        let over = many(100_000);
        assert_eq!(over.too_many(), Some(100_000));
        assert_eq!(over.bytes(), HEADERS_MAX * (64 + 5));
        assert_eq!(over.iter().count(), HEADERS_MAX);
    }
}
