//! The feed's records as they lie in Kafka: a version, then postcard's encoding of these types.
//!
//! Invariant: these types mirror the domain's and change only together with [`VERSION`]. Deliberately
//! absent: meaning.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Balance, BalanceKey, Entry, FeedError};
use crate::account::{Base, Message, Origin, OriginUse, ReplicaId, Revision, SlotSum};
use crate::hash::Hash128;
use crate::ids::{ChainId, PartNumber};
use crate::policy::CounterKey;
use crate::policy::model::LimitId;
use crate::time::UnixMs;
use crate::units::Units;

/// The version that this program writes and reads.
const VERSION: u8 = 1;

/// Encodes behind the version.
pub(super) fn write<T: Serialize>(value: &T) -> Vec<u8> {
    // These types have no maps without a length and no custom encodings, so nothing can fail; were
    // something to, the reader would refuse the empty record.
    postcard::to_extend(value, vec![VERSION]).unwrap_or_default()
}

/// Decodes what stands behind a known version, all of it.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FeedError> {
    let (version, rest) = bytes.split_first().ok_or(FeedError::Empty)?;
    if *version != VERSION {
        return Err(FeedError::Version(*version));
    }
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(FeedError::Malformed),
    }
}

/// Decodes the fields that a frame begins with.
pub(super) fn read_head(bytes: &[u8]) -> Result<(ReplicaId, UnixMs), FeedError> {
    let (version, rest) = bytes.split_first().ok_or(FeedError::Empty)?;
    if *version != VERSION {
        return Err(FeedError::Version(*version));
    }
    let head = postcard::take_from_bytes::<(u64, i64)>(rest);
    let ((replica, at), _) = head.map_err(|_malformed| FeedError::Malformed)?;
    Ok((ReplicaId(replica), instant(at)?))
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum OriginWire {
    Chain(i32),
    Replica(u64),
    Opening,
    Adjustment,
}

impl OriginWire {
    const fn of(origin: Origin) -> Self {
        match origin {
            Origin::Chain(ChainId(chain)) => Self::Chain(chain),
            Origin::Replica(ReplicaId(replica)) => Self::Replica(replica),
            Origin::Opening => Self::Opening,
            Origin::Adjustment => Self::Adjustment,
        }
    }

    const fn take(self) -> Origin {
        match self {
            Self::Chain(chain) => Origin::Chain(ChainId(chain)),
            Self::Replica(replica) => Origin::Replica(ReplicaId(replica)),
            Self::Opening => Origin::Opening,
            Self::Adjustment => Origin::Adjustment,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Key {
    Account([u8; 16], [u8; 16], OriginWire),
    Mark(i32),
}

impl Key {
    pub(super) const fn of(key: &BalanceKey) -> Self {
        match key {
            BalanceKey::Account {
                limit,
                counter,
                origin,
            } => Self::Account(
                limit.0.to_bytes(),
                counter.0.to_bytes(),
                OriginWire::of(*origin),
            ),
            BalanceKey::Mark(ChainId(chain)) => Self::Mark(*chain),
        }
    }

    pub(super) const fn take(self) -> BalanceKey {
        match self {
            Self::Account(limit, counter, origin) => BalanceKey::Account {
                limit: LimitId(Hash128::from_bytes(limit)),
                counter: CounterKey(Hash128::from_bytes(counter)),
                origin: origin.take(),
            },
            Self::Mark(chain) => BalanceKey::Mark(ChainId(chain)),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct BaseWire {
    at: i64,
    level: i128,
    included: Vec<(OriginWire, i128)>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct MessageWire {
    origin: OriginWire,
    epoch: i64,
    number: i64,
    total: i128,
    slots: Vec<(i64, i128)>,
    base: Option<BaseWire>,
}

impl MessageWire {
    fn of(message: &Message) -> Self {
        let Message { origin, use_, base } = message;
        let slots = use_.slots().iter();
        Self {
            origin: OriginWire::of(*origin),
            epoch: use_.revision().epoch,
            number: use_.revision().number,
            total: use_.total().get(),
            slots: slots
                .map(|slot| (slot.start.get(), slot.sum.get()))
                .collect(),
            base: base.as_ref().map(|base| BaseWire {
                at: base.at().get(),
                level: base.level(),
                included: included_of(base),
            }),
        }
    }

    fn take(self) -> Result<Message, FeedError> {
        let slots = self.slots.into_iter().map(|(start, sum)| {
            let (start, sum) = (instant(start)?, Units::new(sum));
            Ok(SlotSum { start, sum })
        });
        let slots = slots.collect::<Result<Vec<_>, FeedError>>()?;
        let revision = Revision {
            epoch: self.epoch,
            number: self.number,
        };
        let base = self.base.map(|base| {
            let included = base.included.into_iter();
            let included = included.map(|(origin, held)| (origin.take(), Units::new(held)));
            Ok(Base::new(instant(base.at)?, base.level, included.collect()))
        });
        Ok(Message {
            origin: self.origin.take(),
            use_: OriginUse::new(revision, Units::new(self.total), slots),
            base: base.transpose()?,
        })
    }
}

fn included_of(base: &Base) -> Vec<(OriginWire, i128)> {
    let included = base.included().iter();
    included
        .map(|(origin, held)| (OriginWire::of(*origin), held.get()))
        .collect()
}

#[derive(Serialize, Deserialize)]
pub(super) struct MarkWire {
    chain: i32,
    epoch: i64,
    part: i64,
    watermark: Option<i64>,
    at: i64,
    is_last: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Value {
    Account(MessageWire),
    Mark(MarkWire),
}

impl Value {
    pub(super) fn of(balance: &Balance) -> Self {
        match balance {
            Balance::Account(message) => Self::Account(MessageWire::of(message)),
            Balance::Mark(mark) => Self::Mark(MarkWire {
                chain: mark.chain.0,
                epoch: mark.epoch,
                part: mark.part.0,
                watermark: mark.watermark.map(UnixMs::get),
                at: mark.at.get(),
                is_last: mark.is_last,
            }),
        }
    }

    pub(super) fn take(self) -> Result<Balance, FeedError> {
        match self {
            Self::Account(message) => Ok(Balance::Account(message.take()?)),
            Self::Mark(mark) => Ok(Balance::Mark(super::Mark {
                chain: ChainId(mark.chain),
                epoch: mark.epoch,
                part: PartNumber(mark.part),
                watermark: mark.watermark.map(instant).transpose()?,
                at: instant(mark.at)?,
                is_last: mark.is_last,
            })),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct EntryWire {
    limit: [u8; 16],
    counter: [u8; 16],
    message: MessageWire,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Frame {
    replica: u64,
    at: i64,
    entries: Vec<EntryWire>,
}

impl Frame {
    pub(super) fn of(frame: &super::Frame) -> Self {
        let entries = frame.entries.iter().map(|entry| EntryWire {
            limit: entry.limit.0.to_bytes(),
            counter: entry.counter.0.to_bytes(),
            message: MessageWire::of(&entry.message),
        });
        Self {
            replica: frame.replica.0,
            at: frame.at.get(),
            entries: entries.collect(),
        }
    }

    pub(super) fn take(self) -> Result<super::Frame, FeedError> {
        let entries = self.entries.into_iter().map(|entry| {
            Ok(Entry {
                limit: LimitId(Hash128::from_bytes(entry.limit)),
                counter: CounterKey(Hash128::from_bytes(entry.counter)),
                message: entry.message.take()?,
            })
        });
        Ok(super::Frame {
            replica: ReplicaId(self.replica),
            at: instant(self.at)?,
            entries: entries.collect::<Result<_, FeedError>>()?,
        })
    }
}

fn instant(ms: i64) -> Result<UnixMs, FeedError> {
    UnixMs::new(ms).ok_or(FeedError::Malformed)
}
