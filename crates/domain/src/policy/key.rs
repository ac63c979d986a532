//! The key of a counter: which limit, which tenant, which values.
//!
//! Invariant: two different (limit, tenant, values) never give the same bytes to hash, since each value
//! carries its length; BLAKE3 keeps whoever chooses values (a header, a user) from choosing a counter.
//! Nothing is allocated for keys of up to [`BUFFER_BYTES`].

use crate::hash::Hash128;
use crate::request::{Field, Request};

use super::cel::Value;
use super::model::{Key, Limit, LimitId, MissingKey};

/// What fits on the stack: a limit's id, a tenant and a few ids of usual length.
const BUFFER_BYTES: usize = 256;

/// What stands for the length of a value that is missing.
const MISSING: u32 = u32::MAX;

/// The key of one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey(pub Hash128);

/// Whether a limit that matches counts a request, and by which counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyed<'s> {
    /// It counts by this counter.
    Counts(CounterKey),
    /// It does not hold for a request that lacks a key.
    Skipped,
    /// It refuses a request that lacks this key.
    Denied(&'s Key),
}

/// Finds the counter of a limit for a request.
pub(super) fn key_of<'s>(id: LimitId, limit: &'s Limit, request: &Request<'_>) -> Keyed<'s> {
    let mut bytes = KeyBytes::of(id);
    bytes.value(request.text(Field::Tenant));
    for key in &limit.per {
        let is_there = match key {
            Key::Field(field) => bytes.value(request.key(*field)),
            Key::Header(name) => {
                let value = request.header(name);
                bytes.value(value.filter(|value| !value.is_empty()))
            }
            Key::Constant(text) => bytes.value(Some(text)),
            Key::Cel(cel) => match cel.value(request) {
                Ok(Value::Text(text)) => bytes.value(Some(&*text).filter(|text| !text.is_empty())),
                // The type is the expression's own, so a number is never taken for a text.
                Ok(Value::Whole(number)) => bytes.put(&number.to_be_bytes()),
                Ok(Value::Truth(truth)) => bytes.put(&[u8::from(truth)]),
                Err(_) => bytes.value(None),
            },
        };
        if !is_there {
            match limit.missing_key {
                MissingKey::Shared => {}
                MissingKey::Skip => return Keyed::Skipped,
                MissingKey::Deny => return Keyed::Denied(key),
            }
        }
    }
    Keyed::Counts(CounterKey(bytes.finish()))
}

impl Limit {
    /// Hands over names and values of its keys for a request, in order; `None` for what is missing.
    pub fn each_value(&self, request: &Request<'_>, mut take: impl FnMut(&str, Option<&str>)) {
        for key in &self.per {
            let mut filled =
                |name: &str, value: Option<&str>| take(name, value.filter(|text| !text.is_empty()));
            match key {
                Key::Field(field) => filled(field.name(), request.key(*field)),
                Key::Header(name) => filled(&key.name(), request.header(name)),
                Key::Constant(text) => filled(&key.name(), Some(text)),
                Key::Cel(cel) => match cel.value(request) {
                    Ok(Value::Text(text)) => filled(&key.name(), Some(&text)),
                    Ok(Value::Whole(number)) => filled(&key.name(), Some(&number.to_string())),
                    Ok(Value::Truth(truth)) => filled(&key.name(), Some(&truth.to_string())),
                    Err(_) => filled(&key.name(), None),
                },
            }
        }
    }
}

/// Returns the values of a limit's keys for a request, in order; `None` for what is missing.
pub(super) fn values_of(limit: &Limit, request: &Request<'_>) -> Vec<(String, Option<String>)> {
    let mut values = Vec::with_capacity(limit.per.len());
    limit.each_value(request, |name, value| {
        values.push((name.to_owned(), value.map(str::to_owned)));
    });
    values
}

/// Collects a key's bytes on the stack, and goes over to a hasher where they do not fit.
struct KeyBytes {
    buffer: [u8; BUFFER_BYTES],
    length: usize,
    long: Option<Box<blake3::Hasher>>,
}

impl KeyBytes {
    fn of(id: LimitId) -> Self {
        let mut bytes = Self {
            buffer: [0; BUFFER_BYTES],
            length: 0,
            long: None,
        };
        bytes.put(&id.0.to_bytes());
        bytes
    }

    /// Adds a value behind its length; returns whether there is one.
    fn value(&mut self, value: Option<&str>) -> bool {
        let Some(value) = value else {
            self.put(&MISSING.to_be_bytes());
            return false;
        };
        // No listener takes a value of 4 GiB; cut there, it would still be a value.
        let length = u32::try_from(value.len()).unwrap_or(MISSING.saturating_sub(1));
        self.put(&length.to_be_bytes());
        self.put(value.as_bytes())
    }

    /// Adds bytes; returns true, as something is there.
    fn put(&mut self, bytes: &[u8]) -> bool {
        let end = self.length.saturating_add(bytes.len());
        if let Some(long) = &mut self.long {
            long.update(bytes);
        } else if let Some(room) = self.buffer.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        } else {
            let mut long = Box::new(blake3::Hasher::new());
            long.update(self.buffer.get(..self.length).unwrap_or_default());
            long.update(bytes);
            self.long = Some(long);
        }
        true
    }

    fn finish(&self) -> Hash128 {
        match &self.long {
            Some(long) => Hash128::of_blake3(&long.finalize()),
            None => Hash128::of(self.buffer.get(..self.length).unwrap_or_default()),
        }
    }
}
