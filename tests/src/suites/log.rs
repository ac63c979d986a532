//! The log changes under ingest: transactions, truncation, re-creation, more partitions, moved group
//! offsets.

use std::time::Duration;

use serde_json::Value;

use crate::harness::load::{Load, seed};
use crate::harness::product::{Config, drain};
use crate::harness::runner::Test;
use crate::harness::topic::{Record, Stored, Topic};
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::oracle::{Ledger, Oracle, compare};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(open_and_aborted_transactions_count_nothing, "K5"),
    test!(
        truncation_past_the_position_stops_that_partition_alone,
        "K7"
    ),
    test!(recreated_with_fewer_records_while_stopped, "K9"),
    test!(recreated_with_more_records_while_stopped, "K10 stopped"),
    test!(recreated_with_more_records_while_ingest_runs, "K10 running"),
    test!(new_partitions_are_read_from_their_first_record, "K11"),
    test!(group_offsets_do_not_rule, "K12"),
    test!(compacted_topic_is_refused_at_start),
];

const DRAINS: Duration = Duration::from_secs(30);

fn text_records(partition: i32, lines: &[String]) -> Vec<Record> {
    lines
        .iter()
        .map(|line| Record::text(partition, line))
        .collect()
}

/// Folds records that were read at some time, each once.
fn fold_of(topic: &Topic, records: impl IntoIterator<Item = Stored>) -> Ledger {
    let mut oracle = Oracle::new(topic.name());
    records.into_iter().for_each(|record| oracle.fold(&record));
    oracle.ledger
}

fn open_and_aborted_transactions_count_nothing() {
    let world = World::new("transactions");
    let topic = world.topic(2);
    let mut load = Load::new(seed("transactions"));
    topic.send(text_records(0, &load.lines(50)));
    let aborted = topic.begin("transactions-aborted");
    aborted.send(text_records(0, &load.lines(40)));
    aborted.abort();
    let open = topic.begin("transactions-open");
    open.send(text_records(0, &load.lines(30)));
    topic.send(text_records(0, &load.lines(20)));

    let ingest = world.config(&topic).ingest();
    world.await_events(50);
    // The other partition goes on; this one stands still at the open transaction.
    for second in 1..=30 {
        topic.send(text_records(1, &load.lines(10)));
        world.await_events(50 + second * 10);
        wait::pause(Duration::from_secs(1));
        assert_eq!(
            world.events(),
            50 + second * 10,
            "nothing behind the open transaction"
        );
    }
    open.commit();
    world.await_caught_up(&topic);
    assert_eq!(world.events(), 50 + 300 + 30 + 20, "now they are");
    drain(&ingest, DRAINS);
    world.assert_exact(&topic);
    let config = world.config(&topic);
    let verdict = config.output(&["verify"]);
    assert!(
        verdict
            .trim_end()
            .lines()
            .last()
            .is_some_and(|line| line.starts_with("verified: ")),
        "{verdict}"
    );
}

/// Waits for an open gap of the topic and returns its cause.
fn await_gap(world: &World, topic: &Topic) -> String {
    let sql = format!(
        "select cause from ingest_gap g join chain c on c.id = g.chain \
         where c.topic = '{}' and accepted_at is null",
        topic.name()
    );
    wait::until("a gap is found", FOLD, || {
        let rows = world.database.rows(&sql);
        rows.into_iter().flatten().flatten().next()
    })
}

/// Lists the gaps and accepts them all, by the executable.
fn accept_gaps(config: &Config, count: usize) {
    let listed = config.output(&["gaps", "list", "--output", "json"]);
    let gaps: Vec<Value> = serde_json::from_str(&listed).expect("a list");
    assert_eq!(gaps.len(), count, "{listed}");
    for gap in &gaps {
        let id = gap["id"].to_string();
        let _output = config.output(&["gaps", "accept", id.trim_matches('"'), "--by", "tests"]);
    }
}

fn truncation_past_the_position_stops_that_partition_alone() {
    let world = World::new("truncated");
    let topic = world.topic(2);
    let mut load = Load::new(seed("truncated"));
    let config = world.config(&topic);
    topic.send_texts(2, load.mixed(200));
    config.catch_up();
    let folded = topic.read();
    topic.send(text_records(0, &load.lines(60)));
    let (_, end) = world.kafka.watermarks(topic.name(), 0);
    world.kafka.delete_records_before(topic.name(), 0, end - 10);

    let ingest = config.ingest();
    assert_eq!(await_gap(&world, &topic), "truncated", "the cause");
    let before = world.events();
    topic.send(text_records(1, &load.lines(40)));
    world.await_events(before + 40);
    assert_eq!(
        world.events(),
        before + 40,
        "the truncated partition stands still"
    );
    accept_gaps(&config, 1);
    world.await_events(before + 50);
    topic.send_texts(2, load.mixed(100));
    world.await_caught_up(&topic);
    drain(&ingest, DRAINS);

    let known: Vec<(i32, i64)> = folded.iter().map(|r| (r.partition, r.offset)).collect();
    let later = topic
        .read()
        .into_iter()
        .filter(|r| !known.contains(&(r.partition, r.offset)));
    let expected = fold_of(&topic, folded.into_iter().chain(later));
    world.assert_exactly(&topic, &expected);
    let named = "select count(*) from part where skipped_to - skipped_from = 50";
    assert_eq!(
        world.database.value(named),
        "1",
        "the next part names what was skipped"
    );
}

