//! Policies in force: versions of policy files, and the limits of each that count from the log.
//!
//! Invariant: a version never changes; a new one follows the one that it was worked out from, or is
//! refused. The accounts of a limit that begins to count are opened from the ledger in the transaction
//! that puts it in force, while no batch is under way. Deliberately absent: reading the files of the
//! configuration; what a policy means is the domain's.

mod opening;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::counting::LogLimits;
use domain::hash::Hash128;
use domain::ids::Version;
use domain::policy::CompiledSet;
use domain::policy::files::{PolicyFile, compile_files, from_canonical, to_canonical};
use domain::policy::model::{Limit, LimitId};
use domain::time::UnixMs;
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use crate::connect::Database;
use crate::cost::instant;
use crate::error::StoreError;
use crate::in_force::{hold_alone, is_first, uuid_of, was_applied};

/// A version of the policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySet {
    /// Its number.
    pub version: Version,
    /// The files, in their order.
    pub files: Vec<PolicyFile>,
    /// The hash of the files in canonical form.
    pub hash: Hash128,
    /// Where they came from, for people.
    pub origin: String,
    /// When it was put in force.
    pub applied: DateTime<Utc>,
    /// Its limits that count from the log: from when on each counts all of its use. Until then its
    /// numbers are too low, and a decision says that it is warming.
    pub whole_from: HashMap<LimitId, UnixMs>,
}

/// What is listed of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVersion {
    /// Its number.
    pub version: Version,
    /// The names of its files.
    pub files: Vec<String>,
    /// Its hash.
    pub hash: Hash128,
    /// Where it came from.
    pub origin: String,
    /// When it was put in force.
    pub applied: DateTime<Utc>,
    /// Whether it is in force now.
    pub is_in_force: bool,
}

/// Policies to be put in force.
#[derive(Debug, Clone)]
pub struct NewPolicies {
    /// The version that was in force when they were worked out; `None`: none.
    pub after: Option<Version>,
    /// The files, in their order.
    pub files: Vec<PolicyFile>,
    /// What the files mean.
    pub set: Arc<CompiledSet>,
    /// Where they came from, for people.
    pub origin: String,
}

/// What came of putting policies in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// They are in force under this version.
    Yes(Version),
    /// This very set was applied at a start before; what was decided since stays.
    AlreadyApplied,
    /// Another version is in force by now than they were worked out from: look again.
    Moved,
}

/// The kind of these sets among those applied at starts.
const KIND: &str = "policies";

/// Returns the version of the policies in force; `None` where none ever were. Cheap: for whoever looks
/// each second whether to load another.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn version_in_force(db: &Database) -> Result<Option<Version>, StoreError> {
    let version = sqlx::query_scalar!("/* policies_in_force */ select policies from in_force")
        .fetch_one(db.pool())
        .await?;
    Ok(version.map(Version))
}

/// Returns the policies in force; `None` where none ever were.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; [`StoreError::Corrupt`] where what is stored cannot be read.
pub async fn load(db: &Database) -> Result<Option<PolicySet>, StoreError> {
    match version_in_force(db).await? {
        Some(version) => load_version(db, version).await,
        None => Ok(None),
    }
}

/// Returns a version of the policies; `None` where there is no such version.
///
/// # Errors
///
/// As [`load`].
pub async fn load_version(
    db: &Database,
    version: Version,
) -> Result<Option<PolicySet>, StoreError> {
    let row = sqlx::query!(
        "/* load_policies */
        select content, content_hash, origin, applied_at from policy_set where version = $1",
        version.0
    )
    .fetch_optional(db.pool())
    .await?;
    let Some(row) = row else { return Ok(None) };
    if uuid_of(Hash128::of(row.content.as_bytes())) != row.content_hash {
        return Err(corrupt(version, "their hash is another content's"));
    }
    let files = read_files(version, &row.content)?;
    let mut connection = db.pool().acquire().await?;
    let whole_from = whole_from(&mut connection, version).await?;
    Ok(Some(PolicySet {
        version,
        files,
        hash: Hash128::from_bytes(row.content_hash.into_bytes()),
        origin: row.origin,
        applied: row.applied_at,
        whole_from,
    }))
}

