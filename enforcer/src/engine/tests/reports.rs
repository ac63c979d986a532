//! Reports: what they are charged to, and what they tell.

use super::*;

#[test]
fn a_report_is_charged_in_full_and_closes_the_limit() {
    let engine = engine(
        "
name: reported
limits:
  - { name: tokens, meter: total_tokens, limit: 100, per: [app], window: { fixed: 60s }, from: decision }
  - { name: cost, meter: cost, limit: \"1.00\", per: [app], window: { fixed: 60s }, from: decision }
  - { name: pace, meter: requests, limit: 5, per: [app], window: { fixed: 60s } }
  - { name: weighed, meter: { cel: output_tokens * 3 }, limit: 10000, window: { fixed: 60s }, from: decision }
",
    );
    let mut used = Reported {
        input_tokens: Some(150),
        output_tokens: Some(30),
        ..Reported::default()
    };
    let report = |used| Report {
        request: ask("a", "m").request,
        used,
    };
    let answer = engine.report(&report(used), at(0));
    assert_eq!(
        (answer.outcome, &answer.reason),
        (Outcome::Allow, &Reason::Reported),
        "{answer:?}"
    );
    let levels = |answer: &Answer| -> Vec<i128> {
        let met = answer.met.iter();
        met.map(|met| met.verdict.unwrap().used.get()).collect()
    };
    assert_eq!(levels(&answer), [180, 0, 0, 90], "beyond the limit, too");
    assert_eq!(answer.uncharged.as_slice(), [1], "no cost was told");
    let denied = engine.decide(&ask("a", "m"), at(1));
    assert_eq!(denied.outcome, Outcome::Deny, "the limit is closed");
    used.cost = Some("0.5".parse().unwrap());
    let answer = engine.report(&report(used), at(2));
    assert_eq!(
        levels(&answer),
        [360, 500_000_000_000_000_000, 0, 180],
        "{answer:?}"
    );
    assert!(answer.uncharged.is_empty(), "{answer:?}");
}

#[test]
fn a_report_without_room_says_what_it_was_not_charged_to() {
    let engine = Engine::bounded(ReplicaId(1), 4, 1);
    put(
        &engine,
        "
name: reported
limits:
  - { name: cost, meter: cost, limit: \"1.00\", per: [app], window: { fixed: 60s }, from: decision }
  - { name: total, meter: total_tokens, limit: 100, window: { fixed: 60s }, from: decision }
  - { name: tokens, meter: total_tokens, limit: 100, per: [app], window: { fixed: 60s }, from: decision }
",
    );
    let report = |app| Report {
        request: ask(app, "m").request,
        used: Reported {
            total_tokens: Some(30),
            ..Reported::default()
        },
    };
    let first = engine.report(&report("a"), at(0));
    assert_eq!(
        first.uncharged.as_slice(),
        [0, 2],
        "no cost was told, one has room"
    );
    assert_eq!(engine.counters().refused(), 1, "{first:?}");
    let second = engine.report(&report("b"), at(1));
    assert_eq!(second.uncharged.as_slice(), [0, 2], "the app's has none");
    assert_eq!(engine.counters().refused(), 2, "each report is counted");
    let levels = second.met.iter().map(|met| met.verdict.unwrap().used.get());
    assert_eq!(
        levels.collect::<Vec<_>>(),
        [0, 60, 0],
        "what is there counts on"
    );
}

#[test]
fn contradictory_reports_are_told() {
    let parts = |input, output, total| Reported {
        input_tokens: input,
        output_tokens: output,
        total_tokens: total,
        ..Reported::default()
    };
    let mut kinds = parts(Some(5), None, None);
    kinds.quantities.set(Meter::InputUncachedTokens, Some(6));
    let cases = [
        (parts(Some(1), Some(2), Some(3)), Ok(())),
        (parts(None, Some(2), Some(30)), Ok(())),
        (parts(Some(1), Some(2), Some(4)), Err("total_tokens")),
        (kinds, Err("input_tokens")),
    ];
    for (reported, expected) in cases {
        assert_eq!(reported.check(), expected, "{reported:?}");
    }
}

#[test]
fn a_report_counts_requests_only_where_it_says_so() {
    let engine = engine(PACE);
    drop(engine.decide(&ask("a", "m"), at(0)));
    let told = |requests| {
        let mut used = Reported::default();
        used.quantities.set(Meter::Requests, requests);
        let request = ask("a", "m").request;
        let answer = engine.report(&Report { request, used }, at(1));
        assert!(answer.uncharged.is_empty(), "asks are counted: {answer:?}");
        used_of_first(&answer)
    };
    assert_eq!(told(None), 1, "the ask's alone");
    assert_eq!(told(Some(2)), 3, "and two more");
}
