//! Assignments: one claim of one partition by this process.
//!
//! Invariant: an assignment is open until it is revoked, fenced, stopped or put back, and never
//! opens again; a new claim is a new assignment with a greater epoch, and a partition that is only read
//! again is a new assignment under the same epoch. Deliberately absent: how a claim is made (`opening`),
//! and what is folded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use domain::hash::Hash256;
use domain::ids::{ChainId, Epoch, Offset, PartNumber, PartRef};
use domain::part::Skipped;
use parking_lot::{Condvar, Mutex};
use store::claim::Fingerprint;
use tokio::time::Instant;

use crate::kafka::TopicPartition;

/// Where a chain stands.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// The next offset to read as Postgres has it; `None` where nothing was folded yet.
    pub(crate) position: Option<Offset>,
    /// Where the next part begins: the end of the part before it.
    pub(crate) part_end: Offset,
    /// The number of the last part.
    pub(crate) number: PartNumber,
    /// The hash of the last part.
    pub(crate) hash: Hash256,
    /// The last folded record.
    pub(crate) tail: Option<Fingerprint>,
    /// A folded record that was read again and was still there.
    pub(crate) anchor: Option<Fingerprint>,
    /// What an operator accepted as lost before the next part.
    pub(crate) skipped: Option<Skipped>,
}

/// One claim of one partition.
pub(crate) struct Assignment {
    /// Distinct within the process.
    pub(crate) id: u64,
    /// The index of its source among the rules in force.
    pub(crate) source: usize,
    /// Whether its records' headers are kept.
    pub(crate) reads_headers: bool,
    /// The topic and partition.
    pub(crate) place: TopicPartition,
    /// Its chain.
    pub(crate) chain: ChainId,
    /// The epoch that fences everybody before.
    pub(crate) epoch: Epoch,
    /// Where reading began.
    pub(crate) start: Offset,
    head: Mutex<Head>,
    next: AtomicI64,
    /// The number of the last part that was begun, committed or not.
    begun: AtomicI64,
    open: AtomicBool,
    committing: Mutex<bool>,
    committed: Condvar,
}

impl Assignment {
    /// Opens an assignment.
    #[must_use]
    pub(crate) fn new(
        id: u64,
        source: usize,
        place: TopicPartition,
        claimed: (ChainId, Epoch),
        start: Offset,
        head: Head,
    ) -> Self {
        Self {
            id,
            source,
            reads_headers: false,
            place,
            chain: claimed.0,
            epoch: claimed.1,
            start,
            begun: AtomicI64::new(head.number.0),
            head: Mutex::new(head),
            next: AtomicI64::new(start.0),
            open: AtomicBool::new(true),
            committing: Mutex::new(false),
            committed: Condvar::new(),
        }
    }

    /// Keeps the headers of its records, which its source's format reads, or not.
    #[must_use]
    pub(crate) const fn reading_headers(mut self, reads_headers: bool) -> Self {
        self.reads_headers = reads_headers;
        self
    }

    /// Makes the assignment that reads again what this one, which has ended, did not commit: under the
    /// same claim, from where the chain stands. Call it only while no transaction with its records runs.
    #[must_use]
    pub(crate) fn again(&self, id: u64) -> Self {
        Self::new(
            id,
            self.source,
            self.place.clone(),
            (self.chain, self.epoch),
            self.folded_to(),
            self.head(),
        )
        .reading_headers(self.reads_headers)
    }

    /// Numbers the next part of the chain: those that are not committed yet count.
    #[must_use]
    pub(crate) fn begin_part(&self) -> PartRef {
        PartRef {
            chain: self.chain,
            number: PartNumber(self.begun.fetch_add(1, Ordering::Relaxed)).next(),
        }
    }

    /// Says whether its records may still be folded.
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Ends it: no transaction that begins from now on holds its records. Says whether it was open.
    pub(crate) fn end(&self) -> bool {
        // Under the lock, so that whoever ended it sees the transaction that began before.
        let _committing = self.committing.lock();
        self.open.swap(false, Ordering::AcqRel)
    }

    /// Returns the offset after the last record that was read; the start before the first.
    #[must_use]
    pub(crate) fn next_read(&self) -> Offset {
        Offset(self.next.load(Ordering::Relaxed))
    }

    /// Notes a record as read; says `false` where it lies before what was read already, which a
    /// broker never answers unless its log changed under us.
    #[must_use]
    pub(crate) fn read(&self, offset: Offset) -> bool {
        let is_forward = offset >= self.next_read();
        if is_forward {
            self.next.store(offset.next().0, Ordering::Relaxed);
        }
        is_forward
    }

