//! Replicas that exchange messages which are lost, repeated and re-ordered end alike.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::models::{Events, algorithms, at, bucket, limit, windows};
use crate::account::{Account, Counter, Message, Origin, OriginUse, ReplicaId, Revision, SlotSum};
use crate::decision::Asked;
use crate::ids::ChainId;
use crate::limit::{Algorithm, LimitSpec, Refill};
use crate::time::UnixMs;
use crate::units::Units;

pub(super) const REPLICAS: usize = 3;

/// What happens; indices are taken modulo what there is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// Time passes, and a replica charges; its clock is ahead of or behind the others'.
    Charges { replica: usize, ms: i64, units: u32 },
    /// A replica sends what it counted.
    Sends { replica: usize },
    /// One of all messages ever sent arrives at a replica; it may have before.
    Arrives { message: usize, replica: usize },
    /// A replica forgets who no longer counts.
    Prunes { replica: usize },
}

pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    let replica = 0..REPLICAS;
    let ms = prop_oneof![4 => 0..400_i64, 2 => 400..3_000_i64, 1 => 3_000..90_000_i64];
    let event = prop_oneof![
        4 => (replica.clone(), ms, 1..20_u32)
            .prop_map(|(replica, ms, units)| Event::Charges { replica, ms, units }),
        3 => replica.clone().prop_map(|replica| Event::Sends { replica }),
        5 => (any::<usize>(), replica.clone())
            .prop_map(|(message, replica)| Event::Arrives { message, replica }),
        1 => replica.prop_map(|replica| Event::Prunes { replica }),
    ];
    proptest::collection::vec(event, 1..400)
}

fn origin(replica: usize) -> Origin {
    Origin::Replica(ReplicaId(replica.try_into().unwrap()))
}

/// A fleet, and everything that was ever sent or charged.
pub(super) struct Fleet {
    limit: LimitSpec,
    pub(super) counters: Vec<Counter>,
    own: Vec<Events>,
    messages: Vec<Message>,
    now: i64,
}

impl Fleet {
    pub(super) fn new(limit: LimitSpec) -> Self {
        let counters = (0..REPLICAS).map(|replica| Counter::new(&limit, origin(replica)));
        Self {
            limit,
            counters: counters.collect(),
            own: (0..REPLICAS).map(|_| Events::default()).collect(),
            messages: Vec::new(),
            now: 10_000_000,
        }
    }

    /// A replica's clock is up to 200 ms from the others'.
    pub(super) fn clock(&self, replica: usize) -> UnixMs {
        at(self.now + i64::try_from(replica).unwrap() * 100)
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Charges { replica, ms, units } => {
                self.now += ms;
                let now = self.clock(replica);
                let units = i128::from(units);
                let moment = self.limit.moment(now);
                self.counters[replica].charge(&self.limit, moment, Units::new(units));
                self.own[replica].0.push((now, units));
            }
            Event::Sends { replica } => {
                let number = self.messages.len().try_into().unwrap();
                let revision = Revision { epoch: 1, number };
                self.messages.push(self.counters[replica].message(revision));
            }
            Event::Arrives { message, replica } => {
                if let Some(index) = message.checked_rem(self.messages.len()) {
                    let message = self.messages[index].clone();
                    self.counters[replica].merge(&self.limit, message);
                }
            }
            Event::Prunes { replica } => {
                let now = self.clock(replica);
                self.counters[replica].prune(&self.limit, now);
            }
        }
    }

    /// Everything that was lost is sent again, in an order of each replica's own.
    fn redeliver(&mut self) {
        for _ in 0..3 {
            (0..REPLICAS).for_each(|replica| self.happen(Event::Sends { replica }));
            let count = self.messages.len();
            for replica in 0..REPLICAS {
                for message in 0..count {
                    let message = (message * (replica + 1)) % count;
                    self.happen(Event::Arrives { message, replica });
                }
                for message in (0..count).rev() {
                    self.happen(Event::Arrives { message, replica });
                }
            }
        }
    }

    fn used(&mut self, replica: usize, now: UnixMs) -> Units {
        let moment = self.limit.moment(now);
        let none = Asked::Units(Units::ZERO);
        self.counters[replica].check(&self.limit, moment, none).used
    }
}

/// The obvious model: of all messages, each origin's newest; and the greatest base.
fn newest(messages: &[Message]) -> (BTreeMap<Origin, &OriginUse>, Option<&Message>) {
    let mut origins: BTreeMap<Origin, &OriginUse> = BTreeMap::new();
    for message in messages {
        let known = origins.entry(message.origin).or_insert(&message.use_);
        if known.revision() < message.use_.revision() {
            *known = &message.use_;
        }
    }
    (origins, messages.iter().max_by(|a, b| a.base.cmp(&b.base)))
}

