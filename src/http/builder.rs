//! What can be set, and what is refused before anything is sent.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Proxy, redirect, retry};
use secrecy::{ExposeSecret, SecretString};

use super::client_auth::{ClientAuth, ClientIdentity};
use super::credential::Credential;
use super::dpop::{Dpop, DpopKey};
use super::event::Sender;
use super::limits::CONNECT_TIMEOUT;
use super::provider::Provider;
use super::proxy::Proxies;
use super::response::Cause;
use super::server_clock::ServerClock;
use super::tls::Tls;
use super::{HttpTokenManager, Shared};
use crate::error::ConfigError;

/// Builds an [`HttpTokenManager`]: from [`HttpTokenManager::builder`] to [`build`](Self::build).
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpTokenManagerBuilder {
    provider: Provider,
    client_id: String,
    credential: Credential,
    client: Option<Client>,
    proxy: Option<SecretString>,
    tls: Tls,
    dpop: Option<DpopKey>,
    connect_timeout: Option<Duration>,
    allow_insecure_http: bool,
}

impl HttpTokenManagerBuilder {
    /// All defaults.
    pub(super) fn new(provider: Provider, client_id: String, credential: Credential) -> Self {
        Self {
            provider,
            client_id,
            credential,
            client: None,
            proxy: None,
            tls: Tls::default(),
            dpop: None,
            connect_timeout: None,
            allow_insecure_http: false,
        }
    }

    /// How long connecting may take, including TLS. Default: 5 seconds. A value longer than the session's
    /// [`attempt_timeout`](crate::RetryPolicy::attempt_timeout) is rejected when the session is spawned.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Whether the client's secret and tokens may be sent without TLS. Default: only to loopback addresses,
    /// where `http:` is always allowed. A malicious plain-HTTP server can block a runtime thread for a few
    /// seconds, with endless interim responses or an endless chunk size.
    pub fn allow_insecure_http(mut self, allow: bool) -> Self {
        self.allow_insecure_http = allow;
        self
    }

    /// Binds every token to this key (`DPoP`, RFC 9449). If the server does not support this and returns a bearer
    /// token, the attempt fails (§5). Default: bearer tokens.
    pub fn dpop(mut self, key: DpopKey) -> Self {
        self.dpop = Some(key);
        self
    }

    /// Trusts the certificates in this PEM string in addition to the platform's, for a server with a private
    /// CA. May be called repeatedly. Default: none.
    pub fn root_certificate(mut self, pem: impl Into<String>) -> Self {
        self.tls.roots.push(pem.into());
        self
    }

    /// Presents this certificate to a server that asks for one, as [`ClientAuth::TlsClient`] needs it (mTLS,
    /// RFC 8705). Both are PEM: the certificate chain, with the client's own certificate first, and the
    /// unencrypted private key. They are read once, here: if the certificate is renewed while the program runs,
    /// use a [client of yours](Self::http_client). If the server's metadata names addresses for clients with a
    /// certificate (RFC 8705 §5), requests go there.
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

    /// Sends all requests except those to loopback addresses through this proxy, regardless of the environment:
    /// `http://proxy.example.com:3128`, or with `https:` or, where the feature `socks` is on, `socks5:`;
    /// optionally with a user name and password. Default: taken from the environment.
    pub fn proxy(mut self, url: impl Into<SecretString>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Uses your own HTTP client, for example for certificates that are renewed at run time. Its own settings
    /// apply, so [`connect_timeout`](Self::connect_timeout), [`proxy`](Self::proxy),
    /// [`root_certificate`](Self::root_certificate) and [`client_certificate`](Self::client_certificate) are
    /// rejected in combination with it. Default: a client built for this purpose.
    ///
    /// It must not follow redirects (they could send the secret elsewhere) and must not retry (the session
    /// limits requests itself). It should not keep idle connections:
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

    /// Builds the manager. Nothing is sent yet.
    ///
    /// # Errors
    /// Names the first invalid setting, its value unless it is secret, and what is allowed. White space around
    /// an id, URL, audience, scope or assertion is ignored; inside one it is an error. Other errors are: an
    /// empty `client_id`, secret or subject; a credential that is missing, or not needed; a key that is invalid
    /// or does not fit its algorithm; an invalid URL, or one with a fragment or password or without TLS; a
    /// parameter that the protocol itself uses; invalid certificates; an invalid proxy, set here or in the
    /// environment; a `resource` that is not an absolute URI; a connect timeout of zero; settings that have no
    /// effect on your own client; and a system without CA certificates.
    pub fn build(self) -> Result<HttpTokenManager, ConfigError> {
        let Self { provider, connect_timeout, .. } = self;
        let identity = ClientIdentity::new(
            &self.client_id,
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
        let sender = match self.client {
            Some(_) if !self.tls.is_default() => {
                return Err(ConfigError::new(
                    "http_client",
                    "is your own client, on which root_certificate and client_certificate have no effect: \
                        set them on that client",
                ));
            }
            Some(_) if connect_timeout.is_some() => {
                return Err(ConfigError::new(
                    "connect_timeout",
                    "has no effect on a client of yours: set it there",
                ));
            }
            Some(_) if self.proxy.is_some() => {
                return Err(ConfigError::new(
                    "proxy",
                    "has no effect on a client of yours: set it there",
                ));
            }
            Some(client) => Sender::new(client, Proxies::default()),
            None => {
                let proxies = match &self.proxy {
                    Some(proxy) => Proxies::only(proxy.expose_secret())?,
                    None if addresses.all_are_local() => Proxies::default(),
                    None => Proxies::from_env(|name| {
                        // What is no UTF-8 is no address either, and is said to be none.
                        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
                    })?,
                };
                let timeout = connect_timeout.unwrap_or(CONNECT_TIMEOUT);
                let tls = self.tls.config(addresses.need_tls())?;
                let client = client(timeout, tls, proxies.clone())
                    .map_err(|problem| ConfigError::new("http_client", problem))?;
                Sender::new(client, proxies)
            }
        };
        let scope = provider.scope_text();
        let subject = provider.subject().cloned();
        let dpop = self.dpop.map(Dpop::new);
        let server_clock = ServerClock::default();
        let shared =
            Shared { provider, addresses, identity, dpop, server_clock, sender, connect_timeout };
        Ok(HttpTokenManager { shared: Arc::new(shared), subject, scope })
    }
}

/// A client that makes one request at a time, and does not think for itself.
pub(super) fn client(
    connect_timeout: Duration,
    tls: rustls::ClientConfig,
    proxies: Proxies,
) -> Result<Client, String> {
    Client::builder()
        .no_proxy()
        .proxy(Proxy::custom(move |url| proxies.of(url).cloned()))
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("ccg-session/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect_timeout)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| {
            format!("could not be made ({}): give a client of yours", Cause::of(&error, &[]))
        })
}

#[cfg(test)]
mod tests;
