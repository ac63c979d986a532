//! What a person reads whose settings are wrong, or whose database, broker or topic is away.
//!
//! Invariant: exactly one line on stderr, which names the thing, the place and the cure; the exit
//! code of its kind; never a panic or a stack of causes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::harness::children::{Child, DeathSignal, Program};
use crate::harness::database::Database;
use crate::harness::folders;
use crate::harness::kafka::Kafka;
use crate::harness::postgres::Postgres;
use crate::harness::product::{COMMAND, executable, source};
use crate::harness::runner::Test;
use crate::harness::topic::Record;
use crate::harness::wait;
use crate::harness::world::World;
use crate::test;

mod settings;

use settings::{IN_FLAGS, IN_PRICE_FILES, IN_THE_FILE, IN_VARIABLES, OF_OTLP, OTLP_ON};

pub(super) const TESTS: &[Test] = &[
    test!(a_wrong_setting_is_one_line_with_place_and_cure, "K14"),
    test!(an_absent_dependency_is_one_line_with_place_and_cure),
    test!(a_schema_of_another_version_is_one_line_with_its_cure),
    test!(a_missing_topic_is_waited_for_and_found_within_two_seconds),
    test!(a_panic_is_one_line_and_ends_the_process, "P12"),
    test!(a_reader_that_goes_away_ends_a_command_quietly),
    test!(the_doctor_names_what_to_mend),
];

/// One run of the executable and what it must say.
#[derive(Default)]
struct Case<'a> {
    what: &'a str,
    /// The configuration file.
    file: String,
    variables: &'a [(&'a str, &'a str)],
    arguments: &'a [&'a str],
    exit: i32,
    /// What stands in the line, parted by ` | `: thing, place, cure.
    says: &'a str,
}

/// What a command printed.
struct Ran {
    exit: i32,
    stdout: String,
    stderr: String,
}

/// A folder with a configuration file, and with a price file whose third line is wrong.
fn start(file: &str, variables: &[(&str, &str)], arguments: &[&str]) -> (PathBuf, Child) {
    let folder = folders::make("errors");
    std::fs::write(folder.join("tollbook.toml"), file).unwrap();
    let prices = "provider,model,meter,above_input_tokens,usd_per_unit,source\n\
                  openai,gpt-4o,output_text_tokens,0,0.00001,us\n\
                  openai,gpt-4o,output_text_tokens,0,cheap,us\n";
    std::fs::write(folder.join("prices.csv"), prices).unwrap();
    let mut variables: Vec<_> = variables.to_vec();
    let config = folder.join("tollbook.toml").display().to_string();
    variables.push(("TOLLBOOK_CONFIG", &config));
    if arguments == SERVE {
        // Several tests serve at once.
        variables.push(("TOLLBOOK_INGEST_HTTP", "127.0.0.1:0"));
    }
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let program = Program {
        name: "tollbook".to_owned(),
        path: executable(),
        arguments: arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
        environment: variables.iter().map(owned).collect(),
        account: None,
        death_signal: DeathSignal::Kill,
        logs: folder.clone(),
    };
    (folder, program.start())
}

fn run(file: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let (folder, child) = start(file, variables, arguments);
    let status = child.wait(COMMAND);
    let place = format!("{}/", folder.display());
    Ran {
        exit: status.code().unwrap_or(-1),
        stdout: child.stdout(),
        stderr: child.stderr().replace(&place, ""),
    }
}

fn check(case: &Case<'_>) {
    let ran = run(&case.file, case.variables, case.arguments);
    let line = ran.stderr.trim_end_matches('\n');
    let what = format!("{}: {:?}\n{line}", case.what, case.arguments);
    assert_eq!(ran.exit, case.exit, "the exit code of {what}");
    assert_eq!(line.lines().count(), 1, "one line of {what}");
    assert!(line.starts_with("tollbook: "), "the beginning of {what}");
    for said in case.says.split(" | ") {
        assert!(line.contains(said), "{said:?} is not said by {what}");
    }
    for never in [
        "panicked",
        "Caused by",
        "RUST_BACKTRACE",
        "Error {",
        "Error(",
        // The passwords of the cases.
        "hush",
    ] {
        assert!(!line.contains(never), "{never:?} is said by {what}");
    }
    assert_eq!(ran.stdout, "", "nothing is answered by {what}");
}

