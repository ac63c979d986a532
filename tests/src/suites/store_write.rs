//! The write side of the store: batches, ids, fences, and what Postgres itself refuses.

mod fixture;
mod gaps;
mod guards;
mod owners;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use domain::ids::Offset;
use domain::price::PriceBook;
use store::audit::HeldOnce;
use store::batch::{Committed, ResolvePart, Writer};
use store::{CommitError, Resolved};

use crate::harness::database::RUNTIME;
use crate::harness::postgres::Postgres;
use crate::harness::proxy::{Lost, Proxy};
use crate::harness::runner::Test;
use crate::harness::wait;
use crate::test;
use fixture::{Chain, IDS, MORNING, Request, World, requests};

const DAY: i64 = 24 * 60 * 60 * 1000;

/// Returns this suite's tests.
pub(super) fn tests() -> Vec<Test> {
    [TESTS, gaps::TESTS, guards::TESTS, owners::TESTS].concat()
}

const TESTS: &[Test] = &[
    test!(a_batch_is_stored_as_it_was_folded),
    test!(amounts_arrive_to_the_last_digit),
    test!(an_id_counts_once_within_and_across_batches,),
    test!(two_writers_with_the_same_ids_count_each_once, "D6", "D8"),
    test!(a_batch_that_is_overtaken_is_folded_again, "D6"),
    test!(a_batch_of_two_sources_is_overtaken_whole),
    test!(a_day_is_made_beside_a_batch_under_way),
    test!(ids_are_packed_into_rows_of_one_part_and_stretch),
    test!(ids_of_before_they_were_packed_are_kept),
    test!(a_lost_answer_to_commit_is_read_back),
    test!(a_broken_connection_writes_nothing_and_is_replaced),
    test!(rows_find_their_partitions, "D9"),
];

fn a_batch_is_stored_as_it_was_folded() {
    let world = World::new();
    let mut writer = world.writer();
    let (mut one, mut two) = (world.claim(0, &writer), world.claim(1, &writer));
    let later = Request::of("c").by("beta").at(MORNING + DAY);
    let first = [
        Request::of("a").by("alpha"),
        Request::of("b").by("alpha"),
        later,
    ];
    let second = [Request::of("d").by("alpha")];
    let parts = &mut [(&mut one, &first[..]), (&mut two, &second[..])];
    let committed = world.commit(&mut writer.0, parts).unwrap();
    assert_eq!(committed.counts[0].accepted, 3, "three accepted");
    let (a, b) = (one.id(), two.id());
    let expected = [
        format!("{a} 1 alpha 2027-03-01 10:00:00 2 20 t gpt-4o"),
        format!("{a} 1 beta 2027-03-02 10:00:00 1 10 t gpt-4o"),
        format!("{b} 1 alpha 2027-03-01 10:00:00 1 10 t gpt-4o"),
    ];
    assert_eq!(journal(&world), expected, "the journal");
    for (index, chain) in [&one, &two].into_iter().enumerate() {
        let (part, hash) = committed.heads[index];
        let (end, records) = (chain.position(), committed.counts[index].records);
        let expected = format!(
            "{hash} {} {end} {} {end} {records}",
            committed.batch, part.number.0
        );
        let stored = format!(
            "select concat_ws(' ', encode(p.hash, 'hex'), p.batch, s.position, s.part, s.part_end,
                 p.records)
             from part p join source_position s on s.chain = p.chain and s.part = p.number
             where p.chain = {}",
            chain.id()
        );
        assert_eq!(
            world.sql.value(&stored),
            expected,
            "the part of {}",
            chain.id()
        );
    }
    // What is known to be stored is not sent again, and the chain goes on.
    let more = [Request::of("e").by("alpha")];
    world
        .commit(&mut writer.0, &mut [(&mut one, &more)])
        .unwrap();
    let links = "select count(*) from part p join part q on q.chain = p.chain
         and q.number = p.number + 1 and q.previous_hash = p.hash";
    assert_eq!(
        world.sql.number(links),
        1,
        "the second part names the first"
    );
    assert_eq!(
        world.sql.number("select count(*) from series"),
        2,
        "two series"
    );
    assert_eq!(world.requests(), 5, "five requests");
}

