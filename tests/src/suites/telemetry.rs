//! What processes tell by OTLP: spans of batches and decisions, and the metrics that `/metrics` shows;
//! and that a receiver which is away is nobody's trouble.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::kill::ROLL_UP_OFTEN;
use super::limits::file;
use crate::harness::children::{Child, free_port};
use crate::harness::load::{Load, seed};
use crate::harness::otlp::{Receiver, Sent, hexadecimal};
use crate::harness::product::{Config, drain};
use crate::harness::runner::Test;
use crate::harness::topic::Record;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(batches_decisions_and_metrics_reach_a_receiver),
    test!(a_receiver_that_is_away_is_nobodys_trouble),
];

const POLICIES: &str = "
name: twice
match: { model: m }
limits:
  - { name: two-a-month, meter: requests, limit: 2, per: [app], window: { calendar: month } }
---
name: events
match: { app: { prefix: team- } }
limits:
  - { name: events, meter: requests, limit: 1000000, from: log, window: { calendar: month } }
";

/// The variables of both processes; a part of them by a protocol.
fn pushing(config: &Config, url: &str, protocol: &str) -> Config {
    config
        .clone()
        .with_variable("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .with_variable("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .with_variable("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20secret")
        .with_variable("OTEL_METRIC_EXPORT_INTERVAL", "200")
        .with_variable("OTEL_BSP_SCHEDULE_DELAY", "100")
        .with_variable(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        )
}

/// Starts an enforcer and returns its port of HTTP.
fn enforcer(config: &Config) -> (Child, u16) {
    let port = free_port();
    let more = format!(
        "\n[enforcer]\nhttp = \"127.0.0.1:{port}\"\ngrpc = \"127.0.0.1:{}\"\nthreads = 1\n",
        free_port()
    );
    let child = config.clone().with_more(&more).start(&["enforcer"]);
    wait::until_true("the enforcer is ready", FOLD, || {
        get(port, "/readyz").is_some_and(|(status, _)| status == 200)
    });
    (child, port)
}

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    send(
        port,
        &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"),
    )
}

