//! The group's callbacks: partitions are claimed when they are assigned, and ended when revoked.
//!
//! Invariant: a partition is read only from the offset of its claim; a revocation touches the listed
//! partitions alone. The callbacks run on the polling thread, within a poll.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use tokio::time::Instant;

use crate::assignment::Assignments;
use crate::kafka::TopicPartition;
use crate::observe;
use crate::opening::{Opened, Opener};

/// How long one rebalance waits for all its claims before partitions are left waiting; far below
/// librdkafka's `max.poll.interval.ms` of 5 minutes.
const CLAIMS_PATIENCE: Duration = Duration::from_secs(10);

/// How long a revocation waits for the transaction in hand.
const REVOKE_PATIENCE: Duration = Duration::from_secs(2);

/// How long leaving the group may take: librdkafka can wait for a coordinator that is away.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// Claims and releases partitions when the group says so.
pub(crate) struct GroupContext {
    /// Opens partitions that the group gives us.
    pub(crate) opener: Arc<Opener>,
    /// What the group gave us.
    pub(crate) assignments: Arc<Assignments>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        observe::librdkafka(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        observe::broker_trouble(&error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => self.assign(list),
            Rebalance::Revoke(list) => self.revoke(list, consumer.assignment_lost()),
            Rebalance::Error(error) => observe::broker_trouble(error, "rebalance"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(_) = rebalance {
            let waiting = self.assignments.waiting();
            pause(consumer, &waiting);
        }
    }
}

impl GroupContext {
    fn assign(&self, list: &TopicPartitionList) {
        let deadline = Instant::now() + CLAIMS_PATIENCE;
        for mut element in list.elements() {
            let place: TopicPartition = (Arc::from(element.topic()), element.partition());
            let opened = if Instant::now() < deadline {
                self.opener.open(&place, deadline)
            } else {
                Opened::Later
            };
            let offset = match opened {
                Opened::Ready(assignment) => {
                    let start = assignment.start;
                    self.assignments.open_with(assignment);
                    RawOffset::Offset(start.0)
                }
                Opened::Stopped | Opened::Later => {
                    self.assignments.wait(place);
                    RawOffset::End
                }
            };
            if let Err(error) = element.set_offset(offset) {
                observe::broker_trouble(&error, "offset of an assigned partition");
            }
        }
    }

    fn revoke(&self, list: &TopicPartitionList, is_lost: bool) {
        let places = list
            .elements()
            .into_iter()
            .map(|e| (Arc::<str>::from(e.topic()), e.partition()));
        let ended: Vec<_> = places
            .filter_map(|place| self.assignments.remove(&place))
            .collect();
        for assignment in &ended {
            assignment.end();
            observe::revoked(assignment);
        }
        // A lost partition has a new owner already: finishing would only be fenced.
        if !is_lost {
            let deadline = Instant::now() + REVOKE_PATIENCE;
            for assignment in &ended {
                assignment.wait_committed(deadline.saturating_duration_since(Instant::now()));
            }
        }
    }
}

/// Stops fetching partitions until they are assigned or resumed again.
pub(crate) fn pause(consumer: &BaseConsumer<GroupContext>, places: &[TopicPartition]) {
    if places.is_empty() {
        return;
    }
    if let Err(error) = consumer.pause(&list_of(places)) {
        observe::broker_trouble(&error, "pause");
    }
}

/// Lists partitions as librdkafka takes them.
pub(crate) fn list_of(places: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    list
}

/// Leaves the group; where that does not end in time, the group finds out by its own time-out, and
/// the process ends all the same.
pub(crate) fn leave(consumer: Arc<BaseConsumer<GroupContext>>) {
    let (left, is_left) = std::sync::mpsc::channel();
    let leaving = std::thread::Builder::new()
        .name("leave".to_owned())
        .spawn(move || {
            consumer.unsubscribe();
            drop(consumer);
            // Nobody waits any more where it took too long.
            left.send(()).unwrap_or_default();
        });
    if leaving.is_ok() {
        is_left.recv_timeout(LEAVE_PATIENCE).unwrap_or_default();
    }
}
