//! Recognising an event's format by its shape.
//!
//! Invariant: a pure function of the record's headers and the names of the event's outermost fields.
//! Deliberately absent: reading; the recognised format's decoder does that.

use domain::reject::{Reason, Rejection};

use super::envelope::{self, ENVELOPE_KEYS, Inside};
use super::object::{FieldId, FieldSet, Object, Room};
use super::scan::Scanner;

/// What an event is recognised as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A CloudEvent in structured mode.
    CloudEvent,
    /// A payload of LiteLLM's log.
    LiteLlm,
    /// A line of Envoy AI Gateway's access log.
    EnvoyAiGateway,
}

/// Recognises events.
#[derive(Debug)]
pub(super) struct Recogniser {
    fields: FieldSet,
    envelope: [FieldId; 2],
}

impl Recogniser {
    pub(super) fn new() -> Self {
        let mut fields = FieldSet::default();
        let envelope = ENVELOPE_KEYS.map(|key| fields.add(key));
        Self { fields, envelope }
    }

    /// Recognises one element of a record: by its own fields, else by those of the line that it
    /// carries.
    ///
    /// | the object has | it is |
    /// | --- | --- |
    /// | `specversion` | a CloudEvent |
    /// | `litellm_call_id`, or both `call_type` and `startTime` | LiteLLM's |
    /// | a field that begins with `gen_ai.`, or both `start_time` and `response_code` | Envoy AI Gateway's |
    ///
    /// The first that fits counts.
    ///
    /// # Errors
    ///
    /// `unknown_shape` where nothing fits; what `envelope::read_element` refuses.
    pub(super) fn recognise(&self, text: &str) -> Result<Shape, Rejection> {
        let (mut outer_room, mut inner_room) = (Room::default(), Room::default());
        let outer = envelope::read_element(&self.fields, text, &mut outer_room)?;
        if let Some(shape) = shape_of(text) {
            return Ok(shape);
        }
        let inside = match envelope::line_inside(self.envelope, &outer) {
            Inside::Line(line) => {
                let line = line.trim_ascii();
                Object::read(&self.fields, line, &mut inner_room)?;
                shape_of(line)
            }
            Inside::Broken(rejection) => return Err(rejection),
            Inside::Nothing => None,
        };
        inside.ok_or_else(|| {
            let detail = "has the shape of no known format: neither `specversion` of a CloudEvent, \
                          nor `litellm_call_id` or `call_type` with `startTime` of LiteLLM, nor \
                          `gen_ai.…` or `start_time` with `response_code` of Envoy AI Gateway";
            Rejection::new(Reason::UnknownShape, "", detail)
        })
    }
}

/// Looks at the names of an object's fields; the object was read before.
fn shape_of(text: &str) -> Option<Shape> {
    let [
        mut is_event,
        mut has_call_id,
        mut has_call_type,
        mut has_start,
    ] = [false; 4];
    let [mut is_gen_ai, mut has_start_time, mut has_code] = [false; 3];
    Scanner::read_object(text, |_, key, _| match key {
        "specversion" => is_event = true,
        "litellm_call_id" => has_call_id = true,
        "call_type" => has_call_type = true,
        "startTime" => has_start = true,
        "start_time" => has_start_time = true,
        "response_code" => has_code = true,
        _ => is_gen_ai |= key.starts_with("gen_ai."),
    })
    .ok()?;
    if is_event {
        Some(Shape::CloudEvent)
    } else if has_call_id || (has_call_type && has_start) {
        Some(Shape::LiteLlm)
    } else if is_gen_ai || (has_start_time && has_code) {
        Some(Shape::EnvoyAiGateway)
    } else {
        None
    }
}
