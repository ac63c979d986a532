//! Runs the tests, some at once, then ends the servers and prints which tests ran for which row of
//! the fault catalogue.
//!
//! Invariant: a row without a test fails the run.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use parking_lot::{Mutex, RwLock};

use super::{folders, kafka, postgres};

/// A test and what it is about.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// A sentence of behaviour, in snake case.
    pub name: &'static str,
    /// The rows of the fault catalogue that it proves.
    pub rows: &'static [&'static str],
    /// Whether no other test may run meanwhile, since it compares how long things take.
    pub alone: bool,
    /// Panics to fail.
    pub run: fn(),
}

/// The rows that must have a test.
pub const ROWS: [&str; 33] = [
    "P1",
    "P2",
    "P3",
    "P4",
    "P5",
    "P6",
    "P7",
    "P8",
    "P11",
    "K1",
    "K5",
    "K7",
    "K9",
    "K10 running",
    "K10 stopped",
    "K11",
    "K12",
    "D1",
    "M1",
    "M2",
    "M3",
    "M4",
    "M5",
    "M6",
    "M8 batch",
    "M8 batches",
    "M8 partitions",
    "M8 restart",
    "M9",
    "M10",
    "M12",
    "M13",
    "M16",
];

/// How many tests run at once unless the command line says: most of them wait for time-outs.
const AT_ONCE: usize = 6;

/// Held by every test, by one that runs alone for itself.
static CORES: RwLock<()> = RwLock::new(());

type Ran = Arc<Mutex<Vec<(&'static str, &'static [&'static str])>>>;

/// Runs what the command line asks for.
#[must_use]
pub fn run(tests: &[Test]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        arguments.test_threads = Some(AT_ONCE);
    }
    let ran = Ran::default();
    // Those that run alone come last, when no other waits for them.
    let (alone, others): (Vec<Test>, Vec<Test>) = tests.iter().partition(|test| test.alone);
    let all = others.into_iter().chain(alone);
    let mut trials: Vec<Trial> = all.map(|test| trial(test, &ran)).collect();
    trials.push(Trial::test("every_row_of_the_catalogue_has_a_test", {
        let rows = rows_without_test(tests);
        move || {
            if rows.is_empty() {
                Ok(())
            } else {
                Err(format!("no test: {rows:?}").into())
            }
        }
    }));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        postgres::stop_shared();
        kafka::stop_shared();
        folders::remove_all();
        print_table(&ran.lock());
    }
    conclusion.exit_code()
}

fn trial(test: Test, ran: &Ran) -> Trial {
    let ran = Arc::clone(ran);
    Trial::test(test.name, move || {
        if test.alone {
            let _cores = CORES.write();
            (test.run)();
        } else {
            let _cores = CORES.read();
            (test.run)();
        }
        ran.lock().push((test.name, test.rows));
        Ok(())
    })
}

fn rows_without_test(tests: &[Test]) -> Vec<&'static str> {
    let has_test = |row: &&str| tests.iter().any(|test| test.rows.contains(row));
    ROWS.into_iter().filter(|row| !has_test(row)).collect()
}

fn print_table(ran: &[(&str, &[&'static str])]) {
    let place = |row| {
        ROWS.iter()
            .position(|known| *known == row)
            .unwrap_or(ROWS.len())
    };
    let mut table: BTreeMap<(usize, &str), Vec<&str>> = BTreeMap::new();
    for (name, rows) in ran {
        for row in *rows {
            table.entry((place(*row), row)).or_default().push(name);
        }
    }
    println!("row           | tests that ran and passed");
    println!("------------- | -------------------------");
    for ((_, row), names) in table {
        println!("{row:13} | {}", names.join(", "));
    }
}

/// Makes a [`Test`] of a function, named after it.
#[macro_export]
macro_rules! test {
    ($function:ident) => {
        $crate::test!($function,)
    };
    ($function:ident, $($row:literal),* $(,)?) => {
        $crate::harness::runner::Test {
            name: stringify!($function),
            rows: &[$($row),*],
            alone: false,
            run: $function,
        }
    };
    (alone $function:ident, $($row:literal),* $(,)?) => {
        $crate::harness::runner::Test { alone: true, ..$crate::test!($function, $($row),*) }
    };
}
