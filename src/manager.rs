//! The interface to token servers: makes one attempt at a time and reports its result.

use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::SessionConfig;
use crate::error::{ConfigError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::identity::Identity;
use crate::news::NewsSender;
use crate::permit::Permit;
use crate::request::{ExchangeRequest, GrantRequest, PermitRequest, TokenRequestOptions};
use crate::token::AccessToken;

/// Makes one attempt at the server and reports what happened. Retrying, waiting and giving up are the session's
/// job: a manager that retries breaks the session's guarantees about request rates.
///
/// Its methods run on the session's runtime and must not block the thread. Use
/// [`spawn_blocking`](tokio::task::spawn_blocking) for blocking work.
///
/// An [`Arc`] of a manager is also a manager, so sessions can share one. [`BoxTokenManager`] is for programs
/// whose sessions have managers of different types.
///
/// The session drops the future of an attempt that takes longer than
/// [`attempt_timeout`](crate::RetryPolicy::attempt_timeout), or when the session ends, so each must be cancel
/// safe. A panic in it becomes [`TokenError::Panicked`] for that attempt. A manager must not own a handle to
/// its own session: such a session would never end.
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
    /// Requests a token for the session. Called for one attempt at a time.
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

    /// Revokes `token` (RFC 7009): `Ok` means that it can no longer be used. Only called where
    /// [`can_revoke`](Self::can_revoke) says yes; up to 8 at once.
    fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> impl Future<Output = Result<(), TokenError>> + Send {
        let _ = (token, options);
        ready(Err(TokenError::denied("unsupported", "this manager has no revocation")))
    }

    /// Whether [`exchange`](Self::exchange) is supported. Called when the session starts and after each
    /// attempt, since the manager may have learned it from that. If not, callers get
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

    /// The lifetime to assume for a token if the server does not report one. Called at the same times as
    /// [`can_exchange`](Self::can_exchange). Default: 5 minutes.
    fn assumed_lifetime(&self) -> Duration {
        Duration::from_secs(5 * 60)
    }

    /// Whether each grant and each exchange has to wait for [`ready`](Self::ready). Asked as the others are.
    /// Default: no.
    fn is_gated(&self) -> bool {
        false
    }

    /// Waits until an attempt may be sent, for example because many sessions share a server. Only called where
    /// [`is_gated`](Self::is_gated) says yes, and before the attempt's time begins: neither its time-out nor
    /// its token's life counts the wait. The session drops the future if it needs no attempt any more, as after
    /// a revoke, and after 60 seconds, when its callers are told to come again. Default: at once.
    ///
    /// # Errors
    /// Why nothing may be sent now. It ends the flight: callers get it, and the session asks again after its
    /// [`retry_after`](TokenError::retry_after), and 750 ms at the earliest.
    fn ready(
        &self,
        request: &PermitRequest,
    ) -> impl Future<Output = Result<Permit, TokenError>> + Send {
        let _ = request;
        ready(Ok(Permit::free()))
    }

    /// Whether this grant needs a permit. It does not if the manager already has a token for it, for example
    /// from a shared store. Asked before [`ready`](Self::ready), where that is asked. After a no,
    /// [`grant`](Self::grant) sends nothing to the server: if the token is gone by then it fails, as with
    /// [`rate_limited`](TokenError::rate_limited). Default: yes.
    fn needs_permit(&self, request: &GrantRequest) -> impl Future<Output = bool> + Send {
        let _ = request;
        ready(true)
    }

    /// Called once, when the session starts. Use `news` to tell the session what the manager learns about its
    /// tokens from other processes. Default: `news` is dropped.
    fn attach(&self, news: NewsSender) {
        let _ = news;
    }

    /// Everything that this manager's tokens depend on, so that sessions with equal identities can share a
    /// token. `None` (the default) if that cannot be known.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// Called once, before the session starts, to check that the session's configuration fits this manager.
    ///
    /// # Errors
    /// Says what does not fit. Default: everything fits.
    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        let _ = config;
        Ok(())
    }
}

