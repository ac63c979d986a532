//! One run of one side: a fresh database, the process, what it used, and whether it did its work.
//!
//! Invariant: a run whose database does not hold exactly what the topic does is an error and no
//! figure. Both sides are timed alike: from the moment their partitions were assigned, which is before
//! the first record is fetched, to the end of their process; and charged alike, from the start of the
//! process. Deliberately absent: what happened before, such as migrations, and what Postgres does
//! after the process's end.

use std::path::PathBuf;

use serde::Deserialize;
use tests::harness::children::Child;
use tests::harness::database::Database;
use tests::harness::load;

use super::limits;
use super::report::{Measured, Run, Side};
use crate::input::Case;
use crate::product::{COMMAND, Installation, POLICIES, Settings, start};
use crate::servers::{Servers, say};
use crate::usage;

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
        let measured = match side {
            Side::Ours => self.ours(loaded)?,
            Side::Floor => self.floor(loaded)?,
        };
        Ok(Run::new(loaded.case, side, number, loaded.events, measured))
    }

    fn ours(&self, loaded: &Loaded) -> Result<Measured, String> {
        let mut settings = Settings {
            topic: &loaded.topic,
            more: "",
            files: &[],
        };
        if loaded.case == Case::Limits {
            settings.more = limits::SETTINGS;
            settings.files = &[(POLICIES, limits::LIMITS)];
        }
        let ours = Installation::new(&self.executables.tollbook, self.servers, &settings)?;
        ours.run(&["migrate"])?;
        let ingest = || ours.start(&["ingest", "--until-caught-up"]);
        let (started_ms, mut measured, ended_at_ms) = self.measure(ingest, |_| Ok(()))?;
        let database = &ours.database;
        // An epoch is Postgres's clock in µs, when its partition was claimed.
        let claimed_us = database.number("select min(epoch) from source_position");
        measured.begin(started_ms, claimed_us / 1000, ended_at_ms)?;
        check_ledger(database, loaded)?;
        if loaded.case == Case::Limits {
            limits::check_accounts(database, loaded.unique)?;
        }
        self.servers.drop_database(database);
        Ok(measured)
    }

    fn floor(&self, loaded: &Loaded) -> Result<Measured, String> {
        let database = self.servers.postgres.empty_database("run");
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
            || start(&self.executables.benches, arguments, Vec::new()),
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
        self.servers.drop_database(&database);
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
