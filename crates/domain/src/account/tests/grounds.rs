//! Grounds: a counter that is made of them says what the one they were taken of said.

use proptest::prelude::*;

use super::convergence::{Event, Fleet, REPLICAS, events};
use super::models::{OWN, algorithms, at, calendar, limit, sliding};
use crate::account::{
    Counter, Message, ORIGINS_MAX, Origin, OriginUse, Revision, SlotSum, Unnamed,
};
use crate::decision::Asked;
use crate::ids::ChainId;
use crate::limit::Algorithm;
use crate::units::Units;
use crate::window::Period;

proptest! {
    #[test]
    fn a_verdict_is_worked_out_again_from_its_grounds(
        events in events(),
        algorithm in algorithms(),
        capacity in 0..200_i128,
        asked in 0..20_i128,
    ) {
        let limit = limit(algorithm, capacity);
        let mut fleet = Fleet::new(limit);
        let asked = Asked::Units(Units::new(asked));
        for event in events {
            fleet.happen(event);
            let (Event::Charges { replica, .. } | Event::Arrives { replica, .. }) = event else {
                continue;
            };
            let moment = limit.moment(fleet.clock(replica % REPLICAS));
            let counter = &mut fleet.counters[replica % REPLICAS];
            let verdict = counter.check(&limit, moment, asked);
            let grounds = counter.grounds(&limit, moment);
            let again = Counter::from_grounds(&limit, &grounds).check(&limit, moment, asked);
            prop_assert_eq!(again, verdict, "{:?}", grounds);
            if matches!(algorithm, Algorithm::Window(_)) {
                prop_assert_eq!(grounds.sum(), verdict.used, "{:?}", grounds);
                prop_assert!(grounds.levels.is_none(), "windows have none");
            }
        }
    }
}

fn told(chain: i32, part: i64, slots: &[(i64, i128)]) -> Message {
    let slots = slots.iter().map(|(ms, sum)| SlotSum {
        start: at(*ms),
        sum: Units::new(*sum),
    });
    let revision = Revision {
        epoch: 3,
        number: part,
    };
    Message {
        origin: Origin::Chain(ChainId(chain)),
        use_: OriginUse::new(revision, Units::ZERO, slots.collect()),
        base: None,
    }
}

proptest! {
    #[test]
    fn grounds_that_hold_give_the_verdict_of_a_later_moment(
        events in events(),
        algorithm in algorithms(),
        capacity in 0..200_i128,
        laters in proptest::collection::vec(-2_000..200_000_i64, 1..20),
    ) {
        let limit = limit(algorithm, capacity);
        let mut fleet = Fleet::new(limit);
        events.into_iter().for_each(|event| fleet.happen(event));
        let now = fleet.clock(0);
        let counter = &mut fleet.counters[0];
        let taken = limit.moment(now);
        let grounds = counter.grounds(&limit, taken);
        for later in laters {
            let moment = limit.moment(now.saturating_add_ms(later));
            if grounds.hold(&limit, taken, moment) {
                prop_assert!(later >= 0, "a clock that is set back");
                let verdict = counter.check(&limit, moment, Asked::Unknown);
                let mut again = Counter::from_grounds(&limit, &grounds);
                let again = again.check(&limit, moment, Asked::Unknown);
                prop_assert_eq!(again, verdict, "{:?} after {}", &grounds, later);
                prop_assert_eq!(&counter.grounds(&limit, moment), &grounds, "the same");
            }
        }
    }
}

#[test]
fn only_what_counts_is_told_with_who_counted_it() {
    let day = limit(calendar(Period::Day), 10);
    let moment = day.moment(at(0));
    let start = moment.slot.start();
    let slot = |sum| SlotSum {
        start,
        sum: Units::new(sum),
    };
    let mut counter = Counter::new(&day, OWN);
    for (chain, sum) in [(2, 7), (1, -3)] {
        let mut message = told(chain, 9, &[(-200_000_000, 40)]);
        let mut slots = message.use_.slots().to_vec();
        slots.push(slot(sum));
        message.use_ = OriginUse::new(message.use_.revision(), Units::ZERO, slots);
        counter.merge(&day, message);
    }
    let grounds = counter.grounds(&day, moment);
    assert_eq!(grounds.slots, [slot(4)], "of yesterday nothing counts");
    let origins: Vec<_> = grounds
        .origins
        .iter()
        .map(|origin| {
            (
                origin.origin,
                origin.revision.unwrap().number,
                origin.sum.get(),
            )
        })
        .collect();
    let chain = |id| Origin::Chain(ChainId(id));
    assert_eq!(origins, [(chain(1), 9, -3), (chain(2), 9, 7)], "ascending");
    let unused = Counter::new(&day, OWN).grounds(&day, moment);
    assert_eq!(unused, super::super::Grounds::default(), "nothing yet");
}

#[test]
fn many_origins_are_bounded_and_nothing_is_lost() {
    let window = limit(sliding(60_000), 10);
    let mut counter = Counter::new(&window, OWN);
    let chains = i32::try_from(ORIGINS_MAX).unwrap() + 5;
    for chain in 1..=chains {
        counter.merge(&window, told(chain, 1, &[(-1_000, chain.into())]));
    }
    let moment = window.moment(at(0));
    let grounds = counter.grounds(&window, moment);
    assert_eq!(grounds.origins.len(), ORIGINS_MAX, "bounded");
    let unnamed = Unnamed {
        origins: 5,
        sum: Units::new(1 + 2 + 3 + 4 + 5),
    };
    assert_eq!(grounds.unnamed, Some(unnamed), "those who counted least");
    let verdict = counter.check(&window, moment, Asked::Unknown);
    assert_eq!(grounds.sum(), verdict.used, "all of it");
}
