//! The feed in Kafka: its two topics, as one source of what is told.
//!
//! Invariant: it tells every record of every partition from where it began, and where it begins anew.
//! Deliberately absent: what becomes of what it tells.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;

use super::kafka::{FeedKafka, Read, TopicReader};
use super::merge::{BalanceFeed, Told, Topic, tell_frame, told_by_record};
use super::{EXCHANGE_BACK_MS, Shared, now};

/// How long one read of the balances waits for records, and how long one of the exchange does; each ends
/// with the first record.
const PATIENCE: Duration = Duration::from_millis(100);

/// One topic of the feed; its `next` blocks the thread that it is called on.
pub(super) struct KafkaFeed {
    topic: Topic,
    reader: TopicReader,
    shared: Arc<Shared>,
    /// How far it reached back, in ms.
    back_ms: i64,
    /// The change of limits that it read everything for.
    limits_seen: u64,
}

impl KafkaFeed {
    pub(super) fn new(
        topic: Topic,
        kafka: &FeedKafka,
        shared: &Arc<Shared>,
    ) -> Result<Self, KafkaError> {
        let name = match topic {
            Topic::Balances => &kafka.balances,
            Topic::Exchange => &kafka.exchange,
        };
        Ok(Self {
            topic,
            reader: TopicReader::new(kafka, name)?,
            shared: Arc::clone(shared),
            back_ms: 0,
            limits_seen: 0,
        })
    }

    /// Reads again what was told of limits that came in force since.
    fn look_at_limits(&mut self) {
        let changes = self.shared.changes_of_limits();
        if self.back_ms > 0 && changes == self.limits_seen {
            return;
        }
        self.limits_seen = changes;
        self.back_ms = match self.topic {
            Topic::Balances => self.shared.longest_short_window_ms(),
            Topic::Exchange => EXCHANGE_BACK_MS,
        };
        self.reader.begin_anew(self.back_ms);
    }
}

impl BalanceFeed for KafkaFeed {
    async fn next(&mut self, told: &mut Vec<Told>) {
        self.look_at_limits();
        let topic = self.topic;
        let own = self.shared.replica;
        let mut exchange = None;
        self.reader
            .read(PATIENCE, now(), |read| match (read, topic) {
                (Read::Begins { partitions }, Topic::Balances) => {
                    told.push(Told::Begins(partitions));
                }
                (Read::Begins { partitions }, Topic::Exchange) => {
                    exchange = Some(partitions);
                    told.push(Told::ExchangeBegins(partitions));
                }
                (
                    Read::Record {
                        partition,
                        key,
                        value,
                    },
                    Topic::Balances,
                ) => {
                    told.push(told_by_record(partition, key, value));
                }
                (
                    Read::Record {
                        partition, value, ..
                    },
                    Topic::Exchange,
                ) => tell_frame(partition, value, own, told),
                (Read::CaughtUp, topic) => told.push(Told::CaughtUp(topic)),
            });
        if let Some(partitions) = exchange {
            self.shared.found_exchange(partitions);
        }
    }
}
