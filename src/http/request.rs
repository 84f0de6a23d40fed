//! One attempt: what is sent, and how often.

use std::sync::Arc;
use std::time::SystemTime;

use ::http::HeaderValue;
use ::http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;
use url::form_urlencoded;

use super::assertion::Endpoint;
use super::client_auth::Proof;
use super::credential::unusable;
use super::discovery::{Endpoints, nobody_there};
use super::dpop::Dpop;
use super::form::Form;
use super::limits::REREAD;
use super::names::{DPOP, DPOP_NONCE, FORM, IDENTITY, JSON, X_FORWARDED_FOR};
use super::response::Response;
use super::server_clock::ServerTime;
use super::wire::ServerAnswer;
use super::{HttpTokenManager, Shared};
use crate::error::TokenError;
use crate::request::TokenRequestOptions;

/// The request, without the client authentication.
pub(super) struct Request<'a> {
    pub(super) endpoint: Endpoint<'a>,
    pub(super) form: Form<'a>,
    pub(super) options: &'a TokenRequestOptions,
    /// The values of the form that must not appear in an error.
    pub(super) secrets: Vec<&'a str>,
    /// As it was read for this attempt.
    pub(super) credential: Option<&'a SecretString>,
}

impl HttpTokenManager {
    /// The credential as it is now, and where it may be sent to. It comes first, since what is said on the way there
    /// must not show it either.
    pub(super) async fn prepare(
        &self,
    ) -> Result<(Option<SecretString>, Arc<Endpoints>), TokenError> {
        let credential = self.shared.identity.credential().read().await?;
        let endpoints = self.addresses(credential.as_ref()).await?;
        Ok((credential, endpoints))
    }

    /// Known, or found out for a client with this credential.
    pub(super) async fn addresses(
        &self,
        credential: Option<&SecretString>,
    ) -> Result<Arc<Endpoints>, TokenError> {
        let Shared { provider, sender, addresses, .. } = &*self.shared;
        let credential = credential.map(ExposeSecret::expose_secret);
        let secrets: Vec<_> =
            credential.into_iter().chain(provider.secrets()).chain(sender.secrets()).collect();
        addresses.get(sender, &secrets).await
    }