/// Returns each posting: chain, part, app, quarter, requests, tokens, whether the amount is the
/// tokens times the rate, model.
fn journal(world: &World) -> Vec<String> {
    let rows = world.sql.rows(
        "select concat_ws(' ', p.chain, p.part, s.app, p.quarter at time zone 'UTC', p.requests,
             p.input_uncached_tokens, p.amount = p.input_uncached_tokens * r.input_uncached_tokens,
             r.priced_model)
         from posting p join series s on s.key = p.series join rate_set r on r.key = p.rate_set
         order by p.chain, s.app",
    );
    rows.into_iter().flatten().flatten().collect()
}

/// A rate travels as text, an amount of one token as binary: both must be the same number.
fn amounts_arrive_to_the_last_digit() {
    let mut state: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C834;
    let mut rates: Vec<String> = (0..=18)
        .map(|zeros| format!("0.{}1", "0".repeat(zeros.min(17))))
        .collect();
    rates.extend((0..20).map(|zeros| format!("1{}", "0".repeat(zeros))));
    rates.push(format!("{}.{}", "9".repeat(20), "9".repeat(18)));
    rates.push("0".to_owned());
    for digits in 0..400_u32 {
        state = state.wrapping_mul(0xDA94_2042_E4DD_58B5).wrapping_add(1);
        let units = (state >> 3) % 10_u128.pow(1 + digits % 38);
        let one = 10_u128.pow(18);
        rates.push(format!("{}.{:018}", units / one, units % one));
    }
    let lines: Vec<String> = rates
        .iter()
        .enumerate()
        .map(|(index, rate)| format!("openai,m{index},input_uncached_tokens,0,{rate},test"))
        .collect();
    let header = "provider,model,meter,above_input_tokens,usd_per_unit,source";
    let text = format!("{header}\n{}\n", lines.join("\n"));
    let book = PriceBook::shipped().with_file("rates.csv", &text).unwrap();
    let sql = Postgres::shared().empty_database("amounts");
    RUNTIME.block_on(store::migrate(sql.url())).unwrap();
    let url = sql.url().to_owned();
    let world = World::at(sql, &url, book);
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    let sent: Vec<Request> = (0..rates.len())
        .map(|index| Request {
            model: format!("m{index}"),
            tokens: 1,
            ..Request::of(&index.to_string())
        })
        .collect();
    world
        .commit(&mut writer.0, &mut [(&mut chain, &sent)])
        .unwrap();
    let differing = world.sql.rows(
        "select r.input_uncached_tokens::text, p.amount::text
         from posting p join rate_set r on r.key = p.rate_set
         where p.amount::text is distinct from r.input_uncached_tokens::text",
    );
    assert!(differing.is_empty(), "amounts that differ: {differing:?}");
    let stored = world.sql.number("select count(*) from posting");
    assert_eq!(
        usize::try_from(stored).unwrap(),
        rates.len(),
        "each model's posting"
    );
}

fn an_id_counts_once_within_and_across_batches() {
    let world = World::new();
    let mut writer = world.writer();
    let (mut one, mut two) = (world.claim(0, &writer), world.claim(1, &writer));
    let twice = [requests(0, 3), requests(1, 1)].concat();
    let counts = world.commit(
        &mut writer.0,
        &mut [(&mut one, &twice), (&mut two, &requests(2, 2))],
    );
    let counts = counts.unwrap().counts;
    assert_eq!(
        (counts[0].accepted, counts[0].duplicates),
        (3, 1),
        "repeated in the part"
    );
    assert_eq!(
        (counts[1].accepted, counts[1].duplicates),
        (1, 1),
        "repeated in another part"
    );
    for round in 0..3 {
        let again = [requests(0, 4), requests(10 + round, 1)].concat();
        let counts = world
            .commit(&mut writer.0, &mut [(&mut two, &again)])
            .unwrap()
            .counts;
        assert_eq!(
            (counts[0].accepted, counts[0].duplicates),
            (1, 4),
            "round {round}"
        );
    }
    assert_eq!(world.requests(), 7, "each id once");
    assert_eq!(
        world.sql.number(&format!("select count(*) from {IDS}")),
        7,
        "each id taken"
    );
    let astray = world.sql.number(&format!(
        "select count(*) from duplicate d where not exists (
             select from {IDS} where seen.identity = d.identity
                 and seen.chain = d.first_chain and seen.part = d.first_part)"
    ));
    assert_eq!(astray, 0, "each duplicate names the part that counted it");
    let counted = world.sql.number("select sum(duplicates)::bigint from part");
    assert_eq!(
        world.sql.number("select count(*) from duplicate"),
        counted,
        "each is kept"
    );
}

