//! Why the store could not do what it was asked, by what the caller can do about it.
//!
//! Invariant: each variant is one thing to do: wait and retry, migrate, upgrade, grant, or stop. The
//! cause stands in `source`, never also in the text. Deliberately absent: outcomes that are no
//! failures (a lost chain, a duplicate), which are results.

use domain::ids::ChainId;

/// What keeps the store from working.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres does not answer, or the connection broke.
    #[error("cannot reach Postgres{at}: check that it runs and that the database url names it")]
    Unreachable {
        /// ` at host:port`, or empty where a connection that was open broke.
        at: String,
        /// What the connection said.
        #[source]
        source: sqlx::Error,
    },
    /// The text is not a database url.
    #[error("the database url cannot be read: write postgres://user@host:5432/database")]
    BadUrl(#[source] sqlx::Error),
    /// The database has no tables of ours.
    #[error("the database holds no Tollbook schema: run `tollbook migrate`")]
    NotMigrated,
    /// The database carries fewer migrations than this program needs.
    #[error(
        "the database schema has version {found}, this program needs {needed}: run `tollbook migrate`"
    )]
    SchemaTooOld {
        /// The newest migration that the database carries.
        found: i64,
        /// The newest migration that this program knows.
        needed: i64,
    },
    /// The database carries migrations that this program does not know.
    #[error(
        "the database schema has version {found}, this program knows {known}: \
         run the newer tollbook that migrated it"
    )]
    SchemaTooNew {
        /// The newest migration that the database carries.
        found: i64,
        /// The newest migration that this program knows.
        known: i64,
    },
    /// Postgres refuses the login or the statement.
    #[error(
        "Postgres refuses this: check user, password and database name, \
         and run `tollbook migrate` as the owner for the grants"
    )]
    Forbidden(#[source] sqlx::Error),
    /// A lock was not free in time, or two transactions were in each other's way.
    #[error("Postgres is busy with the same rows: try again")]
    Busy(#[source] Option<sqlx::Error>),
    /// What is stored contradicts itself or what the caller knows; a person must look.
    #[error("the ledger contradicts itself: {0}")]
    Corrupt(String),
    /// No price book or no source configuration was ever put in force.
    #[error(
        "nothing is in force yet: start `tollbook ingest` once, which applies prices and sources"
    )]
    NothingInForce,
    /// Anything else.
    #[error("Postgres failed")]
    Other(#[source] sqlx::Error),
}

impl StoreError {
    /// Returns the fixed name of the kind, for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::BadUrl(_) => "bad_url",
            Self::NotMigrated => "not_migrated",
            Self::SchemaTooOld { .. } => "schema_too_old",
            Self::SchemaTooNew { .. } => "schema_too_new",
            Self::Forbidden(_) => "forbidden",
            Self::Busy(_) => "busy",
            Self::Corrupt(_) => "corrupt",
            Self::NothingInForce => "nothing_in_force",
            Self::Other(_) => "other",
        }
    }

    /// Says whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy(_) => true,
            Self::Other(error) => sqlstate(error).is_some_and(|state| is_shortage(&state)),
            Self::BadUrl(_)
            | Self::NotMigrated
            | Self::SchemaTooOld { .. }
            | Self::SchemaTooNew { .. }
            | Self::Forbidden(_)
            | Self::Corrupt(_)
            | Self::NothingInForce => false,
        }
    }

    /// Says whether Postgres ended the transaction since it and others waited for each other in a circle.
    pub(crate) fn is_deadlock(&self) -> bool {
        let state = match self {
            Self::Busy(Some(error)) => sqlstate(error),
            _ => None,
        };
        state.as_deref() == Some("40P01")
    }

    /// Names a chain whose rows are not what they must be.
    pub(crate) fn corrupt_chain(chain: ChainId, what: &str) -> Self {
        Self::Corrupt(format!("chain {}: {what}", chain.0))
    }

    /// Adds where Postgres was looked for.
    pub(crate) fn at(self, server: &str) -> Self {
        match self {
            Self::Unreachable { source, .. } => Self::Unreachable {
                at: format!(" at {server}"),
                source,
            },
            other => other,
        }
    }
}

/// Sorts by SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
///
/// | state | variant |
/// | --- | --- |
/// | class 08, 57P01 to 57P05, 53300, 25P03 (idle too long), 25006 (a read-only stand-by) | `Unreachable` |
/// | class 40, 55P03 (lock not available), 55006, 57014 (time-out) | `Busy` |
/// | class 28, 42501, 3D000 | `Forbidden` |
/// | 42P01, 42703, 42883 (no such table, column, function) | `NotMigrated` |
/// | XX001, XX002 | `Corrupt` |
/// | else | `Other` |
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(state) = sqlstate(&error) else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::Unreachable {
                    at: String::new(),
                    source: error,
                },
                error => Self::Other(error),
            };
        };
        match state.as_str() {
            "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "53300" | "25P03" | "25006" => {
                Self::Unreachable {
                    at: String::new(),
                    source: error,
                }
            }
            "55P03" | "55006" | "57014" => Self::Busy(Some(error)),
            "42501" | "3D000" => Self::Forbidden(error),
            "42P01" | "42703" | "42883" => Self::NotMigrated,
            "XX001" | "XX002" => Self::Corrupt(error.to_string()),
            other if other.starts_with("08") => Self::Unreachable {
                at: String::new(),
                source: error,
            },
            other if other.starts_with("40") => Self::Busy(Some(error)),
            other if other.starts_with("28") => Self::Forbidden(error),
            _ => Self::Other(error),
        }
    }
}

/// Returns the five characters that Postgres sorts its errors by.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    let database_error = error.as_database_error()?;
    database_error.code().map(|code| code.into_owned())
}

/// Class 53: disk full, out of memory, too many connections; ends when somebody makes room.
fn is_shortage(state: &str) -> bool {
    state.starts_with("53")
}
