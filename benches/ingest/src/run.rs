//! One run of one side: a fresh database, the process, what it used, and whether it did its work.
//!
//! Invariant: a run whose database does not hold exactly what the topic does is an error and no
//! figure. Both sides are timed alike: from the moment their partitions were assigned, which is before
//! the first record is fetched, to the end of their process; and charged alike, from the start of the
//! process. Deliberately absent: what happened before, such as migrations, and what Postgres does
//! after the process's end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tests::harness::children::{Child, DeathSignal, Program};
use tests::harness::database::Database;
use tests::harness::{folders, load};

use crate::input::Case;
use crate::report::{Measured, Run, Side};
use crate::servers::{Servers, say};
use crate::usage;

/// How long an ended child may take to be reaped, and a migration to end.
const COMMAND: Duration = Duration::from_secs(120);

/// The executables that are measured.
pub(crate) struct Executables {
    /// `tollbook`, as users build it.
    pub(crate) tollbook: PathBuf,
    /// `benches`, which has the floor.
    pub(crate) benches: PathBuf,
}

/// A topic with a case's input.
pub(crate) struct Loaded {
    pub(crate) case: Case,
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    /// Its records.
    pub(crate) events: u64,
    /// How many of them are different.
    pub(crate) unique: u64,
}

/// Runs one side after the other.
pub(crate) struct Runner<'s> {
    pub(crate) servers: &'s Servers,
    pub(crate) executables: Executables,
}

/// What the floor prints.
#[derive(Deserialize)]
struct FloorSaid {
    records: u64,
    assigned_at_ms: i64,
}

impl Runner<'_> {
    /// Runs a side once.
    ///
    /// # Errors
    ///
    /// The process failed, or the database does not hold what the topic does.
    pub(crate) fn run(&self, loaded: &Loaded, side: Side, number: u32) -> Result<Run, String> {
        let database = self.servers.postgres.empty_database("run");
        let measured = match side {
            Side::Ours => self.ours(loaded, &database)?,
            Side::Floor => self.floor(loaded, &database)?,
        };
        self.drop_database(&database);
        Ok(Run::new(loaded.case, side, number, loaded.events, measured))
    }

    fn ours(&self, loaded: &Loaded, database: &Database) -> Result<Measured, String> {
        let config = self.configure(loaded, database)?;
        let ingest = |arguments: &[&str]| {
            let mut all: Vec<String> = arguments.iter().map(|&each| each.to_owned()).collect();
            all.extend(["--config".to_owned(), config.display().to_string()]);
            // The environment goes over the file: nothing inherited may lead to another ledger.
            let variables = [
                ("TOLLBOOK_DATABASE_URL", database.url().to_owned()),
                ("TOLLBOOK_KAFKA_BROKERS", self.servers.kafka.brokers()),
            ];
            start(&self.executables.tollbook, all, &variables)
        };
        let migrated = ingest(&["migrate"]);
        if !migrated.wait(COMMAND).success() {
            return Err(migrated.log());
        }
        let (started_ms, mut measured, ended_at_ms) =
            self.measure(|| ingest(&["ingest", "--until-caught-up"]), |_| Ok(()))?;
        // An epoch is Postgres's clock in µs, when its partition was claimed.
        let claimed_us = database.number("select min(epoch) from source_position");
        measured.begin(started_ms, claimed_us / 1000, ended_at_ms)?;
        check_ledger(database, loaded)?;
        Ok(measured)
    }

    fn floor(&self, loaded: &Loaded, database: &Database) -> Result<Measured, String> {
        database.run("create table floor_id (id uuid not null)");
        database.run("create table floor_position (partition int primary key, position bigint)");
        database.run(&format!(
            "insert into floor_position select partition, 0 from generate_series(0, {}) partition",
            loaded.partitions - 1
        ));
        let brokers = self.servers.kafka.brokers();
        let arguments = ["floor", database.url(), &brokers, &loaded.topic];
        let arguments = arguments.map(str::to_owned).to_vec();
        let mut said = None;
        let (started_ms, mut measured, ended_at_ms) = self.measure(
            || start(&self.executables.benches, arguments, &[]),
            |child| {
                let line: FloorSaid =
                    serde_json::from_str(&child.stdout()).map_err(|error| error.to_string())?;
                said = Some(line);
                Ok(())
            },
        )?;
        let said = said.ok_or("the floor said nothing")?;
        measured.begin(started_ms, said.assigned_at_ms, ended_at_ms)?;
        let copied = database.number("select count(*) from floor_id");
        let read = database.number("select sum(position)::bigint from floor_position");
        let expected = signed(loaded.events)?;
        if said.records != loaded.events || copied != expected || read != expected {
            return Err(format!(
                "the floor copied {copied} ids up to offsets of {read} in all, not {expected}"
            ));
        }
        Ok(measured)
    }

    /// Runs a process to its end and returns when it started, what it used, and when it ended.
    fn measure(
        &self,
        start: impl FnOnce() -> Child,
        mut read: impl FnMut(&Child) -> Result<(), String>,
    ) -> Result<(i64, Measured, i64), String> {
        // Each run begins with a server that has nothing left to write.
        self.servers.administration().run("checkpoint");
        let server = self.servers.postgres.pid().ok_or("Postgres ended")?;
        let (wal, cpu) = (self.servers.wal_bytes()?, usage::of_server(server)?);
        let started_ms = load::now_ms();
        let child = start();
        say(&format!("process {} runs", child.pid()));
        let process = usage::of_child(child.pid())?;
        let measured = Measured {
            startup_ms: 0,
            elapsed_ms: 0,
            cpu_us: process.cpu_us,
            postgres_cpu_us: usage::of_server(server)? - cpu,
            wal_bytes: self.servers.wal_bytes()? - wal,
            peak_memory_kib: process.peak_memory_kib,
        };
        if !child.wait(COMMAND).success() {
            return Err(child.log());
        }
        read(&child)?;
        Ok((started_ms, measured, process.ended_at_ms))
    }

    /// Writes the configuration of a run, with nothing in it that has a default.
    fn configure(&self, loaded: &Loaded, database: &Database) -> Result<PathBuf, String> {
        let path = folders::make("config").join("tollbook.toml");
        let text = format!(
            "[database]\nurl = \"{}\"\n\n[kafka]\nbrokers = \"{}\"\ngroup = \"{}\"\n\n\
             [[ingest.sources]]\ntopic = \"{}\"\nformat = \"envoy-ai-gateway\"\n\
             app = \"x-tenant-id\"\n",
            database.url(),
            self.servers.kafka.brokers(),
            // Of each run its own: the next one need not wait until this one's member is given up.
            database.url().rsplit('/').next().unwrap_or("run"),
            loaded.topic
        );
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        Ok(path)
    }

    fn drop_database(&self, database: &Database) {
        let name = database.url().rsplit('/').next().unwrap_or_default();
        let sql = format!("drop database \"{name}\" with (force)");
        self.servers.administration().run(&sql);
    }
}

