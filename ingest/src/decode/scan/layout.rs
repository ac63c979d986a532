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
    /// The key in its quotes, with the colon behind them.
    quoted: Box<[u8]>,
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
            && starts_with(self.rest(), &known.quoted)
        {
            let start = self.at;
            self.at += known.quoted.len();
            let key = Span::new(Kind::Text, start + 1, self.at - 2);
            self.skip_white();
            let value = self.value(1)?;
            if let Some(found) = known.found {
                member(found, value);
            }
            laid.push(key);
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
                let quoted = format!("\"{key}\":").into_bytes().into();
                layout.keys.push(LaidKey {
                    quoted,
                    hash,
                    found,
                });
            }
            self.add_key(&mut keys, hash, span)?;
            if !self.has_next(b'}')? {
                self.keys.close(&keys);
                return Ok(());
            }
        }
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

/// As `[u8]::starts_with`, eight bytes at a time and in line: keys are short, and a line has some
/// thirty.
fn starts_with(text: &[u8], head: &[u8]) -> bool {
    let Some(text) = text.get(..head.len()) else {
        return false;
    };
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    match (text.last_chunk::<8>(), head.last_chunk::<8>()) {
        (Some(text_end), Some(head_end)) => {
            let words = text.as_chunks::<8>().0.iter().zip(head.as_chunks::<8>().0);
            let differing = words.fold(0, |differing, (text, head)| {
                differing | (word(text) ^ word(head))
            });
            differing | (word(text_end) ^ word(head_end)) == 0
        }
        (None, _) | (_, None) => text == head,
    }
}
