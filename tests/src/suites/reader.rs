//! A reader in a loop under load always sees roll-up + rest equal to the sum of postings.

use bigdecimal::BigDecimal;
use serde_json::Value;

use crate::harness::load::{Load, seed};
use crate::harness::product::drain;
use crate::harness::runner::Test;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::test;

pub(super) const TESTS: &[Test] = &[test!(reader_sees_the_sum_of_postings_at_every_instant)];

/// Requests, tokens and cost.
type Totals = (i64, i64, BigDecimal);

fn posted(world: &World) -> Totals {
    let sql = "select coalesce(sum(requests), 0), coalesce(sum(input_uncached_tokens + \
               input_cache_read_tokens + input_cache_write_tokens + output_text_tokens + \
               output_reasoning_tokens), 0), coalesce(sum(amount), 0)::text from posting";
    let row: Vec<String> = world
        .database
        .rows(sql)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    let [requests, tokens, amount] = row.as_slice() else {
        panic!("three sums: {row:?}")
    };
    (
        requests.parse().unwrap(),
        tokens.parse().unwrap(),
        amount.parse().unwrap(),
    )
}

fn reported(world: &World) -> Totals {
    let report = world
        .bare_config()
        .output(&["report", "cost", "--by", "tenant", "--output", "json"]);
    let rows: Vec<Value> = serde_json::from_str(&report).expect("the report is JSON");
    let mut totals = Totals::default();
    for row in rows {
        totals.0 += row["requests"].as_i64().expect("an integer");
        totals.1 += row["total_tokens"].as_i64().expect("an integer");
        totals.2 += row["cost"]
            .as_str()
            .map_or_else(BigDecimal::default, |c| c.parse().unwrap());
    }
    totals
}

fn marks(world: &World) -> i64 {
    world
        .database
        .number("select coalesce(sum(part), 0) from rollup_mark")
}

fn reader_sees_the_sum_of_postings_at_every_instant() {
    let world = World::new("reader");
    let topic = world.topic(2);
    let config = world.config(&topic).with_ingest("rollup_interval_ms = 50");
    let mut load = Load::new(seed("reader"));
    let ingest = config.ingest();
    let (mut exact, mut rolled) = (0, 0);
    // Commits come in bursts, so that between two of them the sum stands still while the roll-up
    // moves: there the report must hit it exactly, elsewhere lie between the sums around it.
    for _burst in 0..60 {
        topic.send_texts(2, load.mixed(40));
        let (before, mark) = (posted(&world), marks(&world));
        let report = reported(&world);
        let after = posted(&world);
        assert!(
            before.0 <= report.0 && report.0 <= after.0,
            "requests: {} then {} then {}",
            before.0,
            report.0,
            after.0
        );
        assert!(
            before.2 <= report.2 && report.2 <= after.2,
            "cost: {} then {} then {}",
            before.2,
            report.2,
            after.2
        );
        if before == after {
            assert_eq!(report, before, "the report of a ledger at rest");
            exact += 1;
        }
        rolled += i64::from(marks(&world) > mark);
    }
    wait::until_true("the roll-up has moved", FOLD, || marks(&world) > 0);
    println!("reader: {exact} of 60 reports at rest, {rolled} while the roll-up moved");
    assert!(exact + rolled > 0, "the load leaves nothing to compare");
    world.await_caught_up(&topic);
    drain(&ingest, FOLD);
    assert_eq!(reported(&world), posted(&world), "at the end");
    world.assert_exact(&topic);
}
