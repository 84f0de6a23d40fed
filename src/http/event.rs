//! How a request goes out, and what it leaves in a log.

use std::time::Instant;

use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::proxy::{self, Proxies};
use super::response::transport;
use crate::asked;
use crate::error::TokenError;

/// A client, and what is known of the way that its requests take.
#[derive(Debug)]
pub(super) struct Sender {
    client: Client,
    /// None are known of a user's own client.
    proxies: Proxies,
    secrets: Vec<SecretString>,
}

/// The head of a response, and whose it is: scheme, host and path, and the proxy between.
pub(super) type Arrived = (reqwest::Response, String);

impl Sender {
    pub(super) fn new(client: Client, proxies: Proxies) -> Self {
        let secrets = proxies.secrets().collect();
        Self { client, proxies, secrets }
    }

    /// What was sent on the way, besides what was sent to the server.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(ExposeSecret::expose_secret)
    }

    pub(super) fn get(&self, url: &Url) -> RequestBuilder {
        self.client.get(url.clone())
    }

    pub(super) fn post(&self, url: &Url) -> RequestBuilder {
        self.client.post(url.clone())
    }

    /// Sends it to what is shown as this address, and tells how it went: a line for each request, whatever it was
    /// for. What fails may say what came over the wire, so these secrets are taken out of it.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        url: &str,
        secrets: &[&str],
    ) -> Result<Arrived, TokenError> {
        let (client, request) = request.build_split();
        // Its parts are checked by now.
        let request = request.map_err(|error| transport(error, "", secrets))?;
        let method = request.method().clone();
        let proxy = self.proxies.of(request.url()).map(proxy::name);
        let way = proxy.map_or(url.to_owned(), |proxy| format!("{url} through the proxy {proxy}"));
        asked::note(&way);
        let begun = Instant::now();
        let response = client.execute(request).await;
        let response = response.map_err(|error| transport(error, &way, secrets));
        let elapsed = begun.elapsed();
        match &response {
            Ok(response) => {
                let status = response.status().as_u16();
                tracing::debug!(name: "http.request", %method, url, status, ?elapsed, "http.request");
            }
            Err(error) => {
                tracing::debug!(name: "http.request", %method, url, %error, ?elapsed, "http.request");
            }
        }
        Ok((response?, way))
    }
}
