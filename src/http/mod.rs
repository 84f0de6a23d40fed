//! [`HttpTokenManager`]: sends one HTTP request per attempt and reports its result.
//!
//! From what is set to what is known:
//!
//! | file | what it answers |
//! |---|---|
//! | [`builder`], [`blanks`] | what can be set, and what is refused before anything is sent |
//! | [`provider`], `presets.rs` | whom to ask, and what to say |
//! | [`address`], [`discovery`] | where its endpoints are |
//! | [`client_auth`], [`assertion`], [`credential`] | how the client proves who it is, and with what |
//! | [`keys`], [`pem`], [`as_text`], [`jwt`], [`dpop`] | what is signed, and how a key is read |
//! | [`form`], [`exchange`] | what a request says |
//! | [`request`], [`event`] | what one attempt sends, and how often; what a log says of it |
//! | [`response`], [`wire`], [`introspection`] | how an answer arrives, and what it means |
//! | [`words`] | what of a server's words may be shown |
//! | [`proxy`], [`server_clock`] | which proxy it goes through; what time it is at the other end |
//! | [`tls`], [`crypto`] | whom the connection trusts, and on which library |
//! | [`limits`], [`names`] | the constants: how long and how much; headers and URNs |

mod address;
mod as_text;
mod assertion;
mod blanks;
mod builder;
mod client_auth;
mod credential;
pub(crate) mod crypto;
mod discovery;
mod dpop;
mod event;
mod exchange;
mod form;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod introspection;
mod jwt;
mod keys;
mod limits;
mod names;
mod pem;
mod presets;
mod provider;
mod proxy;
mod request;
mod response;
mod server_clock;
pub(crate) mod tls;
#[cfg(feature = "testing")]
pub(crate) mod verify;
mod wire;
mod words;

use std::sync::Arc;
use std::time::Duration;

pub use assertion::{AssertionAudience, JwtAuth};
pub use builder::HttpTokenManagerBuilder;
pub use client_auth::ClientAuth;
pub use credential::Credential;
pub use discovery::Endpoints;
pub use dpop::DpopKey;
pub use introspection::Introspection;
pub use keys::JwtAlgorithm;
pub use provider::{Provider, Subject};

