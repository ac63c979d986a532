//! What readers see: cost over roll-up and rest, zones, unknown costs, tenants, rejected events, and
//! the rows that `verify` reads.

mod amounts;
mod days;
mod ledger;
mod readers;
mod rejected;
mod stored;
mod tenants;
mod zones;

use domain::calendar::Tz;
use domain::time::UnixMs;
use reports::Output;
use reports::cost::CostArgs;
use serde_json::Value;
use store::cost::{CostQuery, CostRow, Dimension, Tenants, cost};

use crate::harness::database::RUNTIME;
use crate::harness::runner::Test;
use crate::test;
use amounts::{
    a_cost_is_null_exactly_where_billable_usage_has_no_amount,
    a_tampered_amount_stops_the_roll_up_and_is_named, a_tampered_roll_up_is_named,
    amounts_whose_errors_cancel_are_left_to_verify,
};
use days::{
    reports_are_the_sums_of_postings_whichever_days_are_made, what_waits_is_told_with_its_age,
};
use ledger::Ledger;
use readers::readers_see_each_posting_once_while_parts_arrive_and_are_rolled_up;
use rejected::{
    rejected_events_are_listed_once_each_while_more_arrive, rejected_events_are_shown_harmlessly,
};
use stored::{
    a_changed_row_does_not_hash_to_its_part, stored_contents_have_the_keys_that_they_hash_to,
    stored_rows_hash_to_what_their_parts_say,
};
use tenants::{
    a_tenants_reader_sees_no_other_tenant, postgres_shows_a_reader_the_tenant_that_it_names,
};
use zones::{
    a_report_without_a_range_begins_with_a_whole_bucket,
    zones_off_the_hour_and_days_of_a_change_of_clock_are_cut_exactly,
};

pub(super) const TESTS: &[Test] = &[
    test!(readers_see_each_posting_once_while_parts_arrive_and_are_rolled_up),
    test!(zones_off_the_hour_and_days_of_a_change_of_clock_are_cut_exactly),
    test!(a_report_without_a_range_begins_with_a_whole_bucket),
    test!(a_cost_is_null_exactly_where_billable_usage_has_no_amount),
    test!(a_tampered_amount_stops_the_roll_up_and_is_named),
    test!(a_tampered_roll_up_is_named),
    test!(amounts_whose_errors_cancel_are_left_to_verify),
    test!(reports_are_the_sums_of_postings_whichever_days_are_made),
    test!(what_waits_is_told_with_its_age),
    test!(a_tenants_reader_sees_no_other_tenant),
    test!(postgres_shows_a_reader_the_tenant_that_it_names),
    test!(rejected_events_are_listed_once_each_while_more_arrive),
    test!(rejected_events_are_shown_harmlessly),
    test!(stored_rows_hash_to_what_their_parts_say),
    test!(stored_contents_have_the_keys_that_they_hash_to),
    test!(a_changed_row_does_not_hash_to_its_part),
];

fn instant(text: &str) -> UnixMs {
    domain::calendar::parse_instant(text, Tz::UTC).unwrap()
}

fn read(ledger: &Ledger, tenants: Tenants, by: &[Dimension], bounds: &[&str]) -> Vec<CostRow> {
    let bounds = bounds.iter().map(|bound| instant(bound)).collect();
    let query = CostQuery {
        by: by.to_vec(),
        bounds,
    };
    RUNTIME
        .block_on(cost(&ledger.reports, tenants, &query))
        .unwrap()
}

fn report(ledger: &Ledger, args: &CostArgs) -> Value {
    let args = CostArgs {
        output: Output::Json,
        ..args.clone()
    };
    let mut out = Vec::new();
    RUNTIME
        .block_on(reports::cost::run(&ledger.reports, &args, &mut out))
        .unwrap();
    serde_json::from_slice(&out).unwrap()
}
