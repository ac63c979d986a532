//! Bounds: memory does not grow with the backlog, and a hot key costs no throughput.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::children::Child;
use crate::harness::load::now_ms;
use crate::harness::product::drain;
use crate::harness::proxy::Proxy;
use crate::harness::runner::Test;
use crate::harness::topic::Record;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::oracle::time;
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(memory_does_not_grow_with_the_backlog),
    test!(two_processes_that_read_the_same_lines_keep_up, "D6"),
    test!(alone hot_application_folds_as_fast_as_many, "M16"),
];

const LONG: Duration = Duration::from_secs(400);

/// So many that what a run begins and ends with is a small part of it.
const HOT_KEY_EVENTS: u64 = 800_000;

/// Makes a small line; `app` of `apps` is charged.
fn small(number: u64, apps: u64, at: &str) -> String {
    format!(
        "{{\"gen_ai.request.model\":\"gpt-4o\",\"gen_ai.provider.name\":\"openai\",\
         \"gen_ai.usage.input_tokens\":7,\"start_time\":\"{at}\",\"x-request-id\":\"{number}\",\
         \"x-tenant-id\":\"a{}\"}}",
        number % apps
    )
}

fn send_backlog(topic: &crate::harness::topic::Topic, partitions: u64, count: u64, apps: u64) {
    let start = now_ms() - 3_400_000;
    topic.send((0..count).map(|number| {
        // A hundred thousand events a second.
        let at = time::format(start + i64::try_from(number / 100).unwrap());
        let partition = i32::try_from(number % partitions).unwrap();
        Record::text(partition, &small(number, apps, &at))
    }));
}

/// Returns the memory that a process has, in KiB.
fn memory_kib(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("Linux says");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn assert_posted_once(world: &World, count: u64) {
    let accepted = world.database.value("select sum(accepted) from part");
    assert_eq!(accepted, count.to_string(), "each event once");
    let requests = world.database.value("select sum(requests) from posting");
    assert_eq!(requests, count.to_string(), "each event posted");
}

/// One process folds the backlog through a slowed Postgres: what it needs in the last third it needed in the one
/// before, but for a tenth. By what it needs half of the time: peaks come by chance, when it falls behind for a
/// moment, and differ by more than that.
fn memory_does_not_grow_with_the_backlog() {
    // A third is many times what a process holds: three batches of 100 000 events, and a million ids.
    const THIRD: i64 = 2_000_000;
    let world = World::new("backlog");
    let topic = world.topic(1);
    send_backlog(&topic, 1, 3 * THIRD.unsigned_abs(), 50);
    let proxy = Proxy::start(world.postgres.port());
    let mut config = world
        .config(&topic)
        .with_ingest("batch_records_max = 100000");
    config.database_url = proxy.url(&config.database_url);
    proxy.delay(Duration::from_millis(8));
    let ingest = config.ingest();
    let usual_until = |events: i64| {
        let mut seen = Vec::new();
        wait::until_true("a third is folded", FOLD, || {
            seen.push(memory_kib(&ingest));
            world.events() >= events
        });
        seen.sort_unstable();
        seen[seen.len() / 2]
    };
    // In the first third it takes what it needs.
    usual_until(THIRD);
    let before = usual_until(2 * THIRD);
    let last = usual_until(3 * THIRD);
    drain(&ingest, Duration::from_secs(60));
    assert_posted_once(&world, 3 * THIRD.unsigned_abs());
    println!("memory: {before} KiB in the second third, {last} KiB in the last");
    assert!(
        last * 10 <= before * 11,
        "{last} KiB is more than 10 % above {before} KiB"
    );
}

/// Lets two processes, a partition each, fold a backlog of this many applications, and returns how
/// long that takes from when Postgres begins to answer.
fn time_of(name: &str, apps: u64) -> Duration {
    let world = World::new(name);
    let topic = world.topic(2);
    let proxy = Proxy::start(world.postgres.port());
    // What a process folds while Postgres is silent is not measured: batches are small beside it all.
    let mut config = world
        .config(&topic)
        .with_ingest("batch_records_max = 20000");
    config.database_url = proxy.url(&config.database_url);
    config.session_timeout_ms = 30_000;
    let processes = [config.ingest(), config.ingest()];
    wait::until_true("each process owns a partition", FOLD, || {
        let owners = "select count(distinct owner) from source_position where position >= 0";
        world.database.value(owners) == "2"
    });
    proxy.silence(true);
    send_backlog(&topic, 2, HOT_KEY_EVENTS, apps);
    settle(&world);
    proxy.silence(false);
    let begun = Instant::now();
    world.await_caught_up_within(&topic, LONG);
    let took = begun.elapsed();
    for process in &processes {
        drain(process, Duration::from_secs(60));
    }
    assert_posted_once(&world, HOT_KEY_EVENTS);
    println!("{name}: {took:?}");
    took
}

/// Two shippers send every line, to a partition each, and a process reads each partition: at each moment both
/// have the same newest lines at hand, and one of the two counts them.
fn two_processes_that_read_the_same_lines_keep_up() {
    const SENT: u64 = 300;
    const EACH: u64 = 100;
    let world = World::new("mirrored");
    let topic = world.topic(2);
    let config = world.config(&topic);
    let processes = [config.ingest(), config.ingest()];
    wait::until_true("each process owns a partition", FOLD, || {
        let owners = "select count(distinct owner) from source_position where position >= 0";
        world.database.value(owners) == "2"
    });
    for sent in 0..SENT {
        let at = time::format(now_ms());
        let lines = (sent * EACH..(sent + 1) * EACH).map(|number| small(number, 50, &at));
        topic.send(lines.flat_map(|line| [0, 1].map(|partition| Record::text(partition, &line))));
    }
    // Whoever is overtaken must not fall behind what is sent.
    world.await_caught_up_within(&topic, Duration::from_secs(20));
    for process in &processes {
        drain(process, Duration::from_secs(60));
    }
    assert_posted_once(&world, SENT * EACH);
    let repeated = world.database.value("select sum(duplicates) from part");
    assert_eq!(repeated, (SENT * EACH).to_string(), "each line once more");
    let both = "select count(*) from (
        select chain from part group by chain having sum(accepted) > 0) as counting";
    let counting = world.database.value(both);
    println!("mirrored: {counting} of 2 partitions counted lines first");
}

/// Has everything written that was so far, so that no run pays for the one before it.
fn settle(world: &World) {
    world.database.run("checkpoint");
    rustix::fs::sync();
}

fn hot_application_folds_as_fast_as_many() {
    let (mut many, mut hot) = (Duration::MAX, Duration::MAX);
    // The best of three of each, in turns: what else the machine does only ever adds.
    for round in 0..3 {
        many = many.min(time_of(&format!("uniform_{round}"), 1000));
        hot = hot.min(time_of(&format!("hot_{round}"), 1));
    }
    println!("hot key: {hot:?} for one application, {many:?} for a thousand");
    assert!(
        hot <= many.mul_f64(1.2),
        "{hot:?} for one application, {many:?} for a thousand"
    );
}