fn two_writers_with_the_same_ids_count_each_once() {
    const BATCHES: usize = 12;
    const SIZE: usize = 300;
    let world = Arc::new(World::new());
    let accepted = AtomicI64::new(0);
    thread::scope(|scope| {
        for partition in 0..3 {
            let (world, accepted) = (&world, &accepted);
            scope.spawn(move || {
                let mut writer = world.writer();
                let mut chain = world.claim(partition, &writer);
                for batch in 0..BATCHES {
                    // The same ids in other batches and other orders, so that they meet.
                    let shift = usize::try_from(partition).unwrap() * SIZE / 3;
                    let mut sent = requests(batch * SIZE + shift, SIZE);
                    if partition == 1 {
                        sent.reverse();
                    }
                    // Whoever is overtaken gets through when it folds again.
                    let parts = &mut [(&mut chain, &sent[..])];
                    let committed = match world.commit(&mut writer.0, parts) {
                        Err(CommitError::Overtaken) => world.commit(&mut writer.0, parts),
                        outcome => outcome,
                    };
                    let counts = committed.unwrap().counts[0];
                    let count = i64::try_from(counts.accepted).unwrap();
                    accepted.fetch_add(count, Ordering::SeqCst);
                }
            });
        }
    });
    let ids = i64::try_from(BATCHES * SIZE + 2 * (SIZE / 3)).unwrap();
    assert_eq!(accepted.load(Ordering::SeqCst), ids, "accepted by all");
    assert_eq!(world.requests(), ids, "posted");
    let taken = format!("select count(distinct identity) || '/' || count(*) from {IDS}");
    assert_eq!(world.sql.value(&taken), format!("{ids}/{ids}"), "taken");
    let held = RUNTIME.block_on(store::audit::held_once(&world.ingest));
    let expected = HeldOnce {
        ids: ids.unsigned_abs(),
        repeated: 0,
        misplaced: 0,
    };
    assert_eq!(held.unwrap(), expected, "as `verify` sees it");
}

/// Another process takes ids between the writer's look and its commit.
fn a_batch_that_is_overtaken_is_folded_again() {
    let world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 2))])
        .unwrap();

    let sent = requests(10, 3);
    let other = Request::of("900");
    let outcome = while_another_takes(
        &world,
        &mut writer.0,
        &[(&chain, &sent[..])],
        (&chain, &other),
    );
    let committed = outcome.expect("none of its ids was taken meanwhile");
    chain.follow(&committed, 0, Offset(chain.position() + 3));

    let sent = requests(20, 3);
    let other = Request::of("21");
    let outcome = while_another_takes(
        &world,
        &mut writer.0,
        &[(&chain, &sent[..])],
        (&chain, &other),
    );
    let outcome = outcome.map(|committed| committed.counts);
    assert!(
        matches!(outcome, Err(CommitError::Overtaken)),
        "one of its ids was taken meanwhile: {outcome:?}"
    );
    assert_eq!(world.requests(), 5, "nothing of it was written");
    let parts = &mut [(&mut chain, &sent[..])];
    let counts = world.commit(&mut writer.0, parts).unwrap().counts[0];
    assert_eq!((counts.accepted, counts.duplicates), (2, 1), "folded again");

    // What was taken in between is known, too.
    let parts = &mut [(&mut chain, &[Request::of("900"), Request::of("11")][..])];
    let counts = world.commit(&mut writer.0, parts).unwrap().counts[0];
    assert_eq!((counts.accepted, counts.duplicates), (0, 2), "both repeats");
}

