//! The way into Postgres: a small pool in one role, and single connections with and without it.
//!
//! Invariant: nobody gets a connection to a schema that this program was not built for, and every
//! connection of a pool has the pool's role where that role exists. Deliberately absent: migrating.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::migrate::{Migrate, MigrateError};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use crate::error::{StoreError, sqlstate};
use crate::migrate::MIGRATOR;
use crate::socket::send_at_once;

/// How long a caller waits for a connection of the pool or for a new one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection is used for; Postgres's rights follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Owns the schema: takes no role.
    Migrate,
    /// Writes the journal: `tollbook_ingest`.
    Ingest,
    /// Decides: `tollbook_enforcer`.
    Enforcer,
    /// Reads: `tollbook_reports`.
    Reports,
}

impl Role {
    /// Returns the name of the role in Postgres; `None` where the login itself is used.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Migrate => None,
            Self::Ingest => Some("tollbook_ingest"),
            Self::Enforcer => Some("tollbook_enforcer"),
            Self::Reports => Some("tollbook_reports"),
        }
    }

    const fn application_name(self) -> &'static str {
        match self {
            Self::Migrate => "tollbook-migrate",
            Self::Ingest => "tollbook-ingest",
            Self::Enforcer => "tollbook-enforcer",
            Self::Reports => "tollbook-reports",
        }
    }

    /// Connections that are enough: ingest writes on one of its own and claims, marks and rolls up
    /// beside it; reports run side by side.
    const fn connections_max(self) -> u32 {
        match self {
            Self::Migrate => 1,
            Self::Ingest | Self::Enforcer => 4,
            Self::Reports => 8,
        }
    }

    /// Session settings, in ms. A stopped process must not hold its locks for long, so ingest's
    /// transactions may idle for 5 s at most; a report may run for minutes.
    const fn settings(self) -> [(&'static str, &'static str); 4] {
        match self {
            Self::Migrate => [
                ("statement_timeout", "0"),
                ("lock_timeout", "30000"),
                ("idle_in_transaction_session_timeout", "60000"),
                ("synchronous_commit", "on"),
            ],
            Self::Ingest => [
                ("statement_timeout", "60000"),
                ("lock_timeout", "10000"),
                ("idle_in_transaction_session_timeout", "5000"),
                ("synchronous_commit", "on"),
            ],
            Self::Enforcer => [
                ("statement_timeout", "10000"),
                ("lock_timeout", "2000"),
                ("idle_in_transaction_session_timeout", "5000"),
                ("synchronous_commit", "on"),
            ],
            Self::Reports => [
                ("statement_timeout", "600000"),
                ("lock_timeout", "10000"),
                ("idle_in_transaction_session_timeout", "60000"),
                ("synchronous_commit", "on"),
            ],
        }
    }

    /// The statement that takes the role.
    const fn set_role(self) -> Option<&'static str> {
        match self {
            Self::Migrate => None,
            Self::Ingest => Some("set role tollbook_ingest"),
            Self::Enforcer => Some("set role tollbook_enforcer"),
            Self::Reports => Some("set role tollbook_reports"),
        }
    }
}

/// One Postgres backend: process ids recur, so its start belongs to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// The process id on the server.
    pub pid: i32,
    /// When the backend started.
    pub started: DateTime<Utc>,
}

/// A database with Tollbook's schema, opened in one role.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    options: PgConnectOptions,
    role: Role,
    has_role: bool,
    server: String,
}

impl Database {
    /// Opens the database in a role and checks that its schema is the one this program knows.
    ///
    /// Where the role does not exist or is not granted, the login's own rights are used, and
    /// [`Self::has_role`] says so.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] (retry), [`StoreError::Forbidden`], [`StoreError::NotMigrated`],
    /// [`StoreError::SchemaTooOld`], [`StoreError::SchemaTooNew`] (stop: the text names the cure).
    pub async fn open(url: &str, role: Role) -> Result<Self, StoreError> {
        let options = connect_options(url, role)?;
        let server = server_of(&options);
        let mut connection = connect_plain(&options)
            .await
            .map_err(|error| error.at(&server))?;
        check_schema(&mut connection).await?;
        let has_role = take_role(&mut connection, role).await?;
        connection.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(role.connections_max())
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    send_at_once();
                    if has_role && let Some(statement) = role.set_role() {
                        sqlx::raw_sql(statement).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            options,
            role,
            has_role,
            server,
        })
    }

    /// Says whether connections have the role's rights rather than the login's.
    #[must_use]
    pub const fn has_role(&self) -> bool {
        self.has_role
    }

    /// Returns where the database is: host and port, for messages.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Asks Postgres for a sign of life.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`]: not ready; ask again.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let answer = sqlx::query_scalar!(r#"/* ping */ select 1 as "one!""#)
            .fetch_one(&self.pool)
            .await
            .map_err(|error| StoreError::from(error).at(&self.server))?;
        debug_assert_eq!(answer, 1, "Postgres answers what it is asked");
        Ok(())
    }

    /// Closes the pool; running statements end first.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Returns the pool, whose connections have the role.
    pub(crate) const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Opens a connection of its own that has not taken the role.
    pub(crate) async fn connect_without_role(&self) -> Result<PgConnection, StoreError> {
        connect_plain(&self.options)
            .await
            .map_err(|error| error.at(&self.server))
    }

    /// Takes the role on a connection of its own.
    pub(crate) async fn take_role(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        if self.has_role {
            take_role(connection, self.role).await?;
        }
        Ok(())
    }
}

