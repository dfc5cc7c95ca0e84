//! Work that its caller does, unless the caller goes away: then it goes on by itself.
//!
//! A task of its own would do as well, for the price of two hand-overs between threads: half of
//! what taking a lock costs that stays in memory.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// A future that ends once it has begun, also if this is dropped before. Whoever polls it must go
/// on doing so or drop it: what it holds meanwhile (latches) keeps others waiting.
///
/// Dropped outside of a runtime it ends there and then, as a task would.
pub(super) struct ToTheEnd<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    has_begun: bool,
}

impl<T: Send + 'static> ToTheEnd<T> {
    pub(super) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { work: Some(Box::pin(work)), has_begun: false }
    }
}

impl<T: Send + 'static> Future for ToTheEnd<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        this.has_begun = true;
        // Out of its place, so that work which panics is not taken up again.
        let Some(mut work) = this.work.take() else { return Poll::Pending };
        let outcome = work.as_mut().poll(context);
        if outcome.is_pending() {
            this.work = Some(work);
        }
        outcome
    }
}

impl<T: Send + 'static> Drop for ToTheEnd<T> {
    fn drop(&mut self) {
        let Some(work) = self.work.take().filter(|_| self.has_begun) else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;
    use tokio::sync::{Notify, oneshot};

    use super::*;

    #[tokio::test]
    async fn goes_on_behind_a_caller_that_left() {
        let (go_on, (told, ended)) = (Arc::new(Notify::new()), oneshot::channel());
        let waited_for = Arc::clone(&go_on);
        let mut work = ToTheEnd::new(async move {
            waited_for.notified().await;
            told.send(1)
        });
        assert!((&mut work).now_or_never().is_none());
        drop(work);
        go_on.notify_one();
        assert_eq!(ended.await, Ok(1));
    }

    #[tokio::test]
    async fn never_begins_without_a_caller() {
        let (told, ended) = oneshot::channel();
        drop(ToTheEnd::new(async move { told.send(1) }));
        assert!(ended.await.is_err());
    }

    #[tokio::test]
    async fn answers_whoever_waits() {
        assert_eq!(ToTheEnd::new(async { 7 }).now_or_never(), Some(7));
    }
}
