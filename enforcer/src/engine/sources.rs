//! How old each source of truth is.
//!
//! Invariant: an instant only says "everything up to here is known"; it is written by whoever reads the
//! source, who may know of less than before: a chain that was silent tells of an earlier instant. Deliberately absent: what is tolerated, which each policy says.

use std::sync::atomic::{AtomicI64, Ordering};

use domain::time::UnixMs;

/// Where numbers and rules come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The accounts of limits that are counted from the log: the least watermark of all live chains.
    Feed,
    /// What the other replicas count.
    Exchange,
    /// The policies in force.
    Policies,
    /// Postgres.
    Postgres,
    /// The files of the rate limit service's rules.
    Files,
}

impl Source {
    /// All sources.
    pub const ALL: [Self; 5] = [
        Self::Feed,
        Self::Exchange,
        Self::Policies,
        Self::Postgres,
        Self::Files,
    ];

    /// Returns the name used in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Exchange => "exchange",
            Self::Policies => "policies",
            Self::Postgres => "postgres",
            Self::Files => "files",
        }
    }
}

/// The instants as of which the sources are known.
#[derive(Debug)]
pub struct Sources([AtomicI64; Source::ALL.len()]);

/// Stands for a source that was never read.
const NEVER: i64 = -1;

impl Default for Sources {
    fn default() -> Self {
        Self(Source::ALL.map(|_| AtomicI64::new(NEVER)))
    }
}

impl Sources {
    /// Notes as of when a source is known.
    pub fn note(&self, source: Source, as_of: UnixMs) {
        self.place(source).store(as_of.get(), Ordering::Relaxed);
    }

    /// Returns as of when a source is known; `None` before it was first read, or where it is not used.
    #[must_use]
    pub fn as_of(&self, source: Source) -> Option<UnixMs> {
        UnixMs::new(self.place(source).load(Ordering::Relaxed))
    }

    fn place(&self, source: Source) -> &AtomicI64 {
        let [feed, exchange, policies, postgres, files] = &self.0;
        match source {
            Source::Feed => feed,
            Source::Exchange => exchange,
            Source::Policies => policies,
            Source::Postgres => postgres,
            Source::Files => files,
        }
    }
}
