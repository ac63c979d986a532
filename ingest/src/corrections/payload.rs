//! The whole payload of a rejected event whose kept one was cut: read again from the log.
//!
//! Invariant: bytes are returned only where their hash is the one that was kept, so they are the
//! event's own. Deliberately absent: what they mean.

use std::sync::Arc;

use domain::hash::Hash128;
use domain::ids::Offset;
use store::Database;
use store::adjust::OpenRejection;
use store::audit::{self, Chain};

use super::{CorrectionError, Retryable};
use crate::config::KafkaConfig;
use crate::decode::Decoder;
use crate::headers::Headers;
use crate::kafka::LogError;
use crate::verify::chain::is_latest;
use crate::verify::log::{Held, PartitionLog, held};

/// Finds whole payloads; remembers what each chain's log still holds.
pub(crate) struct Payloads {
    kafka: Arc<KafkaConfig>,
    chains: Vec<Chain>,
    held: Vec<(domain::ids::ChainId, Held)>,
}

impl Payloads {
    /// Looks at the chains as they are now.
    ///
    /// # Errors
    ///
    /// A [`CorrectionError`] where Postgres cannot be read.
    pub(crate) async fn new(db: &Database, kafka: &KafkaConfig) -> Result<Self, CorrectionError> {
        Ok(Self {
            kafka: Arc::new(kafka.clone()),
            chains: audit::chains(db).await?,
            held: Vec::new(),
        })
    }

    /// Returns the event with all of its bytes, or in words why they cannot be had.
    ///
    /// # Errors
    ///
    /// A [`CorrectionError`] where Kafka does not answer.
    pub(crate) async fn whole(
        &mut self,
        open: &OpenRejection,
        decoder: &Decoder,
    ) -> Result<Result<Retryable, String>, CorrectionError> {
        let event = &open.event;
        let with = |payload: Vec<u8>| Retryable {
            chain: open.chain,
            place: event.place,
            record_time: event.record_time,
            reason: event.rejection.reason,
            payload,
        };
        if !open.is_cut() {
            return Ok(Ok(with(event.payload.clone())));
        }
        let refused = |why: &str| {
            let (kept, bytes) = (event.payload.len(), event.payload_bytes);
            format!("only the first {kept} of its {bytes} bytes were kept, and {why}")
        };
        let at = event.place.offset;
        match self.held(open).await? {
            Held::From(start) if start <= at => {}
            Held::From(_) => return Ok(Err(refused("the log has dropped its record"))),
            Held::Nothing(why) => return Ok(Err(refused(&why))),
        }
        Ok(match self.record(open).await? {
            Some((headers, record)) => own_bytes(&headers, &record, open, decoder)
                .map(with)
                .ok_or_else(|| refused("the record at its offset holds other bytes")),
            None => Err(refused("the log has no record at its offset any more")),
        })
    }

    /// Says what the chain's log still has.
    async fn held(&mut self, open: &OpenRejection) -> Result<Held, CorrectionError> {
        if let Some((_, known)) = self.held.iter().find(|(chain, _)| *chain == open.chain) {
            return Ok(known.clone());
        }
        let Some(chain) = self.chains.iter().find(|chain| chain.id == open.chain) else {
            return Ok(Held::Nothing("its chain is missing".to_owned()));
        };
        let (kafka, owned) = (Arc::clone(&self.kafka), chain.clone());
        let is_latest = is_latest(&self.chains, chain);
        let look = move || held(&kafka, &owned, is_latest);
        let found = tokio::task::spawn_blocking(look).await??;
        self.held.push((open.chain, found.clone()));
        Ok(found)
    }

    /// Reads the record at the event's offset.
    async fn record(
        &self,
        open: &OpenRejection,
    ) -> Result<Option<(Headers, Vec<u8>)>, CorrectionError> {
        let kafka = Arc::clone(&self.kafka);
        let (topic, partition) = (open.address.topic.clone(), open.address.partition);
        let at = open.event.place.offset;
        let read = move || read_one(&kafka, &topic, partition, at);
        Ok(tokio::task::spawn_blocking(read).await??)
    }
}

fn read_one(
    kafka: &KafkaConfig,
    topic: &str,
    partition: i32,
    at: Offset,
) -> Result<Option<(Headers, Vec<u8>)>, LogError> {
    let mut log = PartitionLog::open(kafka, topic, partition, at)?;
    let mut found = None;
    let read = log.read_until(at.next(), &mut |record, headers, payload| {
        if record.offset == at {
            found = payload.map(|payload| (headers.clone(), payload.to_vec()));
        }
    })?;
    Ok(read.ok().and(found))
}

/// Returns the event's own bytes within its record: the value, the value without white space around
/// it, the element that stands at its index, or what headers and value are as one event.
fn own_bytes(
    headers: &Headers,
    record: &[u8],
    open: &OpenRejection,
    decoder: &Decoder,
) -> Option<Vec<u8>> {
    let wanted = open.event.payload_digest;
    for whole in [record, record.trim_ascii()] {
        if Hash128::of(whole) == wanted {
            return Some(whole.to_vec());
        }
    }
    let mut found = None;
    decoder.decode_record(headers, Some(record), &mut |index, bytes, _| {
        if index == open.event.place.index && Hash128::of(bytes) == wanted {
            found = Some(bytes.to_vec());
        }
    });
    found
}
