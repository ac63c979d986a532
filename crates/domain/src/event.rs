//! The usage event: what one request used, as one gateway logged it, and its identity.
//!
//! Invariant: an event is complete and valid once it exists: ids checked, quantities at most 2⁵³,
//! meters disjoint. Deliberately absent: which format it came from, and what it costs.

use std::fmt;

use highway::HighwayHash as _;

use crate::hash::{Canonical, HashKey};
use crate::ids::{AppId, ModelId, ProviderId, RouteId, SessionId, TenantId, UserId};
use crate::meter::Quantities;
use crate::reject::{Reason, Rejection};
use crate::time::{DAY_MS, UnixMs};

/// What became of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The upstream answered with success.
    Succeeded,
    /// Gateway or upstream refused it: 401, 403, 429.
    Refused,
    /// It failed: any other status of 400 and above.
    Failed,
    /// The client went away, or the stream broke, before the end.
    Aborted,
}

/// Where the event's token counts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// The provider reported them.
    Reported,
    /// The gateway estimated them.
    Estimated,
    /// The message has none.
    Missing,
}

/// The dimensions that an event is posted under; `user` and `session` only where a source names
/// their fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dimensions<'a> {
    /// The organisation.
    pub tenant: TenantId<'a>,
    /// Whose ledger is charged.
    pub app: AppId<'a>,
    /// The person or service behind the request.
    pub user: Option<UserId<'a>>,
    /// The conversation it belongs to.
    pub session: Option<SessionId<'a>>,
    /// The gateway's route; absent where the log has none.
    pub route: Option<RouteId<'a>>,
    /// Who answered; absent where the log does not say.
    pub provider: Option<ProviderId<'a>>,
    /// The model the client asked for.
    pub model: ModelId<'a>,
}

/// What one request used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageEvent<'a> {
    /// What it is posted under.
    pub dimensions: Dimensions<'a>,
    /// The model that answered and so chooses the rates; absent where none answered.
    pub answered_model: Option<ModelId<'a>>,
    /// When the request started; ledgers and calendar windows go by it.
    pub start: UnixMs,
    /// What became of it.
    pub outcome: Outcome,
    /// Where the token counts come from.
    pub provenance: Provenance,
    /// What it used; `requests` is 1.
    pub quantities: Quantities,
    /// By what a repeat is known; `None` where the source is not deduplicated.
    pub identity: Option<Identity>,
    /// What the event says, where its producer owns its id; `None` for log lines.
    pub payload: Option<PayloadDigest>,
}

/// The digest of what an event says whose producer owns its id: the same id with another digest is
/// the producer's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PayloadDigest(pub u64);

/// What the identity of an event is made of whose producer owns its id, before it is hashed.
#[derive(Debug, Clone, Copy)]
pub struct ProducerIdentity<'a> {
    /// The tenant, so that none can use up another's ids.
    pub tenant: &'a str,
    /// The source's name.
    pub source: &'a str,
    /// The producer, as it names itself: the `source` attribute of CloudEvents.
    pub producer: &'a str,
    /// The id that the producer gave.
    pub id: &'a str,
}

/// The installation's secret, under which identities of log lines are hashed.
///
/// 32 random bytes that Postgres keeps with the ledger. Clients write parts of the lines, so whoever
/// knew it could make two requests that count as one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdentitySecret([u8; 32]);

impl IdentitySecret {
    /// Takes the bytes as stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for IdentitySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentitySecret")
    }
}

/// What identities of one source's log lines are hashed under, so that no source can use up
/// another's ids.
#[derive(Clone, Copy)]
pub struct IdentityKey(HashKey);

impl IdentityKey {
    /// Derives the key of a source by its name, which never changes.
    #[must_use]
    pub fn of_source(secret: IdentitySecret, source: &str) -> Self {
        let mut canonical = Canonical::new("identity-key/1");
        canonical.bytes(&secret.0).text(source);
        let bytes = canonical.finish256().to_bytes();
        let (words, _) = bytes.as_chunks::<8>();
        let mut key = [0; 4];
        for (to, from) in key.iter_mut().zip(words) {
            *to = u64::from_le_bytes(*from);
        }
        Self(HashKey::new(key))
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityKey")
    }
}

/// What the identity of an event from a log line is made of, before it is hashed.
#[derive(Debug, Clone, Copy)]
pub struct LogIdentity<'a> {
    /// The tenant, so that none can use up another's ids.
    pub tenant: &'a str,
    /// The request's id as logged; empty where there is none.
    pub request_id: &'a str,
    /// When the request started, as the message says.
    pub start: UnixMs,
    /// The event's own bytes, trimmed of ASCII white space, or the hash of its identity fields.
    pub content: &'a [u8],
}

/// By what a repeat is known.
///
/// Of a log line: the event's millisecond in the upper 48 bits, then 80 bits of the keyed hash of
/// [`LogIdentity`], so that neighbours in time are neighbours in the index.
///
/// `HighwayHash` (<https://arxiv.org/abs/1612.06257>) under a secret key, not BLAKE3: at a line's
/// length it costs a ninth, and since nobody outside knows the key, nobody can look for two lines
/// with the same 80 bits.
///
/// Of an event whose producer owns its id: four bits that no log line has, since their milliseconds
/// end below, then 124 bits of the BLAKE3 hash of [`ProducerIdentity`]. So these sort behind all log
/// lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(u128);

