//! The pipeline: batch n + 1 is folded while batch n commits.
//!
//! Invariant: batches commit in the order in which they were read, each in one transaction with its
//! positions; a batch that did not commit is folded again from its own records, never from memory of
//! the failed try. Deliberately absent: polling (`poll`) and SQL (`store`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::hash::Hash256;
use domain::ids::{ChainId, Offset, PartNumber, PartRef};
use parking_lot::Mutex;
use service::Shutdown;
use store::batch::{
    Advanced, BatchWrite, CommitError, IdleAdvance, PartWrite, ResolvePart, Resolved, Writer,
};
use store::claim::Backend;
use store::{Database, StoreError};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep};

use crate::assignment::{Assignment, Assignments, Lost};
use crate::batch::{RawBatch, Slice};
use crate::folding::{Folded, FoldingEnded, FoldingThread};
use crate::kafka::head_metadata;
use crate::observe;
use crate::poll::{Feed, HeadMark};
use crate::rules::{Rules, UnusableRules};

/// The first pause after a failed try; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why the pipeline ended before its feed did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineError {
    /// Postgres refuses what no retry mends.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A newer program applied rules that this one cannot read.
    #[error(transparent)]
    Rules(#[from] UnusableRules),
    /// The folding thread panicked.
    #[error(transparent)]
    Folding(#[from] FoldingEnded),
    /// Other sources came into force, or Postgres and the group differ on what is ours: leave the
    /// group and begin anew.
    #[error("a new run is due")]
    BeginAnew,
    /// Shutdown came while Postgres was away; what was in hand is read again at the next start.
    #[error(
        "Postgres was away while the last batch should commit; it is read again at the next start"
    )]
    NotDrained,
}

/// Folds and commits what the polling thread feeds.
pub(crate) struct Pipeline {
    feed: mpsc::Receiver<Feed>,
    wishes: Arc<Semaphore>,
    reserved: HashMap<u64, PartNumber>,
    folding: FoldingThread,
    committer: Committer,
}

/// The committing half.
pub(crate) struct Committer {
    /// The connection that writes.
    pub(crate) writer: Writer,
    /// Where what is in force is read from.
    pub(crate) database: Database,
    /// The rules that batches are folded by now.
    pub(crate) rules: Arc<Rules>,
    /// The way to fold a batch again.
    pub(crate) folding: FoldingThread,
    /// What the group assigned.
    pub(crate) assignments: Arc<Assignments>,
    /// Tells the feed that accounts may have changed.
    pub(crate) counted: Arc<Notify>,
    /// Heads to the polling thread.
    pub(crate) heads: mpsc::Sender<Vec<HeadMark>>,
    /// Where openers learn which connection writes.
    pub(crate) backend: Arc<Mutex<Backend>>,
    /// Ends tries that wait for Postgres.
    pub(crate) shutdown: Shutdown,
    /// How long Postgres may be away before the pipeline gives up; `None`: as long as it takes.
    pub(crate) patience: Option<Duration>,
}

/// What one try of a commit came to.
enum Try {
    Done,
    Again(RawBatch),
    After(RawBatch, StoreError),
}

impl Pipeline {
    /// Makes a pipeline over a feed. It adds a permit to `wishes` whenever it waits for a batch, so
    /// that the polling thread fills one up until then, and none waits half full.
    #[must_use]
    pub(crate) fn new(
        feed: mpsc::Receiver<Feed>,
        wishes: Arc<Semaphore>,
        committer: Committer,
    ) -> Self {
        let folding = committer.folding.clone();
        Self {
            feed,
            wishes,
            reserved: HashMap::new(),
            folding,
            committer,
        }
    }