/// Returns a file whose dependencies are all away, with TOML at its end from line 7 on.
fn file(end: &str) -> String {
    with(
        "postgres://tollbook@127.0.0.1:1/nowhere",
        "127.0.0.1:1",
        end,
    )
}

fn with(url: &str, brokers: &str, end: &str) -> String {
    format!("[database]\nurl = \"{url}\"\n\n[kafka]\nbrokers = \"{brokers}\"\n\n{end}")
}

const MIGRATE: &[&str] = &["migrate"];
const COST: &[&str] = &["report", "cost"];
const CATCH_UP: &[&str] = &["ingest", "--until-caught-up"];
const SERVE: &[&str] = &["ingest"];

fn a_wrong_setting_is_one_line_with_place_and_cure() {
    for (what, end, says) in IN_THE_FILE {
        // A wrong setting stops every command alike.
        for arguments in [CATCH_UP, &["config", "check"]] {
            check(&Case {
                what,
                file: file(end),
                arguments,
                exit: 3,
                says,
                ..Case::default()
            });
        }
    }
    for (what, end, says) in IN_PRICE_FILES {
        for arguments in [
            CATCH_UP,
            &["config", "check"],
            &["prices", "list", "--configured"],
        ] {
            check(&Case {
                what,
                file: file(end),
                arguments,
                exit: 3,
                says,
                ..Case::default()
            });
        }
    }
    for (variable, says) in IN_VARIABLES {
        let variables = &[*variable];
        let what = variable.0;
        check(&Case {
            what,
            file: file(""),
            variables,
            arguments: COST,
            exit: 3,
            says,
        });
    }
    for (variable, says) in OF_OTLP {
        for arguments in [SERVE, CATCH_UP, &["enforcer"]] {
            check(&Case {
                what: "a variable of OTLP",
                file: file(&source("a")),
                variables: &[OTLP_ON, *variable],
                arguments,
                exit: 3,
                says,
            });
        }
    }
    for (arguments, exit, says) in IN_FLAGS {
        let what = "a flag";
        check(&Case {
            what,
            file: file(""),
            variables: &[],
            arguments,
            exit: *exit,
            says,
        });
    }
}

fn an_absent_dependency_is_one_line_with_place_and_cure() {
    let world = World::new("away");
    let (url, brokers) = (world.database.url(), world.kafka.brokers());
    let topic = world.topic(1);
    let unused = world.kafka.unused_topic("missing");
    let no_database = format!("{url}_not");
    let nobody = url.replace("tollbook@", "nobody_at_all@");
    let wrong_password = locked_user(&world.postgres, url);
    let away = "127.0.0.1:1 | tollbook.toml:2 | check that it runs";
    let others: [&[&str]; 2] = [&["gaps", "list"], &["rejected", "list"]];
    for arguments in [MIGRATE, COST, SERVE, CATCH_UP].into_iter().chain(others) {
        let file = file(&source("a"));
        check(&Case {
            what: "no server",
            file,
            arguments,
            exit: 4,
            says: away,
            ..Case::default()
        });
    }
    let no_broker = "Kafka at 127.0.0.1:1 | tollbook.toml:5 | start it";
    let no_topic = format!("topic `{unused}` does not exist | create it, or correct");
    let no_such = "_not\" does not exist | tollbook.toml:2 | database name";
    let refused = "password authentication failed | tollbook.toml:2 | check user, password";
    for (url, brokers, topic, arguments, exit, says) in [
        (url, "127.0.0.1:1", topic.name(), SERVE, 4, no_broker),
        (url, "127.0.0.1:1", topic.name(), CATCH_UP, 4, no_broker),
        (url, &brokers, &unused, CATCH_UP, 4, no_topic.as_str()),
        (&no_database, &brokers, topic.name(), CATCH_UP, 3, no_such),
        (
            &nobody,
            &brokers,
            topic.name(),
            COST,
            3,
            "nobody_at_all | tollbook.toml:2 | check user",
        ),
        (&wrong_password, &brokers, topic.name(), COST, 3, refused),
    ] {
        let file = with(url, brokers, &source(topic));
        check(&Case {
            what: "away",
            file,
            arguments,
            exit,
            says,
            ..Case::default()
        });
    }
    let file = with(url, &brokers, "");
    let says = "no sources are configured | [[ingest.sources]]";
    check(&Case {
        what: "no sources",
        file,
        arguments: CATCH_UP,
        exit: 3,
        says,
        ..Case::default()
    });
}

