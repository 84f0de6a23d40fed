//! What a server answers with: a token's text, how it is used, and how long it lives.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};

use crate::error::{ConfigError, TokenError};

/// A server's answer to a grant or an exchange.
#[derive(Clone)]
pub struct Grant {
    token: GrantedToken,
    expires_in: Option<Duration>,
    age: Duration,
    refresh_in: Option<Duration>,
}

/// What of it outlives the answer.
#[derive(Clone)]
pub(crate) struct GrantedToken {
    pub(crate) text: TokenText,
    token_type: TokenType,
    pub(crate) scope: Option<Box<str>>,
    pub(crate) issued_token_type: Option<Box<str>>,
}

/// How a token is used.
#[derive(Clone)]
enum TokenType {
    /// By whoever holds it (RFC 6750).
    Bearer,
    /// By whoever holds this key (RFC 9449).
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "only HttpTokenManager binds tokens")
    )]
    Dpop(Arc<dyn ProofKey>),
    /// It is not an access token.
    Other,
}

impl Grant {
    /// A bearer token (RFC 6750).
    ///
    /// # Errors
    /// [`TokenError::Malformed`] if it is empty or cannot go into a header.
    pub fn bearer(access_token: impl Into<SecretString>) -> Result<Self, TokenError> {
        let access_token = access_token.into();
        let text = TokenText::new(access_token.expose_secret()).ok_or_else(|| {
            TokenError::malformed(
                "the access token is empty, or has characters that cannot go into a header",
            )
        })?;
        let token_type = TokenType::Bearer;
        Ok(Self {
            token: GrantedToken { text, token_type, scope: None, issued_token_type: None },
            expires_in: None,
            age: Duration::ZERO,
            refresh_in: None,
        })
    }

    /// The remaining lifetime, counted from the start of the call that returns this grant; capped at 30 days.
    /// Default: the manager's [`assumed_lifetime`](crate::TokenManager::assumed_lifetime).
    #[must_use]
    pub fn expires_in(mut self, life: Duration) -> Self {
        self.expires_in = Some(life);
        self
    }

    /// The token's age when the call that returns this grant started, for a manager that caches tokens. The
    /// total lifetime, from which the buffers are computed, is this plus the remaining lifetime. Default: zero.
    #[must_use]
    pub fn age(mut self, lived: Duration) -> Self {
        self.age = lived;
        self
    }

    /// When the server wants the token to be refreshed (`refresh_in`), counted from when it was
    /// [issued](Self::age). It counts in place of `stale_buffer` if it lies between a
    /// tenth of the lifetime and the instant from which callers would wait; else it is ignored.
    #[must_use]
    pub fn refresh_in(mut self, wait: Duration) -> Self {
        self.refresh_in = Some(wait);
        self
    }

    /// The scopes granted, where the server named them.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Box<str>>) -> Self {
        self.token.scope = Some(scope.into());
        self
    }

    /// What kind of token an exchange gave (RFC 8693 §2.2.1).
    #[must_use]
    pub fn issued_token_type(mut self, kind: impl Into<Box<str>>) -> Self {
        self.token.issued_token_type = Some(kind.into());
        self
    }

    /// This is not an access token (`"token_type": "N_A"`, RFC 8693 §2.2.1): it has no header.
    #[must_use]
    pub fn not_an_access_token(mut self) -> Self {
        self.token.token_type = TokenType::Other;
        self
    }

    /// A token that is bound to this key (`DPoP`).
    #[cfg(feature = "http")]
    pub(crate) fn bound_to(mut self, key: impl ProofKey) -> Self {
        self.token.text = self.token.text.with_scheme("DPoP");
        self.token.token_type = TokenType::Dpop(Arc::new(key));
        self
    }

    #[cfg(feature = "store")]
    pub(crate) fn is_bound(&self) -> bool {
        self.token.proof_key().is_some()
    }

    pub(crate) fn into_token(self) -> GrantedToken {
        self.token
    }

    /// The token's text. With this and the others, a manager that wraps another one can keep what it got.
    pub fn text(&self) -> &TokenText {
        &self.token.text
    }

    /// Whether it is an access token, and not [something else](Self::not_an_access_token) that an exchange
    /// gave.
    pub fn is_access_token(&self) -> bool {
        self.token.is_access_token()
    }

    /// How much life is left, if that was [said](Self::expires_in).
    pub fn life(&self) -> Option<Duration> {
        self.expires_in
    }

    /// How long it had [lived](Self::age).
    pub fn get_age(&self) -> Duration {
        self.age
    }

    /// When the server wants it to be refreshed, if that was [said](Self::refresh_in).
    pub fn get_refresh_in(&self) -> Option<Duration> {
        self.refresh_in
    }

    /// The scopes granted, if they were [named](Self::scope).
    pub fn get_scope(&self) -> Option<&str> {
        self.token.scope.as_deref()
    }

    /// What kind of token an exchange gave, if that was [said](Self::issued_token_type).
    pub fn get_issued_token_type(&self) -> Option<&str> {
        self.token.issued_token_type.as_deref()
    }
}

