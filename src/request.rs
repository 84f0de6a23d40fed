//! What a caller asks for.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;
use crate::grant::TokenText;

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
#[cfg_attr(test, derive(Hash))]
pub struct TokenRequestOptions {
    ip: Option<Box<str>>,
    min_remaining: Duration,
}

impl TokenRequestOptions {
    pub(crate) const NONE: Self = Self { ip: None, min_remaining: Duration::ZERO };

    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// The IP address on whose behalf the call is made, or a comma-separated chain of addresses. It is sent as
    /// `X-Forwarded-For` with every request that this call causes. Default: no such header.
    ///
    /// It affects only requests, not tokens: an existing token is returned as it is.
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

    /// How much lifetime the token should have left, capped at nine tenths of its total lifetime. The call
    /// waits for at most one attempt, then returns the usable token that there is. Default: zero. In an
    /// exchange this applies to the subject token.
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

/// What a grant attempt is asked for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GrantRequest {
    /// From the caller that opened the flight.
    pub options: TokenRequestOptions,
    /// The token last invalidated or revoked. A manager that caches tokens must not return it.
    pub refused: Option<TokenText>,
    /// The token that the session holds, usable or not, and wants to replace. A manager that caches tokens must
    /// not return it either.
    pub replaces: Option<TokenText>,
    /// Every token that was revoked and may be alive.
    pub marked: Option<Arc<[TokenText]>>,
    /// How long this attempt may take. `None`: assume 10 seconds.
    pub timeout: Option<Duration>,
}

impl GrantRequest {
    /// Whether this token was invalidated or revoked: the session needs another one. If the manager returns a
    /// revoked one, the attempt counts as failed.
    pub fn is_refused(&self, token: &TokenText) -> bool {
        let mut marked = self.marked.iter().flat_map(|marked| marked.iter());
        self.refused.as_ref() == Some(token) || marked.any(|marked| marked == token)
    }
}

/// The purpose of an attempt that waits for its [`Permit`](crate::Permit).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PermitRequest {
    /// A grant, which will be asked for with this or what has become of it by then.
    Grant(GrantRequest),
    /// An exchange.
    Exchange,
}

/// A narrower token that a caller wants: what it may do, where, and for whom (RFC 8693 §2.1). Goes to
/// [`SessionHandle::exchange`](crate::SessionHandle::exchange). Left empty, the server decides.
///
/// Requests for the same token share it: it is fetched once and cached. They may differ in their
/// [`options`](Self::options) and in the order of their scopes.
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
#[cfg_attr(test, derive(Hash))]
pub struct ExchangeRequest {
    /// `scope`, in the caller's order.
    pub scopes: Vec<String>,
    /// `resource`, repeated.
    pub resources: Vec<String>,
    /// `audience`, repeated.
    pub audiences: Vec<String>,
    /// The actor that Box's `actor_token` names.
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
    /// A token with at most these scopes.
    pub fn scopes<S: Into<String>>(scopes: impl IntoIterator<Item = S>) -> Self {
        Self { scopes: scopes.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// A resource that the token is for (RFC 8693 §2.1 and RFC 8707): one more `resource`.
    #[must_use]
    pub fn resource(mut self, uri: impl Into<String>) -> Self {
        self.resources.push(uri.into());
        self
    }

    /// The audience that the token is for (RFC 8693 §2.1): one more `audience`.
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
    /// [guide](https://developer.box.com/guides/authentication/tokens/downscope)). Box accepts neither a link
    /// with a password nor a link together with a [`resource`](Self::resource).
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
    /// `subject_token`, is refused by an [`HttpTokenManager`](crate::HttpTokenManager).
    #[must_use]
    pub fn param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.params.push((name.into(), value.into()));
        self
    }

    /// They apply to the exchange, and to the grant that it may need first.
    #[must_use]
    pub fn options(mut self, options: TokenRequestOptions) -> Self {
        self.options = options;
        self
    }

    pub(crate) fn key(&self) -> ExchangeKey {
        // Whoever adds a field decides here whether it changes the token.
        let Self {
            scopes,
            resources,
            audiences,
            actor,
            shared_link,
            requested_token_type,
            params,
            options: _,
        } = self;
        let mut key = Vec::with_capacity(128);
        let scopes: BTreeSet<_> = scopes.iter().collect();
        add(&mut key, scopes);
        add(&mut key, without_doubles(resources));
        add(&mut key, without_doubles(audiences));
        add(&mut key, actor.iter().flat_map(|Actor { id, name }| [id, name]));
        add(&mut key, shared_link);
        add(&mut key, requested_token_type);
        // Of one name the order may matter, as that of resources does.
        let mut params: Vec<_> = params.iter().collect();
        params.sort_by_key(|(name, _)| name);
        add(&mut key, params.into_iter().flat_map(|(name, value)| [name, value]));
        ExchangeKey(key)
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

fn without_doubles(values: &[String]) -> impl Iterator<Item = &String> {
    let mut seen = BTreeSet::new();
    values.iter().filter(move |value| seen.insert(*value))
}

/// Adds a list, each of its strings with its length. So no two lists of lists are the same bytes.
fn add<'a>(key: &mut Vec<u8>, strings: impl IntoIterator<Item = &'a String>) {
    for string in strings {
        key.push(1);
        key.extend(string.len().to_le_bytes());
        key.extend(string.as_bytes());
    }
    key.push(0);
}

/// Every parameter that changes the token, so that nobody is given another request's: the options are
/// not among them, since they belong to the request.
///
/// In one piece: each call hashes and compares it, and what lies in many places is looked for in many.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeKey(Vec<u8>);

/// What is in it may be secret: see the [`ExchangeRequest`].
impl fmt::Debug for ExchangeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeKey").finish_non_exhaustive()
    }
}

/// A person who has no account, on whose behalf a token is used: Box's annotator.
/// See <https://developer.box.com/guides/embed/ui-elements/custom-annotator-name>.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
