//! The suites: one file each, registered here.

mod oracle;
mod servers;

use crate::harness::runner::Test;

/// Returns all tests of all suites.
pub(crate) fn all() -> Vec<Test> {
    let suites: [&[Test]; 2] = [oracle::TESTS, servers::TESTS];
    suites.concat()
}
