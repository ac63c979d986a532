//! Prices in force: the book, and the lists that it is made of.
//!
//! Invariant: a version names all of its lists, lowest first, and neither changes once written. A new
//! version follows the one that it was made from or is refused, so that of two changes at once none is
//! lost. Deliberately absent: how lists make a book; they are canonical text here.

use chrono::{DateTime, Utc};
use domain::hash::Hash128;
use domain::ids::Version;
use domain::time::UnixMs;
use sqlx::{Postgres, Transaction};

use crate::connect::Database;
use crate::error::StoreError;
use crate::in_force::{hold_alone, is_first, uuid_of, was_applied};

/// The number of a stored list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListId(pub i64);

/// Where a list comes from; a later kind lies above an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListKind {
    /// It ships with the product.
    Shipped,
    /// Somebody imported it.
    Import,
    /// The configuration names its file.
    File,
}

impl ListKind {
    /// Returns the name used in SQL and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shipped => "shipped",
            Self::Import => "import",
            Self::File => "file",
        }
    }

    fn parse(name: &str) -> Result<Self, StoreError> {
        [Self::Shipped, Self::Import, Self::File]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                StoreError::Corrupt(format!("a price list has the unknown kind `{name}`"))
            })
    }
}

/// A list of prices to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewList {
    /// Where it comes from.
    pub kind: ListKind,
    /// The file's name, for people.
    pub name: String,
    /// How the file was laid out.
    pub layout: String,
    /// The instant from which it holds; `None`: from the beginning of time.
    pub holds_from: Option<UnixMs>,
    /// The list in its canonical form.
    pub content: String,
}

/// A list of prices as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredList {
    /// Its number.
    pub id: ListId,
    /// When it was stored.
    pub added: DateTime<Utc>,
    /// What it says.
    pub list: NewList,
}

/// A list of a new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListOfVersion {
    /// One that is stored already.
    Known(ListId),
    /// One that is stored with the version.
    New(NewList),
}

/// The prices in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PricesInForce {
    /// The version; `None` before any was put in force.
    pub version: Option<Version>,
    /// The book in its canonical form; empty without a version.
    pub book: String,
    /// Its lists, lowest first; none where the version was stored before lists were kept apart.
    pub lists: Vec<StoredList>,
}

/// Prices to be put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPrices {
    /// The version that they were made from.
    pub after: Option<Version>,
    /// The lists, lowest first.
    pub lists: Vec<ListOfVersion>,
    /// The book that they make, in its canonical form.
    pub book: String,
    /// What the book was made of, for people.
    pub origin: String,
}

/// What came of putting prices in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// They are in force under this version.
    Yes(Version),
    /// This very set was applied at a start before; what was decided since stays.
    AlreadyApplied,
    /// Others are in force by now than they were made from: make them anew.
    Moved,
}

/// Returns the prices in force; without a version before the first were put in force.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; [`StoreError::Corrupt`] where a list cannot be read.
pub async fn load(db: &Database) -> Result<PricesInForce, StoreError> {
    let row = sqlx::query!(
        "/* load_prices */
        select p.version, p.content from in_force f join price_book p on p.version = f.prices"
    )
    .fetch_optional(db.pool())
    .await?;
    let Some(row) = row else {
        return Ok(PricesInForce::default());
    };
    // What a version is made of never changes, so this needs no snapshot of both.
    let rows = sqlx::query!(
        "/* load_prices */
        select l.id, l.kind, l.name, l.layout, l.holds_from, l.content, l.content_hash, l.added_at
        from price_book_layer v join price_layer l on l.id = v.layer
        where v.version = $1 order by v.place",
        row.version
    )
    .fetch_all(db.pool())
    .await?;
    let mut lists = Vec::with_capacity(rows.len());
    for row in rows {
        let corrupt = |what: &str| StoreError::Corrupt(format!("price list {}: {what}", row.id));
        if uuid_of(Hash128::of(row.content.as_bytes())) != row.content_hash {
            return Err(corrupt("its hash is another content's"));
        }
        let holds_from = match row.holds_from {
            Some(instant) => {
                Some(UnixMs::from_utc(instant).ok_or_else(|| corrupt("it holds from no instant"))?)
            }
            None => None,
        };
        lists.push(StoredList {
            id: ListId(row.id),
            added: row.added_at,
            list: NewList {
                kind: ListKind::parse(&row.kind)?,
                name: row.name,
                layout: row.layout,
                holds_from,
                content: row.content,
            },
        });
    }
    Ok(PricesInForce {
        version: Some(Version(row.version)),
        book: row.content,
        lists,
    })
}

