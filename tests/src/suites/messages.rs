//! Any bytes on the topic end in a posting, a duplicate, an ignored event or a rejected one that says
//! which field and why.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::load::{Load, now_ms, seed};
use crate::harness::product::drain;
use crate::harness::runner::Test;
use crate::harness::topic::{Record, Topic};
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::oracle::{Oracle, compare, time};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(
        each_kind_of_bad_message_is_kept_with_field_and_reason,
        "M1",
        "M2",
        "M3",
        "M4",
        "M5"
    ),
    test!(huge_message_is_kept_in_part_and_stops_nothing, "M6"),
    test!(repeat_is_counted_once_in_a_batch, "M8 batch"),
    test!(repeat_is_counted_once_across_batches, "M8 batches"),
    test!(repeat_is_counted_once_across_partitions, "M8 partitions"),
    test!(repeat_is_counted_once_after_a_restart, "M8 restart"),
    test!(two_calls_that_share_a_request_id_are_both_counted, "M9"),
    test!(events_out_of_order_are_posted_where_they_belong, "M10"),
    test!(
        events_outside_the_window_are_rejected_by_the_records_time,
        "M10"
    ),
    test!(events_are_priced_by_the_rate_of_their_time, "M13"),
    test!(amount_beyond_the_ledger_is_rejected),
    test!(event_below_the_floor_is_rejected, "M10"),
    test!(usage_without_a_rate_is_unpriced_until_there_is_one, "M12"),
];

/// What must become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Posted,
    Ignored,
    /// Reason and field.
    Rejected(&'static str, &'static str),
}