fn send(port: u16, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// Asks; `headers` end in line breaks.
fn ask(port: u16, ask: &Value, headers: &str) -> Value {
    let body = ask.to_string();
    let request = format!(
        "POST /v1/decisions HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, body) = send(port, &request).expect("an answer");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Returns a trace's id and the header that names it.
fn traceparent(number: u64, flags: &str) -> (String, String) {
    let trace = format!("{:032x}", u128::from(number) | 1 << 100);
    let header = format!("traceparent: 00-{trace}-00f067aa0ba902b7-{flags}\r\n");
    (trace, header)
}

fn of_trace(receiver: &Receiver, service: &str, trace: &str) -> Vec<Sent> {
    let all = receiver.spans(service).into_iter();
    all.filter(|sent| sent.trace() == trace).collect()
}

fn batches_decisions_and_metrics_reach_a_receiver() {
    let world = World::new("telemetry");
    let topic = world.topic(2);
    let policies = file("policies.yaml", POLICIES);
    let config = world
        .config(&topic)
        .with_ingest(ROLL_UP_OFTEN)
        .with_more(&format!("[policies]\nfiles = [\"{policies}\"]\n"));
    for protocol in ["http/protobuf", "grpc"] {
        let receiver = Receiver::start();
        let config = pushing(&config, &receiver.url(), protocol);
        let ingest = config.ingest();
        assert_batches(&world, &receiver, protocol, || {
            let mut load = Load::new(seed(protocol));
            let parent = ("traceparent".to_owned(), LINKED.to_owned());
            topic.send_with_headers(&Record::text(0, &load.line()), &[parent]);
            topic.send_texts(2, load.mixed(500));
            world.await_caught_up(&topic);
        });
        let (deciding, port) = enforcer(&config);
        assert_decisions(&receiver, &deciding, port, protocol);
        drain(&ingest, FOLD);
        let keys = receiver.headers();
        assert!(
            keys.iter().all(|headers| headers["x-key"] == "a secret"),
            "{protocol}: the variable's header comes with each export"
        );
    }
    world.assert_exact(&topic);
}

/// What a producer's record names.
const LINKED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn assert_batches(world: &World, receiver: &Receiver, protocol: &str, fold: impl FnOnce()) {
    let before = world.events();
    fold();
    let folded = world.events() - before;
    let service = "tollbook-ingest";
    let count = |sent: &Sent| -> i64 {
        ["accepted", "duplicate", "rejected", "ignored"]
            .map(|result| sent.says(&format!("tollbook.events.{result}")))
            .map(|text| text.parse::<i64>().unwrap_or_default())
            .iter()
            .sum()
    };
    let batches = wait::until(&format!("{protocol}: spans of all batches"), FOLD, || {
        let mut spans = receiver.spans(service);
        // One that was not committed, since what was in force changed, was read again.
        spans.retain(|sent| sent.span.name == "batch" && is_fine(sent));
        (spans.iter().map(count).sum::<i64>() == folded).then_some(spans)
    });
    let records: i64 = batches
        .iter()
        .map(|sent| {
            sent.says("messaging.batch.message_count")
                .parse::<i64>()
                .unwrap()
        })
        .sum();
    assert_eq!(records, 501, "{protocol}: each record is in one batch");
    for batch in &batches {
        assert_eq!(batch.says("messaging.system"), "kafka", "{batch:?}");
        let partitions = batch.says("tollbook.partitions");
        let names_some = ["/0", "/1"].iter().any(|each| partitions.contains(each));
        assert!(names_some, "{batch:?}");
        assert_eq!(
            batch.resource["deployment.environment.name"], "test",
            "{batch:?}"
        );
        assert_parts(receiver, batch);
    }
    let linked: Vec<_> = batches
        .iter()
        .flat_map(|batch| &batch.span.links)
        .map(|link| hexadecimal(&link.trace_id))
        .collect();
    assert_eq!(linked, ["4bf92f3577b34da6a3ce929d0e0e4736"], "{protocol}");
    wait::until_true("a span of the roll-up", FOLD, || {
        let spans = receiver.spans(service);
        spans.iter().any(|sent| sent.span.name == "roll-up")
    });
    let accepted: i64 = batches
        .iter()
        .map(|sent| {
            sent.says("tollbook.events.accepted")
                .parse::<i64>()
                .unwrap()
        })
        .sum();
    wait::until_true("the metrics say so, too", FOLD, || {
        let name = "tollbook_ingest_events_total";
        let told = receiver.metric(service, name, &[("result", "accepted")]);
        let commits = receiver.metric(service, "tollbook_ingest_commit_seconds", &[]);
        told.is_some_and(|told| (told - lossy(accepted)).abs() < 0.5)
            && commits.is_some_and(|count| (count - lossy(batches.len())).abs() < 0.5)
    });
    for source in ["postgres", "log"] {
        wait::until_true("ages are told", FOLD, || {
            let name = "tollbook_ingest_staleness_seconds";
            receiver
                .metric(service, name, &[("source", source)])
                .is_some()
        });
    }
}

fn is_fine(sent: &Sent) -> bool {
    sent.span.status.as_ref().is_none_or(|of| of.code == 0)
}

/// A batch is folded once and committed once.
fn assert_parts(receiver: &Receiver, batch: &Sent) {
    let mut parts = of_trace(receiver, "tollbook-ingest", &batch.trace());
    parts.retain(|sent| sent.span.parent_span_id == batch.span.span_id);
    for part in &parts {
        let is_within = part.span.start_time_unix_nano >= batch.span.start_time_unix_nano
            && part.span.end_time_unix_nano <= batch.span.end_time_unix_nano;
        assert!(is_within, "{part:?} of {batch:?}");
    }
    let mut names: Vec<_> = parts.iter().map(|part| part.span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["commit", "fold"], "{parts:?} of {batch:?}");
    assert!(parts.iter().all(is_fine), "{parts:?}");
}

fn assert_decisions(receiver: &Receiver, deciding: &Child, port: u16, protocol: &str) {
    let service = "tollbook-enforcer";
    let of = json!({"app": protocol, "model": "m"});
    let traces: Vec<_> = (0..4).map(|number| traceparent(number, "01")).collect();
    let outcomes = traces.iter().map(|(_, header)| {
        let answer = ask(port, &of, header);
        answer["outcome"].as_str().unwrap().to_owned()
    });
    let outcomes: Vec<_> = outcomes.collect();
    assert_eq!(outcomes, ["allow", "allow", "deny", "deny"], "{protocol}");
    let (unsampled, header) = traceparent(99, "00");
    let denied = ask(port, &of, &header);
    assert_eq!(denied["outcome"], "deny", "{denied}");
    for ((trace, _), outcome) in traces.iter().zip(&outcomes) {
        let sent = wait::until("a decision's span", FOLD, || {
            of_trace(receiver, service, trace).pop()
        });
        assert_eq!(sent.span.name, "POST /v1/decisions", "{sent:?}");
        assert_eq!(
            hexadecimal(&sent.span.parent_span_id),
            "00f067aa0ba902b7",
            "{sent:?}"
        );
        assert_eq!(sent.says("tollbook.outcome"), outcome, "{sent:?}");
        assert_eq!(sent.says("tollbook.policy"), "twice", "{sent:?}");
        assert_eq!(sent.says("tollbook.limit"), "two-a-month", "{sent:?}");
        let names_denial = !sent.says("tollbook.denial").is_empty();
        assert_eq!(names_denial, outcome == "deny", "{sent:?}");
    }
    for source in ["feed", "exchange", "policies", "postgres"] {
        wait::until_true(&format!("{protocol}: the age of {source}"), FOLD, || {
            let name = "tollbook_enforcer_staleness_seconds";
            receiver
                .metric(service, name, &[("source", source)])
                .is_some()
        });
    }
    // The last numbers go out at the end, with the last spans.
    let (last, header) = traceparent(7, "01");
    let _denied = ask(port, &of, &header);
    let (_, shown) = get(port, "/metrics").expect("metrics");
    drain(deciding, FOLD);
    assert_eq!(
        of_trace(receiver, service, &last).len(),
        1,
        "sent at the end"
    );
    assert_eq!(
        of_trace(receiver, service, &unsampled).len(),
        0,
        "not sampled"
    );
    let denials = receiver.metric(
        service,
        "tollbook_enforcer_decisions_total",
        &[("outcome", "deny")],
    );
    assert_eq!(denials, Some(4.0), "{protocol}: all denials");
    let line = "tollbook_enforcer_decisions_total{outcome=\"deny\"} 4";
    assert!(
        shown.contains(line),
        "the same name and number as in {shown}"
    );
}

fn a_receiver_that_is_away_is_nobodys_trouble() {
    let world = World::new("telemetry_away");
    let topic = world.topic(2);
    let policies = file("policies.yaml", POLICIES);
    let config = world
        .config(&topic)
        .with_more(&format!("[policies]\nfiles = [\"{policies}\"]\n"));
    let silent = Receiver::start().silent();
    let port = free_port();
    for (what, url, protocol) in [
        (
            "nobody listens",
            format!("http://127.0.0.1:{port}"),
            "http/protobuf",
        ),
        ("nobody listens", format!("http://127.0.0.1:{port}"), "grpc"),
        ("nobody answers", silent.url(), "http/protobuf"),
        ("nobody answers", silent.url(), "grpc"),
    ] {
        let config =
            pushing(&config, &url, protocol).with_variable("OTEL_EXPORTER_OTLP_TIMEOUT", "300");
        let ingest = config.ingest();
        let (deciding, enforcer_port) = enforcer(&config);
        let mut load = Load::new(seed(what));
        topic.send_texts(2, load.mixed(300));
        world.await_caught_up(&topic);
        let (_, header) = traceparent(1, "01");
        let began = Instant::now();
        for _ in 0..50 {
            let answer = ask(enforcer_port, &json!({"app": "a"}), &header);
            assert_eq!(answer["outcome"], "allow", "{what}: {answer}");
        }
        println!("{what}, {protocol}: 50 decisions in {:?}", began.elapsed());
        for child in [&ingest, &deciding] {
            wait::until_true("it is told", FOLD, || told(child, "traces") == 1);
            wait::until_true("it is told", FOLD, || told(child, "metrics") == 1);
        }
        // Some intervals later it still was told once.
        wait::until_true("more exports fail", FOLD, || lost(enforcer_port) >= 4);
        let began = Instant::now();
        for child in [&deciding, &ingest] {
            drain(child, FOLD);
            assert_eq!(
                (told(child, "traces"), told(child, "metrics")),
                (1, 1),
                "once"
            );
        }
        println!("{what}, {protocol}: both end within {:?}", began.elapsed());
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{what}: the end waits"
        );
    }
    world.assert_exact(&topic);
    // It comes while we run.
    let config = pushing(
        &config,
        &format!("http://127.0.0.1:{port}"),
        "http/protobuf",
    );
    let (deciding, _) = enforcer(&config);
    wait::until_true("it is told", FOLD, || told(&deciding, "metrics") == 1);
    let receiver = Receiver::start_on(port);
    wait::until_true("metrics come", FOLD, || {
        let name = "tollbook_enforcer_policies_count";
        receiver.metric("tollbook-enforcer", name, &[]).is_some()
    });
    wait::until_true("it is told", FOLD, || {
        deciding
            .stderr()
            .contains("metrics reach their receiver again")
    });
    drain(&deciding, FOLD);
}

/// Says how often it was told that a signal does not arrive.
fn told(child: &Child, signal: &str) -> usize {
    let log = child.stderr();
    log.matches(&format!("{signal} do not reach their receiver"))
        .count()
}

/// Returns how many exports of metrics were lost.
fn lost(port: u16) -> u64 {
    let (_, shown) = get(port, "/metrics").unwrap_or_default();
    let series = "otel_exports_total{signal=\"metrics\",result=\"lost\"} ";
    let line = shown.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|count| count.parse().ok())
        .unwrap_or_default()
}

fn lossy(count: impl TryInto<u32>) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}
