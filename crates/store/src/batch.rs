//! The batch: everything that one process folded since its last commit, in one transaction.
//!
//! Invariant: positions, ids, postings, rejections, duplicates, accounts and the hash chain move
//! together, and only while the process owns every chain of the batch. Locks are taken in one order
//! everywhere: positions, what is in force, producers' ids, series, rate sets, batch and parts, accounts, the
//! count of log lines' ids (before producers' ids in batches that lock at once). Deliberately absent: retrying;
//! a transaction that failed is folded again by the caller.

pub(crate) mod ids;
mod position;
pub(crate) mod rows;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use domain::fold::{BatchFold, Conflicts};
use domain::hash::Hash256;
use domain::ids::{ChainId, Epoch, Offset, PartRef};
use domain::part::{Counts, Skipped};
use domain::price::RateSetId;
use domain::series::SeriesId;
use domain::time::UnixMs;
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use crate::claim::Fingerprint;
use crate::connect::{Backend, Database, backend_of, end_backend, timed_out};
use crate::error::{StoreError, sqlstate};
use crate::fault;
use crate::in_force::Versions;
use crate::partitions;
use crate::source::SourceId;
use ids::{Care, CountLock, HeldIds, NewIds, Recorded, Taken};
use position::Judged;

/// How long a batch may take in all; above the server's `statement_timeout` of 60 s, so that it ends
/// only what a silent network holds up.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(75);

/// Series and rate sets that a writer remembers as stored; about 50 bytes each.
const KNOWN_MAX: usize = 1_000_000;

/// After a batch with repeats of ids that producers own, so many batches take them row by row, since a
/// `COPY` that meets a repeat is thrown away.
const CAREFUL_BATCHES: u32 = 16;

/// After a batch of which another process took an id meanwhile, so many lock the counts of ids at once, so that
/// this one gets through and the next ones do: where two processes read the same lines at the same time, each
/// would else be overtaken again and again. Few, since others wait for all of such a batch.
const LOCKING_BATCHES: u32 = 16;

/// One partition's share of a batch, besides its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartWrite {
    /// The epoch that the process claimed the chain under.
    pub epoch: Epoch,
    /// Where the process believes that the chain stands; `None`: not begun.
    pub expected: Option<Offset>,
    /// Where the part before it ended (or the chain begins, or the accepted gap ended).
    pub from: Offset,
    /// The offset after the last that it covers, transaction markers included.
    pub to: Offset,
    /// The source's floor that it was folded under.
    pub floor: Option<UnixMs>,
    /// The accepted gap before it, if any.
    pub skipped: Option<Skipped>,
    /// The hash of the part before it; [`Hash256::ZERO`] for the first.
    pub previous: Hash256,
    /// The last folded record.
    pub tail: Option<Fingerprint>,
    /// The last folded record that was read again and matched.
    pub anchor: Option<Fingerprint>,
}

/// What one transaction writes.
pub struct BatchWrite {
    /// What it was priced, decoded and counted by.
    pub versions: Versions,
    /// One per part of the fold, in the fold's order.
    pub parts: Vec<PartWrite>,
    /// The rows; its `take_ids` was called.
    pub fold: BatchFold,
}

/// What a committed batch became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The batch's number.
    pub batch: i64,
    /// Each part with its hash, in the fold's order.
    pub heads: Vec<(PartRef, Hash256)>,
    /// What each part's records held, duplicates of earlier batches counted, in the fold's order.
    pub counts: Vec<Counts>,
    /// Duplicates whose producers gave their ids with another payload before.
    pub conflicts: Conflicts,
}

