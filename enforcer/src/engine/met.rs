//! Lists of the limits that one request met, in memory that goes from answer to answer.
//!
//! Invariant: a list begins empty, whoever had its memory before. A thread keeps a few buffers of
//! usual size, so that a decision allocates nothing however many limits it meets, and an answer moves
//! a pointer instead of a kilobyte. Deliberately absent: what a limit says.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::answer::Met;

/// How many buffers a thread keeps: of a decision, of the candidate before, and of one being told.
const KEPT: usize = 4;

/// The longest buffer that is kept, in limits.
const LENGTH_MAX: usize = 128;

/// The shortest buffer that is made, in limits.
const LENGTH_MIN: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Vec<Met>>> = const { RefCell::new(Vec::new()) };
}

/// Limits that one request met, in the order of the policies.
#[derive(Debug, Default)]
pub struct MetList(Vec<Met>);

impl MetList {
    pub(super) fn push(&mut self, met: Met) {
        if self.0.capacity() == 0 {
            self.0 = SPARE
                .try_with(|spare| spare.borrow_mut().pop())
                .ok()
                .flatten()
                .unwrap_or_else(|| Vec::with_capacity(LENGTH_MIN));
        }
        self.0.push(met);
    }
}

impl Drop for MetList {
    fn drop(&mut self) {
        if !(1..=LENGTH_MAX).contains(&self.0.capacity()) {
            return;
        }
        self.0.clear();
        let buffer = std::mem::take(&mut self.0);
        // A thread that ends keeps nothing any longer.
        let kept = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(buffer);
            }
        });
        kept.unwrap_or_default();
    }
}

impl Deref for MetList {
    type Target = [Met];

    fn deref(&self) -> &[Met] {
        &self.0
    }
}

impl DerefMut for MetList {
    fn deref_mut(&mut self) -> &mut [Met] {
        &mut self.0
    }
}
