//! Leave to send one attempt.

use std::fmt;

use crate::error::TokenError;

/// Permission to send one attempt, from a [gated](crate::TokenManager::is_gated) manager's
/// [`ready`](crate::TokenManager::ready). It lasts as long as the attempt.
///
/// ```
/// use std::sync::Arc;
/// use ccg_session::{Grant, GrantRequest, Permit, PermitRequest, Session, TokenError, TokenManager};
/// use tokio::sync::Semaphore;
///
/// /// Limits the number of concurrent attempts of all sessions that share the semaphore.
/// struct Limited<M>(M, Arc<Semaphore>);
///
/// impl<M: TokenManager> TokenManager for Limited<M> {
///     async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
///         self.0.grant(request).await
///     }
///
///     fn is_gated(&self) -> bool {
///         true
///     }
///
///     async fn ready(&self, _: &PermitRequest) -> Result<Permit, TokenError> {
///         let place = self.1.clone().acquire_owned().await.map_err(TokenError::transport)?;
///         Ok(Permit::new(move |_ended| drop(place)))
///     }
/// }
/// ```
#[derive(Default)]
pub struct Permit(Option<Box<Ended>>);

type Ended = dyn FnOnce(Result<(), &TokenError>) + Send;

impl Permit {
    /// A permit without a callback.
    pub fn free() -> Self {
        Self(None)
    }

    /// A permit that reports its end: `ended` is called with the result of the attempt, which is
    /// [`TimedOut`](TokenError::TimedOut) if it took too long. It is dropped without a call if nothing was
    /// sent, or if the session ended meanwhile. A panic in it has no effect on the session.
    pub fn new(ended: impl FnOnce(Result<(), &TokenError>) + Send + 'static) -> Self {
        Self(Some(Box::new(ended)))
    }

    pub(crate) fn end(self, result: Result<(), &TokenError>) {
        if let Some(ended) = self.0 {
            ended(result);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}
