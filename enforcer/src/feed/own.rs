//! What this replica counts itself, on its way to peers, to snapshots and to Postgres.
//!
//! Invariant: numbers are read and numbered as one step, so that a greater revision never holds less; and
//! a counter that changed is told in each way until that way took it or the counter is gone. What waits are names, so that
//! nothing but the number of counters bounds it, however long somebody is away. Deliberately absent: how
//! it is sent.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use domain::account::Revision;
use domain::feed::Entry;
use domain::limit::{Algorithm, LimitSpec};
use domain::policy::CounterKey;
use domain::policy::model::{CountedFrom, LimitId};
use domain::time::UnixMs;
use domain::window::WindowSpec;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::engine::Engine;

/// From this on a window is long: its counters are kept in Postgres, too. In ms.
pub(super) const LONG_MS: i64 = 60 * 60 * 1_000;

/// Changed counters that are asked for at once.
const CHANGED_MAX: usize = 100_000;

/// How often the names of counters that are gone are forgotten.
const FORGET: Duration = Duration::from_secs(5);

/// An instant of 2001 that no zone had anything to do on.
const SOME_DAY_MS: i64 = 1_000_000_000_000;

/// Which counter.
pub(super) type Name = (LimitId, CounterKey);

type Names = HashSet<Name, RandomState>;

/// A way on which own use is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Frames to peers.
    Exchange,
    /// Snapshots on the balances.
    Balances,
    /// Rows in Postgres, of long windows.
    Postgres,
}

/// Own use that waits to be told.
#[derive(Debug)]
pub(super) struct OwnUse {
    engine: Arc<Engine>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    number: i64,
    exchange: Names,
    balances: Names,
    postgres: Names,
    /// When the names of counters that are gone were last forgotten.
    forgot: Option<Instant>,
}

impl Inner {
    const fn names(&mut self, way: Way) -> &mut Names {
        match way {
            Way::Exchange => &mut self.exchange,
            Way::Balances => &mut self.balances,
            Way::Postgres => &mut self.postgres,
        }
    }

    const fn next_revision(&mut self) -> Revision {
        self.number = self.number.saturating_add(1);
        // Each start is another origin, which has one epoch.
        Revision {
            epoch: 0,
            number: self.number,
        }
    }
}

impl OwnUse {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            inner: Mutex::default(),
        }
    }

    /// Takes note of what changed since the last call, for each way.
    pub(super) fn gather(&self) {
        let limits = self.engine.limits();
        loop {
            let changed = self.engine.counters().take_changed_names(CHANGED_MAX);
            let is_all = changed.len() < CHANGED_MAX;
            let mut inner = self.inner.lock();
            for name in changed {
                inner.exchange.insert(name);
                inner.balances.insert(name);
                let known = limits.get_or_retired(name.0);
                if known.is_some_and(|known| window_ms(&known.spec) >= LONG_MS) {
                    inner.postgres.insert(name);
                }
            }
            if is_all {
                break;
            }
        }
        self.forget_gone();
    }

    /// Forgets the names of counters that are gone: nothing of them counts, and while a way is away, or
    /// not used, nobody takes them.
    fn forget_gone(&self) {
        let mut inner = self.inner.lock();
        let is_due = inner.forgot.is_none_or(|at| at.elapsed() >= FORGET);
        if is_due {
            inner.forgot = Some(Instant::now());
            let counters = self.engine.counters();
            for way in [Way::Exchange, Way::Balances, Way::Postgres] {
                let names = inner.names(way);
                names.retain(|(limit, counter)| counters.has_own(*limit, *counter));
                if names.len().saturating_mul(4) < names.capacity() {
                    names.shrink_to(names.len().saturating_mul(2));
                }
            }
        }
    }

    /// Says whether a counter holds own use still.
    pub(super) fn has_own(&self, (limit, counter): Name) -> bool {
        self.engine.counters().has_own(limit, counter)
    }

    /// Takes what waits for a way, at most so many counters, with their numbers of now.
    pub(super) fn take(&self, way: Way, max: usize) -> Vec<Entry> {
        let mut inner = self.inner.lock();
        let waiting = inner.names(way);
        let names: Vec<Name> = if waiting.len() <= max {
            waiting.drain().collect()
        } else {
            let names: Vec<Name> = waiting.iter().take(max).copied().collect();
            for name in &names {
                waiting.remove(name);
            }
            names
        };
        if names.is_empty() {
            return Vec::new();
        }
        let revision = inner.next_revision();
        self.engine.counters().own_of(names, revision)
    }

    /// Puts back what a way could not take after all.
    pub(super) fn put_back(&self, way: Way, names: impl IntoIterator<Item = Name>) {
        self.inner.lock().names(way).extend(names);
    }

    /// Has all counters told on the balances again that hold use of this replica; returns their names.
    pub(super) fn tell_all(&self) -> HashSet<Name, RandomState> {
        let limits = self.engine.limits();
        let own = self.engine.counters().own_names(|id| {
            let known = limits.get_or_retired(id);
            known.is_some_and(|known| known.from == CountedFrom::Decision)
        });
        let names: Names = own.collect();
        self.put_back(Way::Balances, names.iter().copied());
        names
    }

    /// Returns how many counters wait, by way.
    pub(super) fn waiting(&self) -> [usize; 3] {
        let inner = self.inner.lock();
        [&inner.exchange, &inner.balances, &inner.postgres].map(HashSet::len)
    }
}