/// Makes a user who needs a password and returns a URL with a wrong one.
fn locked_user(server: &Postgres, url: &str) -> String {
    let database = Database::at(&server.url("postgres"));
    database.run(
        "do $$ begin create role locked_user login password 'right'; \
         exception when duplicate_object then null; end $$",
    );
    let file = database.value("show hba_file");
    let rules = std::fs::read_to_string(&file).unwrap();
    let rule = "host all locked_user 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(&file, format!("{rule}{rules}")).unwrap();
    database.run("select pg_reload_conf()");
    let wrong = url.replace("tollbook@", "locked_user:hush@");
    wait::until_true(
        "Postgres asks for the password",
        Duration::from_secs(20),
        || Database::at(&wrong).try_rows("select 1").is_err(),
    );
    wrong
}

fn a_schema_of_another_version_is_one_line_with_its_cure() {
    let world = World::new("schema");
    let brokers = world.kafka.brokers();
    let topic = world.topic(1);
    let empty = world.postgres.empty_database("schema-empty");
    let newer = world.postgres.migrated_database("schema-newer");
    newer.run(
        "insert into _sqlx_migrations \
         select 999, 'from the future', installed_on, true, checksum, execution_time \
         from _sqlx_migrations limit 1",
    );
    let older = world.postgres.migrated_database("schema-older");
    older.run("update _sqlx_migrations set version = version - 1000");
    let migrate = "tollbook.toml:2 | run `tollbook migrate`";
    for (what, url, says) in [
        (
            "not migrated",
            empty.url(),
            format!("no Tollbook schema | {migrate}"),
        ),
        (
            "too old",
            older.url(),
            format!("this program needs | {migrate}"),
        ),
        (
            "too new",
            newer.url(),
            "version 999 | tollbook.toml:2 | run the newer".to_owned(),
        ),
    ] {
        for arguments in [SERVE, CATCH_UP, COST, &["gaps", "list"]] {
            let file = with(url, &brokers, &source(topic.name()));
            check(&Case {
                what,
                file,
                arguments,
                exit: 3,
                says: &says,
                ..Case::default()
            });
        }
    }
    let (file, says) = (
        with(newer.url(), &brokers, ""),
        "version 999 | run the newer tollbook",
    );
    check(&Case {
        what: "too new",
        file,
        arguments: MIGRATE,
        exit: 3,
        says,
        ..Case::default()
    });
}

fn a_missing_topic_is_waited_for_and_found_within_two_seconds() {
    let world = World::new("waits");
    let topic = world.kafka.unused_topic("waits");
    let group = format!("group = \"tollbook-ingest-{topic}\"");
    let text = with(
        world.database.url(),
        &world.kafka.brokers(),
        &source(&topic),
    )
    .replace("\n\n[[", &format!("\n{group}\n\n[["));
    let (_folder, child) = start(&text, &[], SERVE);
    let patience = Duration::from_secs(60);
    wait::until_true("the missing topic is told", patience, || {
        child.stderr().contains(&topic)
    });
    let address = wait::until("the listener's address is told", patience, || {
        let log = child.stderr();
        let line = log.lines().find(|line| line.contains("http.address"))?;
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(line.get("http.address")?.as_str()?.to_owned())
    });
    let unready = get(&address, "/readyz");
    assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
    assert!(unready.contains(&topic), "{unready}");
    assert!(
        get(&address, "/livez").starts_with("HTTP/1.1 200"),
        "it lives while it waits"
    );

    let created = Instant::now();
    world.kafka.create_topic(&topic, 1, &[]);
    wait::until_true("the topic is found", patience, || {
        get(&address, "/readyz").starts_with("HTTP/1.1 200")
    });
    let took = created.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "found after {took:?}\n{}",
        child.stderr()
    );
    let log = child.stderr();
    let times = log
        .lines()
        .filter(|line| line.contains("does not exist"))
        .count();
    assert_eq!(times, 1, "told once\n{log}");
    assert!(
        get(&address, "/metrics").starts_with("HTTP/1.1 200"),
        "metrics are served"
    );
    child.signal(Signal::TERM);
    assert_eq!(
        child.wait(patience).code(),
        Some(0),
        "it drains\n{}",
        child.stderr()
    );
}

