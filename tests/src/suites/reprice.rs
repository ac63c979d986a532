//! Re-pricing: the ledger becomes what folding everything under the new book would have made it.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use bigdecimal::BigDecimal;
use serde_json::Value;

use super::messages::with_prices;
use crate::harness::load::{Load, seed};
use crate::harness::product::{Config, drain};
use crate::harness::runner::Test;
use crate::harness::stream::Stream;
use crate::harness::topic::Topic;
use crate::harness::world::{FOLD, World};
use crate::oracle::{Oracle, compare};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(unpriced_usage_is_priced_once_after_a_rate_is_added),
    test!(usage_of_a_provider_that_gets_rates_is_priced),
    test!(other_rates_and_former_adjustments_are_repriced),
    test!(a_reprice_that_is_killed_posts_once),
    test!(reprices_beside_ingest_and_changing_prices_end_exact),
    test!(sums_that_do_not_tell_stay_and_are_counted),
    test!(tampering_with_a_reprice_is_named),
];

/// How long a command may take to reach a fail point.
const DIES: Duration = Duration::from_secs(60);

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

fn other_rates_and_former_adjustments_are_repriced() {
    let world = World::new("reprice_again");
    let topic = world.topic(2);
    let mut load = Load::new(seed("reprice_again"));
    let books = [
        llama("0.5", "0.25"),
        llama("0.00000025", "0.0000011") + "openai,gpt-4o-mini,input_uncached_tokens,0,0.1,test\n",
        llama("0.5", "0.25") + "openai,gpt-4o-mini,input_uncached_tokens,0,0.00000015,test\n",
    ];
    topic.send_texts(2, load.mixed(400));
    world.config(&topic).catch_up();
    for book in &books {
        let config = with_prices(world.config(&topic), book);
        topic.send_texts(2, load.mixed(100));
        config.catch_up();
        let posted = reprice(&config, &["--yes"]);
        assert!(!posted.is_empty(), "each book is another");
        assert_reported(&world, &topic, book);
        assert_verified(&config, PROVED);
        assert!(reprice(&config, &["--yes"]).is_empty(), "nothing is left");
    }
}

fn a_reprice_that_is_killed_posts_once() {
    for point in [
        "adjust::after_position",
        "adjust::before_commit",
        "adjust::after_commit",
    ] {
        let world = World::new(&point.replace("adjust::", "reprice_"));
        let topic = world.topic(1);
        topic.send_texts(1, Load::new(seed(point)).mixed(300));
        world.config(&topic).catch_up();
        let prices = llama("0.00000025", "0.0000011");
        let config = with_prices(world.config(&topic), &prices);
        config.catch_up();
        let dying = config
            .clone()
            .dying_at(point, 0)
            .start(&["reprice", "--yes"]);
        let status = dying.wait(DIES);
        assert_eq!(status.signal(), Some(9), "{point} kills\n{}", dying.log());
        let _rest = reprice(&config, &["--yes"]);
        assert_reported(&world, &topic, &prices);
        assert_verified(&config, PROVED);
    }
}

fn reprices_beside_ingest_and_changing_prices_end_exact() {
    let world = World::new("reprice_beside");
    let topic = world.topic(3);
    let books = [
        llama("0.5", "0.25"),
        llama("0.7", "0.125"),
        llama("0.00000025", "0.0000011"),
    ];
    let config = world.config(&topic).with_ingest(super::kill::ROLL_UP_OFTEN);
    let first = config.ingest();
    let stream = Stream::start(&topic, 3, Load::new(seed("reprice_beside")), 200);
    let mut ingests = vec![first];
    for book in &books {
        world.await_events(world.events() + 150);
        let config = with_prices(config.clone(), book);
        // A second ingest puts the prices in force while the first one folds.
        ingests.push(config.ingest());
        world.await_events(world.events() + 50);
        let reprices: Vec<_> = (0..2)
            .map(|_| config.start(&["reprice", "--yes"]))
            .collect();
        for reprice in &reprices {
            let status = reprice.wait(FOLD);
            assert_eq!(
                status.code(),
                Some(0),
                "{}\n{}",
                reprice.stdout(),
                reprice.stderr()
            );
        }
    }
    stream.stop();
    world.await_caught_up(&topic);
    for ingest in &ingests {
        drain(ingest, FOLD);
    }
    let last = books.last().expect("three books");
    let config = with_prices(config, last);
    config.catch_up();
    let _posted = reprice(&config, &["--yes"]);
    assert_reported(&world, &topic, last);
    assert_verified(&config, PROVED);
}

/// Lines of one application to the model without a rate, all in one quarter-hour of long ago.
fn one_quarter(load: &mut Load, count: usize) -> Vec<String> {
    let at = crate::harness::load::now_ms() / 900_000 * 900_000 - 1_800_000;
    let parts = [
        "in-house-llama",
        "team-00",
        "user-1",
        "rule/1\"",
        "\"response_code\":200",
    ];
    let of_model = |line: &String| parts.iter().all(|part| line.contains(part));
    let mut lines = Vec::new();
    while lines.len() < count {
        let line = load.line_at(at);
        if of_model(&line) {
            lines.push(line);
        }
    }
    lines
}

