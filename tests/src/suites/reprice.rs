//! Re-pricing: the ledger becomes what folding everything under the new book would have made it.

use serde_json::Value;

use super::messages::with_prices;
use crate::harness::load::{Load, seed};
use crate::harness::product::Config;
use crate::harness::runner::Test;
use crate::harness::topic::Topic;
use crate::harness::world::World;
use crate::oracle::{Oracle, compare};
use crate::test;

pub(super) const TESTS: &[Test] = &[test!(unpriced_usage_is_priced_once_after_a_rate_is_added)];

const HEADER: &str = "provider,model,meter,above_input_tokens,usd_per_unit,source\n";

/// Rates of the model that the shipped list lacks.
fn llama(input: &str, output: &str) -> String {
    format!(
        "{HEADER}openai,in-house-llama,input_uncached_tokens,0,{input},test\n\
         openai,in-house-llama,output_text_tokens,0,{output},test\n"
    )
}

fn reprice(config: &Config, arguments: &[&str]) -> Vec<Value> {
    let all = [&["reprice", "--output", "json"], arguments].concat();
    let text = config.output(&all);
    let rows: Value = serde_json::from_str(&text).unwrap();
    rows.as_array().unwrap().clone()
}

fn assert_reported(world: &World, topic: &Topic, prices: &str) {
    let oracle = Oracle::new(topic.name()).with_prices(prices);
    compare::assert_reported(&world.report(), &oracle.fold_topic(topic));
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

const PROVED: &str = "sums that were priced anew are what the journal held then";

fn unpriced_usage_is_priced_once_after_a_rate_is_added() {
    let world = World::new("unpriced_once");
    let topic = world.topic(2);
    let mut load = Load::new(seed("unpriced_once"));
    topic.send_texts(2, load.mixed(600));
    world.config(&topic).catch_up();
    world.assert_exact(&topic);
    let prices = llama("0.00000025", "0.0000011");
    let config = with_prices(world.config(&topic), &prices);
    config.catch_up();
    let before = postings(&world);
    let dry = reprice(&config, &[]);
    assert_eq!(postings(&world), before, "a dry run changes nothing");
    assert!(!dry.is_empty(), "something would change");
    for row in &dry {
        assert_eq!(row["model"], "in-house-llama", "{row}");
        assert!(row["unpriced_before"].as_u64() > Some(0), "{row}");
        assert_eq!(row["unpriced_after"], 0, "{row}");
        assert_eq!(row["unclear_requests"], 0, "{row}");
    }
    let other = reprice(&config, &["--yes", "--model", "gpt-4o"]);
    assert!(other.is_empty(), "no other model changes: {other:?}");
    // A chain without parts yet is sound, too.
    assert_verified(&config, "parts were folded again");
    let posted = reprice(&config, &["--yes", "--because", "the contract of May"]);
    assert_eq!(posted, dry, "what was said is what is posted");
    assert_reported(&world, &topic, &prices);
    assert_verified(&config, PROVED);
    let after = postings(&world);
    assert!(reprice(&config, &["--yes"]).is_empty(), "nothing is left");
    assert_eq!(postings(&world), after, "twice changes nothing");
    let asked = "select because from adjustment where kind = 'reprice'";
    let why = world.database.value(asked);
    assert_eq!(why, "the contract of May", "the ledger keeps it");
    // What is folded from now on has the rate, and is not priced a second time.
    topic.send_texts(2, load.mixed(200));
    config.catch_up();
    assert!(reprice(&config, &["--yes"]).is_empty(), "nothing is left");
    assert_reported(&world, &topic, &prices);
}
