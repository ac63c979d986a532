//! The fields of one message that a source's decoder reads, taken in one pass.
//!
//! Invariant: a field's name is an exact key first, else a path of keys and positions
//! (`request_tags.0`); `null`, `""` and `"-"` are absent; a quantity is a whole number from 0 to 2⁵³
//! or there is none. Deliberately absent: which fields a format has.

use std::borrow::Cow;

use domain::meter::QUANTITY_MAX;
use domain::reject::{Reason, Rejection};
use parking_lot::Mutex;

use smallvec::SmallVec;

use super::scan::{Fault, Layout, Scanner, Span, Value, hash_key};

/// The most characters of a faulty value that a rejection quotes.
const QUOTED_CHARS_MAX: usize = 40;

/// How many keys of a message are kept without an allocation; a format has some thirty.
const KEYS_INLINE: usize = 40;

/// Names one field of a [`FieldSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FieldId(usize);

/// The fields to look for.
#[derive(Debug, Default)]
pub(super) struct FieldSet {
    fields: Vec<Field>,
    /// The keys of the outermost object that matter: each once, in the order of first use.
    keys: Vec<String>,
    /// An open-addressed table over `keys`: (hash, index + 1), 0 for an empty place.
    table: Vec<(u64, usize)>,
    /// How the last messages were laid out: a memory that changes no outcome.
    layout: Mutex<Layout>,
}

#[derive(Debug)]
struct Field {
    name: String,
    /// The index of the key that is the whole name.
    exact: usize,
    /// The index of the key before the name's first dot, and what follows the dot.
    path: Option<(usize, String)>,
}

impl FieldSet {
    /// Adds a field by its configured name.
    pub(super) fn add(&mut self, name: &str) -> FieldId {
        let exact = self.add_key(name);
        let path = name
            .split_once('.')
            .map(|(key, rest)| (self.add_key(key), rest.to_owned()));
        self.fields.push(Field {
            name: name.to_owned(),
            exact,
            path,
        });
        FieldId(self.fields.len() - 1)
    }

    /// Returns a field's configured name.
    pub(super) fn name(&self, field: FieldId) -> &str {
        self.fields.get(field.0).map_or("", |field| &field.name)
    }

    fn add_key(&mut self, key: &str) -> usize {
        if let Some(index) = self.keys.iter().position(|known| known == key) {
            return index;
        }
        self.layout = Mutex::default();
        self.keys.push(key.to_owned());
        // At most a quarter full, so that a look-up rarely takes a second step.
        let size = (self.keys.len() * 4).next_power_of_two().max(16);
        self.table = vec![(0, 0); size];
        for (index, key) in self.keys.iter().enumerate() {
            let hash = hash_key(key.as_bytes());
            let mut place = place_in(hash, size);
            while self.table.get(place).is_some_and(|(_, taken)| *taken != 0) {
                place = (place + 1) % size;
            }
            if let Some(entry) = self.table.get_mut(place) {
                *entry = (hash, index + 1);
            }
        }
        self.keys.len() - 1
    }

    fn find_key(&self, hash: u64, key: &str) -> Option<usize> {
        let size = self.table.len();
        let mut place = place_in(hash, size);
        loop {
            let (known, index_and_one) = *self.table.get(place)?;
            let index = index_and_one.checked_sub(1)?;
            if known == hash && self.keys.get(index).is_some_and(|name| name == key) {
                return Some(index);
            }
            place = (place + 1) % size;
        }
    }
}

fn place_in(hash: u64, size: usize) -> usize {
    // The table's size is a power of two of at least 16.
    usize::try_from(hash & u64::try_from(size.saturating_sub(1)).unwrap_or(0)).unwrap_or(0)
}

/// Room for the values of one message, which its [`Object`] borrows: what is passed up by value is
/// copied at each step.
#[derive(Default)]
pub(super) struct Room(SmallVec<[Option<Span>; KEYS_INLINE]>);

/// One message, as far as its source's fields go.
pub(super) struct Object<'a, 'f> {
    fields: &'f FieldSet,
    text: &'a str,
    values: &'f [Option<Span>],
}

impl<'a, 'f> Object<'a, 'f> {
    /// Reads the one object that a text holds.
    ///
    /// # Errors
    ///
    /// `not_json` or `duplicate_key`, with the byte or the key at fault.
    pub(super) fn read(
        fields: &'f FieldSet,
        text: &'a str,
        room: &'f mut Room,
    ) -> Result<Self, Rejection> {
        let values = &mut room.0;
        values.clear();
        values.resize(fields.keys.len(), None);
        let mut own = Layout::default();
        let mut shared = fields.layout.try_lock();
        let layout = shared.as_deref_mut().unwrap_or(&mut own);
        let find = |hash, key: &str| fields.find_key(hash, key);
        Scanner::read_object_like(text, layout, find, |index, value| {
            if let Some(slot) = values.get_mut(index) {
                *slot = Some(value);
            }
        })
        .map_err(rejection_of)?;
        drop(shared);
        Ok(Self {
            fields,
            text,
            values,
        })
    }