/// Returns how long use counts at most, in ms: a window's length; for a bucket how long a full one takes
/// to be empty.
pub(super) fn window_ms(limit: &LimitSpec) -> i64 {
    match limit.algorithm() {
        Algorithm::Window(WindowSpec::Calendar(_)) => {
            let some_day = UnixMs::FIRST.saturating_add_ms(SOME_DAY_MS);
            // Any window will do: none of a kind is an hour long where another is a minute.
            let slot = limit.algorithm().slots().slot_at(some_day);
            slot.end().get().saturating_sub(slot.start().get())
        }
        Algorithm::Window(WindowSpec::Fixed(length) | WindowSpec::Sliding(length)) => length.ms(),
        Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
            let every = i128::from(refill.every.ms());
            let amount = refill.amount.get().max(1);
            let ms = limit.limit().get().saturating_mul(every) / amount;
            i64::try_from(ms).unwrap_or(i64::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::account::ReplicaId;
    use domain::policy::{compile, read};
    use domain::request::Request;

    use super::*;
    use crate::engine::{Ask, PoliciesInForce};

    const POLICY: &str = "
name: pace
limits: [{ name: app, meter: requests, limit: 9, per: [app], window: { fixed: 1h } }]
";

    #[test]
    fn names_of_counters_that_are_gone_do_not_wait() {
        let engine = Arc::new(Engine::new(ReplicaId(1), 8));
        engine.swap(PoliciesInForce {
            set: compile(read("test.yaml", POLICY).unwrap()).unwrap(),
            ..PoliciesInForce::default()
        });
        let own = OwnUse::new(Arc::clone(&engine));
        let day = UnixMs::FIRST.saturating_add_ms(SOME_DAY_MS);
        let spend = |app, at| {
            let request = Request {
                app: Some(app),
                ..Request::default()
            };
            let ask = Ask {
                request,
                ..Ask::default()
            };
            drop(engine.decide(&ask, at));
        };
        spend("a", day);
        own.gather();
        assert_eq!(own.waiting(), [1, 1, 1], "nobody takes it");
        let later = day.saturating_add_ms(24 * LONG_MS);
        spend("b", later);
        engine.prune(later);
        own.inner.lock().forgot = None;
        own.gather();
        assert_eq!(own.waiting(), [1, 1, 1], "the first is gone");
        assert_eq!(own.tell_all().len(), 1, "the second stands");
    }
}
