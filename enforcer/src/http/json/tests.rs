//! `/json` and `/healthcheck`.

use domain::account::ReplicaId;

use super::*;
use crate::counters::Counters;
use crate::rls::{OneDomain, Options, RuleFile, load};
use crate::sockets::{SetClock, ask, serve};

#[tokio::test]
async fn requests_are_answered_with_the_status_of_their_code() {
    let text =
        "{domain: gw, descriptors: [{key: app, rate_limit: {unit: hour, requests_per_unit: 1}}]}";
    let (path, text) = ("a.yaml".to_owned(), text.to_owned());
    let rules = load(&[RuleFile { path, text }], OneDomain::Refused)
        .unwrap()
        .rules;
    let counters = Arc::new(Counters::new(ReplicaId(1), usize::MAX));
    let rls = Arc::new(Rls::new(counters, Options::default()).unwrap());
    rls.swap(rules);
    let readiness = Readiness::new();
    let clock = SetClock::at(1_792_875_754_000);
    let address = serve(routes(rls, readiness.clone(), clock)).await;

    let body = br#"{"domain":"gw","descriptors":[{"entries":[{"key":"app","value":"a"}]}]}"#;
    for (expected, code) in [(200, "OK"), (429, "OVER_LIMIT")] {
        let (status, answer) = ask(address, "POST", "/json", body).await;
        assert_eq!(status, expected, "{answer}");
        assert!(
            answer.starts_with(&format!(r#"{{"overallCode":"{code}""#)),
            "{answer}"
        );
    }
    let huge = vec![b' '; 300_000];
    for (body, expected, says) in [
        (&b""[..], 400, "no RateLimitRequest"),
        (b"{\"x\":1}", 400, "unknown field `x`"),
        (b"{}", 400, "rate limit domain must not be empty"),
        (
            b"{\"domain\":\"gw\"}",
            400,
            "rate limit descriptor list must not be empty",
        ),
        (&huge, 413, ""),
    ] {
        let (status, answer) = ask(address, "POST", "/json", body).await;
        assert_eq!(status, expected, "{answer}");
        assert!(answer.contains(says), "{answer}");
    }
    assert_eq!(
        ask(address, "GET", "/healthcheck", b"").await.0,
        500,
        "not ready"
    );
    readiness.ready();
    let healthy = ask(address, "GET", "/healthcheck", b"").await;
    assert_eq!(healthy, (200, "OK".to_owned()), "ready");
}
