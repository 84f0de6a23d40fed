//! [`HttpTokenManager`]: one HTTP request for each attempt, and an honest report of it.

mod client_auth;
mod discovery;
mod exchange;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod presets;
mod provider;
mod wire;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::http::HeaderValue;
use ::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, redirect, retry};
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::SecretString;
use url::{Url, form_urlencoded};

pub use client_auth::ClientAuth;
pub use discovery::Endpoints;
pub use provider::{Provider, Subject};

use crate::config::SessionConfig;
use crate::error::{ConfigError, TokenError};
use crate::manager::{ExchangeRequest, Grant, GrantRequest, TokenManager, TokenRequestOptions};
use crate::token::{AccessToken, TokenText};
use client_auth::Credentials;
use discovery::{Addresses, nobody_there};
use wire::{Answer, Asked};

/// Gets tokens from an OAuth 2.0 server over HTTP.
///
/// Each attempt is one request. It is never repeated and follows no redirect; its connection is not
/// kept for the next one, since one that sat idle for most of a token's life is likely to be dead. At
/// most 1 MiB of an answer is read. TLS is rustls with ring, whatever the process's default is, and
/// trusts what the platform trusts. Proxies are taken from the environment (`HTTPS_PROXY` and the
/// like), as reqwest does, except for a server on this machine.
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
    credentials: Credentials,
    client: Client,
    /// As it was set, if it was.
    connect_timeout: Option<Duration>,
}

/// Builds an [`HttpTokenManager`].
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpTokenManagerBuilder {
    provider: Provider,
    client_id: String,
    client_secret: SecretString,
    client: Option<Client>,
    connect_timeout: Option<Duration>,
    allow_insecure_http: bool,
}

impl HttpTokenManager {
    /// For this provider, as this client.
    pub fn builder(
        provider: Provider,
        client_id: impl Into<String>,
        client_secret: impl Into<SecretString>,
    ) -> HttpTokenManagerBuilder {
        HttpTokenManagerBuilder {
            provider,
            client_id: client_id.into(),
            client_secret: client_secret.into(),
            client: None,
            connect_timeout: None,
            allow_insecure_http: false,
        }
    }
}

impl HttpTokenManagerBuilder {
    /// How long connecting may take, TLS included. Default: 5 seconds. One that is longer than the
    /// session's `attempt_timeout` is refused when the session is spawned.
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

    /// A client of yours, say for a CA, a client certificate or a proxy. Its connect timeout counts,
    /// so [`connect_timeout`](Self::connect_timeout) is refused next to it. Default: one made for this.
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
    /// an empty `client_id`, `client_secret` or subject; a URL that is none, has a fragment or a
    /// password in it, or lacks TLS; a parameter that the protocol itself uses; a connect timeout of
    /// zero, or next to a client of yours; and a system without CA certificates.
    pub fn build(self) -> Result<HttpTokenManager, ConfigError> {
        let Self { provider, connect_timeout, .. } = self;
        let credentials =
            Credentials::new(self.client_id, self.client_secret, provider.client_auth)?;
        let addresses = provider.check(self.allow_insecure_http)?;
        if connect_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ConfigError::new(
                "connect_timeout",
                "is 0s, but then no connection could be made: leave it out for 5s",
            ));
        }
        let client = match self.client {
            Some(_) if connect_timeout.is_some() => {
                return Err(ConfigError::new(
                    "connect_timeout",
                    "has no effect on a client of yours: set it there",
                ));
            }
            Some(client) => client,
            None => {
                let timeout = connect_timeout.unwrap_or(Duration::from_secs(5));
                client(timeout, &addresses)
                    .map_err(|problem| ConfigError::new("http_client", problem))?
            }
        };
        let scope = provider.scope_text();
        Ok(HttpTokenManager { provider, scope, addresses, credentials, client, connect_timeout })
    }
}

