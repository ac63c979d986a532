//! A tenant's reader sees its own usage and nobody else's.

use store::cost::{Dimension, Snapshot, Tenants};

use super::ledger::{Ledger, Line};
use super::read;
use crate::harness::database::RUNTIME;

/// Three tenants, one of them by the operator's sign; a part of b's is not rolled up.
fn three_tenants() -> Ledger {
    let ledger = Ledger::with_chains(1);
    let first = [
        Line::of("one", "2027-03-01 10:00Z", 1, 10).of_tenant("a"),
        Line::of("two", "2027-03-02 10:00Z", 1, 10).of_tenant("b"),
        Line::of("three", "2027-03-02 10:00Z", 1, 10).of_tenant("*"),
    ];
    ledger.add_part(1, 1, &first);
    ledger.roll_up_all();
    ledger.add_part(
        1,
        2,
        &[Line::of("two", "2027-03-03 10:00Z", 1, 10).of_tenant("b")],
    );
    ledger
}

fn one(tenant: &str) -> Tenants {
    Tenants::One(tenant.to_owned())
}

pub(super) fn a_tenants_reader_sees_no_other_tenant() {
    let ledger = three_tenants();
    assert!(
        ledger.reports.has_role(),
        "the reader has the role that row-level security binds"
    );
    let apps = |tenants: Tenants| -> Vec<String> {
        let rows = read(
            &ledger,
            tenants,
            &[Dimension::App],
            &["2027-03-01", "2027-04-01"],
        );
        rows.into_iter().flat_map(|row| row.dimensions).collect()
    };
    assert_eq!(apps(Tenants::All), ["one", "three", "two"], "the operator");
    assert_eq!(apps(one("a")), ["one"], "tenant a");
    assert_eq!(apps(one("b")), ["two"], "tenant b");
    assert_eq!(apps(one("*")), ["three"], "a tenant by the operator's sign");
    assert_eq!(apps(one("")), Vec::<String>::new(), "nobody");
    let last = |tenant: &str| {
        let found = RUNTIME.block_on(async {
            Snapshot::open(&ledger.reports, one(tenant))
                .await?
                .extent()
                .await
        });
        found.unwrap().map(|extent| extent.last.to_string())
    };
    assert_eq!(
        last("a").as_deref(),
        Some("2027-03-01T10:00:00Z"),
        "a's last usage"
    );
    assert_eq!(
        last("b").as_deref(),
        Some("2027-03-03T10:00:00Z"),
        "b's last usage"
    );
    assert_eq!(last("c"), None, "c has none");
}

/// What Postgres itself enforces, whatever the product's statements ask for.
pub(super) fn postgres_shows_a_reader_the_tenant_that_it_names() {
    let ledger = three_tenants();
    let mut session = ledger.sql.session();
    session.run("set role tollbook_reports");
    let mut count = |setting: &str| {
        let sql = format!("begin; {setting}; select count(*) from series; commit");
        let row = session.try_rows(&sql).unwrap().pop().unwrap();
        row.first().cloned().flatten().unwrap()
    };
    assert_eq!(count("select 1 where false"), "0", "unset: none");
    assert_eq!(
        count("set local tollbook.tenant = 'a'"),
        "1",
        "set: that one"
    );
    assert_eq!(
        count("set local tollbook.tenant = '*'"),
        "3",
        "the operator: all"
    );
    for change in [
        "delete from rollup_day",
        "insert into batch (process) values (null)",
    ] {
        assert!(
            session.try_rows(change).is_err(),
            "a reader may not: {change}"
        );
    }
}
