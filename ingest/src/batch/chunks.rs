//! The bytes of a batch, in pieces of memory that go from one batch to the next.
//!
//! Invariant: there are at most [`SPARES_MAX`] spare pieces, and none where batches need none. Deliberately
//! absent: what the bytes mean.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::decode::PAYLOAD_MAX;

/// The size of a piece: any value that is parsed fits in.
const CHUNK_BYTES: usize = PAYLOAD_MAX;

/// The most spare pieces: those of one batch of 64 MiB. Freed, and taken anew from the system page by
/// page, they cost a batch under load a tenth of its processor time.
const SPARES_MAX: usize = 64;

/// Where the bytes of a record's value lie in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HeldBytes {
    chunk: u32,
    start: u32,
    end: u32,
}

/// Pieces that batches gave back, for the next ones. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Spares {
    shared: Arc<Mutex<Pool>>,
}

#[derive(Default)]
struct Pool {
    chunks: Vec<Vec<u8>>,
    /// Whether a batch took one since the last look.
    was_used: bool,
}

impl Spares {
    fn take(&self) -> Option<Vec<u8>> {
        let mut pool = self.shared.lock();
        pool.was_used = true;
        pool.chunks.pop()
    }

    fn give_back(&self, chunks: impl Iterator<Item = Vec<u8>>) {
        let mut pool = self.shared.lock();
        let room = SPARES_MAX.saturating_sub(pool.chunks.len());
        let whole = chunks.filter(|chunk| chunk.capacity() == CHUNK_BYTES);
        pool.chunks.extend(whole.take(room).map(|mut chunk| {
            chunk.clear();
            chunk
        }));
    }

    /// Gives all pieces back to the system where no batch took one since the last call.
    pub(crate) fn free_unused(&self) {
        let mut pool = self.shared.lock();
        if !std::mem::take(&mut pool.was_used) {
            pool.chunks = Vec::new();
        }
    }
}

/// Values, one after another.
#[derive(Default)]
pub(super) struct Chunks {
    chunks: Vec<Vec<u8>>,
    spares: Spares,
}

impl Chunks {
    pub(super) fn of(spares: &Spares) -> Self {
        Self {
            chunks: Vec::new(),
            spares: spares.clone(),
        }
    }

    /// Copies a value of at most [`PAYLOAD_MAX`] bytes.
    pub(super) fn hold(&mut self, value: &[u8]) -> HeldBytes {
        let has_room = |chunk: &Vec<u8>| chunk.len() + value.len() <= CHUNK_BYTES;
        if !self.chunks.last().is_some_and(has_room) {
            // Small batches, as at rest, need no whole piece.
            let chunk = if self.chunks.is_empty() {
                Vec::with_capacity(value.len())
            } else {
                let spare = self.spares.take();
                spare.unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
            };
            self.chunks.push(chunk);
        }
        let chunk = self.chunks.len() - 1;
        let Some(last) = self.chunks.last_mut() else {
            return HeldBytes::default();
        };
        let start = last.len();
        last.extend_from_slice(value);
        // A batch has far fewer than 2^32 pieces, and each is of a mebibyte.
        let [chunk, start, end] =
            [chunk, start, last.len()].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
        HeldBytes { chunk, start, end }
    }

    /// Returns the bytes at a place.
    pub(super) fn get(&self, held: HeldBytes) -> Option<&[u8]> {
        let [chunk, start, end] =
            [held.chunk, held.start, held.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        self.chunks.get(chunk)?.get(start..end)
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        if !self.chunks.is_empty() {
            self.spares.give_back(self.chunks.drain(..));
        }
    }
}
