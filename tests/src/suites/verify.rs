//! `verify` names what was tampered with, and says so of nothing else.

use crate::harness::load::{Load, now_ms, seed};
use crate::harness::product::{Config, drain};
use crate::harness::runner::Test;
use crate::harness::topic::{Record, Topic};
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(each_tampering_is_named),
    test!(what_the_log_dropped_is_not_provable_and_said_to_be),
    test!(another_log_proves_nothing_of_the_one_that_was_folded),
    test!(transactions_are_folded_again_and_no_record_is_passed_over),
    test!(duplicates_whose_ids_are_gone_are_proved_by_the_log),
    test!(a_broker_that_is_away_leaves_no_verdict),
];

/// What is done to the ledger behind the product's back, and what `verify` must say.
struct Tampering {
    what: &'static str,
    sql: &'static str,
    /// Any of these must stand in what `verify` prints.
    named: &'static [&'static str],
}

const TAMPERINGS: &[Tampering] = &[
    Tampering {
        what: "one amount",
        sql: "update posting set amount = amount + 0.000000000000000001 where ctid = \
              (select min(ctid) from posting where amount > 0) and amount > 0",
        named: &["amount"],
    },
    Tampering {
        what: "one quantity",
        sql: "update posting set output_text_tokens = output_text_tokens + 1 where \
              (chain, part, series, rate_set, quarter) = (select chain, part, series, rate_set, \
              quarter from posting where amount > 0 limit 1)",
        named: &["posting"],
    },
    Tampering {
        what: "one roll-up row",
        sql: "update rollup_quarter set requests = requests + 1 where \
              (quarter, series, rate_set) = (select quarter, series, rate_set from rollup_quarter \
              limit 1)",
        named: &["roll"],
    },
    Tampering {
        what: "one roll-up row by day",
        sql: "update rollup_day set amount = amount + 1 where (day, series, rate_set) = \
              (select day, series, rate_set from rollup_day where amount is not null limit 1)",
        named: &["roll"],
    },
    Tampering {
        what: "one series row",
        sql: "update series set app = 'somebody else' where key = (select key from series limit 1)",
        named: &["series"],
    },
    Tampering {
        what: "one rate set",
        sql: "update rate_set set output_text_tokens = output_text_tokens * 2 where key = \
              (select key from rate_set where output_text_tokens is not null limit 1)",
        named: &["rate set", "rate_set"],
    },
    Tampering {
        what: "one duplicate row",
        sql: "delete from duplicate where (chain, record_offset, index) = \
              (select chain, record_offset, index from duplicate limit 1)",
        named: &["duplicate"],
    },
    Tampering {
        what: "one rejected row",
        sql: "update rejected_event set payload = 'x' where (chain, record_offset, index) = \
              (select chain, record_offset, index from rejected_event limit 1)",
        named: &["rejected", "rejection"],
    },
    Tampering {
        what: "one rejected row deleted",
        sql: "delete from rejected_event where (chain, record_offset, index) = \
              (select chain, record_offset, index from rejected_event limit 1)",
        named: &["rejected", "rejection"],
    },
    Tampering {
        what: "ids taken twice",
        sql: "insert into event_seen select * from event_seen limit 1",
        named: &["taken twice"],
    },
    Tampering {
        what: "ids given to another source",
        sql: "insert into source (name, topic) values ('other', 'other'); \
              update event_seen set source = (select max(id) from source)",
        named: &["where repeats look for them"],
    },
    Tampering {
        what: "ids numbered above the last taking",
        sql: "update event_seen set number = number + 1000000",
        named: &["where repeats look for them"],
    },
    Tampering {
        what: "ids moved to another stretch of time",
        sql: "update event_seen set stretch = stretch + interval '1 second' where \
              (stretch, chain, part) = (select stretch, chain, part from event_seen limit 1)",
        named: &["where repeats look for them"],
    },
    Tampering {
        what: "the last batch deleted, and the positions put back",
        sql: LAST_BATCH,
        named: &["part", "head"],
    },
    Tampering {
        what: "two parts swapped",
        sql: "update part set number = 1000 + number where number in (2, 3) and chain = 1; \
              update part set number = 1005 - number where number in (1002, 1003) and chain = 1; \
              update posting set part = 5 - part where part in (2, 3) and chain = 1; \
              update rejected_event set part = 5 - part where part in (2, 3) and chain = 1; \
              update duplicate set part = 5 - part where part in (2, 3) and chain = 1",
        named: &["part 2", "part 3"],
    },
];

