//! Putting prices in force: the shipped book, lists that were imported, and the files of the
//! configuration, each over the one before.
//!
//! Invariant: what was decided since is kept: a start lays its files over the imported lists and never
//! the same set twice, an import goes between the imported lists and the files. Of two changes at once
//! both count. Deliberately absent: reading files (the executable) and SQL (`store`).

use domain::ids::Version;
use domain::price::{LayeredBook, PriceBook, PriceFile, PriceFileError, PriceLayer};
use store::prices::{ListKind, ListOfVersion, NewList, NewPrices, PricesInForce, Put, StoredList};
use store::{Database, StoreError};

/// How often a change is made anew because another came first. Each time another succeeded, so this
/// is never reached but where many import without end.
const TRIES_MAX: u32 = 100;

/// The prices that the executable and its configuration bring along.
#[derive(Debug, Clone)]
pub struct ConfiguredPrices {
    /// The book that ships with the product.
    pub shipped: PriceBook,
    /// The configuration's files in their order; later ones win.
    pub files: Vec<PriceFile>,
    /// All of them together.
    pub book: PriceBook,
}

/// Why prices cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// Postgres is away, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored cannot be read: a newer program wrote it, or somebody changed it.
    #[error("price list {number} in the ledger cannot be read by this version: {source}")]
    Stored {
        /// The list's number; 0 for the book itself.
        number: i64,
        /// What is wrong with it.
        source: PriceFileError,
    },
    /// This program is at fault: it would store what it could not read.
    #[error(
        "the {what} would not be read back as it is stored, so nothing was changed: report this"
    )]
    NotReadBack {
        /// The book or the list.
        what: String,
    },
    /// The file to import contradicts the lists below it.
    #[error(transparent)]
    File(#[from] PriceFileError),
}

/// An import, worked out against what is in force and not yet written.
#[derive(Debug, Clone)]
pub struct ImportPlan {
    /// The book in force; the shipped one before the first was put in force.
    pub old: PriceBook,
    /// The book that would be.
    pub new: PriceBook,
    /// What writing it would do.
    pub effect: Effect,
    prices: NewPrices,
}

/// What an import does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A new version of prices.
    Changes,
    /// The list is kept, but files of the configuration that lie above it say otherwise.
    Hidden,
    /// What it says holds already.
    Nothing,
}

/// Puts shipped book and files in force over and under the imported lists, unless this very set ever
/// was at a start.
///
/// # Errors
///
/// [`PricesError::Store`], [`PricesError::Stored`]; nothing was changed.
pub async fn apply_at_start(
    db: &Database,
    configured: &ConfiguredPrices,
) -> Result<(), PricesError> {
    let set = configured.book.content_hash();
    for _ in 0..TRIES_MAX {
        let held = store::prices::load(db).await?;
        // Looked up before any lock is asked for, since mostly it was, and a start must not wait for a
        // batch that is stuck.
        let is_applied = store::prices::was_applied_at_start(db, set).await?;
        if is_applied && !held.lists.is_empty() {
            return Ok(());
        }
        let prices = at_start(&held, configured)?;
        match store::prices::put_at_start(db, &prices, set).await? {
            Put::Yes(_) | Put::AlreadyApplied => return Ok(()),
            Put::Moved => {}
        }
    }
    Err(StoreError::Busy(None).into())
}

/// Works out what importing a file would do.
///
/// # Errors
///
/// Each [`PricesError`].
pub async fn plan_import(
    db: &Database,
    shipped: &PriceBook,
    file: &PriceFile,
) -> Result<ImportPlan, PricesError> {
    let held = store::prices::load(db).await?;
    plan(&held, shipped, file)
}

/// Imports a file: lays it over all lists imported before it, under the configuration's files. Returns
/// the plan that was followed and the version, none where nothing was to be done.
///
/// # Errors
///
/// Each [`PricesError`]; nothing was changed. [`StoreError::Busy`] where batches do not let go in time.
pub async fn import(
    db: &Database,
    shipped: &PriceBook,
    file: &PriceFile,
) -> Result<(ImportPlan, Option<Version>), PricesError> {
    for _ in 0..TRIES_MAX {
        let plan = plan_import(db, shipped, file).await?;
        if plan.effect == Effect::Nothing {
            return Ok((plan, None));
        }
        match store::prices::put(db, &plan.prices).await? {
            Put::Yes(version) => return Ok((plan, Some(version))),
            Put::Moved | Put::AlreadyApplied => {}
        }
    }
    Err(StoreError::Busy(None).into())
}

/// Reads lists as stored, lowest first.
///
/// # Errors
///
/// [`PricesError::Stored`] names the first that cannot be read.
pub fn read_lists(lists: &[StoredList]) -> Result<Vec<PriceLayer>, PricesError> {
    lists
        .iter()
        .map(|stored| {
            let list = &stored.list;
            PriceLayer::from_canonical(&list.content, list.holds_from).map_err(|source| {
                PricesError::Stored {
                    number: stored.id.0,
                    source,
                }
            })
        })
        .collect()
}

/// A list of the version to be, read.
struct Laid {
    kind: ListKind,
    name: String,
    list: ListOfVersion,
    layer: PriceLayer,
}

