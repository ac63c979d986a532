//! A real Kafka: one `KRaft` node from Maven Central's jars, on free ports of 127.0.0.1.
//!
//! Invariant: the shared broker is never stopped by a test; a test that stops or restarts one starts
//! its own. Topics are made on purpose, never by asking for one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rustix::process::Signal;

use super::children::{Child, DeathSignal, Program, free_port};
use super::database::RUNTIME;
use super::{folders, wait};

/// How long a broker may take to start while other tests keep both cores busy.
const START: Duration = Duration::from_secs(120);

/// How long one request to the broker may take.
const REQUEST: Duration = Duration::from_secs(30);

/// The version that `scripts/kafka/pom.xml` names.
const VERSION: &str = "4.1.0";

/// A Kafka broker.
pub struct Kafka {
    port: u16,
    folder: PathBuf,
    machine: Vec<String>,
    child: Mutex<Option<Child>>,
}

static SHARED: OnceLock<Arc<Kafka>> = OnceLock::new();
static TOPICS: AtomicU32 = AtomicU32::new(0);

impl Kafka {
    /// Returns the broker that tests share.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        Arc::clone(SHARED.get_or_init(|| Self::made("kafka", small_machine(768))))
    }

    /// Makes and starts a broker of a test's own, with a small heap.
    #[must_use]
    pub fn private(name: &str) -> Arc<Self> {
        Self::made(name, small_machine(256))
    }

    /// Makes and starts a broker by these options of the Java machine: a benchmark's broker runs as a
    /// user's does.
    #[must_use]
    pub fn on_machine(name: &str, options: &[&str]) -> Arc<Self> {
        Self::made(
            name,
            options.iter().map(|&option| option.to_owned()).collect(),
        )
    }

    fn made(name: &str, machine: Vec<String>) -> Arc<Self> {
        let broker = Self {
            port: free_port(),
            folder: folders::make(name),
            machine,
            child: Mutex::new(None),
        };
        broker.format();
        broker.start();
        Arc::new(broker)
    }

    fn format(&self) {
        let settings = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             log.dirs={folder}/data\nauto.create.topics.enable=false\nnum.partitions=1\n\
             offsets.topic.num.partitions=1\noffsets.topic.replication.factor=1\n\
             transaction.state.log.num.partitions=1\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\nlog.segment.delete.delay.ms=1000\n\
             message.max.bytes=67108864\nsocket.request.max.bytes=104857600\n",
            port = self.port,
            controller = free_port(),
            folder = self.folder.display(),
        );
        std::fs::write(self.settings(), settings).unwrap();
        let cluster = [
            "format",
            "--cluster-id",
            "dG9sbGJvb2stdGVzdHMtMQ",
            "--config",
        ];
        let mut arguments: Vec<String> = cluster.map(str::to_owned).to_vec();
        arguments.push(self.settings().display().to_string());
        let formatted = self.java("format", "kafka.tools.StorageTool", arguments);
        let status = formatted.wait(START);
        assert!(
            status.success(),
            "Kafka cannot format its folder\n{}",
            formatted.log()
        );
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    fn java(&self, name: &str, class: &str, arguments: Vec<String>) -> Child {
        let class_path = format!("{}/*", jars().display());
        let mut all = self.machine.clone();
        all.extend(["-cp".to_owned(), class_path, class.to_owned()]);
        all.extend(arguments);
        let program = Program {
            name: name.to_owned(),
            path: PathBuf::from("java"),
            arguments: all,
            environment: Vec::new(),
            account: None,
            death_signal: DeathSignal::Kill,
            logs: self.folder.clone(),
        };
        program.start()
    }

    /// Starts the broker and waits until it answers.
    pub fn start(&self) {
        let settings = self.settings().display().to_string();
        let child = self.java("kafka", "kafka.Kafka", vec![settings]);
        let client: BaseConsumer = self.client().create().unwrap();
        wait::until("Kafka answers", START, || {
            assert!(child.ended().is_none(), "Kafka ended\n{}", child.log());
            client.fetch_metadata(None, Duration::from_secs(2)).ok()
        });
        *self.child.lock() = Some(child);
    }

    /// Stops the broker: SIGTERM for a clean shutdown, SIGKILL for a crash.
    pub fn stop(&self, signal: Signal) {
        let child = self.child.lock().take().expect("the broker runs");
        child.signal(signal);
        let _status = child.wait(START);
    }

    /// Returns its address, as `bootstrap.servers` wants it.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the settings every client needs.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        config.set("log_level", "2");
        config.set("reconnect.backoff.max.ms", "500");
        config
    }

    /// Returns a name that no other topic has.
    #[must_use]
    pub fn unused_topic(&self, name: &str) -> String {
        let number = TOPICS.fetch_add(1, Ordering::Relaxed);
        format!(
            "usage.{}.{number}",
            name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
        )
    }

    /// Makes a topic and waits until the broker lists all its partitions.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let made = RUNTIME
            .block_on(self.admin().create_topics([&topic], &options()))
            .unwrap();
        for result in made {
            result.unwrap_or_else(|(topic, code)| panic!("cannot make topic {topic}: {code}"));
        }
        self.await_partitions(name, partitions);
    }

    /// Deletes a topic and waits until the broker no longer lists it.
    pub fn delete_topic(&self, name: &str) {
        let deleted = RUNTIME
            .block_on(self.admin().delete_topics(&[name], &options()))
            .unwrap();
        for result in deleted {
            result.unwrap_or_else(|(topic, code)| panic!("cannot delete {topic}: {code}"));
        }
        self.await_partitions(name, 0);
    }

    /// Adds partitions to a topic, up to this number.
    pub fn add_partitions(&self, name: &str, partitions: i32) {
        let count = usize::try_from(partitions).unwrap();
        let more = NewPartitions::new(name, count);
        let added = RUNTIME
            .block_on(self.admin().create_partitions([&more], &options()))
            .unwrap();
        for result in added {
            result.unwrap_or_else(|(topic, code)| panic!("cannot widen {topic}: {code}"));
        }
        self.await_partitions(name, partitions);
    }

    /// Deletes the records of a partition below an offset: the log then starts there.
    pub fn delete_records_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .unwrap();
        let deleted = RUNTIME
            .block_on(self.admin().delete_records(&list, &options()))
            .unwrap();
        for element in deleted.elements() {
            element
                .error()
                .unwrap_or_else(|error| panic!("cannot delete records: {error}"));
        }
    }

    /// Sets a consumer group's committed offset, as an operator might; the group must be empty.
    pub fn reset_group(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .unwrap();
        consumer
            .commit(&list, rdkafka::consumer::CommitMode::Sync)
            .unwrap();
    }

    /// Returns a group's committed offset and its metadata.
    #[must_use]
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let committed = consumer.committed_offsets(list, REQUEST).unwrap();
        let element = committed.find_partition(topic, partition)?;
        match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        }
    }

    /// Returns a partition's first offset and its end.
    #[must_use]
    pub fn watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        let consumer: BaseConsumer = self.client().create().unwrap();
        consumer
            .fetch_watermarks(topic, partition, REQUEST)
            .unwrap()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    fn await_partitions(&self, name: &str, partitions: i32) {
        let wanted = usize::try_from(partitions).unwrap();
        let what = format!("topic {name} has {partitions} partitions");
        let client: BaseConsumer = self.client().create().unwrap();
        wait::until_true(&what, REQUEST, || {
            let Ok(metadata) = client.fetch_metadata(None, REQUEST) else {
                return false;
            };
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            let led = |topic: &rdkafka::metadata::MetadataTopic| {
                topic
                    .partitions()
                    .iter()
                    .filter(|partition| partition.leader() >= 0)
                    .count()
            };
            topic.map_or(0, led) == wanted
        });
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(REQUEST))
        .operation_timeout(Some(REQUEST))
}