/// Reads a url and adds the session settings of the role.
pub(crate) fn connect_options(url: &str, role: Role) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(StoreError::BadUrl)?
        .application_name(role.application_name())
        .options(role.settings())
        // Slow statements are measured where they are awaited; the driver's own lines say less.
        .disable_statement_logging();
    // Whoever writes for all tenants sees all of them, also where BYPASSRLS cannot be granted.
    Ok(match role {
        Role::Migrate | Role::Ingest => options.options([("tollbook.tenant", "*")]),
        Role::Enforcer | Role::Reports => options,
    })
}

/// Returns host and port, or the socket's folder.
pub(crate) fn server_of(options: &PgConnectOptions) -> String {
    options.get_socket().map_or_else(
        || format!("{}:{}", options.get_host(), options.get_port()),
        |socket| socket.display().to_string(),
    )
}

/// Connects within [`CONNECT_TIMEOUT`]; takes no role.
pub(crate) async fn connect_plain(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(connected) => {
            let connection = connected?;
            send_at_once();
            Ok(connection)
        }
        Err(_) => Err(timed_out("connecting")),
    }
}

/// Makes the error for an answer that did not come in time.
pub(crate) fn timed_out(doing: &str) -> StoreError {
    let text = format!("Postgres did not answer in time while {doing}");
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text)).into()
}

/// Takes the role; false where it does not exist or is not granted.
async fn take_role(connection: &mut PgConnection, role: Role) -> Result<bool, StoreError> {
    let Some(statement) = role.set_role() else {
        return Ok(false);
    };
    // `set role` takes no parameters and cannot be prepared.
    match sqlx::raw_sql(statement).execute(connection).await {
        Ok(_) => Ok(true),
        Err(error) => match sqlstate(&error).as_deref() {
            // invalid_parameter_value (no such role), undefined_object, insufficient_privilege
            Some("22023" | "42704" | "42501") => Ok(false),
            Some(_) | None => Err(error.into()),
        },
    }
}

/// Compares the migrations that the database carries with those built in.
async fn check_schema(connection: &mut PgConnection) -> Result<(), StoreError> {
    let applied = match connection
        .list_applied_migrations(&MIGRATOR.table_name)
        .await
    {
        Ok(applied) => applied,
        Err(MigrateError::Execute(error)) => return Err(error.into()),
        Err(other) => return Err(sqlx::Error::Migrate(Box::new(other)).into()),
    };
    let applied: BTreeSet<i64> = applied.iter().map(|found| found.version).collect();
    let known: BTreeSet<i64> = MIGRATOR.iter().map(|known| known.version).collect();
    let newest = |versions: &BTreeSet<i64>| versions.last().copied().unwrap_or(0);
    let (found, newest_known) = (newest(&applied), newest(&known));
    if found == 0 {
        return Err(StoreError::NotMigrated);
    }
    // Each by itself: migrations may land in another order than that of their numbers.
    if found <= newest_known
        && let Some(missing) = known.difference(&applied).last()
    {
        return Err(StoreError::SchemaTooOld {
            found,
            needed: *missing,
        });
    }
    if let Some(unknown) = applied.difference(&known).last() {
        return Err(StoreError::SchemaTooNew {
            found: *unknown,
            known: newest_known,
        });
    }
    Ok(())
}

/// Asks a connection which backend serves it.
pub(crate) async fn backend_of(connection: &mut PgConnection) -> Result<Backend, StoreError> {
    let backend = sqlx::query_as!(
        Backend,
        r#"/* backend_of */
        select pid as "pid!", backend_start as "started!"
        from pg_stat_activity where pid = pg_backend_pid()"#
    )
    .fetch_one(connection)
    .await?;
    Ok(backend)
}

/// Ends a backend, if it still is the one that is meant; the connection must not have taken a role,
/// since Postgres compares the one who asks with the login of the other. False where it is gone
/// already or Postgres refuses; then its own time-outs end it.
pub(crate) async fn end_backend(
    connection: &mut PgConnection,
    backend: Backend,
) -> Result<bool, StoreError> {
    let ended = sqlx::query_scalar!(
        r#"/* end_backend */
        select pg_terminate_backend(pid) as "ended!"
        from pg_stat_activity
        where pid = $1 and backend_start = $2 and pid <> pg_backend_pid()"#,
        backend.pid,
        backend.started
    )
    .fetch_optional(connection)
    .await;
    match ended {
        Ok(ended) => Ok(ended == Some(true)),
        Err(error) if sqlstate(&error).as_deref() == Some("42501") => Ok(false),
        Err(error) => Err(error.into()),
    }
}