use crate::config::SessionConfig;
use crate::error::{ConfigError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::identity::Identity;
use crate::manager::TokenManager;
use crate::request::GrantRequest;
use crate::request::{ExchangeRequest, TokenRequestOptions};
use crate::token::AccessToken;
use client_auth::ClientIdentity;
use discovery::Addresses;
use dpop::Dpop;
use event::Sender;
use form::{Form, scope_text};
use request::{Request, no_endpoint, refused};
use server_clock::ServerClock;
use wire::{Asked, ServerAnswer};

/// Gets tokens from an OAuth 2.0 server over HTTP.
///
/// - Each attempt is one request, or two if the server demands a nonce in the [proof](DpopKey). Before the
///   first attempt with a [discovered](Provider::discover) provider, metadata is fetched from up to three URLs.
///   Requests are not repeated otherwise, and redirects are not followed.
/// - Connections are not kept alive, since one that has been idle for most of a token's life is likely to be
///   dead. At most 1 MiB of an answer is read.
/// - TLS is rustls with aws-lc-rs (or ring: the feature `ring` without `aws-lc`), whatever the process's default is, and
///   trusts what the platform trusts.
/// - Proxies are taken from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper
///   or lower case), unless [one is set](HttpTokenManagerBuilder::proxy). Requests to this machine never go
///   through a proxy. An invalid variable is rejected in [`build`](HttpTokenManagerBuilder::build).
///
/// # FAPI 2.0
/// What the [security profile](https://openid.net/specs/fapi-security-profile-2_0-final.html) requires of a
/// client: it authenticates with its own key, with the issuer as the audience, and its tokens are bound to a
/// key. The other requirements are met by default.
///
/// ```no_run
/// use ccg_session::{
///     AssertionAudience, ClientAuth, Credential, DpopKey, HttpTokenManager, JwtAlgorithm, JwtAuth, Provider,
/// };
///
/// # fn main() -> Result<(), ccg_session::ConfigError> {
/// let auth = JwtAuth::new().algorithm(JwtAlgorithm::Ps256).audience(AssertionAudience::Issuer);
/// let provider =
///     Provider::discover("https://as.example.com").client_auth(ClientAuth::PrivateKeyJwt(auth));
/// let manager =
///     HttpTokenManager::builder(provider, "client-id", Credential::file("/run/secrets/client-key.pem"))
///         .dpop(DpopKey::generate()?)
///         .build()?;
/// # Ok(()) }
/// ```
///
/// A [`Session`](crate::Session) calls it. The manager itself neither repeats attempts nor limits their time.
///
/// ```no_run
/// use ccg_session::{HttpTokenManager, Provider, Subject};
///
/// # fn main() -> Result<(), ccg_session::ConfigError> {
/// let secret = "from a safe place";
/// let manager =
///     HttpTokenManager::builder(Provider::box_ccg(Subject::enterprise("12345")), "client-id", secret)
///         .build()?;
/// # Ok(()) }
/// ```
///
/// # Many subjects
/// A manager is expensive to build, since its client reads the machine's CA certificates, but cheap to clone:
/// clones share the HTTP client, endpoints and client identity. The same holds for managers with [another
/// subject](Self::for_subject) or [other scopes](Self::with_scopes). Build one and derive the others from it.
#[derive(Clone, Debug)]
pub struct HttpTokenManager {
    shared: Arc<Shared>,
    subject: Option<Subject>,
    /// As it is sent.
    scope: String,
}

/// What is the same for all managers that were made from one: nothing of it depends on whom a token is for.
#[derive(Debug)]
struct Shared {
    provider: Provider,
    addresses: Addresses,
    identity: ClientIdentity,
    dpop: Option<Dpop>,
    server_clock: ServerClock,
    sender: Sender,
    /// As it was set, if it was.
    connect_timeout: Option<Duration>,
}

impl HttpTokenManager {
    /// A builder for this provider and client id. The [credential](Credential) is a secret (a string works), or
    /// a source to read it from.
    pub fn builder(
        provider: Provider,
        client_id: impl Into<String>,
        credential: impl Into<Credential>,
    ) -> HttpTokenManagerBuilder {
        HttpTokenManagerBuilder::new(provider, client_id.into(), credential.into())
    }

    /// This manager for another subject of Box, in place of its provider's. Nothing is rebuilt: both share the
    /// HTTP client, endpoints, client identity and `DPoP` key. An invalid id, or a subject for a provider other
    /// than Box, is rejected when the session is spawned.
    ///
    /// ```
    /// use ccg_session::{ConfigError, HttpTokenManager, Session, SessionHandle, Subject};
    ///
    /// fn session_of_user(base: &HttpTokenManager, user: &str) -> Result<SessionHandle, ConfigError> {
    ///     Session::builder(base.for_subject(Subject::user(user))).spawn()
    /// }
    /// ```
    #[must_use]
    pub fn for_subject(&self, subject: Subject) -> Self {
        Self { subject: Some(subject), ..self.clone() }
    }

    /// This manager with these scopes in place of its provider's; with none, the server decides. As with
    /// [`for_subject`](Self::for_subject), nothing is rebuilt, and an invalid scope is rejected when the
    /// session is spawned.
    #[must_use]
    pub fn with_scopes<S: Into<String>>(&self, scopes: impl IntoIterator<Item = S>) -> Self {
        let scopes: Vec<String> = scopes.into_iter().map(Into::into).collect();
        Self { scope: scope_text(&scopes), ..self.clone() }
    }

    /// Whom the grant is for and what it asks for, or what of that cannot be sent.
    fn grant_form(&self) -> Result<Form<'_>, ConfigError> {
        self.shared.provider.grant_form(self.subject.as_ref(), &self.scope)
    }
}

