//! Opening a partition: claim its chain in Postgres, and make sure that the log is still the one that
//! was folded.
//!
//! Invariant: a partition is opened at the position that Postgres holds, under an epoch greater than
//! any before, and only while the log holds the last folded record; else it is stopped and recorded
//! as a gap. What is only read again keeps its epoch, and `watch` goes on comparing its log. Deliberately
//! absent: what happens to records.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::ids::Offset;
use domain::part::Skipped;
use parking_lot::Mutex;
use store::claim::{Backend, Claim, ClaimRequest, Fingerprint};
use store::gap::{GapCause, NewGap};
use store::source::SourceId;
use store::{Database, StoreError};
use tokio::runtime::Handle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::assignment::{Assignment, Head};
use crate::gaps::FoldedTo;
use crate::kafka::{LogError, LogRange, LogReader, TopicPartition};
use crate::observe;
use crate::source_config::Start;

/// How long to wait between two tries of a claim that may succeed later.
const CLAIM_PAUSE: Duration = Duration::from_millis(200);

/// A source as it is in force.
#[derive(Debug, Clone)]
pub(crate) struct SourceInForce {
    /// Its row.
    pub(crate) id: SourceId,
    /// The topic that it reads.
    pub(crate) topic: Arc<str>,
    /// Where a partition without a position begins.
    pub(crate) start: Start,
    /// Whether its format reads records' headers.
    pub(crate) reads_headers: bool,
}

/// What came of opening a partition.
pub(crate) enum Opened {
    /// It may be read from the assignment's start.
    Ready(Arc<Assignment>),
    /// A gap waits for an operator's word.
    Stopped,
    /// Postgres or Kafka did not answer; try again.
    Later,
}

/// Opens partitions for one process.
pub(crate) struct Opener {
    database: Database,
    runtime: Handle,
    reader: Mutex<LogReader>,
    sources: Vec<SourceInForce>,
    process: Uuid,
    backend: Arc<Mutex<Backend>>,
    next_id: AtomicU64,
}

/// What the log says about a claimed chain.
enum Check {
    /// It is the log that was folded; read on from here, with what was accepted as lost.
    Same(Offset, Option<Skipped>),
    /// It is not.
    Gap(NewGap),
}

impl Opener {
    /// Makes an opener; `backend` is where the writer tells which connection folds.
    #[must_use]
    pub(crate) fn new(
        database: Database,
        reader: LogReader,
        sources: Vec<SourceInForce>,
        process: Uuid,
        backend: Arc<Mutex<Backend>>,
    ) -> Self {
        Self {
            database,
            runtime: Handle::current(),
            reader: Mutex::new(reader),
            sources,
            process,
            backend,
            next_id: AtomicU64::new(1),
        }
    }

    /// Opens a partition, trying until the deadline, at least once; blocks the calling thread, which
    /// must not be the runtime's.
    pub(crate) fn open(&self, place: &TopicPartition, deadline: Instant) -> Opened {
        loop {
            match self.try_open(place) {
                Ok(opened) => return opened,
                Err(problem) if Instant::now() < deadline && problem.may_pass() => {
                    self.runtime.block_on(tokio::time::sleep(CLAIM_PAUSE));
                }
                Err(problem) => {
                    observe::opening_failed(place, &problem);
                    return Opened::Later;
                }
            }
        }
    }

