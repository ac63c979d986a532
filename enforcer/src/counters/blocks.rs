//! Counters side by side with those that are mostly asked together.
//!
//! Invariant: a block holds each limit's counter once, all of one place; none is empty but for a moment.
//! A decision finds all counters of a rule with one look-up, in memory that lies together. Deliberately
//! absent: what a counter is ([`super::table`]).

use domain::policy::Place;
use domain::policy::model::LimitId;

use super::table::Held;

/// The counters that lie at one place: those of one rule for the same values. A table of blocks is small
/// enough to stay in a cache, so that the first memory waited for is that of the counters.
#[derive(Debug)]
pub(super) struct Block {
    place: Place,
    held: Vec<Held>,
}

impl Block {
    /// Begins with one counter.
    pub(super) fn of(place: Place, held: Held) -> Self {
        let held = vec![held];
        Self { place, held }
    }

    #[inline]
    pub(super) fn is_at(&self, place: Place) -> bool {
        self.place == place
    }

    /// Returns its place.
    pub(super) const fn place(&self) -> Place {
        self.place
    }

    #[inline]
    pub(super) fn held(&self) -> &[Held] {
        &self.held
    }

    #[inline]
    pub(super) fn get_mut(&mut self, position: usize) -> Option<&mut Held> {
        self.held.get_mut(position)
    }

    /// Finds a limit's counter. Limits are asked in the order in which their counters came to be, so it
    /// mostly is the one after that which was found before.
    #[inline]
    pub(super) fn position(&self, limit: LimitId, likely: usize) -> Option<usize> {
        if self
            .held
            .get(likely)
            .is_some_and(|held| held.limit == limit)
        {
            return Some(likely);
        }
        self.held.iter().position(|held| held.limit == limit)
    }

    /// Adds a counter behind the others, and returns its position.
    pub(super) fn push(&mut self, held: Held) -> usize {
        let position = self.held.len();
        if position == self.held.capacity() {
            // Most rules have few limits, which take no more than they need; many are not moved each time.
            self.held.reserve_exact((position / 4).max(1));
        }
        self.held.push(held);
        position
    }

    /// Takes a limit's counter out.
    pub(super) fn take(&mut self, limit: LimitId) -> Option<Held> {
        let position = self.position(limit, 0)?;
        Some(self.held.remove(position))
    }

    /// Keeps the counters of which it is said so; says whether any are left.
    pub(super) fn retain(&mut self, stays: impl FnMut(&mut Held) -> bool) -> bool {
        let before = self.held.len();
        self.held.retain_mut(stays);
        if self.held.len() < before {
            self.held.shrink_to_fit();
        }
        !self.held.is_empty()
    }
}
