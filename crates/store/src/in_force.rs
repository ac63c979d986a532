//! What is in force: the price book, the source configuration and the policies that batches fold by.
//!
//! Invariant: a batch holds the one row shared until it commits, a change holds it alone, so nothing
//! is folded between the old and the new. A set of files is applied at a start only once, ever.
//! Deliberately absent: what the contents mean; they are canonical text here. Prices are put in force
//! in `prices`, policies in `policies`.

use domain::event::IdentitySecret;
use domain::hash::Hash128;
use domain::ids::Version;
use domain::policy::files::PolicyFile;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::connect::Database;
use crate::error::StoreError;
use crate::policies::read_files;

/// Versions of what is in force, by which something was folded or worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The price book.
    pub prices: Version,
    /// The source configuration.
    pub sources: Version,
    /// The policies; `None`: none were in force.
    pub policies: Option<Version>,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The price book's version.
    pub prices: Version,
    /// The price book in its canonical form.
    pub price_book: String,
    /// The source configuration's version.
    pub sources: Version,
    /// The source configuration in its canonical form.
    pub source_config: String,
    /// The policies' version; `None` before any were put in force.
    pub policies: Option<Version>,
    /// The policies' files; empty without a version.
    pub policy_files: Vec<PolicyFile>,
    /// What identities of log lines are hashed under; the same for ever.
    pub identity_secret: IdentitySecret,
}

impl InForce {
    /// Returns the versions.
    #[must_use]
    pub const fn versions(&self) -> Versions {
        Versions {
            prices: self.prices,
            sources: self.sources,
            policies: self.policies,
        }
    }
}

/// What came of applying a set of files at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is in force under this version.
    Yes(Version),
    /// This very set was applied at a start before; what was decided since stays.
    AlreadyApplied,
}

/// Returns what is in force.
///
/// # Errors
///
/// [`StoreError::NothingInForce`] before the first start of an ingest; each of a statement.
pub async fn load(db: &Database) -> Result<InForce, StoreError> {
    let row = sqlx::query!(
        r#"/* load_in_force */
        select p.version as prices, p.content as price_book, s.version as sources,
            s.content as source_config, f.policies, l.content as "policy_files?"
        from in_force f join price_book p on p.version = f.prices
        join source_config s on s.version = f.sources
        left join policy_set l on l.version = f.policies"#
    )
    .fetch_optional(db.pool())
    .await?;
    let row = row.ok_or(StoreError::NothingInForce)?;
    let policies = row.policies.map(Version);
    let policy_files = match policies.zip(row.policy_files) {
        Some((version, content)) => read_files(version, &content)?,
        None => Vec::new(),
    };
    Ok(InForce {
        prices: Version(row.prices),
        price_book: row.price_book,
        sources: Version(row.sources),
        source_config: row.source_config,
        policies,
        policy_files,
        identity_secret: identity_secret(db).await?,
    })
}

/// Returns what identities of log lines are hashed under: 32 random bytes that the migration made.
///
/// # Errors
///
/// [`StoreError::Corrupt`] where the row is gone; each of a statement.
pub async fn identity_secret(db: &Database) -> Result<IdentitySecret, StoreError> {
    let secret = sqlx::query_scalar!("/* identity_secret */ select secret from identity_secret")
        .fetch_optional(db.pool())
        .await?;
    let secret = secret.and_then(|secret| <[u8; 32]>::try_from(secret).ok());
    let missing = || StoreError::Corrupt("the secret of the identities is missing".to_owned());
    Ok(IdentitySecret::from_bytes(secret.ok_or_else(missing)?))
}

/// Puts a source configuration in force, unless this very one was applied at a start before.
///
/// # Errors
///
/// [`StoreError::Busy`] where batches do not let go in time (retry); each of a statement.
pub async fn apply_sources_at_start(
    db: &Database,
    canonical: &str,
    hash: Hash128,
) -> Result<Applied, StoreError> {
    if was_applied(db, "sources", hash).await? {
        return Ok(Applied::AlreadyApplied);
    }
    let mut tx = db.pool().begin().await?;
    hold_alone(&mut tx).await?;
    if !is_first(&mut tx, "sources", hash).await? {
        return Ok(Applied::AlreadyApplied);
    }
    let version = sqlx::query_scalar!(
        "/* apply_sources */
        insert into source_config (content, content_hash) values ($1, $2) returning version",
        canonical,
        uuid_of(hash)
    )
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query!(
        "/* apply_sources */ update in_force set sources = $1",
        version
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Applied::Yes(Version(version)))
}

/// Says whether this very set was applied at a start before: looked up before any lock is asked for,
/// since mostly it was, and a start must not wait for a batch that is stuck.
pub(crate) async fn was_applied(
    db: &Database,
    kind: &str,
    hash: Hash128,
) -> Result<bool, StoreError> {
    let known = sqlx::query_scalar!(
        r#"/* was_applied */
        select exists (select from applied_at_start where kind = $1 and content_hash = $2) as "is!""#,
        kind,
        uuid_of(hash)
    )
    .fetch_one(db.pool())
    .await?;
    Ok(known)
}

/// Waits for all batches and keeps new ones waiting. The table's lock comes first: on the row alone,
/// batches that overlap could share it for ever and never let the change in.
pub(crate) async fn hold_alone(tx: &mut Transaction<'_, Postgres>) -> Result<(), StoreError> {
    // `lock table` cannot be prepared.
    sqlx::raw_sql("lock table in_force in exclusive mode")
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(crate) async fn is_first(
    tx: &mut Transaction<'_, Postgres>,
    kind: &str,
    hash: Hash128,
) -> Result<bool, StoreError> {
    let inserted = sqlx::query!(
        "/* is_first */
        insert into applied_at_start (kind, content_hash) values ($1, $2) on conflict do nothing",
        kind,
        uuid_of(hash)
    )
    .execute(&mut **tx)
    .await?
    .rows_affected();
    Ok(inserted == 1)
}

pub(crate) const fn uuid_of(hash: Hash128) -> Uuid {
    Uuid::from_bytes(hash.to_bytes())
}
