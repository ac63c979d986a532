//! Who may fold a chain: fences, claims, and what is in force.

use std::thread;
use std::time::Duration;

use domain::hash::Hash128;
use domain::ids::{Epoch, Offset};
use domain::part::Skipped;
use sqlx::types::Uuid;
use store::batch::{Advanced, IdleAdvance};
use store::claim::{Fingerprint, claim};
use store::in_force::{Applied, apply_sources_at_start};
use store::{CommitError, StoreError};

use super::fixture::{Chain, World, requests};
use crate::harness::database::RUNTIME;
use crate::harness::runner::Test;
use crate::harness::wait;
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(a_former_owner_commits_nothing),
    test!(a_database_that_went_back_is_told_from_a_new_owner),
    test!(a_change_in_force_turns_the_batch_back),
    test!(a_former_owner_that_stands_still_is_ended),
    test!(a_claim_spares_its_own_process),
    test!(a_claim_returns_where_the_chain_stands),
    test!(claims_at_once_make_one_chain),
    test!(positions_move_over_markers),
    test!(a_batch_that_does_not_follow_is_refused),
];

pub(super) fn lost(outcome: Result<store::Committed, CommitError>) -> (usize, usize) {
    match outcome {
        Err(CommitError::Lost { fenced, rewound }) => (fenced.len(), rewound.len()),
        other => panic!("not lost: {other:?}"),
    }
}

fn a_former_owner_commits_nothing() {
    let world = World::new();
    let (mut first, mut second) = (world.writer(), world.writer());
    let (mut kept, mut taken) = (world.claim(0, &first), world.claim(1, &first));
    let sent = requests(0, 1);
    world
        .commit(&mut first.0, &mut [(&mut kept, &sent)])
        .unwrap();
    let mut theirs = world.claim(1, &second);
    assert!(theirs.claim.epoch > taken.claim.epoch, "the epoch grows");
    let sent = requests(1, 1);
    let outcome = world.commit(&mut first.0, &mut [(&mut kept, &sent), (&mut taken, &sent)]);
    assert_eq!(lost(outcome), (1, 0), "the partition that was taken");
    assert_eq!(world.requests(), 1, "nothing of the batch was written");
    world
        .commit(&mut first.0, &mut [(&mut kept, &sent)])
        .unwrap();
    world
        .commit(&mut second.0, &mut [(&mut theirs, &requests(2, 1))])
        .unwrap();
    let outcome = world.commit(&mut first.0, &mut [(&mut taken, &requests(3, 1))]);
    assert_eq!(lost(outcome), (1, 0), "still not its own");
    assert_eq!(world.requests(), 3, "the owners' batches");
}

fn a_database_that_went_back_is_told_from_a_new_owner() {
    let world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 5))])
        .unwrap();
    let cases = [
        "position = position - 1",
        "part = part - 1",
        "epoch = epoch - 1",
    ];
    for change in cases {
        let kept = world
            .sql
            .rows("select epoch, position, part from source_position")[0]
            .clone();
        world
            .sql
            .run(&format!("update source_position set {change}"));
        let outcome = world.commit(&mut writer.0, &mut [(&mut chain, &requests(10, 1))]);
        assert_eq!(lost(outcome), (0, 1), "{change}");
        let [epoch, position, part] = kept.as_slice() else {
            panic!("three columns")
        };
        let (epoch, position, part) = (
            epoch.as_ref().unwrap(),
            position.as_ref().unwrap(),
            part.as_ref().unwrap(),
        );
        world.sql.run(&format!(
            "update source_position set epoch = {epoch}, position = {position}, part = {part}"
        ));
    }
    assert_eq!(world.requests(), 5, "nothing was written");
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(10, 1))])
        .unwrap();
    // A restore takes the epoch back; the clock keeps the next one greater.
    let before = chain.claim.epoch;
    world.sql.run("update source_position set epoch = 7");
    let again = world.claim(0, &writer);
    assert!(
        again.claim.epoch > before,
        "{:?} after {before:?}",
        again.claim.epoch
    );
}