    /// One attempt. After a refusal it says what may be behind it.
    pub(super) async fn ask<T>(
        &self,
        request: &Request<'_>,
        read: impl Fn(&ServerAnswer<'_>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let (credential, secret) = (self.shared.identity.credential(), request.credential);
        let (sent, time) = (SystemTime::now(), self.shared.server_clock.read());
        let (response, mut result) =
            self.send_and_once_more_for_a_nonce(request, secret, time, read).await?;
        if let Err(TokenError::Denied { description, credentials_changed, .. }) = &mut result {
            let dated = self.proves(request.endpoint).is_some()
                || self.shared.provider.client_auth.depends_on_clock();
            if dated && let Some(clocks) = response.clocks_apart() {
                *description = Some(match description.take() {
                    Some(words) => format!("{words}; {clocks}"),
                    None => clocks,
                });
            }
            let clock = &self.shared.server_clock;
            let is_dated_anew =
                dated && clock.learn(&response.headers, time, sent, response.received);
            // With its own time limit: otherwise a source that hangs would turn this refusal, which the server
            // has given, into one that took too long.
            let reread = credential.has_changed_since(secret);
            let is_reread = timeout(REREAD, reread).await.unwrap_or(false);
            *credentials_changed = is_dated_anew || is_reread;
        }
        result
    }

    /// The request, and the same once more if the server wants a nonce in its proof that it has just told (RFC
    /// 9449 §8). That is a part of sending it, no second attempt: so it is decided here, and a session neither
    /// counts it nor waits before it. Only once, since a server might demand a new nonce each time.
    async fn send_and_once_more_for_a_nonce<T>(
        &self,
        request: &Request<'_>,
        secret: Option<&SecretString>,
        time: ServerTime,
        read: impl Fn(&ServerAnswer<'_>) -> Result<T, TokenError>,
    ) -> Result<(Response, Result<T, TokenError>), TokenError> {
        let (response, result) = self.send(request, secret, time, None, &read).await?;
        let nonce = response.headers.get(DPOP_NONCE).and_then(|nonce| nonce.to_str().ok());
        match &result {
            Err(TokenError::Denied { error, .. })
                if error == "use_dpop_nonce"
                    && nonce.is_some()
                    && self.proves(request.endpoint).is_some() =>
            {
                self.send(request, secret, time, nonce, &read).await
            }
            _ => Ok((response, result)),
        }
    }

    /// Sends it, with an assertion and a proof that are new: a server may know the last ones again.
    async fn send<T>(
        &self,
        request: &Request<'_>,
        secret: Option<&SecretString>,
        time: ServerTime,
        nonce: Option<&str>,
        read: impl Fn(&ServerAnswer<'_>) -> Result<T, TokenError>,
    ) -> Result<(Response, Result<T, TokenError>), TokenError> {
        let endpoint = request.endpoint;
        let dpop = self.proves(endpoint);
        let identity = self.shared.identity.prove(secret, endpoint, time.now())?;
        let proof = dpop.map(|dpop| dpop.proof(&endpoint.address.url, time.now(), nonce));
        let proof = proof.transpose().map_err(|error| unusable(error.to_string()))?;
        let shown = proof.as_ref().and_then(|proof| proof.to_str().ok());
        let own = request.secrets.iter().copied().chain(shown);
        let secrets: Vec<_> =
            identity.secrets().chain(own).chain(self.shared.sender.secrets()).collect();
        let response = self.post(request, &identity, proof.as_ref(), &secrets).await?;
        if let Some(dpop) = dpop {
            dpop.remember(&response.headers);
        }
        let key = dpop.map(|dpop| &dpop.key);
        let result = read(&response.answer(&secrets, &self.shared.provider.limits, key));
        Ok((response, result))
    }

    /// Whether requests to this endpoint carry a proof. Revocation and introspection need none.
    fn proves(&self, endpoint: Endpoint<'_>) -> Option<&Dpop> {
        self.shared.dpop.as_ref().filter(|_| endpoint.gives_tokens)
    }

    /// The only place that sends requests containing secrets.
    async fn post(
        &self,
        request: &Request<'_>,
        identity: &Proof,
        proof: Option<&HeaderValue>,
        secrets: &[&str],
    ) -> Result<Response, TokenError> {
        let form = request.form.iter().copied().chain(identity.pairs());
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let Shared { sender, addresses, .. } = &*self.shared;
        let address = request.endpoint.address;
        let mut post = sender
            .post(&address.url)
            .header(CONTENT_TYPE, FORM)
            .header(ACCEPT, JSON)
            .header(ACCEPT_ENCODING, IDENTITY)
            .body(body);
        for (name, value) in [(AUTHORIZATION, identity.header.as_ref()), (DPOP, proof)] {
            if let Some(value) = value {
                post = post.header(name, value);
            }
        }
        if let Some(ip) = request.options.forwarded_for() {
            post = post.header(X_FORWARDED_FOR, ip);
        }
        let arrived = sender.send(post, &address.shown, secrets).await;
        let arrived = arrived.inspect_err(|_| addresses.doubt())?;
        if nobody_there(arrived.0.status()) {
            addresses.doubt();
        }
        Response::read(arrived, secrets).await
    }
}

/// A request that is not sent, since there is nowhere to send it to.
pub(super) fn no_endpoint(what: &str) -> TokenError {
    let problem = format!("this provider has no {what} endpoint: if there is one, set {what}_url");
    TokenError::denied("unsupported", problem)
}

/// A request that is not sent, since it would not mean what the caller wants.
pub(super) fn refused(problem: String) -> TokenError {
    TokenError::denied("invalid_request", problem)
}
