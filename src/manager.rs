//! What a session needs from the outside: one attempt at a time, and an honest report of it.

use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, ready};
use std::net::IpAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::config::SessionConfig;
use crate::error::{ConfigError, TokenError};
#[cfg(feature = "http")]
use crate::http::DpopKey;
use crate::token::{AccessToken, TokenText};

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

/// What a grant attempt is asked for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GrantRequest {
    /// From the caller that opened the flight.
    pub options: TokenRequestOptions,
    /// The token last invalidated or revoked: whoever keeps tokens must not answer with this one.
    pub refused: Option<TokenText>,
}

/// A server's answer to a grant or an exchange.
#[derive(Clone)]
pub struct Grant {
    text: TokenText,
    kind: Kind,
    expires_in: Option<Duration>,
    refresh_in: Option<Duration>,
    scope: Option<Box<str>>,
    issued_token_type: Option<Box<str>>,
}

/// How a token is used.
#[derive(Clone)]
enum Kind {
    /// By whoever holds it (RFC 6750).
    Bearer,
    /// By whoever holds this key (RFC 9449).
    #[cfg(feature = "http")]
    Dpop(DpopKey),
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
        let text = TokenText::new(access_token.expose_secret()).ok_or(TokenError::Malformed {
            reason: "the access token is empty, or has characters that cannot go into a header"
                .into(),
        })?;
        Ok(Self {
            text,
            kind: Kind::Bearer,
            expires_in: None,
            refresh_in: None,
            scope: None,
            issued_token_type: None,
        })
    }

    /// How much life is left, counted from the start of the call that answers with this; at most 30 days
    /// count. Left out, the manager's [`assumed_lifetime`](TokenManager::assumed_lifetime) counts.
    #[must_use]
    pub fn expires_in(mut self, life: Duration) -> Self {
        self.expires_in = Some(life);
        self
    }

    /// When the server wants the token to be refreshed (`refresh_in`), counted as
    /// [`expires_in`](Self::expires_in) is. It counts in place of `stale_buffer` if it lies between a
    /// tenth of the lifetime and the instant from which callers would wait; else it is ignored.
    #[must_use]
    pub fn refresh_in(mut self, wait: Duration) -> Self {
        self.refresh_in = Some(wait);
        self
    }

    /// The scopes granted, where the server named them.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Box<str>>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// What kind of token an exchange gave (RFC 8693 §2.2.1).
    #[must_use]
    pub fn issued_token_type(mut self, kind: impl Into<Box<str>>) -> Self {
        self.issued_token_type = Some(kind.into());
        self
    }

    /// This is not an access token (`"token_type": "N_A"`, RFC 8693 §2.2.1): it has no header.
    #[must_use]
    pub fn not_an_access_token(mut self) -> Self {
        self.kind = Kind::Other;
        self
    }

    /// Only whoever holds this key can use it.
    #[cfg(feature = "http")]
    pub(crate) fn bound_to(mut self, key: DpopKey) -> Self {
        self.text = self.text.with_scheme("DPoP");
        self.kind = Kind::Dpop(key);
        self
    }

    #[cfg(feature = "http")]
    pub(crate) fn dpop_key(&self) -> Option<&DpopKey> {
        match &self.kind {
            Kind::Dpop(key) => Some(key),
            Kind::Bearer | Kind::Other => None,
        }
    }

    pub(crate) fn text(&self) -> &TokenText {
        &self.text
    }

    pub(crate) fn is_access_token(&self) -> bool {
        !matches!(self.kind, Kind::Other)
    }

    pub(crate) fn life(&self) -> Option<Duration> {
        self.expires_in
    }

    pub(crate) fn get_refresh_in(&self) -> Option<Duration> {
        self.refresh_in
    }

    pub(crate) fn get_scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    pub(crate) fn get_issued_token_type(&self) -> Option<&str> {
        self.issued_token_type.as_deref()
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("access_token", &self.text)
            .field("expires_in", &self.expires_in)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// What a single request may ask for beyond the session's configuration.
///
/// ```
/// use ccg_session::TokenRequestOptions;
/// use std::time::Duration;
///
/// let options = TokenRequestOptions::new()
///     .ip("192.0.2.7, 198.51.100.2")?
///     .min_remaining(Duration::from_secs(120));
/// assert!(TokenRequestOptions::new().ip("localhost").is_err());
/// # Ok::<(), ccg_session::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRequestOptions {
    ip: Option<Box<str>>,
    min_remaining: Duration,
}