    /// Runs until the feed ends.
    ///
    /// # Errors
    ///
    /// [`PipelineError`]; the caller stops the process, or starts anew where sources changed.
    pub(crate) async fn run(mut self) -> Result<(), PipelineError> {
        let mut ready: Option<Folded> = None;
        loop {
            let Self {
                feed,
                wishes,
                reserved,
                folding,
                committer,
            } = &mut self;
            let (next, committed) = tokio::join!(
                fold_next((feed, wishes), reserved, folding),
                committer.commit(ready.take())
            );
            committed?;
            match next? {
                Some(Next::Folded(folded)) => ready = Some(*folded),
                Some(Next::Idle(idle)) => self.committer.advance(&idle).await?,
                None => return Ok(()),
            }
        }
    }
}

enum Next {
    Folded(Box<Folded>),
    Idle(Vec<(Arc<Assignment>, Offset)>),
}

/// Waits for the next feed and folds it.
async fn fold_next(
    (feed, wishes): (&mut mpsc::Receiver<Feed>, &Semaphore),
    reserved: &mut HashMap<u64, PartNumber>,
    folding: &FoldingThread,
) -> Result<Option<Next>, PipelineError> {
    loop {
        if feed.is_empty() && wishes.available_permits() == 0 {
            wishes.add_permits(1);
        }
        let raw = match feed.recv().await {
            None => return Ok(None),
            Some(Feed::Idle(idle)) => return Ok(Some(Next::Idle(idle))),
            Some(Feed::Batch(raw)) => raw,
        };
        let mut raw = raw;
        raw.drop_ended();
        if raw.slices.is_empty() {
            continue;
        }
        let parts = raw
            .slices
            .iter()
            .map(|slice| reserve(reserved, &slice.assignment))
            .collect();
        let folded = folding.fold(raw, parts).await?;
        return Ok(Some(Next::Folded(Box::new(folded))));
    }
}

/// Numbers the next part of an assignment's chain; each batch read from it becomes one part.
fn reserve(reserved: &mut HashMap<u64, PartNumber>, assignment: &Assignment) -> PartRef {
    if reserved.len() > 10_000 {
        // Assignments that ended long ago; those that live are numbered from their heads again only
        // where nothing of theirs is in flight, so keep the newest ids.
        let newest = reserved.keys().copied().max().unwrap_or(0);
        reserved.retain(|id, _| newest - id < 5_000);
    }
    let last = reserved
        .entry(assignment.id)
        .or_insert_with(|| assignment.head().number);
    *last = last.next();
    PartRef {
        chain: assignment.chain,
        number: *last,
    }
}

impl Committer {
    /// Commits a folded batch, however often that takes.
    async fn commit(&mut self, folded: Option<Folded>) -> Result<(), PipelineError> {
        let Some(mut folded) = folded else {
            return Ok(());
        };
        let mut pause = PAUSE_MIN;
        let since = Instant::now();
        loop {
            let slices: Vec<_> = folded
                .raw
                .slices
                .iter()
                .map(|slice| Arc::clone(&slice.assignment))
                .collect();
            slices
                .iter()
                .for_each(|assignment| assignment.set_committing(true));
            let tried = self.try_commit(folded).await;
            slices
                .iter()
                .for_each(|assignment| assignment.set_committing(false));
            let raw = match tried? {
                Try::Done => return Ok(()),
                Try::Again(raw) => raw,
                Try::After(raw, error) => {
                    observe::commit_failed(&error);
                    self.wait(since, pause, error).await?;
                    pause = (pause * 2).min(PAUSE_MAX);
                    raw
                }
            };
            match self.fold_again(raw).await? {
                Some(again) => folded = again,
                None => return Ok(()),
            }
        }
    }

    /// Waits before the next try; where the process should stop or no try can help, ends.
    async fn wait(
        &self,
        since: Instant,
        pause: Duration,
        error: StoreError,
    ) -> Result<(), PipelineError> {
        let is_over = self
            .patience
            .is_some_and(|patience| since.elapsed() >= patience);
        if !error.is_transient() || is_over {
            return Err(error.into());
        }
        if self.shutdown.is_requested() && pause >= PAUSE_MAX {
            return Err(PipelineError::NotDrained);
        }
        sleep(pause).await;
        Ok(())
    }

