//! What Postgres itself refuses, who may do what, and migrations.

use std::collections::BTreeSet;
use std::thread;

use domain::price::PriceBook;
use store::{Database as Store, Role, Roles, StoreError};

use super::fixture::{Request, World, requests};
use crate::harness::database::{Database, RUNTIME};
use crate::harness::postgres::Postgres;
use crate::harness::runner::Test;
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(what_is_posted_is_never_changed_by_anybody),
    test!(each_role_may_do_its_work_and_no_more),
    test!(an_owner_without_roles_folds_all_the_same),
    test!(migrations_at_once_end_in_one_schema, "D13"),
    test!(another_schema_is_refused_with_the_cure, "D12"),
];

const APPEND_ONLY: [&str; 17] = [
    "price_book",
    "price_layer",
    "price_book_layer",
    "source_config",
    "applied_at_start",
    "batch",
    "part",
    "series",
    "rate_set",
    "posting",
    "rejected_event",
    "duplicate",
    "adjustment",
    "adjustment_bound",
    "rejection_resolved",
    "policy_set",
    "policy_limit",
];

/// Returns a ledger with a row in every append-only table.
fn filled() -> World {
    let world = World::new();
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    let sent = [
        requests(0, 2),
        requests(0, 1),
        vec![Request::of("x").at(1_000)],
    ]
    .concat();
    world
        .commit(&mut writer.0, &mut [(&mut chain, &sent)])
        .unwrap();
    world.sql.run(
        "insert into rejected_event values (1, 9, 0, 1, 'not_json', '', '', now(), '', 0,
             gen_random_uuid());
         insert into adjustment values (1, 1, 'retry', now(), 'somebody', '', '{}', false);
         insert into adjustment_bound values (1, 1, 1, 1);
         insert into rejection_resolved values (1, 9, 0, 1, 1, 0, 1, 0, 0);
         with made as (
             insert into policy_set (content, content_hash, origin)
             values ('', gen_random_uuid(), '') returning version
         )
         insert into policy_limit select version, gen_random_uuid(), 'p', '', 'l', now() from made",
    );
    world
}

fn partitions_of(sql: &Database, table: &str) -> Vec<String> {
    let rows = sql.rows(&format!(
        "select inhrelid::regclass::text from pg_inherits where inhparent = '{table}'::regclass
         order by 1"
    ));
    rows.into_iter().flatten().flatten().collect()
}

fn what_is_posted_is_never_changed_by_anybody() {
    let world = filled();
    let partitions = partitions_of(&world.sql, "posting");
    assert!(
        partitions.len() >= 4,
        "two months, the next ones, the default: {partitions:?}"
    );
    let mut tables: Vec<String> = APPEND_ONLY.map(str::to_owned).to_vec();
    tables.extend(partitions);
    for table in &tables {
        let column = world.sql.value(&format!(
            "select attname from pg_attribute where attrelid = '{table}'::regclass and attnum > 0
                 and attidentity = '' order by attnum limit 1"
        ));
        let rows = world.sql.number(&format!("select count(*) from {table}"));
        let is_row_table = rows > 0 || APPEND_ONLY.contains(&table.as_str());
        assert!(!is_row_table || rows > 0, "{table} has no row to try with");
        for change in [
            format!("update {table} set {column} = {column}"),
            format!("delete from {table}"),
            format!("truncate {table} cascade"),
        ] {
            // Row triggers see rows only: without one, UPDATE and DELETE change nothing anyway.
            if rows == 0 && !change.starts_with("truncate") {
                continue;
            }
            for role in [
                "none",
                "tollbook_ingest",
                "tollbook_enforcer",
                "tollbook_reports",
            ] {
                let mut session = world.sql.session();
                session.run(&format!("set role {role}"));
                let error = session.try_rows(&change).expect_err(&change);
                let state = error.as_database_error().and_then(|error| error.code());
                let expected = if role == "none" { "23001" } else { "42501" };
                assert_eq!(
                    state.as_deref(),
                    Some(expected),
                    "{role}: {change}: {error}"
                );
            }
        }
        let after = world.sql.number(&format!("select count(*) from {table}"));
        assert_eq!(after, rows, "{table} is as it was");
    }
}

fn each_role_may_do_its_work_and_no_more() {
    let world = filled();
    let may = |role: &str, privilege: &str| -> BTreeSet<String> {
        let rows = world.sql.rows(&format!(
            "select relname from pg_class where relnamespace = 'public'::regnamespace
                 and relkind in ('r', 'p') and not relispartition
                 and has_table_privilege('{role}', oid, '{privilege}')"
        ));
        rows.into_iter().flatten().flatten().collect()
    };
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let updates: BTreeSet<String> = set(&[
        "account",
        "balance_mark",
        "event_seen_count",
        "in_force",
        "ingest_gap",
        "rollup_day",
        "rollup_mark",
        "rollup_quarter",
        "source",
        "source_position",
    ]);
    assert_eq!(may("tollbook_ingest", "update"), updates, "ingest updates");
    for privilege in ["delete", "truncate", "trigger", "references"] {
        assert_eq!(
            may("tollbook_ingest", privilege),
            BTreeSet::new(),
            "ingest: {privilege}"
        );
    }
    for role in ["tollbook_enforcer", "tollbook_reports"] {
        for privilege in ["insert", "update", "delete", "truncate", "trigger"] {
            let is_own = role == "tollbook_enforcer" && ["insert", "update"].contains(&privilege);
            let own = if is_own {
                set(&["replica_account"])
            } else {
                BTreeSet::new()
            };
            assert_eq!(may(role, privilege), own, "{role}: {privilege}");
        }
    }
    let reports = may("tollbook_reports", "select");
    assert!(
        reports.contains("posting") && reports.contains("_sqlx_migrations"),
        "{reports:?}"
    );
    for role in [Role::Ingest, Role::Enforcer, Role::Reports] {
        let opened = RUNTIME
            .block_on(Store::open(world.sql.url(), role))
            .unwrap();
        assert!(opened.has_role(), "{role:?} is taken");
    }
    for role in [Role::Ingest, Role::Enforcer] {
        let opened = RUNTIME
            .block_on(Store::open(world.sql.url(), role))
            .unwrap();
        let deleted = RUNTIME.block_on(store::accounts::delete_old(&opened, 10));
        assert_eq!(deleted.unwrap(), 0, "{role:?} deletes what is old");
    }
    let enforcer = may("tollbook_enforcer", "select");
    assert!(
        !enforcer.contains("rejected_event"),
        "payloads are not the enforcer's: {enforcer:?}"
    );
}