fn sums_that_do_not_tell_stay_and_are_counted() {
    let world = World::new("reprice_unclear");
    let topic = world.topic(1);
    let mut load = Load::new(seed("reprice_unclear"));
    topic.send_texts(1, one_quarter(&mut load, 12));
    world.config(&topic).catch_up();
    let tiered =
        llama("0.5", "0.25") + "openai,in-house-llama,input_uncached_tokens,20,0.75,test\n";
    let config = with_prices(world.config(&topic), &tiered);
    config.catch_up();
    let before = postings(&world);
    let rows = reprice(&config, &["--yes"]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["unclear_requests"], 12, "{rows:?}");
    assert_eq!(rows[0]["requests"], 0, "{rows:?}");
    assert_eq!(postings(&world), before, "what is unclear stays");
    let said = config.output(&["reprice"]);
    assert!(said.contains("12 requests stay as they are"), "{said}");
    let plain = with_prices(world.config(&topic), &llama("0.5", "0.25"));
    plain.catch_up();
    assert_eq!(
        reprice(&plain, &["--yes"])[0]["requests"],
        12,
        "one tier is clear"
    );
    assert_reported(&world, &topic, &llama("0.5", "0.25"));
    let (code, _, stderr) = plain.run(&["reprice", "--from", "2026-11-01T00:07:00Z"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("not the start of a quarter-hour"),
        "{stderr}"
    );
}

/// What is done behind the product's back, and what `verify` must say.
const TAMPERINGS: &[(&str, &str)] = &[
    (
        "update posting p set amount = amount + 1 from chain c \
         where c.id = p.chain and c.kind = 'adjustment' and p.requests > 0",
        "claims the hash",
    ),
    (
        "delete from adjustment_bound where chain = 1",
        "claims the hash",
    ),
    (
        "update adjustment_bound set part = part - 1 where chain = 1 and part > 1",
        "claims the hash",
    ),
    (
        "delete from posting p using chain c \
         where c.id = p.chain and c.kind = 'adjustment' and p.requests < 0",
        "postings",
    ),
];

fn tampering_with_a_reprice_is_named() {
    let world = World::new("tampered_reprice");
    let topic = world.topic(1);
    let mut load = Load::new(seed("tampered_reprice"));
    topic.send_texts(1, load.mixed(200));
    world.config(&topic).catch_up();
    topic.send_texts(1, load.mixed(100));
    world.config(&topic).catch_up();
    let config = with_prices(world.config(&topic), &llama("0.00000025", "0.0000011"));
    config.catch_up();
    let _posted = reprice(&config, &["--yes"]);
    assert_verified(&config, PROVED);
    world.assert_each_is_named(&config, TAMPERINGS);
}

/// Rates of a provider that the shipped list lacks.
fn in_house() -> String {
    let list = llama("0.00000025", "0.0000011");
    list.replace("\nopenai,", "\nacme-cloud,")
}

fn usage_of_a_provider_that_gets_rates_is_priced() {
    let world = World::new("unknown_provider");
    let topic = world.topic(1);
    let mut load = Load::new(seed("unknown_provider"));
    let lines: Vec<String> = load.mixed(300);
    let of_nobody = lines
        .iter()
        .map(|line| line.replace("default/openai/route", "default/acme-cloud/route"));
    topic.send_texts(1, of_nobody);
    world.config(&topic).catch_up();
    let prices = in_house();
    let config = with_prices(world.config(&topic), &prices);
    config.catch_up();
    let other = reprice(&config, &["--provider", "rule"]);
    assert!(other.is_empty(), "a path is no provider: {other:?}");
    let by_path = "default/acme-cloud/route/chat/rule/0/ref/0";
    let by_path = reprice(&config, &["--provider", by_path]);
    let posted = reprice(&config, &["--yes", "--provider", "acme-cloud"]);
    assert_eq!(posted, by_path, "by the logged name, and by the book's");
    assert!(!posted.is_empty(), "it has rates now");
    for row in &posted {
        assert_eq!(row["model"], "in-house-llama", "{row}");
        assert!(row["unpriced_before"].as_u64() > Some(0), "{row}");
        assert_eq!(row["unpriced_after"], 0, "{row}");
    }
    assert_verified(&config, PROVED);
    let named = "select count(*) from posting p join rate_set r on r.key = p.rate_set
        where r.provider = 'acme-cloud' and p.amount > 0";
    assert!(world.database.number(named) > 0, "by the book's provider");
    let oracle = Oracle::new(topic.name()).with_prices(&prices);
    let cost = world
        .database
        .value("select trim_scale(sum(amount)) from posting");
    let cost: BigDecimal = cost.parse().unwrap();
    assert_eq!(cost, oracle.fold_topic(&topic).cost(), "as folded again");
    assert!(reprice(&config, &["--yes"]).is_empty(), "nothing is left");
}
