//! Which rule an entry meets.

use super::*;

const RULES: &str = "
domain: gw
descriptors:
  - { key: k, rate_limit: { unit: hour, requests_per_unit: 1 } }
  - { key: k, value: v, rate_limit: { unit: hour, requests_per_unit: 2 } }
  - { key: k, value: v*, rate_limit: { unit: hour, requests_per_unit: 3 } }
  - { key: k, value: va*, rate_limit: { unit: hour, requests_per_unit: 4 } }
  - { key: k, value: a*b*c, rate_limit: { unit: hour, requests_per_unit: 5 } }
  - { key: x_y, rate_limit: { unit: hour, requests_per_unit: 6 } }
  - key: deep
    rate_limit: { unit: hour, requests_per_unit: 7 }
    descriptors:
      - { key: k, rate_limit: { unit: hour, requests_per_unit: 8 } }
  - { key: path, value: share/*, share_threshold: true, rate_limit: { unit: hour, requests_per_unit: 9 } }
  - key: path
    value: own/*
    share_threshold: true
    descriptors:
      - { key: k, rate_limit: { unit: hour, requests_per_unit: 9 } }
  - { key: white, value: listed }
  - { key: white, rate_limit: { unit: hour, requests_per_unit: 0 } }
";

#[test]
fn exact_then_wildcards_in_order_then_the_key_alone() {
    let rls = service(RULES, Options::default());
    for (entries, expected) in [
        ("k=z", Some(1)),
        ("k=", Some(1)),
        ("k=v", Some(2)),
        ("k=vz", Some(3)),
        ("k=va", Some(3)),
        ("k=v*", Some(3)),
        ("k=va*", Some(4)),
        ("k=abc", Some(5)),
        ("k=a1b2c", Some(5)),
        ("k=ab", Some(1)),
        ("k=acb", Some(1)),
        ("x_y=z", Some(6)),
        ("x=y", Some(6)),
        ("x=z", None),
        ("deep=z", Some(7)),
        ("deep=z k=z", Some(8)),
        ("deep=z none=z", None),
        ("k=z k=z", None),
        ("deep=z k=z k=z", None),
        ("white=listed", None),
        ("white=other", Some(0)),
        ("", None),
    ] {
        let answer = rls
            .should_rate_limit(&request(&[descriptor(entries)]), at(NOW))
            .unwrap();
        let limit = answer.statuses[0].current_limit.as_ref();
        let limit = limit.map(|limit| limit.requests_per_unit);
        assert_eq!(limit, expected, "{entries}");
    }
}

#[test]
fn a_shared_threshold_is_one_counter_for_all_matches() {
    let rls = service(RULES, Options::default());
    for (entries, remaining) in [
        ("path=share/a", 8),
        ("path=share/b", 7),
        ("path=share/*", 6),
        ("path=own/a k=z", 8),
        ("path=own/b k=z", 7),
        ("path=own/b k=other", 8),
        ("k=va", 2),
        ("k=vb", 2),
    ] {
        let answer = rls
            .should_rate_limit(&request(&[descriptor(entries)]), at(NOW))
            .unwrap();
        assert_eq!(answer.statuses[0].limit_remaining, remaining, "{entries}");
    }
}

#[test]
fn a_key_is_the_text_that_redis_has() {
    // One text, so one counter, there and here: `gw_a_b_c_`.
    let rules = "
domain: gw
descriptors:
  - { key: a, rate_limit: { unit: hour, requests_per_unit: 9 } }
  - { key: a_b, value: c, rate_limit: { unit: hour, requests_per_unit: 9 } }
";
    let rls = service(rules, Options::default());
    let both = request(&[descriptor("a=b_c"), descriptor("a_b=c")]);
    let answer = rls.should_rate_limit(&both, at(NOW)).unwrap();
    let remaining: Vec<_> = answer.statuses.iter().map(|s| s.limit_remaining).collect();
    assert_eq!(remaining, [8, 7], "one counter");
}