fn a_change_in_force_turns_the_batch_back() {
    let mut world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    let apply = |text: &str| {
        let hash = Hash128::of(text.as_bytes());
        RUNTIME
            .block_on(apply_sources_at_start(&world.ingest, text, hash))
            .unwrap()
    };
    assert_eq!(
        apply("[]"),
        Applied::AlreadyApplied,
        "a restart undoes nothing"
    );
    let Applied::Yes(version) = apply("[1]") else {
        panic!("a new set is applied")
    };
    assert_eq!(apply("[1]"), Applied::AlreadyApplied, "once");
    let outcome = world.commit(&mut writer.0, &mut [(&mut chain, &requests(0, 1))]);
    assert!(
        matches!(outcome, Err(CommitError::InForceChanged)),
        "{outcome:?}"
    );
    assert_eq!(world.requests(), 0, "nothing was written");
    world.versions.sources = version;
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 1))])
        .unwrap();

    // A change waits for the batches that hold what is in force, and new ones wait for it.
    let mut batch = world.sql.session();
    batch.run("begin; select from in_force for share");
    thread::scope(|scope| {
        let change = scope.spawn(|| {
            let hash = Hash128::of(b"[2]");
            RUNTIME.block_on(apply_sources_at_start(&world.ingest, "[2]", hash))
        });
        wait::until_true("the change waits", Duration::from_secs(5), || {
            world
                .sql
                .number("select count(*) from pg_locks where not granted")
                == 1
        });
        assert!(!change.is_finished(), "the change waits for the batch");
        let mut late = world.sql.session();
        late.run("set lock_timeout = '100ms'");
        let held = late.try_rows("begin; select from in_force for share");
        assert!(held.is_err(), "a later batch waits for the change");
        batch.run("commit");
        let applied = change.join().unwrap().unwrap();
        assert!(matches!(applied, Applied::Yes(_)), "{applied:?}");
    });
}

fn a_former_owner_that_stands_still_is_ended() {
    let world = World::new();
    let former = world.writer();
    let chain = world.claim(0, &former);
    // The former owner's session, in the middle of a batch, and its backend as it was stored.
    let mut stuck = world.sql.session();
    stuck.run("set idle_in_transaction_session_timeout = 0");
    stuck.run(
        "update source_position set owner_pid = pg_backend_pid(), owner_started = (
             select backend_start from pg_stat_activity where pid = pg_backend_pid())",
    );
    stuck.run("begin; select from source_position for update");
    let next = world.writer();
    let claimed = world.claim(0, &next);
    assert!(claimed.claim.epoch > chain.claim.epoch, "claimed");
    assert!(
        stuck.try_rows("select 1").is_err(),
        "the former owner's session is over"
    );

    // Another backend under the same process id is not the former owner: it is left alone.
    let mut stranger = world.sql.session();
    stranger.run(
        "update source_position set owner_pid = pg_backend_pid(), owner_started = now() - interval '1 day'",
    );
    stranger.run("begin; select from source_position for update");
    thread::scope(|scope| {
        let claiming = scope.spawn(|| world.claim(0, &former));
        wait_for_a_claim(&world);
        stranger.run("select 1; commit");
        claiming.join().unwrap();
    });
}

/// A claim waits for locks in tries of 300 ms: sees it wait twice, so that it had time to end what
/// it would end.
fn wait_for_a_claim(world: &World) {
    let tries = || {
        world.sql.number(
            "select count(*) from pg_stat_activity where application_name = 'tollbook-ingest'
                 and wait_event_type = 'Lock' and datname = current_database()",
        )
    };
    for expected in [1, 0, 1] {
        wait::until_true("the claim tries", Duration::from_secs(5), || {
            tries() == expected
        });
    }
}

fn a_claim_spares_its_own_process() {
    let world = World::new();
    let ours = world.writer();
    world.claim(0, &ours);
    let mut own = world.sql.session();
    let pid: i64 = {
        let rows = own.try_rows("select pg_backend_pid()").unwrap();
        rows[0][0].as_ref().unwrap().parse().unwrap()
    };
    own.run("begin; select from source_position for update");
    let started = world.sql.value(&format!(
        "select (extract(epoch from backend_start) * 1000000)::bigint from pg_stat_activity
         where pid = {pid}"
    ));
    let started =
        sqlx::types::chrono::DateTime::from_timestamp_micros(started.parse().unwrap()).unwrap();
    let backend = store::Backend {
        pid: i32::try_from(pid).unwrap(),
        started,
    };
    thread::scope(|scope| {
        let mut request = world.request(0, &ours.0, Uuid::now_v7());
        request.backend = Some(backend);
        let claiming = scope.spawn({
            let ingest = world.ingest.clone();
            move || RUNTIME.block_on(claim(&ingest, &request))
        });
        wait_for_a_claim(&world);
        own.run("select 1; commit");
        claiming.join().unwrap().unwrap();
    });
    let stored = world.sql.number("select owner_pid from source_position");
    assert_eq!(stored, pid, "the claim stored its process's backend");
}