/// A method of each kind, passed on.
macro_rules! pass_on {
    ($to:ident) => {
        fn can_exchange(&self) -> bool {
            self.$to().can_exchange()
        }

        fn can_revoke(&self) -> bool {
            self.$to().can_revoke()
        }

        fn assumed_lifetime(&self) -> Duration {
            self.$to().assumed_lifetime()
        }

        fn is_gated(&self) -> bool {
            self.$to().is_gated()
        }

        async fn ready(&self, request: &PermitRequest) -> Result<Permit, TokenError> {
            self.$to().ready(request).await
        }

        async fn needs_permit(&self, request: &GrantRequest) -> bool {
            self.$to().needs_permit(request).await
        }

        fn attach(&self, news: NewsSender) {
            self.$to().attach(news);
        }

        fn identity(&self) -> Option<Identity> {
            self.$to().identity()
        }

        fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
            self.$to().check(config)
        }
    };
}

impl<M: TokenManager> TokenManager for Arc<M> {
    fn grant(
        &self,
        request: GrantRequest,
    ) -> impl Future<Output = Result<Grant, TokenError>> + Send {
        self.as_ref().grant(request)
    }

    fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> impl Future<Output = Result<Grant, TokenError>> + Send {
        self.as_ref().exchange(subject, request)
    }

    fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> impl Future<Output = Result<(), TokenError>> + Send {
        self.as_ref().revoke(token, options)
    }

    pass_on!(as_ref);
}

/// A boxed manager of any type, for programs that choose between manager types at run time.
///
/// ```
/// use ccg_session::{BoxTokenManager, Grant, GrantRequest, Session, TokenError, TokenManager};
///
/// struct Metadata;
/// # impl TokenManager for Metadata {
/// #     async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> { Grant::bearer("a-token") }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = BoxTokenManager::new(Metadata); // or one of another type
/// let session = Session::builder(manager).spawn()?;
/// assert_eq!(session.get_token().await?.secret(), "a-token");
/// # Ok(()) }
/// ```
pub struct BoxTokenManager(Box<dyn ErasedTokenManager>);

impl BoxTokenManager {
    /// Boxes a manager.
    pub fn new(manager: impl TokenManager) -> Self {
        Self(Box::new(manager))
    }

    fn inner(&self) -> &dyn ErasedTokenManager {
        &*self.0
    }
}

impl fmt::Debug for BoxTokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxTokenManager")
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, TokenError>> + Send + 'a>>;

/// A manager whose type is not known: [`TokenManager`] without its `impl Future`s.
trait ErasedTokenManager: Send + Sync {
    fn grant(&self, request: GrantRequest) -> Boxed<'_, Grant>;
    fn exchange(&self, subject: AccessToken, request: ExchangeRequest) -> Boxed<'_, Grant>;
    fn revoke(&self, token: TokenText, options: TokenRequestOptions) -> Boxed<'_, ()>;
    fn can_exchange(&self) -> bool;
    fn can_revoke(&self) -> bool;
    fn assumed_lifetime(&self) -> Duration;
    fn is_gated(&self) -> bool;
    fn ready<'a>(&'a self, request: &'a PermitRequest) -> Boxed<'a, Permit>;
    fn needs_permit<'a>(
        &'a self,
        request: &'a GrantRequest,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>>;
    fn attach(&self, news: NewsSender);
    fn identity(&self) -> Option<Identity>;
    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError>;
}

impl<M: TokenManager> ErasedTokenManager for M {
    fn grant(&self, request: GrantRequest) -> Boxed<'_, Grant> {
        Box::pin(TokenManager::grant(self, request))
    }

    fn exchange(&self, subject: AccessToken, request: ExchangeRequest) -> Boxed<'_, Grant> {
        Box::pin(TokenManager::exchange(self, subject, request))
    }

    fn revoke(&self, token: TokenText, options: TokenRequestOptions) -> Boxed<'_, ()> {
        Box::pin(TokenManager::revoke(self, token, options))
    }

    fn can_exchange(&self) -> bool {
        TokenManager::can_exchange(self)
    }

    fn can_revoke(&self) -> bool {
        TokenManager::can_revoke(self)
    }

    fn assumed_lifetime(&self) -> Duration {
        TokenManager::assumed_lifetime(self)
    }

    fn is_gated(&self) -> bool {
        TokenManager::is_gated(self)
    }

    fn ready<'a>(&'a self, request: &'a PermitRequest) -> Boxed<'a, Permit> {
        Box::pin(TokenManager::ready(self, request))
    }

    fn needs_permit<'a>(
        &'a self,
        request: &'a GrantRequest,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(TokenManager::needs_permit(self, request))
    }

    fn attach(&self, news: NewsSender) {
        TokenManager::attach(self, news);
    }

    fn identity(&self) -> Option<Identity> {
        TokenManager::identity(self)
    }

    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        TokenManager::check(self, config)
    }
}

