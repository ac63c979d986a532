//! Folds parts again from the log.
//!
//! Invariant: a part is folded from its own offset range, floor and rules, as the pipeline did, by
//! the same code; what had been counted before is known from its duplicate rows, whose twins are
//! checked elsewhere. Deliberately absent: what the ledger holds.

use std::collections::HashMap;

use domain::event::Identity;
use domain::fold::{BatchFold, ClosedBatch};
use domain::ids::{Offset, PartRef};
use domain::part::{Duplicate, FOLD_VERSION, PartHeader};
use store::audit::Chain;

use super::log::{Dropped, Held, PartitionLog};
use super::rules::PartRules;
use super::{Places, VerifyError};
use crate::folding::{Ages, PartTarget};
use crate::kafka::LogError;

/// What came of folding a part again.
pub(super) enum Refolded {
    /// It was folded.
    Part {
        /// Its rows.
        batch: Box<ClosedBatch>,
        /// The identities that it counted, ascending.
        counted: Vec<Identity>,
    },
    /// It cannot be, and why.
    Unprovable(String),
    /// Its rules are not there or cannot be used.
    NoRules(String),
}

/// Folds the parts of one chain again, in ascending order.
pub(super) struct Refolder {
    places: Places,
    topic: String,
    partition: i32,
    source: String,
    held: Held,
    reading: Option<Reading>,
}

/// What moves to the thread that reads the log, and back.
struct Reading {
    log: PartitionLog,
    /// The offset up to which records were told.
    at: Offset,
    rules: Option<PartRules>,
}

impl Refolder {
    /// Takes a chain and what its log still has.
    pub(super) fn new(places: &Places, chain: &Chain, held: Held) -> Self {
        Self {
            places: places.clone(),
            topic: chain.topic.clone(),
            partition: chain.partition,
            source: chain.source.clone().unwrap_or_default(),
            held,
            reading: None,
        }
    }

    /// Folds the next part again.
    ///
    /// # Errors
    ///
    /// A [`VerifyError`] where Kafka or Postgres cannot be read.
    pub(super) async fn refold(
        &mut self,
        header: &PartHeader,
        duplicates: &[Duplicate],
    ) -> Result<Refolded, VerifyError> {
        if let Some(why) = self.obstacle(header) {
            return Ok(Refolded::Unprovable(why));
        }
        let mut reading = self.reading_at(header.from).await?;
        if !reading
            .rules
            .as_ref()
            .is_some_and(|rules| rules.are_of(header))
        {
            match PartRules::read(&self.places, &self.source, header).await? {
                Ok(rules) => reading.rules = Some(rules),
                Err(why) => {
                    // The records are passed over, so that the next part begins at its own.
                    self.pass(reading, header.to).await?;
                    return Ok(Refolded::NoRules(why));
                }
            }
        }
        let (header, duplicates) = (header.clone(), duplicates.to_vec());
        let fold = move || {
            let folded = reading.fold(&header, &duplicates);
            (reading, folded)
        };
        let (reading, folded) = tokio::task::spawn_blocking(fold).await?;
        match folded? {
            Ok((batch, counted)) => {
                self.reading = Some(reading);
                let batch = Box::new(batch);
                Ok(Refolded::Part { batch, counted })
            }
            Err(Dropped) => Ok(Refolded::Unprovable(self.dropped())),
        }
    }

    /// Returns the offsets of records between the last part and the position: records that were
    /// passed over. `None` where the log cannot say.
    ///
    /// # Errors
    ///
    /// A [`VerifyError`] where Kafka cannot be read.
    pub(super) async fn passed_over(
        &mut self,
        from: Offset,
        to: Offset,
    ) -> Result<Option<Vec<Offset>>, VerifyError> {
        match &self.held {
            Held::From(start) if *start <= from => {}
            Held::From(_) | Held::Nothing(_) => return Ok(None),
        }
        let reading = self.reading_at(from).await?;
        self.pass(reading, to).await
    }

    fn obstacle(&self, header: &PartHeader) -> Option<String> {
        match &self.held {
            Held::Nothing(why) => Some(why.clone()),
            Held::From(start) if header.from < *start => Some(format!(
                "the log begins at offset {} by now, their records are gone",
                start.0
            )),
            Held::From(_) if header.fold_version != FOLD_VERSION => Some(format!(
                "they were folded by fold version {}, this program has {FOLD_VERSION}",
                header.fold_version
            )),
            Held::From(_) => None,
        }
    }

    fn dropped(&mut self) -> String {
        let why = "the log dropped their records during this verification".to_owned();
        self.held = Held::Nothing(why.clone());
        why
    }

    async fn reading_at(&mut self, from: Offset) -> Result<Reading, VerifyError> {
        // After a gap, or parts that are not folded again, it begins anew.
        if let Some(reading) = self.reading.take().filter(|reading| reading.at == from) {
            return Ok(reading);
        }
        let kafka = std::sync::Arc::clone(&self.places.kafka);
        let (topic, partition) = (self.topic.clone(), self.partition);
        let open = move || PartitionLog::open(&kafka, &topic, partition, from);
        let log = tokio::task::spawn_blocking(open).await??;
        Ok(Reading {
            log,
            at: from,
            rules: None,
        })
    }

    async fn pass(
        &mut self,
        mut reading: Reading,
        to: Offset,
    ) -> Result<Option<Vec<Offset>>, VerifyError> {
        let read = move || {
            let mut passed = Vec::new();
            reading.at = to;
            let read = reading.log.read_until(to, &mut |record, _, _| {
                if passed.len() < 10 {
                    passed.push(record.offset);
                }
            });
            (reading, read.map(|read| read.map(|()| passed)))
        };
        let (reading, read) = tokio::task::spawn_blocking(read).await?;
        self.reading = Some(reading);
        Ok(read?.ok())
    }
}

impl Reading {
    /// Folds the records of one part, less what its duplicate rows say was counted before.
    fn fold(
        &mut self,
        header: &PartHeader,
        duplicates: &[Duplicate],
    ) -> Result<Result<(ClosedBatch, Vec<Identity>), Dropped>, LogError> {
        self.at = header.to;
        let mut fold = BatchFold::default();
        let part_index = fold.open_part(header.part);
        let Some(rules) = &mut self.rules else {
            return Ok(Err(Dropped));
        };
        let mut target = PartTarget {
            folder: &mut rules.folder,
            fold: &mut fold,
            part_index,
            decoder: &rules.decoder,
            ages: Ages::above(header.floor),
        };
        let read = self
            .log
            .read_until(header.to, &mut |record, headers, payload| {
                target.fold_record(record, headers, payload);
            })?;
        drop(target);
        fold.take_ids();
        fold.withdraw_seen(&counted_elsewhere(header.part, duplicates));
        let counted = fold.ids().iter().map(|id| id.identity).collect();
        Ok(read.map(|()| (fold.close(), counted)))
    }
}

/// Returns the identities that other parts counted; repeats within the part show by themselves.
pub(super) fn counted_elsewhere(
    part: PartRef,
    duplicates: &[Duplicate],
) -> HashMap<Identity, PartRef> {
    duplicates
        .iter()
        .filter(|duplicate| duplicate.first != part)
        .map(|duplicate| (duplicate.identity, duplicate.first))
        .collect()
}
