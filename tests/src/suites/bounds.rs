//! Bounds: memory does not grow with the backlog, and a hot key costs no throughput.

use std::time::Duration;

use crate::harness::children::Child;
use crate::harness::load::now_ms;
use crate::harness::product::drain;
use crate::harness::proxy::Proxy;
use crate::harness::runner::Test;
use crate::harness::topic::Record;
use crate::harness::world::World;
use crate::oracle::time;
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(memory_does_not_grow_with_the_backlog),
    test!(alone hot_application_folds_as_fast_as_many, "M16"),
];

const LONG: Duration = Duration::from_secs(400);

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
        let at = time::format(start + i64::try_from(number / 1000).unwrap());
        let partition = i32::try_from(number % partitions).unwrap();
        Record::text(partition, &small(number, apps, &at))
    }));
}

/// Returns the greatest memory that a process had so far, in KiB.
fn peak_kib(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("Linux says");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Folds a backlog through a slowed Postgres and returns the process's peak in KiB.
fn peak_of(name: &str, count: u64) -> u64 {
    let world = World::new(name);
    let topic = world.topic(1);
    send_backlog(&topic, 1, count, 50);
    let proxy = Proxy::start(world.postgres.port());
    let mut config = world.config(&topic);
    config.database_url = proxy.url(&config.database_url);
    proxy.delay(Duration::from_millis(8));
    let ingest = config.ingest();
    world.await_caught_up_within(&topic, LONG);
    let peak = peak_kib(&ingest);
    drain(&ingest, Duration::from_secs(60));
    assert_posted_once(&world, count);
    peak
}

fn assert_posted_once(world: &World, count: u64) {
    let accepted = world.database.value("select sum(accepted) from part");
    assert_eq!(accepted, count.to_string(), "each event once");
    let requests = world.database.value("select sum(requests) from posting");
    assert_eq!(requests, count.to_string(), "each event posted");
}

fn memory_does_not_grow_with_the_backlog() {
    let small = peak_of("backlog_small", 300_000);
    let large = peak_of("backlog_large", 3_000_000);
    println!("memory: peak of 300 000 records {small} KiB, of 3 000 000 {large} KiB");
    assert!(
        large * 10 <= small * 11,
        "{large} KiB is more than 10 % above {small} KiB"
    );
}

/// Folds a backlog of this many applications by two processes and returns the seconds from the first
/// batch to the last, as the ledger has them.
fn seconds_of(name: &str, apps: u64) -> f64 {
    let world = World::new(name);
    let topic = world.topic(2);
    send_backlog(&topic, 2, 400_000, apps);
    let processes: Vec<Child> = (0..2).map(|_| world.config(&topic).ingest()).collect();
    world.await_caught_up_within(&topic, LONG);
    processes
        .iter()
        .for_each(|process| drain(process, Duration::from_secs(60)));
    assert_posted_once(&world, 400_000);
    let took = "select extract(epoch from max(committed_at) - min(committed_at)) from batch";
    world.database.value(took).parse().unwrap()
}

fn hot_application_folds_as_fast_as_many() {
    // The better of two, since the system may be busy with something else.
    let (mut many, mut hot) = (f64::MAX, f64::MAX);
    for round in ["first", "second"] {
        many = many.min(seconds_of(&format!("uniform_{round}"), 1000));
        hot = hot.min(seconds_of(&format!("hot_{round}"), 1));
    }
    println!("hot key: {hot:.2} s for one application, {many:.2} s for a thousand");
    assert!(
        hot <= many * 1.2,
        "{hot:.2} s for one application, {many:.2} s for a thousand"
    );
}