    /// Folds what is still ours of a batch again, under the rules that are in force now.
    async fn fold_again(&mut self, mut raw: RawBatch) -> Result<Option<Folded>, PipelineError> {
        raw.drop_ended();
        if raw.slices.is_empty() {
            return Ok(None);
        }
        let parts = raw
            .slices
            .iter()
            .map(|slice| PartRef {
                chain: slice.assignment.chain,
                number: slice.assignment.head().number.next(),
            })
            .collect();
        Ok(Some(self.folding.fold(raw, parts).await?))
    }

    async fn try_commit(&mut self, folded: Folded) -> Result<Try, PipelineError> {
        let Folded {
            mut raw,
            fold,
            floors,
            versions,
        } = folded;
        if raw.drop_ended() || versions != self.rules.versions {
            return Ok(Try::Again(raw));
        }
        let advances: Vec<_> = raw
            .slices
            .iter()
            .zip(floors)
            .map(|(slice, floor)| part_write(&raw, slice, floor))
            .collect();
        let asked: Vec<_> = raw.slices.iter().zip(&advances).map(resolve_part).collect();
        let write = BatchWrite {
            versions,
            parts: advances,
            fold,
        };
        let (started, began) = (Instant::now(), raw.span.begin());
        let result = self.writer.commit(write).await;
        raw.span.tried(began, &result);
        *self.backend.lock() = self.writer.backend();
        match result {
            Ok(committed) => {
                observe::committed(&committed, started.elapsed());
                raw.span.committed(&committed);
                self.counted.notify_one();
                self.applied(&raw, &committed.heads).await;
                Ok(Try::Done)
            }
            Err(CommitError::Lost { fenced, rewound }) => {
                self.lose(&raw.slices, &fenced, &rewound);
                Ok(Try::Again(raw))
            }
            Err(CommitError::InForceChanged) => match self.reload().await {
                Ok(()) => Ok(Try::Again(raw)),
                Err(PipelineError::Store(error)) => Ok(Try::After(raw, error)),
                Err(error) => Err(error),
            },
            Err(CommitError::Unknown(error)) => self.resolve(raw, &asked, error).await,
            Err(CommitError::Failed(error)) => Ok(Try::After(raw, error)),
        }
    }

