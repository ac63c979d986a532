//! Objects whose every field is known: the event's data and its meters.
//!
//! Invariant: a field that is not known is an error that names the nearest one that is. Deliberately
//! absent: what the fields mean.

use std::borrow::Cow;

use domain::ids::IdError;
use domain::meter::{Meter, QUANTITY_MAX};
use domain::reject::{Reason, Rejection};

use crate::decode::object::{is_absent, kind_of, quoted, rejection_of, whole_number};
use crate::decode::scan::{Scanner, Value};

/// The fields of the data.
pub(in crate::decode) const DATA_FIELDS: [&str; 11] = [
    "tenant",
    "app",
    "user",
    "session",
    "route",
    "provider",
    "model",
    "priced_model",
    "start",
    "outcome",
    "meters",
];

/// Returns the names of the meters.
pub(in crate::decode) fn meter_names() -> Vec<&'static str> {
    Meter::ALL.map(Meter::name).to_vec()
}

/// The members of one object.
pub(super) struct Members<'a> {
    /// What stands before a field's name where it is told.
    within: &'static str,
    values: Vec<(&'static str, Value<'a>)>,
}

impl<'a> Members<'a> {
    /// Reads the data of an event.
    pub(super) fn of_data(within: &'static str, text: &'a str) -> Result<Self, Rejection> {
        let name = if within.is_empty() { "" } else { "data" };
        if !text.starts_with('{') {
            let detail = match Scanner::read_value(text).map_err(rejection_of)? {
                Value::Null => "is null, not an object",
                Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Array(_) => {
                    "is no object of usage"
                }
                Value::Object(_) => "is not read",
            };
            return Err(Rejection::new(Reason::NotAnObject, name, detail));
        }
        let unknown = |key: &str| {
            let detail = format!(
                "is no field of usage; the nearest is `{}`",
                nearest(key, &DATA_FIELDS)
            );
            Rejection::new(Reason::UnknownField, &format!("{within}{key}"), detail)
        };
        Self::read(within, text, &DATA_FIELDS, unknown)
    }

    fn read(
        within: &'static str,
        text: &'a str,
        known: &[&'static str],
        unknown: impl Fn(&str) -> Rejection,
    ) -> Result<Self, Rejection> {
        let mut values = Vec::with_capacity(known.len());
        let mut first_unknown = None;
        Scanner::read_object(text, |_, key, value| {
            match known.iter().find(|name| **name == key) {
                Some(name) => values.push((*name, value.in_text(text))),
                None if first_unknown.is_none() => first_unknown = Some(unknown(key)),
                None => {}
            }
        })
        .map_err(rejection_of)?;
        match first_unknown {
            Some(rejection) => Err(rejection),
            None => Ok(Self { within, values }),
        }
    }

    /// Returns the name by which a field is told.
    pub(super) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.within)
    }

    /// Rejects the event for a field that is not there.
    pub(super) fn missing(&self, field: &str) -> Rejection {
        Rejection::new(Reason::MissingField, &self.name(field), "is absent")
    }

    fn value(&self, field: &str) -> Option<Value<'a>> {
        let found = self.values.iter().find(|(name, _)| *name == field);
        found
            .map(|(_, value)| *value)
            .filter(|value| *value != Value::Null)
    }

    /// Returns a field's text; `None` where it is absent, empty or `-`.
    pub(super) fn text(&self, field: &str) -> Result<Option<Cow<'a, str>>, Rejection> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.decode()).filter(|text| !is_absent(text))),
            Some(other) => {
                let detail = format!("is {}, not a string", kind_of(other));
                Err(Rejection::new(Reason::WrongType, &self.name(field), detail))
            }
        }
    }

    /// Returns a field as an id; `None` where it is absent.
    pub(super) fn id<T>(
        &self,
        field: &str,
        make: impl FnOnce(Cow<'a, str>) -> Result<T, IdError>,
    ) -> Result<Option<T>, Rejection> {
        let bad =
            |error: IdError| Rejection::new(Reason::BadId, &self.name(field), error.to_string());
        self.text(field)?
            .map(|text| make(text).map_err(bad))
            .transpose()
    }

    /// Returns the meters; `None` where there are none.
    pub(super) fn meters(&self) -> Result<Option<Self>, Rejection> {
        let within = if self.within.is_empty() {
            "meters."
        } else {
            "data.meters."
        };
        let text = match self.value("meters") {
            None => return Ok(None),
            Some(Value::Object(text)) => text,
            Some(other) => {
                let detail = format!("is {}, not an object", kind_of(other));
                return Err(Rejection::new(
                    Reason::WrongType,
                    &self.name("meters"),
                    detail,
                ));
            }
        };
        let known = meter_names();
        let unknown = |key: &str| {
            let detail = format!(
                "is no meter of the ledger, which has none of its users' own yet; the nearest is `{}`",
                nearest(key, &known)
            );
            Rejection::new(Reason::UnknownMeter, &format!("{within}{key}"), detail)
        };
        Self::read(within, text, &known, unknown).map(Some)
    }

    /// Returns a quantity; `None` where it is absent.
    pub(super) fn quantity(&self, field: &str) -> Result<Option<u64>, Rejection> {
        let bad = |found: &str| {
            let detail = format!("is {found}, not a whole number from 0 to 2^53");
            Rejection::new(Reason::BadNumber, &self.name(field), detail)
        };
        match self.value(field) {
            None => Ok(None),
            Some(Value::Number(digits)) => whole_number(digits)
                .filter(|quantity| *quantity <= QUANTITY_MAX)
                .map(Some)
                .ok_or_else(|| bad(&quoted(digits))),
            Some(other) => Err(bad(kind_of(other))),
        }
    }
}

/// Returns the known name that is likest to another one.
pub(super) fn nearest<'n>(name: &str, known: &[&'n str]) -> &'n str {
    // A name of many characters is none of ours; comparing takes the product of both lengths.
    let head: String = name.chars().take(64).collect();
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&head, known);
    let best = known
        .iter()
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    best.copied().unwrap_or_default()
}
