//! Answers case by case: each row of the semantics.

use super::*;
use crate::grpc::wire::{CODE_OK, CODE_OVER_LIMIT, HeaderValue, RateLimitResponse};
use crate::rls::{Denied, HeaderNames, Refusal};

const RULES: &str = "
domain: gw
descriptors:
  - { key: app, rate_limit: { unit: hour, requests_per_unit: 10 } }
  - { key: none, rate_limit: { unit: hour, requests_per_unit: 0 } }
  - { key: root, rate_limit: { unlimited: true } }
  - { key: vip, rate_limit: { unlimited: true, replaces: [{ name: small }] } }
  - { key: small, rate_limit: { unit: day, requests_per_unit: 1, name: small } }
  - { key: dark, shadow_mode: true, rate_limit: { unit: second, requests_per_unit: 2 } }
  - { key: qa, quota_mode: true, rate_limit: { unit: minute, requests_per_unit: 1 } }
  - { key: qb, quota_mode: true, rate_limit: { unit: minute, requests_per_unit: 3 } }
  - { key: most, rate_limit: { unit: year, requests_per_unit: 4294967295 } }
";

/// Writes an answer in short: the overall code, then each status as code, limit and remaining.
fn short(answer: &RateLimitResponse) -> String {
    let code = |code| {
        if code == CODE_OVER_LIMIT {
            "over"
        } else {
            "ok"
        }
    };
    let statuses = answer.statuses.iter().map(|status| {
        let limit = status.current_limit.as_ref();
        let limit = limit.map_or("-".to_owned(), |limit| limit.requests_per_unit.to_string());
        format!("{} {limit} {}", code(status.code), status.limit_remaining)
    });
    let statuses: Vec<_> = statuses.collect();
    format!("{}: {}", code(answer.overall_code), statuses.join(", "))
}

/// Asks in order; all of one case in one service.
fn check(options: &Options, cases: &[(&[Descriptor], &str)]) {
    let rls = service(RULES, options.clone());
    for (index, (descriptors, expected)) in cases.iter().enumerate() {
        let answer = rls
            .should_rate_limit(&request(descriptors), at(NOW))
            .unwrap();
        assert_eq!(short(&answer), *expected, "ask {index}: {descriptors:?}");
    }
}

#[test]
fn hits_count_per_descriptor_and_a_check_at_the_limit_passes() {
    let app = |n| [hits(n, descriptor("app=a"))];
    check(
        &Options::default(),
        &[
            (&app(4), "ok: ok 10 6"),
            (&app(0), "ok: ok 10 6"),
            (&app(6), "ok: ok 10 0"),
            (&app(0), "ok: ok 10 0"),
            (&[descriptor("app=a")], "over: over 10 0"),
            (&app(0), "over: over 10 0"),
            // Others are not touched, and hits that straddle the limit count in full.
            (&[hits(25, descriptor("app=b"))], "over: over 10 0"),
            (&[hits(0, descriptor("none=x"))], "ok: ok 0 0"),
            (&[descriptor("none=x")], "over: over 0 0"),
        ],
    );
}

#[test]
fn each_descriptor_counts_for_itself_whatever_the_others_say() {
    let both = [hits(1, descriptor("none=x")), hits(4, descriptor("app=a"))];
    check(
        &Options::default(),
        &[
            (&both, "over: over 0 0, ok 10 6"),
            (&both, "over: over 0 0, ok 10 2"),
            (
                &[descriptor("app=a"), descriptor("app=a")],
                "ok: ok 10 1, ok 10 0",
            ),
        ],
    );
}

#[test]
fn where_denied_hits_are_free_a_refused_request_leaves_everything() {
    let options = Options {
        denied: Denied::Free,
        ..Options::default()
    };
    let both = [hits(1, descriptor("none=x")), hits(4, descriptor("app=a"))];
    check(
        &options,
        &[
            (&both, "over: over 0 0, ok 10 10"),
            (&[hits(8, descriptor("app=a"))], "ok: ok 10 2"),
            (&[hits(3, descriptor("app=a"))], "over: over 10 2"),
            (
                &[hits(1, descriptor("app=a")), hits(2, descriptor("app=a"))],
                "over: ok 10 2, over 10 2",
            ),
            (&[hits(2, descriptor("app=a"))], "ok: ok 10 0"),
            // A quota that is over does not refuse while another is not; what goes on counts.
            (
                &[hits(2, descriptor("qa=x")), descriptor("qb=x")],
                "ok: over 1 0, ok 3 2",
            ),
        ],
    );
}

