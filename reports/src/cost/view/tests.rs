//! What a cost report looks like, to the character.

use domain::calendar::{Grain, Range, Tz};
use domain::meter::{Meter, PerMeter};
use domain::time::UnixMs;
use store::cost::{CostRow, CostSums, Dimension};

use super::{shown, total};
use crate::cost::{CostArgs, CostReport, write};
use crate::output::Output;

const AT: i64 = 1_800_000_000_000;

fn sums(
    requests: u128,
    input: u128,
    priced: u128,
    unpriced: u128,
    amount: Option<&str>,
) -> CostSums {
    let mut quantities = PerMeter::default();
    quantities.set(Meter::Requests, requests);
    quantities.set(Meter::InputUncachedTokens, input);
    CostSums {
        quantities,
        failed_requests: 0,
        unmeasured_requests: 0,
        priced_requests: priced,
        unpriced_requests: unpriced,
        amount: amount.map(|amount| amount.parse().unwrap()),
    }
}

fn row(app: &str, sums: CostSums) -> CostRow {
    CostRow {
        start: UnixMs::new(AT).unwrap(),
        dimensions: vec![app.to_owned()],
        sums,
    }
}

fn report(output: Output, rows: Vec<CostRow>) -> CostReport {
    let from = UnixMs::new(AT).unwrap();
    let range = Range::new(from, from.saturating_add_ms(3_600_000)).ok();
    let args = CostArgs {
        by: vec![Dimension::App],
        output,
        ..CostArgs::default()
    };
    CostReport {
        args,
        range,
        ledger: range,
        rows,
    }
}

