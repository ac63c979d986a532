//! Telling others what this replica counts: frames to peers each interval, snapshots more slowly.
//!
//! Invariant: what is under way is bounded; while the broker is away changes wait by name and go out
//! with their numbers of then, so nothing grows and nothing old is sent. Where nothing changes, a frame
//! without counters goes out now and then, which comes back and so tells that nothing of peers is
//! missing. Deliberately absent: what peers do with it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use domain::account::{Message, Origin};
use domain::feed::{Balance, BalanceKey, Entry, Frame};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, config::RDKafkaLogLevel};
use service::Shutdown;
use tokio::time::{Instant, sleep};

use super::kafka::{FeedKafka, Telling};
use super::own::{Name, Way};
use super::{Shared, now};
use crate::observe::feed as observe;

/// Bytes of one frame at most; brokers take a million by default.
const FRAME_BYTES_MAX: usize = 900_000;

/// Frames under way at most.
const FRAMES_MAX: usize = 4;

/// Counters of frames that are taken at once.
const ENTRIES_MAX: usize = 20_000;

/// Snapshots under way at most.
const SNAPSHOTS_MAX: usize = 20_000;

/// How often a frame goes out where nothing changed.
const BEAT: Duration = Duration::from_millis(500);

/// How often counters that changed are told on the balances, and how often all are.
const SNAPSHOT: Duration = Duration::from_secs(10);
const SNAPSHOT_ALL: Duration = Duration::from_secs(60);

/// How long the last frame may take at the shutdown.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// What was sent, to be told again where it does not arrive.
#[derive(Debug)]
enum Flight {
    Frame(Vec<Name>),
    Snapshot(Name),
    Tombstone(Name),
}

/// Collects what became of what was sent.
#[derive(Debug, Default)]
struct Landed(Mutex<Vec<(Flight, Option<KafkaError>)>>);

/// The producer's context.
struct Sending(Arc<Landed>);

impl ClientContext for Sending {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Telling.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Telling.error(error, reason);
    }
}

impl ProducerContext for Sending {
    type DeliveryOpaque = Box<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Box<Flight>) {
        let error = result.as_ref().err().map(|(error, _)| error.clone());
        self.0.0.lock().push((*flight, error));
    }
}

/// Sends what this replica counts.
pub(super) struct Exchange {
    shared: Arc<Shared>,
    topics: FeedKafka,
    producer: BaseProducer<Sending>,
    landed: Arc<Landed>,
    frames: usize,
    snapshots: usize,
    beat: Instant,
    /// Counters that stand on the balances and will need a tombstone.
    standing: HashSet<Name, RandomState>,
    /// Those of them that get it now, as many each interval as may be under way.
    to_bury: Vec<Name>,
}

impl Exchange {
    pub(super) fn new(kafka: &FeedKafka, shared: &Arc<Shared>) -> Result<Self, KafkaError> {
        let landed = Arc::new(Landed::default());
        let context = Sending(Arc::clone(&landed));
        Ok(Self {
            shared: Arc::clone(shared),
            topics: kafka.clone(),
            producer: BaseProducer::from_config_and_context(&kafka.sender(), context)?,
            landed,
            frames: 0,
            snapshots: 0,
            beat: Instant::now(),
            standing: HashSet::default(),
            to_bury: Vec::new(),
        })
    }

    /// Sends each interval, until the shutdown; then once more.
    pub(super) async fn keep_sending(mut self, interval: Duration, shutdown: &Shutdown) {
        let (mut changed, mut all) = (Instant::now(), Instant::now());
        while shutdown.unless_requested(sleep(interval)).await.is_some() {
            self.land();
            self.shared.own.gather();
            let frames = self.send_frames();
            let is_all_due = all.elapsed() >= SNAPSHOT_ALL;
            if is_all_due {
                all = Instant::now();
                self.tell_all();
            }
            self.bury();
            let mut snapshots = 0;
            if is_all_due || changed.elapsed() >= SNAPSHOT {
                snapshots = self.send_snapshots();
                // What did not fit goes with the next interval.
                let [_, waiting, _] = self.shared.own.waiting();
                if waiting == 0 {
                    changed = Instant::now();
                }
            }
            observe::sent(frames, snapshots);
            let [frames, snapshots, stored] = self.shared.own.waiting();
            observe::waiting(frames, snapshots, stored);
            self.producer.poll(Duration::ZERO);
        }
        self.say_goodbye();
    }

    /// Sends the last numbers, of which nobody else knows.
    fn say_goodbye(&mut self) {
        self.land();
        self.shared.own.gather();
        self.send_frames();
        self.send_snapshots();
        if let Err(error) = self.producer.flush(LAST_PATIENCE) {
            observe::not_delivered(&error);
        }
    }

