//! How old numbers may be, and what counts from the log.

use super::*;

const BUDGET: &str = "
name: budget
limits: [{ name: tokens, meter: total_tokens, limit: 100, per: [app], window: { calendar: day } }]
on_unavailable: { decide: deny, after: 30s }
";

#[test]
fn numbers_that_are_too_old_refuse_where_the_policy_says_so() {
    let deny = engine(BUDGET);
    let allow = engine(&BUDGET.replace("deny", "allow"));
    let reason = |engine: &Engine, ms| engine.decide(&ask("a", "m"), at(ms)).reason;
    assert_eq!(reason(&deny, 0), Reason::Unavailable, "never known");
    assert_eq!(
        reason(&allow, 0),
        Reason::Within,
        "by the numbers that are there"
    );
    for engine in [&deny, &allow] {
        engine.sources().note(Source::Feed, at(0));
    }
    assert_eq!(
        reason(&deny, 30_000),
        Reason::Within,
        "as old as is tolerated"
    );
    assert_eq!(reason(&deny, 30_001), Reason::Unavailable, "older");
    assert_eq!(reason(&allow, 30_001), Reason::Within, "older, and allowed");
    let answer = deny.decide(&ask("a", "m"), at(40_000));
    let binding = answer.binding.unwrap();
    assert_eq!(binding.as_of, Some(at(0)), "said as of when");
    assert_eq!(used(&answer), 0, "with the numbers that are there");
    deny.sources().note(Source::Feed, at(40_000));
    assert_eq!(reason(&deny, 40_001), Reason::Within, "healed");
}

#[test]
fn a_new_limit_is_not_known_before_its_accounts_are_read() {
    let engine = engine(BUDGET);
    engine.sources().note(Source::Feed, at(0));
    let force = engine.in_force();
    let (id, ..) = force.set().limits().next().unwrap();
    let reason = || engine.decide(&ask("a", "m"), at(1)).reason;
    engine.unread().come([id], 3);
    assert_eq!(reason(), Reason::Unavailable, "empty is not known");
    engine.unread().read_up_to(2);
    assert_eq!(reason(), Reason::Unavailable, "read before it came");
    engine.unread().read_up_to(3);
    assert_eq!(reason(), Reason::Within, "read");
}

#[test]
fn numbers_of_decisions_are_as_of_when_peers_were_heard() {
    let engine = engine(PACE);
    let as_of = || engine.decide(&ask("a", "m"), at(5)).met[0].as_of;
    assert_eq!(as_of(), Some(at(5)), "it counts alone");
    engine.expect_peers();
    assert_eq!(as_of(), None, "nobody was heard");
    engine.sources().note(Source::Exchange, at(3));
    assert_eq!(
        engine
            .report(
                &Report {
                    request: ask("a", "m").request,
                    used: Reported::default()
                },
                at(5)
            )
            .met[0]
            .as_of,
        Some(at(3)),
        "heard"
    );
}

#[test]
fn limits_from_the_log_follow_their_accounts_and_are_not_charged_here() {
    let engine = engine(BUDGET);
    engine.sources().note(Source::Feed, at(0));
    let force = engine.in_force();
    let (id, .., limit) = force.set().limits().next().unwrap();
    let request = ask("a", "m").request;
    let Keyed::Counts(key) = force.set().matching(&request).next().unwrap().keyed else {
        panic!("it counts");
    };
    let told = |number, sum| Message {
        origin: Origin::Chain(domain::ids::ChainId(1)),
        use_: OriginUse::new(
            Revision { epoch: 1, number },
            Units::new(sum),
            vec![SlotSum {
                start: limit.spec.moment(at(0)).slot.start(),
                sum: Units::new(sum),
            }],
        ),
        base: None,
    };
    engine
        .counters()
        .merge(id, key, &limit.spec, told(1, 99), at(0));
    for _ in 0..3 {
        let answer = engine.decide(&ask("a", "m"), at(1));
        assert_eq!(
            (answer.outcome, used(&answer)),
            (Outcome::Allow, 99),
            "asks charge nothing"
        );
    }
    let estimate = Estimated {
        output_tokens: Some(2),
        ..Estimated::default()
    };
    let more = Ask {
        estimate,
        ..ask("a", "m")
    };
    assert_eq!(
        engine.decide(&more, at(1)).outcome,
        Outcome::Deny,
        "99 + 2 > 100"
    );
    engine
        .counters()
        .merge(id, key, &limit.spec, told(2, 100), at(1));
    let closed = engine.decide(&ask("a", "m"), at(2));
    assert_eq!(
        (closed.outcome, used(&closed)),
        (Outcome::Deny, 100),
        "used up"
    );
}

#[test]
fn an_account_that_began_empty_is_said_to_warm() {
    let engine = Engine::new(ReplicaId(1), 4);
    let set = set(BUDGET);
    let whole_from = set.limits().map(|(id, ..)| (id, at(5_000))).collect();
    engine.swap(PoliciesInForce {
        set,
        whole_from,
        ..PoliciesInForce::default()
    });
    engine.sources().note(Source::Feed, at(0));
    let warming = |ms| engine.decide(&ask("a", "m"), at(ms)).warming;
    assert_eq!(warming(4_999), Some(at(5_000)), "from when it is whole");
    assert_eq!(warming(5_000), None, "whole");
}
