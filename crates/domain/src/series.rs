//! Series: one combination of the dimensions, keyed by the hash of its content.
//!
//! Invariant: a series never changes; its key is the hash of its dimensions, so that money cannot be
//! moved by renaming.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use highway::HighwayHash as _;

use crate::event::Dimensions;
use crate::hash::{Canonical, Hash128, HashKey};

/// The key of a series: the hash of its dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(pub Hash128);

/// The dimensions of a series as stored and reported: strings, empty where a source names none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// The organisation.
    pub tenant: String,
    /// Whose ledger is charged.
    pub app: String,
    /// The person or service behind the request, or empty.
    pub user: String,
    /// The conversation, or empty.
    pub session: String,
    /// The gateway's route, or empty.
    pub route: String,
    /// Who answered, or empty.
    pub provider: String,
    /// The model that was asked for.
    pub model: String,
}

impl Series {
    /// Returns the key: the hash of the content.
    #[must_use]
    pub fn id(&self) -> SeriesId {
        let mut canonical = Canonical::new("series/1");
        canonical
            .text(&self.tenant)
            .text(&self.app)
            .text(&self.user)
            .text(&self.session)
            .text(&self.route)
            .text(&self.provider)
            .text(&self.model);
        SeriesId(canonical.finish128())
    }

    fn of(dimensions: &Dimensions<'_>) -> Self {
        let [tenant, app, user, session, route, provider, model] = texts(dimensions);
        Self {
            tenant: tenant.to_owned(),
            app: app.to_owned(),
            user: user.to_owned(),
            session: session.to_owned(),
            route: route.to_owned(),
            provider: provider.to_owned(),
            model: model.to_owned(),
        }
    }
}

fn texts<'d>(dimensions: &'d Dimensions<'_>) -> [&'d str; 7] {
    [
        dimensions.tenant.as_str(),
        dimensions.app.as_str(),
        dimensions.user.as_ref().map_or("", |user| user.as_str()),
        dimensions
            .session
            .as_ref()
            .map_or("", |session| session.as_str()),
        dimensions.route.as_ref().map_or("", |route| route.as_str()),
        dimensions
            .provider
            .as_ref()
            .map_or("", |provider| provider.as_str()),
        dimensions.model.as_str(),
    ]
}

/// Remembers series by content, so that an event of a known series costs one look-up and no
/// allocation. Bounded: emptied once it holds its greatest number.
///
/// Series are told apart by 128 bits of a hash of their dimensions under a key of the cache's own, as
/// their stored keys are by BLAKE3: comparing the texts themselves would read memory that is cold, once
/// for each event.
pub struct SeriesCache {
    key: HashKey,
    table: HashTable<Known>,
    series_max: usize,
    /// The dimensions of the event at hand, in one piece.
    content: Vec<u8>,
    batches: u64,
}

/// A series that an event had before.
struct Known {
    content: ContentHash,
    id: SeriesId,
    series: Arc<Series>,
    /// The last batch that it was used in.
    used_in: BatchStamp,
    /// The last posting of it in that batch: the part's index and the posting's.
    posting: (u32, u32),
}

/// The hash of a series' dimensions under a cache's key.
type ContentHash = [u64; 2];

/// A series of the event at hand.
pub(crate) struct Found<'c> {
    /// Its key.
    pub(crate) id: SeriesId,
    /// Which posting of the batch took its last event: the part's index and the posting's. A hint:
    /// whoever follows it looks whether the posting has the event's key.
    pub(crate) posting: &'c mut (u32, u32),
}

/// Tells a batch from every other one that a cache met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchStamp(u64);

impl BatchStamp {
    /// Of no batch.
    const NONE: Self = Self(0);
}

/// No batch has so many.
const NO_POSTING: (u32, u32) = (u32::MAX, u32::MAX);

/// The series that a batch's postings name.
#[derive(Default)]
pub(crate) struct UsedSeries {
    pub(crate) by_id: HashMap<SeriesId, Arc<Series>, RandomState>,
    stamp: Option<BatchStamp>,
}

impl SeriesCache {
    /// Makes a cache of at most `series_max` series, under a key that no other cache has.
    #[must_use]
    pub fn new(series_max: usize, key: HashKey) -> Self {
        Self {
            key,
            table: HashTable::new(),
            series_max,
            content: Vec::new(),
            batches: 0,
        }
    }

    /// Finds the series of the dimensions, and adds it to `used` if it is not there yet.
    pub(crate) fn find(&mut self, dimensions: &Dimensions<'_>, used: &mut UsedSeries) -> Found<'_> {
        let stamp = *used.stamp.get_or_insert_with(|| {
            self.batches = self.batches.wrapping_add(1);
            // Under this cache's key, so that a batch that another one stamped is not taken for ours.
            let mut hasher = self.key.hasher();
            hasher.append(&self.batches.to_le_bytes());
            BatchStamp(hasher.finalize64().max(1))
        });
        write_content(&mut self.content, dimensions);
        let content: ContentHash = self.key.hash(&self.content);
        let hash = content[0];
        let is_known = |known: &Known| known.content == content;
        // Emptied before it is looked into, so that the entry can be handed out.
        if self.table.len() >= self.series_max && self.table.find(hash, is_known).is_none() {
            self.table.clear();
        }
        let entry = self.table.entry(hash, is_known, |known| known.content[0]);
        let entry = entry.or_insert_with(|| {
            let series = Arc::new(Series::of(dimensions));
            Known {
                content,
                id: series.id(),
                series,
                used_in: BatchStamp::NONE,
                posting: NO_POSTING,
            }
        });
        let known = entry.into_mut();
        if known.used_in != stamp {
            known.used_in = stamp;
            known.posting = NO_POSTING;
            used.by_id.insert(known.id, Arc::clone(&known.series));
        }
        Found {
            id: known.id,
            posting: &mut known.posting,
        }
    }
}

/// Writes the dimensions in one piece: their lengths, then their texts.
fn write_content(content: &mut Vec<u8>, dimensions: &Dimensions<'_>) {
    content.clear();
    let texts = texts(dimensions);
    for text in texts {
        // Ids have at most 256 bytes.
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        content.extend_from_slice(&length.to_le_bytes());
    }
    for text in texts {
        content.extend_from_slice(text.as_bytes());
    }
}