impl Measured {
    /// Notes when the process started, had its partitions, and ended: in ms since 1970.
    fn begin(&mut self, started: i64, assigned: i64, ended: i64) -> Result<(), String> {
        let between = |from: i64, to: i64| {
            u64::try_from(to - from)
                .map_err(|_| format!("{from} ms lies after {to} ms: did the clock turn back?"))
        };
        self.startup_ms = between(started, assigned)?;
        self.elapsed_ms = between(assigned, ended)?;
        Ok(())
    }
}

fn start(executable: &Path, arguments: Vec<String>, variables: &[(&str, String)]) -> Child {
    let program = Program {
        name: "run".to_owned(),
        path: executable.to_owned(),
        arguments,
        environment: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        account: None,
        death_signal: DeathSignal::Kill,
        logs: folders::make("run"),
    };
    program.start()
}

/// Fails unless the ledger holds each different event once: its parts, its journal and its roll-up.
fn check_ledger(database: &Database, loaded: &Loaded) -> Result<(), String> {
    let (unique, repeated) = (loaded.unique, loaded.events - loaded.unique);
    let expected = [
        ("select sum(accepted)::bigint from part", unique),
        ("select sum(duplicates)::bigint from part", repeated),
        ("select sum(rejected + ignored)::bigint from part", 0),
        ("select sum(requests)::bigint from posting", unique),
        // Once for what is rolled up, once for what waits.
        (
            "select (select coalesce(sum(requests), 0) from rollup_quarter)::bigint
                 + (select coalesce(sum(p.requests), 0) from posting p
                    left join rollup_mark m on m.chain = p.chain
                    where p.part > coalesce(m.part, 0))::bigint",
            unique,
        ),
    ];
    for (sql, expected) in expected {
        let found = database.number(sql);
        if found != signed(expected)? {
            return Err(format!(
                "the ledger is wrong: {sql} is {found}, not {expected}"
            ));
        }
    }
    Ok(())
}

fn signed(count: u64) -> Result<i64, String> {
    i64::try_from(count).map_err(|error| error.to_string())
}