    /// Makes the assignment that reads again what an ended one did not commit; its claim still holds, for
    /// all that this process knows.
    pub(crate) fn again(&self, ended: &Assignment) -> Assignment {
        ended.again(self.next_id())
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn try_open(&self, place: &TopicPartition) -> Result<Opened, OpenError> {
        let Some(source) = self
            .sources
            .iter()
            .position(|source| source.topic == place.0)
        else {
            return Ok(Opened::Stopped);
        };
        let rule = &self.sources[source];
        let request = ClaimRequest {
            source: rule.id,
            topic: place.0.to_string(),
            partition: place.1,
            process: self.process,
            backend: Some(*self.backend.lock()),
        };
        let claim = self
            .runtime
            .block_on(store::claim::claim(&self.database, &request))?;
        if claim.stopped {
            return Ok(Opened::Stopped);
        }
        match self.check_log(place, rule.start, &claim)? {
            Check::Same(start, skipped) => {
                let assignment = self.assignment(source, place, &claim, start, skipped);
                observe::opened(&assignment);
                Ok(Opened::Ready(Arc::new(assignment)))
            }
            Check::Gap(gap) => {
                self.runtime
                    .block_on(store::gap::record(&self.database, &gap))?;
                observe::gap_found(place, &gap);
                Ok(Opened::Stopped)
            }
        }
    }

    fn check_log(
        &self,
        place: &TopicPartition,
        start: Start,
        claim: &Claim,
    ) -> Result<Check, OpenError> {
        let reader = self.reader.lock();
        let range = reader.range(&place.0, place.1)?;
        let Some(position) = claim.position else {
            return self.begin(start, claim, range);
        };
        let folded = FoldedTo {
            chain: claim.chain,
            epoch: claim.epoch,
            position,
            anchor: claim.anchor,
        };
        for known in [claim.anchor, claim.tail].into_iter().flatten() {
            if !is_there(&reader, place, range, known)? {
                return Ok(Check::Gap(folded.differs(range, known)));
            }
        }
        match (folded.outside(range), claim.accepted_gap) {
            (Some(gap), Some(_)) if gap.cause == GapCause::Truncated => {
                Ok(Check::Same(range.start, accepted(claim, range.start)))
            }
            (Some(gap), _) => Ok(Check::Gap(gap)),
            (None, _) => Ok(Check::Same(position, accepted(claim, position))),
        }
    }

    /// Begins a chain: where the source says, and a re-created log always at its first record.
    fn begin(&self, start: Start, claim: &Claim, range: LogRange) -> Result<Check, OpenError> {
        let first = match start {
            Start::Latest if claim.incarnation == 1 => range.end,
            Start::Latest | Start::Earliest => range.start,
        };
        let begun = self
            .runtime
            .block_on(store::claim::begin(&self.database, claim, first))?;
        if !begun {
            return Err(OpenError::Overtaken);
        }
        Ok(Check::Same(first, None))
    }

    fn assignment(
        &self,
        source: usize,
        place: &TopicPartition,
        claim: &Claim,
        start: Offset,
        skipped: Option<Skipped>,
    ) -> Assignment {
        let head = Head {
            // Where nothing was folded yet, the chain was begun at `start` just now.
            position: Some(claim.position.unwrap_or(start)),
            part_end: match (skipped, claim.part_end) {
                (None, Some(end)) => end,
                _ => start,
            },
            number: claim.last_part,
            hash: claim.last_hash,
            tail: claim.tail.filter(|_| skipped.is_none()),
            anchor: claim.anchor.filter(|_| skipped.is_none()),
            skipped,
        };
        let id = self.next_id();
        Assignment::new(
            id,
            source,
            place.clone(),
            (claim.chain, claim.epoch),
            start,
            head,
        )
        .reading_headers(
            self.sources
                .get(source)
                .is_some_and(|rule| rule.reads_headers),
        )
    }
}

/// Returns what an operator accepted as lost, which the next part names.
fn accepted(claim: &Claim, resume: Offset) -> Option<Skipped> {
    let gap = claim.accepted_gap?;
    Some(Skipped {
        from: gap.position,
        to: resume,
    })
}

/// Says whether a folded record is still what stands at its offset; also where the log no longer
/// reaches back to it, since then nothing speaks against it.
fn is_there(
    reader: &LogReader,
    place: &TopicPartition,
    range: LogRange,
    known: Fingerprint,
) -> Result<bool, OpenError> {
    if known.offset < range.start {
        return Ok(true);
    }
    if known.offset >= range.end {
        return Ok(false);
    }
    let found = reader.still_holds(place, known)?;
    found.ok_or_else(|| OpenError::NotRead(place.0.to_string(), place.1))
}

/// Why a partition cannot be opened now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Postgres refused or is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kafka is away.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Another process claimed the partition at the same moment.
    #[error("another process claimed the partition at the same moment")]
    Overtaken,
    /// A folded record could not be read again in time.
    #[error("the last folded record of {0}/{1} could not be read again in time")]
    NotRead(String, i32),
}

impl OpenError {
    fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Log(_) | Self::NotRead(..) => true,
            Self::Overtaken => false,
        }
    }
}