/// Returns all versions, the newest first.
///
/// # Errors
///
/// As [`load`].
pub async fn list(db: &Database) -> Result<Vec<PolicyVersion>, StoreError> {
    let rows = sqlx::query!(
        r#"/* list_policies */
        select p.version, p.content, p.content_hash, p.origin, p.applied_at,
            coalesce(f.policies = p.version, false) as "is_in_force!"
        from policy_set p cross join in_force f order by p.version desc"#
    )
    .fetch_all(db.pool())
    .await?;
    let listed = rows.into_iter().map(|row| {
        let version = Version(row.version);
        let files = read_files(version, &row.content)?;
        Ok(PolicyVersion {
            version,
            files: files.iter().map(|file| file.name().to_owned()).collect(),
            hash: Hash128::from_bytes(row.content_hash.into_bytes()),
            origin: row.origin,
            applied: row.applied_at,
            is_in_force: row.is_in_force,
        })
    });
    listed.collect()
}

/// Puts policies in force that somebody applied.
///
/// Waits for all batches and keeps new ones waiting, so that the accounts that are opened from the
/// ledger and what batches count afterwards meet without a gap.
///
/// # Errors
///
/// [`StoreError::Busy`] where batches do not let go in time (retry); each of a statement.
pub async fn put(db: &Database, new: &NewPolicies) -> Result<Put, StoreError> {
    let mut tx = begin(db).await?;
    hold_alone(&mut tx).await?;
    let put = put_held(&mut tx, new).await?;
    if matches!(put, Put::Yes(_)) {
        tx.commit().await?;
    }
    Ok(put)
}

/// Puts the configuration's policies in force at a start, unless this very set was applied at a start
/// before.
///
/// # Errors
///
/// As [`put`].
pub async fn put_at_start(db: &Database, new: &NewPolicies) -> Result<Put, StoreError> {
    let hash = domain::policy::files::content_hash(&new.files);
    let mut tx = begin(db).await?;
    hold_alone(&mut tx).await?;
    if !is_first(&mut tx, KIND, hash).await? {
        return Ok(Put::AlreadyApplied);
    }
    let put = put_held(&mut tx, new).await?;
    if matches!(put, Put::Yes(_)) {
        tx.commit().await?;
    }
    Ok(put)
}

/// Says whether this very set was applied at a start before; needs no lock.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn was_applied_at_start(db: &Database, hash: Hash128) -> Result<bool, StoreError> {
    was_applied(db, KIND, hash).await
}

/// Begins a transaction of which each statement sees what was committed before it, whatever the server's
/// default: the ledger is read after the lock was taken.
async fn begin(db: &Database) -> Result<Transaction<'static, Postgres>, StoreError> {
    let begin = "begin transaction isolation level read committed";
    Ok(db.pool().begin_with(begin).await?)
}

async fn put_held(
    tx: &mut Transaction<'_, Postgres>,
    new: &NewPolicies,
) -> Result<Put, StoreError> {
    let row = sqlx::query!(
        r#"/* put_policies */ select policies, clock_timestamp() as "now!" from in_force"#
    )
    .fetch_one(&mut **tx)
    .await?;
    if row.policies != new.after.map(|version| version.0) {
        return Ok(Put::Moved);
    }
    let now = instant(row.now)?;
    let content = to_canonical(&new.files);
    let version = sqlx::query_scalar!(
        "/* put_policies */
        insert into policy_set (content, content_hash, origin) values ($1, $2, $3)
        returning version",
        content,
        uuid_of(Hash128::of(content.as_bytes())),
        new.origin
    )
    .fetch_one(&mut **tx)
    .await?;
    let version = Version(version);
    let before = match new.after {
        Some(before) => whole_from(tx, before).await?,
        None => HashMap::new(),
    };
    if let Some(limits) = LogLimits::of(Arc::clone(&new.set)) {
        insert_limits(tx, version, &limits, &before, now).await?;
        let counted_otherwise = match new.after {
            Some(before) => counted_otherwise(tx, before, &new.set).await?,
            None => HashSet::new(),
        };
        let begins = |id: &LimitId| !before.contains_key(id) || counted_otherwise.contains(id);
        opening::open(tx, version, &limits, now, begins).await?;
    }
    sqlx::query!(
        "/* put_policies */ update in_force set policies = $1",
        version.0
    )
    .execute(&mut **tx)
    .await?;
    Ok(Put::Yes(version))
}