impl TokenManager for BoxTokenManager {
    fn grant(
        &self,
        request: GrantRequest,
    ) -> impl Future<Output = Result<Grant, TokenError>> + Send {
        self.inner().grant(request)
    }

    fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> impl Future<Output = Result<Grant, TokenError>> + Send {
        self.inner().exchange(subject, request)
    }

    fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> impl Future<Output = Result<(), TokenError>> + Send {
        self.inner().revoke(token, options)
    }

    pass_on!(inner);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does all that a manager may leave out.
    struct All;

    impl TokenManager for All {
        async fn grant(&self, _: GrantRequest) -> Result<Grant, TokenError> {
            Grant::bearer("granted")
        }

        async fn exchange(&self, _: AccessToken, _: ExchangeRequest) -> Result<Grant, TokenError> {
            Grant::bearer("exchanged")
        }

        async fn revoke(&self, _: TokenText, _: TokenRequestOptions) -> Result<(), TokenError> {
            Err(TokenError::denied("not_today", "it is asked all the same"))
        }

        fn can_exchange(&self) -> bool {
            true
        }

        fn can_revoke(&self) -> bool {
            true
        }

        fn assumed_lifetime(&self) -> Duration {
            Duration::from_secs(7)
        }

        fn is_gated(&self) -> bool {
            true
        }

        async fn ready(&self, _: &PermitRequest) -> Result<Permit, TokenError> {
            Err(TokenError::rate_limited(None))
        }

        async fn needs_permit(&self, _: &GrantRequest) -> bool {
            false
        }

        fn attach(&self, news: NewsSender) {
            news.revoked(TokenText::new("heard-of").unwrap(), Duration::from_secs(7));
        }

        fn identity(&self) -> Option<Identity> {
            Some(Identity::new().with("client_id", "all"))
        }

        fn check(&self, _: &SessionConfig) -> Result<(), ConfigError> {
            Err(ConfigError::new("attempts", "are what it was asked about"))
        }
    }

    async fn passes_all_on(manager: impl TokenManager) {
        let granted = manager.grant(GrantRequest::default()).await.unwrap();
        assert_eq!(granted.text().expose(), "granted");
        let id = crate::token::TokenId { session: 1, generation: 1 };
        let never = crate::instant::Instant::NEVER;
        let issued = crate::token::Issued::new(id, granted.clone(), never, Duration::MAX);
        let subject = AccessToken::new(issued);
        let exchanged = manager.exchange(subject, ExchangeRequest::default()).await.unwrap();
        assert_eq!(exchanged.text().expose(), "exchanged");
        let revoked = manager.revoke(granted.text().clone(), TokenRequestOptions::new()).await;
        assert!(revoked.unwrap_err().to_string().contains("not_today"));
        assert!(manager.can_exchange() && manager.can_revoke());
        assert_eq!(manager.assumed_lifetime(), Duration::from_secs(7));
        assert!(manager.is_gated());
        let refused = manager.ready(&PermitRequest::Exchange).await.unwrap_err();
        assert!(matches!(refused, TokenError::RateLimited { .. }));
        assert!(!manager.needs_permit(&GrantRequest::default()).await);
        let queue = Arc::new(crate::news::Queue::default());
        manager.attach(queue.sender());
        let news = std::future::poll_fn(|context| queue.poll_next(context)).await;
        let crate::machine::News::Revoked { text, .. } = news;
        assert_eq!(text.expose(), "heard-of");
        assert_eq!(manager.identity(), Some(Identity::new().with("client_id", "all")));
        assert_eq!(manager.check(&SessionConfig::default()).unwrap_err().setting(), "attempts");
    }

    #[tokio::test]
    async fn an_arc_and_a_box_of_a_manager_do_all_that_it_does() {
        passes_all_on(All).await;
        passes_all_on(Arc::new(All)).await;
        passes_all_on(BoxTokenManager::new(All)).await;
        passes_all_on(BoxTokenManager::new(Arc::new(BoxTokenManager::new(All)))).await;
    }
}
