//! The services' roles in Postgres.
//!
//! Invariant: ingest may add to the journal and never change it, reports only read. Deliberately
//! absent: logins and passwords, which are the operator's.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::error::StoreError;
use crate::migrate::{Roles, is_race};

/// Roles belong to the cluster: another database's migration may write the same rows.
const TRIES_MAX: u32 = 50;
const PAUSE: Duration = Duration::from_millis(50);

/// Creates the roles where that is allowed, grants them to the login, and sets their rights.
pub(crate) async fn create_and_grant(connection: &mut PgConnection) -> Result<Roles, StoreError> {
    let mut tries = 1;
    while let Err(error) = run(connection).await {
        if tries == TRIES_MAX || !is_race(&error) {
            return Err(error.into());
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
    let missing = sqlx::query_scalar!(
        r#"/* create_and_grant */
        select wanted as "wanted!"
        from unnest(array['tollbook_ingest', 'tollbook_enforcer', 'tollbook_reports']) as wanted
        where not exists (
            select from pg_roles where rolname = wanted and pg_has_role(session_user, oid, 'member')
        )"#
    )
    .fetch_all(connection)
    .await?;
    Ok(if missing.is_empty() {
        Roles::Separate
    } else {
        Roles::Missing(missing)
    })
}

async fn run(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    // Blocks of PL/pgSQL that create roles and grant: nothing of it can be prepared.
    sqlx::raw_sql(include_str!("roles.sql"))
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}
