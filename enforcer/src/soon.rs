//! Bounds on waiting that cost nothing where there is nothing to wait for.
//!
//! Invariant: a future that is ready at once meets no timer and no clock. It stays where the caller has
//! pinned it: kept here it would be there twice, and moved with whatever waits for it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// Waits for a future, at most so long from where it first was not ready.
///
/// # Errors
///
/// It took longer.
pub(crate) async fn within<F: Future + Unpin>(
    bound: Duration,
    mut future: F,
) -> Result<F::Output, Elapsed> {
    let at_once = poll_fn(|context| match Pin::new(&mut future).poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    });
    match at_once.await {
        Some(output) => Ok(output),
        None => timeout(bound, future).await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn what_is_ready_is_taken_and_what_never_is_ends() {
        let long = Duration::from_secs(60);
        assert_eq!(within(Duration::ZERO, ready(1)).await.ok(), Some(1));
        let later = async {
            tokio::task::yield_now().await;
            2
        };
        assert_eq!(within(long, pin!(later)).await.ok(), Some(2));
        let short = Duration::from_millis(1);
        assert!(within(short, pending::<()>()).await.is_err(), "it ends");
    }
}
