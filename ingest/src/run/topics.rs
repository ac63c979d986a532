//! The topics of a run: that they are there and not compacted, and the ends that a back-fill folds to.
//!
//! Invariant: nothing is folded from a topic that was not looked at first, and a topic that is made
//! after the start is looked at when it is found. Deliberately absent: reading records.

use std::collections::HashMap;
use std::sync::Arc;

use domain::ids::Offset;
use parking_lot::Mutex;
use service::Failure;
use tokio::time::sleep;

use super::{LOOK_INTERVAL, Mode, Run};
use crate::config::KafkaConfig;
use crate::error::IngestError;
use crate::kafka::{LogError, LogReader, is_compacted};
use crate::observe;

impl Run<'_> {
    /// Makes sure that the broker answers and that no topic is compacted; a back-fill also notes the
    /// ends, and does not wait for a topic.
    pub(super) async fn look_at_topics(&mut self) -> Result<(), IngestError> {
        for source in &self.sources {
            let kafka = self.settings.kafka.clone();
            let topic = Arc::clone(&source.topic);
            let ends = tokio::task::spawn_blocking(move || ends_of(&kafka, &topic))
                .await
                .map_err(|_| {
                    IngestError::Task(Failure::unexpected("looking at a topic panicked"))
                })?;
            match ends {
                Ok(ends) => self.ends.push(ends),
                Err(LogError::NoTopic(topic)) if self.mode == Mode::UntilCaughtUp => {
                    let brokers = self.settings.kafka.brokers.clone();
                    return Err(IngestError::MissingTopic { topic, brokers });
                }
                Err(LogError::NoTopic(_)) => {
                    self.ends.push(HashMap::new());
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            if is_compacted(&self.settings.kafka, &source.topic).await? {
                return Err(IngestError::Compacted(source.topic.to_string()));
            }
        }
        Ok(())
    }

    /// Waits until a topic exists, unready until then; ends with an error where it is compacted.
    pub(super) async fn wait_for_topic(
        &self,
        topic: &Arc<str>,
        reader: &Arc<Mutex<LogReader>>,
    ) -> Result<(), IngestError> {
        let mut is_told = false;
        loop {
            let (reader, name) = (Arc::clone(reader), Arc::clone(topic));
            let found = tokio::task::spawn_blocking(move || reader.lock().partitions(&name))
                .await
                .map_err(|_| {
                    IngestError::Task(Failure::unexpected("looking for a topic panicked"))
                })?;
            match found {
                Ok(_) if is_told => match is_compacted(&self.settings.kafka, topic).await {
                    Ok(false) => {
                        observe::topic_found(topic);
                        return Ok(());
                    }
                    Ok(true) => return Err(IngestError::Compacted(topic.to_string())),
                    Err(error) => observe::log_away(&error),
                },
                Ok(_) => return Ok(()),
                Err(LogError::NoTopic(_)) if !is_told => {
                    is_told = true;
                    observe::topic_missing(topic);
                    self.readiness
                        .not_ready(&format!("the topic `{topic}` does not exist yet"));
                }
                Err(LogError::NoTopic(_)) => {}
                Err(error) => observe::log_away(&error),
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until every partition is folded to its end of the start, by whichever process.
    pub(super) async fn catch_up(&self) -> Result<(), IngestError> {
        for (source, ends) in self.sources.iter().zip(&self.ends) {
            loop {
                let positions = match store::watermark::positions(self.database, source.id).await {
                    Ok(positions) => positions,
                    Err(error) if error.is_transient() => {
                        // The pipeline meets the same, and gives up when its patience ends.
                        sleep(LOOK_INTERVAL).await;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                if let Some(stopped) = positions.iter().find(|position| position.is_stopped) {
                    let (topic, partition) = (stopped.topic.clone(), stopped.partition);
                    return Err(IngestError::Stopped { topic, partition });
                }
                let is_folded = |(partition, end): (&i32, &Offset)| {
                    let here = positions.iter().find(|position| {
                        *position.topic == *source.topic && position.partition == *partition
                    });
                    here.is_some_and(|here| here.position.is_some_and(|at| at >= *end))
                };
                if ends.iter().all(is_folded) {
                    break;
                }
                sleep(LOOK_INTERVAL).await;
            }
        }
        Ok(())
    }
}

/// Returns the ends of the partitions that hold records.
fn ends_of(kafka: &KafkaConfig, topic: &str) -> Result<HashMap<i32, Offset>, LogError> {
    let reader = LogReader::new(kafka)?;
    let mut ends = HashMap::new();
    for partition in 0..reader.partitions(topic)? {
        let range = reader.range(topic, partition)?;
        if range.end > range.start {
            ends.insert(partition, range.end);
        }
    }
    Ok(ends)
}