fn a_batch_of_two_sources_is_overtaken_whole() {
    let world = World::new();
    let mut writer = world.writer();
    let (mut one, mut two) = (world.claim(0, &writer), world.claim_other("other", &writer));
    let parts = &mut [
        (&mut one, &requests(0, 1)[..]),
        (&mut two, &requests(100, 1)[..]),
    ];
    world.commit(&mut writer.0, parts).unwrap();

    let (of_one, of_two) = (requests(10, 2), requests(110, 2));
    let outcome = while_another_takes(
        &world,
        &mut writer.0,
        &[(&one, &of_one[..]), (&two, &of_two[..])],
        (&two, &of_two[1]),
    );
    let outcome = outcome.map(|committed| committed.counts);
    assert!(
        matches!(outcome, Err(CommitError::Overtaken)),
        "{outcome:?}"
    );
    assert_eq!(world.requests(), 2, "nothing of either was written");
    let parts = &mut [(&mut one, &of_one[..]), (&mut two, &of_two[..])];
    let counts = world.commit(&mut writer.0, parts).unwrap().counts;
    assert_eq!(
        (counts[0].accepted, counts[0].duplicates),
        (2, 0),
        "the first's"
    );
    assert_eq!(
        (counts[1].accepted, counts[1].duplicates),
        (1, 1),
        "the second's"
    );
    // An id is its source's: of the other it is another one.
    let parts = &mut [(&mut one, &of_two[..])];
    let counts = world.commit(&mut writer.0, parts).unwrap().counts;
    assert_eq!(
        counts[0].duplicates, 0,
        "no repeat: these come by another source"
    );
}

/// Commits a batch while a transaction that takes an id is open; that one commits once the batch waits.
fn while_another_takes(
    world: &World,
    writer: &mut Writer,
    parts: &[(&Chain, &[Request])],
    (chain, other): (&Chain, &Request),
) -> Result<Committed, CommitError> {
    let others = [(chain, std::slice::from_ref(other))];
    let taken = world.batch(&others).fold.ids()[0].identity;
    let mut session = world.sql.session();
    session.run(&format!(
        "begin;
         update event_seen_count set number = number + 1 where source = {source};
         insert into event_seen (stretch, number, source, chain, part, ids)
         select stretch, n.number, source, chain, part, decode('{:032x}', 'hex')
         from event_seen join event_seen_count n using (source) where source = {source} limit 1",
        taken.to_bits(),
        source = chain.source.0
    ));
    let batch = world.batch(parts);
    thread::scope(|scope| {
        let writing = scope.spawn(|| RUNTIME.block_on(writer.commit(batch)));
        wait_until_a_batch_records(world);
        session.run("commit");
        writing.join().unwrap()
    })
}

/// Waits until a batch has done all but record its ids.
fn wait_until_a_batch_records(world: &World) {
    wait::until_true("a batch waits", Duration::from_secs(10), || {
        world.sql.number(
            "select count(*) from pg_stat_activity where datname = current_database()
                 and wait_event_type = 'Lock' and query like '/* record_ids */%'",
        ) == 1
    });
}

/// Making a day's partition waits for whoever touches the default one: a batch of other days does not.
fn a_day_is_made_beside_a_batch_under_way() {
    let world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    // The sixth time Postgres may keep a plan for all days.
    for id in 0..6 {
        let parts = &mut [(&mut chain, &requests(id, 1)[..])];
        world.commit(&mut writer.0, parts).unwrap();
    }
    let mut session = world.sql.session();
    session.run("begin; update event_seen_count set number = number");
    let batch = world.batch(&[(&chain, &requests(10, 1))]);
    thread::scope(|scope| {
        let writing = scope.spawn(|| RUNTIME.block_on(writer.0.commit(batch)));
        wait_until_a_batch_records(&world);
        let made = world.sql.try_rows(
            "begin; set local lock_timeout = '500ms'; select ensure_event_seen_day('2027-05-01'); commit",
        );
        session.run("commit");
        writing.join().unwrap().unwrap();
        made.expect("the batch under way is not waited for");
    });
    let made = "select (to_regclass('event_seen_20270501') is not null)::int";
    assert_eq!(world.sql.number(made), 1, "the day is there");
}

fn ids_are_packed_into_rows_of_one_part_and_stretch() {
    let world = World::new();
    let mut writer = world.writer();
    let (mut one, mut two) = (world.claim(0, &writer), world.claim(1, &writer));
    let at = |request: Request, ms| request.at(MORNING + ms);
    let of_one: Vec<Request> = requests(0, 600)
        .into_iter()
        .map(|request| at(request, 999))
        .chain(
            requests(600, 1)
                .into_iter()
                .map(|request| at(request, 1_000)),
        )
        .collect();
    let of_two = requests(700, 10);
    let parts = &mut [(&mut one, &of_one[..]), (&mut two, &of_two[..])];
    world.commit(&mut writer.0, parts).unwrap();
    let rows = world.sql.rows(
        "select concat_ws(' ', partition, to_char(stretch at time zone 'UTC', 'HH24:MI:SS'),
             length(ids) / 16)
         from event_seen join chain on chain.id = event_seen.chain
         order by stretch, partition, length(ids)",
    );
    let rows: Vec<String> = rows.into_iter().flatten().flatten().collect();
    let expected = [
        "0 10:00:00 100",
        "0 10:00:00 250",
        "0 10:00:00 250",
        "1 10:00:00 10",
        "0 10:00:01 1",
    ];
    assert_eq!(rows, expected, "at most 250 to a row");
    // Another process, which holds none of them yet, finds each.
    let mut other = world.writer();
    let mut third = world.claim(2, &other);
    let again = [&of_one[..], &of_two[..], &requests(800, 1)[..]].concat();
    let counts = world
        .commit(&mut other.0, &mut [(&mut third, &again)])
        .unwrap()
        .counts[0];
    assert_eq!(
        (counts.accepted, counts.duplicates),
        (1, 611),
        "known again"
    );
}

