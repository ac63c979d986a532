//! The suites: one file each, registered here.

mod oracle;
mod proxy;
mod servers;

use crate::harness::runner::Test;

/// Returns all tests of all suites.
pub(crate) fn all() -> Vec<Test> {
    let suites: [&[Test]; 3] = [oracle::TESTS, proxy::TESTS, servers::TESTS];
    suites.concat()
}