/// A client that makes one request at a time, and does not think for itself.
fn client(connect_timeout: Duration, addresses: &Addresses) -> Result<Client, String> {
    let tls = tls(addresses.need_tls()).map_err(|error| {
        format!("could not be made ({error}): install CA certificates, or give a client of yours")
    })?;
    let mut builder = Client::builder();
    if addresses.are_local() {
        // A proxy would see what is only allowed in clear because it stays on this machine.
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

/// rustls on ring. Given explicitly, since reqwest would otherwise use the process's default provider,
/// and panics where there is none. A machine without CA certificates is fine as long as no TLS is used.
fn tls(needed: bool) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?;
    let builder = match builder.clone().with_platform_verifier() {
        Err(_) if !needed => builder.with_root_certificates(rustls::RootCertStore::empty()),
        verified => verified?,
    };
    Ok(builder.with_no_client_auth())
}

impl TokenManager for HttpTokenManager {
    async fn grant(&self, request: GrantRequest) -> Result<Grant, TokenError> {
        // The names were checked when this manager was built.
        let mut form = self.provider.grant_form(&self.scope).map_err(refused)?;
        let token_url = &self.addresses.get(&self.client).await?.token;
        let authorization = self.credentials.authenticate(&mut form)?;
        let secrets: Vec<_> = self.credentials.traces().collect();
        let response = self.post(token_url, form, authorization, &request.options).await?;
        response.answer(&secrets, &self.provider.limits).token(Asked::Grant)
    }

    async fn exchange(
        &self,
        subject: AccessToken,
        request: ExchangeRequest,
    ) -> Result<Grant, TokenError> {
        let texts = exchange::Texts::new(&request, self.credentials.id(), &self.provider)
            .map_err(refused)?;
        let mut form = exchange::form(subject.secret(), &request, &texts).map_err(refused)?;
        let token_url = &self.addresses.get(&self.client).await?.token;
        let authorization = self.credentials.authenticate(&mut form)?;
        let secrets: Vec<_> = self.credentials.traces().chain([subject.secret()]).collect();
        let response = self.post(token_url, form, authorization, &request.options).await?;
        response.answer(&secrets, &self.provider.limits).token(Asked::Exchange)
    }

    async fn revoke(
        &self,
        token: TokenText,
        options: TokenRequestOptions,
    ) -> Result<(), TokenError> {
        let addresses = self.addresses.get(&self.client).await?;
        let url = addresses.revocation.as_ref().ok_or_else(|| no_endpoint("revocation"))?;
        let mut form = vec![("token", token.expose())];
        let authorization = self.credentials.authenticate(&mut form)?;
        let secrets: Vec<_> = self.credentials.traces().chain([token.expose()]).collect();
        self.post(url, form, authorization, &options)
            .await?
            .answer(&secrets, &self.provider.limits)
            .revocation()
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
    /// known yet.
    ///
    /// # Errors
    /// Those of a discovery.
    pub async fn endpoints(&self) -> Result<Endpoints, TokenError> {
        Ok(Endpoints::clone(&*self.addresses.get(&self.client).await?))
    }

    /// Whether the server says that this token is active (RFC 7662). One request, for diagnosis and tests:
    /// a 200 to a revocation is no proof that the token was revoked, this is. A session never asks.
    ///
    /// # Errors
    /// As those of an attempt; [`Denied`](TokenError::Denied) with status zero if the provider has no
    /// introspection endpoint. The server may refuse to answer this client, or about this token.
    pub async fn is_active(&self, token: &str) -> Result<bool, TokenError> {
        let addresses = self.addresses.get(&self.client).await?;
        let url = addresses.introspection.as_ref().ok_or_else(|| no_endpoint("introspection"))?;
        let mut form = vec![("token", token)];
        let authorization = self.credentials.authenticate(&mut form)?;
        let secrets: Vec<_> = self.credentials.traces().chain([token]).collect();
        let options = TokenRequestOptions::default();
        self.post(url, form, authorization, &options)
            .await?
            .answer(&secrets, &self.provider.limits)
            .introspection()
    }

    /// The one place where anything with a secret is sent.
    async fn post(
        &self,
        url: &Url,
        form: Form<'_>,
        authorization: Option<HeaderValue>,
        options: &TokenRequestOptions,
    ) -> Result<Response, TokenError> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = self
            .client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(body);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
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

    fn answer<'a>(&'a self, secrets: &'a [&'a str], limits: &'a [(String, String)]) -> Answer<'a> {
        Answer {
            status: self.status,
            headers: &self.headers,
            body: self.body.as_deref(),
            received: self.received,
            secrets,
            limits,
        }
    }
}

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
    TokenError::denied("unsupported", format!("this provider has no {what} endpoint"))
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