/// A ledger of before migration 0009, with ids of two sources, one of them taken by a retry.
fn ids_of_before_they_were_packed_are_kept() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    let sql = Postgres::shared().empty_database("packed");
    let migrate = |number: usize| {
        let text = std::fs::read_to_string(&files[number - 1]).unwrap();
        sql.run(&format!("begin; {text}; commit"));
    };
    (1..=8).for_each(migrate);
    sql.run(
        "insert into source (name, topic) values ('a', 'a'), ('b', 'b');
         insert into chain (kind, source, topic, partition, incarnation)
         values ('log', 1, 'a', 0, 1), ('log', 2, 'b', 0, 1), ('adjustment', null, '', 0, 1);
         set session_replication_role = replica;
         insert into rejection_resolved values (2, 5, 0, 3, 1, 0, 1, 0, 0);
         create function id(ms bigint, hash bigint) returns uuid language sql as
         'select (lpad(to_hex(ms), 12, ''0'') || lpad(to_hex(hash), 20, ''0''))::uuid';
         insert into event_seen (part, identity, chain)
         select 1, id(1803895200000 + n % 1000, n), 1 from generate_series(1, 600) as n
         union all select 2, id(1803895201000, 1), 1
         union all select 7, id(1803981600500, 2), 2
         union all select 1, id(1803981600500, 3), 3;
         create table former as select chain, part, identity from event_seen",
    );
    migrate(9);
    let rows = sql.rows(
        "select concat_ws(' ', tableoid::regclass, to_char(stretch at time zone 'UTC', 'HH24:MI:SS'),
             source, chain, part, number, length(ids) / 16)
         from event_seen order by stretch, chain, length(ids)",
    );
    let rows: Vec<String> = rows.into_iter().flatten().flatten().collect();
    let expected = [
        "event_seen_20270301 10:00:00 1 1 1 0 100",
        "event_seen_20270301 10:00:00 1 1 1 0 250",
        "event_seen_20270301 10:00:00 1 1 1 0 250",
        "event_seen_20270301 10:00:01 1 1 2 0 1",
        "event_seen_20270302 10:00:00 2 2 7 0 1",
        "event_seen_20270302 10:00:00 2 3 1 0 1",
    ];
    assert_eq!(
        rows, expected,
        "packed, the retry's of the source that it corrected"
    );
    let lost = sql.number(&format!(
        "select count(*) from (
             (table former except select chain, part, identity from {IDS})
             union all (select chain, part, identity from {IDS} except table former)
         ) as differing"
    ));
    assert_eq!(lost, 0, "each with its part");
    let disordered = sql.number(&format!(
        "select count(*) from (select identity < lag(identity) over (partition by row order by place)
             as is_disordered from {IDS}) as pairs where is_disordered"
    ));
    assert_eq!(disordered, 0, "ascending");
}

