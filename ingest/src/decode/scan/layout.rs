//! Objects that have the keys of those before them: a gateway writes each line by one template.
//!
//! Invariant: what is read, and what is refused, is what [`Scanner::read_object`] reads and refuses,
//! whatever the layout holds; it only saves looking keys up that stand where they stood before.
//! Deliberately absent: layouts of nested objects.

use smallvec::SmallVec;

use super::keys::{OpenKeys, hash_key};
use super::value::{Kind, Span};
use super::{Fault, KeyStack, Scanner, Stopped};

/// The most keys that are remembered.
const KEYS_MAX: usize = 64;

/// After so many objects in a row that were laid out otherwise, the layout is learnt anew: where two
/// templates take turns, learning each time would cost more than it saves.
const STRANGERS_MAX: u32 = 8;

/// The keys of an earlier object in their order, each once and without escapes.
#[derive(Debug, Default)]
pub(in crate::decode) struct Layout {
    keys: Vec<LaidKey>,
    strangers: u32,
}

#[derive(Debug)]
struct LaidKey {
    key: String,
    hash: u64,
    /// What the caller finds under the key.
    found: Option<usize>,
}

impl Layout {
    /// Says whether the layout is to be learnt from an object that leaves it; where it is, forgets
    /// what comes after the keys that the object has, too.
    fn is_to_learn(&mut self, common: usize) -> bool {
        if !self.keys.is_empty() && self.strangers < STRANGERS_MAX {
            self.strangers += 1;
            return false;
        }
        self.strangers = 0;
        self.keys.truncate(common);
        true
    }
}

impl<'a> Scanner<'a> {
    /// Reads the one object that the text holds, and tells those members whose keys `find` knows, by
    /// the hash of the key and the key: what it found, and where the value stands. `find` must answer
    /// alike at each call with one layout.
    pub(in crate::decode) fn read_object_like(
        text: &'a str,
        layout: &mut Layout,
        find: impl Fn(u64, &str) -> Option<usize>,
        mut member: impl FnMut(usize, Span),
    ) -> Result<(), Fault> {
        let mut scanner = Self::new(text, KeyStack::checking());
        scanner.skip_white();
        let read = scanner.laid_object(layout, &find, &mut member);
        if read.is_err() {
            // It may have learnt a key that occurs twice.
            layout.keys.clear();
        }
        scanner.finish(read)
    }

    fn laid_object(
        &mut self,
        layout: &mut Layout,
        find: &impl Fn(u64, &str) -> Option<usize>,
        member: &mut impl FnMut(usize, Span),
    ) -> Result<(), Stopped> {
        self.descend(1, b'{', "an object")?;
        self.skip_white();
        if self.skip_if(|byte| byte == b'}') {
            return Ok(());
        }
        let mut laid: SmallVec<[Span; KEYS_MAX]> = SmallVec::new_const();
        while let Some(known) = layout.keys.get(laid.len())
            && let Some(span) = self.laid_key(&known.key)
        {
            let value = self.value_of_member()?;
            if let Some(found) = known.found {
                member(found, value);
            }
            laid.push(span);
            if !self.has_next(b'}')? {
                layout.strangers = 0;
                return Ok(());
            }
        }
        self.strange_object(layout, &laid, find, member)
    }

    /// Reads on where an object leaves its layout; `laid` are its keys before that.
    fn strange_object(
        &mut self,
        layout: &mut Layout,
        laid: &[Span],
        find: &impl Fn(u64, &str) -> Option<usize>,
        member: &mut impl FnMut(usize, Span),
    ) -> Result<(), Stopped> {
        let mut keys = self.keys.open();
        for (span, known) in laid.iter().zip(&layout.keys) {
            self.add_key(&mut keys, known.hash, *span)?;
        }
        let mut is_learning = layout.is_to_learn(laid.len());
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.syntax("a key in quotes"));
            }
            let span = self.string()?;
            let value = self.value_of_member()?;
            let key = span.text(self.text);
            let hash = hash_key(key.as_bytes());
            let found = find(hash, &key);
            if let Some(found) = found {
                member(found, value);
            }
            is_learning &= span.is_plain() && layout.keys.len() < KEYS_MAX;
            if is_learning {
                let key = key.into_owned();
                layout.keys.push(LaidKey { key, hash, found });
            }
            self.add_key(&mut keys, hash, span)?;
            if !self.has_next(b'}')? {
                self.keys.close(&keys);
                return Ok(());
            }
        }
    }

    /// Passes over a key in quotes, where it stands here.
    fn laid_key(&mut self, key: &str) -> Option<Span> {
        let after = self
            .rest()
            .strip_prefix(b"\"")?
            .strip_prefix(key.as_bytes())?;
        after.strip_prefix(b"\"")?;
        let start = self.at + 1;
        let end = start + key.len();
        self.at = end + 1;
        Some(Span::new(Kind::Text, start, end))
    }

    fn value_of_member(&mut self) -> Result<Span, Stopped> {
        self.skip_white();
        self.byte(b':', "a colon")?;
        self.skip_white();
        self.value(1)
    }

    /// Notes a key of the object; stops where it has it already.
    pub(super) fn add_key(
        &mut self,
        keys: &mut OpenKeys<'a>,
        hash: u64,
        span: Span,
    ) -> Result<(), Stopped> {
        let key = span.text(self.text);
        if self.keys.add(keys, hash, span, key, self.text).is_err() {
            let key = span.text(self.text).into_owned();
            self.fault = Some(Fault::DuplicateKey { key });
            return Err(Stopped);
        }
        Ok(())
    }
}
