//! What is told, and what becomes of it: the one way from any source of numbers into the counters.
//!
//! Invariant: a message is merged only where its limit is known and its origin is of the kind that the
//! limit counts; what was told of a limit that comes in force a moment later is kept for that moment.
//! Order, repetition and loss change nothing in the end, which is the domain's doing. Deliberately
//! absent: Kafka, Postgres, and what is done when they are away.

use std::collections::HashMap;
use std::sync::Arc;

use domain::account::{Message, Origin, ReplicaId};
use domain::feed::{Balance, BalanceKey, FeedError, Frame, Mark};
use domain::policy::CounterKey;
use domain::policy::model::{CountedFrom, LimitId};
use domain::time::UnixMs;
use parking_lot::Mutex;

use super::marks::{Beginning, Marks, Standing};
use crate::engine::{Engine, LimitTable, Source};
use crate::observe::feed as observe;

/// How many messages of unknown limits are kept.
const UNKNOWN_MAX: usize = 20_000;

/// How long they are kept at least, in ms: replicas look for new policies four times a second.
const UNKNOWN_MS: i64 = 3_000;

/// Something that a source of numbers tells.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    /// One origin's use of one account.
    Use(Use),
    /// How far a chain is told on a partition of the feed.
    Mark(i32, Mark),
    /// A snapshot that was asked for after a beginning of the feed; all its accounts were told before.
    Snapshot(Beginning, Vec<Standing>, UnixMs),
    /// All accounts of the limits that came up to this change of limits were told before.
    Read(u64),
    /// The feed is read from here on, on so many partitions.
    Begins(usize),
    /// The exchange is read from here on, on so many partitions.
    ExchangeBegins(usize),
    /// A replica's frame was read on a partition of the exchange, sent at this instant by its clock.
    Heard(i32, ReplicaId, UnixMs),
    /// A log was read up to where it ended when its reader began.
    CaughtUp(Topic),
    /// An account that its writer no longer keeps: its windows are over.
    Gone,
    /// A record that is none of the feed's.
    Refused(FeedError),
}

/// A log of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Balances,
    Exchange,
}

/// One origin's use of one account.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Use {
    pub(crate) limit: LimitId,
    pub(crate) counter: CounterKey,
    pub(crate) message: Message,
}

/// Whatever tells numbers: the feed in Kafka, Postgres, a test's script.
pub(crate) trait BalanceFeed {
    /// Waits for what is told next and adds it; nothing where it waited long enough.
    async fn next(&mut self, told: &mut Vec<Told>);
}

/// Reads a record of the balances.
pub(crate) fn told_by_record(partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) -> Told {
    let read = || {
        let key = BalanceKey::from_bytes(key.unwrap_or_default())?;
        let Some(value) = value else {
            return Ok(Told::Gone);
        };
        match (key, Balance::from_bytes(value)?) {
            (
                BalanceKey::Account {
                    limit,
                    counter,
                    origin,
                },
                Balance::Account(message),
            ) if message.origin == origin => Ok(Told::Use(Use {
                limit,
                counter,
                message,
            })),
            (BalanceKey::Mark(chain), Balance::Mark(mark)) if mark.chain == chain => {
                Ok(Told::Mark(partition, mark))
            }
            _ => Err(FeedError::Malformed),
        }
    };
    read().unwrap_or_else(Told::Refused)
}

/// Reads a record of the exchange; of `own` frames only that they came back is told.
pub(crate) fn tell_frame(
    partition: i32,
    value: Option<&[u8]>,
    own: ReplicaId,
    told: &mut Vec<Told>,
) {
    let value = value.unwrap_or_default();
    match Frame::head_of(value) {
        Ok((replica, at)) if replica == own => {
            return told.push(Told::Heard(partition, replica, at));
        }
        Ok(_) | Err(_) => {}
    }
    let frame = match Frame::from_bytes(value) {
        Ok(frame) => frame,
        Err(error) => return told.push(Told::Refused(error)),
    };
    told.push(Told::Heard(partition, frame.replica, frame.at));
    // A replica may tell of itself alone.
    let origin = Origin::Replica(frame.replica);
    told.extend(frame.entries.into_iter().map(|entry| {
        if entry.message.origin != origin {
            return Told::Refused(FeedError::Malformed);
        }
        Told::Use(Use {
            limit: entry.limit,
            counter: entry.counter,
            message: entry.message,
        })
    }));
}

/// Merges what is told into the engine's counters and notes as of when they are known.
#[derive(Debug)]
pub(crate) struct Merger {
    engine: Arc<Engine>,
    replica: ReplicaId,
    marks: Mutex<Marks>,
    heard: Mutex<Heard>,
    unknown: Mutex<Unknown>,
}

/// When the newest own frame was sent that came back, by partition: everything that peers sent before it
/// was read.
#[derive(Debug, Default)]
struct Heard {
    partitions: usize,
    own: HashMap<i32, UnixMs>,
}

type UnknownUse = HashMap<(LimitId, CounterKey, Origin), Message>;

