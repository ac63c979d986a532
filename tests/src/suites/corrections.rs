//! Rejected events retried and dropped: counted once, whatever dies, and provable afterwards.

use serde_json::Value;

use crate::harness::load::{Load, seed};
use crate::harness::product::{Config, source};
use crate::harness::runner::Test;
use crate::harness::topic::Topic;
use crate::harness::world::World;
use crate::oracle::{Oracle, compare};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(what_a_wrong_source_rejected_is_counted_once_it_is_right),
    test!(cut_payloads_are_read_again_or_refused),
];

/// A configuration that takes a number for the application's name, which rejects nearly all lines.
fn wrong(world: &World, topic: &Topic) -> Config {
    let mut config = world.bare_config();
    let wrong = source(topic.name()).replace("\"x-tenant-id\"", "\"response_code\"");
    config.sources.push(wrong);
    config
}

fn json(config: &Config, arguments: &[&str]) -> Vec<Value> {
    let all = [arguments, &["--output", "json"]].concat();
    let text = config.output(&all);
    let rows: Value = serde_json::from_str(&text).unwrap();
    rows.as_array().unwrap().clone()
}

fn with_outcome(rows: &[Value], outcome: &str) -> usize {
    rows.iter().filter(|row| row["outcome"] == outcome).count()
}

/// Folds the payloads by a wrong configuration, then puts the right one in force.
fn rejected_first(world: &World, topic: &Topic, payloads: Vec<String>) -> Config {
    topic.send_texts(topic.partitions(), payloads);
    wrong(world, topic).catch_up();
    let right = world.config(topic);
    right.catch_up();
    right
}

fn assert_reported(world: &World, topic: &Topic) {
    let expected = Oracle::new(topic.name()).fold_topic(topic);
    compare::assert_reported(&world.report(), &expected);
}

fn assert_verified(config: &Config, says: &str) {
    let (code, stdout, stderr) = config.run(&["verify"]);
    assert_eq!(code, 0, "{stdout}\n{stderr}");
    assert!(stdout.contains(says), "does not say {says:?}:\n{stdout}");
}

fn postings(world: &World) -> String {
    world
        .database
        .value("select count(*) || ' ' || coalesce(sum(amount), 0) from posting")
}

fn what_a_wrong_source_rejected_is_counted_once_it_is_right() {
    let world = World::new("retried");
    let topic = world.topic(2);
    let config = rejected_first(&world, &topic, Load::new(seed("retried")).mixed(800));
    let rejected = world.database.number("select count(*) from rejected_event");
    assert!(
        rejected > 500,
        "the wrong field rejects nearly all: {rejected}"
    );
    let before = postings(&world);
    let planned = json(&config, &["rejected", "retry", "--all", "--dry-run"]);
    assert_eq!(postings(&world), before, "a dry run changes nothing");

    let retried = json(
        &config,
        &["rejected", "retry", "--all", "--because", "wrong field"],
    );
    let outcomes = |rows: &[Value]| -> Vec<usize> {
        ["accepted", "duplicate", "ignored", "rejected", "refused"]
            .map(|outcome| with_outcome(rows, outcome))
            .to_vec()
    };
    let tried = i64::try_from(retried.len()).unwrap();
    assert_eq!(tried, rejected, "each one is told");
    assert_eq!(
        outcomes(&planned)[3..],
        outcomes(&retried)[3..],
        "as planned"
    );
    assert!(
        with_outcome(&retried, "accepted") > 500,
        "{:?}",
        outcomes(&retried)
    );
    assert!(
        with_outcome(&retried, "duplicate") > 0,
        "{:?}",
        outcomes(&retried)
    );
    assert_reported(&world, &topic);
    assert_verified(
        &config,
        "retried events fold to what their adjustments post",
    );

    // Again: only what is still rejected is tried, and counts nothing.
    let after = postings(&world);
    let again = json(&config, &["rejected", "retry", "--all"]);
    assert_eq!(again.len(), with_outcome(&retried, "rejected"), "the rest");
    assert_eq!(postings(&world), after, "nothing counts twice");
    let listed = json(&config, &["rejected", "list", "--limit", "10000"]);
    let states = |state: &str| listed.iter().filter(|row| row["state"] == state).count();
    assert_eq!(states("rejected"), again.len(), "visible with their state");
    assert_eq!(states("retried") + again.len(), listed.len(), "all of them");

    // And the repeats that still arrive are duplicates of what the retry counted.
    let repeats: Vec<String> = topic
        .read()
        .into_iter()
        .filter_map(|record| String::from_utf8(record.payload?).ok())
        .take(200)
        .collect();
    topic.send_texts(2, repeats);
    config.catch_up();
    assert_reported(&world, &topic);
    assert_verified(&config, "duplicates were counted by the part they name");
}

/// A line of more than 64 KiB.
fn long(load: &mut Load) -> String {
    let padding = format!("{{\"padding\":\"{}\",", "x".repeat(70_000));
    load.line().replacen('{', &padding, 1)
}

fn cut_payloads_are_read_again_or_refused() {
    let world = World::new("retried_cut");
    let topic = world.topic(1);
    let mut load = Load::new(seed("retried_cut"));
    let array = format!(
        "[{} ,\n {}, {}]",
        long(&mut load),
        load.line(),
        long(&mut load)
    );
    let sent = vec![long(&mut load), array, format!("  {}\n", long(&mut load))];
    topic.send_texts(1, sent);
    wrong(&world, &topic).catch_up();
    let config = world.config(&topic);
    config.catch_up();
    let copy = world.postgres.copy_of(&world.database);
    let cut = "select count(*) from rejected_event where payload_bytes > length(payload)";
    assert_eq!(world.database.number(cut), 4, "two in an array");

    let rows = json(&config, &["rejected", "retry", "--all"]);
    assert_eq!(with_outcome(&rows, "accepted"), 5, "{rows:?}");
    assert_reported(&world, &topic);
    assert_verified(&config, "5 retried events fold");

    world.kafka.delete_records_before(topic.name(), 0, 1);
    let other = Config {
        database_url: copy.url().to_owned(),
        ..config.clone()
    };
    let rows = json(&other, &["rejected", "retry", "--all"]);
    assert_eq!(with_outcome(&rows, "accepted"), 4, "{rows:?}");
    let refused: Vec<&Value> = rows
        .iter()
        .filter(|row| row["outcome"] == "refused")
        .collect();
    assert_eq!(refused.len(), 1, "{rows:?}");
    let why = refused[0]["detail"].as_str().unwrap();
    assert!(
        why.contains("bytes were kept, and the log has dropped its record"),
        "{why}"
    );
    let (code, stdout, _) = config.run(&["verify"]);
    assert_eq!(code, 0, "{stdout}");
    assert!(
        stdout.contains("not provable: parts 1: of an event only the first"),
        "{stdout}"
    );

    // A re-created topic holds other bytes at the same offset.
    world.kafka.delete_topic(topic.name());
    world.kafka.create_topic(topic.name(), 1, &[]);
    topic.send_texts(1, vec![long(&mut load); 5]);
    let rows = json(&other, &["rejected", "retry", "--all"]);
    assert_eq!(with_outcome(&rows, "refused"), 1, "{rows:?}");
}
