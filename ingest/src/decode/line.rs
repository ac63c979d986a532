//! Events that are one JSON object each, in whatever lies around them: what all formats share.
//!
//! Invariant: each element of a record gives exactly one outcome; one envelope is taken off, never
//! two. Deliberately absent: what the object's fields mean.

use domain::reject::Rejection;

use super::Decoded;
use super::envelope::{self, Inside};
use super::object::{FieldId, FieldSet, Object, Room};

/// A format whose events are JSON objects.
pub(super) trait LineFormat {
    /// Returns the fields to take from an object.
    fn fields(&self) -> &FieldSet;

    /// Returns the fields under which shippers carry a line.
    fn envelope_fields(&self) -> [FieldId; 2];

    /// Says whether an object is by its own fields an event of the format, so that a broken line in
    /// it is none of an envelope's.
    fn is_metered(&self, line: &Object<'_, '_>) -> bool;

    /// Says whether an object is by its own fields no envelope, whatever it carries.
    fn is_never_envelope(&self, _outer: &Object<'_, '_>) -> bool {
        false
    }

    /// Decodes one object; `text` is its own, trimmed.
    fn decode<'a>(&'a self, line: &Object<'a, '_>, text: &'a str) -> Decoded<'a>;
}

/// Tells what one element of a record is, and the bytes that are its own.
pub(super) fn decode_element<F: LineFormat>(
    format: &F,
    text: &str,
    tell: &mut dyn FnMut(&[u8], Decoded<'_>),
) {
    let (mut outer_room, mut inner_room) = (Room::default(), Room::default());
    let outer = match envelope::read_element(format.fields(), text, &mut outer_room) {
        Ok(outer) => outer,
        Err(rejection) => return tell(text.as_bytes(), Decoded::Rejected(rejection)),
    };
    if format.is_never_envelope(&outer) {
        return tell(text.as_bytes(), format.decode(&outer, text));
    }
    match envelope::line_inside(format.envelope_fields(), &outer) {
        Inside::Line(line) => {
            let line = line.trim_ascii();
            let decoded = match Object::read(format.fields(), line, &mut inner_room) {
                Ok(inner) => format.decode(&inner, line),
                Err(rejection) => Decoded::Rejected(rejection),
            };
            tell(line.as_bytes(), decoded);
        }
        Inside::Broken(rejection) if !format.is_metered(&outer) => {
            tell(text.as_bytes(), Decoded::Rejected(rejection));
        }
        Inside::Broken(_) | Inside::Nothing => {
            tell(text.as_bytes(), format.decode(&outer, text));
        }
    }
}

/// Names the object that a rejected field lies in.
pub(super) fn within(object: &str, rejection: &Rejection) -> Rejection {
    let field = format!("{object}.{}", rejection.field);
    Rejection::new(rejection.reason, &field, rejection.detail.as_str())
}
