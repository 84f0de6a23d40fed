//! Code that is not ours runs in the session's task: a caller's waker, a manager's methods, the `Display`
//! and `Drop` of its errors, a subscriber of events. That it panics ends nothing here.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use crate::error::TokenError;

/// `None` if it panicked.
pub(crate) fn guarded<T>(foreign: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(foreign)) {
        Ok(done) => Some(done),
        Err(payload) => {
            // It may panic when it is dropped, and may hold anything.
            std::mem::forget(payload);
            None
        }
    }
}

/// For a future that waits in one list with others: a waker that panics would leave the rest of them asleep.
pub(crate) async fn with_contained_waker<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        let waker = Waker::from(Arc::new(ContainedWaker(Some(context.waker().clone()))));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

/// `None` only while it is dropped.
struct ContainedWaker(Option<Waker>);

impl Wake for ContainedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(waker) = &self.0 {
            guarded(|| waker.wake_by_ref());
        }
    }
}

impl Drop for ContainedWaker {
    fn drop(&mut self) {
        let waker = self.0.take();
        guarded(|| drop(waker));
    }
}

/// The same error, which can be shown and dropped anywhere.
pub(crate) fn contained(error: TokenError) -> TokenError {
    let contain = |source| -> Arc<dyn Error + Send + Sync> { Arc::new(Contained(Some(source))) };
    match error {
        TokenError::Transport { source, address, retry_after } => {
            TokenError::Transport { source: contain(source), address, retry_after }
        }
        TokenError::Credential { source } => TokenError::Credential { source: contain(source) },
        other => other,
    }
}

/// A manager's error: shows itself as that does, and goes on below it. `None` only while it is dropped.
struct Contained(Option<Arc<dyn Error + Send + Sync>>);

impl Contained {
    fn show(
        &self,
        f: &mut fmt::Formatter<'_>,
        show: impl FnOnce(&(dyn Error + Send + Sync), &mut fmt::Formatter<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let Some(error) = &self.0 else { return Ok(()) };
        guarded(|| show(&**error, f)).unwrap_or_else(|| f.write_str("[its text panicked]"))
    }
}

impl fmt::Display for Contained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f, |error, f| fmt::Display::fmt(error, f))
    }
}

impl fmt::Debug for Contained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f, |error, f| fmt::Debug::fmt(error, f))
    }
}

impl Error for Contained {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let error = self.0.as_ref()?;
        guarded(|| error.source())?
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let error = self.0.take();
        guarded(|| drop(error));
    }
}
