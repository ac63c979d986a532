//! Spans on their way out: a queue that never blocks whoever ends a span.
//!
//! Invariant: bounded; a span that finds it full is dropped and counted. Sending wakes nobody but when a
//! batch is full, since a wake-up is a call of the system's. Deliberately absent: how spans are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::observe;
use super::wire::Sender;

/// The end where spans go in.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    /// So many make a batch.
    batch: usize,
    shared: Arc<Shared>,
}

/// The end where they come out.
#[derive(Debug)]
pub(super) struct Waiting {
    spans: mpsc::Receiver<SpanData>,
    batch: usize,
    shared: Arc<Shared>,
    is_told: bool,
}

#[derive(Debug, Default)]
struct Shared {
    is_full: Notify,
    dropped: AtomicU64,
}

/// Makes a queue for `size` spans, which are sent in batches.
pub(super) fn queue(size: usize, batch: usize) -> (Queue, Waiting) {
    let (sender, receiver) = mpsc::channel(size);
    let shared = Arc::new(Shared::default());
    let queue = Queue {
        spans: sender,
        batch,
        shared: Arc::clone(&shared),
    };
    let waiting = Waiting {
        spans: receiver,
        batch,
        shared,
        is_told: false,
    };
    (queue, waiting)
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.spans.try_send(span).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        let waiting = self
            .spans
            .max_capacity()
            .saturating_sub(self.spans.capacity());
        if waiting >= self.batch {
            self.shared.is_full.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Waiting {
    /// Sends batch after batch until the process ends, and then what is left.
    pub(super) async fn send_all(
        mut self,
        sender: &Sender,
        resource: &ResourceAttributesWithSchema,
        delay: Duration,
        ending: &CancellationToken,
    ) {
        loop {
            let more = async {
                // Whether a batch is full or the time is up, what waits is sent.
                drop(timeout(delay, self.shared.is_full.notified()).await);
            };
            let is_last = ending.run_until_cancelled(more).await.is_none();
            while let Some(spans) = self.next() {
                let resource_spans = group_spans_by_resource_and_scope(spans, resource);
                sender
                    .send(&ExportTraceServiceRequest { resource_spans }, true)
                    .await;
            }
            self.tell_dropped();
            if is_last {
                return;
            }
        }
    }

    fn next(&mut self) -> Option<Vec<SpanData>> {
        let waiting = std::iter::from_fn(|| self.spans.try_recv().ok());
        let spans: Vec<_> = waiting.take(self.batch).collect();
        (!spans.is_empty()).then_some(spans)
    }

    fn tell_dropped(&mut self) {
        let dropped = self.shared.dropped.swap(0, Ordering::Relaxed);
        if dropped == 0 {
            return;
        }
        let was_told = std::mem::replace(&mut self.is_told, true);
        observe::dropped(dropped, !was_told);
    }
}
