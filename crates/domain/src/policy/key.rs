//! The key of a counter: which limit, which tenant, which values.
//!
//! Invariant: two different (limit, tenant, values) never give the same bytes to hash, since each value
//! carries its length; BLAKE3 keeps whoever chooses values (a header, a user) from choosing a counter.
//! Nothing is allocated for keys of up to [`BUFFER_BYTES`].
//!
//! A key is stored and told to others. Within a process the same values make a [`Place`], which costs a
//! tenth: it is hashed under a key that nobody else knows, and once for all limits of a rule that count by
//! the same values.

use crate::hash::{Hash128, HashKey};
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

/// Where the counters of one rule for some values lie in a process: 128 bits, so that two never share a
/// place by accident. It means nothing outside of the process, and its order nothing at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub [u64; 2]);

/// Makes places, by a keyed hash, so that whoever chooses values cannot make them meet.
#[derive(Debug, Clone)]
pub struct Placing(HashKey);

impl Placing {
    /// Takes a key that was drawn at the process's start.
    #[must_use]
    pub const fn new(key: HashKey) -> Self {
        Self(key)
    }

    fn place(&self, bytes: &[u8]) -> Place {
        Place(self.0.hash(bytes))
    }
}

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
    let mut bytes = KeyBytes::of(id.0);
    let missing = bytes.values(limit, request);
    match (missing, limit.missing_key) {
        (Some(_), MissingKey::Skip) => Keyed::Skipped,
        (Some(key), MissingKey::Deny) => Keyed::Denied(key),
        (Some(_), MissingKey::Shared) | (None, _) => Keyed::Counts(CounterKey(bytes.finish())),
    }
}

impl Limit {
    /// Returns the key of its counter for a request that it counts.
    #[must_use]
    pub fn counter_key(&self, id: LimitId, request: &Request<'_>) -> CounterKey {
        let mut bytes = KeyBytes::of(id.0);
        bytes.values(self, request);
        CounterKey(bytes.finish())
    }
}

/// Finds where the counters of a rule lie that count by the keys of this limit; and the first key that
/// the request lacks.
pub(super) fn place_of<'s>(
    rule: Hash128,
    limit: &'s Limit,
    request: &Request<'_>,
    placing: &Placing,
) -> (Place, Option<&'s Key>) {
    let mut bytes = KeyBytes::of(rule);
    let missing = bytes.values(limit, request);
    let place = match &bytes.long {
        Some(_) => placing.place(&bytes.finish().to_bytes()),
        None => placing.place(bytes.short()),
    };
    (place, missing)
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
    fn of(whose: Hash128) -> Self {
        let mut bytes = Self {
            buffer: [0; BUFFER_BYTES],
            length: 0,
            long: None,
        };
        bytes.put(&whose.to_bytes());
        bytes
    }

    /// Adds the tenant and the values of a limit's keys; returns the first key that is missing.
    fn values<'s>(&mut self, limit: &'s Limit, request: &Request<'_>) -> Option<&'s Key> {
        self.value(request.text(Field::Tenant));
        let mut missing = None;
        for key in &limit.per {
            let is_there = match key {
                Key::Field(field) => self.value(request.key(*field)),
                Key::Header(name) => {
                    let value = request.header(name);
                    self.value(value.filter(|value| !value.is_empty()))
                }
                Key::Constant(text) => self.value(Some(text)),
                Key::Cel(cel) => match cel.value(request) {
                    Ok(Value::Text(text)) => {
                        self.value(Some(&*text).filter(|text| !text.is_empty()))
                    }
                    // The type is the expression's own, so a number is never taken for a text.
                    Ok(Value::Whole(number)) => self.put(&number.to_be_bytes()),
                    Ok(Value::Truth(truth)) => self.put(&[u8::from(truth)]),
                    Err(_) => self.value(None),
                },
            };
            if !is_there && missing.is_none() {
                missing = Some(key);
            }
        }
        missing
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
            long.update(self.short());
            long.update(bytes);
            self.long = Some(long);
        }
        true
    }

    fn finish(&self) -> Hash128 {
        match &self.long {
            Some(long) => Hash128::of_blake3(&long.finalize()),
            None => Hash128::of(self.short()),
        }
    }

    fn short(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}
