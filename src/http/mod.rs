//! [`HttpTokenManager`]: one HTTP request for each attempt, and an honest report of it.

mod client_auth;
mod credential;
mod crypto;
mod discovery;
mod dpop;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod keys;
mod presets;
mod provider;
mod tls;
mod wire;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE};
use ::http::{HeaderName, HeaderValue};
use reqwest::{Client, redirect, retry};
use secrecy::SecretString;
use tokio::time::timeout;
use url::form_urlencoded;

pub use client_auth::{AssertionAudience, ClientAuth, JwtAuth};
pub use credential::Credential;
pub use discovery::Endpoints;
pub use dpop::DpopKey;
pub use keys::JwtAlgorithm;
pub use provider::{Provider, Subject};

use crate::config::SessionConfig;
use crate::error::{ConfigError, TokenError};
use crate::grant::{Grant, TokenText};
use crate::manager::TokenManager;
use crate::request::GrantRequest;
use crate::request::{ExchangeRequest, TokenRequestOptions};
use crate::token::AccessToken;
use client_auth::{ClientIdentity, Endpoint, unusable};
use discovery::{Address, Addresses, nobody_there};
use dpop::{DPOP, Dpop};
use tls::Tls;
use wire::{Answer, Asked};

/// Gets tokens from an OAuth 2.0 server over HTTP.
///
/// - Each attempt is one request, or two where the server wants a nonce in a [proof](DpopKey) that it has
///   not seen; before the first of a [discovered](Provider::discover) provider its metadata is looked for in
///   up to three places. None is repeated otherwise, and none follows a redirect.
/// - A connection is not kept for the next request, since one that sat idle for most of a token's life is
///   likely to be dead. At most 1 MiB of an answer is read.
/// - TLS is rustls with ring (or aws-lc-rs: the feature `aws-lc`), whatever the process's default is, and
///   trusts what the platform trusts.
/// - Proxies are taken from the environment (`HTTPS_PROXY` and the like), as reqwest does, unless one of
///   the server's addresses is on this machine.
///
/// A [`Session`](crate::Session) calls it. By itself it neither repeats an attempt nor bounds its time.
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
#[derive(Debug)]
pub struct HttpTokenManager {
    provider: Provider,
    /// The provider's scopes, as they are sent.
    scope: String,
    addresses: Addresses,
    identity: ClientIdentity,
    dpop: Option<Dpop>,
    client: Client,
    /// As it was set, if it was.
    connect_timeout: Option<Duration>,
}

/// Builds an [`HttpTokenManager`]: from [`HttpTokenManager::builder`] to [`build`](Self::build).
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpTokenManagerBuilder {
    provider: Provider,
    client_id: String,
    credential: Credential,
    client: Option<Client>,
    tls: Tls,
    dpop: Option<DpopKey>,
    connect_timeout: Option<Duration>,
    allow_insecure_http: bool,
}

impl HttpTokenManager {
    /// For this provider, as this client, which proves it with this [credential](Credential): a secret
    /// (a text is one), or where to read it.
    pub fn builder(
        provider: Provider,
        client_id: impl Into<String>,
        credential: impl Into<Credential>,
    ) -> HttpTokenManagerBuilder {
        HttpTokenManagerBuilder {
            provider,
            client_id: client_id.into(),
            credential: credential.into(),
            client: None,
            tls: Tls::default(),
            dpop: None,
            connect_timeout: None,
            allow_insecure_http: false,
        }
    }
}

impl HttpTokenManagerBuilder {
    /// How long connecting may take, TLS included. Default: 5 seconds. One that is longer than the
    /// session's [`attempt_timeout`](crate::RetryPolicy::attempt_timeout) is refused when the session is
    /// spawned.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Whether the client's secret and the tokens may travel without TLS. Default: no, except to a
    /// loopback address, where `http:` is always allowed.
    pub fn allow_insecure_http(mut self, allow: bool) -> Self {
        self.allow_insecure_http = allow;
        self
    }

