//! What is written of a denial reads back, and its verdict is worked out again from it.

use domain::account::{Message, OriginUse};
use domain::explain::recompute;
use domain::policy::{CompiledSet, compile, read};
use domain::request::Request;
use domain::time::UnixMs;

use super::*;
use crate::engine::{Ask, Engine, PoliciesInForce, Report, Reported};

const POLICIES: &str = r#"
name: all
match: { model: calendar }
limits:
  - { name: cost, meter: cost, limit: "0.5", per: [app], window: { calendar: month, timezone: Europe/Berlin }, from: log }
---
name: sliding
match: { model: sliding }
limits:
  - { name: tokens, meter: total_tokens, limit: 100, per: [app, { header: x }], window: { sliding: 1h }, from: decision }
---
name: bucket
match: { model: bucket }
limits:
  - { name: pace, meter: requests, limit: 3, algorithm: token_bucket, refill: { every: 7s, amount: 2 }, capacity: 3 }
---
name: key
match: { model: key }
limits:
  - { name: users, meter: requests, limit: 3, per: [user], missing_key: deny, window: { fixed: 60s } }
---
name: stale
match: { model: stale }
limits:
  - { name: logged, meter: requests, limit: 3, per: [app], window: { calendar: day }, from: log }
on_unavailable: { decide: deny, after: 1s }
"#;

fn at(ms: i64) -> UnixMs {
    UnixMs::new(1_792_875_600_000 + ms).unwrap()
}

fn set() -> CompiledSet {
    let policies = read("test.yaml", POLICIES).unwrap_or_else(|errors| panic!("{errors:?}"));
    compile(policies).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn engine() -> Engine {
    let engine = Engine::new(ReplicaId(0xabc), 8);
    engine.swap(PoliciesInForce {
        set: set(),
        version: 3,
        ..PoliciesInForce::default()
    });
    engine
}

fn request(model: &str) -> Request<'_> {
    Request {
        app: Some("shop"),
        model: Some(model),
        path: Some("/v1/chat"),
        ..Request::default()
    }
}

/// Merges what a chain and the opening counted of the calendar limit.
fn count_from_log(engine: &Engine) {
    let set = set();
    let request = request("calendar");
    let applies = set.matching(&request).next().unwrap();
    let domain::policy::Keyed::Counts(key) = applies.keyed else {
        panic!("{applies:?}");
    };
    let slot = applies.limit.spec.moment(at(0)).slot;
    for (origin, number, sum) in [
        (Origin::Chain(ChainId(4)), 57, 300_000_000_000_000_001),
        (Origin::Opening, 3, 200_000_000_000_000_000),
    ] {
        let sum = SlotSum {
            start: slot.start(),
            sum: Units::new(sum),
        };
        let revision = Revision { epoch: 9, number };
        let message = Message {
            origin,
            use_: OriginUse::new(revision, sum.sum, vec![sum]),
            base: None,
        };
        let spec = &applies.limit.spec;
        engine
            .counters()
            .merge(applies.id, key, spec, message, at(0));
    }
}

/// Returns a denial by each sort of limit, as it is kept.
fn denied(model: &str) -> (Engine, std::sync::Arc<Denial>) {
    let engine = engine();
    count_from_log(&engine);
    let used = Reported {
        total_tokens: Some(90),
        ..Reported::default()
    };
    for ms in [0, 65_000, 130_000] {
        let request = request("sliding");
        let reported = engine.report(&Report { request, used }, at(ms - 600_000));
        assert_eq!(reported.binding.map(|it| it.index), Some(1), "{reported:?}");
    }
    let ask = Ask {
        request: request(model),
        ..Ask::default()
    };
    for ms in 0..9 {
        let answer = engine.decide(&ask, at(ms * 31));
        if let Some(denial) = answer.denial {
            return (engine, denial);
        }
    }
    panic!("{model} is never refused");
}

#[test]
fn a_denial_reads_back_and_can_be_worked_out_again() {
    for (model, has_numbers) in [
        ("calendar", true),
        ("sliding", true),
        ("bucket", true),
        ("key", false),
        ("stale", true),
    ] {
        let (_engine, denial) = denied(model);
        let view = DenialView::of(&denial);
        let text = serde_json::to_string(&view).unwrap();
        let back: DenialView = serde_json::from_str(&text).unwrap();
        assert_eq!(back, view, "{text}");
        let read = back
            .read()
            .unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(read.key, denial.key, "{text}");
        assert_eq!((read.at, read.as_of), (denial.at, denial.as_of), "{text}");
        let consulted = denial.consulted.as_ref();
        let grounds = consulted.map(|consulted| &*consulted.grounds);
        assert_eq!(read.grounds.as_ref(), grounds, "{text}");
        assert_eq!(read.grounds.is_some(), has_numbers, "{text}");
        let again = recompute(&denial.spec, &read);
        let differences = again.map(|again| again.differences);
        assert_eq!(differences, has_numbers.then(Vec::new), "{text}");
        let set = set();
        let (_, policy, _, limit) = set.limits().find(|(id, ..)| *id == read.limit_id).unwrap();
        assert!(explain::is_refused_by(policy, limit, &read), "{text}");
    }
}

#[test]
fn grounds_are_told_by_origin() {
    let (_engine, denial) = denied("calendar");
    let view = serde_json::to_value(DenialView::of(&denial)).unwrap();
    let origins = serde_json::json!([
        {"origin": "chain", "id": "4", "epoch": 9, "number": 57, "sum": "0.300000000000000001"},
        {"origin": "opening", "id": null, "epoch": 9, "number": 3, "sum": "0.2"},
    ]);
    assert_eq!(view["grounds"]["origins"], origins, "{view}");
    assert_eq!(view["used"], "0.500000000000000001", "{view}");
    let counter = view["counter"].as_str().map(str::len);
    assert_eq!(counter, Some(32), "{view}");
}

#[test]
fn what_no_enforcer_writes_is_named() {
    let (_engine, denial) = denied("calendar");
    let good = serde_json::to_value(DenialView::of(&denial)).unwrap();
    for (field, value, says) in [
        ("meter", "coins", "`meter`"),
        ("reason", "whim", "`reason`"),
        ("from", "rumour", "`from`"),
        ("limit_id", "xyz", "`limit_id`"),
        ("used", "much", "`used`"),
    ] {
        let mut bad = good.clone();
        bad[field] = value.into();
        let view: DenialView = serde_json::from_value(bad).unwrap();
        let error = view.read().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let mut bad = good;
    bad["at"] = "yesterday".into();
    let error = serde_json::from_value::<DenialView>(bad).unwrap_err();
    assert!(error.to_string().contains("no instant"), "{error}");
}