    /// Returns a copy of where the chain stands.
    #[must_use]
    pub(crate) fn head(&self) -> Head {
        self.head.lock().clone()
    }

    /// Returns up to where everything is folded, or was accepted as lost.
    #[must_use]
    pub(crate) fn folded_to(&self) -> Offset {
        let position = self.head.lock().position;
        position.map_or(self.start, |position| position.max(self.start))
    }

    /// Changes where the chain stands.
    pub(crate) fn update_head(&self, change: impl FnOnce(&mut Head)) {
        change(&mut self.head.lock());
    }

    /// Marks that a transaction with its records runs; says `false`, and marks nothing, where it has
    /// ended.
    #[must_use]
    pub(crate) fn begin_commit(&self) -> bool {
        let mut committing = self.committing.lock();
        *committing = self.is_open();
        *committing
    }

    /// Marks that no transaction with its records runs any more.
    pub(crate) fn end_commit(&self) {
        *self.committing.lock() = false;
        self.committed.notify_all();
    }

    /// Says whether a transaction with its records runs.
    #[must_use]
    pub(crate) fn is_committing(&self) -> bool {
        *self.committing.lock()
    }

    /// Waits, at most this long, until no transaction with its records runs.
    pub(crate) fn wait_committed(&self, patience: Duration) {
        let mut committing = self.committing.lock();
        if *committing {
            self.committed
                .wait_while_for(&mut committing, |running| *running, patience);
        }
    }
}

impl std::fmt::Debug for Assignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}/{} chain {}",
            self.place.0, self.place.1, self.chain.0
        )
    }
}

/// What the group gave us, partition by partition.
enum Held {
    /// Open: its records are folded.
    Open(Arc<Assignment>),
    /// Ours by the claim of this ended assignment, to be read again from where the chain stands.
    Again(Arc<Assignment>),
    /// Ours by this claim, to be read from its start.
    Claimed(Arc<Assignment>),
    /// Ours, to be opened.
    Waiting,
    /// Postgres gave it to another owner, while the group had not (yet) taken it from us.
    GivenUp(Instant),
}

/// How an assignment was lost to what Postgres says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// A newer owner has it.
    Fenced,
    /// The database does not have it where this process left it: it went back, or the answer to a
    /// change was lost, or a gap stopped it.
    Rewound,
}

/// What the group assigned to this process.
#[derive(Default)]
pub(crate) struct Assignments {
    held: Mutex<HashMap<TopicPartition, Held>>,
    changes: AtomicU64,
}

