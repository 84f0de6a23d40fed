//! The authority as tests hold it.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "http")]
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
#[cfg(feature = "http")]
use tokio_rustls::TlsAcceptor;

use super::counts::{Counts, Kind, ReceivedRequest};
use super::script::{Fault, LONGEST, Rule, Script};
use super::server::{MAX_CONNECTIONS, serve};
use super::state::{Settings, Shared};
#[cfg(feature = "http")]
use crate::http::verify;

/// A running authority. Dropping it closes its port and all its connections.
///
/// See the [module's documentation](super) for what it does.
pub struct Authority {
    shared: Arc<Shared>,
    base_url: String,
    client_id: String,
    enterprise: String,
    /// Holds the one task that serves, which ends when this is dropped.
    _server: JoinSet<()>,
}

impl Authority {
    /// Starts an authority with the [builder's](Self::builder) defaults, on a free port.
    ///
    /// # Errors
    /// If there is no free port.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without I/O.
    ///
    /// # Cancel safety
    /// Cancel safe: what has been started ends.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// An authority with other settings.
    pub fn builder() -> AuthorityBuilder {
        AuthorityBuilder::default()
    }

    /// `http://127.0.0.1:port` (`https:` with [TLS](AuthorityBuilder::tls)), without a trailing slash. It is
    /// also the issuer for `Provider::discover`.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The token endpoint, for grants and exchanges.
    pub fn token_url(&self) -> String {
        format!("{}/oauth2/token", self.base_url)
    }

    /// The revocation endpoint (RFC 7009).
    pub fn revocation_url(&self) -> String {
        format!("{}/oauth2/revoke", self.base_url)
    }

    /// The introspection endpoint (RFC 7662).
    pub fn introspection_url(&self) -> String {
        format!("{}/oauth2/introspect", self.base_url)
    }

    /// A protected resource (RFC 6750). With `?scope=…` it requires scopes.
    pub fn resource_url(&self) -> String {
        format!("{}/2.0/users/me", self.base_url)
    }

    /// The id of its only client.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The current secret of its only client.
    pub fn client_secret(&self) -> String {
        self.shared.state().client_secret.clone()
    }

    /// A provider for the session under test: the Box preset at this address, with the authority's enterprise
    /// as the subject.
    #[cfg(feature = "http")]
    pub fn provider(&self) -> crate::Provider {
        crate::Provider::box_ccg(crate::Subject::enterprise(&*self.enterprise))
            .base_url(&self.base_url)
    }

    /// A manager for the session under test, with the authority's client id and current secret.
    ///
    /// ```
    /// use ccg_session::{Session, testing::Authority};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let authority = Authority::start().await?;
    /// let session = Session::builder(authority.manager()?).spawn()?;
    /// assert!(authority.is_active(session.get_token().await?.secret()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the authority was built with an empty client id, secret or enterprise.
    #[cfg(feature = "http")]
    pub fn manager(&self) -> Result<crate::HttpTokenManager, crate::ConfigError> {
        let (provider, id) = (self.provider(), self.client_id());
        crate::HttpTokenManager::builder(provider, id, self.client_secret()).build()
    }

    /// The enterprise that `box_subject_type=enterprise` may name.
    pub fn enterprise(&self) -> &str {
        &self.enterprise
    }

    /// Replaces the script. Request numbers and times count from now.
    ///
    /// # Panics
    /// If one of its times is longer than a hundred years.
    pub fn set_script(&self, script: Script) {
        assert!(script.times_are_kept(), "{TOO_LONG}");
        self.shared.state().set_script(script);
    }

    /// From now on, applies this fault to every request of this kind, and no other fault.
    pub fn fail(&self, kind: Kind, fault: impl Into<Fault>) {
        self.set_script(Script::new().rule(Rule::new(kind).fault(fault)));
    }

    /// Removes all faults. Requests that already hang or are delayed stay so.
    pub fn heal(&self) {
        self.set_script(Script::new());
    }

    /// Holds the responses to all requests of this kind from now on, until the gate is released or dropped.
    /// Requests are processed on arrival: a token whose response is held has been issued.
    ///
    /// ```
    /// use ccg_session::testing::{Authority, Kind};
    ///
    /// # async fn test(ask_for_a_token: impl Future + Send + 'static) -> std::io::Result<()> {
    /// let authority = Authority::start().await?;
    /// let gate = authority.hold(Kind::Grant);
    /// let asking = tokio::spawn(async { ask_for_a_token.await; });
    /// authority.wait_for(|counts| counts.held == 1).await;
    /// // The grant is in flight: do here what should happen meanwhile.
    /// gate.release();
    /// asking.await?;
    /// # Ok(()) }
    /// ```
    #[must_use = "dropping the gate opens it"]
    pub fn hold(&self, kind: Kind) -> Gate {
        let (closed, gate) = watch::channel(());
        self.shared.state().gates.push((kind, gate));
        Gate { _closed: closed }
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until `wanted` returns `true` for the counts, and returns them. A count means that the request was
    /// processed, not that the client has received the response.
    ///
    /// # Cancel safety
    /// Dropping it has no effect.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.shared.counts.subscribe();
        match counts.wait_for(|counts| wanted(counts)).await {
            Ok(counts) => *counts,
            // The sender is ours, and lives as long as this borrow.
            Err(_) => self.counts(),
        }
    }

