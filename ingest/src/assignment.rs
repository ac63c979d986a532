//! Assignments: one claim of one partition by this process.
//!
//! Invariant: an assignment is open from its claim until it is revoked, fenced or stopped, and never
//! opens again; a new claim is a new assignment with a greater epoch. Deliberately absent: how a
//! claim is made (`opening`), and what is folded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use domain::hash::Hash256;
use domain::ids::{ChainId, Epoch, Offset, PartNumber};
use domain::part::Skipped;
use parking_lot::{Condvar, Mutex};
use store::claim::Fingerprint;

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
            place,
            chain: claimed.0,
            epoch: claimed.1,
            start,
            head: Mutex::new(head),
            next: AtomicI64::new(start.0),
            open: AtomicBool::new(true),
            committing: Mutex::new(false),
            committed: Condvar::new(),
        }
    }

    /// Says whether its records may still be folded.
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Ends it: no transaction that begins from now on holds its records. Says whether it was open.
    pub(crate) fn end(&self) -> bool {
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

    /// Changes where the chain stands.
    pub(crate) fn update_head(&self, change: impl FnOnce(&mut Head)) {
        change(&mut self.head.lock());
    }

    /// Marks that a transaction with its records runs, or no longer does.
    pub(crate) fn set_committing(&self, is_committing: bool) {
        *self.committing.lock() = is_committing;
        if !is_committing {
            self.committed.notify_all();
        }
    }

    /// Says whether a transaction with its records runs or is being tried again.
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

type Owned = HashMap<TopicPartition, Option<Arc<Assignment>>>;

/// Says whether the partition is ours under this very assignment.
fn holds(owned: &Owned, assignment: &Assignment) -> bool {
    let held = owned.get(&assignment.place).and_then(Option::as_ref);
    held.is_some_and(|held| held.id == assignment.id)
}

/// What the group assigned to this process: open assignments, and partitions that wait for one.
#[derive(Default)]
pub(crate) struct Assignments {
    owned: Mutex<Owned>,
}

impl Assignments {
    /// Notes an open assignment, or with `None` a partition that waits for one; what it replaces ends.
    pub(crate) fn set(&self, place: TopicPartition, assignment: Option<Arc<Assignment>>) {
        if let Some(replaced) = self.owned.lock().insert(place, assignment).flatten() {
            replaced.end();
        }
    }

    /// Forgets a partition that the group took away, and returns its assignment.
    pub(crate) fn remove(&self, place: &TopicPartition) -> Option<Arc<Assignment>> {
        self.owned.lock().remove(place).flatten()
    }

    /// Forgets a partition that Postgres gave to another owner: only a new word of the group makes
    /// it ours again, so that two processes do not take it from each other in turns.
    pub(crate) fn give_up(&self, assignment: &Assignment) {
        let mut owned = self.owned.lock();
        if holds(&owned, assignment) {
            owned.remove(&assignment.place);
        }
    }

    /// Notes that a partition is still ours but must be opened anew.
    pub(crate) fn wait_again(&self, assignment: &Assignment) {
        let mut owned = self.owned.lock();
        if holds(&owned, assignment) {
            owned.insert(assignment.place.clone(), None);
        }
    }

    /// Returns the open assignment of a partition.
    #[must_use]
    pub(crate) fn open_at(&self, topic: &str, partition: i32) -> Option<Arc<Assignment>> {
        let owned = self.owned.lock();
        owned
            .iter()
            .find(|((known, number), _)| *number == partition && **known == *topic)
            .and_then(|(_, assignment)| assignment.clone())
            .filter(|assignment| assignment.is_open())
    }

    /// Returns all open assignments.
    #[must_use]
    pub(crate) fn open(&self) -> Vec<Arc<Assignment>> {
        let owned = self.owned.lock();
        owned
            .values()
            .flatten()
            .filter(|assignment| assignment.is_open())
            .cloned()
            .collect()
    }

    /// Returns the partitions that the group gave us and that have no open assignment.
    #[must_use]
    pub(crate) fn waiting(&self) -> Vec<TopicPartition> {
        let owned = self.owned.lock();
        owned
            .iter()
            .filter(|(_, assignment)| !assignment.as_ref().is_some_and(|open| open.is_open()))
            .map(|(place, _)| place.clone())
            .collect()
    }

    /// Returns the number of partitions that the group gave us.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.owned.lock().len()
    }
}