/// Puts prices in force that somebody imported.
///
/// # Errors
///
/// [`StoreError::Busy`] where batches do not let go in time (retry); each of a statement.
pub async fn put(db: &Database, new: &NewPrices) -> Result<Put, StoreError> {
    let mut tx = db.pool().begin().await?;
    hold_alone(&mut tx).await?;
    let put = put_held(&mut tx, new).await?;
    if matches!(put, Put::Yes(_)) {
        tx.commit().await?;
    }
    Ok(put)
}

/// Puts prices in force at a start, unless this very set of shipped book and files, known by its hash,
/// was applied at a start before. Where the version in force has no lists, they are applied again.
///
/// # Errors
///
/// [`StoreError::Busy`] where batches do not let go in time (retry); each of a statement.
pub async fn put_at_start(db: &Database, new: &NewPrices, set: Hash128) -> Result<Put, StoreError> {
    let mut tx = db.pool().begin().await?;
    hold_alone(&mut tx).await?;
    let is_first = is_first(&mut tx, "prices", set).await?;
    if !is_first && has_lists(&mut tx).await? {
        return Ok(Put::AlreadyApplied);
    }
    let put = put_held(&mut tx, new).await?;
    if matches!(put, Put::Yes(_)) {
        tx.commit().await?;
    }
    Ok(put)
}

/// Says whether this very set of shipped book and files was applied at a start before.
///
/// # Errors
///
/// Each [`StoreError`] of a statement.
pub async fn was_applied_at_start(db: &Database, set: Hash128) -> Result<bool, StoreError> {
    was_applied(db, "prices", set).await
}

async fn has_lists(tx: &mut Transaction<'_, Postgres>) -> Result<bool, StoreError> {
    let has = sqlx::query_scalar!(
        r#"/* has_lists */
        select exists (
            select from price_book_layer l join in_force f on f.prices = l.version
        ) as "has!""#
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(has)
}

/// Writes a version and puts it in force, unless another is by now than the one it follows.
async fn put_held(tx: &mut Transaction<'_, Postgres>, new: &NewPrices) -> Result<Put, StoreError> {
    let now = sqlx::query_scalar!("/* put_prices */ select prices from in_force")
        .fetch_one(&mut **tx)
        .await?;
    if now != new.after.map(|version| version.0) {
        return Ok(Put::Moved);
    }
    let version = sqlx::query_scalar!(
        "/* put_prices */
        insert into price_book (content, content_hash, origin) values ($1, $2, $3)
        returning version",
        new.book,
        uuid_of(Hash128::of(new.book.as_bytes())),
        new.origin
    )
    .fetch_one(&mut **tx)
    .await?;
    for (place, list) in (1_i32..).zip(&new.lists) {
        let layer = match list {
            ListOfVersion::Known(id) => id.0,
            ListOfVersion::New(list) => insert_list(tx, list).await?,
        };
        sqlx::query!(
            "/* put_prices */
            insert into price_book_layer (version, place, layer) values ($1, $2, $3)",
            version,
            place,
            layer
        )
        .execute(&mut **tx)
        .await?;
    }
    sqlx::query!("/* put_prices */ update in_force set prices = $1", version)
        .execute(&mut **tx)
        .await?;
    Ok(Put::Yes(Version(version)))
}

async fn insert_list(
    tx: &mut Transaction<'_, Postgres>,
    list: &NewList,
) -> Result<i64, StoreError> {
    let id = sqlx::query_scalar!(
        "/* put_prices */
        insert into price_layer (kind, name, layout, holds_from, content, content_hash)
        values ($1, $2, $3, $4, $5, $6) returning id",
        list.kind.name(),
        list.name,
        list.layout,
        list.holds_from.map(UnixMs::to_utc),
        list.content,
        uuid_of(Hash128::of(list.content.as_bytes()))
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(id)
}
