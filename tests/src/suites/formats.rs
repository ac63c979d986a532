//! The other formats, from Kafka to the report: LiteLLM's log, and our own CloudEvents whose
//! producers own their ids.

use std::collections::BTreeMap;
use std::path::Path;

use bigdecimal::BigDecimal;
use serde_json::{Value, json};

use crate::harness::folders;
use crate::harness::load::now_ms;
use crate::harness::product::Config;
use crate::harness::runner::Test;
use crate::harness::topic::{Record, Topic};
use crate::harness::world::World;
use crate::oracle::time;
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(litellms_costs_are_litellms_own, "M12"),
    test!(an_id_that_a_producer_owns_is_charged_once, "M1", "M2"),
];

fn source(world: &World, topic: &Topic, format: &str, more: &str) -> Config {
    let mut config = world.bare_config();
    let name = topic.name();
    config.sources.push(format!(
        "[[ingest.sources]]\ntopic = \"{name}\"\nformat = \"{format}\"\n{more}\n"
    ));
    config
}

fn report(config: &Config, by: &str) -> Vec<Value> {
    let report = config.output(&["report", "cost", "--by", by, "--output", "json"]);
    serde_json::from_str(&report).expect("the report is JSON")
}

/// Returns the captured payloads as of a minute ago.
fn payloads() -> Vec<String> {
    let path = folders::workspace().join("testdata/litellm/standard_logging.ndjson");
    let text = std::fs::read_to_string(path).unwrap();
    let first = now_ms() - 60_000;
    let marker = "\"startTime\":";
    let restamped = (first..).zip(text.lines()).map(|(ms, line)| {
        let (before, after) = line.split_once(marker).expect("a payload has a start");
        let (_, after) = after.split_once(',').expect("and more fields");
        format!("{before}{marker}{}.{:03},{after}", ms / 1000, ms % 1000)
    });
    restamped.collect()
}

fn litellms_costs_are_litellms_own() {
    let world = World::new("litellm");
    let topic = world.topic(3);
    let payloads = payloads();
    topic.send_texts(3, payloads.iter().cloned());
    let config = source(&world, &topic, "litellm", "app = \"request_tags.0\"");
    // LiteLLM's own map, as a user has it; the first start puts the shipped prices in force.
    let map = folders::workspace().join("testdata/litellm/price_map.json");
    import(&config, &map);
    config.catch_up();

    let mut theirs: BTreeMap<(String, String), (u64, BigDecimal)> = BTreeMap::new();
    for payload in &payloads {
        let payload: Value = serde_json::from_str(payload).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let key = (
            text(&payload["request_tags"][0]),
            text(&payload["model_group"]),
        );
        let (requests, cost) = theirs.entry(key).or_default();
        *requests += 1;
        *cost += payload["response_cost"]
            .to_string()
            .parse::<BigDecimal>()
            .unwrap();
    }
    let rows = report(&config, "app,model");
    assert_eq!(rows.len(), theirs.len(), "every team and model");
    for row in rows {
        let key = (row["app"].as_str().unwrap(), row["model"].as_str().unwrap());
        let (requests, cost) = &theirs[&(key.0.to_owned(), key.1.to_owned())];
        assert_eq!(row["requests"], *requests, "{key:?}");
        if key.1 == "in-house-llama" {
            assert!(row["cost"].is_null(), "no rate, no amount: {row}");
            assert_eq!(row["unpriced_requests"], *requests, "{row}");
            continue;
        }
        let ours: BigDecimal = row["cost"].as_str().unwrap().parse().unwrap();
        let bound = BigDecimal::new(1.into(), 9) * BigDecimal::from(*requests);
        assert!((&ours - cost).abs() <= bound, "{key:?}: {ours} and {cost}");
    }
    assert_verified(&config);
    // A shipper's repeat, byte for byte, in another partition.
    topic.send(payloads.iter().map(|payload| Record::text(1, payload)));
    config.catch_up();
    let duplicates = "select sum(duplicates) || '/' || sum(accepted) from part";
    let repeated = world.database.value(duplicates);
    assert_eq!(repeated, "100/100", "repeats are charged nothing");
    price_the_llama(&world, &config, &payloads);
}

