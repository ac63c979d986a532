//! The partitions' own queues: under a backlog they are read by turns.
//!
//! A part has a posting per series, so that one part of many events posts a good deal less than many of
//! few. So the queue at hand is read until it is empty or its turn is over, and then the one that waited
//! longest. A turn is a share of a batch: where few partitions have a backlog each batch holds all of
//! them, and others' ids of the seconds that it has are few: they need not be read.
//!
//! Invariant: a queue that may hold records is at hand or waits for its turn, exactly once. The
//! consumer's main queue keeps the group's events, and records that came before their partition's
//! queue was split off. Deliberately absent: what becomes of a record (`poll`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaResult;
use rdkafka::message::BorrowedMessage;

use crate::assignment::{Assignment, Assignments};
use crate::group::GroupContext;

/// A queue that gave so many records in its turn has a backlog behind it: where it is empty, the next
/// answer of the broker is on its way.
const BACKLOG: usize = 2_000;

/// The queues of the open assignments.
#[derive(Default)]
pub(crate) struct Queues {
    by_assignment: HashMap<u64, Queue, RandomState>,
    /// The assignment whose queue is read.
    at_hand: Option<u64>,
    /// How many records it gave in its turn.
    taken: usize,
    /// The last turn that ended was a long one.
    was_long: bool,
    turns: Arc<Turns>,
    /// As of when the assignments are followed.
    followed: Option<u64>,
}

struct Queue {
    assignment: Arc<Assignment>,
    records: PartitionQueue<GroupContext>,
}

/// The turn of a queue.
pub(crate) struct Turn<'q> {
    queue: &'q Queue,
    taken: &'q mut usize,
}

/// Whose turn it is; librdkafka's threads add to it.
#[derive(Default)]
pub(crate) struct Turns {
    state: Mutex<Waiting>,
    added: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Assignments whose queues may hold records, in the order of their turns, each once.
    assignments: VecDeque<u64>,
    /// The main queue holds something.
    has_event: bool,
}

impl Turns {
    /// Notes that the main queue holds something. Called by librdkafka's threads.
    pub(crate) fn note_event(&self) {
        self.state.lock().has_event = true;
        self.added.notify_one();
    }

    fn add(&self, assignment: u64) {
        let mut state = self.state.lock();
        if !state.assignments.contains(&assignment) {
            state.assignments.push_back(assignment);
            drop(state);
            self.added.notify_one();
        }
    }

    fn next(&self) -> Option<u64> {
        self.state.lock().assignments.pop_front()
    }
}

impl Queues {
    /// Returns what is to be told of the main queue's events.
    pub(crate) fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.turns)
    }

    /// Splits off the queues of newly opened assignments and forgets those of ended ones. Says
    /// whether a queue was split off: what the main queue holds by now must be taken first.
    pub(crate) fn follow(
        &mut self,
        consumer: &Arc<BaseConsumer<GroupContext>>,
        assignments: &Assignments,
    ) -> bool {
        let changes = assignments.changes();
        if self.followed == Some(changes) {
            return false;
        }
        self.followed = Some(changes);
        // Forgotten first: a queue that goes takes the callback of its successor with it.
        self.by_assignment
            .retain(|_, queue| queue.assignment.is_open());
        let mut is_split = false;
        for assignment in assignments.open() {
            if !self.by_assignment.contains_key(&assignment.id) {
                is_split |= self.split(consumer, assignment);
            }
        }
        is_split
    }

    fn split(
        &mut self,
        consumer: &Arc<BaseConsumer<GroupContext>>,
        assignment: Arc<Assignment>,
    ) -> bool {
        let (topic, partition) = &assignment.place;
        let Some(mut records) = consumer.split_partition_queue(topic, *partition) else {
            // A name that C cannot hold, which no topic has; its records would come by the main queue.
            return false;
        };
        let (turns, id) = (Arc::clone(&self.turns), assignment.id);
        records.set_nonempty_callback(move || turns.add(id));
        // What it holds by now called nobody.
        self.turns.add(id);
        self.by_assignment.insert(
            id,
            Queue {
                assignment,
                records,
            },
        );
        true
    }

    /// Returns the turn of the queue at hand, or of the next one that may hold records; `None` where none
    /// may.
    pub(crate) fn turn(&mut self) -> Option<Turn<'_>> {
        loop {
            let id = match self.at_hand {
                Some(id) => id,
                None => {
                    self.taken = 0;
                    *self.at_hand.insert(self.turns.next()?)
                }
            };
            // Looked up twice, since what is lent to the caller cannot be given up below.
            if self.by_assignment.contains_key(&id) {
                let queue = self.by_assignment.get(&id)?;
                return Some(Turn {
                    queue,
                    taken: &mut self.taken,
                });
            }
            self.at_hand = None;
        }
    }

    /// Says whether the queue at hand, or the one before it, has a backlog behind it.
    pub(crate) const fn has_backlog(&self) -> bool {
        self.was_long || (self.at_hand.is_some() && self.taken >= BACKLOG)
    }

    /// Ends the turn of the queue at hand: it is empty, and its next record asks for its next turn.
    pub(crate) fn pass(&mut self) {
        self.at_hand = None;
        self.was_long = false;
    }

    /// Ends the turn of the queue at hand, which may hold more.
    pub(crate) fn end_turn(&mut self) {
        if let Some(id) = self.at_hand.take() {
            self.was_long = self.taken >= BACKLOG;
            self.turns.add(id);
        }
    }

    /// Waits until a queue may hold something, at most this long.
    pub(crate) fn wait(&self, patience: Duration) {
        let mut state = self.turns.state.lock();
        if self.at_hand.is_none() && state.assignments.is_empty() && !state.has_event {
            self.turns.added.wait_for(&mut state, patience);
        }
        // What came is taken by the caller's next look.
        state.has_event = false;
    }
}

impl<'q> Turn<'q> {
    /// Returns whose queue it is.
    pub(crate) fn assignment(&self) -> &'q Arc<Assignment> {
        &self.queue.assignment
    }

    /// Returns the next record; `None` where the queue is empty. One that gave enough is waited for, once:
    /// the patience is spent then.
    pub(crate) fn next(
        &mut self,
        patience: &mut Duration,
    ) -> Option<KafkaResult<BorrowedMessage<'q>>> {
        // A poll without a wait has no timer.
        let mut polled = self.queue.records.poll(Duration::ZERO);
        if polled.is_none() && *self.taken >= BACKLOG && !patience.is_zero() {
            polled = self.queue.records.poll(std::mem::take(patience));
        }
        *self.taken += usize::from(polled.is_some());
        polled
    }

    /// Says whether it gave as many records as a turn has, which the caller says, and enough to tell a backlog.
    pub(crate) fn is_over(&self, turn: usize) -> bool {
        *self.taken >= turn.max(BACKLOG)
    }
}
