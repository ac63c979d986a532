//! Enforcers side by side: three processes count alike, come back with what was counted, and go on while
//! Kafka or Postgres is away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::limits::file;
use crate::harness::children::{Child, free_port};
use crate::harness::kafka::Kafka;
use crate::harness::load::{Load, seed};
use crate::harness::postgres::Postgres;
use crate::harness::product::{Config, drain};
use crate::harness::runner::Test;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(three_replicas_count_alike),
    test!(a_killed_replica_comes_back_with_what_was_counted),
    test!(changed_limits_act_on_every_replica),
    test!(decisions_go_on_while_kafka_and_postgres_are_away, "E2"),
];

/// How long replicas may take to agree on a busy machine; how long they took is printed.
const AGREE: Duration = Duration::from_secs(20);

/// The longest that a decision may take while servers are away, on a busy machine.
const ANSWER: Duration = Duration::from_secs(2);

/// One limit each, by application, so that an answer tells of one.
const POLICIES: &str = "
name: minutes
match: { model: m-minute }
limits:
  - { name: minute, meter: requests, limit: 1000, per: [app], window: { sliding: 1800s } }
---
name: hours
match: { model: m-hour }
limits:
  - { name: hour, meter: requests, limit: 1000, per: [app], window: { calendar: month } }
---
name: paces
match: { model: m-pace }
limits:
  - { name: pace, meter: requests, limit: 10, per: [app], algorithm: token_bucket, refill: { every: 3600s, amount: 10 }, capacity: 1000 }
---
name: logged
match: { route: logged }
limits:
  - { name: logged, meter: requests, limit: 1000000, per: [app], from: log, window: { calendar: month } }
on_unavailable: { decide: deny, after: 5s }
---
name: events
match: { app: { prefix: team- } }
limits:
  - { name: events, meter: requests, limit: 1000000, from: log, window: { calendar: month } }
";

/// A running enforcer.
pub(super) struct Replica {
    pub(super) child: Child,
    port: u16,
}

impl Replica {
    fn start(config: &Config) -> Self {
        Self::start_as("enforcer", config)
    }

    /// Starts a command that serves decisions.
    pub(super) fn start_as(command: &str, config: &Config) -> Self {
        let port = free_port();
        let more = format!(
            "\n[enforcer]\nhttp = \"127.0.0.1:{port}\"\ngrpc = \"127.0.0.1:{}\"\nthreads = 1\n",
            free_port()
        );
        let config = config.clone().with_more(&more);
        Self {
            child: config.start(&[command]),
            port,
        }
    }

    /// Returns where it is asked.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts so many and waits until they are ready.
    fn fleet(config: &Config, count: usize) -> Vec<Self> {
        let fleet: Vec<_> = (0..count).map(|_| Self::start(config)).collect();
        fleet.iter().for_each(Self::await_ready);
        fleet
    }

    pub(super) fn await_ready(&self) {
        wait::until_true("the enforcer is ready", FOLD, || {
            self.http("GET", "/readyz", "")
                .is_some_and(|(status, _)| status == 200)
        });
    }

    pub(super) fn http(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, body.to_owned()))
    }

    pub(super) fn decide(&self, ask: &Value) -> Value {
        let answered = self.http("POST", "/v1/decisions", &ask.to_string());
        let (status, body) = answered.unwrap_or_else(|| panic!("no answer\n{}", self.child.log()));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(super) fn ask(&self, app: &str, model: &str) -> Value {
        self.decide(&json!({"app": app, "model": model}))
    }

    /// Returns how much of the limit is used, without using any.
    fn used(&self, of: &Value) -> i64 {
        let mut report = of.clone();
        report["report"] = json!({"total_tokens": 0});
        let answer = self.decide(&report);
        let used = answer["used"].as_str();
        let used = used.unwrap_or_else(|| panic!("no limit holds: {answer}"));
        used.parse().unwrap()
    }

    pub(super) fn metrics(&self) -> String {
        self.http("GET", "/metrics", "").unwrap_or_default().1
    }
}

fn of(app: &str, model: &str) -> Value {
    json!({"app": app, "model": model})
}

/// Waits until all replicas say the same; prints how long that took.
fn await_alike(fleet: &[Replica], of: &Value, expected: i64) {
    let began = Instant::now();
    let what = format!("{expected} used of {of}");
    wait::until_true(&what, AGREE, || {
        let used: Vec<_> = fleet.iter().map(|replica| replica.used(of)).collect();
        used.iter().all(|used| *used == expected)
    });
    println!("alike after {:?}: {what}", began.elapsed());
}

