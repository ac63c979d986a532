//! Rejected events retried and dropped: counted once, whatever dies, and provable afterwards.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use serde_json::Value;

use crate::harness::load::{Load, seed};
use crate::harness::product::{Config, drain, source};
use crate::harness::runner::Test;
use crate::harness::topic::Topic;
use crate::harness::world::{FOLD, World};
use crate::oracle::{Oracle, compare};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(what_a_wrong_source_rejected_is_counted_once_it_is_right),
    test!(a_retry_that_is_killed_counts_once),
    test!(retries_and_ingest_side_by_side_count_once),
    test!(cut_payloads_are_read_again_or_refused),
    test!(what_is_below_the_floor_is_taken_on_demand_only),
    test!(dropped_events_stay_visible),
    test!(tampering_with_adjustments_is_named),
];

/// How long a command may take to reach a fail point.
const DIES: Duration = Duration::from_secs(60);

/// A configuration that takes a number for the application's name, which rejects nearly all lines.
pub(super) fn wrong(world: &World, topic: &Topic) -> Config {
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

fn a_retry_that_is_killed_counts_once() {
    for point in [
        "adjust::after_position",
        "adjust::after_ids",
        "adjust::before_commit",
        "adjust::after_commit",
    ] {
        let world = World::new(&point.replace("::", "_"));
        let topic = world.topic(2);
        let config = rejected_first(&world, &topic, Load::new(seed(point)).mixed(700));
        let arguments = ["rejected", "retry", "--all"];
        // 500 events a part: the second part dies.
        let dying = config.clone().dying_at(point, 1).start(&arguments);
        let status = dying.wait(DIES);
        assert_eq!(status.signal(), Some(9), "{point} kills\n{}", dying.log());
        let _answer = config.output(&arguments);
        assert_reported(&world, &topic);
        assert_verified(&config, "retried events fold");
    }
}

fn retries_and_ingest_side_by_side_count_once() {
    let world = World::new("retried_beside");
    let topic = world.topic(2);
    let mut load = Load::new(seed("retried_beside"));
    let config = rejected_first(&world, &topic, load.mixed(900));
    let ingest = config.ingest();
    let retries: Vec<_> = (0..3)
        .map(|_| config.start(&["rejected", "retry", "--all"]))
        .collect();
    topic.send_texts(2, load.mixed(900));
    for retry in &retries {
        let status = retry.wait(FOLD);
        assert_eq!(
            status.code(),
            Some(0),
            "{}\n{}",
            retry.stdout(),
            retry.stderr()
        );
    }
    world.await_caught_up(&topic);
    drain(&ingest, FOLD);
    assert_reported(&world, &topic);
    assert_verified(&config, "retried events fold");
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

fn what_is_below_the_floor_is_taken_on_demand_only() {
    let world = World::new("retried_floor");
    let topic = world.topic(1);
    let config = rejected_first(&world, &topic, Load::new(seed("retried_floor")).lines(20));
    let mut session = world.database.session();
    session.run("update source set floor_at = now() + interval '1 hour'");
    let rows = json(&config, &["rejected", "retry", "--all"]);
    assert_eq!(with_outcome(&rows, "rejected"), rows.len(), "{rows:?}");
    assert!(
        rows.iter().all(|row| row["reason"] == "below_floor"),
        "{rows:?}"
    );

    let rows = json(
        &config,
        &["rejected", "retry", "--all", "--accept-duplicates"],
    );
    assert_eq!(with_outcome(&rows, "accepted"), rows.len(), "{rows:?}");
    assert_reported(&world, &topic);
    let word = "select count(*) from adjustment where accepts_duplicates";
    assert_eq!(world.database.number(word), 1, "the part records it");
    assert_verified(&config, "20 retried events fold");
}

fn dropped_events_stay_visible() {
    let world = World::new("dropped_events");
    let topic = world.topic(1);
    let config = rejected_first(&world, &topic, Load::new(seed("dropped_events")).lines(20));
    let (code, _, stderr) = config.run(&["rejected", "drop", "--all", "--because", " "]);
    assert_eq!(code, 2, "{stderr}");
    let (code, _, stderr) = config.run(&["rejected", "retry"]);
    assert_eq!(code, 2, "what is meant must be said: {stderr}");
    let place = format!("{}/0/3", topic.name());
    let one = [
        "rejected",
        "drop",
        "--id",
        &place,
        "--because",
        "a test of ours",
        "--by",
        "ann",
    ];
    let dropped = json(&config, &one);
    assert_eq!(with_outcome(&dropped, "dropped"), 1, "{dropped:?}");
    assert!(json(&config, &one).is_empty(), "once");
    let shown = config.output(&["rejected", "show", &place]);
    assert!(
        shown.contains("dropped at ") && shown.contains("by ann"),
        "{shown}"
    );
    assert!(shown.contains("a test of ours"), "{shown}");
    let rows = json(&config, &["rejected", "retry", "--all"]);
    assert_eq!(
        with_outcome(&rows, "accepted"),
        19,
        "all but the dropped one"
    );
    let reason = [
        "rejected",
        "drop",
        "--reason",
        "wrong_type",
        "--because",
        "none is left",
    ];
    assert!(json(&config, &reason).is_empty(), "all are resolved");
    let nowhere = ["rejected", "drop", "--id", "nowhere/0/3", "--because", "x"];
    assert_eq!(config.run(&nowhere).0, 2, "nothing was rejected there");
    assert_verified(&config, "1 rejected events were dropped");
}

/// What is done behind the product's back, and what `verify` must say.
const TAMPERINGS: &[(&str, &str)] = &[
    (
        "update adjustment set because = 'another reason' where part = 1",
        "claims the hash",
    ),
    (
        "update adjustment set made_by = 'somebody else' where part = 2",
        "claims the hash",
    ),
    (
        "update adjustment set accepts_duplicates = true where kind = 'retry'",
        "claims the hash",
    ),
    (
        "delete from adjustment where part = 1",
        "who corrected what is missing",
    ),
    (
        "delete from rejection_resolved where ctid = (select min(ctid) from rejection_resolved)",
        "claims the hash",
    ),
    (
        "update rejection_resolved set record_offset = record_offset + 100000 where ctid = \
         (select min(ctid) from rejection_resolved)",
        "a rejected event that is missing",
    ),
    (
        "update posting p set requests = requests + 1 from chain c \
         where c.id = p.chain and c.kind = 'adjustment' and p.part = \
         (select min(part) from posting where chain = c.id)",
        "requests in its postings",
    ),
    (
        "update rejected_event e set payload = convert_to(replace(convert_from(payload, 'UTF8'), \
         '\"gen_ai.usage.output_tokens\":', '\"gen_ai.usage.output_tokens\":1'), 'UTF8') \
         where payload like '%output_tokens%'",
        "payload",
    ),
];

fn tampering_with_adjustments_is_named() {
    let world = World::new("tampered_adjustments");
    let topic = world.topic(1);
    let load = Load::new(seed("tampered_adjustments")).lines(60);
    let config = rejected_first(&world, &topic, load);
    let place = format!("{}/0/3", topic.name());
    let _dropped = config.output(&["rejected", "drop", "--id", &place, "--because", "a test"]);
    let _retried = config.output(&["rejected", "retry", "--all"]);
    assert_verified(&config, "59 retried events fold");
    world.assert_each_is_named(&config, TAMPERINGS);
    let appended = world.database.try_rows("delete from rejection_resolved");
    assert!(appended.is_err(), "append-only for its owner, too");
}
