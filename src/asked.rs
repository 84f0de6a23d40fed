//! Whom an attempt has asked last, for the message of one that took too long: by then it is gone, and
//! cannot say.

use std::sync::{Arc, Mutex, PoisonError};

/// What an attempt leaves behind.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Option<String>>>);

tokio::task_local! {
    static ASKED: Asked;
}

impl Asked {
    /// Runs the attempt, which may [note](note) whom it asks.
    pub(crate) async fn within<T>(&self, attempt: impl Future<Output = T>) -> T {
        ASKED.scope(self.clone(), attempt).await
    }

    pub(crate) fn address(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// This attempt is about to ask at this address: scheme, host and path. No matter outside of an attempt.
#[cfg_attr(
    not(feature = "http"),
    expect(dead_code, reason = "only HttpTokenManager asks by address")
)]
pub(crate) fn note(address: &str) {
    // Who asks without a session needs no note.
    let _ = ASKED.try_with(|asked| {
        *asked.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.to_owned());
    });
}
