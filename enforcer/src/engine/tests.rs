//! The engine by policies as people write them.

mod known;
mod reports;

use domain::account::{Message, Origin, OriginUse, Revision, SlotSum};
use domain::policy::Keyed;
use domain::policy::{CompiledSet, compile, read};

use super::*;

const NOW: i64 = 1_792_875_600_000;

fn at(ms: i64) -> UnixMs {
    UnixMs::new(NOW + ms).unwrap()
}

fn set(yaml: &str) -> CompiledSet {
    let policies = read("test.yaml", yaml).unwrap_or_else(|errors| panic!("{errors:?}"));
    compile(policies).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn put(engine: &Engine, yaml: &str) {
    engine.swap(PoliciesInForce {
        set: set(yaml),
        version: 7,
        ..PoliciesInForce::default()
    });
}

fn engine(yaml: &str) -> Engine {
    let engine = Engine::new(ReplicaId(1), 4);
    put(&engine, yaml);
    engine
}

fn ask<'a>(app: &'a str, model: &'a str) -> Ask<'a> {
    Ask {
        request: Request {
            app: Some(app),
            model: Some(model),
            ..Request::default()
        },
        ..Ask::default()
    }
}

fn used(answer: &Answer) -> i128 {
    answer.binding.unwrap().verdict.unwrap().used.get()
}

const PACE: &str = "
name: pace
limits:
  - { name: per-app, meter: requests, limit: 2, per: [app], window: { fixed: 60s } }
  - { name: per-model, meter: requests, limit: 3, per: [model], window: { fixed: 60s } }
";

#[test]
fn a_refused_ask_charges_nothing_and_can_be_worked_out_again() {
    let engine = engine(PACE);
    for _ in 0..2 {
        let answer = engine.decide(&ask("a", "m"), at(0));
        assert_eq!(answer.outcome, Outcome::Allow, "{answer:?}");
        assert_eq!(answer.reason, Reason::Within, "{answer:?}");
    }
    let denied = engine.decide(&ask("a", "m"), at(1));
    assert_eq!(denied.outcome, Outcome::Deny, "{denied:?}");
    let (policy, _, limit) = denied.bound().unwrap();
    assert_eq!(
        (policy.name.as_str(), limit.name.as_str()),
        ("pace", "per-app"),
        "{denied:?}"
    );
    // The model's limit holds three; the refused ask took none of it.
    let other = engine.decide(&ask("b", "m"), at(2));
    assert_eq!(other.outcome, Outcome::Allow, "{other:?}");
    assert_eq!(used(&other), 3, "after its own charge");

    let denial = denied.denial.as_deref().unwrap();
    let kept = engine.denials().get(denial.id).unwrap();
    assert_eq!(
        kept.id.to_string().parse(),
        Ok(denial.id),
        "an id reads back"
    );
    let verdict = kept.verdict.unwrap();
    assert!(
        verdict.used.saturating_add(verdict.asked) > verdict.limit,
        "{kept:?}"
    );
    assert_eq!(
        (verdict.used.get(), verdict.asked.get(), verdict.limit.get()),
        (2, 1, 2),
        "{kept:?}"
    );
    let key = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    assert_eq!(
        kept.key,
        [key("tenant", "default"), key("app", "a")],
        "{kept:?}"
    );
    assert_eq!(kept.slot, kept.spec.moment(at(1)).slot, "the window");
    assert_eq!((kept.as_of, kept.version), (Some(at(1)), 7), "{kept:?}");
}

/// What a denial stands on is gathered under the locks of whoever else decides: only for who can read it.
#[test]
fn what_a_denial_stands_on_is_gathered_where_denials_are_kept() {
    for (kept, is_gathered) in [(0, false), (1, true)] {
        let engine = Engine::new(ReplicaId(1), kept);
        put(&engine, PACE);
        for _ in 0..2 {
            let allowed = engine.decide(&ask("a", "m"), at(0));
            assert_eq!(allowed.outcome, Outcome::Allow);
        }
        let answer = engine.decide(&ask("a", "m"), at(1));
        assert_eq!((answer.outcome, used(&answer)), (Outcome::Deny, 2));
        let denial = answer.denial.expect("each has a name");
        assert_eq!(denial.consulted.is_some(), is_gathered, "{kept} are kept");
    }
}

#[test]
fn denials_are_bounded_newest_first_and_filtered() {
    let engine = engine(PACE);
    for app in ["a", "b"] {
        for _ in 0..5 {
            drop(engine.decide(&ask(app, app), at(0)));
        }
    }
    let sequence = |filter: &DenialFilter, max| -> Vec<String> {
        let list = engine.denials().list(filter, max);
        list.iter().map(|denial| denial.id.to_string()).collect()
    };
    let all = sequence(&DenialFilter::default(), 10);
    let expected: Vec<_> = (3..=6)
        .rev()
        .map(|sequence| format!("{:016x}-{sequence}", 1))
        .collect();
    assert_eq!(all, expected, "six denials, of which four are kept");
    let of_a = DenialFilter {
        app: Some("a".to_owned()),
        ..DenialFilter::default()
    };
    assert_eq!(sequence(&of_a, 10), expected[3..], "one of them is a's");
    let before = DenialFilter {
        before: Some(expected[1].parse().unwrap()),
        ..DenialFilter::default()
    };
    assert_eq!(sequence(&before, 1), expected[2..3], "the next page");
    let none = DenialFilter {
        policy: Some("other".to_owned()),
        ..DenialFilter::default()
    };
    assert_eq!(sequence(&none, 10), [""; 0], "no such policy");
    for gone in [
        "0000000000000001-1",
        "0000000000000002-5",
        "0000000000000001-7",
    ] {
        assert!(
            engine.denials().get(gone.parse().unwrap()).is_none(),
            "{gone}"
        );
    }
}

#[test]
fn the_first_candidate_that_may_go_is_chosen_and_alone_charged() {
    let engine = engine(
        "
name: models
limits:
  - { name: per-model, meter: requests, limit: 1, per: [model, provider], window: { fixed: 60s } }
",
    );
    let of = |model, instance| Candidate {
        model: Some(model),
        instance,
        ..Candidate::default()
    };
    let candidates = [of("big", None), of("big", Some("spare")), of("small", None)];
    let ask = Ask {
        candidates: &candidates,
        ..ask("a", "any")
    };
    let chosen: Vec<_> = (0..4)
        .map(|_| {
            let answer = engine.decide(&ask, at(0));
            (answer.outcome == Outcome::Allow).then_some(answer.candidate)
        })
        .collect();
    assert_eq!(
        chosen,
        [Some(Some(0)), Some(Some(1)), Some(Some(2)), None],
        "in order"
    );
    assert_eq!(engine.counters().count(), 3, "each charged its own");
    assert_eq!(
        engine.denials().list(&DenialFilter::default(), 9).len(),
        1,
        "told once"
    );
}

#[test]
fn of_refused_candidates_the_one_that_ends_first_is_told() {
    let engine = engine(
        "
name: slow
match: { model: slow }
limits: [{ name: day, meter: requests, limit: 0, window: { calendar: day } }]
---
name: quick
match: { model: quick }
limits: [{ name: minute, meter: requests, limit: 1, window: { calendar: minute } }]
",
    );
    drop(engine.decide(&ask("a", "quick"), at(0)));
    let of = |model| Candidate {
        model: Some(model),
        ..Candidate::default()
    };
    let candidates = [of("slow"), of("quick")];
    let answer = engine.decide(
        &Ask {
            candidates: &candidates,
            ..ask("a", "")
        },
        at(0),
    );
    assert_eq!(
        (answer.outcome, answer.candidate),
        (Outcome::Deny, Some(1)),
        "{answer:?}"
    );
}

#[test]
fn a_missing_key_is_shared_skipped_or_refused() {
    let policy = |missing_key: &str, enforce: &str| {
        engine(&format!(
            "
name: users
limits:
  - {{ name: user, meter: requests, limit: 1, per: [user], window: {{ fixed: 60s }}, missing_key: {missing_key}, enforce: {enforce} }}
"
        ))
    };
    let outcomes = |engine: &Engine| -> Vec<_> {
        let answers = (0..2).map(|_| engine.decide(&ask("a", "m"), at(0)));
        answers
            .map(|answer| {
                (
                    answer.outcome == Outcome::Allow,
                    answer.shadow_denials,
                    answer.reason,
                )
            })
            .collect()
    };
    let missing = Reason::MissingKey("user".to_owned());
    let cases = [
        (
            "shared",
            "soft",
            [(true, 0, Reason::Within), (false, 0, Reason::Over)],
        ),
        (
            "skip",
            "soft",
            [(true, 0, Reason::NoLimit), (true, 0, Reason::NoLimit)],
        ),
        (
            "deny",
            "soft",
            [(false, 0, missing.clone()), (false, 0, missing)],
        ),
        (
            "deny",
            "shadow",
            [(true, 1, Reason::NoLimit), (true, 1, Reason::NoLimit)],
        ),
    ];
    for (missing_key, enforce, expected) in cases {
        let engine = policy(missing_key, enforce);
        assert_eq!(outcomes(&engine), expected, "{missing_key}, {enforce}");
    }
}

#[test]
fn a_limit_that_goes_and_comes_back_keeps_its_counter() {
    let engine = engine(PACE);
    for _ in 0..2 {
        drop(engine.decide(&ask("a", "m"), at(0)));
    }
    engine.swap(PoliciesInForce::default());
    engine.prune(at(1));
    put(&engine, &PACE.replace("limit: 2", "limit: 1"));
    engine.prune(at(2));
    let answer = engine.decide(&ask("a", "m"), at(3));
    assert_eq!((answer.outcome, used(&answer)), (Outcome::Deny, 2));
    engine.swap(PoliciesInForce::default());
    assert!(
        engine.limits().iter().next().is_none(),
        "nothing is limited"
    );
    engine.prune(at(60_001));
    assert_eq!(engine.counters().count(), 0, "what is over is forgotten");
}

fn used_of_first(answer: &Answer) -> i128 {
    answer.met[0].verdict.unwrap().used.get()
}

#[test]
fn an_edited_limit_resets_no_other_and_a_raised_one_keeps_its_counter() {
    let engine = engine(PACE);
    for _ in 0..3 {
        drop(engine.decide(&ask("a", "m"), at(0)));
    }
    put(&engine, &PACE.replace("limit: 2", "limit: 3"));
    engine.prune(at(0));
    let raised = engine.decide(&ask("a", "m"), at(1));
    assert_eq!(
        (raised.outcome, used(&raised)),
        (Outcome::Allow, 3),
        "two and one"
    );
    assert_eq!(
        engine.decide(&ask("a", "m"), at(1)).outcome,
        Outcome::Deny,
        "of three"
    );
    put(&engine, &PACE.replace("limit: 2", "limit: 1"));
    let lowered = engine.decide(&ask("a", "n"), at(2));
    assert_eq!(
        (lowered.outcome, used(&lowered)),
        (Outcome::Deny, 3),
        "acts at once"
    );
    // Another window of the first limit: it begins anew, the second goes on.
    put(&engine, &PACE.replacen("fixed: 60s", "fixed: 120s", 1));
    engine.prune(at(3));
    let answer = engine.decide(&ask("a", "m"), at(3));
    assert_eq!(answer.outcome, Outcome::Deny, "{answer:?}");
    assert_eq!(
        (answer.bound().unwrap().2.name.as_str(), used(&answer)),
        ("per-model", 3),
        "{answer:?}"
    );
}

#[test]
fn absent_and_explicit_defaults_count_by_the_same_counter() {
    let engine = engine(PACE);
    drop(engine.decide(&ask("a", "m"), at(0)));
    put(
        &engine,
        "
name: pace
description: the same
match: {}
limits:
  - { name: per-app, meter: requests, limit: 2, per: [app], window: { fixed: 60s }, algorithm: window, from: decision, missing_key: shared, enforce: soft }
  - { name: per-model, meter: requests, limit: 3, per: [model], window: { fixed: 60000ms } }
on_unavailable: allow
response: { status: 429, headers: [ietf], retry_after: true }
",
    );
    engine.prune(at(0));
    let explicit = Ask {
        request: Request {
            tenant: Some("default"),
            user: Some(""),
            ..ask("a", "m").request
        },
        ..Ask::default()
    };
    let answer = engine.decide(&explicit, at(1));
    assert_eq!(used(&answer), 2, "the second of the same counter");
}

#[test]
fn without_policies_everything_goes() {
    let engine = Engine::new(ReplicaId(1), 0);
    let answer = engine.decide(&ask("a", "m"), at(0));
    assert_eq!(
        (answer.outcome, answer.reason),
        (Outcome::Allow, Reason::NoLimit),
        "no limit"
    );
}