impl TokenRequestOptions {
    pub(crate) const NONE: Self = Self { ip: None, min_remaining: Duration::ZERO };

    /// Nothing special.
    pub fn new() -> Self {
        Self::default()
    }

    /// On whose behalf this is asked: an IP address, or a chain of them separated by commas, sent as
    /// `X-Forwarded-For` with every request that this call causes. Default: no such header.
    ///
    /// It belongs to the request, never to the token: a token that is already there is given as it is.
    ///
    /// # Errors
    /// If it is not a list of addresses.
    #[doc(alias = "tokenRequestOptions")]
    pub fn ip(mut self, ip: &str) -> Result<Self, ConfigError> {
        let mut addresses = Vec::new();
        for part in ip.split(',') {
            let address: IpAddr = part.trim().parse().map_err(|_| {
                ConfigError::new(
                    "ip",
                    format!(
                        "is {ip:?}, but must be an IP address, or several separated by commas, \
                         such as \"192.0.2.7, 198.51.100.2\""
                    ),
                )
            })?;
            addresses.push(address.to_string());
        }
        self.ip = Some(addresses.join(", ").into());
        Ok(self)
    }

    /// How much life the token should have left. Counts as at most nine tenths of the token's
    /// lifetime; waits for at most one attempt, and then takes the usable token there is. Default:
    /// zero. In an exchange it is the subject token that this asks for.
    #[must_use]
    pub fn min_remaining(mut self, life: Duration) -> Self {
        self.min_remaining = life;
        self
    }

    pub(crate) fn get_min_remaining(&self) -> Duration {
        self.min_remaining
    }

    /// What to send as `X-Forwarded-For`.
    pub fn forwarded_for(&self) -> Option<&str> {
        self.ip.as_deref()
    }
}

/// A narrower token that a caller wants: what it may do, where, and for whom (RFC 8693 §2.1). Goes to
/// [`SessionHandle::exchange`](crate::SessionHandle::exchange). Left empty, the server decides.
///
/// Two requests that would give the same token share it: it is cached, and asked for once. Their
/// [`options`](Self::options) may differ, and the order of their scopes.
///
/// ```
/// use ccg_session::{Actor, ExchangeRequest};
///
/// let preview = ExchangeRequest::scopes(["item_preview"])
///     .resource("https://api.box.com/2.0/files/123")
///     .actor(Actor::new("annotator-7", "Ada"));
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ExchangeRequest {
    /// `scope`, in the caller's order.
    pub scopes: Vec<String>,
    /// `resource`, repeated.
    pub resources: Vec<String>,
    /// `audience`, repeated.
    pub audiences: Vec<String>,
    /// Whom Box's `actor_token` shall name.
    pub actor: Option<Actor>,
    /// `box_shared_link`.
    pub shared_link: Option<String>,
    /// `requested_token_type`.
    pub requested_token_type: Option<String>,
    /// Other parameters of the form, none of which the protocol itself uses.
    pub params: Vec<(String, String)>,
    /// What belongs to the request, not to the token.
    pub options: TokenRequestOptions,
}

