//! Watermarks: up to which instant a source is folded, and from which instant its ids are kept.
//!
//! Invariant: watermark and floor only grow. Deliberately absent: Kafka's ends, which the caller
//! compares with the positions read here.

use domain::ids::{ChainId, Offset};
use domain::time::UnixMs;

use crate::connect::Database;
use crate::error::StoreError;
use crate::source::SourceId;

/// Where one chain of a source stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The chain.
    pub chain: ChainId,
    /// The topic it reads.
    pub topic: String,
    /// The partition it reads.
    pub partition: i32,
    /// The next offset to read; `None`: not begun.
    pub position: Option<Offset>,
    /// An open gap keeps it from going on.
    pub is_stopped: bool,
}

/// Returns the database's clock, which all watermarks go by.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn clock(db: &Database) -> Result<UnixMs, StoreError> {
    let now = sqlx::query_scalar!(r#"/* clock */ select clock_timestamp() as "now!""#)
        .fetch_one(db.pool())
        .await?;
    UnixMs::from_utc(now).ok_or_else(|| {
        StoreError::Corrupt("the database's clock is not within 1970 to 9999".into())
    })
}

/// Returns where the source's living chains stand, in (topic, partition) order.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn positions(db: &Database, source: SourceId) -> Result<Vec<Position>, StoreError> {
    let rows = sqlx::query!(
        "/* positions */
        select p.chain, c.topic, c.partition, p.position, p.state
        from source_position p join chain c on c.id = p.chain
        where c.source = $1 and p.state in ('open', 'stopped')
        order by c.topic, c.partition, c.id",
        source.0
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Position {
            chain: ChainId(row.chain),
            topic: row.topic,
            partition: row.partition,
            position: offset_of(row.position),
            is_stopped: row.state == "stopped",
        })
        .collect())
}

/// Raises a source's watermark, and its floor to `window_ms` below it; returns the floor.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; [`StoreError::Corrupt`] where there is no such source.
pub async fn advance(
    db: &Database,
    source: SourceId,
    watermark: UnixMs,
    window_ms: i64,
) -> Result<UnixMs, StoreError> {
    let floor = watermark.saturating_add_ms(window_ms.saturating_neg());
    let floor_at = sqlx::query_scalar!(
        r#"/* advance */
        update source
        set watermark_at = greatest(watermark_at, $2), floor_at = greatest(floor_at, $3)
        where id = $1 returning floor_at as "floor_at!""#,
        source.0,
        watermark.to_utc(),
        floor.to_utc()
    )
    .fetch_optional(db.pool())
    .await?;
    floor_at
        .and_then(UnixMs::from_utc)
        .ok_or_else(|| StoreError::Corrupt(format!("source {} does not exist", source.0)))
}

/// Reads a stored offset; -1 stands for none.
pub(crate) fn offset_of(stored: i64) -> Option<Offset> {
    (stored >= 0).then_some(Offset(stored))
}