/// Imports a rate for the model that LiteLLM's map lacks: re-pricing charges its usage once.
fn price_the_llama(world: &World, config: &Config, payloads: &[String]) {
    let others = "select sum(amount) from posting p join series s on s.key = p.series \
        where s.model <> 'in-house-llama'";
    let before = world.database.value(others);
    let rates = folders::make("lists").join("llama.csv");
    let text = "provider,model,meter,above_input_tokens,usd_per_unit,source\n\
        openai,in-house-llama,input_uncached_tokens,0,0.00000025,contract\n\
        openai,in-house-llama,output_text_tokens,0,0.0000011,contract\n";
    std::fs::write(&rates, text).unwrap();
    import(config, &rates);
    let mut expected = BigDecimal::default();
    for payload in payloads {
        let payload: Value = serde_json::from_str(payload).unwrap();
        if payload["model_group"] == "in-house-llama" {
            let tokens = |name: &str| BigDecimal::from(payload[name].as_u64().unwrap());
            expected += tokens("prompt_tokens") * BigDecimal::new(25.into(), 8)
                + tokens("completion_tokens") * BigDecimal::new(11.into(), 7);
        }
    }
    for again in ["once", "twice"] {
        let _posted = config.output(&["reprice", "--yes"]);
        let rows = report(config, "model");
        let llama = rows.iter().find(|row| row["model"] == "in-house-llama");
        let llama = llama.expect("it was used");
        let cost: BigDecimal = llama["cost"].as_str().unwrap().parse().unwrap();
        assert_eq!(cost, expected, "priced {again}");
        assert_eq!(llama["unpriced_requests"], 0, "{llama}");
        assert_eq!(world.database.value(others), before, "others stay");
    }
    assert_verified(config);
}

fn import(config: &Config, list: &Path) {
    let list = list.display().to_string();
    let _told = config.output(&["prices", "import", &list]);
}

fn assert_verified(config: &Config) {
    let verified = config.output(&["verify"]);
    assert!(verified.contains("\nverified: "), "{verified}");
}

fn event(id: &str, input: u64) -> Value {
    json!({
        "specversion": "1.0", "type": "tollbook.usage.v1", "source": "gateway-1", "id": id,
        "time": time::format(now_ms() - 1_000),
        "data": {
            "app": "team-a", "provider": "openai", "model": "gpt-4o-mini",
            "meters": {"input_uncached_tokens": input, "output_text_tokens": 1},
        },
    })
}

fn an_id_that_a_producer_owns_is_charged_once() {
    let world = World::new("owned_ids");
    let topic = world.topic(2);
    let config = source(&world, &topic, "tollbook", "");
    let first = event("one", 10);
    topic.send([
        Record::text(0, &first.to_string()),
        Record::text(0, &event("two", 20).to_string()),
        // A repeat within the batch, and one that says something else.
        Record::text(0, &first.to_string()),
        Record::text(0, &event("two", 2_000).to_string()),
        Record::text(0, "{\"specversion\":\"1.0\"}"),
    ]);
    config.catch_up();
    // In later batches: binary mode in another partition, another payload, and something new.
    let attributes = first
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "data");
    let headers: Vec<(String, String)> = attributes
        .map(|(name, value)| (format!("ce_{name}"), value.as_str().unwrap().to_owned()))
        .collect();
    topic.send_with_headers(&Record::text(1, &first["data"].to_string()), &headers);
    let mut spoilt = first["data"].clone();
    spoilt["aplication"] = json!("team-b");
    topic.send_with_headers(&Record::text(1, &spoilt.to_string()), &headers);
    topic.send([
        Record::text(1, &event("one", 3_000).to_string()),
        Record::text(1, &event("three", 30).to_string()),
    ]);
    config.catch_up();

    let counts = "select sum(accepted) || '/' || sum(duplicates) || '/' || sum(rejected) from part";
    let counted = world.database.value(counts);
    assert_eq!(counted, "3/4/2", "accepted, duplicate, rejected");
    let ids = "select count(*) || '/' || count(distinct payload) from event_seen_by_id";
    let taken = world.database.value(ids);
    assert_eq!(taken, "3/3", "an id and a payload each");
    let of_lines = world.database.number("select count(*) from event_seen");
    assert_eq!(of_lines, 0, "no id of a log line");
    let [row] = <[Value; 1]>::try_from(report(&config, "app")).expect("one application");
    assert_eq!(
        (&row["app"], &row["requests"]),
        (&json!("team-a"), &json!(3)),
        "three events of one application"
    );
    assert_eq!(row["input_tokens"], 60, "the first of each id is charged");
    let kept = "select convert_from(payload, 'UTF8') from rejected_event \
                where reason = 'unknown_field'";
    let kept: Value = serde_json::from_str(&world.database.value(kept)).unwrap();
    assert_eq!(
        kept["id"], "one",
        "a rejected event in binary mode is kept whole"
    );
    assert_eq!(kept["data"], spoilt, "with its data");
    let verified = config.output(&["verify"]);
    assert!(verified.contains("\nverified: "), "{verified}");
    // Ids that a floor may need stay; a tampered one shows.
    let dropped = "select drop_event_seen_by_id_before(current_date + 99, 10)";
    let dropped = world.database.number(dropped);
    assert_eq!(dropped, 0, "a source without a floor keeps all ids");
    let _rows = world
        .database
        .rows("with gone as (delete from event_seen_by_id returning 1) select count(*) from gone");
    let (code, stdout, _) = config.run(&["verify"]);
    assert_eq!(code, 5, "duplicates whose ids nobody took: {stdout}");
}
