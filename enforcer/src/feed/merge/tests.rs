//! What is told, in any order, twice or in part, against an account of the same messages.

use std::collections::VecDeque;

use domain::account::{Account, OriginUse, Revision, SlotSum};
use domain::hash::Hash128;
use domain::ids::{ChainId, PartNumber};
use domain::limit::LimitSpec;
use domain::policy::files::{PolicyFile, compile_files};
use domain::units::Units;
use proptest::prelude::*;

use super::*;
use crate::counters::{Counted, Named, Verdicts};
use crate::engine::PoliciesInForce;

const OWN: ReplicaId = ReplicaId(1);

const POLICIES: &str = "
name: test
limits:
  - { name: calls, meter: requests, limit: 1000, per: [app], window: { fixed: 60s } }
  - { name: tokens, meter: total_tokens, limit: 1000, per: [app], window: { sliding: 60s }, from: log }
  - { name: pace, meter: requests, limit: 10, per: [app], algorithm: token_bucket, refill: { every: 1s, amount: 10 }, capacity: 500 }
";

/// Tells what a test wrote down, one batch a call.
struct Script(VecDeque<Vec<Told>>);

impl BalanceFeed for Script {
    async fn next(&mut self, told: &mut Vec<Told>) {
        if let Some(batch) = self.0.pop_front() {
            told.extend(batch);
        }
    }
}

fn engine() -> Arc<Engine> {
    Arc::new(Engine::new(OWN, 8))
}

fn policies() -> PoliciesInForce {
    let files = [PolicyFile::new("test.yaml", POLICIES.to_owned())];
    let set = compile_files(&files).expect("the test's policies are right");
    PoliciesInForce {
        set,
        ..PoliciesInForce::default()
    }
}

/// The limits in the order of the file.
fn limits() -> Vec<(LimitId, LimitSpec)> {
    let policies = policies();
    let limits = policies.set.limits();
    limits.map(|(id, _, _, limit)| (id, limit.spec)).collect()
}

fn at(ms: i64) -> UnixMs {
    UnixMs::new(1_000_000_000_000 + ms).expect("an instant of 2001")
}

fn key(number: u8) -> CounterKey {
    CounterKey(Hash128::from_bytes([number; 16]))
}

fn level(
    engine: &Engine,
    (id, limit): &(LimitId, LimitSpec),
    key: CounterKey,
    now: UnixMs,
) -> Units {
    let counted = Counted {
        limit,
        id: *id,
        key: Named::Key(key),
        moment: limit.moment(now),
        asked: domain::decision::Asked::Units(Units::ZERO),
        charge: Units::ZERO,
    };
    let mut verdicts = Verdicts::new();
    engine.counters().evaluate(&[counted], &mut verdicts);
    verdicts.first().expect("one was asked for").used
}

fn play(merger: &Merger, batches: Vec<Vec<Told>>, now: UnixMs) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut script = Script(batches.into());
    runtime.block_on(async {
        let mut told = Vec::new();
        while !script.0.is_empty() {
            script.next(&mut told).await;
            merger.take(&mut told, now);
        }
    });
}

/// The same origin's use as it grows: each message holds all before it.
fn messages(origin: Origin, charges: &[(i64, u16)]) -> Vec<Message> {
    let mut slots: Vec<SlotSum> = Vec::new();
    let mut total = Units::ZERO;
    let mut messages = Vec::new();
    for (number, (second, units)) in (1..).zip(charges) {
        let (start, units) = (at(second * 1_000), Units::new(i128::from(*units)));
        total = total.saturating_add(units);
        match slots.iter_mut().find(|slot| slot.start == start) {
            Some(slot) => slot.sum = slot.sum.saturating_add(units),
            None => slots.push(SlotSum { start, sum: units }),
        }
        let revision = Revision { epoch: 1, number };
        messages.push(Message {
            origin,
            use_: OriginUse::new(revision, total, slots.clone()),
            base: None,
        });
    }
    messages
}