/// As whoever knows the tables would do it: rows, parts, ids and the roll-up's marks all go back.
const LAST_BATCH: &str = "\
    create temp table gone as select chain, number, from_offset from part \
        where batch = (select max(batch) from part); \
    delete from posting p using gone g where p.chain = g.chain and p.part = g.number; \
    delete from rejected_event p using gone g where p.chain = g.chain and p.part = g.number; \
    delete from duplicate p using gone g where p.chain = g.chain and p.part = g.number; \
    delete from event_seen p using gone g where p.chain = g.chain and p.part = g.number; \
    delete from part p using gone g where p.chain = g.chain and p.number = g.number; \
    update source_position p set part = g.number - 1, part_end = g.from_offset, \
        position = g.from_offset from gone g where p.chain = g.chain";

/// Returns the exit code, the last line, and all that `verify` prints.
fn verify(config: &Config) -> (i32, String, String) {
    let (code, stdout, stderr) = config.run(&["verify"]);
    let last = stdout
        .trim_end()
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned();
    (code, last, format!("{stdout}\n{stderr}"))
}

fn folded_in_several_parts(world: &World, topic: &Topic, config: &Config) {
    let mut load = Load::new(seed("tampered"));
    let ingest = config.ingest();
    // Of a day that is over, so that it has rows of its own.
    let past = now_ms() - 2 * 24 * 60 * 60 * 1000;
    topic.send_texts(2, (0..20).map(|_| load.line_at(past)));
    for _part in 0..5 {
        topic.send_texts(2, load.mixed(200));
        world.await_caught_up(topic);
    }
    // The last batch lies behind the roll-up, its head is told to Kafka.
    wait::until_true("the roll-up reaches the last part", FOLD, || {
        let behind = "select count(*) from source_position p left join rollup_mark m using (chain) \
                      where p.part > coalesce(m.part, 0)";
        world.database.value(behind) == "0"
    });
    wait::until_true("the past day has rows", FOLD, || {
        world.database.number("select count(*) from rolled_day") > 0
    });
    wait::until_true("the heads are told to Kafka", FOLD, || {
        (0..2).all(|partition| {
            let told = world
                .kafka
                .committed(&config.group, topic.name(), partition);
            let (_, end) = world.kafka.watermarks(topic.name(), partition);
            told.is_some_and(|(offset, _)| offset == end)
        })
    });
    drain(&ingest, FOLD);
}

fn each_tampering_is_named() {
    let world = World::new("tampered");
    let topic = world.topic(2);
    let config = world.config(&topic).with_ingest(super::kill::ROLL_UP_OFTEN);
    folded_in_several_parts(&world, &topic, &config);
    let (code, last, all) = verify(&config);
    assert_eq!(code, 0, "nothing was tampered with\n{all}");
    assert!(last.starts_with("verified: "), "{all}");

    let mut failures = Vec::new();
    for tampering in TAMPERINGS {
        // Each tampering begins with a sound ledger.
        let database = world.postgres.copy_of(&world.database);
        let mut session = database.session();
        session.run("set session_replication_role = replica");
        session.run(tampering.sql);
        drop(session);
        let tampered = Config {
            database_url: database.url().to_owned(),
            ..config.clone()
        };
        let (code, last, all) = verify(&tampered);
        let is_named = tampering
            .named
            .iter()
            .any(|name| all.to_lowercase().contains(name));
        if code != 5 || !last.starts_with("differs: ") || !is_named {
            failures.push(format!("--- {}: exit code {code}\n{all}", tampering.what));
        }
    }
    assert!(failures.is_empty(), "not named:\n{}", failures.join("\n"));
}

/// Folds three parts of a hundred lines each on a topic of one partition.
fn three_parts(world: &World, topic: &Topic, config: &Config, load: &mut Load) {
    for _part in 0..3 {
        topic.send_texts(1, load.lines(100));
        config.catch_up();
    }
    let parts = world.database.number("select count(*) from part");
    assert_eq!(parts, 3, "each run folds one part");
}

/// Runs `verify`, which must find nothing that differs, and returns what it prints.
fn verified(config: &Config, says: &[&str]) -> String {
    let (code, last, all) = verify(config);
    assert_eq!(code, 0, "{all}");
    assert!(last.starts_with("verified: "), "{all}");
    for text in says {
        assert!(all.contains(text), "does not say {text:?}:\n{all}");
    }
    all
}

