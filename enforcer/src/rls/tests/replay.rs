//! The recorded sequence: 400 requests to envoyproxy/ratelimit with Redis, in order.

use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::*;
use crate::grpc::wire::CODE_OVER_LIMIT;
use crate::rls::Unit;
use crate::rls::json;

const CONFIG: &str = include_str!("../../../../testdata/rls/config.yaml");
const ANSWERS: &str = include_str!("../../../../testdata/rls/answers.ndjson");

#[derive(Deserialize)]
struct Recorded {
    request: Box<RawValue>,
    http: u16,
    overall: String,
    statuses: Vec<Status>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Status {
    code: String,
    limit: Option<u32>,
    unit: Option<String>,
    remaining: u32,
}

fn code(code: i32) -> String {
    if code == CODE_OVER_LIMIT {
        "OVER_LIMIT"
    } else {
        "OK"
    }
    .to_owned()
}

#[test]
fn the_recorded_sequence_is_answered_alike() {
    let rls = service(CONFIG, Options::default());
    for (index, line) in ANSWERS.lines().enumerate() {
        let recorded: Recorded = serde_json::from_str(line).unwrap();
        let request = json::read(recorded.request.get().as_bytes()).unwrap();
        let answer = rls.should_rate_limit(&request, at(NOW)).unwrap();
        let statuses: Vec<_> = answer
            .statuses
            .iter()
            .map(|status| Status {
                code: code(status.code),
                limit: status
                    .current_limit
                    .as_ref()
                    .map(|limit| limit.requests_per_unit),
                unit: status
                    .current_limit
                    .as_ref()
                    .map(|limit| Unit::from_number(limit.unit).unwrap().name().to_owned()),
                remaining: status.limit_remaining,
            })
            .collect();
        assert_eq!(statuses, recorded.statuses, "line {}: {line}", index + 1);
        assert_eq!(
            code(answer.overall_code),
            recorded.overall,
            "line {}",
            index + 1
        );
        let http = if answer.overall_code == CODE_OVER_LIMIT {
            429
        } else {
            200
        };
        assert_eq!(http, recorded.http, "line {}", index + 1);
        let written: Json = serde_json::from_slice(&json::write(&answer)).unwrap();
        assert_eq!(written["overallCode"], recorded.overall.as_str(), "as JSON");
    }
    assert_eq!(ANSWERS.lines().count(), 400, "all of them");
}
