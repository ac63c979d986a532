//! Rejected events: pages that neither repeat nor skip, and text that does a terminal no harm.

use domain::calendar::Tz;
use reports::Output;
use reports::rejected::{ListArgs, ShowArgs};
use serde_json::Value;

use super::ledger::Ledger;
use crate::harness::database::RUNTIME;

/// Adds rejected events, one a record, to two chains by turns; everything in them that comes from
/// outside holds a control character.
fn add(ledger: &Ledger, first: i32, last: i32, day: u32) {
    ledger.sql.run(&format!(
        "insert into rejected_event
         select 1 + n % 2, n, 0, 1, case n % 3 when 0 then 'bad_number' else 'not_json' end,
             e'x\\x1b[2J', e'is \\u009b31m', '2027-03-0{day}Z',
             e'\\\\x1b5b324a7b7d', 7, md5(n::text)::uuid
         from generate_series({first}, {last}) n"
    ));
}

fn list(ledger: &Ledger, args: &ListArgs) -> String {
    let mut out = Vec::new();
    RUNTIME
        .block_on(reports::rejected::list(&ledger.reports, args, &mut out))
        .unwrap();
    String::from_utf8(out).unwrap()
}

fn show(ledger: &Ledger, output: Output) -> String {
    let place = "usage.envoy/1/31".parse().unwrap();
    let args = ShowArgs {
        place,
        zone: Tz::UTC,
        output,
    };
    let mut out = Vec::new();
    RUNTIME
        .block_on(reports::rejected::show(&ledger.reports, &args, &mut out))
        .unwrap();
    String::from_utf8(out).unwrap()
}

pub(super) fn rejected_events_are_listed_once_each_while_more_arrive() {
    let ledger = Ledger::with_chains(2);
    add(&ledger, 1, 30, 1);
    add(&ledger, 31, 40, 2);
    let mut args = ListArgs {
        limit: 7,
        output: Output::Json,
        ..ListArgs::default()
    };
    let mut offsets: Vec<u64> = Vec::new();
    loop {
        let page: Value = serde_json::from_str(&list(&ledger, &args)).unwrap();
        let page = page.as_array().unwrap();
        let Some(last) = page.last() else { break };
        args.after = Some(last["cursor"].as_str().unwrap().parse().unwrap());
        offsets.extend(page.iter().map(|event| event["offset"].as_u64().unwrap()));
        // What arrives meanwhile is newer, so it stands before the pages that are left.
        let next = 100 + i32::try_from(offsets.len()).unwrap();
        add(&ledger, next, next, 3);
    }
    assert!(
        offsets[..10].iter().all(|offset| *offset > 30),
        "the newest first: {offsets:?}"
    );
    offsets.sort_unstable();
    assert_eq!(offsets, (1..=40).collect::<Vec<u64>>(), "each once");
}

pub(super) fn rejected_events_are_shown_harmlessly() {
    let ledger = Ledger::with_chains(2);
    add(&ledger, 1, 40, 2);
    let mut args = ListArgs {
        reason: Some("bad_number".parse().unwrap()),
        since: Some("2027-03-02".to_owned()),
        ..ListArgs::default()
    };
    let table = list(&ledger, &args);
    assert!(
        table.contains("bad_number") && !table.contains("not_json"),
        "filtered:\n{table}"
    );
    for output in Output::ALL {
        args.output = output;
        let text = list(&ledger, &args);
        assert!(
            !text.contains(['\u{1b}', '\u{9b}']),
            "{output} holds a control: {text:?}"
        );
    }
    args.since = Some("2027-03-03".to_owned());
    args.output = Output::Table;
    assert_eq!(
        list(&ledger, &args),
        "No event that matches was rejected.\n",
        "none since"
    );
    let text = show(&ledger, Output::Table);
    assert!(text.contains("usage.envoy/1/31/0"), "the place:\n{text}");
    assert!(
        text.contains("\n\\u{1b}[2J{}\n"),
        "the payload, written out:\n{text}"
    );
    for output in [Output::Table, Output::Json] {
        assert!(
            !show(&ledger, output).contains(['\u{1b}', '\u{9b}']),
            "{output} holds a control"
        );
    }
}
