//! Golden headers of each convention.

use domain::account::ReplicaId;
use domain::policy::{compile, read};
use domain::request::Request;

use super::*;
use crate::engine::{Ask, Engine, PoliciesInForce, Report, Reported};

/// 2026-10-24T10:00:00Z, ten hours into a day of UTC.
const NOW: i64 = 1_792_836_000_000;

fn at(ms: i64) -> UnixMs {
    UnixMs::new(NOW + ms).unwrap()
}

const LIMITS: &str = "
limits:
  - { name: burst, meter: requests, limit: 2, window: { fixed: 60s } }
  - { name: daily, meter: total_tokens, limit: 1000, window: { calendar: day }, from: decision }
  - { name: pace, meter: requests, limit: 10, algorithm: token_bucket, refill: { every: 30s, amount: 5 } }
  - { name: budget, meter: cost, limit: \"1.5\", window: { calendar: month }, from: decision }
  - { name: watched, meter: requests, limit: 0, window: { fixed: 60s }, enforce: shadow }
";

fn engine(response: &str) -> Engine {
    let yaml = format!("name: golden\n{LIMITS}\nresponse: {response}\n");
    let policies = read("test.yaml", &yaml).unwrap_or_else(|errors| panic!("{errors:?}"));
    let engine = Engine::new(ReplicaId(1), 4);
    engine.swap(PoliciesInForce {
        set: compile(policies).unwrap(),
        ..PoliciesInForce::default()
    });
    engine
}

fn lines(answer: &Answer, reset: XRatelimitReset) -> Vec<String> {
    let written = of(answer, reset);
    let lines = written
        .iter()
        .map(|(name, value)| format!("{name}: {value}"));
    lines.collect()
}

/// The headers of the first ask, and of the third, which is refused.
fn asked(response: &str, reset: XRatelimitReset) -> [Vec<String>; 2] {
    let engine = engine(response);
    let ask = Ask::default();
    let first = engine.decide(&ask, at(0));
    drop(engine.decide(&ask, at(1)));
    let third = engine.decide(&ask, at(1_001));
    assert_eq!(
        (first.outcome, third.outcome),
        (Outcome::Allow, Outcome::Deny)
    );
    [first, third].map(|answer| lines(&answer, reset))
}

const NO_TIME: XRatelimitReset = XRatelimitReset::Seconds;

#[test]
fn ietf_draft_11() {
    let [allowed, refused] = asked("{ headers: [ietf] }", NO_TIME);
    let policy = r#"ratelimit-policy: "burst";q=2;w=60, "daily";q=1000;qu="tokens";w=86400, "pace";q=10;w=60"#;
    assert_eq!(
        allowed,
        [
            policy,
            r#"ratelimit: "burst";r=1;t=60, "daily";r=1000;t=50400, "pace";r=9;t=6"#
        ],
        "the limit that binds first; nothing of cost or in shadow"
    );
    assert_eq!(
        refused,
        [
            policy,
            r#"ratelimit: "burst";r=0;t=59, "daily";r=1000;t=50399, "pace";r=8;t=11"#,
            "retry-after: 59"
        ],
        "never earlier than there is room"
    );
}

#[test]
fn x_ratelimit_in_both_conventions() {
    let [allowed, refused] = asked("{ headers: [x_ratelimit] }", XRatelimitReset::Seconds);
    assert_eq!(
        allowed,
        [
            "x-ratelimit-limit: 2",
            "x-ratelimit-remaining: 1",
            "x-ratelimit-reset: 60"
        ],
        "seconds from now"
    );
    assert_eq!(
        refused,
        [
            "x-ratelimit-limit: 2",
            "x-ratelimit-remaining: 0",
            "x-ratelimit-reset: 59",
            "retry-after: 59"
        ],
        "refused"
    );
    let [allowed, _] = asked("{ headers: [x_ratelimit] }", XRatelimitReset::Unix);
    assert_eq!(allowed[2], "x-ratelimit-reset: 1792836060", "an instant");
}

#[test]
fn openai_style() {
    let [allowed, refused] = asked("{ headers: [openai], retry_after: false }", NO_TIME);
    assert_eq!(
        allowed,
        [
            "x-ratelimit-limit-requests: 2",
            "x-ratelimit-remaining-requests: 1",
            "x-ratelimit-reset-requests: 1m0s",
            "x-ratelimit-limit-tokens: 1000",
            "x-ratelimit-remaining-tokens: 1000",
            "x-ratelimit-reset-tokens: 14h0m0s",
        ],
        "requests and tokens"
    );
    assert_eq!(
        refused.len(),
        6,
        "no Retry-After where the policy wants none: {refused:?}"
    );
    assert_eq!(refused[2], "x-ratelimit-reset-requests: 59s", "rounded up");
}

#[test]
fn a_spent_budget_tells_clients_to_stop() {
    let engine = engine(
        "{ status: 402, headers: [openai, x_ratelimit], extra_headers: { x-reason: budget } }",
    );
    let report = Report {
        request: Request::default(),
        used: Reported {
            cost: Some("1.5".parse().unwrap()),
            ..Reported::default()
        },
    };
    drop(engine.report(&report, at(0)));
    let refused = lines(&engine.decide(&Ask::default(), at(1)), NO_TIME);
    let expected = [
        "x-ratelimit-limit: 2",
        "x-ratelimit-remaining: 2",
        "x-ratelimit-reset: 60",
        "retry-after: 655200",
        "x-should-retry: false",
        "x-reason: budget",
    ];
    assert_eq!(refused[6..], expected, "{refused:?}");
}

#[test]
fn numbers_that_are_away_tell_nobody_to_stop() {
    let yaml = "
name: away
limits: [{ name: tokens, meter: total_tokens, limit: 100, window: { calendar: day } }]
on_unavailable: { decide: deny, after: 30s }
response: { headers: [openai] }
";
    let engine = Engine::new(ReplicaId(1), 4);
    engine.swap(PoliciesInForce {
        set: compile(read("test.yaml", yaml).unwrap()).unwrap(),
        ..PoliciesInForce::default()
    });
    let answer = engine.decide(&Ask::default(), at(0));
    assert_eq!(answer.reason, Reason::Unavailable, "{answer:?}");
    let written = lines(&answer, NO_TIME);
    let stops = written.iter().any(|line| line.contains("should-retry"));
    assert!(!stops, "{written:?}");
}

#[test]
fn no_limit_no_headers() {
    let engine = Engine::new(ReplicaId(1), 4);
    let answer = engine.decide(&Ask::default(), at(0));
    assert_eq!(lines(&answer, NO_TIME), [""; 0], "nothing to tell");
}

#[test]
fn durations_are_written_as_go_does() {
    let cases = [
        (-5, "0s"),
        (0, "0s"),
        (120, "120ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (59_001, "1m0s"),
        (360_000, "6m0s"),
        (3_600_000, "1h0m0s"),
        (90_061_000, "25h1m1s"),
    ];
    for (ms, expected) in cases {
        assert_eq!(duration(ms), expected, "{ms} ms");
    }
}

#[test]
fn limits_of_one_name_are_told_apart() {
    let yaml = "
name: one
limits: [{ name: day, meter: requests, limit: 5, window: { calendar: day } }]
---
name: two
limits: [{ name: day, meter: requests, limit: 9, window: { calendar: day } }]
";
    let engine = Engine::new(ReplicaId(1), 4);
    engine.swap(PoliciesInForce {
        set: compile(read("test.yaml", yaml).unwrap()).unwrap(),
        ..PoliciesInForce::default()
    });
    let answer = engine.decide(&Ask::default(), at(0));
    assert_eq!(
        lines(&answer, NO_TIME)[0],
        r#"ratelimit-policy: "one/day";q=5;w=86400, "two/day";q=9;w=86400"#,
        "by their policies"
    );
}