impl Identity {
    /// Hashes the parts of a log line's identity.
    #[must_use]
    pub fn of_log_line(key: &IdentityKey, parts: &LogIdentity<'_>) -> Self {
        let length = |text: &[u8]| u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes();
        let (tenant, request_id) = (parts.tenant.as_bytes(), parts.request_id.as_bytes());
        // Lengths first, so that no two lists of parts are the same bytes.
        let head = [
            length(tenant),
            length(request_id),
            length(parts.content),
            parts.start.get().to_le_bytes(),
        ];
        let mut hasher = key.0.hasher();
        hasher.append(head.as_flattened());
        hasher.append(tenant);
        hasher.append(request_id);
        hasher.append(parts.content);
        let [low, high] = hasher.finalize128();
        let hash = (u128::from(high) << 64) | u128::from(low);
        Self(Self::first_at(parts.start).0 | (hash & Self::HASH_MASK))
    }

    /// Returns the least identity of an instant: the bound between two days of ids.
    #[must_use]
    pub fn first_at(start: UnixMs) -> Self {
        // At most 48 bits: the year 10000 is below 2^48 ms.
        let ms = u128::from(start.get().unsigned_abs());
        Self(ms.wrapping_shl(80))
    }

    /// Hashes the parts of an identity that its producer owns.
    #[must_use]
    pub fn of_producer(parts: &ProducerIdentity<'_>) -> Self {
        let mut canonical = Canonical::new("producer/1");
        canonical
            .text(parts.tenant)
            .text(parts.source)
            .text(parts.producer)
            .text(parts.id);
        let hash = u128::from_be_bytes(canonical.finish128().to_bytes());
        Self(hash | Self::FIRST_OF_PRODUCERS.0)
    }

    /// Says whether the event's producer owns its id; else it is a log line's.
    #[must_use]
    pub const fn is_of_producer(self) -> bool {
        self.0 >= Self::FIRST_OF_PRODUCERS.0
    }

    /// The least identity that a producer owns; all of log lines lie below, up to the year 9999.
    pub const FIRST_OF_PRODUCERS: Self = Self(0xf << 124);

    /// Returns when a log line's event started.
    #[must_use]
    pub fn start(self) -> UnixMs {
        let ms = i64::try_from(self.0.wrapping_shr(80)).unwrap_or(0);
        UnixMs::new(ms).unwrap_or(UnixMs::FIRST)
    }

    /// Takes the 128 bits as stored.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Returns the 128 bits, as a `uuid` column orders them.
    #[must_use]
    pub const fn to_bits(self) -> u128 {
        self.0
    }

    const HASH_MASK: u128 = (1 << 80) - 1;
}

/// How old or how far ahead an event may be; measured against the broker's time of its record, so
/// that a back-fill or a long outage folds like the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgeRule {
    /// The greatest age, in ms: 3 days for log lines, 35 for events whose producers own their ids.
    pub window_ms: i64,
    /// The instant below which ids of this source are no longer kept; `None` for a new source.
    pub floor: Option<UnixMs>,
}

impl AgeRule {
    /// The window of log lines, in ms.
    pub const LOG_WINDOW_MS: i64 = DAY_MS.saturating_mul(3);

    /// The window of events whose producers own their ids, in ms.
    pub const PRODUCER_WINDOW_MS: i64 = DAY_MS.saturating_mul(35);

    /// Returns the rule of log lines above a source's floor.
    #[must_use]
    pub const fn of_log_lines(floor: Option<UnixMs>) -> Self {
        Self {
            window_ms: Self::LOG_WINDOW_MS,
            floor,
        }
    }

    /// Returns the rule of events whose producers own their ids, above a source's floor: that floor
    /// is the watermark less the window of log lines, theirs the watermark less their own.
    #[must_use]
    pub fn of_producers(floor: Option<UnixMs>) -> Self {
        let lower = Self::LOG_WINDOW_MS.saturating_sub(Self::PRODUCER_WINDOW_MS);
        Self {
            window_ms: Self::PRODUCER_WINDOW_MS,
            floor: floor.map(|floor| floor.saturating_add_ms(lower)),
        }
    }

    /// How far ahead of its record an event may lie, in ms.
    pub const AHEAD_MS: i64 = 5 * 60 * 1000;

    /// Checks an event's start against the broker's time of its record.
    ///
    /// | start | verdict |
    /// | --- | --- |
    /// | after record + 5 minutes | [`Reason::TooFarAhead`] |
    /// | before record − window | [`Reason::TooOld`] |
    /// | before the floor | [`Reason::BelowFloor`] |
    /// | else, both edges included | folded |
    ///
    /// # Errors
    ///
    /// A [`Rejection`] that names `field`; the caller keeps the event as rejected.
    pub fn check(&self, start: UnixMs, record: UnixMs, field: &str) -> Result<(), Rejection> {
        if start > record.saturating_add_ms(Self::AHEAD_MS) {
            let detail = format!("{start} lies more than 5 minutes ahead of the record's {record}");
            return Err(Rejection::new(Reason::TooFarAhead, field, detail));
        }
        if start < record.saturating_add_ms(self.window_ms.saturating_neg()) {
            let detail = format!("{start} is older than the window before the record's {record}");
            return Err(Rejection::new(Reason::TooOld, field, detail));
        }
        if let Some(floor) = self.floor.filter(|floor| start < *floor) {
            let detail = format!("{start} is below {floor}, from where ids are kept");
            return Err(Rejection::new(Reason::BelowFloor, field, detail));
        }
        Ok(())
    }
}