/// Folds, deletes and makes the topic again with other records, and accepts that.
fn recreated_while_stopped(name: &str, old: usize, new: usize) {
    let world = World::new(name);
    let topic = world.topic(1);
    let other = world.topic(1);
    let mut load = Load::new(seed(name));
    let config = world.config(&topic).with_source(&other);
    topic.send_texts(1, load.lines(old));
    config.catch_up();
    let folded = topic.read();
    world.kafka.delete_topic(topic.name());
    world.kafka.create_topic(topic.name(), 1, &[]);
    topic.send_texts(1, load.lines(new));

    let ingest = config.ingest();
    assert_eq!(await_gap(&world, &topic), "recreated", "the cause");
    other.send_texts(1, load.lines(70));
    let sum = i64::try_from(old).unwrap() + 70;
    world.await_events(sum);
    wait::pause(Duration::from_secs(1));
    assert_eq!(world.events(), sum, "the re-created topic stands still");
    accept_gaps(&config, 1);
    world.await_caught_up(&topic);
    drain(&ingest, DRAINS);
    let expected = fold_of(&topic, folded.into_iter().chain(topic.read()));
    compare::assert_stored(&world.database, topic.name(), &expected);
    compare::assert_stored(
        &world.database,
        other.name(),
        &fold_of(&other, other.read()),
    );
    let chains = format!(
        "select count(*) from chain where topic = '{}'",
        topic.name()
    );
    assert_eq!(
        world.database.value(&chains),
        "2",
        "the new log has a chain of its own"
    );
}

fn recreated_with_fewer_records_while_stopped() {
    recreated_while_stopped("recreated_fewer", 100, 30);
}

fn recreated_with_more_records_while_stopped() {
    recreated_while_stopped("recreated_more", 30, 100);
}

fn recreated_with_more_records_while_ingest_runs() {
    let world = World::new("recreated_running");
    let topic = world.topic(1);
    let mut load = Load::new(seed("recreated_running"));
    let config = world.config(&topic);
    topic.send_texts(1, load.lines(40));
    let ingest = config.ingest();
    world.await_caught_up(&topic);
    let folded = topic.read();
    world.kafka.delete_topic(topic.name());
    world.kafka.create_topic(topic.name(), 1, &[]);
    topic.send_texts(1, load.lines(150));
    assert_eq!(await_gap(&world, &topic), "recreated", "the cause");
    // What was folded of the new log before that was noticed is named in the gap.
    let doubtful = "select coalesce(sum(doubtful_to - doubtful_from), 0) from ingest_gap";
    let events = world.events();
    assert_eq!(
        world.database.number(doubtful).max(events - 40),
        events - 40,
        "events after the 40"
    );
    accept_gaps(&config, 1);
    world.await_caught_up(&topic);
    drain(&ingest, DRAINS);
    // Records that were folded under both chains are duplicates the second time: the sums are exact.
    let mut expected = fold_of(&topic, folded.into_iter().chain(topic.read()));
    let found = compare::stored(&world.database, topic.name());
    assert_eq!(
        found.counts.accepted, 190,
        "each event is counted once: {:?}",
        found.counts
    );
    expected.counts = found.counts;
    world.assert_exactly(&topic, &expected);
}

fn new_partitions_are_read_from_their_first_record() {
    let world = World::new("widened");
    let topic = world.topic(4);
    let mut load = Load::new(seed("widened"));
    let first = load.mixed(200);
    topic.send_texts(4, &first);
    let ingest = world.config(&topic).ingest();
    world.await_caught_up(&topic);
    world.kafka.add_partitions(topic.name(), 12);
    // At once, before ingest can have seen them; lines that the old partitions had, too.
    topic.send_texts(12, load.mixed(400).iter().chain(&first));
    wait::until_true("new partitions are found", FOLD, || {
        let sql = "select count(*) from source_position where position >= 0";
        world.database.value(sql) == "12"
    });
    world.await_caught_up(&topic);
    drain(&ingest, DRAINS);
    world.assert_exact(&topic);
}

fn group_offsets_do_not_rule() {
    let world = World::new("reset");
    let topic = world.topic(2);
    let mut load = Load::new(seed("reset"));
    let config = world.config(&topic);
    topic.send_texts(2, load.mixed(300));
    let ingest = config.ingest();
    world.await_caught_up(&topic);
    wait::until_true("the heads are told to Kafka", FOLD, || {
        world
            .kafka
            .committed(&config.group, topic.name(), 0)
            .is_some_and(|(at, _)| at > 0)
    });
    drain(&ingest, DRAINS);
    world.assert_exact(&topic);
    world.kafka.reset_group(&config.group, topic.name(), 0, 0);
    world
        .kafka
        .reset_group(&config.group, topic.name(), 1, 5000);
    topic.send_texts(2, load.mixed(100));
    config.catch_up();
    world.assert_exact(&topic);
}

fn compacted_topic_is_refused_at_start() {
    let world = World::new("compacted");
    let name = world.kafka.unused_topic("compacted");
    world
        .kafka
        .create_topic(&name, 1, &[("cleanup.policy", "compact")]);
    let config = world.config(&Topic::named(&world.kafka, &name));
    let (code, _, stderr) = config.run(&["ingest", "--until-caught-up"]);
    assert!(matches!(code, 3 | 5), "exit code {code}: {stderr}");
    assert!(
        stderr.contains(&name) && stderr.contains("compact"),
        "names it: {stderr}"
    );
    assert_eq!(stderr.trim().lines().count(), 1, "in one line: {stderr}");
}
