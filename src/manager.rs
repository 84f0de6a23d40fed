//! What a session needs from the outside: one attempt at a time, and an honest report of it.

use std::future::{Future, ready};
use std::time::Duration;

use crate::config::SessionConfig;
use crate::error::{ConfigError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::request::{ExchangeRequest, GrantRequest, TokenRequestOptions};
use crate::token::AccessToken;

/// Makes one attempt at the server and reports what happened. Retrying, waiting and giving up are the
/// session's: a manager that retries makes the session's promises about request rates untrue.
///
/// The session drops the future of an attempt that takes longer than
/// [`attempt_timeout`](crate::RetryPolicy::attempt_timeout), or when it ends: each must be cancel safe. A
/// panic in it becomes [`TokenError::Panicked`] for that attempt. A manager must not own a handle to its
/// own session: such a session would never end.
///
/// ```
/// use std::time::Duration;
/// use ccg_session::{Grant, GrantRequest, Session, TokenError, TokenManager};
///
/// struct Metadata;
///
/// impl TokenManager for Metadata {
///     async fn grant(&self, _request: GrantRequest) -> Result<Grant, TokenError> {
///         // Ask whoever gives out tokens here.
///         Ok(Grant::bearer("a-token")?.expires_in(Duration::from_secs(3600)))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(Metadata).spawn()?;
/// assert_eq!(session.get_token().await?.secret(), "a-token");
/// # Ok(()) }
/// ```
#[doc(alias = "getTokensClientCredentialsGrant")]
pub trait TokenManager: Send + Sync + 'static {
    /// Asks for a token of the session's own. One at a time.
    fn grant(
        &self,
        request: GrantRequest,
    ) -> impl Future<Output = Result<Grant, TokenError>> + Send;

    /// Exchanges `subject`, the session's own token, for a narrower one (RFC 8693). Only called where
    /// [`can_exchange`](Self::can_exchange) says yes.
    fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> impl Future<Output = Result<Grant, TokenError>> + Send {
        let _ = (subject, request);
        ready(Err(TokenError::denied("unsupported", "this manager has no token exchange")))
    }

    /// Revokes `token` (RFC 7009): on `Ok` it is of no more use to anybody. Only called where
    /// [`can_revoke`](Self::can_revoke) says yes; up to 8 at once.
    fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> impl Future<Output = Result<(), TokenError>> + Send {
        let _ = (token, options);
        ready(Err(TokenError::denied("unsupported", "this manager has no revocation")))
    }

    /// Whether [`exchange`](Self::exchange) is there. Asked when the session starts, and after each
    /// attempt, from which the manager may have learnt it; where the answer is no, callers get
    /// [`SessionError::Unsupported`](crate::SessionError::Unsupported). Default: no.
    fn can_exchange(&self) -> bool {
        false
    }

    /// Whether [`revoke`](Self::revoke) is there. Asked when the session starts, and after each attempt,
    /// from which the manager may have learnt it; where the answer is no, callers get
    /// [`SessionError::Unsupported`](crate::SessionError::Unsupported), and nothing changes. While it is
    /// not known yet, say yes: before the first token there is nothing to revoke. Default: no.
    fn can_revoke(&self) -> bool {
        false
    }

    /// How long a token is taken to live whose server does not say. Asked as the other two are. Default:
    /// 5 minutes.
    fn assumed_lifetime(&self) -> Duration {
        Duration::from_secs(5 * 60)
    }

    /// Called once, before the session starts: does the session's configuration fit this manager?
    ///
    /// # Errors
    /// Says what does not fit. Default: everything fits.
    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        let _ = config;
        Ok(())
    }
}
