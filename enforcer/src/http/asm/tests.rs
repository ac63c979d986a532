//! ASM's two paths.

use super::*;
use crate::sockets::{SetClock, ask, serve};

const CONFIG: &str = r#"[
    {"rate_limit_key_regex":"^regular","redis_expired_seconds":300,"fill_interval_second":30,"tokens_per_fill":10,"max_tokens":50},
    {"rate_limit_key_regex":"user","redis_expired_seconds":300,"fill_interval_second":30,"tokens_per_fill":20,"max_tokens":100}
]"#;

const START: i64 = 1_792_875_754_900;

/// Does steps in order at seconds after the start: `check keys` or `record keys tokens`.
async fn play(steps: &[(i64, &str, &str)]) {
    let clock = SetClock::at(START);
    let asm = Arc::new(Asm::new(CONFIG).unwrap());
    let address = serve(routes(asm, clock.clone())).await;
    for (seconds, step, expected) in steps {
        clock.set(START + seconds * 1_000);
        let words: Vec<_> = step.split(' ').collect();
        let keys: Vec<_> = words[1].split(',').collect();
        let keys = serde_json::to_string(&keys).unwrap();
        let answer = if words[0] == "check" {
            let keys = keys.replace('"', "%22").replace('[', "%5B");
            ask(
                address,
                "GET",
                &format!("/ratelimit?x=1&ratelimit_keys={keys}"),
                b"",
            )
            .await
        } else {
            let body = format!(
                r#"{{"ratelimit_keys":{keys},"prompt_tokens":1000,"completion_tokens":{},"total_tokens":2000,"more":1}}"#,
                words[2]
            );
            ask(address, "POST", "/update_ratelimit_record", body.as_bytes()).await
        };
        let expected = match *expected {
            "" => (200, String::new()),
            "ok" => (200, r#"{"allow":true,"description":"ok"}"#.to_owned()),
            key => (
                200,
                format!(r#"{{"allow":false,"description":"{key} is being rate-limited"}}"#),
            ),
        };
        assert_eq!(answer, expected, "{step} after {seconds} s");
    }
}

#[tokio::test]
async fn a_bucket_begins_with_one_fill_and_goes_below_none() {
    play(&[
        (0, "record regular-user 99", ""),
        (0, "check regular-user", "ok"),
        (0, "record regular-user 9", ""),
        (1, "check regular-user", "ok"),
        (1, "record regular-user 1", ""),
        (1, "check regular-user", "regular-user"),
        (1, "record regular-user 25", ""),
        (30, "check regular-user", "regular-user"),
        (60, "check regular-user", "regular-user"),
        (90, "check regular-user", "ok"),
    ])
    .await;
}

#[tokio::test]
async fn a_fill_loses_the_rest_of_an_interval_and_stops_at_the_most() {
    play(&[
        (0, "check regular", "ok"),
        (0, "record regular 20", ""),
        // One fill after 59 seconds, and none at 60.
        (59, "check regular", "regular"),
        (60, "check regular", "regular"),
        (89, "check regular", "ok"),
        // Eight fills, of which 50 tokens stay.
        (329, "check regular", "ok"),
        (329, "record regular 50", ""),
        (329, "check regular", "regular"),
    ])
    .await;
}

#[tokio::test]
async fn an_idle_bucket_is_forgotten_with_its_debt() {
    play(&[
        (0, "check regular", "ok"),
        (0, "record regular 5000", ""),
        (299, "check regular", "regular"),
        (598, "check regular", "regular"),
        (898, "check regular", "ok"),
    ])
    .await;
}

#[tokio::test]
async fn the_first_rule_and_the_first_key_that_is_limited_decide() {
    play(&[
        (0, "check regular-user,other-user,unknown", "ok"),
        (0, "record regular-user,other-user,unknown 10", ""),
        (0, "check other-user,regular-user", "regular-user"),
        (0, "record other-user 10", ""),
        (0, "check other-user,regular-user", "other-user"),
        (0, "check unknown", "ok"),
    ])
    .await;
}

#[tokio::test]
async fn what_is_unreadable_is_allowed_to_ask_and_refused_to_record() {
    let clock = SetClock::at(START);
    let address = serve(routes(Arc::new(Asm::new(CONFIG).unwrap()), clock)).await;
    let ok = (200, r#"{"allow":true,"description":"ok"}"#.to_owned());
    for query in [
        "",
        "?",
        "?ratelimit_keys=",
        "?ratelimit_keys=%5B",
        "?ratelimit_keys=%zz",
        "?ratelimit_keys=[1]",
        "?ratelimit_keys=null",
    ] {
        assert_eq!(
            ask(address, "GET", &format!("/ratelimit{query}"), b"").await,
            ok,
            "{query}"
        );
    }
    for (body, status) in [
        ("", 400),
        ("[]x", 400),
        (r#"{"completion_tokens":"5"}"#, 400),
        (r#"{"completion_tokens":1.5}"#, 400),
        (r#"{"ratelimit_keys":[1]}"#, 400),
        ("null", 200),
        ("{}", 200),
        (r#"{"ratelimit_keys":null,"completion_tokens":null}"#, 200),
    ] {
        let answer = ask(address, "POST", "/update_ratelimit_record", body.as_bytes()).await;
        assert_eq!(answer.0, status, "{body}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_the_rule() {
    let rule = |regex: &str, interval: i64| {
        format!(
            r#"[{{"rate_limit_key_regex":"{regex}","redis_expired_seconds":1,"fill_interval_second":{interval},"tokens_per_fill":1,"max_tokens":1}}]"#
        )
    };
    for (config, says) in [
        ("{}".to_owned(), "is no JSON array"),
        ("[{}]".to_owned(), "missing field"),
        (
            rule("(", 1),
            "rule 1: `rate_limit_key_regex` is no expression",
        ),
        (rule("x", 0), "rule 1: `fill_interval_second` is at least 1"),
    ] {
        let error = Asm::new(&config).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