pub(super) fn get(address: &str, path: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_to_string(&mut answer).unwrap();
    }
    answer
}

fn a_panic_is_one_line_and_ends_the_process() {
    let world = World::new("panic");
    let topic = world.topic(1);
    topic.send([Record::text(0, "{}")]);
    let file = with(
        world.database.url(),
        &world.kafka.brokers(),
        &source(topic.name()),
    );
    for arguments in [SERVE, CATCH_UP] {
        // The dead keep their partitions until their session ends, so each has a group of its own.
        let group = format!("{}-{}", topic.name(), arguments.len());
        let variables = [
            ("FAILPOINTS", "claim::before_update=panic"),
            ("TOLLBOOK_KAFKA_GROUP", group.as_str()),
            ("RUST_BACKTRACE", "0"),
        ];
        let ran = run(&file, &variables, arguments);
        assert_eq!(ran.exit, 1, "{}", ran.stderr);
        let said = ran
            .stderr
            .lines()
            .filter(|line| line.contains("a defect in the program stopped it"));
        assert_eq!(said.count(), 1, "one line tells it\n{}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
}

fn a_reader_that_goes_away_ends_a_command_quietly() {
    let folder = folders::make("pipe");
    let mut child = Command::new(executable())
        .args(["prices", "list", "--configured"])
        .current_dir(&folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // More than a pipe holds is to come, so that the command meets the closed end.
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(
        (ended.status.code(), stderr.as_str()),
        (Some(0), ""),
        "quietly"
    );
}

fn the_doctor_names_what_to_mend() {
    let world = World::new("doctor");
    let topic = world.topic(2);
    let compacted = world.kafka.unused_topic("doctor-compacted");
    world
        .kafka
        .create_topic(&compacted, 1, &[("cleanup.policy", "compact")]);
    let (url, brokers) = (world.database.url(), world.kafka.brokers());
    let unused = Kafka::shared().unused_topic("doctor-missing");
    let found = "ok    Postgres | 2 partitions, not compacted | ok    schema | ok    gaps";
    let no_server = "postgres://tollbook@127.0.0.1:1/x";
    for (url, brokers, topic, exit, says) in [
        (url, brokers.as_str(), topic.name(), 0, found),
        (
            url,
            &brokers,
            &compacted,
            3,
            "fail  topic | cleanup.policy to delete | ok    schema",
        ),
        (
            url,
            &brokers,
            &unused,
            4,
            "fail  topic | create it | ok    schema",
        ),
        (
            url,
            "127.0.0.1:1",
            topic.name(),
            4,
            "fail  Kafka | start it | ok    schema",
        ),
        (
            no_server,
            &brokers,
            topic.name(),
            4,
            "fail  Postgres | not compacted",
        ),
    ] {
        let ran = run(&with(url, brokers, &source(topic)), &[], &["doctor"]);
        let what = format!("doctor\n{}{}", ran.stdout, ran.stderr);
        assert_eq!((ran.exit, ran.stderr.as_str()), (exit, ""), "{what}");
        for said in says.split(" | ") {
            assert!(ran.stdout.contains(said), "{said:?} is not said by {what}");
        }
    }
}