/// The level of the newest messages: windows as a list of events, buckets with what came late at the
/// base's instant.
fn model(messages: &[Message], algorithm: &Algorithm, now: UnixMs) -> Units {
    let (origins, base) = newest(messages);
    let base = base.and_then(|message| message.base.as_ref());
    let since = base.map_or(UnixMs::FIRST, super::super::Base::at);
    let mut events = Vec::new();
    for (origin, use_) in &origins {
        let (old, new): (Vec<SlotSum>, Vec<SlotSum>) = use_
            .slots()
            .iter()
            .copied()
            .partition(|slot| slot.start < since);
        let folded = use_.total().get() - new.iter().map(|slot| slot.sum.get()).sum::<i128>();
        let held = base.and_then(|base| base.included().get(origin));
        let late = folded - held.map_or(0, |held| held.get());
        if matches!(algorithm, Algorithm::Window(_)) {
            events.extend(
                old.iter()
                    .chain(&new)
                    .map(|slot| (slot.start, slot.sum.get())),
            );
        } else {
            events.push((since, late.max(0)));
            events.extend(new.iter().map(|slot| (slot.start, slot.sum.get())));
        }
    }
    let standing =
        |refill: Refill| base.map_or(0, |base| base.level() / i128::from(refill.every.ms()));
    let rest = |refill: Refill| base.map_or(0, |base| base.level() % i128::from(refill.every.ms()));
    events.sort_unstable();
    match algorithm {
        Algorithm::Window(_) => Units::new(Events(events).used(algorithm, now)),
        Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
            // The base's level is not a whole number of units: count in parts of one.
            let every = i128::from(refill.every.ms());
            let parts = Refill {
                amount: Units::new(refill.amount.get() * every),
                ..*refill
            };
            let mut all = vec![(since, standing(*refill) * every + rest(*refill))];
            all.extend(events.iter().map(|(at, units)| (*at, units * every)));
            let level = Events(all).bucket_level(parts, now) / every;
            Units::new((level + every - 1) / every)
        }
    }
}

proptest! {
    #[test]
    fn any_order_loss_and_repetition_ends_in_the_same_level_on_all_replicas(
        history in events(),
        algorithm in algorithms(),
        later in 0..100_000_i64,
    ) {
        let mut fleet = Fleet::new(limit(algorithm, 100));
        history.into_iter().for_each(|event| fleet.happen(event));
        fleet.redeliver();
        let now = at(fleet.now + later);
        let expected = model(&fleet.messages, &algorithm, now);
        let mut account = Account::default();
        fleet.messages.iter().for_each(|message| { account.merge(message.clone()); });
        prop_assert_eq!(account.level(&fleet.limit, now), expected, "the account");
        for replica in 0..REPLICAS {
            let exact = match algorithm {
                Algorithm::Window(_) => 0,
                Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => {
                    fleet.own[replica].used(&algorithm, now)
                }
            };
            let expected = expected.max(Units::new(exact));
            prop_assert_eq!(fleet.used(replica, now), expected, "replica {}", replica);
        }
    }

    #[test]
    fn an_account_is_the_same_whatever_the_order_of_its_messages(
        history in events(),
        algorithm in algorithms(),
        turn in any::<usize>(),
    ) {
        let mut fleet = Fleet::new(limit(algorithm, 100));
        history.into_iter().for_each(|event| fleet.happen(event));
        let merged = |messages: &mut dyn Iterator<Item = &Message>| {
            let mut account = Account::default();
            messages.for_each(|message| { account.merge(message.clone()); });
            account
        };
        let all = &fleet.messages;
        let start = turn.checked_rem(all.len()).unwrap_or(0);
        let forwards = merged(&mut all.iter());
        let backwards = merged(&mut all.iter().rev());
        let turned = merged(&mut all.iter().cycle().skip(start).take(2 * all.len()));
        prop_assert_eq!(&forwards, &backwards);
        prop_assert_eq!(&forwards, &turned);
    }

    #[test]
    fn no_use_of_a_bucket_is_lost_or_counted_twice(history in events()) {
        // It refills so slowly that all use stays: a unit takes a minute, and a charge is millions.
        let scale = 1_000_000;
        let mut fleet = Fleet::new(limit(bucket(1, 60_000), 100));
        let mut total: i128 = 0;
        let started = fleet.now;
        for event in history {
            fleet.happen(event);
            if let Event::Charges { replica, units, .. } = event {
                let moment = fleet.limit.moment(fleet.clock(replica));
                let more = i128::from(units) * scale;
                fleet.counters[replica].charge(&fleet.limit, moment, Units::new(more));
                total += i128::from(units) + more;
            }
        }
        fleet.redeliver();
        let now = at(fleet.now + 1_000);
        let refilled = i128::from(fleet.now + 2_000 - started) / 60_000 + 2;
        for replica in 0..REPLICAS {
            let used = fleet.used(replica, now).get();
            prop_assert!(used <= total, "{} of {} used on {}", used, total, replica);
            prop_assert!(used + refilled >= total, "{} of {} used on {}", used, total, replica);
        }
    }

    #[test]
    fn counters_follow_chains_openings_and_adjustments(
        history in proptest::collection::vec(
            (0..4_i32, 0..50_i64, proptest::collection::vec((0..200_i64, -30..90_i128), 0..70)),
            1..40,
        ),
        algorithm in windows(),
    ) {
        let limit = limit(algorithm, 100);
        let messages: Vec<_> = history.into_iter().map(|(chain, number, slots)| {
            let origin = match chain {
                0 => Origin::Opening,
                1 => Origin::Adjustment,
                _ => Origin::Chain(ChainId(chain)),
            };
            let start = |step: i64| algorithm.slots().slot_at(at(step * 1_000)).start();
            let slots = slots.into_iter().map(|(step, sum)| SlotSum {
                start: start(step),
                sum: Units::new(sum),
            });
            // A revision says one thing only.
            let number = number * 100 + i64::try_from(slots.len()).unwrap();
            let revision = Revision { epoch: 1, number };
            let use_ = OriginUse::new(revision, Units::ZERO, slots.collect());
            Message { origin, use_, base: None }
        }).collect();
        let mut counter = Counter::new(&limit, origin(0));
        let mut account = Account::default();
        for message in messages {
            counter.merge(&limit, message.clone());
            account.merge(message);
        }
        let now = at(200_000);
        let used = counter.check(&limit, limit.moment(now), Asked::Unknown).used;
        prop_assert_eq!(used, account.level(&limit, now));
    }
}
