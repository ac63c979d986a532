//! What is written by hand against what serde writes.

use domain::account::ReplicaId;
use domain::policy::{compile, read};
use proptest::prelude::*;

use super::*;
use crate::engine::{Candidate, Engine, Estimated, PoliciesInForce, Report, Reported};

const NOW: i64 = 1_792_875_600_123;

const POLICIES: &str = r#"
name: pace
match: { model: m }
limits: [{ name: few, meter: requests, limit: 2, per: [app, header: x-key], window: { fixed: 60s } }]
attachments: [{ name: here, match: { provider: openai } }]
---
name: told
match: { model: t }
limits: [{ name: many, meter: requests, limit: 9, per: [app, user], algorithm: token_bucket, refill: { every: 1s, amount: 1 } }]
response: { headers: [ietf, openai] }
---
name: money
match: { model: c }
limits: [{ name: budget, meter: cost, limit: "1.5", per: [app], window: { calendar: day } }]
on_unavailable: { decide: deny, after: 1s }
---
name: own-names
match: { model: n }
limits: [{ name: none, meter: requests, limit: 5, per: [{ constant: a }, { cel: "app" }], window: { sliding: 60s }, enforce: shadow }]
---
name: strict
match: { model: k }
limits: [{ name: keyed, meter: requests, limit: 5, per: [user], window: { sliding: 60s }, missing_key: deny }]
"#;

fn engine() -> Engine {
    let engine = Engine::new(ReplicaId(1), 4);
    let policies = read("test.yaml", POLICIES).unwrap_or_else(|errors| panic!("{errors:?}"));
    engine.swap(PoliciesInForce {
        set: compile(policies).unwrap(),
        version: 3,
        ..PoliciesInForce::default()
    });
    engine
}

fn text() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof![
        Just("a".to_owned()),
        Just("say \"hi\" \\ \u{7}\n".to_owned()),
        Just("größe".to_owned()),
    ])
}

proptest! {
    #[test]
    fn every_answer_is_written_as_serde_does(
        asks in prop::collection::vec(
            (prop::sample::select(&["m", "t", "c", "n", "k", "x"][..]), text(), text(), text(), any::<bool>(), any::<bool>()),
            1..12,
        ),
    ) {
        let engine = engine();
        let now = UnixMs::new(NOW).unwrap();
        for (model, app, user, header, is_report, has_candidates) in asks {
            let headers: Vec<(String, String)> =
                header.map(|header| ("x-key".to_owned(), header)).into_iter().collect();
            let request = Request {
                app: app.as_deref(),
                user: user.as_deref(),
                model: Some(model),
                provider: Some("openai"),
                headers: Some(&headers),
                ..Request::default()
            };
            let candidates = [Candidate { model: Some("m"), ..Candidate::default() }];
            let ask = Ask {
                request,
                estimate: Estimated::default(),
                candidates: if has_candidates { &candidates } else { &[] },
            };
            let answer = if is_report {
                engine.report(&Report { request, used: Reported::default() }, now)
            } else {
                engine.decide(&ask, now)
            };
            let ask = if is_report { Ask { request, ..Ask::default() } } else { ask };
            let reset = XRatelimitReset::Seconds;
            let by_hand = String::from_utf8(write(&answer, &ask, reset)).unwrap();
            let by_serde = serde_json::to_string(&AnswerView::new(&answer, &ask, reset)).unwrap();
            prop_assert_eq!(by_hand, by_serde);
        }
    }
}