    /// Binds every token to this key (RFC 9449). A server that does not know of it, and answers with a
    /// bearer token, is an error (§5). Default: bearer tokens.
    pub fn dpop(mut self, key: DpopKey) -> Self {
        self.dpop = Some(key);
        self
    }

    /// Trusts the certificates in this PEM text besides those that the platform trusts: for a server
    /// with a CA of its own. May be called again for more. Default: none besides.
    pub fn root_certificate(mut self, pem: impl Into<String>) -> Self {
        self.tls.roots.push(pem.into());
        self
    }

    /// Shows this certificate to a server that asks for one, as [`ClientAuth::TlsClient`] needs it
    /// (mTLS, RFC 8705). Both are PEM: the certificate with those that issued it, its own first, and its
    /// private key, not encrypted. They are read once, here: one that is renewed while the program runs
    /// needs a [client of yours](Self::http_client). If the server's metadata names addresses for clients
    /// with a certificate (RFC 8705 §5), requests go there.
    ///
    /// ```no_run
    /// use ccg_session::{ClientAuth, Credential, HttpTokenManager, Provider};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let provider =
    ///     Provider::generic("https://mtls.example.com/token").client_auth(ClientAuth::TlsClient);
    /// let manager = HttpTokenManager::builder(provider, "client-id", Credential::none())
    ///     .root_certificate(std::fs::read_to_string("/etc/tls/ca.crt")?)
    ///     .client_certificate(
    ///         std::fs::read_to_string("/etc/tls/tls.crt")?,
    ///         std::fs::read_to_string("/etc/tls/tls.key")?,
    ///     )
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn client_certificate(
        mut self,
        certificates: impl Into<String>,
        key: impl Into<SecretString>,
    ) -> Self {
        self.tls.client = Some((certificates.into(), key.into()));
        self
    }

    /// A client of yours, say for a proxy, or for certificates that are renewed while it runs. Its own
    /// settings count, so [`connect_timeout`](Self::connect_timeout),
    /// [`root_certificate`](Self::root_certificate) and
    /// [`client_certificate`](Self::client_certificate) are refused next to it. Default: one made for
    /// this.
    ///
    /// It must neither follow redirects (they would carry the secret elsewhere) nor retry (the session
    /// promises how often it asks), and had better keep no idle connections:
    ///
    /// ```
    /// # fn client() -> reqwest::Result<reqwest::Client> {
    /// reqwest::Client::builder()
    ///     .redirect(reqwest::redirect::Policy::none())
    ///     .retry(reqwest::retry::never())
    ///     .pool_max_idle_per_host(0)
    ///     .build()
    /// # }
    /// ```
    pub fn http_client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// The manager. Nothing is sent yet.
    ///
    /// # Errors
    /// Names the first setting that cannot be used, its value unless it is secret, and what would do:
    /// an empty `client_id`, secret or subject; a credential that is not there, or not needed; a key
    /// that cannot be used, or does not fit its algorithm; a URL that is none, has a fragment or a
    /// password in it, or lacks TLS; a parameter that the protocol itself uses; certificates that are
    /// none; a connect timeout of zero; what has no effect on a client of yours; and a system without
    /// CA certificates.
    pub fn build(self) -> Result<HttpTokenManager, ConfigError> {
        let Self { provider, connect_timeout, .. } = self;
        let identity = ClientIdentity::new(
            self.client_id,
            self.credential,
            provider.client_auth.clone(),
            provider.has_issuer(),
        )?;
        // One that proves itself otherwise may have its tokens bound to the certificate (RFC 8705 §3).
        let mtls = provider.client_auth == ClientAuth::TlsClient || self.tls.client.is_some();
        let addresses = provider.check(self.allow_insecure_http, mtls)?;
        if connect_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ConfigError::new(
                "connect_timeout",
                "is 0s, but then no connection could be made: leave it out for 5s",
            ));
        }
        if provider.client_auth == ClientAuth::TlsClient
            && self.client.is_none()
            && self.tls.client.is_none()
        {
            return Err(ConfigError::new(
                "client_certificate",
                "is not set, but ClientAuth::TlsClient needs one: give it, or a client of yours \
                 that has one",
            ));
        }
        let client = match self.client {
            Some(_) if !self.tls.is_default() => {
                return Err(ConfigError::new(
                    "http_client",
                    "is yours, and root_certificate and client_certificate have no effect on it: set \
                     them there",
                ));
            }
            Some(_) if connect_timeout.is_some() => {
                return Err(ConfigError::new(
                    "connect_timeout",
                    "has no effect on a client of yours: set it there",
                ));
            }
            Some(client) => client,
            None => {
                let timeout = connect_timeout.unwrap_or(Duration::from_secs(5));
                let tls = self.tls.config(addresses.need_tls())?;
                client(timeout, tls, &addresses)
                    .map_err(|problem| ConfigError::new("http_client", problem))?
            }
        };
        let scope = provider.scope_text();
        Ok(HttpTokenManager {
            provider,
            scope,
            addresses,
            identity,
            dpop: self.dpop.map(Dpop::new),
            client,
            connect_timeout,
        })
    }
}

