//! The captured traffic of a real gateway, from Kafka to the report.

use serde_json::Value;

use super::oracle::billed_totals;
use crate::harness::load;
use crate::harness::runner::Test;
use crate::harness::world::World;
use crate::oracle::METERS;
use crate::test;

pub(super) const TESTS: &[Test] = &[test!(
    captured_traffic_equals_what_the_upstream_billed,
    "M12",
    "M1"
)];

fn captured_traffic_equals_what_the_upstream_billed() {
    let world = World::new("captured");
    let topic = world.topic(3);
    topic.send_texts(3, load::captured());
    let config = world.config(&topic);
    config.catch_up();
    world.assert_exact(&topic);

    let report = config.output(&["report", "cost", "--by", "app", "--output", "json"]);
    let apps: Vec<Value> = serde_json::from_str(&report).expect("the report is JSON");
    for (meter, billed) in METERS.iter().zip(billed_totals()) {
        let sum: u64 = apps.iter().filter_map(|app| app[*meter].as_u64()).sum();
        assert_eq!(u128::from(sum), billed, "{meter} as billed");
    }
    let app = |name: &str| {
        apps.iter()
            .find(|row| row["app"] == name)
            .expect("an application")
    };
    assert_eq!(
        app("unattributed")["requests"],
        27,
        "requests without a tenant"
    );
    let failed = "select sum(failed_requests), sum(requests) filter (where failed_requests = \
                  requests and input_uncached_tokens + output_text_tokens = 0) from posting";
    assert_eq!(
        world.database.value(failed),
        "25",
        "failed requests count, without tokens"
    );

    // A model that the price book does not have: its tokens are there, its cost is not.
    let report = config.output(&["report", "cost", "--by", "model", "--output", "json"]);
    let models: Vec<Value> = serde_json::from_str(&report).expect("the report is JSON");
    let model = |name: &str| {
        models
            .iter()
            .find(|row| row["model"] == name)
            .expect("a model")
    };
    let unpriced = model("in-house-llama");
    assert!(unpriced["cost"].is_null(), "no rate, no amount: {unpriced}");
    assert_eq!(unpriced["unpriced_requests"], 165, "those that used tokens");
    assert!(
        unpriced["total_tokens"].as_u64() > Some(0),
        "its tokens are posted: {unpriced}"
    );
    assert!(
        model("gpt-4o")["cost"].is_string(),
        "a model with rates has a cost"
    );
}