impl TokenManager for HttpTokenManager {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        let form = self.grant_form().map_err(|error| refused(error.to_string()))?;
        let (credential, endpoints) = self.prepare().await?;
        let (endpoint, options) = (endpoints.of_tokens(), &request.options);
        let secrets = self.shared.provider.secrets().collect();
        let request = Request { endpoint, form, options, secrets, credential: credential.as_ref() };
        self.ask(&request, |answer| answer.token(Asked::Grant)).await
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        let texts =
            exchange::Texts::new(&request, self.shared.identity.id(), &self.shared.provider)
                .map_err(refused)?;
        let form = exchange::form(subject.secret(), &request, &texts).map_err(refused)?;
        let (credential, endpoints) = self.prepare().await?;
        let (endpoint, options) = (endpoints.of_tokens(), &request.options);
        let secrets = exchange::secrets(subject.secret(), &request, &texts).collect();
        let request = Request { endpoint, form, options, secrets, credential: credential.as_ref() };
        self.ask(&request, |answer| answer.token(Asked::Exchange)).await
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        let (credential, endpoints) = self.prepare().await?;
        let address = endpoints.revocation.as_ref().ok_or_else(|| no_endpoint("revocation"))?;
        let (endpoint, token) = (endpoints.other(address), token.expose());
        let mut form = vec![("token", token)];
        form.extend(self.shared.provider.revocation_hint());
        let (options, secrets) = (&options, vec![token]);
        let request = Request { endpoint, form, options, secrets, credential: credential.as_ref() };
        self.ask(&request, |answer: &ServerAnswer<'_>| answer.revocation()).await
    }

    fn can_exchange(&self) -> bool {
        true
    }

    fn can_revoke(&self) -> bool {
        self.shared.addresses.known().is_none_or(|known| known.revocation.is_some())
    }

    fn assumed_lifetime(&self) -> Duration {
        self.shared.provider.assumed_lifetime
    }

    /// All that is sent, and where, but for secrets. `None` with [`ClientAuth::Assertion`] and
    /// [`ClientAuth::TlsClient`]: there the credential says whose token it is.
    fn identity(&self) -> Option<Identity> {
        let Self { shared, subject: _, scope: _ } = self;
        let Shared {
            provider,
            addresses: _,
            identity: client,
            dpop,
            server_clock: _,
            sender: _,
            connect_timeout: _,
        } = &**shared;
        let mut identity = client.identify(provider.identify(Identity::new()))?;
        for (nth, (name, value)) in self.grant_form().ok()?.into_iter().enumerate() {
            if name == "scope" {
                // In any order they are the same.
                for scope in value.split(' ') {
                    identity = identity.with("scope", scope);
                }
            } else if provider.secrets().any(|secret| secret == value) {
                identity = identity.with(format!("{nth} {name}, hashed"), keys::sha256(value));
            } else {
                identity = identity.with(format!("{nth} {name}"), value);
            }
        }
        Some(match dpop {
            Some(dpop) => identity.with("dpop_key", dpop.key.thumbprint()),
            None => identity,
        })
    }

    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        self.grant_form()?;
        let attempt = config.retry.attempt_timeout;
        match self.shared.connect_timeout {
            Some(connect) if connect > attempt => Err(ConfigError::new(
                "connect_timeout",
                format!(
                    "is {}, but an attempt may take only {} (retry.attempt_timeout): it must not \
                     be longer than that",
                    humantime::format_duration(connect),
                    humantime::format_duration(attempt)
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl HttpTokenManager {
    /// The endpoint URLs. If they are to be [discovered](Provider::discover) and not known yet, this fetches
    /// the metadata; the credential is read before that, so that no text of the server's can show it. There is no
    /// built-in time limit: wrap this call in a timeout. (A session owns its manager,
    /// so call this on a clone.)
    ///
    /// # Errors
    /// The errors of discovery.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn endpoints(&self) -> Result<Endpoints, TokenError> {
        let credential = match &self.shared.addresses {
            Addresses::Given(_) => None,
            // One that cannot be read is not sent either.
            Addresses::Discovered(_) => {
                self.shared.identity.credential().read().await.ok().flatten()
            }
        };
        Ok(Endpoints::clone(&*self.addresses(credential.as_ref()).await?))
    }

    /// Whether the server says that this token is active (RFC 7662). Sends one request; for diagnostics and
    /// tests. A 200 response to a revocation does not prove that the token was revoked; this does. Sessions
    /// never call this. As with [`endpoints`](Self::endpoints), call it on a clone, with a timeout.
    ///
    /// # Errors
    /// As those of an attempt; [`Denied`](TokenError::Denied) with status zero if the provider has no
    /// introspection endpoint. The server may refuse to answer this client, or about this token.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_active(&self, token: &str) -> Result<bool, TokenError> {
        Ok(self.introspect(token).await?.active)
    }
}
