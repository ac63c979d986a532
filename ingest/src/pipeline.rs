//! The pipeline: batch n + 1 is read and folded (`poll`) while batch n commits.
//!
//! Invariant: batches commit in the order in which they were read, each in one transaction with its
//! positions; what did not commit is dropped, and read again from where its chains stand. Deliberately
//! absent: polling (`poll`) and SQL (`store`).

use std::sync::Arc;
use std::time::Duration;

use domain::hash::Hash256;
use domain::ids::{ChainId, Offset, PartRef};
use domain::part::Counts;
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
use crate::batch::{BatchSize, Folded, Slice};
use crate::kafka::head_metadata;
use crate::observe;
use crate::observe::spans::BatchSpan;
use crate::poll::{Feed, HeadMark};
use crate::rules::{Rules, RulesInUse, UnusableRules};

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

/// Commits what the polling thread folds.
pub(crate) struct Pipeline {
    /// Batches to commit.
    pub(crate) feed: mpsc::Receiver<Feed>,
    /// A permit for each batch that is waited for, so that the polling thread fills one up until then.
    pub(crate) wishes: Arc<Semaphore>,
    /// The connection that writes.
    pub(crate) writer: Writer,
    /// Where what is in force is read from.
    pub(crate) database: Database,
    /// The rules that batches are folded by now.
    pub(crate) rules: Arc<Rules>,
    /// Where the polling thread learns of other rules.
    pub(crate) in_use: RulesInUse,
    /// Learns how long commits take.
    pub(crate) size: BatchSize,
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
    /// It is in the ledger.
    Done,
    /// It is not, and may be read again at once.
    Again,
    /// It is not, for a reason that may pass.
    After(StoreError),
}

/// Tries that failed one after another.
struct Failing {
    since: Instant,
    pause: Duration,
}

impl Failing {
    fn begin() -> Self {
        Self {
            since: Instant::now(),
            pause: PAUSE_MIN,
        }
    }
}

/// A transaction with the records of these slices; while it is held, none of them is read again.
struct Committing<'s> {
    slices: &'s [Slice],
}

impl<'s> Committing<'s> {
    /// Begins; `None` where an assignment has ended, so that nothing may be committed.
    fn begin(slices: &'s [Slice]) -> Option<Self> {
        let begun = slices
            .iter()
            .take_while(|slice| slice.assignment.begin_commit());
        let begun = Self {
            slices: slices.get(..begun.count())?,
        };
        (begun.slices.len() == slices.len()).then_some(begun)
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        for slice in self.slices {
            slice.assignment.end_commit();
        }
    }
}

impl Pipeline {
    /// Runs until the feed ends.
    ///
    /// # Errors
    ///
    /// [`PipelineError`]; the caller stops the process, or starts anew where sources changed.
    pub(crate) async fn run(mut self) -> Result<(), PipelineError> {
        let mut failing = None;
        loop {
            if self.feed.is_empty() && self.wishes.available_permits() == 0 {
                self.wishes.add_permits(1);
            }
            match self.feed.recv().await {
                None => return Ok(()),
                Some(Feed::Idle(idle)) => self.advance(&idle).await?,
                Some(Feed::Batch(batch)) => self.commit(*batch, &mut failing).await?,
            }
        }
    }

    /// Commits a batch; where that fails, has its records read again once another try may succeed.
    async fn commit(
        &mut self,
        batch: Folded,
        failing: &mut Option<Failing>,
    ) -> Result<(), PipelineError> {
        let Folded {
            fold,
            slices,
            versions,
            mut span,
        } = batch;
        let tried = match Committing::begin(&slices) {
            Some(_committing) if versions == self.rules.versions => {
                let write = BatchWrite {
                    versions,
                    parts: slices.iter().map(part_write).collect(),
                    fold,
                };
                self.try_commit(write, &slices, &mut span).await?
            }
            Some(_) | None => Try::Again,
        };
        let error = match tried {
            Try::Done => {
                *failing = None;
                return Ok(());
            }
            Try::Again => {
                *failing = None;
                None
            }
            Try::After(error) => Some(error),
        };
        span.gave_up();
        for slice in &slices {
            self.assignments.put_back(&slice.assignment);
        }
        match error {
            None => Ok(()),
            // Nothing is read again any more.
            Some(error) if error.is_transient() && self.shutdown.is_requested() => {
                observe::commit_failed(&error);
                match self.patience {
                    // What a back-fill is for is folded when its end is asked for.
                    Some(_) => Ok(()),
                    None => Err(PipelineError::NotDrained),
                }
            }
            Some(error) => {
                self.size.failed();
                let failing = failing.get_or_insert_with(Failing::begin);
                self.wait_for_postgres(error, failing).await
            }
        }
    }

    /// Waits until Postgres answers after a failed try; where the process should stop or no try can help,
    /// ends.
    async fn wait_for_postgres(
        &mut self,
        mut error: StoreError,
        failing: &mut Failing,
    ) -> Result<(), PipelineError> {
        loop {
            observe::commit_failed(&error);
            let is_over = self
                .patience
                .is_some_and(|patience| failing.since.elapsed() >= patience);
            if !error.is_transient() || is_over {
                return Err(error.into());
            }
            if self.shutdown.is_requested() && failing.pause >= PAUSE_MAX {
                return Err(PipelineError::NotDrained);
            }
            sleep(failing.pause).await;
            failing.pause = (failing.pause * 2).min(PAUSE_MAX);
            match self.writer.connect_again().await {
                Ok(()) => break,
                Err(next) => error = next,
            }
        }
        *self.backend.lock() = self.writer.backend();
        Ok(())
    }