fn origins() -> impl Strategy<Value = Vec<Vec<(i64, u16)>>> {
    let charges = prop::collection::vec((0_i64..40, 1_u16..50), 1..8);
    prop::collection::vec(charges, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Loss of all but the newest, repetition and any order end in the level of an account that took
    /// each newest message once.
    #[test]
    fn any_order_repetition_and_loss_end_alike(
        charges in origins(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..40),
        is_logged: bool,
    ) {
        let engine = engine();
        engine.swap(policies());
        let merger = Merger::new(Arc::clone(&engine), OWN);
        let limit = limits()[usize::from(is_logged)];
        let origin = |index: usize| match is_logged {
            true => Origin::Chain(ChainId(i32::try_from(index).unwrap())),
            false => Origin::Replica(ReplicaId(u64::try_from(index).unwrap() + 2)),
        };
        // Use of a window lies in its slot, as whoever charges has it.
        let slot_of = |second: i64| match is_logged {
            true => second,
            false => {
                let slot = limit.1.moment(at(second * 1_000)).slot;
                (slot.start().get() - at(0).get()) / 1_000
            }
        };
        let all: Vec<Vec<Message>> = (0..)
            .zip(&charges)
            .map(|(index, charges)| {
                let charges = charges.iter().map(|(second, units)| (slot_of(*second), *units));
                messages(origin(index), &charges.collect::<Vec<_>>())
            })
            .collect();
        let every: Vec<&Message> = all.iter().flatten().collect();
        let mut sent: Vec<Message> = Vec::new();
        for (pick, is_dropped) in picks {
            if !is_dropped {
                sent.push((*pick.get(&every)).clone());
            }
        }
        let mut account = Account::default();
        for newest in all.iter().filter_map(|messages| messages.last()) {
            account.merge(newest.clone());
            sent.insert(sent.len() / 2, newest.clone());
        }
        let told = sent.into_iter().map(|message| {
            vec![Told::Use(Use { limit: limit.0, counter: key(1), message })]
        });
        let now = at(45_000);
        play(&merger, told.collect(), now);
        let expected = account.level(&limit.1, now);
        prop_assert_eq!(level(&engine, &limit, key(1), now), expected);
    }

    /// What was written to a log is told as it was, and any other bytes are refused.
    #[test]
    fn records_are_told_or_refused(key in any::<Vec<u8>>(), value in any::<Option<Vec<u8>>>()) {
        let told = told_by_record(0, Some(&key), value.as_deref());
        let is_readable = BalanceKey::from_bytes(&key).is_ok();
        prop_assert_eq!(matches!(told, Told::Refused(_)), !is_readable || told == Told::Refused(FeedError::Malformed));
        let mut told = Vec::new();
        tell_frame(0, value.as_deref(), OWN, &mut told);
        prop_assert!(!told.is_empty());
    }
}

fn use_of(limit: LimitId, message: Message) -> Told {
    Told::Use(Use {
        limit,
        counter: key(1),
        message,
    })
}

#[test]
fn what_came_before_its_limit_is_kept_for_it() {
    let engine = engine();
    let merger = Merger::new(Arc::clone(&engine), OWN);
    let limit = limits()[0];
    let peer = Origin::Replica(ReplicaId(2));
    let now = at(5_000);
    let told = messages(peer, &[(1, 7), (2, 8)]);
    let told = told
        .into_iter()
        .rev()
        .map(|message| use_of(limit.0, message));
    play(&merger, vec![told.collect()], now);
    assert_eq!(
        level(&engine, &limit, key(1), now),
        Units::ZERO,
        "no such limit"
    );
    engine.swap(policies());
    merger.limits_changed(now);
    assert_eq!(
        level(&engine, &limit, key(1), now),
        Units::ZERO,
        "slots of seconds are no minutes"
    );
    let minute = at(0).get() / 60_000 * 60_000 - at(0).get();
    let message = messages(
        peer,
        &[
            (minute / 1_000, 9),
            (minute / 1_000, 0),
            (minute / 1_000, 0),
        ],
    );
    play(
        &merger,
        vec![
            message
                .into_iter()
                .map(|message| use_of(limit.0, message))
                .collect(),
        ],
        now,
    );
    assert_eq!(
        level(&engine, &limit, key(1), now),
        Units::new(9),
        "the newest revision"
    );
}

#[test]
fn origins_count_only_for_the_limits_that_they_may() {
    let engine = engine();
    engine.swap(policies());
    let merger = Merger::new(Arc::clone(&engine), OWN);
    let [calls, tokens, _] = limits()[..] else {
        panic!("the policy has three limits");
    };
    let now = at(5_000);
    let start = calls.1.moment(now).slot.start().get() - at(0).get();
    for (limit, origin, expected) in [
        (calls, Origin::Chain(ChainId(1)), 0),
        (calls, Origin::Opening, 0),
        (tokens, Origin::Replica(ReplicaId(2)), 0),
        (tokens, Origin::Adjustment, 4),
        (calls, Origin::Replica(ReplicaId(2)), 4),
    ] {
        let mut messages = messages(origin, &[(0, 4)]);
        if limit == calls {
            let slot = SlotSum {
                start: at(start),
                sum: Units::new(4),
            };
            let revision = messages[0].use_.revision();
            messages[0].use_ = OriginUse::new(revision, Units::new(4), vec![slot]);
        }
        let told = messages.into_iter().map(|message| use_of(limit.0, message));
        play(&merger, vec![told.collect()], now);
        let found = level(&engine, &limit, key(1), now);
        assert_eq!(found, Units::new(expected), "{origin:?}");
    }
}

#[test]
fn a_frame_tells_of_its_sender_alone() {
    let (peer, third) = (ReplicaId(2), ReplicaId(3));
    let limit = limits()[0].0;
    let entry = |replica| domain::feed::Entry {
        limit,
        counter: key(1),
        message: messages(Origin::Replica(replica), &[(0, 4)]).remove(0),
    };
    let frame = Frame {
        replica: peer,
        at: at(0),
        entries: vec![entry(peer), entry(third)],
    };
    let mut told = Vec::new();
    tell_frame(0, Some(&frame.to_bytes()), OWN, &mut told);
    let heard = Told::Heard(0, peer, at(0));
    let used = use_of(limit, entry(peer).message);
    let refused = Told::Refused(FeedError::Malformed);
    assert_eq!(told, [heard, used, refused], "the third is not its to tell");
    told.clear();
    tell_frame(0, Some(&frame.to_bytes()), peer, &mut told);
    assert_eq!(
        told,
        [Told::Heard(0, peer, at(0))],
        "own frames only come back"
    );
}

#[test]
fn the_exchange_is_known_as_of_the_oldest_own_frame_that_came_back() {
    let engine = engine();
    let merger = Merger::new(Arc::clone(&engine), OWN);
    let exchange = || engine.sources().as_of(Source::Exchange);
    let heard = |partition, replica, ms| Told::Heard(partition, replica, at(ms));
    play(&merger, vec![vec![Told::ExchangeBegins(2)]], at(9));
    play(
        &merger,
        vec![vec![heard(0, OWN, 5), heard(1, ReplicaId(2), 5)]],
        at(9),
    );
    assert_eq!(exchange(), None, "a peer's frame says nothing of ours");
    play(
        &merger,
        vec![vec![heard(1, OWN, 3), heard(1, OWN, 2)]],
        at(9),
    );
    assert_eq!(
        exchange(),
        Some(at(3)),
        "the later of one, the least of both"
    );
}

#[test]
fn marks_and_snapshots_say_as_of_when_the_log_is_counted() {
    let engine = engine();
    let merger = Merger::new(Arc::clone(&engine), OWN);
    let feed = || engine.sources().as_of(Source::Feed);
    play(&merger, vec![vec![Told::Begins(1)]], at(0));
    let mark = Mark {
        chain: ChainId(4),
        epoch: 1,
        part: PartNumber(7),
        watermark: Some(at(900)),
        at: at(950),
        is_last: false,
    };
    let key = BalanceKey::Mark(mark.chain).to_bytes();
    let value = Balance::Mark(mark).to_bytes();
    let told = told_by_record(0, Some(&key), Some(&value));
    play(&merger, vec![vec![told]], at(1_000));
    assert_eq!(feed(), None, "what was told before is not known");
    let standing = Standing {
        chain: mark.chain,
        watermark: Some(at(500)),
        is_live: true,
    };
    let snapshot = Told::Snapshot(merger.beginning(), vec![standing], at(600));
    play(&merger, vec![vec![snapshot]], at(1_000));
    assert_eq!(feed(), Some(at(900)), "now nothing is missing");
    assert!(merger.is_marked_since(at(900)), "the feed tells");
    let other = BalanceKey::Mark(ChainId(5)).to_bytes();
    let told = told_by_record(0, Some(&other), Some(&value));
    assert_eq!(told, Told::Refused(FeedError::Malformed), "not its key");
}
