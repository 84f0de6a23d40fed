//! Where a server's endpoints are: as they were configured, or as its metadata says (RFC 8414, OIDC
//! Discovery 1.0).
//!
//! Metadata gives addresses and nothing else. What servers say in it about methods and grants is often
//! incomplete, so it neither picks nor refuses any.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ::http::StatusCode;
use ::http::header::{ACCEPT, ACCEPT_ENCODING};
use arc_swap::ArcSwapOption;
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::address::{Address, check_url, is_loopback, without_secrets};
use super::assertion::Endpoint;
use super::event::Sender;
use super::jwt::Object;
use super::limits::{MAX_ADDRESS, MAX_NAME, MAX_WORDS};
use super::names::{IDENTITY, JSON};
use super::response::Response;
use super::words::{fit, is_short, is_visible};
use crate::error::{ConfigError, TokenError};

/// Where a provider's requests go, as configured or discovered: see
/// [`HttpTokenManager::endpoints`](crate::HttpTokenManager::endpoints).
#[derive(Clone, Debug)]
pub struct Endpoints {
    pub(super) token: Address,
    pub(super) revocation: Option<Address>,
    pub(super) introspection: Option<Address>,
    pub(super) issuer: Option<String>,
    pub(super) grant_types: Option<Vec<String>>,
    pub(super) auth_methods: Option<Vec<String>>,
}

impl Endpoints {
    /// Of grants and exchanges (RFC 6749 §3.2).
    pub fn token_url(&self) -> &str {
        &self.token.text
    }

    /// Of revocations (RFC 7009), if the provider revokes.
    pub fn revocation_url(&self) -> Option<&str> {
        self.revocation.as_ref().map(|address| &*address.text)
    }

    /// Of introspections (RFC 7662), if the provider has them.
    pub fn introspection_url(&self) -> Option<&str> {
        self.introspection.as_ref().map(|address| &*address.text)
    }

    /// The grants that the server's metadata names (`grant_types_supported`, RFC 8414 §2). `None` if there
    /// is no metadata, or it names none: it is often incomplete, and nothing here depends on it.
    pub fn grant_types(&self) -> Option<&[String]> {
        self.grant_types.as_deref()
    }

    /// In the same way, how clients may authenticate (`token_endpoint_auth_methods_supported`).
    pub fn auth_methods(&self) -> Option<&[String]> {
        self.auth_methods.as_deref()
    }

    /// Where tokens come from, as an assertion names it.
    pub(super) fn of_tokens(&self) -> Endpoint<'_> {
        Endpoint { gives_tokens: true, ..self.other(&self.token) }
    }

    /// Where it is asked for something else than tokens.
    pub(super) fn other<'a>(&'a self, address: &'a Address) -> Endpoint<'a> {
        Endpoint { address, issuer: self.issuer.as_deref(), gives_tokens: false }
    }

    fn urls(&self) -> impl Iterator<Item = &Url> {
        let others = self.revocation.iter().chain(&self.introspection);
        [&self.token].into_iter().chain(others).map(|address| &address.url)
    }
}

/// A line for each, as it may be shown: without its query, nor a secret of the client's.
impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |address: &Option<Address>| {
            address.as_ref().map_or("none".to_owned(), |address| address.shown.clone())
        };
        writeln!(f, "tokens        {}", self.token.shown)?;
        writeln!(f, "revocation    {}", shown(&self.revocation))?;
        write!(f, "introspection {}", shown(&self.introspection))
    }
}

/// How to come by them.
#[derive(Debug)]
pub(super) enum Addresses {
    Given(Arc<Endpoints>),
    Discovered(Box<Discovery>),
}

impl Addresses {
    /// `None` before the first discovery.
    pub(super) fn known(&self) -> Option<Arc<Endpoints>> {
        match self {
            Self::Given(endpoints) => Some(Arc::clone(endpoints)),
            Self::Discovered(discovery) => discovery.found.load_full(),
        }
    }

