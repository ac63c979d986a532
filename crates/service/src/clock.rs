//! The clock: where the process learns what time it is.
//!
//! Invariant: the only place that reads the system's clock; everything else takes `now` as an
//! argument or holds a [`Clock`]. Deliberately absent: monotonic time, which is
//! `tokio::time::Instant`'s.

use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Returns the milliseconds since 1970-01-01T00:00:00Z; never negative.
    fn now_unix_ms(&self) -> i64;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the system"
    )]
    fn now_unix_ms(&self) -> i64 {
        // A clock before 1970 reads as 1970; one beyond the year 292 million as that.
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Returns the time of the machine's clock as finely as it tells it: for spans, which are measured, and
/// for nothing that is decided.
#[expect(
    clippy::disallowed_methods,
    reason = "this file is the one place that asks the system"
)]
#[must_use]
pub fn precisely() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_reads_this_century() {
        let now = SystemClock.now_unix_ms();
        assert!(
            (1_700_000_000_000..4_102_444_800_000).contains(&now),
            "{now}"
        );
    }
}
