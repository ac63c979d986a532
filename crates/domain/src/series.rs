//! Series: one combination of the dimensions, keyed by the hash of its content.
//!
//! Invariant: a series never changes; its key is the hash of its dimensions, so that money cannot be
//! moved by renaming.

use std::collections::HashMap;
use std::hint::black_box;
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

    /// Reads what [`write_content`] wrote.
    fn of_content(content: &str) -> Self {
        let mut chars = content.chars();
        let lengths = [(); 7].map(|()| chars.next().map_or(0, u32::from));
        let mut rest = chars.as_str();
        let [tenant, app, user, session, route, provider, model] = lengths.map(|length| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let (text, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
            rest = after;
            text.to_owned()
        });
        Self {
            tenant,
            app,
            user,
            session,
            route,
            provider,
            model,
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

/// Remembers series by content, so that an event of a known series costs no allocation. Bounded: emptied once it holds its greatest number.
///
/// Series are told apart by 128 bits of a hash of their dimensions under a key of the cache's own, as
/// their stored keys are by BLAKE3: comparing the texts themselves would read memory that is cold, once
/// for each event.
pub struct SeriesCache {
    key: HashKey,
    table: HashTable<Known>,
    series_max: usize,
    /// The dimensions of the events at hand, one after another.
    contents: String,
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

/// The dimensions of an event at hand, which its cache keeps until it is told to forget them.
pub(crate) struct Content {
    hash: ContentHash,
    /// Where they stand among the cache's.
    from: usize,
    to: usize,
}

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
            contents: String::new(),
            batches: 0,
        }
    }

    /// Keeps the dimensions of an event, to find its series by.
    pub(crate) fn keep(&mut self, dimensions: &Dimensions<'_>) -> Content {
        let from = self.contents.len();
        write_content(&mut self.contents, dimensions);
        let content = self.contents.get(from..).unwrap_or_default();
        Content {
            hash: self.key.hash(content.as_bytes()),
            from,
            to: self.contents.len(),
        }
    }

    /// Forgets all dimensions that were kept.
    pub(crate) fn forget(&mut self) {
        self.contents.clear();
    }

    /// Reads what [`Self::find`] will read, and returns the key of the series and the posting of the batch
    /// that took its last event; `None` where the series is not known.
    pub(crate) fn look_ahead(
        &self,
        content: &Content,
        used: &UsedSeries,
    ) -> Option<(SeriesId, (u32, u32))> {
        let [hash, _] = content.hash;
        let known = self
            .table
            .find(hash, |known| known.content == content.hash)?;
        if Some(known.used_in) == used.stamp {
            return Some((known.id, known.posting));
        }
        black_box(Arc::strong_count(&known.series));
        black_box(used.by_id.contains_key(&known.id));
        Some((known.id, NO_POSTING))
    }

    /// Finds the series of an event, and adds it to `used` if it is not there yet.
    pub(crate) fn find(&mut self, content: &Content, used: &mut UsedSeries) -> Found<'_> {
        let stamp = *used.stamp.get_or_insert_with(|| {
            self.batches = self.batches.wrapping_add(1);
            // Under this cache's key, so that a batch that another one stamped is not taken for ours.
            let mut hasher = self.key.hasher();
            hasher.append(&self.batches.to_le_bytes());
            BatchStamp(hasher.finalize64().max(1))
        });
        let [hash, _] = content.hash;
        let is_known = |known: &Known| known.content == content.hash;
        // Emptied before it is looked into, so that the entry can be handed out.
        if self.table.len() >= self.series_max && self.table.find(hash, is_known).is_none() {
            self.table.clear();
        }
        let contents = &self.contents;
        let entry = self.table.entry(hash, is_known, |known| known.content[0]);
        let entry = entry.or_insert_with(|| {
            let text = contents.get(content.from..content.to);
            let series = Arc::new(Series::of_content(text.unwrap_or_default()));
            Known {
                content: content.hash,
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

/// Appends the dimensions in one piece: the length of each in bytes, as a character, then the texts.
fn write_content(content: &mut String, dimensions: &Dimensions<'_>) {
    let texts = texts(dimensions);
    for text in texts {
        // Ids have at most 256 bytes.
        let length = u32::try_from(text.len()).ok().and_then(char::from_u32);
        content.push(length.unwrap_or(char::MAX));
    }
    for text in texts {
        content.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Series, SeriesCache, UsedSeries};
    use crate::event::Dimensions;
    use crate::hash::HashKey;
    use crate::ids::{
        AppId, ID_BYTES_MAX, ModelId, ProviderId, RouteId, SessionId, TenantId, UserId,
    };

    /// Names with characters of up to four bytes, up to the longest that an id may have.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof![4 => "[a-zé€😀]{1,64}", 1 => Just("x".repeat(ID_BYTES_MAX))]
    }

    proptest! {
        #[test]
        fn a_series_is_what_its_events_say(
            required in [name(), name(), name()],
            optional in proptest::array::uniform4(proptest::option::of(name())),
        ) {
            let ([tenant, app, model], [user, session, route, provider]) = (&required, &optional);
            let dimensions = Dimensions {
                tenant: TenantId::new(tenant).unwrap(),
                app: AppId::new(app).unwrap(),
                user: user.as_ref().map(|name| UserId::new(name).unwrap()),
                session: session.as_ref().map(|name| SessionId::new(name).unwrap()),
                route: route.as_ref().map(|name| RouteId::new(name).unwrap()),
                provider: provider.as_ref().map(|name| ProviderId::new(name).unwrap()),
                model: ModelId::new(model).unwrap(),
            };
            let or_empty = |name: &Option<String>| name.clone().unwrap_or_default();
            let expected = Series {
                tenant: tenant.clone(),
                app: app.clone(),
                user: or_empty(user),
                session: or_empty(session),
                route: or_empty(route),
                provider: or_empty(provider),
                model: model.clone(),
            };
            let mut cache = SeriesCache::new(10, HashKey::new([1; 4]));
            let mut used = UsedSeries::default();
            let first = cache.keep(&dimensions);
            let content = cache.keep(&dimensions);
            prop_assert!(cache.look_ahead(&content, &used).is_none());
            let id = cache.find(&first, &mut used).id;
            prop_assert_eq!(id, expected.id());
            prop_assert_eq!(used.by_id.get(&id).map(|series| &**series), Some(&expected));
            prop_assert_eq!(cache.look_ahead(&content, &used).map(|(id, _)| id), Some(id));
            prop_assert_eq!(cache.find(&content, &mut used).id, id);
        }
    }
}