fn what_the_log_dropped_is_not_provable_and_said_to_be() {
    let world = World::new("dropped");
    let topic = world.topic(1);
    let config = world.config(&topic);
    let mut load = Load::new(seed("dropped"));
    three_parts(&world, &topic, &config, &mut load);
    verified(&config, &["3 parts were folded again from 300 records"]);

    world.kafka.delete_records_before(topic.name(), 0, 150);
    let gone = "not provable: parts 1-2: the log begins at offset 150 by now";
    verified(
        &config,
        &[gone, "1 parts were folded again from 100 records"],
    );

    // What the log cannot prove, the hashes still do.
    let mut session = world.database.session();
    session.run("set session_replication_role = replica");
    session.run("update posting set images = images + 1 where part = 1");
    let (code, last, all) = verify(&config);
    assert!(code == 5 && last.starts_with("differs: "), "{all}");
    assert!(all.contains("part 1 claims the hash"), "{all}");
    session.run("update posting set images = images - 1 where part = 1");

    world.kafka.delete_records_before(topic.name(), 0, 300);
    verified(
        &config,
        &["not provable: parts 1-3: the log has dropped the records"],
    );
    world.kafka.delete_topic(topic.name());
    wait::until_true("the topic is gone", FOLD, || {
        let (_, _, all) = verify(&config);
        all.contains("not provable: parts 1-3: the topic does not exist any more")
    });
}

fn another_log_proves_nothing_of_the_one_that_was_folded() {
    let world = World::new("another_log");
    let topic = world.topic(1);
    let config = world.config(&topic);
    let mut load = Load::new(seed("another_log"));
    three_parts(&world, &topic, &config, &mut load);
    world.kafka.delete_topic(topic.name());
    world.kafka.create_topic(topic.name(), 1, &[]);
    topic.send_texts(1, load.lines(50));
    verified(
        &config,
        &["not provable: parts 1-3: the log ends at offset 50"],
    );
    topic.send_texts(1, load.lines(400));
    verified(
        &config,
        &["not provable: parts 1-3: the log holds another record at offset 299"],
    );
}

fn transactions_are_folded_again_and_no_record_is_passed_over() {
    let world = World::new("verify_transactions");
    let topic = world.topic(1);
    let config = world.config(&topic);
    let mut load = Load::new(seed("verify_transactions"));
    for round in 0..3 {
        topic.send_texts(1, load.lines(20));
        for is_kept in [false, true] {
            let transaction = topic.begin(&format!("verify-transactions-{round}-{is_kept}"));
            let lines = load.lines(10);
            transaction.send(lines.iter().map(|line| Record::text(0, line)));
            if is_kept {
                transaction.commit();
            } else {
                transaction.abort();
            }
        }
        config.catch_up();
    }
    // 60 plain records and 30 of committed transactions; 30 were aborted, 6 are markers.
    verified(
        &config,
        &["folded again from 90 records", "0 parts not provable"],
    );

    topic.send_texts(1, load.lines(1));
    let mut session = world.database.session();
    session.run("set session_replication_role = replica");
    session.run("update source_position set position = position + 1");
    let (code, _, all) = verify(&config);
    assert_eq!(code, 5, "{all}");
    assert!(all.contains("belongs to no part"), "{all}");
}

fn duplicates_whose_ids_are_gone_are_proved_by_the_log() {
    let world = World::new("aged_ids");
    let topic = world.topic(2);
    let config = world.config(&topic);
    let lines = Load::new(seed("aged_ids")).lines(60);
    for _time in 0..3 {
        topic.send_texts(2, &lines);
        config.catch_up();
    }
    verified(
        &config,
        &["60 duplicates were counted by the part they name"],
    );

    // As the watermark does once it has passed the window.
    let mut session = world.database.session();
    session.run("set session_replication_role = replica");
    session.run("delete from event_seen");
    let (code, _, all) = verify(&config);
    assert!(code == 5 && all.contains("no part took its id"), "{all}");
    session.run("update source set floor_at = now() + interval '1 day'");
    verified(
        &config,
        &[
            "60 repeated events whose ids are aged out were counted",
            "as the log has it",
        ],
    );

    session.run("update duplicate set first_part = 2 where part = 3 and chain = 1");
    let (code, _, all) = verify(&config);
    assert_eq!(code, 5, "{all}");
    assert!(
        all.contains("duplicates name part 2 of chain 1, which did not count them"),
        "{all}"
    );
}

fn a_broker_that_is_away_leaves_no_verdict() {
    let world = World::new("verify_away");
    let topic = world.topic(1);
    let config = world.config(&topic);
    topic.send_texts(1, Load::new(seed("verify_away")).lines(5));
    config.catch_up();
    let away = Config {
        brokers: "127.0.0.1:9".to_owned(),
        ..config
    };
    let (code, stdout, stderr) = away.run(&["verify"]);
    assert_eq!(code, 4, "{stdout}\n{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    assert!(
        !stdout.contains("verified: ") && !stdout.contains("differs: "),
        "{stdout}"
    );
}