    /// The last requests to the OAuth endpoints, oldest first: at most 4,096, and as many as 16 MiB hold.
    /// Those for the resource are only counted.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.state().log.requests().cloned().collect()
    }

    /// Whether the resource would accept this token now.
    pub fn is_active(&self, token: &str) -> bool {
        self.shared.state().tokens.active(token, Instant::now()).is_ok()
    }

    /// When the token was revoked, by a request or by `revoke_behind`, on the clock of
    /// [`elapsed`](Self::elapsed). None if it was not, or is unknown.
    pub fn revoked_at(&self, token: &str) -> Option<Duration> {
        let state = self.shared.state();
        let at = state.tokens.get(token)?.revoked_at?;
        Some(state.since_start(at))
    }

    /// Revokes a token without a request, as an administrator would. Says whether the token is known.
    pub fn revoke_behind(&self, token: &str) -> bool {
        self.shared.state().tokens.revoke(token, Instant::now())
    }

    /// Replaces the client's secret.
    pub fn change_secret(&self, secret: impl Into<String>) {
        self.shared.state().client_secret = secret.into();
    }

    /// The time since the start, on the authority's one clock: that of the `revoked_at_ns` and
    /// `received_at_ns` with which the resource refuses a revoked token. A request that began, by this
    /// clock, before its token's revocation may have been on its way.
    pub fn elapsed(&self) -> Duration {
        self.shared.state().since_start(Instant::now())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("base_url", &self.base_url)
            .field("client_id", &self.client_id)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// Holds answers back, see [`Authority::hold`]. Dropping it lets them go.
#[derive(Debug)]
#[must_use = "dropping the gate opens it"]
pub struct Gate {
    _closed: watch::Sender<()>,
}

impl Gate {
    /// Lets the held answers go, and holds no more.
    pub fn release(self) {}
}

/// As shown in an error.
const TOO_LONG: &str = "the life of a token, or a time of the script, is longer than a hundred years: \
    not every clock can count to its end";

/// Settings of an [`Authority`]. Each has a default.
#[derive(Clone)]
pub struct AuthorityBuilder {
    port: u16,
    client_secret: String,
    script: Script,
    settings: Settings,
    #[cfg(feature = "http")]
    client_key: Option<SecretString>,
    /// Its certificate and key.
    #[cfg(feature = "http")]
    tls: Option<(String, SecretString)>,
    #[cfg(feature = "http")]
    client_ca: Option<String>,
}

impl Default for AuthorityBuilder {
    fn default() -> Self {
        let scopes =
            ["root_readwrite", "item_download", "item_preview", "item_upload", "item_delete"];
        Self {
            port: 0,
            client_secret: "test-secret".into(),
            script: Script::new(),
            settings: Settings {
                issuer: String::new(), // Not known before it listens.
                client_id: "test-client".into(),
                enterprise: "12345".into(),
                users: vec!["67890".into()],
                require_subject: false,
                scopes: scopes.map(String::from).into(),
                ttl: Duration::from_secs(3600),
                takes_certificates: false,
                #[cfg(feature = "http")]
                client_key: None,
                #[cfg(feature = "http")]
                assertion_audiences: None,
            },
            #[cfg(feature = "http")]
            client_key: None,
            #[cfg(feature = "http")]
            tls: None,
            #[cfg(feature = "http")]
            client_ca: None,
        }
    }
}

impl AuthorityBuilder {
    /// The port on 127.0.0.1. Default: 0, for any free port; see [`Authority::base_url`].
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Id and secret of the only client. Default: `test-client`, `test-secret`.
    #[must_use]
    pub fn client(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.settings.client_id = id.into();
        self.client_secret = secret.into();
        self
    }

    /// The client's private key, or its public key as a JWK. With it,
    /// [`PrivateKeyJwt`](crate::ClientAuth::PrivateKeyJwt) is accepted. Default: none.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn client_key(mut self, key: impl Into<SecretString>) -> Self {
        self.client_key = Some(key.into());
        self
    }

    /// Speaks TLS, with this certificate for 127.0.0.1 and its private key, both in PEM. Default: plain HTTP.
    ///
    /// Clients must [trust](crate::HttpTokenManagerBuilder::root_certificate) the certificate's issuer, so
    /// [`Authority::manager`] cannot be used.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn tls(mut self, certificate: impl Into<String>, key: impl Into<SecretString>) -> Self {
        self.tls = Some((certificate.into(), key.into()));
        self
    }

    /// With [TLS](Self::tls): a client that shows a certificate of this CA (PEM) needs to send no more than
    /// its id, as [`TlsClient`](crate::ClientAuth::TlsClient) does. Default: no client has a certificate.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn client_ca(mut self, ca: impl Into<String>) -> Self {
        self.client_ca = Some(ca.into());
        self.settings.takes_certificates = true;
        self
    }

    /// The audience that a client's assertions must have (`aud`). Default: the issuer, the token endpoint, or the
    /// endpoint that they are sent to.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn assertion_audiences<S: Into<String>>(
        mut self,
        audiences: impl IntoIterator<Item = S>,
    ) -> Self {
        self.settings.assertion_audiences = Some(audiences.into_iter().map(Into::into).collect());
        self
    }

    /// How long each token lives, exchanged ones included: at most a hundred years. `expires_in` is a whole number if this is
    /// one of seconds, else a float. Default: 1 hour.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = ttl;
        self
    }

    /// The enterprise that tokens can be requested for. Default: `12345`.
    #[must_use]
    pub fn enterprise(mut self, id: impl Into<String>) -> Self {
        self.settings.enterprise = id.into();
        self
    }

    /// Adds a user that tokens can be requested for, in addition to `67890`.
    #[must_use]
    pub fn user(mut self, id: impl Into<String>) -> Self {
        self.settings.users.push(id.into());
        self
    }

    /// Whether to refuse a grant without `box_subject_type` and `box_subject_id`, as Box does. If they are
    /// sent, they are always checked. Default: no.
    #[must_use]
    pub fn require_subject(mut self, require: bool) -> Self {
        self.settings.require_subject = require;
        self
    }

    /// The scopes that the client may request; a grant without scopes gets all of them. Any other scope is
    /// refused with `invalid_scope`. Default: `root_readwrite item_download item_preview item_upload
    /// item_delete`.
    #[must_use]
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.settings.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// The script of faults. Default: none.
    #[must_use]
    pub fn script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// Starts the authority. It is listening when this returns.
    ///
    /// # Errors
    /// If the port is taken; of the kind [`InvalidInput`](io::ErrorKind::InvalidInput), if the life of
    /// tokens or a time of the script is longer than a hundred years, or a key or certificate is not one.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without I/O.
    ///
    /// # Cancel safety
    /// Cancel safe: what has been started ends.
    pub async fn start(mut self) -> io::Result<Authority> {
        if self.settings.ttl > LONGEST || !self.script.times_are_kept() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, TOO_LONG));
        }
        #[cfg(feature = "http")]
        if let Some(key) = &self.client_key {
            let key = verify::public_jwk(key.expose_secret());
            let key = key.map_err(|problem| unusable("the client's key", &problem))?;
            self.settings.client_key = Some(key);
        }
        #[cfg(feature = "http")]
        let tls = match &self.tls {
            None => None,
            Some((certificate, key)) => {
                let ca = self.client_ca.as_deref();
                let config = verify::server_config(certificate, key.expose_secret(), ca);
                let config = config.map_err(|problem| unusable("the certificate", &problem))?;
                Some(TlsAcceptor::from(Arc::new(config)))
            }
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?;
        #[cfg(feature = "http")]
        let scheme = if tls.is_some() { "https" } else { "http" };
        #[cfg(not(feature = "http"))]
        let scheme = "http";
        let base_url = format!("{scheme}://{}", listener.local_addr()?);
        self.settings.issuer.clone_from(&base_url);
        let client_id = self.settings.client_id.clone();
        let enterprise = self.settings.enterprise.clone();
        let shared = Shared::new(self.settings, self.client_secret, self.script);
        #[cfg(feature = "http")]
        let shared = shared.with_tls(tls);
        let shared = Arc::new(shared);
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&shared), MAX_CONNECTIONS));
        Ok(Authority { shared, base_url, client_id, enterprise, _server: server })
    }
}

impl fmt::Debug for AuthorityBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityBuilder")
            .field("port", &self.port)
            .field("client_id", &self.settings.client_id)
            .field("ttl", &self.settings.ttl)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "http")]
fn unusable(what: &str, problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what} {problem}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    const ASK: &[u8] =
        b"GET /.well-known/oauth-authorization-server HTTP/1.1\r\nHost: localhost\r\n\r\n";

    async fn answered(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 4_096];
        let length = stream.read(&mut answer).await.unwrap();
        answer[..length].starts_with(b"HTTP/1.1 200")
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_until_another_ends() {
        let authority = Authority::start().await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&authority.shared), 2));
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(ASK).await.unwrap();
            open.push(stream);
        }
        let mut third = open.pop().unwrap();
        for stream in &mut open {
            assert!(answered(stream).await);
        }
        // The server goes on, and not with that one.
        open[0].write_all(ASK).await.unwrap();
        assert!(answered(&mut open[0]).await);
        assert_eq!(authority.counts().discoveries, 3);
        open.pop();
        assert!(answered(&mut third).await);
        assert_eq!(authority.counts().discoveries, 4);
    }
}