    /// Takes note of what became of what was sent.
    fn land(&mut self) {
        self.producer.poll(Duration::ZERO);
        let landed = std::mem::take(&mut *self.landed.0.lock());
        for (flight, error) in landed {
            if let Some(error) = &error {
                observe::not_delivered(error);
            }
            match flight {
                Flight::Frame(names) => {
                    self.frames = self.frames.saturating_sub(1);
                    if error.is_some() {
                        self.shared.own.put_back(Way::Exchange, names);
                    }
                }
                Flight::Snapshot(name) => {
                    self.snapshots = self.snapshots.saturating_sub(1);
                    if error.is_some() {
                        self.shared.own.put_back(Way::Balances, [name]);
                    }
                }
                Flight::Tombstone(name) => {
                    self.snapshots = self.snapshots.saturating_sub(1);
                    if error.is_some() {
                        self.standing.insert(name);
                    }
                }
            }
        }
    }

    /// Sends frames of what waits, or one without counters where it is time; returns how many.
    fn send_frames(&mut self) -> u64 {
        let partitions = self.shared.exchange_partitions();
        let mut sent = 0;
        let Some(first) = partitions.clone().next() else {
            return sent;
        };
        while self.frames < FRAMES_MAX {
            let entries = self.shared.own.take(Way::Exchange, ENTRIES_MAX);
            if entries.is_empty() {
                break;
            }
            let mut chunks = chunks(entries).into_iter();
            while let Some(chunk) = chunks.next() {
                if !self.send_frame(first, chunk) {
                    // What cannot be sent now waits for the next interval, or this would not end.
                    let rest = chunks.flatten();
                    let rest = rest.map(|entry| (entry.limit, entry.counter));
                    self.shared.own.put_back(Way::Exchange, rest);
                    return sent;
                }
                sent += 1;
            }
        }
        if self.frames < FRAMES_MAX && self.beat.elapsed() >= BEAT {
            self.beat = Instant::now();
            for partition in partitions {
                if !self.send_frame(partition, Vec::new()) {
                    break;
                }
            }
        }
        sent
    }

    /// Sends a frame; says whether it is under way. Where it is not, its counters wait again.
    fn send_frame(&mut self, partition: i32, entries: Vec<Entry>) -> bool {
        let names = entries
            .iter()
            .map(|entry| (entry.limit, entry.counter))
            .collect();
        let frame = Frame {
            replica: self.shared.replica,
            at: now(),
            entries,
        };
        let value = frame.to_bytes();
        let flight = Box::new(Flight::Frame(names));
        let record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&self.topics.exchange, flight)
            .partition(partition)
            .payload(&value);
        match self.producer.send(record) {
            Ok(()) => {
                self.frames = self.frames.saturating_add(1);
                true
            }
            Err((error, record)) => {
                observe::not_delivered(&error);
                if let Flight::Frame(names) = *record.delivery_opaque {
                    self.shared.own.put_back(Way::Exchange, names);
                }
                false
            }
        }
    }

    /// Sends snapshots of what waits, as many as may be under way; returns how many.
    fn send_snapshots(&mut self) -> u64 {
        let room = SNAPSHOTS_MAX.saturating_sub(self.snapshots);
        let mut sent = 0;
        let mut entries = self.shared.own.take(Way::Balances, room).into_iter();
        for entry in entries.by_ref() {
            let name = (entry.limit, entry.counter);
            let value = Balance::Account(entry.message).to_bytes();
            if !self.send_balance(Flight::Snapshot(name), name, Some(&value)) {
                self.shared.own.put_back(Way::Balances, [name]);
                break;
            }
            self.standing.insert(name);
            sent += 1;
        }
        let rest = entries.map(|entry| (entry.limit, entry.counter));
        self.shared.own.put_back(Way::Balances, rest);
        sent
    }

    /// Has all live counters told again, and those taken back that are over.
    fn tell_all(&mut self) {
        let live = self.shared.own.tell_all();
        let over = self.standing.iter().filter(|name| !live.contains(*name));
        self.to_bury = over.copied().collect();
    }

    /// Takes back counters that are over.
    fn bury(&mut self) {
        while self.snapshots < SNAPSHOTS_MAX
            && let Some(name) = self.to_bury.pop()
        {
            // It may have come again since.
            if self.shared.own.has_own(name) {
                continue;
            }
            if !self.send_balance(Flight::Tombstone(name), name, None) {
                self.to_bury.push(name);
                break;
            }
            self.standing.remove(&name);
        }
    }

    fn send_balance(&mut self, flight: Flight, name: Name, value: Option<&[u8]>) -> bool {
        let (limit, counter) = name;
        let origin = Origin::Replica(self.shared.replica);
        let key = BalanceKey::Account {
            limit,
            counter,
            origin,
        };
        let key = key.to_bytes();
        let mut record =
            BaseRecord::<[u8], [u8], _>::with_opaque_to(&self.topics.balances, Box::new(flight))
                .key(&key);
        if let Some(value) = value {
            record = record.payload(value);
        }
        match self.producer.send(record) {
            Ok(()) => {
                self.snapshots = self.snapshots.saturating_add(1);
                true
            }
            Err((error, _)) => {
                let is_full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                if !is_full {
                    observe::not_delivered(&error);
                }
                false
            }
        }
    }
}

