//! How a decision names the counters that it meets.
//!
//! Invariant: a counter's key costs more than all else that a decision does with it, so it is made at most
//! once for each ask, and for almost none. Deliberately absent: where counters lie.

use std::cell::OnceCell;
use std::sync::Arc;

use domain::account::Grounds;
use domain::decision::Asked;
use domain::limit::{LimitSpec, Moment};
use domain::policy::model::{Limit, LimitId};
use domain::policy::{CounterKey, Place};
use domain::request::Request;
use domain::units::Units;

use super::places::place_of;

/// One limit as one decision meets it. No two of a decision may have the same limit and key.
#[derive(Debug, Clone)]
pub struct Counted<'a> {
    /// The limit.
    pub limit: &'a LimitSpec,
    /// Its identity.
    pub id: LimitId,
    /// Which of its counters.
    pub key: Named<'a>,
    /// Now, and the limit's slot that holds it.
    pub moment: Moment,
    /// What must fit.
    pub asked: Asked,
    /// What is charged where the request may go; nothing where it is negative.
    pub charge: Units,
}

/// Which of a limit's counters. One limit's are always named in the same way.
#[derive(Debug, Clone)]
pub enum Named<'a> {
    /// That of this key.
    Key(CounterKey),
    /// That of the values that a request has.
    Values {
        /// Where it lies.
        place: Place,
        /// The limit with its keys.
        limit: &'a Limit,
        /// The request.
        request: &'a Request<'a>,
        /// Its key, which is made once and only where it is needed: when the counter comes to be, or
        /// may be one that was only told of.
        key: OnceCell<CounterKey>,
    },
}

impl<'a> Named<'a> {
    /// Names that of the values that a request has.
    #[must_use]
    pub const fn values(place: Place, limit: &'a Limit, request: &'a Request<'a>) -> Self {
        Self::Values {
            place,
            limit,
            request,
            key: OnceCell::new(),
        }
    }

    /// Returns where it lies.
    #[inline]
    pub(crate) const fn place(&self) -> Place {
        match self {
            Self::Key(key) => place_of(*key),
            Self::Values { place, .. } => *place,
        }
    }
}

impl Counted<'_> {
    /// Returns the counter's key.
    pub(super) fn key(&self) -> CounterKey {
        match &self.key {
            Named::Key(key) => *key,
            Named::Values {
                limit,
                request,
                key,
                ..
            } => *key.get_or_init(|| limit.counter_key(self.id, request)),
        }
    }
}

/// The counter that a refusal stands on, as it was when the refusal was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consulted {
    /// Which counter.
    pub counter: CounterKey,
    /// What the verdict stands on; denials by the same numbers share it.
    pub grounds: Arc<Grounds>,
}