/// Returns options by which many brokers fit onto a small machine, and start soon.
fn small_machine(heap_mb: u32) -> Vec<String> {
    let heap = format!("-Xmx{heap_mb}m");
    let options = [
        heap.as_str(),
        "-Xms64m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
    ];
    options.map(str::to_owned).to_vec()
}

/// Stops the shared broker, if it was started.
pub fn stop_shared() {
    if let Some(broker) = SHARED.get()
        && let Some(child) = broker.child.lock().take()
    {
        child.kill();
    }
}

/// Returns the folder of Kafka's jars: `TOLLBOOK_KAFKA_LIBS`, else where `make setup` puts them,
/// filled by Maven when they are not there.
fn jars() -> &'static Path {
    static JARS: OnceLock<PathBuf> = OnceLock::new();
    JARS.get_or_init(|| {
        if let Some(given) = std::env::var_os("TOLLBOOK_KAFKA_LIBS") {
            return PathBuf::from(given);
        }
        let libs = folders::built().join(format!("../kafka-{VERSION}"));
        if !libs.join(format!("kafka-clients-{VERSION}.jar")).exists() {
            fetch_jars(&libs);
        }
        libs.canonicalize().unwrap()
    })
}

fn fetch_jars(libs: &Path) {
    let status = Command::new("mvn")
        .args([
            "-q",
            "-B",
            "-f",
            "scripts/kafka/pom.xml",
            "dependency:copy-dependencies",
        ])
        .args([
            "-DincludeScope=runtime",
            &format!("-DoutputDirectory={}", libs.display()),
        ])
        .current_dir(folders::workspace())
        .status()
        .expect("Kafka's jars come through Maven: install maven");
    assert!(status.success(), "mvn could not fetch Kafka's jars");
}