impl Laid {
    fn of_file(kind: ListKind, file: &PriceFile) -> Self {
        let list = NewList {
            kind,
            name: file.name().to_owned(),
            layout: file.layout().name().to_owned(),
            holds_from: file.layer().holds_from(),
            content: file.layer().to_canonical(),
        };
        Self {
            kind,
            name: file.name().to_owned(),
            list: ListOfVersion::New(list),
            layer: file.layer().clone(),
        }
    }

    fn of_book(name: &str, book: &PriceBook) -> Self {
        let list = NewList {
            kind: ListKind::Shipped,
            name: name.to_owned(),
            layout: "csv".to_owned(),
            holds_from: None,
            content: book.to_canonical(),
        };
        Self {
            kind: ListKind::Shipped,
            name: name.to_owned(),
            list: ListOfVersion::New(list),
            layer: PriceLayer::from(book.clone()),
        }
    }
}

/// Returns the lists in force; without a version the shipped book.
fn laid(held: &PricesInForce, shipped: &PriceBook) -> Result<Vec<Laid>, PricesError> {
    if held.lists.is_empty() {
        let Some(version) = held.version else {
            return Ok(vec![Laid::of_book("shipped", shipped)]);
        };
        // Stored before lists were kept apart: all of it lies below what is imported now.
        let name = format!("version {}", version.0);
        return Ok(vec![Laid::of_book(&name, &read_book(held)?)]);
    }
    let layers = read_lists(&held.lists)?;
    let laid = held.lists.iter().zip(layers).map(|(stored, layer)| Laid {
        kind: stored.list.kind,
        name: stored.list.name.clone(),
        list: ListOfVersion::Known(stored.id),
        layer,
    });
    Ok(laid.collect())
}

fn read_book(held: &PricesInForce) -> Result<PriceBook, PricesError> {
    PriceBook::from_canonical(&held.book)
        .map_err(|source| PricesError::Stored { number: 0, source })
}

fn book_of(lists: &[Laid]) -> PriceBook {
    LayeredBook::of(lists.iter().map(|laid| &laid.layer)).book
}

/// Makes a version, once it is sure that everything in it reads back: what is stored stays, and a
/// book that cannot be read would stop whoever needs prices.
fn prices_of(
    held: &PricesInForce,
    lists: Vec<Laid>,
    book: &PriceBook,
) -> Result<NewPrices, PricesError> {
    for laid in &lists {
        let ListOfVersion::New(new) = &laid.list else {
            continue;
        };
        let back = PriceLayer::from_canonical(&new.content, new.holds_from);
        if back.ok().as_ref() != Some(&laid.layer) {
            let what = format!("price list {:?}", laid.name);
            return Err(PricesError::NotReadBack { what });
        }
    }
    let text = book.to_canonical();
    if PriceBook::from_canonical(&text).ok().as_ref() != Some(book) {
        let what = "price book".to_owned();
        return Err(PricesError::NotReadBack { what });
    }
    let names: Vec<_> = lists.iter().map(|laid| laid.name.as_str()).collect();
    let origin = names.join("; ");
    Ok(NewPrices {
        after: held.version,
        lists: lists.into_iter().map(|laid| laid.list).collect(),
        book: text,
        origin,
    })
}

fn at_start(held: &PricesInForce, configured: &ConfiguredPrices) -> Result<NewPrices, PricesError> {
    let mut lists = vec![Laid::of_book("shipped", &configured.shipped)];
    if !held.lists.is_empty() {
        let imported = laid(held, &configured.shipped)?.into_iter();
        lists.extend(imported.filter(|laid| laid.kind == ListKind::Import));
    }
    let files = configured.files.iter();
    lists.extend(files.map(|file| Laid::of_file(ListKind::File, file)));
    let book = book_of(&lists);
    prices_of(held, lists, &book)
}

fn plan(
    held: &PricesInForce,
    shipped: &PriceBook,
    file: &PriceFile,
) -> Result<ImportPlan, PricesError> {
    let (below, above): (Vec<_>, Vec<_>) = laid(held, shipped)?
        .into_iter()
        .partition(|laid| laid.kind != ListKind::File);
    let old = match held.version {
        Some(_) => read_book(held)?,
        None => shipped.clone(),
    };
    let base = book_of(&below);
    // Refuses aliases that point nowhere, with their lines.
    let base_with = base.with(file)?;
    let is_nothing = base_with == base;
    let mut lists: Vec<_> = below
        .into_iter()
        .filter(|laid| laid.kind != ListKind::Import || !laid.layer.is_covered_by(file.layer()))
        .collect();
    lists.push(Laid::of_file(ListKind::Import, file));
    lists.extend(above);
    let new = if is_nothing {
        old.clone()
    } else {
        book_of(&lists)
    };
    let effect = match (is_nothing, new == old) {
        (true, _) => Effect::Nothing,
        (false, true) => Effect::Hidden,
        (false, false) => Effect::Changes,
    };
    let prices = prices_of(held, lists, &new)?;
    Ok(ImportPlan {
        old,
        new,
        effect,
        prices,
    })
}