#[test]
fn unlimited_replaced_shadow_and_quota() {
    check(
        &Options::default(),
        &[
            (&[descriptor("root=x")], "ok: ok - 4294967295"),
            (&[descriptor("nothing=x")], "ok: ok - 0"),
            (&[descriptor("small=x")], "ok: ok 1 0"),
            (&[descriptor("small=x")], "over: over 1 0"),
            (
                &[descriptor("small=x"), descriptor("vip=x")],
                "ok: ok - 0, ok - 4294967295",
            ),
            (&[hits(3, descriptor("dark=x"))], "ok: ok 2 0"),
            (
                &[hits(2, descriptor("qa=x")), descriptor("qb=x")],
                "ok: over 1 0, ok 3 2",
            ),
            (
                &[hits(2, descriptor("qa=x")), hits(3, descriptor("qb=x"))],
                "over: over 1 0, over 3 0",
            ),
            (
                &[descriptor("qa=x"), descriptor("root=x")],
                "over: over 1 0, ok - 4294967295",
            ),
            (
                &[descriptor("qa=x"), descriptor("none=x")],
                "over: over 1 0, over 0 0",
            ),
        ],
    );
    let shadow = Options {
        is_all_shadow: true,
        ..Options::default()
    };
    check(&shadow, &[(&[descriptor("none=x")], "ok: over 0 0")]);
    let quota = Options {
        is_all_quota: true,
        ..Options::default()
    };
    let cases: [(&[Descriptor], &str); 2] = [
        (
            &[descriptor("none=x"), descriptor("nothing=x")],
            "ok: over 0 0, ok - 0",
        ),
        (&[descriptor("none=x")], "over: over 0 0"),
    ];
    check(&quota, &cases);
}

#[test]
fn a_limit_in_the_request_beats_the_rules_and_counts_with_them() {
    check(
        &Options::default(),
        &[
            (&[hits(3, limited("app=a", 5, 3))], "ok: ok 5 2"),
            (&[descriptor("app=a")], "ok: ok 10 6"),
            (&[limited("app=a", 4, 3)], "over: over 4 0"),
            // Another unit is another counter, but where the windows begin together.
            (&[limited("app=a", 4, 2)], "ok: ok 4 3"),
            (&[limited("dark=x", 0, 1)], "over: over 0 0"),
        ],
    );
    let rls = service(RULES, Options::default());
    let unit = rls.should_rate_limit(&request(&[limited("app=a", 4, 0)]), at(NOW));
    assert_eq!(unit.unwrap_err(), Refusal::Unit(0), "no unit");
    let midnight = NOW / 86_400 * 86_400;
    let (hour, day) = (limited("app=a", 9, 3), limited("app=a", 9, 4));
    for (descriptor, now, remaining) in [
        (&hour, midnight + 5, 8),
        (&day, midnight + 6, 7),
        (&hour, midnight + 7, 6),
        (&hour, midnight + 3_600, 8),
        (&day, midnight + 3_601, 5),
    ] {
        let request = request(std::slice::from_ref(descriptor));
        let answer = rls.should_rate_limit(&request, at(now)).unwrap();
        assert_eq!(
            answer.statuses[0].limit_remaining, remaining,
            "at {now}: one key in Redis"
        );
    }
}

#[test]
fn windows_are_aligned_to_the_epoch_and_say_when_they_end() {
    for (unit, seconds) in [
        (1, 1),
        (2, 60),
        (3, 3_600),
        (4, 86_400),
        (7, 604_800),
        (5, 2_592_000),
        (6, 31_536_000),
    ] {
        let rls = service(RULES, Options::default());
        let ask = |now: i64| {
            let answer = rls.should_rate_limit(&request(&[limited("app=a", 9, unit)]), at(now));
            let status = answer.unwrap().statuses.remove(0);
            (
                status.limit_remaining,
                status.duration_until_reset.unwrap().seconds,
            )
        };
        let start = NOW / seconds * seconds;
        assert_eq!(
            ask(start),
            (8, seconds),
            "at the first second of unit {unit}"
        );
        assert_eq!(
            ask(start + seconds - 1),
            (7, 1),
            "in the last second of unit {unit}"
        );
        assert_eq!(
            ask(start + seconds),
            (8, seconds),
            "in the next of unit {unit}"
        );
    }
}

