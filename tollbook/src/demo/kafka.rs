//! A single-node Kafka (`KRaft`) of the demo's own, and the topic that the traffic goes to.
//!
//! Invariant: it listens on the loopback alone and keeps its log in the demo's folder. Deliberately
//! absent: fetching the jars, which `make setup` does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use service::{Exit, Failure};
use tokio::time::{Instant, sleep};

use super::folder::Folder;
use super::guard::{EndSignal, Guard};
use super::process::{self, LOOK_EVERY, Process};

/// The topic that the gateway's log goes to.
pub(super) const TOPIC: &str = "usage.envoy";

/// Enough to see that order across partitions does not matter.
const PARTITIONS: i32 = 3;

/// How long the broker may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(90);

/// A broker that is formatted but not started.
pub(super) struct Formatted {
    java: JavaCommand,
    settings: PathBuf,
    port: u16,
    log: PathBuf,
}

/// A broker that runs.
pub(super) struct Kafka {
    process: Process,
    port: u16,
}

/// How to run one of Kafka's programs.
#[derive(Debug, Clone)]
struct JavaCommand {
    class_path: PathBuf,
}

impl JavaCommand {
    fn find(libraries: Option<&Path>) -> Result<Self, Failure> {
        let libraries = libraries.filter(|folder| folder.is_dir()).ok_or_else(|| {
            Failure::new(
                Exit::Configuration,
                "the folder of Kafka's jars is not there: run `make demo`, which fetches them, or \
                 name one with --kafka-libs",
            )
        })?;
        Ok(Self {
            class_path: libraries.join("*"),
        })
    }

    fn main(&self, class: &str) -> Command {
        let mut command = Command::new("java");
        command
            // Quick to start and small, as befits one broker for one demo.
            .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .arg("-cp")
            .arg(&self.class_path)
            .arg(class);
        command
    }
}

impl Formatted {
    /// Writes the settings and formats the broker's storage.
    ///
    /// # Errors
    ///
    /// There are no jars or no Java, or formatting fails.
    pub(super) async fn make(folder: &Folder, libraries: Option<&Path>) -> Result<Self, Failure> {
        let java = JavaCommand::find(libraries)?;
        let port = process::free_port()?;
        let home = folder.private("kafka")?;
        let text = settings(&home, port, process::free_port()?);
        let settings = folder.write("kafka.properties", &text)?;
        let mut format = java.main("kafka.tools.StorageTool");
        format
            .args([
                "format",
                "--cluster-id",
                "dG9sbGJvb2stZGVtby0wMQ",
                "--config",
            ])
            .arg(&settings);
        process::run(
            "Kafka's storage tool",
            format,
            &folder.path().join("kafka-format.log"),
        )
        .await?;
        Ok(Self {
            java,
            settings,
            port,
            log: folder.path().join("kafka.log"),
        })
    }

    /// Starts the broker, announced to the guard; it need not answer yet.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(super) fn start(self, guard: &mut Guard) -> Result<Kafka, Failure> {
        let mut command = self.java.main("kafka.Kafka");
        command.arg(&self.settings);
        let process = Process::start("kafka", command, EndSignal::Terminate, self.log, guard)?;
        Ok(Kafka {
            process,
            port: self.port,
        })
    }
}

impl Kafka {
    /// Returns the address for clients.
    pub(super) fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Waits until the broker has made the topic.
    ///
    /// # Errors
    ///
    /// It ended, refuses the topic, or does not answer in time.
    pub(super) async fn ready(&mut self) -> Result<(), Failure> {
        let client: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "200")
            // A broker that is still starting is no news.
            .set("log_level", "0")
            .create()
            .map_err(|error| unusable(&error))?;
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = self.process.ended() {
                return Err(self.process.failure(status));
            }
            match make_topic(&client).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(unusable(&error)),
                Err(_not_yet) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Returns the failure of a broker that has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        self.process
            .ended()
            .map_or(Ok(()), |status| Err(self.process.failure(status)))
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// It cannot be waited for.
    pub(super) async fn end(self, guard: &mut Guard) -> Result<(), Failure> {
        self.process.end(guard).await
    }
}

/// Asks for the topic; that it exists already, from an answer that was lost, is as good.
async fn make_topic(client: &AdminClient<DefaultClientContext>) -> Result<(), KafkaError> {
    let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
    let patience = Some(Duration::from_secs(5));
    let options = AdminOptions::new()
        .request_timeout(patience)
        .operation_timeout(patience);
    let answers = client.create_topics([&topic], &options).await?;
    for answer in answers {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code)),
        }
    }
    Ok(())
}

fn unusable(error: &KafkaError) -> Failure {
    Failure::new(
        Exit::Dependency,
        format!("the demo's Kafka does not answer: {error}"),
    )
}

/// Returns the broker's settings: broker and controller in one process, nothing replicated.
fn settings(home: &Path, port: u16, controller_port: u16) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller_port}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\n\
         auto.create.topics.enable=false\n\
         group.initial.rebalance.delay.ms=0\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n",
        home.join("log").display()
    )
}