/// A client that makes one request at a time, and does not think for itself.
fn client(
    connect_timeout: Duration,
    tls: rustls::ClientConfig,
    addresses: &Addresses,
) -> Result<Client, String> {
    let mut builder = Client::builder();
    if addresses.any_is_local() {
        // A proxy would see what is only allowed in clear because it stays on this machine. (This client
        // cannot have one for some addresses only, and such a mix is rare.)
        builder = builder.no_proxy();
    }
    builder
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("ccg-session/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect_timeout)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| format!("could not be made ({}): give a client of yours", Cause(error)))
}

impl TokenManager for HttpTokenManager {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        // The names were checked when this manager was built.
        let form = self.provider.grant_form(&self.scope).map_err(refused)?;
        let read = |answer: &Answer<'_>| answer.token(Asked::Grant);
        let endpoints = self.addresses.get(&self.client).await?;
        self.ask(&endpoints.token, endpoints.of_tokens(), form, &request.options, None, read).await
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        let texts =
            exchange::Texts::new(&request, self.identity.id(), &self.provider).map_err(refused)?;
        let form = exchange::form(subject.secret(), &request, &texts).map_err(refused)?;
        let read = |answer: &Answer<'_>| answer.token(Asked::Exchange);
        let (endpoints, token) = (self.addresses.get(&self.client).await?, subject.secret());
        let endpoint = endpoints.of_tokens();
        self.ask(&endpoints.token, endpoint, form, &request.options, Some(token), read).await
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        let endpoints = self.addresses.get(&self.client).await?;
        let address = endpoints.revocation.as_ref().ok_or_else(|| no_endpoint("revocation"))?;
        let (token, form) = (token.expose(), vec![("token", token.expose())]);
        let read = |answer: &Answer<'_>| answer.revocation();
        let endpoint = endpoints.other(address);
        self.ask(address, endpoint, form, &options, Some(token), read).await
    }

    fn can_exchange(&self) -> bool {
        true
    }

    fn can_revoke(&self) -> bool {
        self.addresses.known().is_none_or(|known| known.revocation.is_some())
    }

    fn assumed_lifetime(&self) -> Duration {
        self.provider.assumed_lifetime
    }

    fn check(&self, config: &SessionConfig) -> Result<(), ConfigError> {
        let attempt = config.retry.attempt_timeout;
        match self.connect_timeout {
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
    /// Where requests go. Asks the server if they are to be [discovered](Provider::discover) and are not
    /// known yet. No session bounds the time that this takes: put a timeout around it. (A session owns its
    /// manager: this is for one that was built besides.)
    ///
    /// # Errors
    /// Those of a discovery.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn endpoints(&self) -> Result<Endpoints, TokenError> {
        Ok(Endpoints::clone(&*self.addresses.get(&self.client).await?))
    }

    /// Whether the server says that this token is active (RFC 7662). One request, for diagnosis and tests:
    /// a 200 to a revocation is no proof that the token was revoked, this is. A session never asks; as with
    /// [`endpoints`](Self::endpoints), use a manager that was built besides, and a timeout.
    ///
    /// # Errors
    /// As those of an attempt; [`Denied`](TokenError::Denied) with status zero if the provider has no
    /// introspection endpoint. The server may refuse to answer this client, or about this token.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_active(&self, token: &str) -> Result<bool, TokenError> {
        let endpoints = self.addresses.get(&self.client).await?;
        let address =
            endpoints.introspection.as_ref().ok_or_else(|| no_endpoint("introspection"))?;
        let form = vec![("token", token)];
        let options = TokenRequestOptions::default();
        let read = |answer: &Answer<'_>| answer.introspection();
        let endpoint = endpoints.other(address);
        self.ask(address, endpoint, form, &options, Some(token), read).await
    }

    /// One attempt, with the credential as it is now: sends the form, and reads the answer.
    async fn ask<T>(
        &self,
        address: &Address,
        endpoint: Endpoint<'_>,
        form: Form<'_>,
        options: &TokenRequestOptions,
        token: Option<&str>,
        read: impl Fn(&Answer<'_>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let credential = self.identity.credential();
        let secret = credential.read().await?;
        // Only a token is bound: whoever holds one may end it, or ask about it.
        let dpop = self.dpop.as_ref().filter(|_| endpoint.gives_tokens);
        let mut nonce_is_new = false;
        loop {
            // A new assertion and a new proof each time: a server may know the last ones again.
            let identity = self.identity.prove(secret.as_ref(), endpoint)?;
            let proof = dpop.map(|dpop| dpop.proof(&address.url)).transpose();
            let proof = proof.map_err(|error| unusable(error.to_string()))?;
            let form = form.iter().copied().chain(identity.pairs());
            let headers = [(AUTHORIZATION, identity.header.as_ref()), (DPOP, proof.as_ref())];
            let response = self.post(address, form, headers, options).await?;
            let proof = proof.as_ref().and_then(|proof| proof.to_str().ok());
            let secrets: Vec<_> = identity.traces().chain(token).chain(proof).collect();
            let key = dpop.map(|dpop| &dpop.key);
            let mut result = read(&response.answer(&secrets, &self.provider.limits, key));
            let told = dpop.is_some_and(|dpop| dpop.remember(&response.headers));
            if let Err(TokenError::Denied { error, description, credentials_changed, .. }) =
                &mut result
            {
                // RFC 9449 §8: it is no refusal. Once only: a server may never be content.
                if told && error == "use_dpop_nonce" && !nonce_is_new {
                    nonce_is_new = true;
                    continue;
                }
                if (dpop.is_some() || self.provider.client_auth.depends_on_clock())
                    && let Some(clocks) = response.clocks_apart()
                {
                    *description = Some(match description.take() {
                        Some(words) => format!("{words}; {clocks}"),
                        None => clocks,
                    });
                }
                // In a time of its own: or a source that hangs would turn this refusal, which the
                // server has given, into one that took too long.
                let reread = credential.has_changed_since(secret.as_ref());
                *credentials_changed = timeout(REREAD, reread).await.unwrap_or(false);
            }
            return result;
        }
    }

    /// The one place where anything with a secret is sent.
    async fn post<'a>(
        &self,
        address: &Address,
        form: impl Iterator<Item = (&'a str, &'a str)>,
        headers: [(HeaderName, Option<&HeaderValue>); 2],
        options: &TokenRequestOptions,
    ) -> Result<Response, TokenError> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = self
            .client
            .post(address.url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(body);
        for (name, value) in headers {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        if let Some(ip) = options.forwarded_for() {
            request = request.header("x-forwarded-for", ip);
        }
        let head =
            request.send().await.map_err(transport).inspect_err(|_| self.addresses.doubt())?;
        if nobody_there(head.status()) {
            self.addresses.doubt();
        }
        Response::read(head).await
    }
}

/// How long a credential may take to be read again after a refusal.
const REREAD: Duration = Duration::from_secs(1);

/// A response that has arrived.
struct Response {
    status: ::http::StatusCode,
    headers: ::http::HeaderMap,
    body: Option<Vec<u8>>,
    received: SystemTime,
}

impl Response {
    /// Reads no more than is allowed: the server may never stop.
    async fn read(mut response: reqwest::Response) -> Result<Self, TokenError> {
        let received = SystemTime::now();
        let mut body = Some(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            body = body.filter(|body| body.len() + chunk.len() <= wire::MAX_BODY);
            let Some(body) = &mut body else { break };
            body.extend_from_slice(&chunk);
        }
        Ok(Self { status: response.status(), headers: response.headers().clone(), body, received })
    }

    /// Says so if the server's clock shows another time: servers that refuse an assertion for that
    /// reason seldom do.
    fn clocks_apart(&self) -> Option<String> {
        let date = self.headers.get(DATE)?.to_str().ok()?;
        let theirs = httpdate::parse_http_date(date).ok()?;
        let (apart, word) = match self.received.duration_since(theirs) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let apart = Duration::from_secs(apart.as_secs());
        (apart >= Duration::from_secs(60)).then(|| {
            let apart = humantime::format_duration(apart);
            format!("this machine's clock is {apart} {word} the server's, and the request is dated by it")
        })
    }

    fn answer<'a>(
        &'a self,
        secrets: &'a [&'a str],
        limits: &'a [(String, String)],
        dpop: Option<&'a DpopKey>,
    ) -> Answer<'a> {
        Answer {
            status: self.status,
            headers: &self.headers,
            body: self.body.as_deref(),
            received: self.received,
            secrets,
            limits,
            dpop,
        }
    }
}