/// A line with these fields in place of, or beside, its own.
fn line_with(fields: &str) -> String {
    let mut object: Vec<(String, String)> = vec![
        ("gen_ai.provider.name".into(), "\"openai\"".into()),
        ("gen_ai.request.model".into(), "\"gpt-4o\"".into()),
        ("gen_ai.usage.input_tokens".into(), "100".into()),
        ("gen_ai.usage.output_tokens".into(), "10".into()),
        ("response_code".into(), "200".into()),
        (
            "start_time".into(),
            format!("\"{}\"", time::format(now_ms() - 1000)),
        ),
        ("x-request-id".into(), "\"r\"".into()),
        ("x-tenant-id".into(), "\"team\"".into()),
    ];
    let changes = fields
        .split(" ; ")
        .filter_map(|change| change.split_once('='));
    for (key, value) in changes {
        object.retain(|(known, _)| known != key);
        object.push((key.to_owned(), value.to_owned()));
    }
    let fields: Vec<String> = object
        .iter()
        .map(|(key, value)| format!("\"{key}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn bad_and_odd_messages() -> Vec<(Option<Vec<u8>>, Fate)> {
    use Fate::{Ignored, Posted, Rejected};
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_field = format!("x={}1{}", "[".repeat(500), "]".repeat(500));
    let line = line_with("");
    let twice = line.replacen('{', "{\"x-tenant-id\":\"other\",", 1);
    let enveloped = format!("{{\"message\":{}}}", Value::String(line_with("x=1")));
    let long = format!("x-tenant-id=\"{}\"", "x".repeat(257));
    let cut: String = line.chars().take(80).collect();
    let with = |fields: &str| Some(line_with(fields).into_bytes());
    let raw = |text: &str| Some(text.as_bytes().to_vec());
    let input = "gen_ai.usage.input_tokens";
    let bad = |value: &str| {
        let message = with(&format!("{input}={value}"));
        (message, Rejected("bad_number", "gen_ai.usage.input_tokens"))
    };
    let app = |value: &str| with(&format!("x-tenant-id={value}"));
    vec![
        // M1
        (None, Rejected("empty", "")),
        (raw(""), Rejected("empty", "")),
        (raw(" \r\n"), Rejected("empty", "")),
        (raw("hello"), Rejected("not_json", "")),
        (raw(&cut), Rejected("not_json", "")),
        (Some(vec![0xff, 0xfe, 0, 1]), Rejected("not_json", "")),
        (
            Some(line.replace("team", "\u{0}").into_bytes()),
            Rejected("not_json", ""),
        ),
        (raw("17"), Rejected("not_an_object", "")),
        (raw("\"text\""), Rejected("not_an_object", "")),
        (raw("[]"), Rejected("empty", "")),
        (raw("{}"), Ignored),
        (raw("{\"mcp_method\":\"tools/call\"}"), Ignored),
        // M2
        bad("-1"),
        bad("1.5"),
        bad("1e3"),
        bad("1e308"),
        bad("9223372036854775808"),
        bad("18446744073709551616"),
        bad("9007199254740993"),
        bad("\"12x\""),
        bad("true"),
        bad("[1]"),
        (with(&format!("{input}=NaN")), Rejected("not_json", "")),
        (with(&format!("{input}=Infinity")), Rejected("not_json", "")),
        (with(&format!("{input}=\"12\"")), Posted),
        (with(&format!("{input}=9007199254740992")), Posted),
        (
            with("gen_ai.usage.cached_input_tokens=101"),
            Rejected("inconsistent", input),
        ),
        (
            with("gen_ai.usage.total_tokens=9"),
            Rejected("inconsistent", "gen_ai.usage.total_tokens"),
        ),
        (
            with("gen_ai.request.model=null"),
            Rejected("missing_field", "gen_ai.request.model"),
        ),
        (
            with("start_time=null"),
            Rejected("missing_field", "start_time"),
        ),
        (
            with("start_time=\"yesterday\""),
            Rejected("bad_time", "start_time"),
        ),
        (
            with("start_time=\"1969-12-31T23:59:59Z\""),
            Rejected("bad_time", "start_time"),
        ),
        (
            with("start_time=true"),
            Rejected("wrong_type", "start_time"),
        ),
        // M3
        (app("\"\""), Posted),
        (app("\"-\""), Posted),
        (app("null"), Posted),
        (app("\"a\\u0000b\""), Rejected("bad_id", "x-tenant-id")),
        (app("\"\\ud800\""), Rejected("not_json", "")),
        (app("7"), Rejected("wrong_type", "x-tenant-id")),
        (with(&long), Rejected("bad_id", "x-tenant-id")),
        (app("\"\\u202eevil\""), Posted),
        (app("\"é\""), Posted),
        (app("\"e\\u0301\""), Posted),
        (app("\"../../etc\""), Posted),
        (app("\"=cmd()\""), Posted),
        // M4
        (raw(&deep), Rejected("not_json", "")),
        (with(&deep_field), Rejected("not_json", "")),
        // M5
        (raw(&twice), Rejected("duplicate_key", "x-tenant-id")),
        (raw(&enveloped), Posted),
    ]
}

fn each_kind_of_bad_message_is_kept_with_field_and_reason() {
    let world = World::new("bad_messages");
    let topic = world.topic(1);
    let cases = bad_and_odd_messages();
    let records = cases.iter().map(|(payload, _)| Record {
        partition: 0,
        payload: payload.clone(),
        time: None,
    });
    topic.send(records);
    let config = world.config(&topic);
    config.catch_up();

    let rows = world
        .database
        .rows("select record_offset, reason, field, detail from rejected_event");
    let kept: BTreeMap<usize, (String, String, String)> = rows
        .into_iter()
        .map(|row| {
            let mut texts = row.into_iter().map(Option::unwrap_or_default);
            let mut next = || texts.next().unwrap_or_default();
            (next().parse().unwrap(), (next(), next(), next()))
        })
        .collect();
    for (offset, (payload, fate)) in cases.iter().enumerate() {
        let shown: String = String::from_utf8_lossy(payload.as_deref().unwrap_or(b"(none)"))
            .chars()
            .take(300)
            .collect();
        match (fate, kept.get(&offset)) {
            (Fate::Rejected(reason, field), Some((found, at, detail))) => {
                assert_eq!(
                    (found.as_str(), at.as_str()),
                    (*reason, *field),
                    "{detail}: {shown}"
                );
                assert!(!detail.is_empty(), "says what was found: {shown}");
            }
            (Fate::Posted | Fate::Ignored, None) => {}
            (fate, found) => panic!("{fate:?}, but {found:?}: {shown}"),
        }
    }
    let count = |wanted: Fate| cases.iter().filter(|(_, fate)| *fate == wanted).count();
    let found = compare::stored(&world.database, topic.name()).counts;
    assert_eq!(
        found.accepted,
        u64::try_from(count(Fate::Posted)).unwrap(),
        "{found:?}"
    );
    assert_eq!(
        found.ignored,
        u64::try_from(count(Fate::Ignored)).unwrap(),
        "{found:?}"
    );
    assert_eq!(
        found.events(),
        u64::try_from(cases.len()).unwrap(),
        "one fate each: {found:?}"
    );

    // Two spellings are two applications, and nothing in a name is a formula to a spreadsheet.
    let report = config.output(&["report", "cost", "--by", "app", "--output", "csv"]);
    let apps = |wanted: &str| {
        report
            .lines()
            .filter(|line| line.starts_with(wanted))
            .count()
    };
    assert_eq!((apps("é"), apps("e\u{301}")), (1, 1), "{report}");
    assert!(
        !report.lines().any(|line| line.starts_with('=')),
        "{report}"
    );
    let listed = config.output(&["rejected", "list", "--output", "json"]);
    let listed: Vec<Value> = serde_json::from_str(&listed).expect("a list");
    assert!(!listed.is_empty(), "the executable lists what was rejected");
}

fn huge_message_is_kept_in_part_and_stops_nothing() {
    let world = World::new("huge");
    let name = world.kafka.unused_topic("huge");
    world
        .kafka
        .create_topic(&name, 1, &[("max.message.bytes", "67108864")]);
    let topic = Topic::named(&world.kafka, &name);
    let mut load = Load::new(seed("huge"));
    let mut huge = load.line();
    huge.truncate(huge.len() - 1);
    huge.push_str(",\"padding\":\"");
    huge.push_str(&"x".repeat(50 * 1024 * 1024));
    huge.push_str("\"}");
    topic.send_texts(1, [load.line(), huge, load.line()]);
    world.config(&topic).catch_up();
    world.assert_exact(&topic);
    let row = world.database.rows(
        "select reason, length(payload), payload_bytes > 50 * 1024 * 1024 from rejected_event",
    );
    let row: Vec<String> = row.into_iter().flatten().flatten().collect();
    assert_eq!(
        row,
        ["too_large", "65536", "t"],
        "its first 64 KiB and its length are kept"
    );
}

fn repeat_is_counted_once_in_a_batch() {
    let world = World::new("repeat_batch");
    let topic = world.topic(1);
    let lines = Load::new(seed("repeat_batch")).lines(100);
    // One array is one record, so one batch.
    let array = format!(
        "[{}]",
        [lines.as_slice(), lines.as_slice()].concat().join(",\n")
    );
    topic.send_texts(1, [&array, &array]);
    world.config(&topic).catch_up();
    world.assert_exact(&topic);
    let counts = compare::stored(&world.database, topic.name()).counts;
    assert_eq!(
        (counts.accepted, counts.duplicates),
        (100, 300),
        "each line once"
    );
}

/// Sends the same lines two times, with something in between.
fn repeated(name: &str, partitions: i32, between: impl FnOnce(&World, &Topic)) {
    let world = World::new(name);
    let topic = world.topic(partitions);
    let lines = Load::new(seed(name)).lines(200);
    topic.send_texts(1, &lines);
    between(&world, &topic);
    let last = partitions - 1;
    topic.send(lines.iter().map(|line| Record::text(last, line)));
    world.config(&topic).catch_up();
    world.assert_exact(&topic);
    let counts = compare::stored(&world.database, topic.name()).counts;
    assert_eq!(
        (counts.accepted, counts.duplicates),
        (200, 200),
        "each line once"
    );
    let recorded = "select count(*) from duplicate where first_part is not null";
    assert_eq!(
        world.database.value(recorded),
        "200",
        "each repeat is recorded"
    );
}

fn repeat_is_counted_once_across_batches() {
    repeated("repeat_batches", 1, |world, topic| {
        let ingest = world.config(topic).ingest();
        world.await_caught_up(topic);
        topic.send_texts(1, Vec::<String>::new());
        drain(&ingest, FOLD);
    });
}

fn repeat_is_counted_once_across_partitions() {
    repeated("repeat_partitions", 2, |_, _| {});
}

fn repeat_is_counted_once_after_a_restart() {
    repeated("repeat_restart", 1, |world, topic| {
        world.config(topic).catch_up();
    });
}

fn two_calls_that_share_a_request_id_are_both_counted() {
    let world = World::new("shared_id");
    let topic = world.topic(1);
    let at = now_ms() - 60_000;
    let call = |start: i64, output: u32| {
        let start = time::format(start);
        line_with(&format!(
            "start_time=\"{start}\" ; gen_ai.usage.output_tokens={output} ; x-request-id=\"shared\""
        ))
    };
    // Another time; the same time, other bytes; and a true repeat.
    topic.send_texts(
        1,
        [call(at, 10), call(at + 1, 10), call(at, 11), call(at, 10)],
    );
    world.config(&topic).catch_up();
    world.assert_exact(&topic);
    let counts = compare::stored(&world.database, topic.name()).counts;
    assert_eq!(
        (counts.accepted, counts.duplicates),
        (3, 1),
        "three calls and a repeat"
    );
}

fn events_out_of_order_are_posted_where_they_belong() {
    let world = World::new("out_of_order");
    let topic = world.topic(2);
    let mut load = Load::new(seed("out_of_order"));
    let now = now_ms();
    let ago = |minutes: i64| now - minutes * 60_000;
    let at = [0, 60, 1440, 5, 2 * 1440, 14, 15, 16, 4300, 1, 600];
    let lines: Vec<String> = at
        .iter()
        .cycle()
        .take(300)
        .map(|m| load.line_at(ago(*m)))
        .collect();
    topic.send_texts(2, lines);
    world.config(&topic).catch_up();
    world.assert_exact(&topic);
    let quarters = world
        .database
        .number("select count(distinct quarter) from posting");
    assert!(
        quarters >= 7,
        "posted by when they began: {quarters} quarter-hours"
    );
}

fn events_outside_the_window_are_rejected_by_the_records_time() {
    let world = World::new("window");
    let topic = world.topic(1);
    let mut load = Load::new(seed("window"));
    let (minute, day) = (60_000, 86_400_000);
    let mut records = Vec::new();
    // Written now, and a back-fill as of ten days ago: the record's time decides, not the clock.
    for written in [now_ms(), now_ms() - 10 * day] {
        let mut send = |start: i64| {
            let payload = Some(load.line_at(start).into_bytes());
            records.push(Record {
                partition: 0,
                payload,
                time: Some(written),
            });
        };
        send(written);
        send(written + 5 * minute);
        send(written + 5 * minute + 1);
        send(written - 3 * day);
        send(written - 3 * day - 1);
        send(written - 40 * day);
        send(written + 60 * minute);
    }
    topic.send(records);
    world.config(&topic).catch_up();
    world.assert_exact(&topic);
    let rows = world
        .database
        .rows("select reason || ' ' || field from rejected_event order by 1");
    let reasons: Vec<String> = rows.into_iter().flatten().flatten().collect();
    let (ahead, old) = ("too_far_ahead start_time", "too_old start_time");
    assert_eq!(
        reasons,
        [ahead, ahead, ahead, ahead, old, old, old, old],
        "which and why"
    );
}

/// Writes a price file and returns the configuration that names it.
pub(super) fn with_prices(
    config: crate::harness::product::Config,
    csv: &str,
) -> crate::harness::product::Config {
    let path = crate::harness::folders::make("prices").join("prices.csv");
    std::fs::write(&path, csv).unwrap();
    config.with_more(&format!("[prices]\nfiles = [\"{}\"]\n", path.display()))
}

fn events_are_priced_by_the_rate_of_their_time() {
    let world = World::new("price_change");
    let topic = world.topic(2);
    let mut load = Load::new(seed("price_change"));
    let header = "provider,model,meter,above_input_tokens,usd_per_unit,source,from\n";
    let change = time::format(now_ms() - 3_600_000);
    let rates = format!(
        "{header}openai,gpt-4o,input_uncached_tokens,0,0.000000000001,test,{change}\n\
         openai,gpt-4o-2024-08-06,output_text_tokens,0,123.000000000000000001,test,{change}\n"
    );
    // Half is folded before anybody knows of the new price, which holds from an hour ago.
    let before = now_ms() - 2 * 3_600_000;
    topic.send_texts(2, (0..200).map(|_| load.line_at(before)));
    world.config(&topic).catch_up();
    topic.send_texts(2, load.lines(400));
    with_prices(world.config(&topic), &rates).catch_up();
    let expected = Oracle::new(topic.name())
        .with_prices(&rates)
        .fold_topic(&topic);
    assert_ne!(
        expected,
        Oracle::new(topic.name()).fold_topic(&topic),
        "the change matters"
    );
    world.assert_exactly(&topic, &expected);
}

fn amount_beyond_the_ledger_is_rejected() {
    let world = World::new("overflow");
    let topic = world.topic(1);
    // 2^53 tokens at 100 000 dollars pass 10^20 dollars, which is where NUMERIC(38,18) ends.
    let rates = "provider,model,meter,above_input_tokens,usd_per_unit,source\n\
                 openai,gpt-4o,output_text_tokens,0,100000,test\n";
    let much = line_with("gen_ai.usage.output_tokens=9007199254740992");
    topic.send_texts(1, [line_with(""), much]);
    with_prices(world.config(&topic), rates).catch_up();
    let rejected = world
        .database
        .value("select string_agg(reason, ' ') from rejected_event");
    assert_eq!(rejected, "overflow", "one is posted, one is kept");
    assert_eq!(
        world.database.value("select sum(accepted) from part"),
        "1",
        "the other goes on"
    );
}

fn event_below_the_floor_is_rejected() {
    let world = World::new("floor");
    let topic = world.topic(1);
    let mut load = Load::new(seed("floor"));
    topic.send_texts(1, load.lines(20));
    let ingest = world.config(&topic).ingest();
    wait::until_true("ids have a floor", FOLD, || {
        world.database.value("select count(floor_at) from source") == "1"
    });
    // Within the window before its own record, but of a time whose ids are no longer kept.
    let written = now_ms() - 4 * 86_400_000;
    let payload = Some(load.line_at(written).into_bytes());
    topic.send([Record {
        partition: 0,
        payload,
        time: Some(written),
    }]);
    world.await_events(21);
    drain(&ingest, FOLD);
    let rows = world
        .database
        .rows("select reason || ' ' || field from rejected_event");
    let reasons: Vec<String> = rows.into_iter().flatten().flatten().collect();
    assert_eq!(
        reasons,
        ["below_floor start_time"],
        "rejected, never guessed"
    );
}

fn usage_without_a_rate_is_unpriced_until_there_is_one() {
    let world = World::new("unpriced");
    let topic = world.topic(1);
    let header = "provider,model,meter,above_input_tokens,usd_per_unit,source\n";
    let rates = format!("{header}openai,house,output_text_tokens,0,0.5,test\n");
    let house = |id: u32| {
        line_with(&format!(
            "gen_ai.request.model=\"house\" ; x-request-id=\"{id}\""
        ))
    };
    topic.send_texts(1, (0..10).map(house));
    world.config(&topic).catch_up();
    world.assert_exact(&topic);
    topic.send_texts(1, (10..14).map(house));
    let config = with_prices(world.config(&topic), &rates);
    config.catch_up();
    let report = config.output(&["report", "cost", "--by", "model", "--output", "json"]);
    let rows: Value = serde_json::from_str(&report).expect("JSON");
    // Of the later four the output has a rate, 10 × 0.5 each, and the input has none.
    assert_eq!(rows[0]["cost"], "20", "{report}");
    assert_eq!(rows[0]["unpriced_requests"], 14, "{report}");
    assert_eq!(rows[0]["total_tokens"], 14 * 110, "{report}");
}
