//! Series: one combination of the dimensions, keyed by the hash of its content.
//!
//! Invariant: a series never changes; its key is the hash of its dimensions, so that money cannot be
//! moved by renaming.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use crate::event::Dimensions;
use crate::hash::{Canonical, Hash128};

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

    fn equals(&self, dimensions: &Dimensions<'_>) -> bool {
        texts(dimensions)
            == [
                self.tenant.as_str(),
                &self.app,
                &self.user,
                &self.session,
                &self.route,
                &self.provider,
                &self.model,
            ]
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
pub struct SeriesCache {
    hasher: RandomState,
    table: HashTable<(SeriesId, Arc<Series>)>,
    series_max: usize,
}

impl SeriesCache {
    /// Makes a cache of at most `series_max` series.
    #[must_use]
    pub fn new(series_max: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            table: HashTable::new(),
            series_max,
        }
    }

    /// Returns the key for the dimensions, and adds the series to `used` if it is not there yet.
    pub fn id_of(
        &mut self,
        dimensions: &Dimensions<'_>,
        used: &mut HashMap<SeriesId, Arc<Series>, RandomState>,
    ) -> SeriesId {
        let hash = self.hasher.hash_one(texts(dimensions));
        if let Some((id, series)) = self
            .table
            .find(hash, |(_, series)| series.equals(dimensions))
        {
            used.entry(*id).or_insert_with(|| Arc::clone(series));
            return *id;
        }
        if self.table.len() >= self.series_max {
            self.table.clear();
        }
        let series = Arc::new(Series::of(dimensions));
        let id = series.id();
        used.insert(id, Arc::clone(&series));
        let hasher = &self.hasher;
        let rehash = |(_, series): &(SeriesId, Arc<Series>)| hasher.hash_one(series.as_texts());
        self.table.insert_unique(hash, (id, series), rehash);
        id
    }
}

impl Series {
    fn as_texts(&self) -> [&str; 7] {
        [
            &self.tenant,
            &self.app,
            &self.user,
            &self.session,
            &self.route,
            &self.provider,
            &self.model,
        ]
    }
}
