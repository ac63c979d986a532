//! What `doctor` asks of a server: version, clock, settings that risk the ledger, roles, ids held.
//!
//! Invariant: it changes nothing, and works on a database that was never migrated, but for
//! [`ids_held`]. Deliberately absent: what is good or bad about the answers.

use domain::time::UnixMs;
use sqlx::Connection as _;

use crate::connect::{Database, Role, connect_options, connect_plain, server_of};
use crate::error::StoreError;

/// A server as a login finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host and port, or the socket's folder.
    pub address: String,
    /// The version as a number: 150000 is 15.0.
    pub version_num: i32,
    /// The version as a text.
    pub version: String,
    /// Settings that are off and without which a crash of the machine may lose or spoil what was
    /// committed: `fsync`, `full_page_writes`.
    pub durability_off: Vec<&'static str>,
    /// Whether the connection is encrypted.
    pub is_encrypted: bool,
    /// Whether the server is this machine.
    pub is_local: bool,
    /// Its clock.
    pub now: UnixMs,
    /// The services' roles, by name.
    pub roles: Vec<RoleFound>,
}

/// One of the services' roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleFound {
    /// Its name.
    pub name: String,
    /// Whether it exists and the login may take it.
    pub is_granted: bool,
    /// Whether row-level security does not bind it.
    pub bypasses_row_security: bool,
}

/// The ids that are kept to know a repeat by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdsHeld {
    /// How many, about: as far as Postgres's statistics and a thousand rows tell.
    pub ids: u64,
    /// What they take on disk with their index, in bytes.
    pub bytes: u64,
    /// Events accepted in the last 24 hours.
    pub accepted_last_day: u64,
}

/// Looks at the server.
///
/// # Errors
///
/// [`StoreError::Unreachable`], [`StoreError::BadUrl`], [`StoreError::Forbidden`]; tell the person.
pub async fn server(url: &str) -> Result<Server, StoreError> {
    let options = connect_options(url, Role::Migrate)?;
    let address = server_of(&options);
    let mut connection = connect_plain(&options)
        .await
        .map_err(|error| error.at(&address))?;
    let row = sqlx::query!(
        r#"/* checkup_server */
        select current_setting('server_version_num')::integer as "version_num!",
            current_setting('server_version') as "version!",
            current_setting('fsync')::boolean as "fsync!",
            current_setting('full_page_writes')::boolean as "full_page_writes!",
            coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false)
                as "is_encrypted!",
            coalesce(inet_server_addr() <<= '127.0.0.0/8' or inet_server_addr() = '::1', true)
                as "is_local!",
            clock_timestamp() as "now!""#
    )
    .fetch_one(&mut connection)
    .await?;
    let roles = sqlx::query!(
        r#"/* checkup_roles */
        select wanted as "name!",
            coalesce(pg_has_role(session_user, oid, 'member'), false) as "is_granted!",
            coalesce(rolbypassrls or rolsuper, false) as "bypasses_row_security!"
        from unnest(array['tollbook_enforcer', 'tollbook_ingest', 'tollbook_reports']) as wanted
        left join pg_roles on rolname = wanted
        order by wanted"#
    )
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    let now = UnixMs::from_utc(row.now).ok_or_else(|| {
        StoreError::Corrupt("the database's clock is not within 1970 to 9999".into())
    })?;
    let roles = roles.into_iter().map(|role| RoleFound {
        name: role.name,
        is_granted: role.is_granted,
        bypasses_row_security: role.bypasses_row_security,
    });
    let durability = [
        ("fsync", row.fsync),
        ("full_page_writes", row.full_page_writes),
    ];
    let durability_off = durability.into_iter().filter(|(_, is_on)| !is_on);
    Ok(Server {
        address,
        version_num: row.version_num,
        version: row.version,
        durability_off: durability_off.map(|(name, _)| name).collect(),
        is_encrypted: row.is_encrypted,
        is_local: row.is_local,
        now,
        roles: roles.collect(),
    })
}

/// Looks at the ids that are kept.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn ids_held(db: &Database) -> Result<IdsHeld, StoreError> {
    let row = sqlx::query!(
        r#"/* checkup_ids */
        select coalesce(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint as "bytes!",
            (coalesce(sum(greatest(c.reltuples, 0)), 0) * coalesce((
                select avg(length(ids)) / 16 from (select ids from event_seen limit 1000) as sample
            ), 0))::bigint as "ids!",
            (select coalesce(sum(p.accepted), 0)::bigint from part p join batch b on b.id = p.batch
                where b.committed_at > clock_timestamp() - interval '1 day') as "accepted!"
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'event_seen'::regclass"#
    )
    .fetch_one(db.pool())
    .await?;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(IdsHeld {
        ids: count(row.ids),
        bytes: count(row.bytes),
        accepted_last_day: count(row.accepted),
    })
}
