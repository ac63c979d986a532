//! Remembers which rates a provider's model resolves to.
//!
//! Invariant: a cached answer is the book's own; the cache is emptied once it is full and never
//! outlives its book.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use crate::event::UsageEvent;

use super::book::PriceBook;
use super::rate_set::{RateSet, RateSetId};
use super::resolve::PricedModel;

/// The price book's answers by (provider, answering model, asked model), at most `entries_max`.
pub struct PriceCache {
    book: Arc<PriceBook>,
    hasher: RandomState,
    table: HashTable<([String; 3], PricedModel)>,
    entries_max: usize,
}

impl PriceCache {
    /// Makes an empty cache over a book.
    #[must_use]
    pub fn new(book: Arc<PriceBook>, entries_max: usize) -> Self {
        Self {
            book,
            hasher: RandomState::default(),
            table: HashTable::new(),
            entries_max,
        }
    }

    /// Returns the rate set that prices the event, by its start and the size of its input.
    pub fn rate_set(
        &mut self,
        event: &UsageEvent<'_>,
        input_tokens: u64,
    ) -> (RateSetId, &Arc<RateSet>) {
        let names = [
            event
                .dimensions
                .provider
                .as_ref()
                .map_or("", |provider| provider.as_str()),
            event
                .answered_model
                .as_ref()
                .map_or("", |model| model.as_str()),
            event.dimensions.model.as_str(),
        ];
        let hash = self.hasher.hash_one(names);
        let is_known = |(known, _): &([String; 3], PricedModel)| *known == names;
        // Emptied before it is looked into, so that the entry can be handed out.
        if self.table.len() >= self.entries_max && self.table.find(hash, is_known).is_none() {
            self.table.clear();
        }
        let (book, hasher) = (&self.book, &self.hasher);
        let entry = self
            .table
            .entry(hash, is_known, |(known, _)| hasher.hash_one(known));
        let entry = entry.or_insert_with(|| {
            let model = book.price_model(
                event.dimensions.provider.as_ref(),
                event.answered_model.as_ref(),
                &event.dimensions.model,
            );
            (names.map(str::to_owned), model)
        });
        let (_, model) = entry.into_mut();
        model.rate_set(event.start, input_tokens)
    }
}