/// Returns the limits that stay and count otherwise from now on: usage without a price, or requests that
/// lack a key. What the ledger holds is other use under them, so they are opened anew.
async fn counted_otherwise(
    tx: &mut PgConnection,
    before: Version,
    set: &CompiledSet,
) -> Result<HashSet<LimitId>, StoreError> {
    let content = sqlx::query_scalar!(
        "/* counted_otherwise */ select content from policy_set where version = $1",
        before.0
    )
    .fetch_one(&mut *tx)
    .await?;
    let Ok(known) = compile_files(&read_files(before, &content)?) else {
        // An older program's set that this one no longer reads: nobody knows how it counted.
        return Ok(set.limits().map(|(id, ..)| id).collect());
    };
    let how = |limit: &Limit| (limit.missing_key, limit.unpriced_rate);
    let known: HashMap<_, _> = known
        .limits()
        .map(|(id, _, _, limit)| (id, how(limit)))
        .collect();
    let differs = |id: &LimitId, limit: &Limit| known.get(id).is_some_and(|it| *it != how(limit));
    let limits = set.limits();
    let changed = limits.filter(|(id, _, _, limit)| differs(id, limit));
    Ok(changed.map(|(id, ..)| id).collect())
}

/// Notes from when on each limit counts all: as before, or as a limit that begins.
async fn insert_limits(
    tx: &mut PgConnection,
    version: Version,
    limits: &LogLimits,
    before: &HashMap<LimitId, UnixMs>,
    now: UnixMs,
) -> Result<(), StoreError> {
    let whole: HashMap<LimitId, UnixMs> = limits
        .iter()
        .map(|limit| {
            let known = before.get(&limit.id).copied();
            (limit.id, known.unwrap_or_else(|| limit.whole_from(now)))
        })
        .collect();
    let (mut ids, mut instants) = (Vec::new(), Vec::new());
    let mut names: [Vec<String>; 3] = Default::default();
    for (id, policy, attachment, limit) in limits.set().limits() {
        let Some(whole_from) = whole.get(&id) else {
            continue;
        };
        ids.push(uuid_of(id.0));
        instants.push(whole_from.to_utc());
        for (column, name) in names
            .iter_mut()
            .zip([&policy.name, &attachment.name, &limit.name])
        {
            column.push(name.clone());
        }
    }
    let [policies, attachments, limits] = names;
    sqlx::query!(
        "/* insert_policy_limits */
        insert into policy_limit (version, limit_id, policy, attachment, name, whole_from)
        select $1, limit_id, policy, attachment, name, whole_from
        from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
            as new (limit_id, policy, attachment, name, whole_from)",
        version.0,
        &ids,
        &policies,
        &attachments,
        &limits,
        &instants
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn whole_from(
    connection: &mut PgConnection,
    version: Version,
) -> Result<HashMap<LimitId, UnixMs>, StoreError> {
    let rows = sqlx::query!(
        "/* whole_from */ select limit_id, whole_from from policy_limit where version = $1",
        version.0
    )
    .fetch_all(connection)
    .await?;
    let read = rows
        .into_iter()
        .map(|row| Ok((limit_of(row.limit_id), instant(row.whole_from)?)));
    read.collect()
}

/// Reads the files of a version.
pub(crate) fn read_files(version: Version, content: &str) -> Result<Vec<PolicyFile>, StoreError> {
    from_canonical(content).map_err(|error| corrupt(version, &error.to_string()))
}

pub(crate) fn limit_of(stored: Uuid) -> LimitId {
    LimitId(Hash128::from_bytes(stored.into_bytes()))
}

fn corrupt(version: Version, what: &str) -> StoreError {
    StoreError::Corrupt(format!("policies of version {}: {what}", version.0))
}