/// A login that may create nothing but tables in its own database, as hosted Postgres gives out.
fn an_owner_without_roles_folds_all_the_same() {
    let sql = Postgres::shared().empty_database("plain_owner");
    let (_, name) = sql.url().rsplit_once('/').unwrap();
    // The cluster has the roles; this login was not granted them.
    sql.run(&format!(
        "do $$ begin create role plain login; exception when duplicate_object then null; end $$;
         alter database \"{name}\" owner to plain; alter schema public owner to plain"
    ));
    let url = sql.url().replace("tollbook@", "plain@");
    let migrated = RUNTIME.block_on(store::migrate(&url)).unwrap();
    assert!(matches!(migrated.roles, Roles::Missing(_)), "{migrated:?}");
    let world = World::at(sql, &url, PriceBook::shipped());
    assert!(!world.ingest.has_role(), "no role to take");
    let mut writer = world.writer();
    let mut chain = world.claim(0, &writer);
    world
        .commit(&mut writer.0, &mut [(&mut chain, &requests(0, 3))])
        .unwrap();
    let again = [requests(0, 3), requests(3, 1)].concat();
    let counts = world
        .commit(&mut writer.0, &mut [(&mut chain, &again)])
        .unwrap()
        .counts;
    assert_eq!(
        (counts[0].accepted, counts[0].duplicates),
        (1, 3),
        "row-level security is no bar"
    );
    let mut session = Database::at(&url).session();
    let error = session
        .try_rows("delete from posting")
        .expect_err("append-only");
    assert!(
        error
            .to_string()
            .contains("is append-only: delete is refused"),
        "{error}"
    );
    let changed = session
        .try_rows("truncate posting")
        .expect_err("append-only");
    assert!(changed.to_string().contains("append-only"), "{changed}");
}

fn migrations_at_once_end_in_one_schema() {
    let databases: Vec<Database> = (0..3)
        .map(|_| Postgres::shared().empty_database("migrated_at_once"))
        .collect();
    let applied: Vec<(usize, i64)> = thread::scope(|scope| {
        let runs: Vec<_> = databases
            .iter()
            .flat_map(|database| [database.url(); 3])
            .map(|url| scope.spawn(move || RUNTIME.block_on(store::migrate(url)).unwrap()))
            .collect();
        let done = runs.into_iter().map(|run| run.join().unwrap());
        done.map(|migrated| (migrated.applied, migrated.version))
            .collect()
    });
    let versions: BTreeSet<i64> = applied.iter().map(|(_, version)| *version).collect();
    assert_eq!(versions.len(), 1, "one version: {applied:?}");
    for database in &databases {
        let again = RUNTIME.block_on(store::migrate(database.url())).unwrap();
        assert_eq!(again.applied, 0, "nothing is left to do");
        assert_eq!(again.roles, Roles::Separate, "the roles are there");
        let rows = database.number("select count(*) from in_force");
        assert_eq!(rows, 1, "migrated once");
    }
}

fn another_schema_is_refused_with_the_cure() {
    let sql = Postgres::shared().empty_database("other_schema");
    let open = || {
        RUNTIME
            .block_on(Store::open(sql.url(), Role::Ingest))
            .map(|_| ())
    };
    let refused = |name: &str| open().expect_err(name).to_string();
    assert!(
        refused("empty").contains("run `tollbook migrate`"),
        "{}",
        refused("empty")
    );
    assert!(matches!(open(), Err(StoreError::NotMigrated)), "empty");
    RUNTIME.block_on(store::migrate(sql.url())).unwrap();
    open().unwrap();
    sql.run(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'later', true, '', 0)",
    );
    assert!(
        matches!(open(), Err(StoreError::SchemaTooNew { found: 9999, .. })),
        "{:?}",
        open()
    );
    let migrated = RUNTIME.block_on(store::migrate(sql.url()));
    assert!(
        matches!(migrated, Err(StoreError::SchemaTooNew { found: 9999, .. })),
        "{migrated:?}"
    );
    sql.run(
        "delete from _sqlx_migrations where version > 0; insert into _sqlx_migrations
         (version, description, success, checksum, execution_time) values (0, 'none', true, '', 0)",
    );
    assert!(
        matches!(open(), Err(StoreError::NotMigrated)),
        "{:?}",
        open()
    );
    let missing = sql.url().replace("other_schema", "no_such_database");
    let error = RUNTIME
        .block_on(Store::open(&missing, Role::Ingest))
        .map(|_| ());
    assert!(matches!(error, Err(StoreError::Forbidden(_))), "{error:?}");
    let nobody = RUNTIME.block_on(Store::open("postgres://u@127.0.0.1:1/x", Role::Ingest));
    let error = nobody.map(|_| ()).expect_err("nobody listens");
    assert!(
        error.is_transient() && error.to_string().contains("127.0.0.1:1"),
        "{error}"
    );
}