    /// Asks the server where that is needed: within the attempt, so that a failure is one of the
    /// attempt, and the session's own policy says when the next one follows.
    pub(super) async fn get(
        &self,
        sender: &Sender,
        secrets: &[&str],
    ) -> Result<Arc<Endpoints>, TokenError> {
        match self {
            Self::Given(endpoints) => Ok(Arc::clone(endpoints)),
            Self::Discovered(discovery) => discovery.get(sender, secrets).await,
        }
    }

    /// Nobody was met at one of these addresses: the next attempt looks whether they have changed.
    pub(super) fn doubt(&self) {
        if let Self::Discovered(discovery) = self {
            discovery.doubted.store(true, Relaxed);
        }
    }

    /// Whether all of them are known to be on this machine, so that no proxy is needed.
    pub(super) fn all_are_local(&self) -> bool {
        match self {
            Self::Given(endpoints) => endpoints.urls().all(is_loopback),
            Self::Discovered(_) => false,
        }
    }

    /// Whether TLS is certain to be needed.
    pub(super) fn need_tls(&self) -> bool {
        match self {
            Self::Given(endpoints) => endpoints.urls().any(|url| url.scheme() == "https"),
            Self::Discovered(discovery) => discovery.places[0].scheme() == "https",
        }
    }
}

/// Whether this status says that there is no endpoint at that address.
pub(super) fn nobody_there(status: StatusCode) -> bool {
    let gone = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::GONE];
    status.is_redirection() || gone.contains(&status)
}

/// A server that is known by its issuer.
#[derive(Debug)]
pub(super) struct Discovery {
    issuer: String,
    /// Where its metadata may be, never empty.
    places: Vec<Url>,
    /// What was configured all the same, and counts more.
    revocation: Option<Address>,
    introspection: Option<Address>,
    /// The client shows a certificate, for which a server may have other addresses.
    mtls: bool,
    allow_http: bool,
    found: ArcSwapOption<Endpoints>,
    doubted: AtomicBool,
    /// One request serves all attempts that wait for it.
    asking: Mutex<()>,
}

impl Discovery {
    pub(super) fn new(
        issuer: &str,
        revocation: Option<Address>,
        introspection: Option<Address>,
        mtls: bool,
        allow_http: bool,
    ) -> Result<Self, ConfigError> {
        let Address { url, text: issuer, .. } = check_url("issuer", issuer, allow_http)?;
        if url.query().is_some() {
            // RFC 8414 §2.
            return Err(ConfigError::new(
                "issuer",
                format!("has a query after {:?}: leave it out", without_secrets(&issuer)),
            ));
        }
        Ok(Self {
            issuer,
            places: places(&url),
            revocation,
            introspection,
            mtls,
            allow_http,
            found: ArcSwapOption::empty(),
            doubted: AtomicBool::new(false),
            asking: Mutex::new(()),
        })
    }

    async fn get(&self, sender: &Sender, secrets: &[&str]) -> Result<Arc<Endpoints>, TokenError> {
        if let Some(found) = self.undoubted() {
            return Ok(found);
        }
        let _asking = self.asking.lock().await;
        // Another attempt may have found them meanwhile.
        if let Some(found) = self.undoubted() {
            return Ok(found);
        }
        // Taken back before it is asked: a server whose metadata hangs is asked once for each doubt.
        self.doubted.store(false, Relaxed);
        match (self.ask(sender, secrets).await, self.found.load_full()) {
            (Ok(endpoints), _) => {
                let endpoints = Arc::new(endpoints);
                self.found.store(Some(Arc::clone(&endpoints)));
                Ok(endpoints)
            }
            (Err(_), Some(old)) => Ok(old),
            (Err(error), None) => Err(error),
        }
    }

    fn undoubted(&self) -> Option<Arc<Endpoints>> {
        self.found.load_full().filter(|_| !self.doubted.load(Relaxed))
    }

