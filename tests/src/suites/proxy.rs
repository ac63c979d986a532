//! The proxy in front of Postgres does to a session what its modes say.

use std::time::Duration;

use crate::harness::database::Database;
use crate::harness::postgres::Postgres;
use crate::harness::proxy::{Lost, Proxy};
use crate::harness::runner::Test;
use crate::harness::wait;
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(proxy_loses_one_answer_to_commit),
    test!(proxy_cuts_and_restores),
    test!(proxy_delays_and_falls_silent),
];

fn proxied(name: &str) -> (Database, Proxy, Database) {
    let server = Postgres::shared();
    let direct = server.empty_database(name);
    direct.run("create table t (n int)");
    let proxy = Proxy::start(server.port());
    let through = Database::at(&proxy.url(direct.url()));
    (direct, proxy, through)
}

fn proxy_loses_one_answer_to_commit() {
    let cases = [(Lost::BeforeApplied, "0"), (Lost::AfterApplied, "1")];
    for (lost, rows) in cases {
        let (direct, proxy, through) = proxied("lost");
        proxy.lose_commit(lost, "insert into t");
        let mut other = through.session();
        other.run("begin; select 1");
        other.run("commit");
        assert_eq!(proxy.lost(), 0, "another connection's commit passes");
        let mut session = through.session();
        session.run("begin");
        session.run("insert into t values (1)");
        assert!(
            session.try_rows("commit").is_err(),
            "{lost:?}: the answer is lost"
        );
        assert_eq!(proxy.lost(), 1, "{lost:?}");
        // A roll-back takes its time: until then the table is locked against this.
        direct.run("begin; lock table t in access exclusive mode; commit");
        assert_eq!(direct.value("select count(*) from t"), rows, "{lost:?}");
        let mut again = through.session();
        again.run("begin");
        again.run("insert into t values (2)");
        again.run("commit");
    }
}

fn proxy_cuts_and_restores() {
    let (_direct, proxy, through) = proxied("cut");
    let mut session = through.session();
    session.run("select 1");
    proxy.cut();
    wait::until_true("the session is cut", Duration::from_secs(5), || {
        session.try_rows("select 1").is_err()
    });
    proxy.restore();
    through.session().run("select 1");
}

fn proxy_delays_and_falls_silent() {
    let (_direct, proxy, through) = proxied("slow");
    let mut session = through.session();
    proxy.delay(Duration::from_millis(300));
    let begun = tokio::time::Instant::now();
    session.run("select 1");
    assert!(
        begun.elapsed() >= Duration::from_millis(300),
        "the delay shows"
    );
    proxy.delay(Duration::ZERO);
    proxy.silence(true);
    let waiting = std::thread::spawn(move || session.try_rows("select 1").is_ok());
    wait::pause(Duration::from_millis(300));
    assert!(!waiting.is_finished(), "silence answers nothing");
    proxy.silence(false);
    assert!(waiting.join().unwrap(), "and then it goes on");
}