/// Why a batch is not known to be committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Chains of the batch are not as the process knew them; nothing was written. Drop the fenced
    /// ones until they are assigned again, claim the rewound ones anew.
    #[error("the process no longer owns what it folded")]
    Lost {
        /// A newer owner has them, or they were stopped.
        fenced: Vec<ChainId>,
        /// The database went back: by fail-over or restore.
        rewound: Vec<ChainId>,
    },
    /// Prices, sources or policies changed; nothing was written. Load them and fold again.
    #[error("prices, sources or policies changed while the batch was folded")]
    InForceChanged,
    /// Another process took an id of the batch meanwhile; nothing was written. Fold again: then the
    /// event is known to be a duplicate.
    #[error("another process counted an event of the batch first")]
    Overtaken,
    /// The answer to COMMIT was lost: ask [`Writer::resolve`] before anything else.
    #[error("whether the batch was committed is not known")]
    Unknown(#[source] StoreError),
    /// Nothing was written; fold again if the error's kind says that a later try may succeed.
    #[error(transparent)]
    Failed(#[from] StoreError),
}

/// A part whose commit is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolvePart {
    /// The chain.
    pub chain: ChainId,
    /// The epoch that it was claimed under.
    pub epoch: Epoch,
    /// Where it stood before the batch.
    pub expected: Option<Offset>,
    /// Where it stands if the batch was committed.
    pub to: Offset,
}

/// What became of a batch whose commit was not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// It was committed.
    Applied,
    /// It was not, and the chains are still ours: fold it again.
    NotApplied,
    /// Some chain stands elsewhere: claim all of them anew.
    Lost,
}

/// A position that moves over transaction markers, without a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleAdvance {
    /// The chain.
    pub chain: ChainId,
    /// The epoch that it was claimed under.
    pub epoch: Epoch,
    /// Where it stands; `None`: not begun.
    pub from: Option<Offset>,
    /// Where it stands afterwards.
    pub to: Offset,
}

/// Which chains did not move over markers, since they are not as the process knew them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advanced {
    /// A newer owner has them, or they were stopped: drop them until they are assigned again.
    pub fenced: Vec<ChainId>,
    /// The database went back: claim them anew.
    pub rewound: Vec<ChainId>,
}

/// The one connection that a process folds by, and what it knows to be stored.
pub struct Writer {
    database: Database,
    process: Uuid,
    connection: Option<PgConnection>,
    backend: Backend,
    /// `None` while a call uses it, and where what is stored is not known.
    memory: Option<Memory>,
    /// How many batches more lock the counts of ids at once.
    locking_batches: u32,
}

/// What committed batches of this connection have stored already.
#[derive(Debug, Default)]
struct Memory {
    series: HashSet<SeriesId>,
    rate_sets: HashSet<RateSetId>,
    partitions: partitions::Known,
    /// Which parts' chains are of which source.
    sources: HashMap<ChainId, SourceId>,
    /// Ids of log lines that were taken.
    held: HeldIds,
    /// How many batches more take producers' ids with care.
    careful_batches: u32,
}

impl Writer {
    /// Opens the connection.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] (retry), [`StoreError::Forbidden`] (stop).
    pub async fn connect(db: &Database, process: Uuid) -> Result<Self, StoreError> {
        let (connection, backend) = open(db, None).await?;
        Ok(Self {
            database: db.clone(),
            process,
            connection: Some(connection),
            backend,
            memory: None,
            locking_batches: 0,
        })
    }

    /// Returns the backend that serves the connection, or served it last.
    #[must_use]
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// Commits a batch. After any error but a lost chain, a change in force or an id that another process took
    /// the connection is given up, and the next call opens a new one.
    ///
    /// # Errors
    ///
    /// Each case of [`CommitError`], which says what to do.
    pub async fn commit(&mut self, batch: BatchWrite) -> Result<Committed, CommitError> {
        let mut connection = self.take_connection().await?;
        let mut memory = self.memory.take().unwrap_or_default();
        let owner = (self.process, self.backend);
        let lock = if self.locking_batches > 0 {
            CountLock::AtOnce
        } else {
            CountLock::AtTheEnd
        };
        let mut is_committing = false;
        let write = write(
            &mut connection,
            &mut memory,
            owner,
            (batch, lock),
            &mut is_committing,
        );
        let outcome = timeout(COMMIT_TIMEOUT, Box::pin(write)).await;
        let outcome = outcome.unwrap_or_else(|_| {
            let error = timed_out("a batch was written");
            Err(if is_committing {
                CommitError::Unknown(error)
            } else {
                error.into()
            })
        });
        memory.held.end_batch();
        match &outcome {
            Err(CommitError::Overtaken) => self.locking_batches = LOCKING_BATCHES,
            // In a circle with one that locks at once: where both do, there is none.
            Err(CommitError::Failed(error)) if error.is_deadlock() => {
                self.locking_batches = LOCKING_BATCHES;
            }
            Ok(_) => self.locking_batches = self.locking_batches.saturating_sub(1),
            Err(_) => {}
        }
        match &outcome {
            // Of a database that went back nothing is known.
            Err(CommitError::Lost { rewound, .. }) if !rewound.is_empty() => {
                self.connection = Some(connection);
            }
            Ok(_)
            | Err(
                CommitError::Lost { .. } | CommitError::InForceChanged | CommitError::Overtaken,
            ) => {
                self.connection = Some(connection);
                self.memory = Some(memory);
            }
            // Dropped with what it knew: what a broken connection stored is not known either.
            Err(CommitError::Unknown(_) | CommitError::Failed(_)) => {}
        }
        outcome
    }

