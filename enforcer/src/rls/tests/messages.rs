//! Protobuf's JSON.

use super::*;
use crate::rls::json;

#[test]
fn requests_are_read_as_protojson_reads_them() {
    let expected = RateLimitRequest {
        hits_addend: 3,
        ..request(&[hits(5, limited("app=a", 7, 3))])
    };
    for text in [
        r#"{"domain":"gw","descriptors":[{"entries":[{"key":"app","value":"a"}],"limit":{"requestsPerUnit":7,"unit":"HOUR"},"hitsAddend":"5"}],"hitsAddend":3}"#,
        r#"{"domain":"gw","descriptors":[{"entries":[{"key":"app","value":"a"}],"limit":{"requests_per_unit":"7","unit":3},"hits_addend":5}],"hits_addend":"3"}"#,
        r#" {"domain":"gw","descriptors":[{"entries":[{"key":"app","value":"a"}],"limit":{"requestsPerUnit":7.0,"unit":"HOUR"},"hitsAddend":"5.0"}],"hitsAddend":0.3e1} "#,
    ] {
        assert_eq!(json::read(text.as_bytes()).unwrap(), expected, "{text}");
    }
    let bare = r#"{"domain":null,"descriptors":null,"hitsAddend":null}"#;
    assert_eq!(
        json::read(bare.as_bytes()).unwrap(),
        RateLimitRequest::default(),
        "null is absence"
    );
    assert_eq!(
        json::read(b"{}").unwrap(),
        RateLimitRequest::default(),
        "nothing"
    );
    let zero = br#"{"descriptors":[{"hitsAddend":0,"entries":[{}]},{"hitsAddend":null,"limit":null,"entries":null}]}"#;
    let read = json::read(zero).unwrap();
    let addends: Vec<_> = read.descriptors.iter().map(|of| of.hits_addend).collect();
    assert_eq!(addends, [Some(0), None], "0 is not absence");
}

#[test]
fn what_is_no_request_is_refused() {
    for text in [
        "",
        "[]",
        "null",
        "{",
        "{} {}",
        r#"{"domains":"gw"}"#,
        r#"{"domain":5}"#,
        r#"{"domain":"gw","domain":"gw"}"#,
        r#"{"hitsAddend":1,"hits_addend":1}"#,
        r#"{"hitsAddend":-1}"#,
        r#"{"hitsAddend":4294967296}"#,
        r#"{"hitsAddend":1.5}"#,
        r#"{"hitsAddend":" 1"}"#,
        r#"{"hitsAddend":"+1"}"#,
        r#"{"hitsAddend":""}"#,
        r#"{"hitsAddend":true}"#,
        r#"{"descriptors":{}}"#,
        r#"{"descriptors":[null]}"#,
        r#"{"descriptors":[{"hitsAddend":"18446744073709551616"}]}"#,
        r#"{"descriptors":[{"limit":{"unit":"hour"}}]}"#,
        r#"{"descriptors":[{"entries":[{"key":"a","values":"b"}]}]}"#,
        "{\"domain\":\"\u{0}\"}",
    ] {
        assert!(json::read(text.as_bytes()).is_err(), "{text:?} is refused");
    }
    assert!(json::read(b"{\"domain\":\"\xff\"}").is_err(), "not UTF-8");
    assert!(json::read("[".repeat(200_000).as_bytes()).is_err(), "deep");
}

#[test]
fn answers_leave_out_zeros() {
    let rules = "{domain: gw, descriptors: [{key: a, rate_limit: {unit: hour, requests_per_unit: 1, name: n}}]}";
    let rls = service(rules, Options::default());
    let ask = || {
        let answer =
            rls.should_rate_limit(&request(&[descriptor("a=x"), descriptor("b=x")]), at(NOW));
        String::from_utf8(json::write(&answer.unwrap())).unwrap()
    };
    let reset = 3_600 - NOW % 3_600;
    let limit = r#""currentLimit":{"name":"n","requestsPerUnit":1,"unit":"HOUR"}"#;
    for code in ["OK", "OVER_LIMIT"] {
        assert_eq!(
            ask(),
            format!(
                r#"{{"overallCode":"{code}","statuses":[{{"code":"{code}",{limit},"durationUntilReset":"{reset}s"}},{{"code":"OK"}}]}}"#
            )
        );
    }
}
