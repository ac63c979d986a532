//! What the polling thread does now and then: heads to the group, partitions that wait, markers at rest.
//!
//! Invariant: nothing here takes a record. Deliberately absent: when a batch is handed over (`poll`).

use std::sync::Arc;

use domain::ids::Offset;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use tokio::time::Instant;

use super::{CHORES_INTERVAL, Feed, HeadMark, IDLE_INTERVAL, PAUSED_AFTER, Poller};
use crate::assignment::Assignment;
use crate::observe;
use crate::opening::Opened;

impl Poller {
    pub(super) fn do_chores(&mut self) {
        while let Ok(marks) = self.heads.try_recv() {
            self.note_heads(marks);
        }
        if self.batcher.is_empty() && self.idle_at.elapsed() >= IDLE_INTERVAL {
            self.idle_at = Instant::now();
            self.advance_idle();
        }
        let since_chores = self.chores_at.elapsed();
        if since_chores >= CHORES_INTERVAL {
            self.chores_at = Instant::now();
            // A process that was stopped for long first hears from the group what is still its own.
            if since_chores < PAUSED_AFTER {
                self.assignments.take_back(self.given_up_for);
                self.open_waiting();
            }
            // Also those that could not be assigned at the look before.
            self.reassigned_as_of = None;
            self.tell_heads(CommitMode::Async);
            observe::assigned(self.assignments.count(), self.assignments.open().len());
        }
    }

    pub(super) fn note_heads(&mut self, marks: Vec<HeadMark>) {
        for mark in marks {
            self.untold.insert(mark.place.clone(), mark);
        }
    }

    /// Commits heads to the group: for lag tools, and so that `verify` finds a tampered ledger.
    pub(super) fn tell_heads(&mut self, mode: CommitMode) {
        if self.untold.is_empty() {
            return;
        }
        store::fault::point("commit::before_group_commit");
        let mut list = TopicPartitionList::new();
        for (place, mark) in self.untold.drain() {
            // The successor of a partition that was taken away tells newer heads.
            if !self.assignments.is_ours(&place) {
                continue;
            }
            let mut element = list.add_partition(&mark.place.0, mark.place.1);
            element.set_metadata(mark.metadata.as_str());
            let set: KafkaResult<()> = element.set_offset(RawOffset::Offset(mark.position.0));
            if let Err(error) = set {
                observe::broker_trouble(&error, "offset to commit");
            }
        }
        if let Err(error) = self.consumer.commit(&list, mode) {
            observe::broker_trouble(&error, "group commit");
        }
    }

    /// Tries to claim partitions again that are ours but have no open assignment: those first that were
    /// tried longest ago, for about a second in all.
    fn open_waiting(&mut self) {
        let mut waiting = self.assignments.waiting();
        self.tried.retain(|place, _| waiting.contains(place));
        waiting.sort_by_key(|place| self.tried.get(place).copied());
        let deadline = Instant::now() + CHORES_INTERVAL;
        for place in waiting {
            if Instant::now() >= deadline {
                break;
            }
            self.tried.insert(place.clone(), Instant::now());
            if let Opened::Ready(assignment) = self.opener.open(&place, Instant::now()) {
                self.assignments.claimed(assignment);
            }
        }
    }

    /// Reads an assignment's partition from its start, wherever the consumer stood before; says whether it is
    /// read.
    pub(super) fn read_from_start(&self, assignment: Arc<Assignment>) -> bool {
        let (topic, partition) = &assignment.place;
        let mut list = TopicPartitionList::new();
        let start = RawOffset::Offset(assignment.start.0);
        let reassigned = list
            .add_partition_offset(topic, *partition, start)
            // Refused where an earlier try came only so far.
            .map(|()| drop(self.consumer.incremental_unassign(&list)))
            .and_then(|()| self.consumer.incremental_assign(&list))
            .and_then(|()| self.consumer.resume(&list));
        match reassigned {
            Ok(()) => self.assignments.open_with(assignment),
            Err(error) => {
                observe::broker_trouble(&error, "assigning a partition again");
                return false;
            }
        }
        true
    }

    /// Moves positions over transaction markers at the end of partitions at rest.
    fn advance_idle(&mut self) {
        let Ok(positions) = self.consumer.position() else {
            return;
        };
        let mut idle = Vec::new();
        for element in positions.elements() {
            let RawOffset::Offset(at) = element.offset() else {
                continue;
            };
            let Some(assignment) = self
                .assignments
                .open_at(element.topic(), element.partition())
            else {
                continue;
            };
            let folded = assignment.folded_to();
            if assignment.next_read() <= folded && at > folded.0 {
                idle.push((assignment, Offset(at)));
            }
        }
        if !idle.is_empty() {
            // One at a time, beside which there is room for a batch; a pipeline that is busy is told
            // again later.
            if self.feed.capacity() == self.feed.max_capacity() {
                self.feed.try_send(Feed::Idle(idle)).unwrap_or_default();
            }
        }
    }
}
