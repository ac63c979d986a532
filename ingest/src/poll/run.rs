//! A run of records: what one partition's queue gives at a time.
//!
//! Invariant: records are folded in the order of their offsets, and those that were polled after their
//! assignment had ended are not.
//! Deliberately absent: whose turn it is (`queues`), and what a record becomes (`batch`).

use std::time::Duration;

use domain::ids::Offset;
use rdkafka::message::{BorrowedMessage, Message};

use crate::assignment::Assignment;
use crate::batch::Batcher;
use crate::observe;
use crate::queues::Turn;

/// Payloads of about so many bytes are polled before they are folded.
const RUN_BYTES_MAX: usize = 1024 * 1024;

/// Why a run of records ended.
pub(super) enum RunEnd {
    /// The queue may hold more.
    More,
    /// The queue is empty, or its assignment has ended.
    Empty,
    /// What the queue holds is not ours to fold.
    NotOurs,
}

/// Folds the next records of a turn, at most so many. They are polled first and folded then: record by record
/// the two took turns in the processor's caches, which cost an eighth more.
pub(super) fn take_run(
    batcher: &mut Batcher,
    turn: &mut Turn<'_>,
    left: &mut usize,
    patience: &mut Duration,
) -> RunEnd {
    let assignment = turn.assignment();
    let mut messages = Vec::new();
    let mut bytes = 0;
    let mut end = RunEnd::More;
    while *left > 0 && bytes < RUN_BYTES_MAX {
        // Looked at first: its queue may hold records of the assignment that reads the partition again.
        if !assignment.is_open() {
            end = RunEnd::Empty;
            break;
        }
        *left -= 1;
        match turn.next(patience) {
            Some(Ok(message)) if admits(assignment, &message) => {
                bytes += message.payload_len();
                messages.push(message);
            }
            Some(Ok(_)) => {
                end = RunEnd::NotOurs;
                break;
            }
            Some(Err(error)) => observe::broker_trouble(&error, "poll"),
            None => {
                end = RunEnd::Empty;
                break;
            }
        }
    }
    batcher.fold_run(assignment, &messages);
    for _ in &messages {
        store::fault::point("poll::after_poll");
    }
    end
}

/// Says whether a message is ours to fold: its assignment is open, and its offset does not lie before
/// what was read.
pub(super) fn admits(assignment: &Assignment, message: &BorrowedMessage<'_>) -> bool {
    if !assignment.is_open() {
        return false;
    }
    if !assignment.read(Offset(message.offset())) {
        observe::went_backwards(assignment, message.offset());
        assignment.end();
        return false;
    }
    true
}