    /// Finds out whether a batch whose commit is not known was committed: on a new connection, and
    /// only after the old one's transaction has ended.
    ///
    /// # Errors
    ///
    /// Each [`StoreError`] of a statement; ask again, since nothing may be folded before the answer.
    pub async fn resolve(&mut self, parts: &[ResolvePart]) -> Result<Resolved, StoreError> {
        self.connection = None;
        let mut connection = self.take_connection().await?;
        let work = position::resolve(&mut connection, parts);
        let resolved = timeout(COMMIT_TIMEOUT, work).await;
        let resolved = resolved.unwrap_or_else(|_| Err(timed_out("a commit was looked up")))?;
        self.connection = Some(connection);
        Ok(resolved)
    }

    /// Moves positions over offsets that hold no records. Returns the chains that are not as the
    /// caller knew them; theirs did not move, the others' did.
    ///
    /// # Errors
    ///
    /// Each [`StoreError`] of a statement; nothing moved, or it is not known: claim anew.
    pub async fn advance(&mut self, moves: &[IdleAdvance]) -> Result<Advanced, StoreError> {
        let mut connection = self.take_connection().await?;
        let work = position::advance(&mut connection, self.backend, moves);
        let advanced = timeout(COMMIT_TIMEOUT, work).await;
        let advanced = advanced.unwrap_or_else(|_| Err(timed_out("positions were moved")))?;
        self.connection = Some(connection);
        Ok(advanced)
    }

    /// Opens a connection where none is left, which also ends the transaction of the one that was given up.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] (retry), [`StoreError::Forbidden`] (stop).
    pub async fn connect_again(&mut self) -> Result<(), StoreError> {
        self.connection = Some(self.take_connection().await?);
        Ok(())
    }

    /// Takes the connection out, so that an error or a cancelled call drops it; opens a new one
    /// where there is none.
    async fn take_connection(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        self.memory = None;
        let (connection, backend) = open(&self.database, Some(self.backend)).await?;
        self.backend = backend;
        Ok(connection)
    }
}

/// Opens a connection and takes the role; before that, ends the backend of the connection that was
/// given up, whose transaction may still hold locks.
async fn open(
    db: &Database,
    former: Option<Backend>,
) -> Result<(PgConnection, Backend), StoreError> {
    let mut connection = db.connect_without_role().await?;
    if let Some(former) = former {
        end_backend(&mut connection, former).await?;
    }
    let backend = backend_of(&mut connection).await?;
    db.take_role(&mut connection).await?;
    Ok((connection, backend))
}

