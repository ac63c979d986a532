//! What `doctor` asks the broker.

use ingest::config::KafkaConfig;
use ingest::kafka::{LogError, LogReader, is_compacted};
use service::{Exit, Failure};

use super::Examination;
use crate::config::Settings;
use crate::failure;

/// Looks whether the broker answers, and at each source's topic.
pub(super) async fn examine(settings: &Settings, examination: &mut Examination) {
    let kafka = &settings.config().kafka;
    let what = format!("Kafka at {}", kafka.brokers);
    let place = settings.place("kafka.brokers");
    if kafka
        .properties
        .keys()
        .all(|key| !key.contains("ssl") && key != "security.protocol")
    {
        let is_local = kafka
            .brokers
            .split(',')
            .all(|broker| is_loopback(broker.trim()));
        if !is_local {
            examination.warn(
                &what,
                "is reached without TLS; set kafka.properties.\"security.protocol\" = \"ssl\" or \"sasl_ssl\"",
            );
        }
    }
    for source in &settings.config().ingest.sources {
        match topic(kafka, &source.topic).await {
            Ok(partitions) => examine_topic(examination, kafka, &source.topic, partitions).await,
            Err(Asked::Kafka(LogError::NoTopic(topic))) => examination.fail(
                Exit::Dependency,
                &format!("topic {topic}"),
                &format!(
                    "does not exist on {}; create it, or correct `topic` of its source",
                    kafka.brokers
                ),
            ),
            Err(Asked::Kafka(error)) => {
                examination.stopped("Kafka", &failure::of_log(&error, &place));
                return;
            }
            Err(Asked::Failed(failure)) => {
                examination.stopped("Kafka", &failure);
                return;
            }
        }
    }
}

async fn examine_topic(
    examination: &mut Examination,
    kafka: &KafkaConfig,
    topic: &str,
    partitions: i32,
) {
    let what = format!("topic {topic}");
    match is_compacted(kafka, topic).await {
        Ok(false) => examination.ok(&what, &format!("{partitions} partitions, not compacted")),
        Ok(true) => examination.fail(
            Exit::Configuration,
            &what,
            "is compacted, which removes usage from the log; set its cleanup.policy to delete",
        ),
        Err(error) => examination.warn(
            &what,
            &format!("{partitions} partitions; whether it is compacted could not be read ({error}); allow DescribeConfigs on it"),
        ),
    }
}

/// Why a question to the broker has no answer.
enum Asked {
    Kafka(LogError),
    Failed(Failure),
}

/// Returns the number of partitions; librdkafka blocks, so on a thread of its own.
async fn topic(kafka: &KafkaConfig, topic: &str) -> Result<i32, Asked> {
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || LogReader::new(&kafka)?.partitions(&topic));
    match asked.await {
        Ok(answer) => answer.map_err(Asked::Kafka),
        Err(error) => Err(Asked::Failed(Failure::unexpected(format!(
            "asking Kafka ended early: {error}"
        )))),
    }
}

fn is_loopback(broker: &str) -> bool {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _port)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