impl GrantedToken {
    pub(crate) fn is_access_token(&self) -> bool {
        !matches!(self.token_type, TokenType::Other)
    }

    pub(crate) fn proof_key(&self) -> Option<&dyn ProofKey> {
        match &self.token_type {
            TokenType::Dpop(key) => Some(&**key),
            TokenType::Bearer | TokenType::Other => None,
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("access_token", &self.token.text)
            .field("expires_in", &self.expires_in)
            .field("scope", &self.token.scope)
            .finish_non_exhaustive()
    }
}

/// A token's text, for a [`TokenManager`](crate::TokenManager) that revokes it. Two are equal if their
/// texts are. `Debug` prints `[redacted]`.
// Kept as the header that it is sent in, so that sending it copies nothing.
#[derive(Clone)]
pub struct TokenText(HeaderValue);

impl TokenText {
    /// A bearer token (RFC 6750 §2.1). `None` if it is empty or cannot go into a header.
    pub(crate) fn new(token: &str) -> Option<Self> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        Self::header("Bearer", token)
    }

    /// Sent with another word before it.
    #[cfg(feature = "http")]
    pub(crate) fn with_scheme(self, scheme: &str) -> Self {
        // What fits a header once does so again.
        Self::header(scheme, self.expose()).unwrap_or(self)
    }

    fn header(scheme: &str, token: &str) -> Option<Self> {
        let mut header = HeaderValue::try_from(format!("{scheme} {token}")).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }

    /// The token itself. It is a secret: do not log it.
    pub fn expose(&self) -> &str {
        let header = self.0.to_str().unwrap_or_default();
        header.split_once(' ').map_or("", |(_scheme, token)| token)
    }

    fn bytes(&self) -> &[u8] {
        let header = self.0.as_bytes();
        let scheme = header.iter().position(|byte| *byte == b' ').unwrap_or(0);
        &header[scheme..]
    }

    pub(crate) fn header_value(&self) -> &HeaderValue {
        &self.0
    }

    /// A header whose clones do not count on this one.
    pub(crate) fn copied_header(&self) -> HeaderValue {
        let copied = HeaderValue::from_bytes(self.0.as_bytes());
        let mut header = copied.unwrap_or_else(|_| self.0.clone());
        header.set_sensitive(true);
        header
    }
}

impl PartialEq for TokenText {
    fn eq(&self, other: &Self) -> bool {
        // Not by `expose`: a session may know thousands of tokens, and looks one up among all of them.
        self.bytes() == other.bytes()
    }
}

impl Eq for TokenText {}

impl PartialOrd for TokenText {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TokenText {
    fn cmp(&self, other: &Self) -> Ordering {
        self.expose().cmp(other.expose())
    }
}

impl Hash for TokenText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Proves that whoever sends a token holds the key that it is bound to (RFC 9449 §4).
pub(crate) trait ProofKey: Send + Sync + 'static {
    /// The `DPoP` header of one request to `url`, of which what follows a `?` or `#` does not count: for
    /// this access token, and with the nonce that the server asked for.
    fn proof(
        &self,
        method: &Method,
        url: &str,
        token: Option<&str>,
        nonce: Option<&str>,
    ) -> Result<HeaderValue, ConfigError>;
}
