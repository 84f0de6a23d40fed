//! The tokens that callers get.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicIsize, AtomicU64};
use std::time::Duration;

use http::HeaderValue;

use crate::clock;
use crate::error::ConfigError;
use crate::grant::{Grant, GrantedToken, TokenText};
use crate::instant::Instant;

/// An access token that was usable when it was handed out.
///
/// Cloning is cheap. Do not store a token for later: ask the session before each use, since only the session
/// knows of refreshes and revocations.
///
/// `Debug` prints `[redacted]` where the token would be.
///
/// ```
/// # async fn example(session: ccg_session::SessionHandle) -> Result<(), ccg_session::SessionError> {
/// let token = session.get_token().await?;
/// let request = http::Request::get("https://api.box.com/2.0/users/me")
///     .header(http::header::AUTHORIZATION, token.header_value());
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[doc(alias = "TokenInfo")]
#[cfg_attr(test, derive(Hash))]
pub struct AccessToken(Issued);

impl AccessToken {
    pub(crate) fn new(issued: Issued) -> Self {
        Self(issued)
    }

    /// The same token, with counts of its own: cloning it, and its header, writes nothing that the
    /// clones of this one write.
    pub(crate) fn copy(&self) -> Self {
        Self(self.0.copy())
    }

    pub(crate) fn issued(&self) -> &Issued {
        &self.0
    }

    /// The value of an `Authorization` header, marked sensitive: `Bearer …` (RFC 6750 §2.1), or
    /// `DPoP …` of a token that is [bound to a key](crate::HttpTokenManagerBuilder::dpop), which needs a
    /// [proof](Self::proof) next to it.
    pub fn header_value(&self) -> &HeaderValue {
        self.0.header_value()
    }
}

/// A token from [`exchange`](crate::SessionHandle::exchange): narrower than the session's own.
///
/// `Debug` prints `[redacted]` where the token would be.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct ExchangedToken(Issued);

impl ExchangedToken {
    pub(crate) fn new(issued: Issued) -> Self {
        Self(issued)
    }

    /// The value of an `Authorization` header; `None` if the server said that this is not an access
    /// token (`"token_type": "N_A"`, RFC 8693 §2.2.1).
    pub fn header_value(&self) -> Option<&HeaderValue> {
        self.0.token().is_access_token().then(|| self.0.header_value())
    }

    /// The server's word for what kind of token this is (RFC 8693 §2.2.1), if it gave one.
    pub fn issued_token_type(&self) -> Option<&str> {
        self.0.token().issued_token_type.as_deref()
    }
}

/// Methods of both kinds of tokens.
macro_rules! common_to_tokens {
    ($($token:ty),*) => {$(
        impl $token {
            /// The token itself. It is a secret: do not log it.
            pub fn secret(&self) -> &str {
                self.0.text().expose()
            }

            /// How much of its life is left, counted from when its request was sent; zero if it has
            /// expired, [`Duration::MAX`] if it never does.
            pub fn remaining(&self) -> Duration {
                self.0.remaining(clock::now())
            }

            /// The scopes that the server named as granted, as it sent them: separated by spaces. They
            /// may be fewer than were asked for. `None` means as asked (RFC 6749 §5.1).
            pub fn scope(&self) -> Option<&str> {
                self.0.token().scope.as_deref()
            }

            /// Identifies this token without revealing it.
            pub fn id(&self) -> TokenId {
                self.0.id()
            }

            /// What goes into the `DPoP` header of one request that uses this token (RFC 9449 §7): a new one
            /// for each request, dated by the wall clock. `url` is the request's URL; the query and fragment
            /// are ignored. `None` if the token is not bound to a key.
            ///
            /// # Errors
            /// If `url` is not one of `https:` or `http:`.
            pub fn proof(
                &self,
                method: &http::Method,
                url: &str,
            ) -> Result<Option<HeaderValue>, ConfigError> {
                self.0.proof(method, url, None)
            }

            /// Like `proof`, with the nonce from the `DPoP-Nonce` header of the resource server's last response
            /// (RFC 9449 §9), for servers that require one (`use_dpop_nonce`).
            ///
            /// # Errors
            /// As [`proof`](Self::proof).
            pub fn proof_with_nonce(
                &self,
                method: &http::Method,
                url: &str,
                nonce: &str,
            ) -> Result<Option<HeaderValue>, ConfigError> {
                self.0.proof(method, url, Some(nonce))
            }
        }

        impl AsRef<Issued> for $token {
            fn as_ref(&self) -> &Issued {
                &self.0
            }
        }

        impl fmt::Debug for $token {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($token))
                    .field("token", &"[redacted]")
                    .field("id", &self.id())
                    .field("scope", &self.scope())
                    .finish_non_exhaustive()
            }
        }
    )*};
}
common_to_tokens!(AccessToken, ExchangedToken);

/// Identifies a token without revealing it: by the session in this process that received it, and its generation
/// there. It is not the server's id (`jti`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId {
    pub(crate) session: u64,
    pub(crate) generation: u64,
}

