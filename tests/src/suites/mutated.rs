//! Captured lines, spoilt in every way that we know of: each event has exactly one fate, and it is
//! the oracle's.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::load::{captured, seed};
use crate::harness::product::drain;
use crate::harness::runner::Test;
use crate::harness::topic::{Record, Stored};
use crate::harness::world::{FOLD, World};
use crate::mutate::Mutator;
use crate::oracle::line::{self, Rule, Verdict};
use crate::oracle::{Oracle, compare};
use crate::test;

pub(super) const TESTS: &[Test] = &[test!(
    spoilt_messages_have_one_fate_each,
    "M1",
    "M2",
    "M3",
    "M4",
    "M5",
    "M6",
    "M10"
)];

/// How many messages: each of the two dozen mutations some hundred times.
const MESSAGES: usize = 5_000;

fn spoilt_messages_have_one_fate_each() {
    let world = World::new("mutated");
    let topic = world.topic(3);
    let lines = captured();
    let mut mutator = Mutator::new(seed("mutated"), lines.iter().map(String::as_str));
    topic.send((0..3).cycle().take(MESSAGES).map(|partition| Record {
        partition,
        payload: mutator.next_message().payload,
        time: None,
    }));
    let ingest = world.config(&topic).ingest();
    world.await_caught_up(&topic);
    drain(&ingest, FOLD);

    let kept = rejected(&world);
    let mut oracle = Oracle::new(topic.name());
    let mut differences = Vec::new();
    topic.read_each(|record| {
        let before = oracle.ledger.counts.rejected;
        oracle.fold(&record);
        let expected = oracle.ledger.counts.rejected - before;
        let found = kept
            .get(&(record.partition, record.offset))
            .map_or(0, |rows| rows.len() as u64);
        if expected != found {
            differences.push(shown(
                &record,
                expected,
                kept.get(&(record.partition, record.offset)),
            ));
        }
    });
    let count = differences.len();
    differences.truncate(10);
    assert_eq!(count, 0, "rejections differ:\n{}", differences.join("\n"));
    let reasons: BTreeSet<&str> = kept
        .values()
        .flatten()
        .map(|(reason, _)| reason.as_str())
        .collect();
    println!("mutated: {reasons:?}");
    compare::assert_stored(&world.database, topic.name(), &oracle.ledger);
}

/// What is kept of rejected events, by partition and offset: reason and detail.
type Kept = BTreeMap<(i32, i64), Vec<(String, String)>>;

fn rejected(world: &World) -> Kept {
    let rows = world.database.rows(
        "select c.partition, r.record_offset, r.reason, r.field || ' ' || r.detail \
         from rejected_event r join chain c on c.id = r.chain",
    );
    let mut kept = Kept::new();
    for row in rows {
        let [Some(partition), Some(offset), Some(reason), Some(detail)] = row.as_slice() else {
            panic!("no column is null: {row:?}");
        };
        let place = (partition.parse().unwrap(), offset.parse().unwrap());
        kept.entry(place)
            .or_default()
            .push((reason.clone(), detail.clone()));
    }
    kept
}

fn shown(record: &Stored, expected: u64, found: Option<&Vec<(String, String)>>) -> String {
    let verdicts = line::read(record.payload.as_deref(), &Rule::default());
    let reasons: Vec<&str> = verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            Verdict::Rejected(reason) => Some(*reason),
            Verdict::Usage(_) | Verdict::Ignored => None,
        })
        .collect();
    let payload = String::from_utf8_lossy(record.payload.as_deref().unwrap_or(b"(none)"));
    let head: String = payload.chars().take(2000).collect();
    format!("expected {expected} rejections ({reasons:?}), found {found:?}: {head}")
}