    /// Tries each place. A server that cannot be reached, or wants fewer requests, is left alone at once.
    async fn ask(&self, sender: &Sender, secrets: &[&str]) -> Result<Endpoints, TokenError> {
        let (mut problems, mut failure, mut refusal, mut wait) = (Vec::new(), None, None, None);
        for place in &self.places {
            let request = sender.get(place).header(ACCEPT, JSON);
            let request = request.header(ACCEPT_ENCODING, IDENTITY);
            let response =
                Response::read(sender.send(request, place.as_str(), secrets).await?, secrets)
                    .await?;
            let status = response.status.as_u16();
            let answer = response.answer(secrets, &[], None);
            let metadata = answer.metadata();
            wait = wait.max(metadata.as_ref().err().and_then(TokenError::retry_after));
            let problem = match metadata {
                _ if nobody_there(response.status) && !response.status.is_redirection() => {
                    refusal.get_or_insert(status);
                    let name = response.status.canonical_reason().unwrap_or("nothing is there");
                    format!("the server refused ({status}): {name}")
                }
                Ok(metadata) => match self.endpoints(&metadata, secrets) {
                    Ok(endpoints) => return Ok(endpoints),
                    Err(problem) => {
                        failure.get_or_insert(None);
                        problem
                    }
                },
                // What a web application shows at each path that it does not know.
                Err(TokenError::Malformed { reason, .. }) if answer.is_page() => {
                    refusal.get_or_insert(status);
                    reason
                }
                Err(TokenError::Malformed { reason, .. }) => {
                    failure.get_or_insert(None);
                    reason
                }
                Err(error @ TokenError::RateLimited { .. }) => return Err(error),
                Err(error) => {
                    let problem = error.to_string();
                    // A router may fail at a path that it does not know; another place may do.
                    if error.is_retryable() {
                        failure.get_or_insert(None).get_or_insert(error);
                    } else {
                        refusal.get_or_insert(status);
                    }
                    problem
                }
            };
            problems.push(format!("{place}: {problem}"));
        }
        let issuer = &self.issuer;
        let words =
            format!("no metadata was found for the issuer {issuer:?} ({})", problems.join("; "));
        let error = match (failure, refusal) {
            (Some(failure), _) => failure.unwrap_or_else(|| TokenError::malformed(words)),
            // It is nowhere, and will not be there in a second.
            (None, refusal) => {
                TokenError::denied("no_metadata", words).with_status(refusal.unwrap_or_default())
            }
        };
        Err(error.with_retry_after(wait))
    }

    fn endpoints(&self, metadata: &Object, secrets: &[&str]) -> Result<Endpoints, String> {
        let text = |name| metadata.get(name).and_then(Value::as_str);
        // Byte for byte (RFC 8414 §3.3): or one issuer's metadata could pass for another's.
        let issuer = text("issuer").ok_or("it names no issuer")?;
        if issuer != self.issuer {
            let shown = fit(issuer, secrets, MAX_NAME);
            return Err(format!(
                "its issuer is {shown:?}: if that is who is meant, configure it exactly so"
            ));
        }
        // RFC 8705 §5.
        let aliases = metadata.get("mtls_endpoint_aliases").filter(|_| self.mtls);
        let alias = |name| aliases.and_then(|aliases| aliases.get(name)?.as_str());
        let optional = |name| {
            let Some(target) = alias(name).or_else(|| text(name)) else { return Ok(None) };
            let address = self.endpoint(name, target, secrets)?;
            let audience = text(name).unwrap_or(target).to_owned();
            Ok::<_, String>(Some(Address { audience, ..address }))
        };
        let token = optional("token_endpoint")?.ok_or("it names no token_endpoint")?;
        let revocation = match &self.revocation {
            Some(given) => Some(given.clone()),
            None => optional("revocation_endpoint")?,
        };
        let introspection = match &self.introspection {
            Some(given) => Some(given.clone()),
            None => optional("introspection_endpoint")?,
        };
        let issuer = Some(self.issuer.clone());
        // A method may be called what a short secret is.
        let long: Vec<_> = secrets.iter().copied().filter(|secret| !is_short(secret)).collect();
        let list = |name| {
            let texts = metadata.get(name)?.as_array()?.iter().filter_map(Value::as_str);
            Some(texts.map(|text| fit(text, &long, MAX_NAME)).collect())
        };
        let grant_types = list("grant_types_supported");
        let auth_methods = list("token_endpoint_auth_methods_supported");
        Ok(Endpoints { token, revocation, introspection, issuer, grant_types, auth_methods })
    }