/// Messages of limits that are not known yet, of this span of time and the one before.
#[derive(Debug)]
struct Unknown {
    since: UnixMs,
    now: UnknownUse,
    before: UnknownUse,
}

impl Merger {
    pub(crate) fn new(engine: Arc<Engine>, replica: ReplicaId) -> Self {
        Self {
            engine,
            replica,
            marks: Mutex::default(),
            heard: Mutex::default(),
            unknown: Mutex::new(Unknown {
                since: UnixMs::FIRST,
                now: HashMap::new(),
                before: HashMap::new(),
            }),
        }
    }

    /// Returns the feed's present beginning, to be noted before a snapshot is asked for.
    pub(crate) fn beginning(&self) -> Beginning {
        self.marks.lock().beginning()
    }

    /// Says whether the feed marked all live chains at this instant or later.
    pub(crate) fn is_marked_since(&self, since: UnixMs) -> bool {
        self.marks
            .lock()
            .marked()
            .is_some_and(|marked| marked >= since)
    }

    /// Takes what was told, in its order, and empties the list.
    pub(crate) fn take(&self, told: &mut Vec<Told>, now: UnixMs) {
        let limits = self.engine.limits();
        let (mut merged, mut refused) = (0, 0);
        for told in told.drain(..) {
            match told {
                Told::Use(used) => {
                    if self.merge(&limits, used, now) {
                        merged += 1;
                    } else {
                        refused += 1;
                    }
                }
                Told::Mark(partition, mark) => self.note(|marks| marks.take(partition, &mark)),
                Told::Snapshot(beginning, chains, at) => {
                    self.note(|marks| marks.take_snapshot(beginning, &chains, at));
                }
                Told::Read(change) => self.engine.unread().read_up_to(change),
                Told::Begins(partitions) => self.note(|marks| marks.begin(partitions)),
                Told::ExchangeBegins(partitions) => {
                    *self.heard.lock() = Heard {
                        partitions,
                        own: HashMap::new(),
                    };
                }
                Told::Heard(partition, replica, at) if replica == self.replica => {
                    self.hear(partition, at);
                }
                Told::Heard(..) | Told::CaughtUp(_) | Told::Gone => {}
                Told::Refused(error) => observe::refused(error),
            }
        }
        observe::merged(merged, refused);
    }

    /// Merges what was told of limits that are known by now; called after a change of policies.
    pub(crate) fn limits_changed(&self, now: UnixMs) {
        let waiting = {
            let mut unknown = self.unknown.lock();
            let mut waiting = std::mem::take(&mut unknown.before);
            waiting.extend(std::mem::take(&mut unknown.now));
            waiting
        };
        let used = waiting.into_iter().map(|((limit, counter, _), message)| {
            Told::Use(Use {
                limit,
                counter,
                message,
            })
        });
        self.take(&mut used.collect(), now);
    }

    fn merge(&self, limits: &LimitTable, used: Use, now: UnixMs) -> bool {
        let Use {
            limit,
            counter,
            message,
        } = used;
        let Some(known) = limits.get(limit) else {
            self.keep(limit, counter, message, now);
            return true;
        };
        let fits = match message.origin {
            Origin::Replica(_) => known.from == CountedFrom::Decision,
            Origin::Chain(_) | Origin::Opening | Origin::Adjustment => {
                known.from == CountedFrom::Log
            }
        };
        if fits {
            let counters = self.engine.counters();
            counters.merge(limit, counter, &known.spec, message, now);
        }
        fits
    }

    fn keep(&self, limit: LimitId, counter: CounterKey, message: Message, now: UnixMs) {
        let mut unknown = self.unknown.lock();
        let age = now.get().saturating_sub(unknown.since.get());
        if age > UNKNOWN_MS {
            unknown.before = std::mem::take(&mut unknown.now);
            unknown.since = now;
        }
        if unknown.now.len() < UNKNOWN_MAX {
            let key = (limit, counter, message.origin);
            let known = unknown.now.get(&key);
            let newer = known.is_none_or(|known| known.use_.revision() < message.use_.revision());
            if newer {
                unknown.now.insert(key, message);
            }
        }
    }

    fn hear(&self, partition: i32, at: UnixMs) {
        let mut heard = self.heard.lock();
        let newest = heard.own.entry(partition).or_insert(at);
        *newest = at.max(*newest);
        let is_whole = heard.partitions > 0 && heard.own.len() >= heard.partitions;
        if let Some(as_of) = heard.own.values().min().copied().filter(|_| is_whole) {
            self.engine.sources().note(Source::Exchange, as_of);
        }
    }

    fn note(&self, change: impl FnOnce(&mut Marks)) {
        let mut marks = self.marks.lock();
        change(&mut marks);
        // Under the lock, so that of two that note the later one is not overwritten.
        if let Some(as_of) = marks.as_of() {
            self.engine.sources().note(Source::Feed, as_of);
        }
    }
}

#[cfg(test)]
mod tests;
