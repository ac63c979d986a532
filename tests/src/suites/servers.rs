//! The harness itself: what the other suites stand on does what it says.

use crate::harness::kafka::Kafka;
use crate::harness::postgres::Postgres;
use crate::harness::topic::{Record, Topic};
use crate::test;

pub(super) const TESTS: &[crate::harness::runner::Test] = &[
    test!(records_are_read_back_as_they_were_sent),
    test!(aborted_transactions_are_not_read),
    test!(databases_of_two_tests_are_apart),
];

fn records_are_read_back_as_they_were_sent() {
    let topic = Topic::create(&Kafka::shared(), "servers", 2);
    topic.send([
        Record::text(0, "a"),
        Record {
            partition: 1,
            payload: None,
            time: Some(7),
        },
    ]);
    let read = topic.read();
    let found: Vec<_> = read
        .iter()
        .map(|r| (r.partition, r.offset, r.payload.clone()))
        .collect();
    assert_eq!(
        found,
        [(0, 0, Some(b"a".to_vec())), (1, 0, None)],
        "sent and read"
    );
    assert_eq!(
        read.last().map(|record| record.time),
        Some(7),
        "the time that was given"
    );
}

fn aborted_transactions_are_not_read() {
    let topic = Topic::create(&Kafka::shared(), "aborted", 1);
    let aborted = topic.begin("servers-aborted");
    aborted.send([Record::text(0, "gone")]);
    aborted.abort();
    let committed = topic.begin("servers-committed");
    committed.send([Record::text(0, "kept")]);
    committed.commit();
    let read = topic.read();
    assert_eq!(read.len(), 1, "only the committed record is read");
    assert_eq!(topic.ends(), 4, "two records and two markers");
}

fn databases_of_two_tests_are_apart() {
    let (one, other) = (
        Postgres::shared().empty_database("a"),
        Postgres::shared().empty_database("a"),
    );
    one.run("create table here (n int)");
    assert!(
        other.try_rows("table here").is_err(),
        "a table of another database is not seen"
    );
}
