//! The heads of chains that Kafka keeps as the metadata of the group's offsets: they lie outside of
//! Postgres, so that whoever rewrites the ledger there must also rewrite them here.
//!
//! Invariant: read before the chains, so that a head is never ahead of the parts by mere time.
//! Deliberately absent: writing them, which is the polling thread's.

use std::collections::BTreeSet;

use domain::hash::Hash256;
use domain::ids::{ChainId, PartNumber, PartRef};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;
use store::audit::{Chain, StoredPart};

use super::report::Findings;
use super::{Places, VerifyError};
use crate::kafka::{ASK_TIMEOUT, LogError, committed_config};

/// A head as Kafka keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The topic and partition whose offset carries it.
    place: String,
    /// The part it names, or what stands there instead.
    told: Result<(PartRef, Hash256), String>,
}

/// Reads the heads of all chains' partitions.
///
/// # Errors
///
/// [`LogError::Unreachable`] where the group's coordinator does not answer.
pub(super) async fn read(places: &Places, chains: &[Chain]) -> Result<Vec<Head>, VerifyError> {
    let partitions: BTreeSet<(String, i32)> = chains
        .iter()
        .filter(|chain| chain.source.is_some())
        .map(|chain| (chain.topic.clone(), chain.partition))
        .collect();
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let kafka = std::sync::Arc::clone(&places.kafka);
    let read = move || {
        let unreachable = |source| LogError::Unreachable {
            brokers: kafka.brokers.clone(),
            source,
        };
        let consumer: BaseConsumer = committed_config(&kafka)
            .create()
            .map_err(LogError::BadSettings)?;
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &partitions {
            list.add_partition(topic, *partition);
        }
        let committed = consumer
            .committed_offsets(list, ASK_TIMEOUT)
            .map_err(unreachable)?;
        let heads = committed.elements().into_iter().filter_map(|element| {
            let metadata = element.metadata();
            let place = format!("{}/{}", element.topic(), element.partition());
            (!metadata.is_empty()).then(|| Head {
                place,
                told: parse(metadata),
            })
        });
        Ok::<_, LogError>(heads.collect())
    };
    Ok(tokio::task::spawn_blocking(read).await??)
}

/// Reads `tollbook/1 chain=<id> part=<number> hash=<64 hexadecimal digits>`.
fn parse(metadata: &str) -> Result<(PartRef, Hash256), String> {
    let read = || {
        let rest = metadata.strip_prefix("tollbook/1 chain=")?;
        let (chain, rest) = rest.split_once(" part=")?;
        let (number, hash) = rest.split_once(" hash=")?;
        let chain = ChainId(chain.parse().ok()?);
        let number = PartNumber(number.parse().ok()?);
        Some((PartRef { chain, number }, hash_of(hash)?))
    };
    read().ok_or_else(|| metadata.chars().take(120).collect())
}

fn hash_of(digits: &str) -> Option<Hash256> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Hash256::from_bytes(bytes))
}

/// Names heads that lead to no chain.
pub(super) fn check_unknown(heads: &[Head], chains: &[Chain], findings: &mut Findings) {
    for head in heads {
        match &head.told {
            Ok((part, _)) if chains.iter().any(|chain| chain.id == part.chain) => {}
            Ok((part, _)) => findings.differs(format!(
                "Kafka keeps part {} of chain {} as the head of {}: the ledger has no such chain",
                part.number.0, part.chain.0, head.place
            )),
            Err(metadata) => findings.differs(format!(
                "the group's offset of {} says {metadata:?}, which is no head of a chain",
                head.place
            )),
        }
    }
}

/// The heads of one chain, compared as its parts pass by.
pub(super) struct ChainHeads<'h> {
    expected: Vec<(PartNumber, Hash256, &'h str)>,
}

impl<'h> ChainHeads<'h> {
    /// Takes those of a chain.
    pub(super) fn of(chain: ChainId, heads: &'h [Head]) -> Self {
        let of_chain = heads.iter().filter_map(|head| match &head.told {
            Ok((part, hash)) if part.chain == chain => {
                Some((part.number, *hash, head.place.as_str()))
            }
            Ok(_) | Err(_) => None,
        });
        Self {
            expected: of_chain.collect(),
        }
    }

    /// Compares a part.
    pub(super) fn check(&mut self, part: &StoredPart, findings: &mut Findings) {
        self.expected.retain(|(number, hash, _)| {
            if *number != part.number {
                return true;
            }
            if *hash == part.hash {
                findings.proved(format!("part {} is the head that Kafka keeps", number.0));
            } else {
                findings.differs(format!(
                    "part {} has the hash {}, but Kafka keeps {hash} as its head",
                    number.0, part.hash
                ));
            }
            false
        });
    }

    /// Names those whose part did not come.
    pub(super) fn finish(self, findings: &mut Findings) {
        for (number, _, place) in self.expected {
            findings.differs(format!(
                "part {} is missing: Kafka keeps it as the head of {place}",
                number.0
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::head_metadata;

    #[test]
    fn heads_are_read_as_the_pipeline_writes_them() {
        let part = PartRef {
            chain: ChainId(7),
            number: PartNumber(42),
        };
        let hash = Hash256::from_bytes(std::array::from_fn(|at| u8::try_from(at).unwrap_or(0)));
        assert_eq!(parse(&head_metadata(part, hash)), Ok((part, hash)));
        for other in [
            "",
            "tollbook/2 chain=1 part=1 hash=00",
            "tollbook/1 chain=1 part=1 hash=0g",
        ] {
            assert_eq!(parse(other), Err(other.to_owned()), "{other}");
        }
    }
}
