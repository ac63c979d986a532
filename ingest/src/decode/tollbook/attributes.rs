//! The attributes of a CloudEvent, from an object's members or from a record's headers.
//!
//! Invariant: both modes give the same attributes and the same refusals. Extension attributes are
//! allowed and not read. Deliberately absent: the data.

use std::borrow::Cow;

use domain::ids::check_id;
use domain::reject::{Reason, Rejection};

use super::strict::nearest;
use crate::decode::object::{kind_of, quoted, rejection_of};
use crate::decode::scan::{Scanner, Value};
use crate::event_schema::EVENT_TYPE;
use crate::headers::{ATTRIBUTE_PREFIX, CONTENT_TYPE, Headers};

/// The attributes that CloudEvents defines, and where structured mode has the data.
pub(in crate::decode) const ATTRIBUTES: [&str; 10] = [
    "specversion",
    "type",
    "source",
    "id",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
];

/// How many of them are texts: all but the data.
const TEXTS: usize = 8;

/// How a record carries an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Mode {
    /// Its headers say: as one object.
    Structured,
    /// Its headers are the attributes, its value is the data.
    Binary,
    /// Its headers do not say; the value may.
    Unsaid,
}

/// Says how a record carries an event: a content type of CloudEvents is structured mode, else the
/// header of the version is binary mode.
pub(in crate::decode) fn mode_of(headers: &Headers) -> Mode {
    let is_structured = headers.all(CONTENT_TYPE).any(|value| {
        let prefix = b"application/cloudevents";
        value
            .get(..prefix.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
    });
    if is_structured {
        return Mode::Structured;
    }
    match headers.all("ce_specversion").next() {
        Some(_) => Mode::Binary,
        None => Mode::Unsaid,
    }
}

/// Returns the attribute that a header stands for.
pub(super) fn attribute_of(header: &str) -> Option<&str> {
    if header == CONTENT_TYPE {
        return Some("datacontenttype");
    }
    header.strip_prefix(ATTRIBUTE_PREFIX)
}

/// The texts of one event's attributes.
pub(super) struct Attributes<'a> {
    /// What stands before an attribute's name where it is told.
    prefix: &'static str,
    texts: [Option<Cow<'a, str>>; TEXTS],
}

impl<'a> Attributes<'a> {
    /// Reads an object in structured mode; returns the data's text as well.
    pub(super) fn of_object(text: &'a str) -> Result<(Self, &'a str), Rejection> {
        let mut attributes = Self {
            prefix: "",
            texts: Default::default(),
        };
        let mut data = None;
        let mut fault = None;
        Scanner::read_object(text, |_, key, span| {
            let value = span.in_text(text);
            let told = match key {
                "data" => {
                    data = Some(span.whole(text));
                    Ok(())
                }
                "data_base64" if value != Value::Null => {
                    let detail = "is not read: write the usage as an object into `data`";
                    Err(Rejection::new(Reason::UnknownField, key, detail))
                }
                _ => attributes.take(key, value),
            };
            if let (Err(rejection), None) = (told, &fault) {
                fault = Some(rejection);
            }
        })
        .map_err(rejection_of)?;
        if let Some(rejection) = fault {
            return Err(rejection);
        }
        let absent = || Rejection::new(Reason::MissingField, "data", "is absent");
        Ok((attributes, data.ok_or_else(absent)?))
    }

    fn take(&mut self, key: &str, value: Value<'a>) -> Result<(), Rejection> {
        let place = ATTRIBUTES.iter().position(|known| *known == key);
        let slot = place.and_then(|place| self.texts.get_mut(place));
        let Some(slot) = slot else {
            return is_extension(key).then_some(()).ok_or_else(|| {
                let nearest = nearest(key, &ATTRIBUTES);
                let detail = format!("is no name of an attribute; the nearest is `{nearest}`");
                Rejection::new(Reason::UnknownField, key, detail)
            });
        };
        match value {
            Value::Null => Ok(()),
            Value::Text(text) => {
                *slot = Some(text.decode());
                Ok(())
            }
            other => {
                let detail = format!("is {}, not a string", kind_of(other));
                Err(Rejection::new(Reason::WrongType, key, detail))
            }
        }
    }

    /// Reads the headers of a record in binary mode.
    pub(super) fn of_headers(headers: &'a Headers) -> Result<Self, Rejection> {
        let mut texts: [Option<Cow<'a, str>>; TEXTS] = Default::default();
        for (name, value) in headers.iter() {
            let place = attribute_of(name)
                .and_then(|attribute| ATTRIBUTES.iter().position(|known| *known == attribute));
            let Some(slot) = place.and_then(|place| texts.get_mut(place)) else {
                continue;
            };
            if slot.is_some() {
                let detail = "occurs twice in the record's headers";
                return Err(Rejection::new(Reason::DuplicateKey, name, detail));
            }
            let text = std::str::from_utf8(value).map_err(|error| {
                let detail = format!("is not UTF-8 at byte {}", error.valid_up_to());
                Rejection::new(Reason::WrongType, name, detail)
            })?;
            *slot = Some(Cow::Borrowed(text));
        }
        Ok(Self {
            prefix: ATTRIBUTE_PREFIX,
            texts,
        })
    }

    /// Checks what every event of ours has.
    pub(super) fn check(&self) -> Result<(), Rejection> {
        self.expect("specversion", "1.0")?;
        self.expect("type", EVENT_TYPE)?;
        for attribute in ["source", "id"] {
            let text = self.required(attribute)?;
            check_id(text).map_err(|error| {
                Rejection::new(Reason::BadId, &self.name(attribute), error.to_string())
            })?;
        }
        let Some(content_type) = self.text("datacontenttype") else {
            return Ok(());
        };
        let media = content_type.split(';').next().unwrap_or_default().trim();
        let media = media.to_ascii_lowercase();
        if media == "application/json" || media.ends_with("+json") {
            return Ok(());
        }
        let detail = format!("is {}, but usage is JSON", quoted(content_type));
        let name = self.name("datacontenttype");
        Err(Rejection::new(Reason::UnknownValue, &name, detail))
    }

    fn expect(&self, attribute: &str, expected: &str) -> Result<(), Rejection> {
        let found = self.required(attribute)?;
        if found == expected {
            return Ok(());
        }
        let detail = format!("is {}, not \"{expected}\"", quoted(found));
        Err(Rejection::new(
            Reason::UnknownValue,
            &self.name(attribute),
            detail,
        ))
    }

    fn required(&self, attribute: &str) -> Result<&str, Rejection> {
        self.text(attribute)
            .ok_or_else(|| Rejection::new(Reason::MissingField, &self.name(attribute), "is absent"))
    }

    fn text(&self, attribute: &str) -> Option<&str> {
        let place = ATTRIBUTES.iter().position(|known| *known == attribute)?;
        self.texts.get(place)?.as_deref()
    }

    /// Returns the name by which an attribute is told.
    pub(super) fn name(&self, attribute: &str) -> String {
        format!("{}{attribute}", self.prefix)
    }

    /// Returns who wrote the event; [`Self::check`] has seen it.
    pub(super) fn source(&self) -> &str {
        self.text("source").unwrap_or_default()
    }

    /// Returns the event's id; [`Self::check`] has seen it.
    pub(super) fn id(&self) -> &str {
        self.text("id").unwrap_or_default()
    }

    /// Returns when the event happened.
    pub(super) fn time(&self) -> Option<&str> {
        self.text("time")
    }
}

/// Says whether a name may be an extension's: lower-case letters and digits.
fn is_extension(name: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !name.is_empty() && name.bytes().all(is_legal)
}