/// The transaction. `is_committing` is set once the server may have committed.
async fn write(
    connection: &mut PgConnection,
    memory: &mut Memory,
    (process, backend): (Uuid, Backend),
    (batch, lock): (BatchWrite, CountLock),
    is_committing: &mut bool,
) -> Result<Committed, CommitError> {
    let BatchWrite {
        versions,
        parts,
        mut fold,
    } = batch;
    let refs: Vec<PartRef> = fold
        .parts()
        .iter()
        .map(domain::fold::PartFold::part)
        .collect();
    position::check_ranges(&refs, &parts)?;
    memory.partitions.ensure(connection, &fold).await?;

    let mut tx = connection.begin().await.map_err(StoreError::from)?;
    if let Judged::Lost { fenced, rewound } =
        position::move_all(&mut tx, backend, &refs, &parts).await?
    {
        roll_back(tx).await?;
        return Err(CommitError::Lost { fenced, rewound });
    }
    fault::point("batch::after_position");
    if !rows::is_in_force(&mut tx, versions).await? {
        roll_back(tx).await?;
        return Err(CommitError::InForceChanged);
    }
    let (mut new_ids, conflicts) = take_ids(&mut tx, memory, &mut fold, lock).await?;
    fault::point("batch::after_ids");

    let closed = fold.close();
    let headers = rows::headers(&closed, &parts, versions);
    let heads: Vec<(PartRef, Hash256)> = closed
        .parts
        .iter()
        .zip(&headers)
        .map(|(part, header)| (part.part, part.hash(header)))
        .collect();
    let new_series = rows::insert_series(&mut tx, &closed, &memory.series).await?;
    let new_rate_sets = rows::insert_rate_sets(&mut tx, &closed, &memory.rate_sets).await?;
    let batch = rows::insert_parts(&mut tx, process, &closed, &headers, &heads).await?;
    rows::copy_rows(&mut tx, &closed).await?;
    rows::write_accounts(&mut tx, &closed, &parts).await?;
    fault::point("batch::after_postings");

    let recorded = ids::record(&mut tx, &mut memory.held, &mut new_ids).await?;
    let Recorded::Taken(numbers) = recorded else {
        roll_back(tx).await?;
        return Err(CommitError::Overtaken);
    };
    fault::point("batch::before_commit");
    *is_committing = true;
    tx.commit().await.map_err(commit_error)?;
    fault::point("batch::after_commit");
    new_ids.hold(&mut memory.held, &numbers);
    remember(&mut memory.series, new_series);
    remember(&mut memory.rate_sets, new_rate_sets);
    Ok(Committed {
        batch,
        heads,
        counts: closed.parts.iter().map(|part| part.counts).collect(),
        conflicts,
    })
}

async fn take_ids(
    tx: &mut PgConnection,
    memory: &mut Memory,
    fold: &mut BatchFold,
    lock: CountLock,
) -> Result<(NewIds, Conflicts), StoreError> {
    let sources = ids::sources_of(tx, &mut memory.sources, fold).await?;
    let care = if memory.careful_batches > 0 {
        Care::SomeRepeat
    } else {
        Care::AllNew
    };
    let Taken {
        seen,
        conflicts,
        was_surprised,
        new,
    } = ids::take(tx, fold, &sources, &mut memory.held, (care, lock)).await?;
    memory.careful_batches = if was_surprised {
        CAREFUL_BATCHES
    } else {
        memory.careful_batches.saturating_sub(1)
    };
    if !seen.is_empty() {
        fold.withdraw_seen(&seen);
    }
    Ok((new, conflicts))
}

async fn roll_back(tx: sqlx::Transaction<'_, sqlx::Postgres>) -> Result<(), StoreError> {
    tx.rollback().await?;
    Ok(())
}

/// Sorts an error of COMMIT: only what Postgres says is rolled back is known to be.
pub(crate) fn commit_error(error: sqlx::Error) -> CommitError {
    let state = sqlstate(&error);
    let is_rolled_back = state.as_deref().is_some_and(|state| {
        // Class 40 is "transaction rollback" but for 40003, "statement completion unknown"; class 23
        // is a constraint that was checked at the end.
        (state.starts_with("40") && state != "40003") || state.starts_with("23")
    });
    let error = StoreError::from(error);
    if is_rolled_back {
        CommitError::Failed(error)
    } else {
        CommitError::Unknown(error)
    }
}

/// Adds what the committed batch stored; emptied first where it would hold too much.
fn remember<K: Eq + std::hash::Hash>(known: &mut HashSet<K>, new: Vec<K>) {
    if known.len().saturating_add(new.len()) > KNOWN_MAX {
        known.clear();
    }
    known.extend(new);
}