impl ExchangeRequest {
    /// A token with these scopes at the most.
    pub fn scopes<S: Into<String>>(scopes: impl IntoIterator<Item = S>) -> Self {
        Self { scopes: scopes.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Where the token shall be of use (RFC 8693 §2.1 and RFC 8707): one more `resource`.
    #[must_use]
    pub fn resource(mut self, uri: impl Into<String>) -> Self {
        self.resources.push(uri.into());
        self
    }

    /// Whom the token shall be of use with (RFC 8693 §2.1): one more `audience`.
    #[must_use]
    pub fn audience(mut self, name: impl Into<String>) -> Self {
        self.audiences.push(name.into());
        self
    }

    /// On whose behalf the token will be used (`actor_token`, RFC 8693 §2.1), as Box wants it for its
    /// annotators. Only Box's providers know of it; for another server's, see [`param`](Self::param).
    #[must_use]
    pub fn actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Restricts the token to what this shared link reaches (`box_shared_link` in Box's
    /// [guide](https://developer.box.com/guides/authentication/tokens/downscope)). Box takes none with a
    /// password, and none together with a [`resource`](Self::resource).
    #[must_use]
    pub fn shared_link(mut self, link: impl Into<String>) -> Self {
        self.shared_link = Some(link.into());
        self
    }

    /// What kind of token is wanted (RFC 8693 §3). Default: the server decides.
    #[must_use]
    pub fn requested_token_type(mut self, uri: impl Into<String>) -> Self {
        self.requested_token_type = Some(uri.into());
        self
    }

    /// One more parameter of the exchange's form. One that the protocol itself uses, such as
    /// `subject_token`, is refused by [`exchange`](crate::SessionHandle::exchange).
    #[must_use]
    pub fn param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.params.push((name.into(), value.into()));
        self
    }

    /// These go with the exchange, and with the grant that it may have to open.
    #[must_use]
    pub fn options(mut self, options: TokenRequestOptions) -> Self {
        self.options = options;
        self
    }

    pub(crate) fn key(&self) -> ExchangeKey {
        let mut params = self.params.clone();
        params.sort();
        ExchangeKey {
            scopes: self.scopes.iter().cloned().collect(),
            resources: without_doubles(&self.resources),
            audiences: without_doubles(&self.audiences),
            actor: self.actor.clone(),
            shared_link: self.shared_link.clone(),
            requested_token_type: self.requested_token_type.clone(),
            params,
        }
    }
}

/// A parameter of the user's own may be a token or an assertion, and whoever has a shared link may follow
/// it: neither is shown.
impl fmt::Debug for ExchangeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeRequest")
            .field("scopes", &self.scopes)
            .field("resources", &self.resources)
            .field("audiences", &self.audiences)
            .field("actor", &self.actor)
            .field("shared_link", &self.shared_link.as_ref().map(|_| "[redacted]"))
            .field("requested_token_type", &self.requested_token_type)
            .field("params", &names(&self.params))
            .field("options", &self.options)
            .finish()
    }
}

fn names(params: &[(String, String)]) -> Vec<&str> {
    params.iter().map(|(name, _)| name.as_str()).collect()
}

fn without_doubles(values: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    values.iter().filter(|value| seen.insert(*value)).cloned().collect()
}

/// Every parameter that changes the token, so that nobody is given another request's: the options are
/// not among them, since they belong to the request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExchangeKey {
    scopes: BTreeSet<String>,
    resources: Vec<String>,
    audiences: Vec<String>,
    actor: Option<Actor>,
    shared_link: Option<String>,
    requested_token_type: Option<String>,
    params: Vec<(String, String)>,
}

/// As that of an [`ExchangeRequest`].
impl fmt::Debug for ExchangeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeKey")
            .field("scopes", &self.scopes)
            .field("resources", &self.resources)
            .field("audiences", &self.audiences)
            .field("actor", &self.actor)
            .field("shared_link", &self.shared_link.as_ref().map(|_| "[redacted]"))
            .field("requested_token_type", &self.requested_token_type)
            .field("params", &names(&self.params))
            .finish()
    }
}

/// A person who has no account, on whose behalf a token is used: Box's annotator.
/// See <https://developer.box.com/guides/embed/ui-elements/custom-annotator-name>.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Actor {
    /// Tells actors apart: the actor token's `sub`.
    pub id: String,
    /// What others see.
    pub name: String,
}

impl Actor {
    /// `id` tells actors apart, `name` is what others see.
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self { id: id.into(), name: name.into() }
    }
}