fn a_claim_returns_where_the_chain_stands() {
    let world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(3, &writer);
    assert_eq!(chain.claim.position, None, "not begun");
    assert_eq!(chain.claim.floor, None, "a new source has no floor");
    let mut batch = world.batch(&[(&chain, &requests(0, 4))]);
    let tail = Fingerprint {
        offset: Offset(3),
        hash: Hash128::of(b"tail"),
    };
    let anchor = Fingerprint {
        offset: Offset(1),
        hash: Hash128::of(b"anchor"),
    };
    batch.parts[0].tail = Some(tail);
    batch.parts[0].anchor = Some(anchor);
    let committed = RUNTIME.block_on(writer.0.commit(batch)).unwrap();
    chain.follow(&committed, 0, Offset(4));
    let floor = RUNTIME.block_on(async {
        let now = store::watermark::clock(&world.ingest).await?;
        store::watermark::advance(&world.ingest, world.source, now, 1000).await
    });
    let other = world.writer();
    let found = world.claim(3, &other).claim;
    assert_eq!(found.chain, chain.claim.chain, "the same chain");
    assert_eq!(found.position, Some(Offset(4)), "position");
    assert_eq!(found.part_end, Some(Offset(4)), "end of the last part");
    assert_eq!(found.last_part, chain.claim.last_part, "number");
    assert_eq!(found.last_hash, chain.claim.last_hash, "hash");
    assert_eq!(
        (found.tail, found.anchor),
        (Some(tail), Some(anchor)),
        "fingerprints"
    );
    assert_eq!(found.floor, Some(floor.unwrap()), "floor");
    let positions = RUNTIME.block_on(store::watermark::positions(&world.ingest, world.source));
    let positions = positions.unwrap();
    assert_eq!(positions.len(), 1, "one chain");
    assert_eq!(
        (positions[0].partition, positions[0].position),
        (3, Some(Offset(4))),
        "it stands"
    );
}

fn claims_at_once_make_one_chain() {
    let world = World::new();
    let epochs: Vec<i64> = thread::scope(|scope| {
        let claims: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| world.claim(0, &world.writer()).claim.epoch.0))
            .collect();
        claims
            .into_iter()
            .map(|claim| claim.join().unwrap())
            .collect()
    });
    let mut distinct = epochs.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 4, "an epoch each: {epochs:?}");
    assert_eq!(
        world.sql.number("select count(*) from chain"),
        1,
        "one chain"
    );
    let stored = world.sql.number("select epoch from source_position");
    assert_eq!(Some(&stored), distinct.last(), "the greatest stands");
}

fn positions_move_over_markers() {
    let world = World::new();
    let mut writer = world.writer();
    let (fresh, mut chain) = (world.claim(0, &writer), world.claim(1, &writer));
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 5))])
        .unwrap();
    let step = |chain: &Chain, from: Option<i64>, to: i64| IdleAdvance {
        chain: chain.claim.chain,
        epoch: chain.claim.epoch,
        from: from.map(Offset),
        to: Offset(to),
    };
    let steps = [step(&fresh, None, 7), step(&chain, Some(4), 9)];
    let mut advance = |steps: &[IdleAdvance]| RUNTIME.block_on(writer.0.advance(steps)).unwrap();
    let elsewhere = advance(&steps);
    assert_eq!(
        elsewhere.rewound,
        [chain.claim.chain],
        "the one that stands elsewhere"
    );
    assert_eq!(elsewhere.fenced, [], "nobody else claimed");
    assert_eq!(
        advance(&[step(&chain, Some(5), 9)]),
        Advanced::default(),
        "moved"
    );
    let stale = IdleAdvance {
        epoch: Epoch(chain.claim.epoch.0 - 1),
        ..step(&chain, Some(9), 11)
    };
    assert_eq!(
        advance(&[stale]).fenced,
        [chain.claim.chain],
        "a former owner's"
    );
    let stored = world
        .sql
        .rows("select position, part_end from source_position order by chain");
    let stored: Vec<&str> = stored
        .iter()
        .flatten()
        .flatten()
        .map(String::as_str)
        .collect();
    assert_eq!(
        stored,
        ["7", "-1", "9", "5"],
        "positions move, parts do not"
    );
    // The next part covers the markers.
    chain.claim.position = Some(Offset(9));
    let sent = requests(5, 1);
    world
        .commit(&mut writer.0, &mut [(&mut chain, &sent)])
        .unwrap();
    let covered = "select from_offset || ' ' || to_offset from part where number = 2";
    assert_eq!(world.sql.value(covered), "5 10", "ranges tile");
}

fn a_batch_that_does_not_follow_is_refused() {
    let world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 5))])
        .unwrap();
    type Spoil = fn(&mut store::BatchWrite);
    let cases: [(&str, Spoil); 4] = [
        ("a hole before the part", |batch| {
            batch.parts[0].from = Offset(6);
        }),
        ("the position goes back", |batch| {
            batch.parts[0].to = Offset(4);
        }),
        ("a part is not described", |batch| batch.parts.clear()),
        ("a gap that ends elsewhere", |batch| {
            batch.parts[0].skipped = Some(Skipped {
                from: Offset(5),
                to: Offset(8),
            });
        }),
    ];
    for (name, spoil) in cases {
        let mut batch = world.batch(&[(&chain, &requests(5, 2))]);
        spoil(&mut batch);
        let outcome = RUNTIME.block_on(writer.0.commit(batch));
        let is_refused = matches!(outcome, Err(CommitError::Failed(StoreError::Corrupt(_))));
        assert!(is_refused, "{name}: {outcome:?}");
    }
    assert_eq!(world.requests(), 5, "nothing was written");
}