fn text(report: &CostReport) -> String {
    let mut out = Vec::new();
    write(report, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn rows() -> Vec<CostRow> {
    vec![
        row(
            "=cmd()",
            sums(2, 1_234_567, 2, 0, Some("1234.5000000000000001")),
        ),
        row("a\u{1b}[2J", sums(1, 0, 0, 0, Some("0"))),
        row("b", sums(3, 30, 0, 3, None)),
    ]
}

#[test]
fn a_table_aligns_rounds_totals_and_escapes() {
    let expected = "\
app         requests  input tokens  output tokens  unpriced          cost
──────────────────────────────────────────────────────────────────────────
=cmd()             2     1,234,567              0         0  1,234.500000
a\\u{1b}[2J         1             0              0         0      0.000000
b                  3            30              0         3       no rate
──────────────────────────────────────────────────────────────────────────
total              6     1,234,597              0         3  1,234.500000

Usage from 2027-01-15T08:00:00Z to 2027-01-15T09:00:00Z (UTC).
Costs are rounded to 6 places for display; --output json or csv has them exactly.
3 requests used something that has no rate, which no cost includes; see `tollbook report cost --by provider,priced_model --only-unpriced`.
";
    assert_eq!(text(&report(Output::Table, rows())), expected, "the table");
}

#[test]
fn a_narrow_table_wraps_texts_and_never_numbers() {
    let name = "an application whose name is long enough to be wrapped somewhere";
    let mut narrow = report(
        Output::Table,
        vec![row(name, sums(1_000_000, 1, 1, 0, Some("2")))],
    );
    narrow.args.width = Some(70);
    let text = text(&narrow);
    let table: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    assert!(
        table.iter().all(|line| line.chars().count() <= 70),
        "at most 70 columns:\n{text}"
    );
    assert!(text.contains("1,000,000"), "the number is whole:\n{text}");
}

#[test]
fn json_is_exact_flat_and_safe() {
    let meters = |requests: u32, input: u32| {
        format!(
            "\"requests\":{requests},\"input_uncached_tokens\":{input},\
             \"input_cache_read_tokens\":0,\"input_cache_write_tokens\":0,\
             \"input_cache_write_1h_tokens\":0,\"input_audio_tokens\":0,\"output_text_tokens\":0,\
             \"output_reasoning_tokens\":0,\"output_audio_tokens\":0,\"images\":0,\
             \"input_tokens\":{input},\"output_tokens\":0,\"total_tokens\":{input}"
        )
    };
    let rest = "\"failed_requests\":0,\"unmeasured_requests\":0}";
    let expected = format!(
        "[\n{{\"app\":\"=cmd()\",{},\"cost\":\"1234.5000000000000001\",\"unpriced_requests\":0,{rest},\n\
         {{\"app\":\"a\\u001b[2J\",{},\"cost\":\"0\",\"unpriced_requests\":0,{rest},\n\
         {{\"app\":\"b\",{},\"cost\":null,\"unpriced_requests\":3,{rest}\n]\n",
        meters(2, 1_234_567),
        meters(1, 0),
        meters(3, 30)
    );
    let text = text(&report(Output::Json, rows()));
    assert_eq!(text, expected, "the JSON");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value[1]["app"], "a\u{1b}[2J", "a reader gets the id back");
}

#[test]
fn an_empty_report_is_an_empty_array_a_bare_header_or_advice() {
    assert_eq!(text(&report(Output::Json, Vec::new())), "[]\n", "JSON");
    assert!(
        text(&report(Output::Csv, Vec::new())).starts_with("app,requests,"),
        "CSV"
    );
    let mut empty = report(Output::Table, Vec::new());
    assert!(
        text(&empty).contains("the ledger holds usage from 2027-01-15T08:00:00Z"),
        "a range"
    );
    empty.ledger = None;
    assert!(
        text(&empty).contains("`tollbook ingest`"),
        "what to do next"
    );
}

#[test]
fn csv_escapes_formulas_and_leaves_unknown_costs_empty() {
    let text = text(&report(Output::Csv, rows()));
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        "app,requests,input_uncached_tokens,input_cache_read_tokens,input_cache_write_tokens,\
         input_cache_write_1h_tokens,input_audio_tokens,output_text_tokens,output_reasoning_tokens,\
         output_audio_tokens,images,input_tokens,output_tokens,total_tokens,cost,unpriced_requests,\
         failed_requests,unmeasured_requests",
        "'=cmd(),2,1234567,0,0,0,0,0,0,0,0,1234567,0,1234567,1234.5000000000000001,0,0,0",
        "a\\u{1b}[2J,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
        "b,3,30,0,0,0,0,0,0,0,0,30,0,30,,3,0,0",
    ];
    assert_eq!(lines, expected, "the CSV");
}

#[test]
fn a_grain_adds_the_start_in_the_zone() {
    let mut by_day = report(Output::Json, vec![row("b", sums(1, 0, 0, 0, Some("0")))]);
    by_day.args.grain = Grain::Day;
    by_day.args.zone = Tz::Asia__Kathmandu;
    let text = text(&by_day);
    let start = "{\"start\":\"2027-01-15T13:45:00+05:45\",\"app\":\"b\",";
    assert!(
        text.contains(start),
        "the start comes first, with its offset:\n{text}"
    );
}

#[test]
fn amounts_are_rounded_for_display_only() {
    let rows = [
        (None, "no rate"),
        (Some("0"), "0.000000"),
        (Some("1234.5"), "1,234.500000"),
        (Some("0.0000015"), "0.000002"),
        (Some("0.0000025"), "0.000002"),
        (Some("0.0000005"), "<0.000001"),
        (Some("0.000000000000000001"), "<0.000001"),
        (Some("0.999999500000000001"), "1.000000"),
        (Some("-2.25"), "-2.250000"),
        (Some("-0.0000001"), ">-0.000001"),
    ];
    for (amount, expected) in rows {
        assert_eq!(
            shown(amount.map(|amount| amount.parse().unwrap())),
            expected,
            "of {amount:?}"
        );
    }
}

#[test]
fn totals_add_what_has_an_amount_and_are_unknown_where_nothing_has() {
    let all = total(&rows());
    let cost = all.amount.map(|amount| amount.to_string());
    assert_eq!(
        cost.as_deref(),
        Some("1234.5000000000000001"),
        "the amounts that exist"
    );
    let none = total(&[
        row("a", sums(1, 0, 0, 0, Some("0"))),
        row("b", sums(3, 30, 0, 3, None)),
    ]);
    assert_eq!(
        none.amount, None,
        "billable usage, and none of it has an amount"
    );
}
