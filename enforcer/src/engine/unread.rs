//! Limits from the log that came in force and whose accounts were not read yet.
//!
//! Invariant: such a limit is named before anybody decides by it, and until all of its accounts were
//! merged: an account that is only empty here is not known. Deliberately absent: reading, and what a
//! policy says to numbers that are not known.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use domain::policy::model::LimitId;
use foldhash::fast::RandomState;

type ByLimit = HashMap<LimitId, u64, RandomState>;

/// Limits by the number of the change that brought them.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// Whether there are any; mostly not, which is all that a decision then reads.
    is_any: AtomicBool,
    limits: ArcSwap<ByLimit>,
}

impl Unread {
    /// Notes limits that come in force by a change; called before they do.
    pub(crate) fn come(&self, limits: impl IntoIterator<Item = LimitId>, change: u64) {
        let limits: Vec<_> = limits.into_iter().map(|limit| (limit, change)).collect();
        self.edit(|unread| unread.extend(limits.iter().copied()));
    }

    /// Notes that all accounts of the limits that came up to a change were merged.
    pub(crate) fn read_up_to(&self, change: u64) {
        if self.is_any.load(Ordering::Acquire) {
            self.edit(|unread| unread.retain(|_, came| *came > change));
        }
    }

    /// Says whether a limit's accounts are not all known.
    pub(crate) fn has(&self, limit: LimitId) -> bool {
        self.is_any.load(Ordering::Acquire) && self.limits.load().contains_key(&limit)
    }

    fn edit(&self, edit: impl Fn(&mut ByLimit)) {
        self.limits.rcu(|limits| {
            let mut limits = ByLimit::clone(limits);
            edit(&mut limits);
            // Set before limits are named and cleared after: at worst somebody looks for nothing.
            if !limits.is_empty() {
                self.is_any.store(true, Ordering::Release);
            }
            Arc::new(limits)
        });
        if self.limits.load().is_empty() {
            self.is_any.store(false, Ordering::Release);
        }
    }
}