pub(super) fn apply(config: &Config, text: &str) {
    let _applied = config.output(&["policy", "apply", &file("replicas.yaml", text)]);
}

const MODELS: [&str; 3] = ["m-minute", "m-hour", "m-pace"];

fn three_replicas_count_alike() {
    let world = World::new("replicas_alike");
    let config = world.bare_config();
    apply(&config, POLICIES);
    let fleet = Replica::fleet(&config, 3);
    for model in MODELS {
        let mut expected = 0;
        for round in 0..5_i64 {
            for (replica, count) in fleet.iter().zip([7, 1 + round, 0]) {
                for _ask in 0..count {
                    let answer = replica.ask("a", model);
                    assert_eq!(answer["outcome"], "allow", "{answer}");
                }
                expected += count;
            }
            await_alike(&fleet, &of("a", model), expected);
        }
        await_alike(&fleet, &of("b", model), 0);
    }
    // Asks one after the other: whatever the replicas, the limit is never passed by more than what was
    // admitted within an exchange.
    let mut allowed = 0;
    for _round in 0..1_000 {
        for replica in &fleet {
            let answer = replica.ask("c", "m-minute");
            allowed += i64::from(answer["outcome"] == "allow");
        }
        if allowed >= 1_000 {
            break;
        }
    }
    await_alike(&fleet, &of("c", "m-minute"), allowed);
    assert!((1_000..1_100).contains(&allowed), "{allowed} of 1000");
    let denied = fleet.iter().all(|replica| {
        let answer = replica.ask("c", "m-minute");
        answer["outcome"] == "deny"
    });
    assert!(denied, "all refuse");
    for replica in &fleet {
        drain(&replica.child, FOLD);
    }
}

fn a_killed_replica_comes_back_with_what_was_counted() {
    let world = World::new("replicas_killed");
    let topic = world.topic(2);
    let config = world.config(&topic);
    let ingest = config.ingest();
    apply(&config, POLICIES);
    let mut fleet = Replica::fleet(&config, 2);
    let mut load = Load::new(seed("replicas_killed"));
    topic.send_texts(2, load.mixed(500));
    world.await_caught_up(&topic);
    for model in MODELS {
        for _ask in 0..9 {
            let _answer = fleet[1].ask("a", model);
        }
        await_alike(&fleet, &of("a", model), 9);
    }
    let events = json!({"app": "team-00"});
    let accounts = "select coalesce(sum(sum), 0)::bigint from account";
    let counted = world.database.number(accounts);
    assert!(counted > 0, "something was logged");
    await_alike(&fleet, &events, counted);
    wait::until_true("long windows are in Postgres", FOLD, || {
        world
            .database
            .number("select count(*) from replica_account")
            >= 2
    });
    for victim in [1, 0, 1] {
        fleet[victim].child.kill();
        fleet[victim] = Replica::start(&config);
        fleet[victim].await_ready();
        // Ready means that it knows: nothing is waited for.
        assert_eq!(fleet[victim].used(&events), counted, "log-counted");
        for model in MODELS {
            assert_eq!(fleet[victim].used(&of("a", model)), 9, "{model}");
        }
    }
    // All of them at once: what Postgres and the topics hold is enough.
    fleet.iter().for_each(|replica| replica.child.kill());
    let fleet = Replica::fleet(&config, 2);
    for model in MODELS {
        await_alike(&fleet, &of("a", model), 9);
    }
    await_alike(&fleet, &events, counted);
    topic.send_texts(2, load.mixed(500));
    world.await_caught_up(&topic);
    let counted = world.database.number(accounts);
    await_alike(&fleet, &events, counted);
    drain(&ingest, FOLD);
}