    async fn try_commit(
        &mut self,
        write: BatchWrite,
        slices: &[Slice],
        span: &mut BatchSpan,
    ) -> Result<Try, PipelineError> {
        let asked: Vec<_> = slices.iter().zip(&write.parts).map(resolve_part).collect();
        let (started, began) = (Instant::now(), span.begin());
        let result = self.writer.commit(write).await;
        span.tried(began, &result);
        *self.backend.lock() = self.writer.backend();
        match result {
            Ok(committed) => {
                let took = started.elapsed();
                observe::committed(&committed, took);
                let events = committed.counts.iter().map(Counts::events).sum();
                self.size.committed(events, took);
                span.committed(&committed);
                self.counted.notify_one();
                self.applied(slices, &committed.heads).await;
                Ok(Try::Done)
            }
            Err(CommitError::Lost { fenced, rewound }) => {
                self.lose(slices, &fenced, &rewound);
                Ok(Try::Again)
            }
            Err(CommitError::Overtaken) => {
                observe::overtaken();
                Ok(Try::Again)
            }
            Err(CommitError::InForceChanged) => match self.reload().await {
                Ok(()) => Ok(Try::Again),
                Err(PipelineError::Store(error)) => Ok(Try::After(error)),
                Err(error) => Err(error),
            },
            Err(CommitError::Unknown(error)) => self.resolve(slices, &asked, error).await,
            Err(CommitError::Failed(error)) => Ok(Try::After(error)),
        }
    }

    /// Asks Postgres whether the batch was applied, until it answers: never retried blindly.
    async fn resolve(
        &mut self,
        slices: &[Slice],
        asked: &[ResolvePart],
        unknown: StoreError,
    ) -> Result<Try, PipelineError> {
        observe::commit_unknown(&unknown);
        let mut failing = Failing::begin();
        loop {
            match self.writer.resolve(asked).await {
                Ok(Resolved::Applied) => {
                    observe::resolved(true);
                    // The part's hash went with the answer: claiming anew reads it.
                    for slice in slices {
                        self.assignments.lose(&slice.assignment, Lost::Rewound);
                    }
                    return Ok(Try::Done);
                }
                Ok(Resolved::NotApplied) => {
                    observe::resolved(false);
                    return Ok(Try::Again);
                }
                Ok(Resolved::Lost) => return Err(PipelineError::BeginAnew),
                Err(error) => self.wait_for_postgres(error, &mut failing).await?,
            }
        }
    }

    /// Moves the heads of a batch that is in the ledger, and tells them to the polling thread.
    async fn applied(&self, slices: &[Slice], heads: &[(PartRef, Hash256)]) {
        let mut marks = Vec::with_capacity(heads.len());
        for slice in slices {
            let assignment = &slice.assignment;
            let Some((part, hash)) = heads
                .iter()
                .find(|(part, _)| part.chain == assignment.chain)
            else {
                continue;
            };
            let position = slice.to;
            assignment.update_head(|head| {
                head.position = Some(position);
                head.part_end = position;
                head.number = part.number;
                head.hash = *hash;
                head.tail = slice.tail;
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
        self.in_use.set(Arc::clone(&self.rules));
        Ok(())
    }

    /// Moves positions over transaction markers, where no part is due.
    async fn advance(&mut self, idle: &[(Arc<Assignment>, Offset)]) -> Result<(), PipelineError> {
        let open: Vec<_> = idle
            .iter()
            .filter(|(assignment, _)| assignment.begin_commit())
            .collect();
        let advances: Vec<_> = open
            .iter()
            .map(|(assignment, to)| IdleAdvance {
                chain: assignment.chain,
                epoch: assignment.epoch,
                from: assignment.head().position,
                to: *to,
            })
            .collect();
        let advanced = if advances.is_empty() {
            Ok(Advanced::default())
        } else {
            self.writer.advance(&advances).await
        };
        for (assignment, to) in &open {
            let how = match &advanced {
                Ok(Advanced { fenced, rewound }) => how_lost(assignment, fenced, rewound),
                // Whether they moved is not known: claiming anew reads it.
                Err(_) => Some(Lost::Rewound),
            };
            match how {
                Some(how) => self.lose_one(assignment, how),
                None => assignment.update_head(|head| head.position = Some(*to)),
            }
            assignment.end_commit();
        }
        match advanced {
            Err(error) if !error.is_transient() => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn how_lost(assignment: &Assignment, fenced: &[ChainId], rewound: &[ChainId]) -> Option<Lost> {
    if fenced.contains(&assignment.chain) {
        return Some(Lost::Fenced);
    }
    rewound.contains(&assignment.chain).then_some(Lost::Rewound)
}

fn part_write(slice: &Slice) -> PartWrite {
    let head = slice.assignment.head();
    PartWrite {
        epoch: slice.assignment.epoch,
        expected: head.position,
        from: head.part_end,
        to: slice.to,
        floor: slice.floor,
        skipped: head.skipped,
        previous: head.hash,
        tail: slice.tail,
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