/// Of JSON: an answer, or a part of a JWT.
type Object = serde_json::Map<String, serde_json::Value>;

/// The pairs of a form, in the order in which they are sent.
type Form<'a> = Vec<(&'a str, &'a str)>;

/// Adds the parameters that are the user's own, unless one would change what the request means.
///
/// No parameter may be there twice (RFC 6749 §3.2), but for `resource` and `audience` (RFC 8693 §2.1).
fn push_extras<'a>(
    form: &mut Form<'a>,
    extras: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), String> {
    const RESERVED: [&str; 10] = [
        "grant_type",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
        "scope",
        "subject_token",
        "subject_token_type",
        "requested_token_type",
        "token",
    ];
    for (name, value) in extras {
        if name.is_empty() {
            return Err("has an empty name: give it one, or leave it out".into());
        }
        if RESERVED.contains(&name) {
            return Err(format!(
                "{name:?} is the protocol's own: leave it out, there is a setting for it"
            ));
        }
        let repeatable = matches!(name, "resource" | "audience");
        if !repeatable && form.iter().any(|(present, _)| *present == name) {
            return Err(format!("{name:?} is there already: it can be sent only once"));
        }
        form.push((name, value));
    }
    Ok(())
}

/// A request that is not sent, since there is nowhere to send it to.
fn no_endpoint(what: &str) -> TokenError {
    let problem = format!("this provider has no {what} endpoint: if there is one, set {what}_url");
    TokenError::denied("unsupported", problem)
}

/// A request that is not sent, since it would not mean what the caller wants.
fn refused(problem: String) -> TokenError {
    TokenError::denied("invalid_request", problem)
}

fn transport(error: reqwest::Error) -> TokenError {
    TokenError::Transport { source: Arc::new(Cause(error.without_url())) }
}

/// Says what was behind an error of reqwest, whose own words are only "error sending request". Those
/// are the next in the chain of sources.
#[derive(Debug)]
struct Cause(reqwest::Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cause: &dyn Error = &self.0;
        while let Some(source) = cause.source() {
            cause = source;
        }
        fmt::Display::fmt(cause, f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests;