fn changed_limits_act_on_every_replica() {
    let world = World::new("replicas_changed");
    let config = world.bare_config();
    apply(&config, POLICIES);
    let fleet = Replica::fleet(&config, 2);
    for _ask in 0..5 {
        let _answer = fleet[0].ask("a", "m-hour");
    }
    await_alike(&fleet, &of("a", "m-hour"), 5);
    for limit in [5_i64, 7, 2_000] {
        apply(
            &config,
            &POLICIES.replacen(
                "name: hour, meter: requests, limit: 1000",
                &format!("name: hour, meter: requests, limit: {limit}"),
                1,
            ),
        );
        let began = Instant::now();
        wait::until_true("the new limit acts everywhere", AGREE, || {
            fleet.iter().all(|replica| {
                let mut report = of("a", "m-hour");
                report["report"] = json!({"total_tokens": 0});
                let found = replica.decide(&report)["limit_value"].clone();
                found
                    .as_str()
                    .is_some_and(|found| found.parse() == Ok(limit))
            })
        });
        println!("{limit} acts after {:?}", began.elapsed());
        // What was counted stays.
        await_alike(&fleet, &of("a", "m-hour"), 5);
    }
}

/// Asks all replicas, none of which may wait for a server that is away.
fn ask_all(fleet: &[Replica], model: &str) {
    for replica in fleet {
        let began = Instant::now();
        let answer = replica.ask("a", model);
        assert_eq!(answer["outcome"], "allow", "{answer}");
        assert!(began.elapsed() < ANSWER, "waited {:?}", began.elapsed());
    }
}

fn decisions_go_on_while_kafka_and_postgres_are_away() {
    let kafka = Kafka::private("kafka-replicas");
    let postgres = Postgres::private("postgres-replicas");
    let world = World::on("replicas_away", postgres, kafka);
    let topic = world.topic(1);
    let config = world.config(&topic);
    let _ingest = config.ingest();
    apply(&config, POLICIES);
    let mut fleet = Replica::fleet(&config, 2);
    let logged = json!({"app": "a", "route": "logged"});
    let outcome =
        |replica: &Replica, expected: &str| replica.decide(&logged)["outcome"] == expected;
    let mut expected = 0;
    ask_all(&fleet, "m-minute");
    expected += 2;
    await_alike(&fleet, &of("a", "m-minute"), expected);
    wait::until_true("the log is known", FOLD, || {
        fleet.iter().all(|replica| outcome(replica, "allow"))
    });
    for (away_kafka, away_postgres) in [(true, false), (false, true), (true, true)] {
        if away_kafka {
            world.kafka.stop(Signal::KILL);
        }
        if away_postgres {
            world.postgres.stop(Signal::QUIT);
        }
        for _ask in 0..20 {
            ask_all(&fleet, "m-minute");
            expected += 2;
        }
        // Nobody folds the log without Postgres, so what is known of it grows old.
        if away_postgres {
            wait::until_true("on_unavailable acts", FOLD, || {
                fleet.iter().all(|replica| outcome(replica, "deny"))
            });
            let reason = fleet[0].decide(&logged)["reason"].clone();
            assert_eq!(reason, "unavailable", "not over the limit");
        }
        ask_all(&fleet, "m-hour");
        if away_kafka {
            world.kafka.start();
        }
        if away_postgres {
            world.postgres.start();
        }
        await_alike(&fleet, &of("a", "m-minute"), expected);
        wait::until_true("the log is known again", FOLD, || {
            fleet.iter().all(|replica| outcome(replica, "allow"))
        });
        println!("healed: kafka {away_kafka}, postgres {away_postgres}");
    }
    await_alike(&fleet, &of("a", "m-hour"), 6);
    assert!(
        fleet[0]
            .metrics()
            .contains("tollbook_enforcer_staleness_seconds"),
        "ages are told"
    );
    // A start without any server, and so without policies: it decides nothing until they are back.
    world.kafka.stop(Signal::KILL);
    world.postgres.stop(Signal::QUIT);
    fleet[0].child.kill();
    fleet[0] = Replica::start(&config);
    wait::until_true("it waits for policies", FOLD, || {
        let ready = fleet[0].http("GET", "/readyz", "");
        ready.is_some_and(|(status, why)| status == 503 && why.contains("no policies"))
    });
    let asked = fleet[0].http("POST", "/v1/decisions", r#"{"app":"a"}"#);
    assert_eq!(
        asked.map(|(status, _)| status),
        Some(503),
        "it does not guess"
    );
    world.kafka.start();
    world.postgres.start();
    fleet[0].await_ready();
    wait::until_true("it knows what was counted", FOLD, || {
        let answer = fleet[0].ask("z", "m-minute");
        answer["limit"] == "minute"
    });
    await_alike(&fleet, &of("a", "m-minute"), expected);
}