impl TokenId {
    /// Rises with each token that the session receives, exchanged ones included.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// A number of its own for each session of the process, so that none takes another's token for one of
/// its own.
pub(crate) fn next_session() -> u64 {
    static SESSIONS: AtomicU64 = AtomicU64::new(1);
    SESSIONS.fetch_add(1, Relaxed)
}

/// What [`AccessToken`] and [`ExchangedToken`] have in common. Both give it through `as_ref`, so that your
/// functions can take either, as [`invalidate`](crate::SessionHandle::invalidate) does.
#[derive(Clone)]
pub struct Issued(Arc<Counted>);

/// All that is written when a token is handed out, sent and dropped: the count of this, and the header's
/// own. On a cache line that nothing else is on, so that threads with a [copy](Issued::copy) of their own
/// do not slow each other down.
#[repr(align(64))]
struct Counted {
    header: HeaderValue,
    inner: Arc<Inner>,
}

struct Inner {
    id: TokenId,
    token: GrantedToken,
    expires_at: Instant,
    lifetime: Duration,
    is_exchanged: bool,
    /// How many callers' words that this was refused are on their way to the actor: one at a time (two
    /// if they come at once), or a loop of invalidations would fill the mailbox. Counted when a word has
    /// been sent, so it may have arrived before.
    doubts_under_way: AtomicIsize,
}

impl Issued {
    /// The session's own.
    pub(crate) fn new(id: TokenId, grant: Grant, expires_at: Instant, lifetime: Duration) -> Self {
        Self::of(id, grant, expires_at, lifetime, false)
    }

    pub(crate) fn by_exchange(
        id: TokenId,
        grant: Grant,
        expires_at: Instant,
        lifetime: Duration,
    ) -> Self {
        Self::of(id, grant, expires_at, lifetime, true)
    }

    fn of(
        id: TokenId,
        grant: Grant,
        expires_at: Instant,
        lifetime: Duration,
        is_exchanged: bool,
    ) -> Self {
        let token = grant.into_token();
        let header = token.text.header_value().clone();
        let doubts_under_way = AtomicIsize::new(0);
        let inner = Inner { id, token, expires_at, lifetime, is_exchanged, doubts_under_way };
        Self(Arc::new(Counted { header, inner: Arc::new(inner) }))
    }

    /// The same token, with counts of its own.
    fn copy(&self) -> Self {
        let inner = Arc::clone(&self.0.inner);
        let header = self.text().copied_header();
        Self(Arc::new(Counted { header, inner }))
    }

    /// It was refused: tells so, unless such a word is on its way. It is told before it is counted, so
    /// whoever need not tell has that word before it in the mailbox.
    pub(crate) fn doubt(&self, tell: impl FnOnce()) {
        let under_way = &self.0.inner.doubts_under_way;
        if under_way.load(Acquire) <= 0 {
            tell();
            under_way.fetch_add(1, Release);
        }
    }

    /// Whether a word that it was refused is on its way.
    pub(crate) fn is_doubted(&self) -> bool {
        self.0.inner.doubts_under_way.load(Acquire) > 0
    }

    /// A word has arrived.
    pub(crate) fn doubt_arrived(&self) {
        self.0.inner.doubts_under_way.fetch_sub(1, Release);
    }

    pub(crate) fn id(&self) -> TokenId {
        self.0.inner.id
    }

    pub(crate) fn token(&self) -> &GrantedToken {
        &self.0.inner.token
    }

    pub(crate) fn text(&self) -> &TokenText {
        &self.token().text
    }

    pub(crate) fn remaining(&self, now: Instant) -> Duration {
        if self.0.inner.expires_at == Instant::NEVER {
            return Duration::MAX;
        }
        self.0.inner.expires_at.since(now)
    }

    /// How long ago it was asked for.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.since(self.0.inner.expires_at - self.0.inner.lifetime)
    }

    pub(crate) fn is_exchanged(&self) -> bool {
        self.0.inner.is_exchanged
    }

    /// How long it lives in all.
    pub(crate) fn lifetime(&self) -> Duration {
        self.0.inner.lifetime
    }

    fn header_value(&self) -> &HeaderValue {
        &self.0.header
    }

    fn proof(
        &self,
        method: &http::Method,
        url: &str,
        nonce: Option<&str>,
    ) -> Result<Option<HeaderValue>, ConfigError> {
        let key = self.token().proof_key();
        key.map(|key| key.proof(method, url, Some(self.text().expose()), nonce)).transpose()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issued({:?}, [redacted])", self.id())
    }
}

impl PartialEq for Issued {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Issued {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchanged_token_knows_what_kind_of_token_it_is_if_that_was_said() {
        let id = TokenId { session: 1, generation: 1 };
        let exchanged = |grant| {
            let issued = Issued::by_exchange(id, grant, Instant::NEVER, Duration::MAX);
            ExchangedToken::new(issued)
        };
        let grant = Grant::bearer("token").unwrap();
        assert_eq!(exchanged(grant.clone()).issued_token_type(), None);
        let kind = "urn:ietf:params:oauth:token-type:access_token";
        assert_eq!(exchanged(grant.issued_token_type(kind)).issued_token_type(), Some(kind));
    }

    /// Else whoever sees it might ask before the actor has heard of it.
    #[test]
    fn a_doubt_is_told_before_anybody_can_see_it_and_told_once() {
        let id = TokenId { session: 1, generation: 1 };
        let grant = Grant::bearer("token").unwrap();
        let issued = Issued::new(id, grant, Instant::NEVER, Duration::MAX);
        let mut told = 0;
        issued.doubt(|| {
            told += 1;
            assert!(!issued.is_doubted());
        });
        issued.doubt(|| told += 1);
        assert!(issued.is_doubted());
        assert_eq!(told, 1);
    }
}