impl Assignments {
    /// Notes an open assignment; what it replaces ends.
    pub(crate) fn open_with(&self, assignment: Arc<Assignment>) {
        let place = assignment.place.clone();
        let replaced = self.held.lock().insert(place, Held::Open(assignment));
        end_replaced(replaced);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Returns how often an assignment was claimed, opened, put back or taken away.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Notes a partition that is ours but must be opened first; what it replaces ends.
    pub(crate) fn wait(&self, place: TopicPartition) {
        let replaced = self.held.lock().insert(place, Held::Waiting);
        end_replaced(replaced);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Forgets a partition that the group took away, and returns its assignment.
    pub(crate) fn remove(&self, place: &TopicPartition) -> Option<Arc<Assignment>> {
        self.changes.fetch_add(1, Ordering::Release);
        match self.held.lock().remove(place) {
            Some(Held::Open(assignment) | Held::Again(assignment)) => Some(assignment),
            Some(Held::Claimed(_) | Held::Waiting | Held::GivenUp(_)) | None => None,
        }
    }

    /// Notes that a partition which waited was claimed, unless it is no longer ours or was opened meanwhile.
    pub(crate) fn claimed(&self, assignment: Arc<Assignment>) {
        let mut held = self.held.lock();
        if let Some(held) = held.get_mut(&assignment.place)
            && open(held).is_none()
        {
            *held = Held::Claimed(assignment);
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Returns the assignments that are to be read from their start.
    #[must_use]
    pub(crate) fn to_begin(&self) -> Vec<Arc<Assignment>> {
        let held = self.held.lock();
        let claimed = held.values().filter_map(|held| match held {
            Held::Claimed(assignment) => Some(Arc::clone(assignment)),
            Held::Open(_) | Held::Again(_) | Held::Waiting | Held::GivenUp(_) => None,
        });
        claimed.collect()
    }

    /// Ends an assignment whose last records did not reach the ledger, and notes that they are to be
    /// read again; one that has ended already stays as it is.
    pub(crate) fn put_back(&self, assignment: &Assignment) {
        let mut held = self.held.lock();
        if !assignment.end() {
            return;
        }
        if let Some(held) = held.get_mut(&assignment.place)
            && let Held::Open(known) = held
            && known.id == assignment.id
        {
            *held = Held::Again(Arc::clone(known));
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Returns the ended assignments whose partitions are to be read again, and whether there are more,
    /// with which a transaction still runs.
    #[must_use]
    pub(crate) fn put_backs(&self) -> (Vec<Arc<Assignment>>, bool) {
        let held = self.held.lock();
        let put_back = held.values().filter_map(|held| match held {
            Held::Again(assignment) => Some(Arc::clone(assignment)),
            Held::Open(_) | Held::Claimed(_) | Held::Waiting | Held::GivenUp(_) => None,
        });
        let (busy, ready): (Vec<_>, Vec<_>) =
            put_back.partition(|assignment| assignment.is_committing());
        (ready, !busy.is_empty())
    }

    /// Ends an assignment that Postgres does not have as this process knew it, and says whether it
    /// was open. A fenced partition is not claimed again at once: two processes that both believe
    /// they own it would take it from each other in turns.
    pub(crate) fn lose(&self, assignment: &Assignment, how: Lost) -> bool {
        let was_open = assignment.end();
        let mut held = self.held.lock();
        if let Some(Held::Open(known) | Held::Again(known)) = held.get(&assignment.place)
            && known.id == assignment.id
        {
            let next = match how {
                Lost::Fenced => Held::GivenUp(Instant::now()),
                Lost::Rewound => Held::Waiting,
            };
            held.insert(assignment.place.clone(), next);
        }
        was_open
    }

    /// Makes partitions wait again that were given up so long ago that the group must have taken
    /// them away if it meant to: the other owner is gone.
    pub(crate) fn take_back(&self, given_up_for: Duration) {
        for held in self.held.lock().values_mut() {
            if matches!(held, Held::GivenUp(since) if since.elapsed() >= given_up_for) {
                *held = Held::Waiting;
            }
        }
    }

    /// Says whether the group gave us this partition.
    pub(crate) fn is_ours(&self, place: &TopicPartition) -> bool {
        self.held.lock().contains_key(place)
    }

    /// Returns the open assignment of a partition.
    #[must_use]
    pub(crate) fn open_at(&self, topic: &str, partition: i32) -> Option<Arc<Assignment>> {
        let held = self.held.lock();
        held.iter()
            .find(|((known, number), _)| *number == partition && **known == *topic)
            .and_then(|(_, held)| open(held))
    }

    /// Returns all open assignments.
    #[must_use]
    pub(crate) fn open(&self) -> Vec<Arc<Assignment>> {
        self.held.lock().values().filter_map(open).collect()
    }

    /// Returns the claims that are open, or whose partitions are to be read from.
    #[must_use]
    pub(crate) fn claims(&self) -> HashSet<(ChainId, Epoch)> {
        let held = self.held.lock();
        let claims = held.values().filter_map(|held| match held {
            Held::Open(assignment) | Held::Again(assignment) | Held::Claimed(assignment) => {
                Some((assignment.chain, assignment.epoch))
            }
            Held::Waiting | Held::GivenUp(_) => None,
        });
        claims.collect()
    }

    /// Returns the partitions that the group gave us and that are to be opened.
    #[must_use]
    pub(crate) fn waiting(&self) -> Vec<TopicPartition> {
        let held = self.held.lock();
        let is_waiting = |held: &Held| match held {
            Held::Open(assignment) => !assignment.is_open(),
            Held::Waiting => true,
            Held::Again(_) | Held::Claimed(_) | Held::GivenUp(_) => false,
        };
        held.iter()
            .filter(|(_, held)| is_waiting(held))
            .map(|(place, _)| place.clone())
            .collect()
    }

    /// Returns the number of partitions that the group gave us.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.held.lock().len()
    }
}

fn open(held: &Held) -> Option<Arc<Assignment>> {
    match held {
        Held::Open(assignment) if assignment.is_open() => Some(Arc::clone(assignment)),
        Held::Open(_) | Held::Again(_) | Held::Claimed(_) | Held::Waiting | Held::GivenUp(_) => {
            None
        }
    }
}

fn end_replaced(replaced: Option<Held>) {
    if let Some(Held::Open(assignment)) = replaced {
        assignment.end();
    }
}