    /// As strict as with one that is configured. In clear on this machine only if the issuer is here too:
    /// the client may send what goes elsewhere through a proxy.
    fn endpoint(
        &self,
        name: &'static str,
        text: &str,
        secrets: &[&str],
    ) -> Result<Address, String> {
        let shown = fit(without_secrets(text), secrets, MAX_ADDRESS);
        // Its text is kept and shown as it is; the parser alone would let both pass.
        if text.len() > MAX_ADDRESS || !text.chars().all(is_visible) {
            let shown = fit(without_secrets(text), secrets, MAX_NAME);
            return Err(format!(
                "its {name} is {shown:?}, which is no address: it is too long, or has control \
                 characters in it"
            ));
        }
        let address = check_url(name, text, self.allow_http)
            .map_err(|error| fit(&error.to_string(), secrets, MAX_WORDS))?;
        if address.url.scheme() == "http" && !self.allow_http && !is_loopback(&self.places[0]) {
            return Err(format!(
                "its {name} is {shown:?}, without TLS and on this machine, but the issuer is elsewhere",
            ));
        }
        Ok(Address { shown, ..address })
    }
}

/// Where the metadata of an issuer may be: most servers have that of OIDC, which is appended (§4.1
/// there); that of OAuth goes before the issuer's path (RFC 8414 §3.1), and some append it too.
fn places(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/');
    let oauth = "/.well-known/oauth-authorization-server";
    let mut paths = vec![
        format!("{path}/.well-known/openid-configuration"),
        format!("{oauth}{path}"),
        format!("{path}{oauth}"),
    ];
    paths.dedup();
    let place = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    paths.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn discovery(issuer: &str) -> Discovery {
        Discovery::new(issuer, None, None, false, false).unwrap()
    }

    #[test]
    fn metadata_is_looked_for_in_each_place_that_servers_use() {
        let places = |issuer| {
            let places = discovery(issuer).places;
            places.iter().map(|url| url.as_str().to_owned()).collect::<Vec<_>>()
        };
        for issuer in ["https://as.example", "https://as.example/"] {
            assert_eq!(
                places(issuer),
                [
                    "https://as.example/.well-known/openid-configuration",
                    "https://as.example/.well-known/oauth-authorization-server",
                ]
            );
        }
        for issuer in ["https://as.example:8443/realms/a", "https://as.example:8443/realms/a/"] {
            assert_eq!(
                places(issuer),
                [
                    "https://as.example:8443/realms/a/.well-known/openid-configuration",
                    "https://as.example:8443/.well-known/oauth-authorization-server/realms/a",
                    "https://as.example:8443/realms/a/.well-known/oauth-authorization-server",
                ]
            );
        }
    }

    #[test]
    fn an_issuer_that_cannot_be_one_is_refused() {
        for (issuer, expected) in [
            ("as.example", "issuer is \"as.example\", which is not a URL"),
            ("http://as.example", "issuer is \"http://as.example\": without TLS"),
            (
                "https://as.example/?tenant=s3cr3t",
                "issuer has a query after \"https://as.example/\"",
            ),
            ("https://as.example/#a", "issuer has a fragment after"),
            ("https://u:s3cr3t@as.example/", "issuer has a user name or password in it"),
        ] {
            let error = Discovery::new(issuer, None, None, false, false).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn metadata_gives_addresses_if_it_is_the_issuers_own_and_they_are_safe() {
        let issuer = "https://as.example/a";
        for (change, expected) in [
            (json!({}), Ok("https://as.example/token - -")),
            // What it says of methods and grants counts for nothing.
            (
                json!({ "token_endpoint_auth_methods_supported": ["none"], "grant_types_supported": [] }),
                Ok("https://as.example/token - -"),
            ),
            (
                json!({ "revocation_endpoint": "https://r.example/r", "introspection_endpoint": "https://i.example/i" }),
                Ok("https://as.example/token https://r.example/r https://i.example/i"),
            ),
            (json!({ "revocation_endpoint": null }), Ok("https://as.example/token - -")),
            (
                json!({ "issuer": "https://as.example/a/" }),
                Err("its issuer is \"https://as.example/a/\""),
            ),
            (json!({ "issuer": "https://as.example/A" }), Err("its issuer is")),
            (json!({ "issuer": "HTTPS://as.example/a" }), Err("its issuer is")),
            (json!({ "issuer": ["https://as.example/a"] }), Err("it names no issuer")),
            (json!({ "token_endpoint": null }), Err("it names no token_endpoint")),
            (
                json!({ "token_endpoint": "/token" }),
                Err("token_endpoint is \"/token\", which is not a URL"),
            ),
            (json!({ "token_endpoint": "http://as.example/t" }), Err("without TLS")),
            (json!({ "token_endpoint": "http://127.0.0.1/t" }), Err("but the issuer is elsewhere")),
            (json!({ "token_endpoint": "file:///etc/passwd" }), Err("must begin with https://")),
            (json!({ "revocation_endpoint": "http://as.example/r" }), Err("revocation_endpoint")),
            // A terminal would obey it, wherever the address is shown.
            (
                json!({ "token_endpoint": "https://as.example/\u{1b}[2Jt" }),
                Err("token_endpoint is \"https://as.example/[2Jt\", which is no address"),
            ),
            (json!({ "token_endpoint": "x".repeat(100_000) }), Err("token_endpoint is \"xxx")),
        ] {
            let mut metadata =
                json!({ "issuer": issuer, "token_endpoint": "https://as.example/token" });
            metadata.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let found = discovery(issuer).endpoints(metadata.as_object().unwrap(), &[]);
            match (found, expected) {
                (Ok(found), Ok(expected)) => {
                    let found = format!(
                        "{} {} {}",
                        found.token_url(),
                        found.revocation_url().unwrap_or("-"),
                        found.introspection_url().unwrap_or("-")
                    );
                    assert_eq!(found, expected, "{change}");
                }
                (Err(problem), Err(expected)) => {
                    assert!(problem.contains(expected), "{change}: {problem}");
                    assert!(problem.len() < 1_000, "{problem}");
                }
                (found, _) => panic!("{change}: {found:?}"),
            }
        }
    }

    #[test]
    fn what_is_configured_counts_more_than_what_is_discovered() {
        let given = check_url("revocation_url", "https://as.example/own", false).unwrap();
        let issuer = "https://as.example";
        let discovery =
            Discovery::new(issuer, Some(given.clone()), Some(given), false, false).unwrap();
        let metadata = json!({
            "issuer": issuer,
            "token_endpoint": "https://as.example/token",
            "revocation_endpoint": "https://as.example/revoke",
            "introspection_endpoint": "https://as.example/introspect",
        });
        let found = discovery.endpoints(metadata.as_object().unwrap(), &[]).unwrap();
        let own = Some("https://as.example/own");
        assert_eq!((found.revocation_url(), found.introspection_url()), (own, own));
    }

    #[test]
    fn a_client_with_a_certificate_goes_where_certificates_are_asked_for() {
        let issuer = "https://as.example";
        let metadata = json!({
            "issuer": issuer,
            "token_endpoint": "https://AS.example/token",
            "revocation_endpoint": "https://as.example/revoke",
            "mtls_endpoint_aliases": { "token_endpoint": "https://mtls.as.example/token" },
        });
        for (mtls, token) in
            [(true, "https://mtls.as.example/token"), (false, "https://AS.example/token")]
        {
            let discovery = Discovery::new(issuer, None, None, mtls, false).unwrap();
            let found = discovery.endpoints(metadata.as_object().unwrap(), &[]).unwrap();
            assert_eq!(found.token_url(), token, "as it was given");
            assert_eq!(found.token.audience, "https://AS.example/token", "as it is published");
            assert_eq!(found.revocation_url(), Some("https://as.example/revoke"));
        }
    }
}
