//! Gaps: a chain stops until somebody accepts what was lost.

use domain::ids::Offset;
use domain::part::Skipped;
use store::gap::{self, Accepted, ChainState, GapCause, NewGap, Recorded};

use super::fixture::{Chain, World, requests};
use super::owners::lost;
use crate::harness::database::RUNTIME;
use crate::harness::runner::Test;
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(a_gap_stops_its_chain_until_it_is_accepted),
    test!(an_accepted_re_creation_begins_the_next_incarnation),
];

fn gap_of(chain: &Chain, cause: GapCause, log_start: i64) -> NewGap {
    NewGap {
        chain: chain.claim.chain,
        epoch: chain.claim.epoch,
        cause,
        position: Offset(chain.position()),
        log_start: Offset(log_start),
        log_end: Offset(log_start + 100),
        doubtful: None,
        detail: "found by a test".to_owned(),
    }
}

fn record(world: &World, gap: &NewGap) -> Recorded {
    RUNTIME.block_on(gap::record(&world.ingest, gap)).unwrap()
}

fn stopped_by(recorded: Recorded) -> i64 {
    match recorded {
        Recorded::Stopped(id) => id,
        Recorded::Lost => panic!("the chain has no other owner"),
    }
}

fn accept(world: &World, id: i64) -> Accepted {
    RUNTIME
        .block_on(gap::accept(&world.ingest, id, "ann"))
        .unwrap()
}

fn state(world: &World, chain: &Chain) -> ChainState {
    let states = RUNTIME.block_on(gap::state(&world.ingest, &[chain.claim.chain]));
    states.unwrap()[0].1
}

fn a_gap_stops_its_chain_until_it_is_accepted() {
    let world = World::new();
    let mut writer = world.writer();
    let stale = world.claim(0, &writer);
    let mut chain = world.claim(0, &writer);
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 5))])
        .unwrap();
    let truncated = gap_of(&chain, GapCause::Truncated, 40);
    let not_ours = record(&world, &gap_of(&stale, GapCause::Truncated, 40));
    assert_eq!(not_ours, Recorded::Lost, "not the owner");
    let id = stopped_by(record(&world, &truncated));
    assert_eq!(
        stopped_by(record(&world, &truncated)),
        id,
        "found again, the same gap"
    );
    let outcome = world.commit(&mut writer.0, &mut [(&mut chain, &requests(5, 1))]);
    assert_eq!(lost(outcome), (0, 1), "a stopped chain takes nothing");
    let stopped = world.claim(0, &writer).claim;
    assert!(
        stopped.stopped && stopped.accepted_gap.is_none(),
        "{stopped:?}"
    );
    assert_eq!(stopped.epoch, chain.claim.epoch, "not claimed");
    assert_eq!(state(&world, &chain), ChainState::Stopped, "stopped");

    assert_eq!(accept(&world, id), Accepted::Now, "accepted");
    assert_eq!(accept(&world, id), Accepted::Before, "once");
    assert_eq!(accept(&world, id + 1), Accepted::Unknown, "no such gap");
    let gaps = RUNTIME.block_on(gap::list(&world.ingest)).unwrap();
    assert_eq!(gaps.len(), 1, "one gap");
    assert_eq!(
        gaps[0].accepted.as_ref().map(|(_, by)| by.as_str()),
        Some("ann"),
        "by whom"
    );
    let chain = world.claim(0, &writer);
    let accepted = chain.claim.accepted_gap.unwrap();
    assert_eq!(
        (accepted.position, accepted.log_start),
        (Offset(5), Offset(40)),
        "to be named"
    );
    let mut batch = world.batch(&[(&chain, &requests(5, 1))]);
    batch.parts[0].skipped = Some(Skipped {
        from: Offset(5),
        to: Offset(40),
    });
    batch.parts[0].from = Offset(40);
    batch.parts[0].to = Offset(41);
    RUNTIME.block_on(writer.0.commit(batch)).unwrap();
    let named = world.claim(0, &writer);
    assert_eq!(named.claim.accepted_gap, None, "named by the part");
    assert_eq!(named.claim.position, Some(Offset(41)), "the chain goes on");
}

fn an_accepted_re_creation_begins_the_next_incarnation() {
    let world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 5))])
        .unwrap();
    let id = stopped_by(record(&world, &gap_of(&chain, GapCause::Recreated, 0)));
    assert_eq!(accept(&world, id), Accepted::Now, "accepted");
    assert_eq!(state(&world, &chain), ChainState::Ended, "ended");
    let outcome = world.commit(&mut writer.0, &mut [(&mut chain, &requests(9, 1))]);
    assert_eq!(lost(outcome), (0, 1), "an ended chain takes nothing");
    let mut next = world.claim(0, &writer);
    assert_ne!(next.claim.chain, chain.claim.chain, "another chain");
    assert_eq!(next.claim.position, None, "from its beginning");
    assert_eq!(next.claim.incarnation, 2, "the next incarnation");
    assert_eq!(
        world.claim(0, &writer).claim.chain,
        next.claim.chain,
        "and no third"
    );
    next.claim.epoch = world.claim(0, &writer).claim.epoch;
    // What was folded from the old log is not counted again from the new one.
    let sent = requests(3, 4);
    let counts = world
        .commit(&mut writer.0, &mut [(&mut next, &sent)])
        .unwrap()
        .counts;
    assert_eq!(
        (counts[0].accepted, counts[0].duplicates),
        (2, 2),
        "ids outlive their log"
    );
}