fn a_lost_answer_to_commit_is_read_back() {
    let cases = [
        (Lost::AfterApplied, Resolved::Applied, 2),
        (Lost::BeforeApplied, Resolved::NotApplied, 1),
    ];
    for (lost, expected, requests_after) in cases {
        let sql = Postgres::shared().empty_database("lost_commit");
        RUNTIME.block_on(store::migrate(sql.url())).unwrap();
        let proxy = Proxy::start(Postgres::shared().port());
        let url = proxy.url(sql.url());
        let world = World::at(sql, &url, PriceBook::shipped());
        let mut writer = world.writer();
        let mut chain = world.claim(0, &writer);
        world
            .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 1))])
            .unwrap();
        let former = writer.0.backend();

        proxy.lose_commit(lost, "copy posting");
        let batch = world.batch(&[(&chain, &requests(1, 1))]);
        let part = ResolvePart {
            chain: chain.claim.chain,
            epoch: chain.claim.epoch,
            expected: chain.claim.position,
            to: batch.parts[0].to,
        };
        let outcome = RUNTIME.block_on(writer.0.commit(batch));
        assert!(
            matches!(outcome, Err(CommitError::Unknown(_))),
            "{lost:?}: {outcome:?}"
        );
        let resolved = RUNTIME.block_on(writer.0.resolve(&[part])).unwrap();
        assert_eq!(resolved, expected, "{lost:?}");
        assert_ne!(writer.0.backend(), former, "{lost:?}: a new connection");
        assert_eq!(world.requests(), requests_after, "{lost:?}");

        // Somebody else's claim in between is seen too.
        let other = world.writer();
        world.claim(0, &other);
        let resolved = RUNTIME.block_on(writer.0.resolve(&[part])).unwrap();
        assert_eq!(resolved, Resolved::Lost, "{lost:?}: claimed by another");
    }
}

fn a_broken_connection_writes_nothing_and_is_replaced() {
    let world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 1))])
        .unwrap();
    let pid = writer.0.backend().pid;
    world
        .sql
        .run(&format!("select pg_terminate_backend({pid})"));
    let outcome = world.commit(&mut writer.0, &mut [(&mut chain, &requests(1, 1))]);
    match outcome {
        Err(CommitError::Failed(error)) => assert!(error.is_transient(), "{error:?}"),
        other => panic!("a terminated backend: {other:?}"),
    }
    assert_eq!(world.requests(), 1, "nothing was written");
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(1, 1))])
        .unwrap();
    assert_eq!(world.requests(), 2, "written on a new connection");
    let stored = world.sql.number("select owner_pid from source_position");
    assert_eq!(
        stored,
        i64::from(writer.0.backend().pid),
        "the new backend is known"
    );
}

fn rows_find_their_partitions() {
    let world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    // 2027-03-01 10:00, and the last and the first millisecond around midnight and month's end.
    let midnight = MORNING - 10 * 60 * 60 * 1000;
    let sent = [
        Request::of("a"),
        Request::of("b").at(midnight - 1),
        Request::of("c").at(midnight),
        Request::of("d").at(midnight + DAY - 1),
    ];
    world
        .commit(&mut writer.0, &mut [(&mut chain, &sent)])
        .unwrap();
    let partitions = |table: &str| -> Vec<String> {
        let sql = format!(
            "select tableoid::regclass || ' ' || count(*) from {table} group by tableoid order by 1"
        );
        world
            .sql
            .rows(&sql)
            .into_iter()
            .flatten()
            .flatten()
            .collect()
    };
    assert_eq!(
        partitions("posting"),
        ["posting_202702 1", "posting_202703 3"],
        "by month"
    );
    let days = ["event_seen_20270228 1", "event_seen_20270301 3"];
    assert_eq!(partitions("event_seen"), days, "by day");
    for next in ["posting_202704", "event_seen_20270302"] {
        let sql = format!("select (to_regclass('{next}') is not null)::int");
        assert_eq!(world.sql.number(&sql), 1, "{next} is made ahead");
    }

    // A reader in the way: the rows are not held up.
    let mut reader = world.sql.session();
    reader.run("begin; select count(*) from posting; select count(*) from event_seen");
    let later = [Request::of("e").at(MORNING + 200 * DAY)];
    world
        .commit(&mut writer.0, &mut [(&mut chain, &later)])
        .unwrap();
    assert_eq!(partitions("posting_other"), ["posting_other 1"], "caught");
    reader.run("commit");

    // Days below the floor go, and only those.
    let floor = domain::time::UnixMs::new(midnight + DAY).unwrap();
    let work = async {
        store::watermark::advance(&world.ingest, world.source, floor, 0).await?;
        store::partitions::drop_old(&world.ingest).await
    };
    assert_eq!(
        RUNTIME.block_on(work).unwrap(),
        1,
        "all but a day below the floor"
    );
    let left = ["event_seen_20270301 3", "event_seen_other 1"];
    assert_eq!(partitions("event_seen"), left, "the rest stays");
    assert_eq!(world.requests(), 5, "postings stay");
}
