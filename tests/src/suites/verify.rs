//! `verify` names what was tampered with, and says so of nothing else.

use crate::harness::load::{Load, seed};
use crate::harness::product::{Config, drain};
use crate::harness::runner::Test;
use crate::harness::topic::Topic;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::test;

pub(super) const TESTS: &[Test] = &[test!(each_tampering_is_named)];

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
