//! The suites: one file each, registered here.

mod bounds;
mod captured;
mod command_errors;
mod corrections;
mod envoy;
mod explain;
mod flood;
mod formats;
mod kill;
mod limits;
mod log;
mod messages;
mod mutated;
mod oracle;
mod prices;
mod proxy;
mod reader;
mod replicas;
mod reprice;
mod servers;
mod store_read;
mod store_write;
mod telemetry;
mod verify;

use crate::harness::runner::Test;

/// Returns all tests of all suites; those that take longest begin first.
pub(crate) fn all() -> Vec<Test> {
    [
        bounds::TESTS,
        log::TESTS,
        kill::TESTS,
        limits::TESTS,
        replicas::TESTS,
        explain::TESTS,
        telemetry::TESTS,
        verify::TESTS,
        reader::TESTS,
        messages::TESTS,
        mutated::TESTS,
        captured::TESTS,
        corrections::TESTS,
        envoy::TESTS,
        flood::TESTS,
        formats::TESTS,
        command_errors::TESTS,
        oracle::TESTS,
        prices::TESTS,
        proxy::TESTS,
        reprice::TESTS,
        servers::TESTS,
        store_read::TESTS,
        &store_write::tests(),
    ]
    .concat()
}