    /// Asks Postgres whether the batch was applied, until it answers: never retried blindly.
    async fn resolve(
        &mut self,
        raw: RawBatch,
        asked: &[ResolvePart],
        unknown: StoreError,
    ) -> Result<Try, PipelineError> {
        observe::commit_unknown(&unknown);
        let mut pause = PAUSE_MIN;
        let since = Instant::now();
        loop {
            match self.writer.resolve(asked).await {
                Ok(Resolved::Applied) => {
                    observe::resolved(true);
                    // The part's hash went with the answer: claiming anew reads it.
                    for slice in &raw.slices {
                        self.assignments.lose(&slice.assignment, Lost::Rewound);
                    }
                    return Ok(Try::Done);
                }
                Ok(Resolved::NotApplied) => {
                    observe::resolved(false);
                    return Ok(Try::Again(raw));
                }
                Ok(Resolved::Lost) => return Err(PipelineError::BeginAnew),
                Err(error) => self.wait(since, pause, error).await?,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Moves the heads of a batch that is in the ledger, and tells them to the polling thread.
    async fn applied(&self, raw: &RawBatch, heads: &[(PartRef, Hash256)]) {
        let mut marks = Vec::with_capacity(heads.len());
        for slice in &raw.slices {
            let assignment = &slice.assignment;
            let Some((part, hash)) = heads
                .iter()
                .find(|(part, _)| part.chain == assignment.chain)
            else {
                continue;
            };
            let Some(position) = slice.records.last().map(|last| last.offset.next()) else {
                continue;
            };
            let tail = raw.tail(slice);
            assignment.update_head(|head| {
                head.position = Some(position);
                head.part_end = position;
                head.number = part.number;
                head.hash = *hash;
                head.tail = tail;
                head.skipped = None;
            });
            marks.push(HeadMark {
                place: assignment.place.clone(),
                position,
                metadata: head_metadata(*part, *hash),
            });
        }
        // A polling thread that is gone commits no more offsets; nothing depends on them.
        self.heads.send(marks).await.unwrap_or_default();
    }

    /// Ends assignments that another process owns now, or that the database forgot.
    fn lose(&self, slices: &[Slice], fenced: &[ChainId], rewound: &[ChainId]) {
        for assignment in slices.iter().map(|slice| &slice.assignment) {
            if let Some(how) = how_lost(assignment, fenced, rewound) {
                self.lose_one(assignment, how);
            }
        }
    }

    fn lose_one(&self, assignment: &Assignment, how: Lost) {
        if self.assignments.lose(assignment, how) {
            observe::lost(assignment, how);
        }
    }

    async fn reload(&mut self) -> Result<(), PipelineError> {
        let in_force = store::in_force::load(&self.database).await?;
        let rules = Rules::read(&in_force)?;
        let is_same_log = |a: &Rules, b: &Rules| {
            let places = |rules: &Rules| {
                rules
                    .configs
                    .iter()
                    .map(|c| (c.name().to_owned(), c.topic.clone()))
                    .collect()
            };
            let (a, b): (Vec<_>, Vec<_>) = (places(a), places(b));
            a == b
        };
        if !is_same_log(&rules, &self.rules) {
            return Err(PipelineError::BeginAnew);
        }
        self.rules = Arc::new(rules);
        observe::rules_changed(&self.rules);
        self.folding.change_rules(Arc::clone(&self.rules)).await?;
        Ok(())
    }

    /// Moves positions over transaction markers, where no part is due.
    async fn advance(&mut self, idle: &[(Arc<Assignment>, Offset)]) -> Result<(), PipelineError> {
        let open: Vec<_> = idle
            .iter()
            .filter(|(assignment, _)| assignment.is_open())
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let advances: Vec<_> = open
            .iter()
            .map(|(assignment, to)| IdleAdvance {
                chain: assignment.chain,
                epoch: assignment.epoch,
                from: assignment.head().position,
                to: *to,
            })
            .collect();
        match self.writer.advance(&advances).await {
            Ok(Advanced { fenced, rewound }) => {
                for (assignment, to) in open {
                    match how_lost(assignment, &fenced, &rewound) {
                        Some(how) => self.lose_one(assignment, how),
                        None => assignment.update_head(|head| head.position = Some(*to)),
                    }
                }
                Ok(())
            }
            // Whether they moved is not known: claiming anew reads it.
            Err(error) if error.is_transient() => {
                for (assignment, _) in open {
                    self.lose_one(assignment, Lost::Rewound);
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn how_lost(assignment: &Assignment, fenced: &[ChainId], rewound: &[ChainId]) -> Option<Lost> {
    if fenced.contains(&assignment.chain) {
        return Some(Lost::Fenced);
    }
    rewound.contains(&assignment.chain).then_some(Lost::Rewound)
}

fn part_write(raw: &RawBatch, slice: &Slice, floor: Option<domain::time::UnixMs>) -> PartWrite {
    let head = slice.assignment.head();
    PartWrite {
        epoch: slice.assignment.epoch,
        expected: head.position,
        from: head.part_end,
        to: slice
            .records
            .last()
            .map_or(head.part_end, |last| last.offset.next()),
        floor,
        skipped: head.skipped,
        previous: head.hash,
        tail: raw.tail(slice),
        anchor: head.anchor,
    }
}

fn resolve_part((slice, write): (&Slice, &PartWrite)) -> ResolvePart {
    ResolvePart {
        chain: slice.assignment.chain,
        epoch: write.epoch,
        expected: write.expected,
        to: write.to,
    }
}