    /// Returns a field's configured name.
    pub(super) fn name(&self, field: FieldId) -> &'f str {
        self.fields.name(field)
    }

    /// Says whether a field is named by its own key, also with `null`.
    pub(super) fn is_named(&self, field: FieldId) -> bool {
        let field = self.fields.fields.get(field.0);
        field.is_some_and(|field| matches!(self.values.get(field.exact), Some(Some(_))))
    }

    /// Returns a field's value as it stands; `None` where there is none, or `null`.
    pub(super) fn value(&self, field: FieldId) -> Option<Value<'a>> {
        let field = self.fields.fields.get(field.0)?;
        let value_of = |key: usize| Some(self.values.get(key).copied()??.in_text(self.text));
        let value = match (value_of(field.exact), &field.path) {
            (Some(value), _) => value,
            (None, Some((key, rest))) => step_into(value_of(*key)?, rest)?,
            (None, None) => return None,
        };
        (value != Value::Null).then_some(value)
    }

    /// Returns a field's text; `None` where it is absent, empty or `-`.
    ///
    /// # Errors
    ///
    /// `wrong_type` where it is no string.
    pub(super) fn text(&self, field: FieldId) -> Result<Option<Cow<'a, str>>, Rejection> {
        let text = match self.value(field) {
            None => return Ok(None),
            Some(Value::Text(text)) => text.decode(),
            Some(other) => {
                let detail = format!("is {}, not a string", kind_of(other));
                return Err(self.reject(Reason::WrongType, field, detail));
            }
        };
        Ok((!is_absent(&text)).then_some(text))
    }

    /// Returns a field's quantity; `None` where it is absent, empty or `-`.
    ///
    /// # Errors
    ///
    /// `bad_number` where it is anything but a whole number from 0 to 2⁵³, in digits.
    pub(super) fn quantity(&self, field: FieldId) -> Result<Option<u64>, Rejection> {
        let digits = match self.value(field) {
            None => return Ok(None),
            Some(Value::Number(digits)) => Cow::Borrowed(digits),
            Some(Value::Text(text)) => text.decode(),
            Some(other) => return Err(self.bad_number(field, kind_of(other))),
        };
        if is_absent(&digits) {
            return Ok(None);
        }
        match whole_number(&digits) {
            Some(quantity) => Ok(Some(quantity)),
            None => Err(self.bad_number(field, &quoted(&digits))),
        }
    }

    fn bad_number(&self, field: FieldId, found: &str) -> Rejection {
        let detail = format!("is {found}, not a whole number from 0 to 2^53");
        self.reject(Reason::BadNumber, field, detail)
    }

    /// Rejects the message for one field.
    pub(super) fn reject(&self, reason: Reason, field: FieldId, detail: String) -> Rejection {
        Rejection::new(reason, self.name(field), detail)
    }
}

/// Follows the rest of a path: at each object the whole rest as a key first, else up to its dot.
fn step_into<'a>(value: Value<'a>, path: &str) -> Option<Value<'a>> {
    let (head, rest) = path
        .split_once('.')
        .map_or((path, None), |(head, rest)| (head, Some(rest)));
    let mut exact = None;
    let mut step = None;
    // Both texts were read before, so they hold no fault.
    match value {
        Value::Object(text) => Scanner::read_object(text, |_, key, value| {
            if key == path {
                exact = Some(value.in_text(text));
            } else if key == head {
                step = Some(value.in_text(text));
            }
        })
        .ok()?,
        Value::Array(text) => {
            let wanted = position_of(head)?;
            let mut position = 0;
            Scanner::read_array(text, |value| {
                if position == wanted {
                    step = Some(value.in_text(text));
                }
                position += 1;
            })
            .ok()?;
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => return None,
    }
    match (exact, rest) {
        (Some(value), _) => Some(value),
        (None, Some(rest)) => step_into(step?, rest),
        (None, None) => step,
    }
}

/// Reads a position in an array: digits without a leading zero.
fn position_of(text: &str) -> Option<usize> {
    let position: usize = text.parse().ok()?;
    (position.to_string() == text).then_some(position)
}

/// Says whether a string stands for nothing, as gateways write it.
pub(super) fn is_absent(text: &str) -> bool {
    matches!(text, "" | "-")
}

/// Reads a whole number from 0 to 2⁵³ that is written in ASCII digits alone.
pub(super) fn whole_number(digits: &str) -> Option<u64> {
    let is_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits {
        return None;
    }
    digits.parse().ok().filter(|number| *number <= QUANTITY_MAX)
}

/// Returns a value's kind with its article, for a sentence.
pub(super) const fn kind_of(value: Value<'_>) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::Text(_) => "a string",
        Value::Object(_) => "an object",
        Value::Array(_) => "an array",
    }
}

/// Quotes the beginning of what was found.
pub(super) fn quoted(found: &str) -> String {
    let mut characters = found.chars();
    let head: String = characters.by_ref().take(QUOTED_CHARS_MAX).collect();
    let dots = if characters.next().is_some() {
        "…"
    } else {
        ""
    };
    format!("\"{}{dots}\"", head.escape_debug())
}

/// Says in words why a text is not read; the field is the key at fault, or none.
pub(super) fn rejection_of(fault: Fault) -> Rejection {
    match fault {
        Fault::Syntax { at, expected } => {
            let detail = format!("is not JSON: expected {expected} at byte {at}");
            Rejection::new(Reason::NotJson, "", detail)
        }
        Fault::CutOff => Rejection::new(Reason::NotJson, "", "is not JSON: ends within a value"),
        Fault::TooDeep { at } => {
            let detail = format!("is nested deeper than 128 levels at byte {at}");
            Rejection::new(Reason::NotJson, "", detail)
        }
        Fault::DuplicateKey { key } => {
            Rejection::new(Reason::DuplicateKey, &key, "occurs twice in one object")
        }
    }
}
