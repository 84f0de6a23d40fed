//! A store is code that is not ours. One that panics, or answers what cannot be, is one that is away.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use super::contract::{
    Buried, Heard, Id, MAX_RECORDS, Record, Sealed, Slot, Store, StoreError, Taken, Want,
};
use crate::foreign::guarded;

/// In microseconds: in the year 2255. What is later cannot be counted exactly everywhere.
const LAST_TIME: u64 = 1 << 53;
/// Before one that panics while it is listened to is listened to again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The calls of a [`Store`], none of which panics.
pub(super) struct Guarded<S>(pub(super) S);

impl<S: Store> Guarded<S> {
    pub(super) async fn take(&self, slot: &Slot, want: &Want<'_>) -> Result<Taken, StoreError> {
        let mut taken = call(|| self.0.take(slot, want)).await?;
        if taken.now.0 > LAST_TIME {
            return Err(StoreError::refused("its clock is wrong by centuries"));
        }
        taken.revoked.truncate(MAX_RECORDS * size_of::<Record>());
        Ok(taken)
    }

    pub(super) async fn put(
        &self,
        slot: &Slot,
        id: &Id,
        entry: &Sealed,
    ) -> Result<bool, StoreError> {
        call(|| self.0.put(slot, id, entry)).await
    }

    pub(super) async fn renew(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        call(|| self.0.renew(slot, id)).await
    }

    pub(super) async fn leave(&self, slot: &Slot, id: &Id) -> Result<bool, StoreError> {
        call(|| self.0.leave(slot, id)).await
    }

    pub(super) async fn bury(&self, slot: &Slot, record: &Record) -> Result<Buried, StoreError> {
        call(|| self.0.bury(slot, record)).await
    }

    pub(super) async fn heard(&self, namespace: &str) -> Heard {
        if let Some(heard) = guarded_future(|| self.0.heard(namespace)).await {
            return heard;
        }
        sleep(LISTEN_AGAIN).await;
        Heard::Look
    }
}

async fn call<T, F>(make: impl FnOnce() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let done = guarded_future(make).await;
    done.unwrap_or_else(|| Err(StoreError::unreachable("its code panicked")))
}

/// `None` if it panicked when it was made, or when it ran. That it panics when it is dropped is no matter.
async fn guarded_future<F: Future>(make: impl FnOnce() -> F) -> Option<F::Output> {
    GuardedFuture(Some(Box::pin(guarded(make)?))).await
}

/// `None` only while it is dropped.
struct GuardedFuture<F>(Option<Pin<Box<F>>>);

impl<F: Future> Future for GuardedFuture<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Ready(None) };
        match guarded(|| future.as_mut().poll(context)) {
            Some(polled) => polled.map(Some),
            None => Poll::Ready(None),
        }
    }
}

impl<F> Drop for GuardedFuture<F> {
    fn drop(&mut self) {
        let future = self.0.take();
        guarded(|| drop(future));
    }
}
