//! `tollbook migrate`: the schema, then the roles and what each may do.
//!
//! Invariant: run twice, or by two processes at once, it ends in the same state. Deliberately
//! absent: going back; migrations expand, then contract.

use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection, PgConnection};

use crate::connect::{Role, connect_options, connect_plain, server_of};
use crate::error::{StoreError, sqlstate};
use crate::roles;

/// The migrations, as they were when this program was built.
pub(crate) static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// Another process may migrate at the same time; each finds the other's work done.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// What `migrate` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The schema's version now.
    pub version: i64,
    /// How many migrations this run applied; 0 where the schema was up to date.
    pub applied: usize,
    /// Whether the services have roles of their own.
    pub roles: Roles,
}

/// Whether the services have roles of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roles {
    /// Each service takes a role that may do only what the service does.
    Separate,
    /// These could not be created or granted: such a service works with its login's own rights.
    Missing(Vec<String>),
}

/// Brings the schema to this program's version, creates the services' roles where that is allowed,
/// and sets what each may do.
///
/// # Errors
///
/// [`StoreError::Unreachable`], [`StoreError::Busy`] (retry), [`StoreError::Forbidden`] (the login
/// may not create tables), [`StoreError::SchemaTooNew`], [`StoreError::Corrupt`] (an applied
/// migration is not the one built in; stop).
pub async fn migrate(url: &str) -> Result<Migrated, StoreError> {
    let options = connect_options(url, Role::Migrate)?;
    let server = server_of(&options);
    let mut connection = connect_plain(&options)
        .await
        .map_err(|error| error.at(&server))?;
    let before = applied_versions(&mut connection).await?;
    run(&mut connection).await?;
    let after = applied_versions(&mut connection).await?;
    let roles = roles::create_and_grant(&mut connection).await?;
    connection.close().await?;
    let applied = after
        .iter()
        .filter(|version| !before.contains(version))
        .count();
    let version = after.into_iter().max().unwrap_or(0);
    Ok(Migrated {
        version,
        applied,
        roles,
    })
}

/// Runs what is missing under the migrator's advisory lock. Two runs that start together may both
/// try to create its table; the later one tries again.
async fn run(connection: &mut PgConnection) -> Result<(), StoreError> {
    for _ in 1..TRIES_MAX {
        match MIGRATOR.run_direct(None, connection, false).await {
            Ok(()) => return Ok(()),
            Err(MigrateError::Execute(error)) if is_race(&error) => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error_of(error, connection).await),
        }
    }
    Err(StoreError::Busy(None))
}

/// Says whether another session changed the same catalogue row at the same time.
pub(crate) fn is_race(error: &sqlx::Error) -> bool {
    // unique_violation, duplicate_table, duplicate_object, deadlock, "tuple concurrently updated"
    matches!(
        sqlstate(error).as_deref(),
        Some("23505" | "42P07" | "42710" | "40P01" | "XX000")
    )
}

async fn error_of(error: MigrateError, connection: &mut PgConnection) -> StoreError {
    match error {
        MigrateError::VersionMissing(missing) => {
            let known = MIGRATOR
                .iter()
                .map(|migration| migration.version)
                .max()
                .unwrap_or(0);
            let found = applied_versions(connection)
                .await
                .ok()
                .and_then(|all| all.into_iter().max());
            StoreError::SchemaTooNew {
                found: found.unwrap_or(missing),
                known,
            }
        }
        MigrateError::VersionMismatch(version) => StoreError::Corrupt(format!(
            "migration {version} in the database is not the one of this program: \
             use the tollbook that made it"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => sqlx::Error::Migrate(Box::new(other)).into(),
    }
}

/// Returns the versions that the database carries; none where it was never migrated.
async fn applied_versions(connection: &mut PgConnection) -> Result<Vec<i64>, StoreError> {
    match connection
        .list_applied_migrations(&MIGRATOR.table_name)
        .await
    {
        Ok(applied) => Ok(applied.iter().map(|migration| migration.version).collect()),
        Err(MigrateError::Execute(error)) if sqlstate(&error).as_deref() == Some("42P01") => {
            Ok(Vec::new())
        }
        Err(MigrateError::Execute(error)) => Err(error.into()),
        Err(other) => Err(sqlx::Error::Migrate(Box::new(other)).into()),
    }
}
