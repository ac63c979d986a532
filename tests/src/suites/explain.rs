//! Denials explained down to the postings, and every service in one process.

use std::time::Duration;

use bigdecimal::BigDecimal;
use serde_json::{Value, json};

use super::limits::file;
use super::replicas::{Replica, apply};
use crate::harness::children::free_port;
use crate::harness::load::{Load, seed};
use crate::harness::product::{Config, drain};
use crate::harness::runner::Test;
use crate::harness::topic::Topic;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(one_process_refuses_and_its_denial_is_explained_by_the_ledger),
    test!(decisions_are_explained_by_what_they_stand_on),
    test!(all_ends_with_the_part_that_fails),
];

/// The application that half of the load belongs to.
const APP: &str = "team-00";

const BUDGETS: &str = "
name: budgets
match: { app: { prefix: team- } }
limits:
  - { name: yearly, meter: cost, limit: \"1.5\", per: [app], window: { calendar: year, timezone: Europe/Berlin } }
";

const BURSTS: &str = "
---
name: bursts
match: { model: m-burst }
limits:
  - { name: burst, meter: requests, limit: 3, window: { sliding: 3h }, from: log }
";

const PACES: &str = "
name: paces
match: { model: m-pace }
limits:
  - { name: pace, meter: requests, limit: 3, per: [app], algorithm: token_bucket, refill: { every: 3600s, amount: 3 }, capacity: 3 }
---
name: slides
match: { model: m-slide }
limits:
  - { name: slide, meter: total_tokens, limit: 100, per: [app], window: { sliding: 1800s }, from: decision }
---
name: months
match: { model: m-month }
limits:
  - { name: month, meter: requests, limit: 4, per: [app], window: { calendar: month } }
---
name: users
match: { model: m-user }
limits:
  - { name: user, meter: requests, limit: 4, per: [user], missing_key: deny, window: { calendar: day } }
---
name: drops
match: { model: m-drop }
limits:
  - { name: drop, meter: requests, limit: 2, per: [app], algorithm: leaky_bucket, refill: { every: 900s, amount: 1 }, capacity: 2 }
";

/// Runs `explain` with these arguments at an enforcer; returns exit code and JSON.
fn explain(config: &Config, replica: &Replica, arguments: &[&str]) -> (i32, Value) {
    let url = replica.url();
    let common = ["explain", "--enforcer", &url, "--output", "json"];
    let (exit, stdout, stderr) = config.run(&[&common, arguments].concat());
    assert!([0, 5].contains(&exit), "{arguments:?}: {exit}: {stderr}");
    (exit, serde_json::from_str(&stdout).unwrap())
}

fn decimal(value: &Value) -> BigDecimal {
    let text = value.as_str();
    text.and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no decimal: {value}"))
}

/// Returns what an application cost, as `report cost` says.
fn reported(config: &Config, app: &str) -> BigDecimal {
    let report = config.output(&["report", "cost", "--by", "app", "--output", "json"]);
    let rows: Vec<Value> = serde_json::from_str(&report).unwrap();
    let row = rows.iter().find(|row| row["app"] == app);
    decimal(&row.expect("it used something")["cost"])
}

/// Sends usage until an application's budget refuses; returns the answer.
fn spend(replica: &Replica, topic: &Topic, load: &mut Load) -> Value {
    for _round in 0..60 {
        topic.send_texts(2, load.lines(40));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
        while tokio::time::Instant::now() < deadline {
            let answer = replica.decide(&json!({"app": APP, "model": "gpt-4o"}));
            if answer["outcome"] == "deny" {
                assert_eq!(answer["limit"], "yearly", "{answer}");
                return answer;
            }
            wait::pause(Duration::from_millis(50));
        }
    }
    panic!("the budget never refuses\n{}", replica.child.log());
}

fn assert_agrees(explained: &(i32, Value)) {
    let (exit, explained) = explained;
    assert_eq!(
        (*exit, &explained["agrees"]),
        (0, &json!(true)),
        "{explained:#}"
    );
}

/// Panics unless series and others sum to their total.
fn assert_sums(sums: &Value) {
    for column in ["cost", "counted"] {
        let series = sums["series"].as_array().unwrap().iter();
        let others = sums["others"].as_object().map(|others| &others[column]);
        let parts = series.map(|row| &row[column]).chain(others);
        let sum: BigDecimal = parts.map(decimal).sum();
        assert_eq!(sum, decimal(&sums["total"][column]), "{column}: {sums:#}");
    }
}

fn one_process_refuses_and_its_denial_is_explained_by_the_ledger() {
    let world = World::new("explain_all");
    let topic = world.topic(2);
    let mut load = Load::new(seed("explain_all"));
    let plain = world.config(&topic);
    // What the ledger holds before there are limits is their opening.
    topic.send_texts(2, load.lines(40));
    plain.catch_up();
    let budgets = file("budgets.yaml", &format!("{BUDGETS}{BURSTS}"));
    let config = plain
        .clone()
        .with_ingest("rollup_interval_ms = 200")
        .with_more(&format!("[policies]\nfiles = [\"{budgets}\"]\n"));
    let all = Replica::start_as("all", &config);
    all.await_ready();
    wait::until_true("the ledger is known", FOLD, || {
        let answer = all.decide(&json!({"app": "team-99"}));
        answer["limit"] == "yearly" && !answer["as_of"].is_null()
    });
    let denied = spend(&all, &topic, &mut load);
    let id = denied["denial"].as_str().unwrap();

    let first = explain(&config, &all, &[id]);
    assert_agrees(&first);
    let (_, first) = first;
    let (ledger, again) = (&first["ledger"], &first["recomputed"]);
    assert_eq!(ledger["is_exact"], true, "{ledger:#}");
    assert_eq!(again["used"], denied["used"], "{again:#}");
    let known = &ledger["known"];
    assert_eq!(
        decimal(&known["total"]["cost"]),
        decimal(&denied["used"]),
        "{first:#}"
    );
    let origins = first["origins"].as_array().unwrap();
    let has = |name: &str| origins.iter().any(|origin| origin["name"] == name);
    assert!(has("opening"), "it counts from before: {origins:#?}");
    assert!(has(&format!("{}/0", topic.name())), "{origins:#?}");

    // What comes after is told apart, and both are what the ledger holds.
    topic.send_texts(2, load.lines(200));
    world.await_caught_up(&topic);
    let later = explain(&config, &all, &[id, "--limit", "3"]);
    assert_agrees(&later);
    let (_, later) = later;
    assert_eq!(
        later["ledger"]["known"]["total"], known["total"],
        "{later:#}"
    );
    let sums = ["known", "since"].map(|which| &later["ledger"][which]);
    sums.into_iter().for_each(assert_sums);
    let [known, since] = sums.map(|sums| decimal(&sums["total"]["cost"]));
    assert!(since > BigDecimal::default(), "{later:#}");
    assert_eq!(known + since, reported(&config, APP), "{later:#}");
    let listed = later["ledger"]["known"]["series"].as_array().unwrap();
    assert_eq!(listed.len(), 3, "bounded: {listed:#?}");

    // The same by a file, by an answer, and for a person.
    let (_, kept) = all.http("GET", &format!("/v1/denials/{id}"), "").unwrap();
    let path = file("denial.json", &kept);
    assert_agrees(&explain(&config, &all, &["--file", &path]));
    let answer = file("answer.json", &denied.to_string());
    assert_agrees(&explain(&config, &all, &["--file", &answer]));
    let table = config.output(&["explain", id, "--enforcer", &all.url()]);
    println!("{table}");
    assert!(table.contains("asked > 1.5: refused"), "{table}");
    assert!(table.contains("Posted since"), "{table}");
    assert!(
        table.ends_with("explained: the denial is what its numbers say\n"),
        "{table}"
    );
    let list = explain(&config, &all, &["--app", APP, "--policy", "budgets"]).1;
    let is_listed = list
        .as_array()
        .unwrap()
        .iter()
        .any(|denial| denial["id"] == id);
    assert!(is_listed, "{list:#}");
    let none = explain(&config, &all, &["--app", "team & co"]).1;
    assert_eq!(none, json!([]), "filtered");

    // Numbers that are not those of then differ, and the ledger says so, too.
    let used = denied["used"].as_str().unwrap();
    let forged = kept.replace(&format!("\"used\":\"{used}\""), "\"used\":\"2.5\"");
    assert_ne!(forged, kept, "it stands there");
    let path = file("forged.json", &forged);
    let (exit, forged) = explain(&config, &all, &["--file", &path]);
    assert_eq!((exit, &forged["agrees"]), (5, &json!(false)), "{forged:#}");
    let is_found = differs(&forged, "verdict") && differs(&forged, "ledger");
    assert!(is_found, "{forged:#}");

    assert_sliding(&config, &all, &world, &topic, &mut load);
    assert_serves_both(&all);
    drain(&all.child, FOLD);
    let path = file("denial.json", &kept);
    assert_explained_later(&world, &config, &all, &path);
}

/// Panics unless a sliding window from the log is explained, whose slots are no quarter-hours.
fn assert_sliding(config: &Config, all: &Replica, world: &World, topic: &Topic, load: &mut Load) {
    // Models are drawn: as many lines as it takes, so that the window is full whatever was drawn.
    let lines = std::iter::repeat_with(|| load.line()).filter(|line| line.contains("\"gpt-4o\""));
    let lines = lines.map(|line| line.replace("\"gpt-4o", "\"m-burst"));
    topic.send_texts(2, lines.take(10).collect::<Vec<_>>());
    world.await_caught_up(topic);
    let denied = wait::until("the window is full", FOLD, || {
        let answer = all.ask("anyone", "m-burst");
        (answer["outcome"] == "deny").then_some(answer)
    });
    let explained = explain(config, all, &[denied["denial"].as_str().unwrap()]);
    assert_agrees(&explained);
    let (_, explained) = explained;
    assert_eq!(explained["ledger"]["is_exact"], false, "{explained:#}");
    assert_eq!(
        explained["recomputed"]["used"], denied["used"],
        "{explained:#}"
    );
}

/// Says whether a finding differs.
fn differs(explained: &Value, of: &str) -> bool {
    let findings = explained["findings"].as_array().unwrap();
    let mut found = findings.iter().filter(|found| found["of"] == of);
    found.any(|found| found["agrees"] == false)
}

/// Panics unless a denial stays explained when prices and policies are others, and what somebody changes
/// in the accounts is found.
fn assert_explained_later(world: &World, config: &Config, all: &Replica, path: &str) {
    let again = || explain(config, all, &["--file", path]);
    let (_, before) = again();
    let list = "provider,model,meter,above_input_tokens,usd_per_unit,source\n\
                openai,in-house-llama,input_uncached_tokens,0,0.00000025,test\n\
                openai,in-house-llama,output_text_tokens,0,0.0000011,test\n";
    let _imported = config.output(&["prices", "import", &file("rates.csv", list)]);
    let _repriced = config.output(&["reprice", "--yes"]);
    apply(config, &BUDGETS.replace("1.5", "100"));
    let after = again();
    assert_agrees(&after);
    let (_, after) = after;
    let ledger = |explained: &Value, which: &str| explained["ledger"][which]["total"].clone();
    assert_eq!(
        ledger(&after, "known"),
        ledger(&before, "known"),
        "{after:#}"
    );
    assert_ne!(
        ledger(&after, "since"),
        ledger(&before, "since"),
        "{after:#}"
    );
    let sums = ["known", "since"].map(|which| decimal(&ledger(&after, which)["cost"]));
    let sum: BigDecimal = sums.into_iter().sum();
    assert_eq!(
        sum,
        reported(config, APP),
        "corrections are since: {after:#}"
    );
    assert_eq!(after["recomputed"]["limit_value"], "1.5", "that of then");
    let origins = after["origins"].as_array().unwrap();
    let is_there = origins.iter().any(|origin| origin["name"] == "adjustment");
    assert!(is_there, "{origins:#?}");
    // An account that somebody changed, though no part did.
    world
        .database
        .run("update account set sum = sum + 1 where origin = 'opening'");
    let (exit, changed) = again();
    assert_eq!(exit, 5, "{changed:#}");
    assert!(differs(&changed, "origins"), "{changed:#}");
    // Accounts go an hour after they counted last; postings stay.
    world.database.run("delete from account");
    let gone = again();
    assert_agrees(&gone);
    assert_eq!(
        ledger(&gone.1, "known"),
        ledger(&before, "known"),
        "{gone:#?}"
    );
}

/// Panics unless both listeners are ready and show one registry.
fn assert_serves_both(all: &Replica) {
    let log = all.child.stderr();
    let mut lines = log.lines();
    let told = lines.find(|line| line.contains("health and metrics"));
    let told: Value = serde_json::from_str(told.expect(&log)).unwrap();
    let ingest = told["http.address"].as_str().unwrap();
    let get = |path: &str| super::command_errors::get(ingest, path);
    assert!(get("/readyz").starts_with("HTTP/1.1 200"), "{log}");
    for metrics in [get("/metrics"), all.metrics()] {
        for room in ["tollbook_ingest_", "tollbook_enforcer_"] {
            assert!(
                metrics.contains(room),
                "{room} is in one registry:\n{metrics}"
            );
        }
    }
}

fn decisions_are_explained_by_what_they_stand_on() {
    let world = World::new("explain_decisions");
    let config = world.bare_config();
    apply(&config, PACES);
    let replica = Replica::start_as("enforcer", &config);
    replica.await_ready();
    wait::until_true("policies are known", FOLD, || {
        replica.ask("z", "m-month")["limit"] == "month"
    });
    let mut report = json!({"app": "a", "model": "m-slide"});
    report["report"] = json!({"total_tokens": 99});
    for _report in 0..2 {
        let _answer = replica.decide(&report);
    }
    for (model, reason) in [
        ("m-pace", "over"),
        ("m-slide", "over"),
        ("m-month", "over"),
        ("m-user", "missing_key"),
        ("m-drop", "over"),
    ] {
        let asked = (0..9).map(|_| replica.ask("a", model));
        let denied = asked.into_iter().find(|answer| answer["outcome"] == "deny");
        let denied = denied.unwrap_or_else(|| panic!("{model} refuses nothing"));
        assert_eq!(denied["reason"], reason, "{denied:#}");
        let id = denied["denial"].as_str().unwrap();
        let explained = explain(&config, &replica, &[id]);
        assert_agrees(&explained);
        if reason == "over" {
            assert_eq!(explained.1["recomputed"]["used"], denied["used"], "{model}");
        }
        if model == "m-month" {
            wait::until_true("what it counted is written", FOLD, || {
                let origins = explain(&config, &replica, &[id]).1["origins"].clone();
                origins[0]["now"] == origins[0]["then"] && origins[0]["then"] == "4"
            });
        }
    }
    what_cannot_be_explained_says_why(&config, &replica);
    drain(&replica.child, FOLD);
}

fn what_cannot_be_explained_says_why(config: &Config, replica: &Replica) {
    let denied = replica.ask("a", "m-month");
    let id = denied["denial"].as_str().unwrap();
    let (_, kept) = replica
        .http("GET", &format!("/v1/denials/{id}"), "")
        .unwrap();
    let written = |name: &str, text: &str| file(name, text);
    let other = kept.replace("\"policies_version\":1", "\"policies_version\":77");
    let other = written("other.json", &other);
    let told: Value = serde_json::from_str(&kept).unwrap();
    let limit = told["limit_id"].as_str().unwrap();
    let unknown = kept.replace(limit, &"0".repeat(limit.len()));
    let unknown = written("unknown.json", &unknown);
    let nonsense = written("nonsense.json", "{\"id\": 7}");
    let url = replica.url();
    let away = format!("http://127.0.0.1:{}", free_port());
    let gone = "0000000000000001-1";
    let rows: [(&[&str], i32, &str); 9] = [
        (&[id, "--enforcer", &away], 4, "does not answer"),
        (&[gone, "--enforcer", &url], 2, "does not keep the denial"),
        (&["seven", "--enforcer", &url], 2, "no denial's id"),
        (&[id, "--enforcer", "ftp://x"], 2, "no URL of an enforcer"),
        (&["--file", "/nowhere.json"], 2, "cannot be read"),
        (&["--file", &nonsense], 2, "is no denial"),
        (&["--file", &other], 2, "policies of version 77"),
        (&["--file", &unknown], 2, "have no limit month"),
        (&[id, "--enforcer", &url, "--output", "csv"], 2, "CSV"),
    ];
    for (arguments, exit, says) in rows {
        let (code, stdout, stderr) = config.run(&[&["explain"], arguments].concat());
        assert_eq!(
            (code, stdout.as_str()),
            (exit, ""),
            "{arguments:?}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

fn all_ends_with_the_part_that_fails() {
    let world = World::new("all_fails");
    let topic = world.topic(1);
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let port = free_port();
    let enforcer = |http: &str| {
        format!(
            "[enforcer]\nhttp = \"{http}\"\ngrpc = \"127.0.0.1:{}\"\n",
            free_port()
        )
    };
    let free = enforcer(&format!("127.0.0.1:{port}"));
    let config = world.config(&topic);
    let taken_by_ingest = Config {
        ingest: String::new(),
        ..config.clone().with_more(&free)
    }
    .with_variable("TOLLBOOK_INGEST_HTTP", &taken.to_string());
    let away = Config {
        database_url: "postgres://tollbook@127.0.0.1:9/nowhere".to_owned(),
        ..config.clone().with_more(&free)
    };
    let rows = [
        (
            config.with_more(&enforcer(&taken.to_string())),
            3,
            "enforcer.http",
        ),
        (taken_by_ingest, 3, "ingest.http"),
        (away, 4, "database.url"),
    ];
    for (config, exit, says) in rows {
        let (code, stdout, stderr) = config.run(&["all"]);
        assert_eq!((code, stdout.as_str()), (exit, ""), "{stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("tollbook: ") && last.contains(says),
            "{stderr}"
        );
    }
}
