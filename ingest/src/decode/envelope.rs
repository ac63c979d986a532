//! What may lie around a gateway's line: an array of lines, and a shipper's envelope that carries
//! the line as a string in `message` or `log` (Vector, Fluent Bit, Filebeat).
//!
//! Invariant: an array is taken or refused as a whole, so that a cut-off record leaves no half of
//! it; one envelope is taken off, never two. Deliberately absent: the formats.

use std::borrow::Cow;

use domain::reject::{Reason, Rejection};

use super::object::{FieldId, FieldSet, Object, Room, rejection_of};
use super::scan::{Fault, Scanner, Value};

/// The keys under which shippers carry a line, in the order in which they are tried.
pub(super) const ENVELOPE_KEYS: [&str; 2] = ["message", "log"];

/// The most events that one record may hold. A record of 1 MiB could hold half a million empty ones,
/// each of which would be kept as rejected; gateways' batches hold hundreds.
pub(super) const ELEMENTS_MAX: usize = 10_000;

/// The events that a record holds.
pub(super) enum Elements<'a> {
    /// The record is the event.
    One,
    /// The record is an array; at least one element, each without white space around it.
    Many(Vec<&'a str>),
}

/// What a message carries in the manner of an envelope.
pub(super) enum Inside<'a> {
    /// No line: it is the event itself.
    Nothing,
    /// A line that is a JSON object.
    Line(Cow<'a, str>),
    /// Something that begins like a line and is none: cut off, for one.
    Broken(Rejection),
}

/// Tells whether a record is one event or many.
///
/// # Errors
///
/// `not_json` for a faulty array, `empty` for one without elements, `too_large` for one of more than
/// [`ELEMENTS_MAX`].
pub(super) fn elements(text: &str) -> Result<Elements<'_>, Rejection> {
    if !text.starts_with('[') {
        return Ok(Elements::One);
    }
    let mut elements = Vec::new();
    let mut count = 0_usize;
    Scanner::read_array(text, |element| {
        count += 1;
        if count <= ELEMENTS_MAX {
            elements.push(element.whole(text));
        }
    })
    .map_err(rejection_of)?;
    if count > ELEMENTS_MAX {
        let detail = format!("the array has {count} elements, more than {ELEMENTS_MAX}");
        return Err(Rejection::new(Reason::TooLarge, "", detail));
    }
    if elements.is_empty() {
        return Err(Rejection::new(
            Reason::Empty,
            "",
            "the array has no elements",
        ));
    }
    Ok(Elements::Many(elements))
}

/// Reads one element, which must be an object.
///
/// # Errors
///
/// `not_an_object` where it is another JSON value, `not_json` or `duplicate_key` where it cannot be
/// read.
pub(super) fn read_element<'a, 'f>(
    fields: &'f FieldSet,
    text: &'a str,
    room: &'f mut Room,
) -> Result<Object<'a, 'f>, Rejection> {
    if text.starts_with('{') {
        return Object::read(fields, text, room);
    }
    // An array is only ever an element here, and was read with the array around it.
    let detail = match Scanner::read_value(text).map_err(rejection_of)? {
        Value::Array(_) => "is an array within an array, not an object",
        Value::Text(_) => "is a string, not an object",
        Value::Number(_) => "is a number, not an object",
        Value::Bool(_) => "is a boolean, not an object",
        Value::Null | Value::Object(_) => "is null, not an object",
    };
    Err(Rejection::new(Reason::NotAnObject, "", detail))
}

/// Looks for a line inside a message.
///
/// | `message`, else `log` | inside |
/// | --- | --- |
/// | absent, no string, or text that begins with neither `{` nor `[` | nothing |
/// | a JSON object | that line, also where a key occurs twice in it |
/// | begins with `{` and is no JSON | broken: `not_json` |
/// | a JSON array | broken: `not_an_object` |
/// | begins with `[` and is no JSON, as a plain log line may | nothing |
pub(super) fn line_inside<'a>(keys: [FieldId; 2], outer: &Object<'a, '_>) -> Inside<'a> {
    let mut broken = None;
    for key in keys {
        let Some(Value::Text(raw)) = outer.value(key) else {
            continue;
        };
        let first = raw.raw().trim_ascii_start().bytes().next();
        // White space before the brace may itself be escaped.
        if !matches!(first, Some(b'{' | b'[' | b'\\')) {
            continue;
        }
        let reject = |reason, detail: &str| Rejection::new(reason, outer.name(key), detail);
        let line = raw.decode();
        let text = line.trim_ascii();
        let is_object = text.starts_with('{');
        match Scanner::read_value(text) {
            Ok(Value::Object(_)) | Err(Fault::DuplicateKey { .. }) if is_object => {
                return Inside::Line(line);
            }
            Ok(Value::Array(_)) => {
                let detail = "holds an array where a line is one object";
                broken = broken.or_else(|| Some(reject(Reason::NotAnObject, detail)));
            }
            Err(fault) if is_object => {
                let found = rejection_of(fault).detail;
                let detail = format!("holds a line that {found}");
                broken = broken.or_else(|| Some(reject(Reason::NotJson, &detail)));
            }
            Ok(_) | Err(_) => {}
        }
    }
    broken.map_or(Inside::Nothing, Inside::Broken)
}