/// Cuts what waits into frames that brokers take.
fn chunks(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0_usize);
    for entry in entries {
        let size = bytes_max(&entry.message);
        if bytes.saturating_add(size) > FRAME_BYTES_MAX && !chunk.is_empty() {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes = bytes.saturating_add(size);
        chunk.push(entry);
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// Returns how many bytes an entry takes at most.
fn bytes_max(message: &Message) -> usize {
    // Variable-length integers: 10 bytes of 64 bits, 19 of 128. A slot is one of each; what a base holds
    // of an origin is an origin and one of 128; all else is less than 160.
    let slots = message.use_.slots().len().saturating_mul(29);
    let included = message
        .base
        .as_ref()
        .map_or(0, |base| base.included().len());
    160_usize
        .saturating_add(slots)
        .saturating_add(included.saturating_mul(31))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::account::{OriginUse, ReplicaId, Revision, SlotSum};
    use domain::hash::Hash128;
    use domain::policy::model::LimitId;
    use domain::policy::{CounterKey, compile, read};
    use domain::request::Request;
    use domain::time::UnixMs;
    use domain::units::Units;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Ask, Engine, PoliciesInForce};

    const POLICY: &str = "
name: pace
limits: [{ name: app, meter: requests, limit: 9, per: [app], window: { calendar: day } }]
";

    fn spend(engine: &Engine, app: &str) {
        let request = Request {
            app: Some(app),
            ..Request::default()
        };
        let ask = Ask {
            request,
            ..Ask::default()
        };
        drop(engine.decide(&ask, now()));
    }

    /// Sends to nobody, and its producer takes one message.
    fn exchange_of_one() -> (Arc<Engine>, Exchange) {
        let replica = ReplicaId(1);
        let engine = Arc::new(Engine::new(replica, 8));
        engine.swap(PoliciesInForce {
            set: compile(read("test.yaml", POLICY).unwrap()).unwrap(),
            ..PoliciesInForce::default()
        });
        let kafka = FeedKafka {
            brokers: "127.0.0.1:1".to_owned(),
            balances: "balances".to_owned(),
            exchange: "exchange".to_owned(),
            properties: BTreeMap::new(),
        };
        let shared = Arc::new(Shared::new(&engine, replica, |_| false));
        shared.found_exchange(1);
        let mut exchange = Exchange::new(&kafka, &shared).unwrap();
        let mut config = kafka.sender();
        config.set("queue.buffering.max.messages", "1");
        let context = Sending(Arc::clone(&exchange.landed));
        exchange.producer = BaseProducer::from_config_and_context(&config, context).unwrap();
        (engine, exchange)
    }

    #[test]
    fn what_the_producer_does_not_take_waits_for_the_next_interval() {
        let (engine, mut exchange) = exchange_of_one();
        for (app, frames, waiting) in [("a", 1, 0), ("b", 0, 1), ("c", 0, 2)] {
            spend(&engine, app);
            exchange.shared.own.gather();
            assert_eq!(exchange.send_frames(), frames, "{app}: one fits");
            assert_eq!(exchange.shared.own.waiting()[0], waiting, "{app}: the rest");
        }
    }

    fn entry(number: u8, slots: usize) -> Entry {
        let hash = Hash128::from_bytes([number; 16]);
        let revision = Revision {
            epoch: i64::MAX,
            number: i64::MAX,
        };
        let slot = |start: usize| SlotSum {
            start: UnixMs::LAST.saturating_add_ms(-i64::try_from(start).unwrap()),
            sum: Units::new(i128::MAX),
        };
        let slots = (0..slots).map(slot).collect();
        Entry {
            limit: LimitId(hash),
            counter: CounterKey(hash),
            message: Message {
                origin: Origin::Replica(ReplicaId(u64::MAX)),
                use_: OriginUse::new(revision, Units::new(i128::MIN), slots),
                base: None,
            },
        }
    }

    fn frame_of(entries: Vec<Entry>) -> Frame {
        Frame {
            replica: ReplicaId(u64::MAX),
            at: UnixMs::LAST,
            entries,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn frames_hold_everything_and_fit(slots in prop::collection::vec(0_usize..64, 0..2_000)) {
            let entries: Vec<_> = slots.iter().map(|slots| entry(1, *slots)).collect();
            let chunks = chunks(entries.clone());
            prop_assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
            for chunk in &chunks {
                let bytes = frame_of(chunk.clone()).to_bytes();
                prop_assert!(bytes.len() < 950_000, "{}", bytes.len());
            }
            let all: Vec<_> = chunks.into_iter().flatten().collect();
            prop_assert_eq!(all, entries);
        }
    }

    #[test]
    fn the_bound_of_an_entry_holds() {
        let entry = entry(255, 64);
        let alone = frame_of(vec![entry.clone()]).to_bytes().len();
        assert!(alone <= bytes_max(&entry.message) + 32, "{alone} bytes");
    }
}
