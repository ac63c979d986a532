//! A real Envoy asks the enforcer: by its rate limit filter, and by `ext_authz` over HTTP and gRPC.

use std::time::Duration;

use crate::harness::envoy::{Gateways, TOKENS_PER_ANSWER, get};
use crate::harness::wait;
use crate::test;

pub(super) const TESTS: &[crate::harness::runner::Test] = &[
    test!(envoy_rls_closes_a_token_limit_by_what_answers_used),
    test!(envoy_authz_http_refuses_with_the_policys_answer),
    test!(envoy_authz_grpc_refuses_with_the_policys_answer),
];

const POLICIES: &str = "
name: tier
limits: [{ name: pace, meter: requests, limit: 2, per: [app], window: { calendar: year } }]
response: { status: 403, headers: [x_ratelimit] }
";

const RULES: &str = "
domain: gateway
descriptors:
  - { key: app, rate_limit: { unit: day, requests_per_unit: 100 } }
";

/// How long the filter's charge may take after its answer.
const CHARGED: Duration = Duration::from_secs(20);

fn envoy_rls_closes_a_token_limit_by_what_answers_used() {
    let gateways = Gateways::start(POLICIES, RULES);
    let ask = |app| get(gateways.rls, "/v1/chat", app).expect("an answer");
    // Each passes while at most the limit is used: 0, 40, 80 of 100; then 120.
    for asked in 0..3 {
        let answer = ask("a");
        assert_eq!(answer.status, 200, "ask {asked}: {answer:?}");
        assert!(
            answer.head.contains("x-ratelimit-limit: 100, 100;w=86400"),
            "{answer:?}"
        );
        // The charge comes after the answer, by a call of its own; b has no part in it.
        let used = TOKENS_PER_ANSWER * (asked + 1);
        let left = 100_u32.saturating_sub(used);
        wait::until_true("the answer is charged", CHARGED, || {
            gateways.left("a") == left
        });
    }
    let refused = ask("a");
    assert_eq!(refused.status, 429, "the limit is passed: {refused:?}");
    assert_eq!(ask("a").status, 429, "and stays so for asks of 0 hits");
    assert_eq!(ask("b").status, 200, "another application goes on");
    gateways.stop();
}

fn envoy_authz_http_refuses_with_the_policys_answer() {
    let gateways = Gateways::start(POLICIES, RULES);
    refuses(gateways.authz_http);
    gateways.stop();
}

fn envoy_authz_grpc_refuses_with_the_policys_answer() {
    let gateways = Gateways::start(POLICIES, RULES);
    refuses(gateways.authz_grpc);
    gateways.stop();
}

fn refuses(port: u16) {
    let ask = |app| get(port, "/v1/chat", app).expect("an answer");
    for remaining in ["1", "0"] {
        let answer = ask("a");
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "ok"),
            "{answer:?}"
        );
        let header = format!("x-ratelimit-remaining: {remaining}");
        assert!(answer.head.contains(&header), "{answer:?}");
    }
    let refused = ask("a");
    assert_eq!(refused.status, 403, "the policy's status: {refused:?}");
    assert!(
        refused
            .head
            .contains("content-type: application/problem+json"),
        "{refused:?}"
    );
    assert!(refused.body.contains(r#""limit":"pace""#), "{refused:?}");
    assert_eq!(ask("b").status, 200, "another application goes on");
}