#[test]
fn numbers_at_the_ends_of_their_types() {
    let top = u64::from(u32::MAX);
    check(
        &Options::default(),
        &[
            (&[hits(top, descriptor("most=x"))], "ok: ok 4294967295 0"),
            (&[descriptor("most=x")], "over: over 4294967295 0"),
        ],
    );
    let rls = service(RULES, Options::default());
    let huge = i64::MAX.unsigned_abs();
    let ask = |hits_addend| {
        let both = [hits(hits_addend, descriptor("app=a")), descriptor("app=b")];
        rls.should_rate_limit(&request(&both), at(NOW))
            .map(|answer| short(&answer))
    };
    assert_eq!(
        ask(u64::MAX),
        Err(Refusal::Overflow),
        "more than Redis reads"
    );
    assert_eq!(
        ask(huge - 1),
        Ok("over: over 10 0, ok 10 8".to_owned()),
        "the other counted"
    );
    assert_eq!(ask(2), Err(Refusal::Overflow), "more than Redis holds");
    assert_eq!(
        ask(1),
        Ok("over: over 10 0, ok 10 6".to_owned()),
        "and nothing was added"
    );
}

#[test]
fn requests_without_domain_or_descriptors_are_refused_in_its_words() {
    let rls = service(RULES, Options::default());
    let nothing = RateLimitRequest::default();
    let refused = |request: &RateLimitRequest| rls.should_rate_limit(request, at(NOW)).unwrap_err();
    assert_eq!(
        refused(&nothing).to_string(),
        "rate limit domain must not be empty"
    );
    let bare = request(&[]);
    assert_eq!(
        refused(&bare).to_string(),
        "rate limit descriptor list must not be empty"
    );
    let empty = request(&[Descriptor::default()]);
    assert_eq!(
        short(&rls.should_rate_limit(&empty, at(NOW)).unwrap()),
        "ok: ok - 0"
    );
    let other = RateLimitRequest {
        domain: "unknown".to_owned(),
        ..request(&[limited("app=a", 0, 3)])
    };
    assert_eq!(
        short(&rls.should_rate_limit(&other, at(NOW)).unwrap()),
        "ok: ok - 0"
    );
    let many: Vec<_> = (0..1_000)
        .map(|n| descriptor(&format!("app=a{n}")))
        .collect();
    let answer = rls.should_rate_limit(&request(&many), at(NOW)).unwrap();
    assert!(
        answer.statuses.iter().all(|status| status.code == CODE_OK),
        "1,000 descriptors"
    );
    assert_eq!(answer.statuses.len(), 1_000, "one status each");
}

#[test]
fn headers_tell_of_the_tightest_descriptor() {
    let named = |text: &str| text.to_owned();
    let options = Options {
        headers: Some(HeaderNames {
            limit: named("L"),
            remaining: named("R"),
            reset: named("T"),
        }),
        ..Options::default()
    };
    let rls = service(RULES, options);
    let headers = |descriptors: &[Descriptor]| {
        let answer = rls
            .should_rate_limit(&request(descriptors), at(NOW))
            .unwrap();
        let headers = answer.response_headers_to_add.into_iter();
        let headers = headers.map(|HeaderValue { key, value }| format!("{key}={value}"));
        headers.collect::<Vec<_>>().join(" ")
    };
    let reset = 3_600 - NOW % 3_600;
    let cases = [
        (
            vec![descriptor("nothing=x"), descriptor("root=x")],
            String::new(),
        ),
        (
            vec![descriptor("app=a"), descriptor("qb=x")],
            format!("L=3 R=2 T={}", 60 - NOW % 60),
        ),
        (
            vec![descriptor("none=x"), hits(11, descriptor("app=c"))],
            format!("L=10 R=0 T={reset}"),
        ),
    ];
    for (descriptors, expected) in cases {
        assert_eq!(headers(&descriptors), expected, "{descriptors:?}");
    }
}
