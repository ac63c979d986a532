//! Sources: the names that the identities of events begin with.
//!
//! Invariant: a source's name never changes, and the floor of its ids never sinks. Deliberately
//! absent: how a source is decoded.

use domain::time::UnixMs;

use crate::connect::Database;
use crate::error::StoreError;

/// Names one source; Postgres hands it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub i32);

/// A source as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSource {
    /// Its name; part of every identity, never changed.
    pub name: String,
    /// The topic that it reads now.
    pub topic: String,
}

/// A source as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRow {
    /// Its number.
    pub id: SourceId,
    /// Its name.
    pub name: String,
    /// The topic that it reads.
    pub topic: String,
    /// The instant below which its ids are gone; `None` for a new source.
    pub floor: Option<UnixMs>,
}

/// Makes sure that the sources exist and read these topics; returns them in the order given.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; [`StoreError::is_transient`] says whether to retry.
pub async fn register(db: &Database, sources: &[NewSource]) -> Result<Vec<SourceRow>, StoreError> {
    let mut tx = db.pool().begin().await?;
    // In the order of names, so that two processes that start together do not block each other.
    let mut sorted: Vec<&NewSource> = sources.iter().collect();
    sorted.sort_by(|left, right| left.name.cmp(&right.name));
    for source in sorted {
        sqlx::query!(
            "/* register */
            insert into source (name, topic) values ($1, $2)
            on conflict (name) do update set topic = excluded.topic
            where source.topic <> excluded.topic",
            source.name,
            source.topic
        )
        .execute(&mut *tx)
        .await?;
    }
    let mut rows = Vec::with_capacity(sources.len());
    for source in sources {
        let row = sqlx::query!(
            "/* register */ select id, name, topic, floor_at from source where name = $1",
            source.name
        )
        .fetch_one(&mut *tx)
        .await?;
        rows.push(SourceRow {
            id: SourceId(row.id),
            name: row.name,
            topic: row.topic,
            floor: row.floor_at.and_then(UnixMs::from_utc),
        });
    }
    tx.commit().await?;
    Ok(rows)
}
